"""A chain that starts from an accepted population prior: named in every state, replayed, kept by later cycles."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from loop_case import new_site, only_cycle, write_patient

from flows.chain import replay, run_chain
from flows.conclude import warnings
from flows.explain import explain
from storage.twins import now
from tdt_core.assimilation import population_prior, state_model
from tdt_core.assimilation.hierarchy import Gate, Hyper, Strength
from tdt_core.assimilation.learned import LearnedPrior, learned_of, packaged_base
from tdt_core.errors import EstimationError

RUNG = "sum_of_exponentials"


def prior_of(base: str, shift: float = 1.0) -> LearnedPrior:
    """A prior as if forty patients had taught it: the kidneys take up more, and vary less."""
    hyper = Hyper(("kidneys.uptake_per_ml",), np.array([shift]), np.array([[0.4]]), np.array([0.05]))
    gate = Gate(True, "the held-out log predictive density does not fall", 40, 0.5, 0.4, 0.2, 0.0)
    return LearnedPrior(RUNG, "PSMA-617", None, (), 40, hyper, {"kidneys.uptake_per_ml": 0.4}, base, Strength(4, 20), gate, {})


@pytest.mark.long
def test_a_chain_starts_from_the_accepted_prior_keeps_it_and_is_replayed(tmp_path: Path) -> None:
    patient = write_patient(tmp_path / "patient", pet=False)
    site = new_site(tmp_path / "site", model=RUNG)
    prior = prior_of(packaged_base())
    site.populations.put(prior, by="A Physicist", time=now())
    site.populations.accept(prior.version, by="A Physicist", reason="test", time=now())
    (first,) = run_chain(site, only_cycle(patient, tmp_path / "first", (1,), 1))["states"]
    site.populations.withdraw(by="A Physicist", reason="test", time=now())
    states = run_chain(site, patient)["states"]
    assert first not in states  # what came late derives the first cycle again, from the prior that the twin started with
    for name in (first, *states):
        state = site.store.load(name)
        assert [x.version for x in learned_of(state.identity)] == [prior.version]
        kidney = state_model(state).parameters["kidney_left.uptake_per_ml"]
        assert kidney.status == "calibrated"
        assert prior.version[:12] in kidney.source
        assert "kidneys.uptake_per_ml" not in {row["name"] for row in state.summary["assumed"]}
    assert explain(site.store, first)["prior"]["learned"][0]["version"] == prior.version
    assert replay(site, states[-1]) == []
    other = new_site(tmp_path / "other", model=RUNG)
    packaged = run_chain(other, only_cycle(patient, tmp_path / "again", (1,), 1))["states"][0]
    without = other.store.load(packaged)
    assert without.identity["prior"] == {"origin": "population"}
    started, plain = (population_prior(state_model(s)).mean for s in (site.store.load(first), without))
    assert (started - plain).max() > 0.1


def test_a_prior_learned_against_other_packaged_numbers_starts_no_chain(tmp_path: Path) -> None:
    from flows.plan import prior_named

    site = new_site(tmp_path)
    prior = prior_of("0" * 64)
    site.populations.put(prior, by="A Physicist", time=now())
    site.populations.accept(prior.version, by="A Physicist", reason="test", time=now())
    with pytest.raises(EstimationError, match="other packaged numbers"):
        prior_named(site, None, [], "PSMA-617")


def test_a_twin_that_keeps_a_prior_learned_against_other_packaged_numbers_says_so() -> None:
    kept, present = prior_of("0" * 64), prior_of(packaged_base())
    posterior, product, ledger = (
        cast(Any, SimpleNamespace(diagnostics={"misfit_by_organ": {}}, opening_gy={}, regions=())),
    ) * 3
    assert warnings(posterior, product, True, ledger) == warnings(posterior, product, True, ledger, (), (present,)) == []
    (line,) = warnings(posterior, product, True, ledger, (), (present, kept))
    assert kept.version[:12] in line
    assert "0" * 12 in line
    assert packaged_base()[:12] in line
    assert "tdt refit" in line
