"""`tdt bench single_scan`: kidneys from one scan, by the twin and by the field's single-time-point methods, on the same
patients.

Patients are digital reference patients without images (`flows.bench.ladder.measured`): their kinetics are none of the methods'.
The twin fits its kinetic model with the population as its prior to all regions of that one scan; Hänscheid 2017 and Madsen take
the population's effective half-life of kidneys, Hänscheid 2018 none. What is compared is the time-integrated activity of each
kidney.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flows.bench.ladder import ERRORS, FIT, VARIANTS, measured
from flows.bench.resumable import by_patient
from tdt_core.assimilation import assimilate, population_prior
from tdt_core.dosimetry.time_integration.single_time import exponential_factor, hanscheid_2018_factor, population_half_life
from tdt_core.errors import UsageError
from tdt_core.kinetics import covariates_of, rung_for
from tdt_core.phantom import PhantomSettings, reference_patient
from tdt_core.phantom.region_curves import region_curves
from tdt_core.twin import LabResult

HOURS = "24,48,72,96,120"
ORGAN = "kidneys"


def run(
    patients: int = 50,
    seed: int = 1,
    hours: str = HOURS,
    rung: str = "whole_body",
    product: str = "Lu-177-PSMA-617",
    draws: int = 300,
    processes: int = 2,
    folder: str | None = None,
) -> dict[str, Any]:
    """Named figures of `patients` reference patients with seeds `seed * 1000 + i`, by hour of the scan and method."""
    try:
        times = sorted({float(t) for t in hours.split(",") if t.strip()})
    except ValueError:
        times = []
    if patients < 1 or not times or times[0] <= 0:
        raise UsageError(
            f"{patients} patients, scans at {hours!r}",
            expected="at least one patient, hours above 0 separated by commas",
            kind="usage.bench",
        )
    arguments = {
        f"single-{product}-{rung}-{hours}-{draws}-{number}": (number, VARIANTS[i % len(VARIANTS)], times, rung, product, draws)
        for i, number in enumerate(range(seed * 1000, seed * 1000 + patients))
    }
    rows = [row for r in by_patient(one_patient, arguments, processes, folder) for row in r["rows"]]
    return figures(rows) | {"patients": patients, "seed": seed, "rung": rung, "product": product}


def one_patient(
    seed: int, variant: str, times: Sequence[float], name: str, product: str, draws: int, work: Path
) -> dict[str, Any]:
    """A row per kidney, hour and method: relative error of the time-integrated activity, and whether the twin covers it."""
    patient = reference_patient(PhantomSettings(seed=seed, matrix=64, variant=variant, product=product))  # type: ignore[arg-type]
    truth = region_curves(patient)
    true, given = truth.time_integrated_activity(), truth.administration
    egfr = LabResult("egfr", 0.0, patient.covariates["egfr"], "mL/min/{1.73_m2}")
    kidneys = [i for i, r in enumerate(truth.regions) if r.organ == ORGAN]
    life_h, _ = population_half_life(given.ligand, ORGAN, given.nuclide)
    rows: list[dict[str, Any]] = []
    for hour in times:
        seen = measured(truth, patient.patient, np.array([hour]), np.random.default_rng([seed, ERRORS, int(hour)]))
        evidence = replace(seen, labs=(egfr,))
        model = rung_for(name, given.ligand, evidence.regions, covariates_of(evidence))
        posterior = assimilate(population_prior(model), evidence, model, seed=(seed, FIT), n_draws=draws)
        tia = model.time_integrated_activity(posterior.draws[:, : len(model.parameters)], given)
        low, middle, high = np.quantile(tia, (0.05, 0.5, 0.95), axis=0)
        for i in kidneys:
            activity = next(a.activity_mbq for a in evidence.activities if a.region == truth.regions[i].name)
            found = {
                "twin": middle[i],
                "hanscheid_2018": activity * hanscheid_2018_factor(hour),
                "half-life of the population": activity * exponential_factor(hour, life_h),
            }
            rows += [
                {"hour": hour, "method": method, "relative_error": float(value / true[i] - 1.0)}
                for method, value in found.items()
            ]
            rows[-len(found)]["covered"] = bool(low[i] <= true[i] <= high[i])
    return {"rows": rows}


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By hour and method: median, median absolute and 5 to 95 % of the relative errors, shares beyond 10 and 20 %."""
    told: dict[str, Any] = {}
    for hour in sorted({row["hour"] for row in rows}):
        told[f"{hour:g} h"] = {}
        for method in dict.fromkeys(row["method"] for row in rows):
            mine = [row for row in rows if row["hour"] == hour and row["method"] == method]
            error = np.array([row["relative_error"] for row in mine])
            low, high = np.quantile(error, (0.05, 0.95))
            told[f"{hour:g} h"][method] = {
                "n": len(mine),
                "median_error": float(np.median(error)),
                "median_abs_error": float(np.median(np.abs(error))),
                "q05": float(low),
                "q95": float(high),
                "beyond_10": float((np.abs(error) > 0.10).mean()),
                "beyond_20": float((np.abs(error) > 0.20).mean()),
            }
            if "covered" in mine[0]:
                told[f"{hour:g} h"][method]["coverage90"] = float(np.mean([row["covered"] for row in mine]))
    return {"hours": told}


def describe(told: Mapping[str, Any]) -> str:
    """The table for the terminal."""
    about = f"{told['patients']} reference patients, {told['product']}, seed {told['seed']}"
    lines = [
        f"{about}: kidneys from one scan; twin: {told['rung']}",
        f"{'scan':<8}{'method':<30}{'median':>9}{'|error|':>9}{'5 %':>8}{'95 %':>8}{'>10 %':>8}{'>20 %':>8}{'cover':>8}",
    ]
    for hour, methods in told["hours"].items():
        for method, r in methods.items():
            cover = f"{r['coverage90']:>8.2f}" if "coverage90" in r else " " * 8
            lines.append(
                f"{hour:<8}{method:<30}{r['median_error']:>+9.3f}{r['median_abs_error']:>9.3f}{r['q05']:>+8.2f}{r['q95']:>+8.2f}"
                f"{r['beyond_10']:>8.2f}{r['beyond_20']:>8.2f}{cover}"
            )
    return "\n".join(lines)
