"""The site's learned population prior: closed patients, keeping, accepting, and what new patients start from."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from state_builder import build_dose, build_state

from flows import population
from flows.cli import main
from flows.plan import prior_named
from flows.settings import Settings, load_settings
from flows.site import Site, open_site
from storage.population_index import model_name
from storage.registry import Registry
from storage.twins import now
from tdt_core.assimilation import assimilate, next_prior, population_prior, transition
from tdt_core.assimilation.experiment import simulated
from tdt_core.assimilation.learned import LearnedPrior, with_learned
from tdt_core.codec import digest
from tdt_core.errors import EstimationError, InputError, StoreError
from tdt_core.kinetics import rung_for
from tdt_core.twin import Administration, Decision, ErrorBudget, Evidence, Patient, Region, RegionActivity

MODEL, LIGAND = "sum_of_exponentials", "PSMA-617"
REGIONS = (
    Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0, mass_g=168.0),
    Region("liver", "liver", "10200004", volume_ml=1600.0, mass_g=1680.0),
)
GIVEN = Administration(0.0, "Lu-177-PSMA-617", LIGAND, "Lu-177", 7400.0, amount_nmol=90.0)
BUDGET = ErrorBudget(counts=0.03, calibration=0.04, partial_volume=0.05, segmentation=0.03, registration=0.02)


@pytest.fixture
def opened(site: Settings) -> Site:
    return open_site(site)


def _plan(cycle: int, given: Administration) -> Evidence:
    return Evidence(
        cycle,
        Patient("p-1", "male", 70.0, 175.0, 80.0),
        (given,),
        REGIONS,
        tuple(
            RegionActivity(r.name, given.time_h + t, 1.0, 1.0, 1.0, BUDGET, f"s{t}", "SPECT", "Lu-177", "cal")
            for r in REGIONS
            for t in (4.0, 24.0, 72.0, 150.0)
        ),
    )


def commit(site: Site, number: int, *, cycle: int = 6, planned: int = 6, shift: float = 1.5, **changed: Any) -> str:
    """A patient with one treated cycle whose kidneys and liver take up `shift` sd more than the population; its state."""
    rung = rung_for(MODEL, LIGAND, REGIONS)
    prior, rng = population_prior(rung), np.random.default_rng(number)
    sd = np.sqrt(np.diag(prior.covariance))
    up = np.array([n.endswith("uptake_per_ml") for n in prior.names])
    theta = prior.mean + shift * sd * up + 0.4 * sd * rng.standard_normal(sd.size)
    patient = Patient(f"p-{number:04d}", "male", 70.0, 175.0, 80.0)
    evidence = simulated(dataclasses.replace(_plan(cycle, GIVEN), patient=patient), rung, theta, rng)
    item = site.evidence.put_json("test", {"number": number, "cycle": cycle})
    state = build_state(1)
    identity = {
        **state.identity,
        "pid": patient.pid,
        "cycle": cycle,
        "parent": None,
        "model": MODEL,
        "evidence": [item],
        "root_seed": 1,
        "prior": {"origin": "population"},
        "settings": {"product": {"planned_cycles": planned, "ligand": LIGAND}},
    }
    new = digest(identity)
    state = dataclasses.replace(
        state,
        id=new,
        identity=identity,
        pid=patient.pid,
        cycle=cycle,
        parent=None,
        model=MODEL,
        patient=patient,
        posterior=assimilate(prior, evidence, rung, n_draws=4, options={"starts": 1}),
        evidence=dataclasses.replace(evidence, digests=(item,)),
        proposal=None if state.proposal is None else dataclasses.replace(state.proposal, state=new),
        summary={**state.summary, "ligand": LIGAND, **changed},
    )
    dose = build_dose(state, shape=(30, 12, 18), spacing_mm=24.0)
    site.store.commit(state, dose, expected_head=None, provenance={"code_commit": "test"}, knowledge_time=now())
    return new


INDEX = population.index


@pytest.fixture(autouse=True)
def without_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making MLflow's database takes seconds: one test does."""
    monkeypatch.setattr(population, "index", lambda site: None)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A home with twelve closed patients. Not to be changed."""
    home = tmp_path_factory.mktemp("population") / "home"
    opened = open_site(load_settings(home=home))
    return home, [commit(opened, n) for n in range(12)]


@pytest.fixture
def taught(filled: tuple[Path, list[str]], site: Settings) -> tuple[Site, list[str]]:
    shutil.copytree(filled[0], site.home)
    return open_site(site), filled[1]


def test_a_patient_is_closed_by_all_its_cycles_or_by_the_decision_to_give_no_more(opened: Site) -> None:
    commit(opened, 1, cycle=6, planned=6)
    going_on = commit(opened, 2, cycle=2, planned=6)
    assert population.why_open(opened, "p-0001") is None
    assert population.why_open(opened, "p-0002") == "cycle 2 of 6, and therapy was not ended"
    opened.store.decide(Decision(going_on, "refused", None, "A Person", "physician", "progress"), time=now())
    assert population.why_open(opened, "p-0002") is None


def test_learning_keeps_a_version_and_uses_it_only_once_accepted(taught: tuple[Site, list[str]]) -> None:
    site, states = taught
    packaged = prior_named(site, None, [], LIGAND)
    assert packaged == {"origin": "population"}
    prior, cohort = population.learn_from(site, "A Physicist", MODEL, LIGAND)
    assert prior.gate.accepted
    assert prior.states == tuple(sorted(states))
    assert not cohort.left_out
    assert prior_named(site, None, [], LIGAND) == packaged
    population.accept(site, prior.version, "A Physicist", "the camera was changed")
    named = prior_named(site, None, [], LIGAND)
    assert [LearnedPrior.of(x).version for x in named["learned"]] == [prior.version]
    assert prior_named(site, None, [], "DOTATATE") == packaged
    rung = rung_for(MODEL, LIGAND, REGIONS)
    started = population_prior(with_learned(rung, [LearnedPrior.of(x) for x in named["learned"]]))
    assert started.mean[0] > population_prior(rung).mean[0] + 0.1
    assert population.withdraw(site, "A Physicist", "wrong camera") == (prior.version,)
    assert prior_named(site, None, [], LIGAND) == packaged


def test_a_twin_that_exists_keeps_the_prior_it_started_from(taught: tuple[Site, list[str]]) -> None:
    site, states = taught
    prior, _ = population.learn_from(site, "A Physicist", MODEL, LIGAND)
    population.accept(site, prior.version, "A Physicist", "reason")
    assert prior_named(site, states[0], [], LIGAND) == {"origin": states[0]}


def test_learning_again_from_the_same_patients_is_the_same_version(taught: tuple[Site, list[str]]) -> None:
    site, _ = taught
    a, b = (population.learn_from(site, name, MODEL, LIGAND)[0] for name in ("One", "Another"))
    assert a.version == b.version
    assert site.populations.versions() == (a.version,)


def test_fewer_patients_than_needed_are_refused_in_words_and_say_who_was_left_out(opened: Site) -> None:
    for n in range(3):
        commit(opened, n)
    commit(opened, 3, cycle=1)
    with pytest.raises(EstimationError, match="3 closed patients") as refused:
        population.learn_from(opened, "A Physicist", MODEL, LIGAND)
    assert "at least 10" in str(refused.value)
    assert population.cohort(opened, MODEL, LIGAND).left_out == (("p-0003", "cycle 1 of 6, and therapy was not ended"),)
    assert population.cohort(opened, "whole_body", LIGAND).left_out[0] == ("p-0000", "fitted with sum_of_exponentials")


def test_a_patient_that_its_model_does_not_fit_teaches_nothing(opened: Site) -> None:
    commit(opened, 1, shift=9.0)
    ((_, reason),) = population.cohort(opened, MODEL, LIGAND).left_out
    assert "poorly" in reason


def test_a_version_that_held_out_patients_speak_against_cannot_be_accepted(taught: tuple[Site, list[str]]) -> None:
    site, _ = taught
    prior, _ = population.learn_from(site, "A Physicist", MODEL, LIGAND)
    refused = dataclasses.replace(prior, gate=dataclasses.replace(prior.gate, accepted=False, reason="the median falls"))
    site.populations.put(refused, by="A Physicist", time=now())
    with pytest.raises(InputError, match="did not pass its gate: the median falls"):
        population.accept(site, refused.version, "A Physicist", "reason")
    assert site.populations.accepted() == ()


def test_a_name_and_a_reason_are_needed(taught: tuple[Site, list[str]]) -> None:
    site, _ = taught
    prior, _ = population.learn_from(site, "A Physicist", MODEL, LIGAND)
    for by, reason in (("", "reason"), ("A Physicist", " ")):
        with pytest.raises(InputError):
            population.accept(site, prior.version, by, reason)
    assert site.populations.accepted() == ()


def test_a_flipped_byte_is_found_and_named(taught: tuple[Site, list[str]]) -> None:
    site, _ = taught
    prior, _ = population.learn_from(site, "A Physicist", MODEL, LIGAND)
    path = site.populations.path(prior.version)
    assert not site.store.verify()
    path.write_bytes(path.read_bytes().replace(b'"patients":12', b'"patients":13'))
    assert [p.path for p in site.store.verify()] == [f"populations/{prior.version}.json"]
    with pytest.raises(StoreError, match="damaged"):
        site.populations.load(prior.version)


def test_nothing_of_a_patient_but_its_state_is_in_the_file(taught: tuple[Site, list[str]]) -> None:
    site, states = taught
    prior, _ = population.learn_from(site, "A Physicist", MODEL, LIGAND)
    text = site.populations.path(prior.version).read_text()
    assert all(s in text for s in states)
    assert "p-00" not in text


def test_the_index_shows_versions_and_which_one_is_used(
    taught: tuple[Site, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(population, "index", INDEX)
    site, _ = taught
    prior, _ = population.learn_from(site, "A Physicist", MODEL, LIGAND)
    population.accept(site, prior.version, "A Chief", "reason")
    client, name = Registry(site.home).client, model_name(MODEL, LIGAND)
    version = client.get_model_version_by_alias(name, "accepted")
    assert version.tags["population_sha256"] == prior.version
    assert version.tags["gate_result"] == "passed"
    assert version.tags["approver"] == "A Chief"
    population.withdraw(site, "A Chief", "reason")
    assert not client.get_registered_model(name).aliases


def test_a_course_through_the_filter_gives_the_states_posteriors_again(opened: Site) -> None:
    """What the cycles of a chain say, carried on by the packaged drift, is what its states believe."""
    rung = rung_for(MODEL, LIGAND, REGIONS)
    prior, rng, states = population_prior(rung), np.random.default_rng(5), []
    theta = prior.draws(1, rng)[0]
    for cycle in (1, 2, 3):
        given = dataclasses.replace(GIVEN, time_h=1008.0 * (cycle - 1))
        evidence = simulated(_plan(cycle, given), rung, theta, rng)
        posterior = assimilate(prior, evidence, rung, n_draws=2, options={"most_moves": 0})  # exactly a Gaussian
        built = build_state(cycle)
        states.append(
            dataclasses.replace(
                built,
                model=MODEL,
                pid="p-1",
                posterior=posterior,
                evidence=evidence,
                valid_time_h=given.time_h,
                identity={**built.identity, "prior": {"origin": "x"}, "settings": {}},
                summary={**built.summary, "ligand": LIGAND},
            )
        )
        step = transition(rung, cycle, 1008.0, treated=True)
        prior, theta = next_prior(posterior, step, "x"), step.draws(theta[None], rng)[0]
    chain = population.course_of(opened, states)
    assert chain is not None
    assert len(chain.links) == 3
    mean, covariance = chain.mean, chain.covariance
    for state, link in zip(states, chain.links, strict=True):
        inner = np.linalg.solve(np.eye(mean.size) + covariance @ link.precision, covariance)
        mean, covariance = mean + inner @ (link.information - link.precision @ mean), inner
        n = mean.size
        off = np.abs(mean - state.posterior.mean[:n]) / np.sqrt(np.diag(covariance))
        assert off.max() < 0.015  # the fit stops when J falls by less than 1e-4, which is 0.014 sd
        np.testing.assert_allclose(covariance, state.posterior.covariance[:n, :n], atol=1e-6)
        if link.onward is not None:
            mean, covariance = link.onward.moments(mean, covariance)
    assert population.course_of(opened, states[:1]) is None


def test_the_commands(taught: tuple[Site, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    def called(*words: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = main(["population", *words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    code, learned = called("learn", "--name", "A Physicist", "--model", MODEL)
    assert code == 0
    assert not learned["accepted"]
    version = learned["version"]
    assert called("accept", version[:8], "--name", "A Chief", "--reason", "enough patients")[1]["accepted"]
    assert called("list")[1]["versions"][0]["version"] == version
    _, shown = called("show", version[:8])
    assert [e["event"] for e in shown["events"]] == ["population-learned", "population-accepted"]
    assert {r["key"] for r in shown["learned"]} >= {"kidneys.uptake_per_ml", "liver.uptake_per_ml"}
    assert called("packaged", "--name", "A Chief", "--reason", "wrong")[1] == {"withdrawn": [version]}
    assert main(["population", "show", version]) == 0
    assert "spread" in capsys.readouterr().out
