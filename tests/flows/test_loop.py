"""The loop on files: the same evidence gives the same states, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from loop_case import CANARY, fingerprint, new_site, only_cycle, write_patient

from flows.bench.loop import forecast_scores
from flows.chain import known_cycles, refit, replay, run_chain
from flows.cli import main
from flows.plan import plan_chain
from flows.report.sections import dose_engine
from flows.site import Site, open_site
from flows.truth import KINDS, errors, read_truth
from storage.kernel_cache import kernel_digest
from tdt_core.errors import InputError, SettingsError, TwinError

pytestmark = pytest.mark.shared_run
HERE = Path(__file__).parent
EVENTS = 10


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_patient(tmp_path_factory.mktemp("patient"), canaries=True)


@pytest.fixture(scope="module")
def run(patient: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, dict]:
    site = new_site(tmp_path_factory.mktemp("site"))
    return site, run_chain(site, patient)


def test_pre_therapy_imaging_and_two_cycles_become_a_chain_of_three_states(run):
    site, outcome = run
    states = [site.store.load(s) for s in outcome["states"]]
    assert [s.cycle for s in states] == [0, 1, 2]
    assert [s.parent for s in states] == [None, states[0].id, states[1].id]
    assert outcome["new"] == outcome["states"]
    assert site.store.verify() == ()


def test_every_state_holds_doses_curves_maps_and_a_proposal_or_its_reason(run):
    site, outcome = run
    for s in outcome["states"]:
        state, dose = site.store.load(s), site.store.open_dose(s)
        assert state.proposal is not None
        assert state.proposal.reasons
        assert {"kidneys", "kidney_left", "rest"} <= {row["region"] for row in state.summary["doses"]}
        assert float(dose.dose_mean_gy.max()) > 0
        assert np.isfinite(dose.dose_sd_gy.values).all()
        low, mid, high = (dose[f"dose_q{level}_gy"].values for level in ("05", "50", "95"))
        assert ((low <= mid) & (mid <= high)).all()
        known = np.isfinite(dose.bed_mean_gy.values)
        assert known.any()
        assert (dose.bed_q05_gy.values[known] >= low[known]).all()
        assert (np.isfinite(dose.bed_q95_gy.values) == known).all()
        assert abs(state.summary["conservation"]["activity_relative_difference"]) < 1e-3


def test_the_dose_engine_is_told_with_its_version_and_keeps_its_kernels(run):
    site, outcome = run
    state = site.store.load(outcome["states"][-1])
    assert state.identity["settings"]["engine"] == "kernel"
    told = dict(dose_engine(state))
    assert told["engine"].startswith("kernel")
    assert told["version"] == kernel_digest()[:12]
    assert "hu_density.csv" in told["CT to density and medium"]
    assert len(list(site.home.kernels.iterdir())) >= 2


def test_another_dose_engine_is_another_state_and_an_unknown_one_is_refused(run):
    site, outcome = run

    def first(**settings):
        other = dataclasses.replace(site, settings=site.settings.model_copy(update=settings))
        return plan_chain(other, known_cycles(site, outcome["pid"]), 0, None)[0]

    assert first().state_id == first(engine="kernel").state_id == outcome["states"][0]
    assert first(engine="mc").state_id != first().state_id
    assert first(engine="mc").identity["settings"]["engine"] == "mc"
    with pytest.raises(SettingsError, match="magic"):
        first(engine="magic")


@pytest.mark.long
@pytest.mark.parametrize("engine", ["multimedium", "mc", "local"])
def test_the_loop_runs_with_every_engine_and_finds_the_same_kidney(run, patient, tmp_path, engine):
    kernel, outcome = run
    site = new_site(tmp_path, engine=engine)
    made = run_chain(site, only_cycle(patient, tmp_path / "inbox", (0, 1), 2))
    assert dict(dose_engine(site.store.load(made["states"][1])))["engine"].startswith(engine)

    def kidney(site, state):
        rows = {r["region"]: r["gy_per_gbq"]["mean"] for r in site.store.load(state).summary["doses"]}
        return rows["kidney_left"]

    assert kidney(site, made["states"][1]) == pytest.approx(kidney(kernel, outcome["states"][1]), rel=0.1)
    low, high = (float(np.nanmax(site.store.open_dose(made["states"][1])[f"dose_{k}_gy"].values)) for k in ("sd", "mean"))
    assert 0 < low < high


def test_region_doses_agree_with_the_mean_of_the_map(run):
    site, outcome = run
    state, dose = site.store.load(outcome["states"][-1]), site.store.open_dose(outcome["states"][-1])
    names = json.loads(dose.attrs["regions"])
    for name in ("kidney_left", "liver", "spleen"):
        mean = float(dose.dose_mean_gy.values[dose.label.values == names.index(name) + 1].mean())
        row = next(r for r in state.summary["doses"] if r["region"] == name)
        assert mean == pytest.approx(row["dose_gy"]["mean"], rel=2e-3)


def test_the_ledger_adds_cycles_draw_by_draw(run):
    site, outcome = run
    ledger = site.store.load(outcome["states"][-1]).ledger
    assert ledger.cycles == (1, 2)
    i = ledger.regions.index("kidneys")
    np.testing.assert_allclose(ledger.cumulative("kidneys"), ledger.dose_gy[0, i] + ledger.dose_gy[1, i])
    assert (ledger.bed_gy[:, i] > ledger.dose_gy[:, i]).all()


def test_kidney_dose_of_a_coarse_patient_lies_near_the_truth(run, patient):
    site, outcome = run
    truth = read_truth(patient.parent / "truth" / "truth.json")
    rows = [r for s in outcome["states"][1:] for r in errors(site.store.load(s), truth[site.store.load(s).cycle])]
    kidneys = [abs(r["relative_error"]) for r in rows if r["region"] in ("kidney_left", "kidney_right")]
    assert np.median(kidneys) < 0.25  # 14 mm voxels; the benchmark states accuracy at clinical voxel sizes


def test_the_benchmark_scores_the_forecast_of_cycle_2_against_both_rivals(run, patient):
    site, outcome = run
    truth = read_truth(patient.parent / "truth" / "truth.json")
    scores = forecast_scores(site.store.load(outcome["states"][1]), truth[2])
    assert {s["kind"] for s in scores} == set(KINDS)
    assert all(0 < s[f"crps_{who}"] < 5 for s in scores for who in ("twin", "population", "carry_forward"))


def test_the_same_folder_again_makes_no_new_version(run, patient):
    site, outcome = run
    before = fingerprint(site)
    again = run_chain(site, patient)
    assert again["new"] == []
    assert again["states"] == outcome["states"]
    assert fingerprint(site) == before


def test_replay_gives_the_same_numbers(run):
    site, outcome = run
    assert replay(site, outcome["states"][-1]) == []


def test_replay_takes_seed_and_limits_from_the_state_and_not_from_todays_settings(run, tmp_path):
    site, outcome = run
    policy = tmp_path / "limits.csv"
    columns = "organ,quantity,value_gy,alpha_beta_gy,repair_half_time_h,risk,status,source,set_by"
    policy.write_text(f"{columns}\nkidneys,BED,30,2.0,1.0,0.05,assumed,test,test\n")
    settings = site.settings.model_copy(update={"root_seed": 5, "limits": policy})
    assert replay(open_site(settings), outcome["states"][0]) == []


@pytest.mark.long
def test_another_site_gives_the_same_state_ids_and_bytes_only_for_the_same_pseudonym(run, patient, tmp_path):
    """Identity holds no path and no clock: a second home with the same vault repeats every byte."""
    site, outcome = run
    other = new_site(tmp_path, vault=site.settings.vault)
    assert run_chain(other, patient)["states"] == outcome["states"]
    assert fingerprint(other) == fingerprint(site)


@pytest.mark.long
def test_cycles_that_arrive_one_by_one_give_the_ids_of_cycles_that_arrive_together(run, patient, tmp_path):
    """Decisions are part of identity: without a signature in between, history is retrospective either way."""
    site, outcome = run
    other = new_site(tmp_path, vault=site.settings.vault)
    first = only_cycle(patient, tmp_path / "first", (0, 1), 2)
    for name in ("labs.csv",):
        (first / name).unlink()
    run_chain(other, first)
    assert len(other.store.log(outcome["pid"])) == 2
    together = run_chain(other, patient)
    assert together["states"] == outcome["states"]


def test_a_refit_without_change_of_code_or_settings_makes_nothing_new(run):
    site, outcome = run
    assert refit(site, outcome["pid"], "checking that nothing changes")["states"] == []


def test_a_refit_needs_a_reason(run):
    site, outcome = run
    with pytest.raises(TwinError, match="reason"):
        refit(site, outcome["pid"], "  ")


@pytest.mark.long
def test_other_settings_make_a_branch_and_keep_the_old_one(run, patient, tmp_path):
    site, outcome = run
    other = new_site(tmp_path, vault=site.settings.vault)
    run_chain(other, patient)
    more = new_site(tmp_path, vault=site.settings.vault, root_seed=5)
    fresh = refit(more, outcome["pid"], "another root seed")
    assert len(fresh["states"]) == 3
    assert set(outcome["states"]) <= set(more.store.state_ids(outcome["pid"]))
    assert not set(fresh["states"]) & set(outcome["states"])


@pytest.mark.long
def test_the_compartmental_rung_runs_through_the_same_loop(patient, tmp_path):
    site = new_site(tmp_path, model="compartmental")
    outcome = run_chain(site, patient)
    assert site.store.load(outcome["states"][-1]).model == "compartmental"


@pytest.mark.long
def test_the_voxel_fit_runs_through_the_same_loop_and_is_replayed_as_it_was_made(patient, tmp_path):
    site = new_site(tmp_path, time_integration="hierarchical")
    last = run_chain(site, patient)["states"][-1]
    assert site.store.load(last).identity["settings"]["time_integration"] == "hierarchical"
    plain = open_site(site.settings.model_copy(update={"time_integration": "regional_shape"}))
    assert replay(plain, last) == []


def test_a_patient_without_pre_therapy_imaging_starts_at_cycle_1_and_keeps_the_earlier_labs(tmp_path):
    site = new_site(tmp_path)
    outcome = run_chain(site, write_patient(tmp_path / "patient", pet=False))
    first = site.store.load(outcome["states"][0])
    assert first.cycle == 1
    assert min(x.time_h for x in first.evidence.labs) < 0


@pytest.mark.long
def test_an_earlier_therapy_opens_the_ledger_and_without_its_bed_the_twin_makes_no_recommendation(run, patient, tmp_path):
    site, outcome = run
    folder = only_cycle(patient, tmp_path / "folder", (0, 1), 2)
    subject = json.loads((folder / "administrations.json").read_text())["patient"]["id"]
    rows = (f"{subject},red_marrow,0.4,beta_gamma,2020-03-02,dosimetry", f"{subject},kidneys,5,photon,2020-03-02,estimate")
    (folder / "prior_therapy.csv").write_text("\n".join(("pseudonym,region,dose_gy,radiation,date,source", *rows, "")))
    other = new_site(tmp_path, vault=site.settings.vault)
    first, second = (other.store.load(s) for s in run_chain(other, folder)["states"])
    for state in (first, second):
        assert state.ledger.opening_gy == {"kidneys": 5.0, "red_marrow": 0.4}
        assert [row["dose_gy"] for row in state.summary["prior_therapies"]] == [5.0, 0.4]
        assert state.proposal.reasons == (
            "kidneys received 5 Gy in earlier therapies, whose BED is not known, and its limit is a BED: set a limit in "
            "absorbed dose",
        )
    plain = site.store.load(outcome["states"][1])
    np.testing.assert_allclose(second.ledger.cumulative("red_marrow"), plain.ledger.cumulative("red_marrow") + 0.4)
    limits = {row["organ"]: row["cumulative_gy"] for row in second.summary["cumulative"]}
    assert limits["kidneys"] is None
    assert limits["red_marrow"]["q50"] == pytest.approx(float(np.median(plain.ledger.cumulative("red_marrow"))) + 0.4)
    assert replay(other, second.id) == []


def test_a_folder_that_is_refused_changes_no_twin(run, patient, tmp_path):
    site, outcome = run
    broken = only_cycle(patient, tmp_path / "broken", (0, 1, 2), 3)
    victim = next(iter(sorted((broken / "cycle-2").glob("*.dcm"))))
    victim.write_bytes(victim.read_bytes()[:500])
    before = fingerprint(site)
    with pytest.raises(InputError):
        run_chain(site, broken)
    assert fingerprint(site) == before
    assert site.store.head(outcome["pid"]) == outcome["states"][-1]


def _killed_run(home: Path, vault: Path, inbox: Path, after: int) -> int:
    """Run the loop in a process that is killed (SIGKILL) at its `after`-th progress event."""
    code = f"""
