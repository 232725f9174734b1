"""`tdt bench ladder`: every rung on virtual patients whose kinetics none of them shares.

Patients are digital reference patients (docs/phantom.md) without images: the true activity of each region at four scans, with
the errors that `trial_measurement.csv` states (calibration common to all, recovery common to a region's scans, the rest
independent); body and filtration rate are known without error. What is compared is the time-integrated activity of kidneys,
glands and lesions, one by one, with its truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.truth import KINDS, kind_of
from tdt_core.assimilation.candidates import Ladder, climb
from tdt_core.assimilation.selection import BASES, average, weigh
from tdt_core.errors import UsageError
from tdt_core.kinetics import rungs as registered
from tdt_core.parameters import packaged_table
from tdt_core.phantom import PhantomSettings, reference_patient
from tdt_core.phantom.region_curves import RegionCurves, region_curves
from tdt_core.trials.population import TABLE, budget_of, scan_times
from tdt_core.twin import Evidence, LabResult, Patient, RegionActivity

FloatArray = npt.NDArray[np.float64]
VARIANTS = ("standard", "standard", "standard", "one_kidney", "no_spleen")
ERRORS, FIT = 21, 22  # streams of random numbers beside the phantom's own


def run(
    patients: int = 10, seed: int = 1, rungs: str = "", scans: str = "", product: str = "Lu-177-PSMA-617", draws: int = 500
) -> dict[str, Any]:
    """Named figures of `patients` virtual patients with seeds `seed * 1000 + i`.

    Parameters
    ----------
    rungs : names separated by commas; empty: every registered rung.
    scans : hours after the administration, separated by commas; empty: those of `trial_measurement.csv`.
    """
    names = tuple(n.strip() for n in rungs.split(",") if n.strip()) or registered()
    if patients < 1:
        raise UsageError(f"{patients} patients", expected="at least 1", kind="usage.bench")
    times = _times(scans)
    results = [one_patient(seed * 1000 + i, VARIANTS[i % len(VARIANTS)], names, times, product, draws) for i in range(patients)]
    return figures(results) | {"patients": patients, "seed": seed, "scans_h": times.tolist(), "draws": draws}


def _times(scans: str) -> FloatArray:
    try:
        times = np.array([float(t) for t in scans.split(",") if t.strip()]) if scans else scan_times(packaged_table(TABLE))
    except ValueError:
        times = np.zeros(1)
    if not times.size or not np.isfinite(times).all() or times.min() <= 0:
        raise UsageError(f"scans at {scans!r}", expected="hours above 0, separated by commas", kind="usage.bench")
    return times


def one_patient(seed: int, variant: str, names: Sequence[str], times_h: FloatArray, product: str, draws: int) -> dict[str, Any]:
    """Fit one virtual patient by every rung: a row per rung and region, weights, seconds, refusals."""
    patient = reference_patient(PhantomSettings(seed=seed, matrix=64, variant=variant, product=product))  # type: ignore[arg-type]
    truth = region_curves(patient)
    kidney = LabResult("egfr", 0.0, patient.covariates["egfr"], "mL/min/{1.73_m2}")
    evidence = measured(truth, patient.patient, times_h, np.random.default_rng([seed, ERRORS]))
    evidence = replace(evidence, labs=(kidney,))
    given = truth.administration
    found = climb(names, given.ligand, evidence, given, seed=(seed, FIT), n_draws=draws, clock=perf_counter)
    rows = []
    for name, tia in {**{n: c.tia_mbq_h for n, c in found.candidates.items()}, **averages(found, (seed, FIT))}.items():
        rows += errors(name, tia, truth)
    scores = {n: c.score for n, c in found.candidates.items()}
    return {
        "seed": seed,
        "rows": rows,
        "refused": dict(found.refused),
        "seconds": {n: c.seconds for n, c in found.candidates.items()},
        "gradients": {n: c.gradients for n, c in found.candidates.items()},
        "parameters": {n: s.n_parameters for n, s in scores.items()},
        "effective": {n: s.effective_parameters for n, s in scores.items()},
        "two_j_per_n": {n: c.posterior.diagnostics["two_j_per_n"] for n, c in found.candidates.items()},
        "weights": {basis: weigh(scores, basis).by_rung for basis in BASES},
        "data": len(evidence.activities),
    }


def measured(truth: RegionCurves, patient: Patient, times_h: FloatArray, rng: np.random.Generator) -> Evidence:
    """What a camera would have given: true activities times errors of the stated sizes."""
    table, given = packaged_table(TABLE), truth.administration
    true = truth.activity(times_h)
    calibration = table.value("calibration") * rng.standard_normal()
    activities = []
    for i, region in enumerate(truth.regions):
        budget = budget_of(table, region.organ)
        shared = budget.shared * rng.standard_normal()
        for j, t in enumerate(times_h):
            error = calibration + shared + budget.independent * rng.standard_normal()
            value = float(true[i, j] * np.exp(error))
            activities.append(
                RegionActivity(
                    region.name,
                    given.time_h + float(t),
                    value,
                    value,
                    1.0,
                    budget,
                    f"scan-{j}",
                    "SPECT",
                    given.nuclide,
                    "camera",
                )
            )
    return Evidence(1, patient, (given,), truth.regions, tuple(activities))


def averages(found: Ladder, seed: tuple[int, ...]) -> dict[str, FloatArray]:
    """Averages over the rungs by evidence and by left-out density, as (draws, regions)."""
    draws = {n: c.tia_mbq_h for n, c in found.candidates.items()}
    scores = {n: c.score for n, c in found.candidates.items()}
    count = len(found.tia_mbq_h)
    return {
        f"average by {basis}": average(draws, weigh(scores, basis).by_rung, count, seed) for basis in ("evidence", "left_out")
    }


def errors(name: str, tia_mbq_h: FloatArray, truth: RegionCurves) -> list[dict[str, Any]]:
    """One row per kidney, gland and lesion: relative error of the median, half-width and coverage of the 90 % interval."""
    true = truth.time_integrated_activity()
    low, middle, high = np.quantile(tia_mbq_h, (0.05, 0.5, 0.95), axis=0)
    return [
        {
            "rung": name,
            "kind": kind,
            "relative_error": float(middle[i] / true[i] - 1.0),
            "half_width": float((high[i] - low[i]) / (2 * middle[i])),
            "covered": bool(low[i] <= true[i] <= high[i]),
        }
        for i, region in enumerate(truth.regions)
        if (kind := kind_of(region.organ)) is not None
    ]


def figures(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Named figures by rung; the averages stand beside the rungs."""
    rows = [row for r in results for row in r["rows"]]
    out: dict[str, Any] = {"rungs": {}, "refused": {}}
    for name in dict.fromkeys(row["rung"] for row in rows):
        told: dict[str, Any] = {}
        for kind in KINDS:
            mine = [row for row in rows if row["rung"] == name and row["kind"] == kind]
            if mine:
                error = np.array([row["relative_error"] for row in mine])
                told[f"n.{kind}"] = len(mine)
                told[f"median_abs_error.{kind}"] = float(np.median(np.abs(error)))
                told[f"median_error.{kind}"] = float(np.median(error))
                told[f"halfwidth90_median.{kind}"] = float(np.median([row["half_width"] for row in mine]))
                told[f"coverage90.{kind}"] = float(np.mean([row["covered"] for row in mine]))
        fitted = [r for r in results if name in r["seconds"]]
        if fitted:
            told["fitted"] = len(fitted)
            for key in ("seconds", "gradients", "parameters", "effective", "two_j_per_n"):
                told[f"{key}_median"] = float(np.median([r[key][name] for r in fitted]))
            for basis in ("evidence", "left_out"):
                told[f"mean_weight.{basis}"] = float(np.mean([r["weights"][basis].get(name, 0.0) for r in results]))
        out["rungs"][name] = told
    for r in results:
        for name, reason in r["refused"].items():
            out["refused"].setdefault(name, reason)
    return out


