"""`tdt ladder` on a committed state and `tdt bench ladder`, small: every rung is told, weighed and averaged, or refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from flows.bench.ladder import describe, measured, run
from flows.cli import main
from flows.ladder import about_daughters, grouped, ladder
from tdt_core.errors import UsageError
from tdt_core.kinetics import rungs
from tdt_core.phantom import PhantomSettings, reference_patient
from tdt_core.phantom.region_curves import region_curves
from tdt_core.twin import Region

QUICK = "monoexponential,biexponential,sum_of_exponentials"


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_ladder_of_a_state_weighs_every_rung_and_averages_them(capsys: pytest.CaptureFixture[str], commit) -> None:
    state = commit()
    code, told = called(capsys, "ladder", state.id[:10], "--rungs", QUICK, "--draws", "200")
    assert code == 0
    assert [r["rung"] for r in told["rungs"]] == QUICK.split(",")
    assert sum(r["weight"] for r in told["rungs"]) == pytest.approx(1.0)
    evidence = np.array([r["log_evidence"] for r in told["rungs"]])
    assert np.argmax(evidence) == np.argmax([r["weight"] for r in told["rungs"]])
    for r in told["rungs"]:
        assert r["data"] == len(state.evidence.activities)
        assert (r["aicc"] is None) == (r["data"] <= r["parameters"] + r["outliers"] + 1) == (r["akaike_weight"] is None)
        assert 0 < r["effective_parameters"] < min(r["data"], r["parameters"])
        assert r["tia_mbq_h"]["kidneys"]["q05"] < r["tia_mbq_h"]["kidneys"]["q50"] < r["tia_mbq_h"]["kidneys"]["q95"]
    low, high = (f(r["tia_mbq_h"]["kidneys"]["q50"] for r in told["rungs"]) for f in (min, max))
    assert 0.98 * low <= told["average"]["kidneys"]["q50"] <= 1.02 * high


def test_a_patient_stands_for_the_newest_state_and_the_same_call_gives_the_same_numbers(
    capsys: pytest.CaptureFixture[str], commit
) -> None:
    first = commit(1)
    second = commit(2, parent=first.id)
    options = ("--rungs", "biexponential,monoexponential", "--draws", "50")
    _, by_patient = called(capsys, "ladder", first.pid, *options)
    _, by_state = called(capsys, "ladder", second.id, *options)
    assert by_patient["state"] == second.id
    assert by_patient["average"] == by_state["average"]


def test_a_person_reads_tables_the_basis_of_the_weights_and_refusals(capsys: pytest.CaptureFixture[str], commit) -> None:
    state = commit()
    capsys.readouterr()
    assert main(["ladder", state.id, "--rungs", QUICK, "--draws", "50"]) == 0
    out = capsys.readouterr().out
    for words in (*QUICK.split(","), "average", "ln evidence", "weights by", "kidneys", "Research use only"):
        assert words in out


@pytest.mark.parametrize(
    ("options", "kind"),
    [(("--rungs", "guess"), "model.name"), (("--by", "luck"), "usage.ladder")],
)
def test_an_unknown_rung_or_basis_is_refused(
    capsys: pytest.CaptureFixture[str], commit, options: tuple[str, ...], kind: str
) -> None:
    state = commit()
    code, told = called(capsys, "ladder", state.id, *options)
    assert code == 2
    assert told["error"]["kind"] == kind
    assert "one of" in told["error"]["expected"]


def test_an_unknown_state_is_refused(capsys: pytest.CaptureFixture[str], commit) -> None:
    commit()
    code, told = called(capsys, "ladder", "ffffffff")
    assert code == 2
    assert told["error"]["kind"].startswith("store")


def test_kinds_are_sums_over_their_regions() -> None:
    regions = (Region("kidney_left", "kidneys", ""), Region("kidney_right", "kidneys", ""), Region("liver", "liver", ""))
    found = grouped(np.array([[1.0, 2.0, 5.0], [3.0, 4.0, 6.0]]), regions)
    np.testing.assert_array_equal(found["kidneys"], [3.0, 7.0])
    assert list(found) == ["kidneys", "kidney_left", "kidney_right", "liver"]


# --- the benchmark


def test_region_curves_are_the_truth_of_the_patient_with_images() -> None:
    patient = reference_patient(PhantomSettings(seed=3, matrix=32))
    curves, truth = region_curves(patient), patient.cycle(1).truth["regions"]
    times = np.array([4.0, 24.0, 72.0, 156.0])
    at = curves.activity(times)
    for i, region in enumerate(curves.regions):
        assert curves.time_integrated_activity()[i] == pytest.approx(truth[region.name]["tia_mbq_h"], rel=1e-9)
        assert region.volume_ml == pytest.approx(truth[region.name]["volume_ml"])
        assert (at[i] > 0).all()
    assert {r.name for r in curves.regions} == set(truth)


def test_simulated_measurements_share_their_calibration_and_scatter_by_the_budget() -> None:
    truth = region_curves(reference_patient(PhantomSettings(seed=3, matrix=32)))
    times, rng = np.array([4.0, 24.0, 72.0, 168.0]), np.random.default_rng(0)
    true = truth.activity(times)
    patient = reference_patient(PhantomSettings(seed=3, matrix=32)).patient
    logs = []
    for _ in range(300):
        evidence = measured(truth, patient, times, rng)
        seen = np.array([a.activity_mbq for a in evidence.activities]).reshape(true.shape)
        logs.append(np.log(seen / true))
    budgets = [a.budget for a in evidence.activities][:: len(times)]
    total = np.array([b.total for b in budgets])
    spread = np.std(logs, axis=(0, 2))
    np.testing.assert_allclose(spread, total, rtol=0.2)
    liver, rest = (next(i for i, r in enumerate(truth.regions) if r.name == n) for n in ("liver", "rest"))
    both = np.array(logs)[:, [liver, rest], 0]
    assert np.cov(both.T)[0, 1] == pytest.approx(0.05**2, rel=0.35)


@pytest.mark.long
def test_the_benchmark_tells_every_rung_and_the_averages() -> None:
    told = run(patients=2, seed=2, rungs=QUICK, draws=100)
    assert list(told["rungs"]) == [*QUICK.split(","), "average by evidence", "average by left_out"]
    for basis in ("evidence", "left_out"):
        assert sum(told["rungs"][n][f"mean_weight.{basis}"] for n in QUICK.split(",")) == pytest.approx(1.0)
    for name in QUICK.split(","):
        assert told["rungs"][name]["fitted"] == 2
        assert told["rungs"][name]["n.kidneys"] == 4
    best = told["rungs"]["sum_of_exponentials"]
    assert best["median_abs_error.kidneys"] < 0.15
    words = describe(told)
    assert all(name in words for name in told["rungs"])


@pytest.mark.parametrize("options", [{"patients": 0}, {"scans": "4,soon"}, {"scans": "-1,4"}])
def test_a_benchmark_without_patients_or_with_impossible_scans_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        run(**options)


def test_a_rung_that_refuses_is_told_with_its_reason() -> None:
    told = run(patients=1, rungs="biexponential,guess", draws=50)
    assert "no kinetic model" in told["refused"]["guess"]
    assert "guess" not in told["rungs"]
    assert "biexponential" in rungs()


# --- the step `+ daughters`


def test_the_whole_body_is_the_rung_that_follows_daughters_and_says_so(capsys: pytest.CaptureFixture[str], commit) -> None:
    state = commit()
    told = ladder(state, ["monoexponential", "whole_body"], n_draws=20)
    follows = {r["rung"]: r["follows_daughters"] for r in told["rungs"]}
    assert follows == {"monoexponential": False, "whole_body": True}
    assert (told["daughters"], {str(r["daughter_tia_mbq_h"]) for r in told["rungs"]}) == ([], {"{}"})
    (words,) = about_daughters(told)
    assert "+ daughters: whole_body" in words
    assert "Lu-177 has none" in words
    (of_actinium,) = about_daughters({**told, "nuclide": "Ac-225", "daughters": ["Bi-213"]})
    assert of_actinium.endswith("also follow daughters off the ligand of Ac-225: Bi-213; scores are the same")