import os, signal
from pathlib import Path
from flows import progress
from flows.cli import main
from flows.chain import run_chain
from flows.settings import load_settings
from flows.site import open_site
count = 0
def listener(event):
    global count
    count += 1
    if count == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
with progress.listening(listener):
    site = open_site(load_settings(home={str(home)!r}, vault={str(vault)!r}, n_draws=100))
    run_chain(site, Path({str(inbox)!r}))
"""
    return subprocess.run([sys.executable, "-c", code], env=os.environ, check=False, cwd=HERE.parents[1]).returncode


def _assert_survives(patient: Path, expected: tuple[Site, dict], folder: Path, events: range) -> None:
    site, outcome = expected
    for after in events:
        place = folder / f"kill-{after}"
        other = new_site(place, vault=site.settings.vault)
        assert _killed_run(place / "home", site.settings.vault, patient, after) == -signal.SIGKILL
        assert run_chain(other, patient)["states"] == outcome["states"]
        assert fingerprint(other) == fingerprint(site)
        assert other.store.verify() == ()
        assert list((place / "home" / "staging").iterdir()) == []
        assert not any((place / "home" / "work").glob("*"))


@pytest.mark.long
def test_a_process_killed_in_the_middle_of_a_cycle_leaves_what_a_rerun_completes(run, patient, tmp_path):
    _assert_survives(patient, run, tmp_path, range(12, 13))


@pytest.mark.long
def test_a_process_killed_at_any_of_ten_points_leaves_what_a_rerun_completes(run, patient, tmp_path):
    _assert_survives(patient, run, tmp_path, range(1, 2 * EVENTS, 2))


def test_no_canary_of_an_identity_field_reaches_the_home_or_its_pages(run):
    """The whole run: evidence, states, MLflow, report, exports. The Prefect store is searched in the services tests."""
    from flows import derived
    from storage.registry import catch_up

    site, outcome = run
    for s in outcome["states"]:
        derived.make(site, s)
    assert catch_up(site.store).failures == ()
    leaks = [str(p) for p in site.home.root.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]
    assert leaks == []
    names = [str(p.relative_to(site.home.root)) for p in site.home.root.rglob("*")]
    assert not any(CANARY in name for name in names)


def test_the_newest_state_says_which_scans_of_the_next_cycle_would_tell_most(run, capsys):
    site, outcome = run
    capsys.readouterr()
    assert main(["--home", str(site.settings.home), "design", outcome["pid"], "--scans", "2"]) == 0
    said = capsys.readouterr().out
    assert "Cycle 3" in said
    assert "variance removed" in said
    assert "(the least telling)" in said


def test_a_later_state_is_held_against_the_fit_of_all_cycles(run):
    site, outcome = run
    states = [site.store.load(s) for s in outcome["states"]]
    assert "no earlier cycle" in states[0].summary["all_cycles"]["reason"]
    last = states[-1]
    if states[-2].model == last.model:
        told = last.summary["all_cycles"]
        assert told["cycles"] >= 2
        assert set(told["shift_sd_by_region"]) == {r.name for r in last.evidence.regions}
        assert all(0.3 < ratio < 3 for ratio in told["sd_ratio_by_region"].values())
    else:
        assert "no earlier cycle" in last.summary["all_cycles"]["reason"]