def describe(told: Mapping[str, Any]) -> str:
    """The table for the terminal: error, half-width and coverage by kind, weights, cost."""
    head = f"{'rung':<24}" + "".join(f"{kind + ': error, ±90 %, cover':>30}" for kind in KINDS)
    lines = [
        f"{told['patients']} virtual patients, seed {told['seed']}, scans at {', '.join(f'{t:g}' for t in told['scans_h'])} h",
        head + f"{'k (eff)':>12}{'2J/n':>7}{'w ev':>7}{'w out':>7}{'s':>8}",
    ]
    for name, r in told["rungs"].items():
        line = f"{name:<24}"
        for kind in KINDS:
            parts = [r.get(f"{key}.{kind}") for key in ("median_abs_error", "halfwidth90_median", "coverage90")]
            line += f"{'-' if parts[0] is None else '  '.join(f'{p:.3f}' for p in parts):>30}"
        if "fitted" in r:
            line += f"{r['parameters_median']:.0f} ({r['effective_median']:.1f})".rjust(12)
            line += f"{r['two_j_per_n_median']:>7.2f}{r['mean_weight.evidence']:>7.2f}{r['mean_weight.left_out']:>7.2f}"
            line += f"{r['seconds_median']:>8.2f}"
        lines.append(line)
    lines += [f"{name} refused: {reason}" for name, reason in told["refused"].items()]
    return "\n".join(lines)
