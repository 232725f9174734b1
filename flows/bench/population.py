"""`tdt bench population`: virtual patients of a model (`--model psma` or `sstr`) against what cohorts of patients reported.

Rebuilds the check table from the model's `clinical_levels_*.csv`: each published figure, the simulated mean and SD, whether the
mean lies within one SD of the cohort's and by how much the SDs differ; then the directions of `clinical_trends_*.csv`. A row
holds where its mean is inside for one verified cohort, its spread where one of these has an SD within a factor of 1.5. The
virtual patients are others than those of the fit (seed 0). `--calibrate 1` fits what the column `calibrated_to` names anew.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from tdt_core.errors import UsageError
from tdt_core.kinetics.clinical_levels import SD_FACTOR, Level, cohort, falling, levels, target, trends
from tdt_core.kinetics.clinical_levels import calibrate as fit_to_levels
from tdt_core.kinetics.population import LIGANDS, Population, population

FIT_SEED = 0


def run(patients: int = 2000, seed: int = 1, calibrate: int = 0, model: str = "psma") -> dict[str, Any]:
    """Named figures of `patients` virtual patients of `model`; `calibrate` not 0 also fits the population anew."""
    if patients < 2:
        raise UsageError(f"{patients} patients", expected="at least 2, for an SD", kind="usage.bench")
    if model not in LIGANDS:
        raise UsageError(f"no population of {model!r}", expected=f"one of {', '.join(LIGANDS)}", kind="usage.bench")
    people = population(model)
    started = time.perf_counter()
    found = {row: (float(v.mean()), float(v.std(ddof=1))) for row, v in cohort(people, patients, seed).items()}
    rows = [checked(level, *found[level.row]) for level in levels(model)]
    figures: dict[str, Any] = {
        "model": model,
        "patients": patients,
        "seed": seed,
        "rows": rows,
        "verdicts": verdicts(rows),
        "trends": directions(people, patients, seed),
        "calibrated": fitted(people),
    }
    for key in ("holds", "spread_holds"):
        figures[f"rows.{key}"] = sum(v[key] for v in figures["verdicts"].values())
    figures["rows.judged"] = len(figures["verdicts"])
    if calibrate:
        figures["calibrated_anew"] = fitted(refit(people))
    return figures | {"wall_seconds": time.perf_counter() - started}


def checked(level: Level, mean: float, sd: float) -> dict[str, Any]:
    """One line of the table."""
    return {
        "row": level.row,
        "unit": level.unit,
        "cohort": level.cohort,
        "n": level.n,
        "published_mean": level.mean,
        "published_sd": level.sd,
        "status": level.status,
        "source": level.source,
        "use": level.use,
        "mean": mean,
        "sd": sd,
        "inside": level.holds(mean),
        "sd_ratio": level.sd_ratio(sd),
    }


def verdicts(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Row -> cohorts whose mean is met, and those of them whose SD is met too; only rows that some cohort judges."""
    out: dict[str, dict[str, Any]] = {}
    for line in (r for r in rows if r["inside"] is not None):
        verdict = out.setdefault(line["row"], {"use": line["use"], "mean_by": [], "sd_by": []})
        if line["inside"]:
            verdict["mean_by"].append(line["cohort"])
            if 1 / SD_FACTOR <= line["sd_ratio"] <= SD_FACTOR:
                verdict["sd_by"].append(line["cohort"])
    for verdict in out.values():
        verdict |= {"holds": bool(verdict["mean_by"]), "spread_holds": bool(verdict["sd_by"])}
    return out


def directions(people: Population, patients: int, seed: int) -> dict[str, Any]:
    """Trend -> steps, mean of each falling row at each step, and whether it falls on average and in every patient."""
    out: dict[str, Any] = {}
    rows = falling(people.model.name)
    for trend, steps in trends(people, patients, seed).items():
        told: dict[str, Any] = {"steps": list(steps), "rows": list(rows[trend])}
        for row in rows[trend]:
            values = np.stack([at[row] for at in steps.values()])  # (steps, patients)
            told[row] = [float(v) for v in values.mean(axis=1)]
            told[f"{row} falls"] = bool((np.diff(values.mean(axis=1)) < 0).all())
            told[f"{row} falls in"] = float((np.diff(values, axis=0) < 0).all(axis=0).mean())
        out[trend] = told
    return out


def fitted(people: Population) -> list[dict[str, Any]]:
    """What was fitted to which row: the parameter, whether its median or sd, its value, and the row's target."""
    out = []
    for name, fits in people.calibrated.items():
        parameter = people.table.parameters[name]
        for what, row in fits.items():
            mean, sd = target(row, people.model.name)
            out.append(
                {
                    "parameter": name,
                    "what": what,
                    "value": parameter.value if what == "median" else parameter.sd,
                    "unit": parameter.unit if what == "median" else "1",
                    "status": parameter.status,
                    "row": row,
                    "target": mean if what == "median" else sd,
                }
            )
    return out


def refit(people: Population) -> Population:
    """The fit that gave the packaged values."""
    return fit_to_levels(people, m=4000, seed=FIT_SEED)


def describe(figures: Mapping[str, Any]) -> str:
    """The check table for the terminal."""
    lines = [
        f"{figures['model']}: {figures['patients']} virtual patients, seed {figures['seed']}, {figures['wall_seconds']:.1f} s"
    ]
    lines.append(f"{'row':<28}{'cohort':<18}{'published':>15}  {'simulated':>15}  {'inside':<7}{'SD ratio':>8}  use")
    for line in figures["rows"]:
        published = _pair(line["published_mean"], line["published_sd"])
        inside = {True: "yes", False: "NO", None: "-"}[line["inside"]]
        ratio = "-" if line["sd_ratio"] is None else f"{line['sd_ratio']:.2f}"
        simulated = _pair(line["mean"], line["sd"])
        row = f"{line['row']}, {line['unit']}"
        lines.append(f"{row:<28}{line['cohort']:<18}{published:>15}  {simulated:>15}  {inside:<7}{ratio:>8}  {line['use']}")
    for row, verdict in figures["verdicts"].items():
        mean = f"holds ({', '.join(verdict['mean_by'])})" if verdict["holds"] else "DOES NOT HOLD"
        spread = f"holds ({', '.join(verdict['sd_by'])})" if verdict["spread_holds"] else "DOES NOT HOLD"
        lines.append(f"{row}, {verdict['use']}: mean {mean}, spread {spread}")
    for trend, told in figures["trends"].items():
        for row in told["rows"]:
            values = ", ".join(f"{s:g}: {v:.3f}" for s, v in zip(told["steps"], told[row], strict=True))
            lines.append(f"{trend}: {row} {'falls' if told[f'{row} falls'] else 'DOES NOT FALL'} ({values})")
    for name in ("calibrated", "calibrated_anew"):
        for fit in figures.get(name, ()):
            lines.append(
                f"{name}: {fit['what']} of {fit['parameter']} = {fit['value']:.4g} to {fit['row']} {fit['target']:.4g}"
            )
    return "\n".join(lines)


def _pair(mean: float, sd: float | None) -> str:
    return f"{mean:.3g}" if sd is None else f"{mean:.3g} ± {sd:.2g}"
