"""`tdt bench lumping`: what merging organs saves, and what it changes in activity and time-integrated activity.

The same draws of a population run through the whole body, the lumped and the reduced model; merged organs come apart by
`lumping.by_organ`. Differences are relative to the whole body, at a tolerance far below them; time is that of the solver and of
the parameters' rules at rtol 1e-4 on one core, the fastest of several runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from flows.bench.clock import best, cores
from tdt_core.errors import UsageError
from tdt_core.kinetics.clinical_levels import ORGANS
from tdt_core.kinetics.lumping import by_organ, lumped, reduced
from tdt_core.kinetics.pbrpk import ARTERIAL, PBRPK, VENOUS
from tdt_core.kinetics.population import population
from tdt_core.kinetics.simulation import simulate_batch

FloatArray = npt.NDArray[np.float64]

RTOL, TIMED_RTOL, REPEATS = 1e-6, 1e-4, 5
TIMES_H = (1.0, 4.0, 24.0, 72.0, 168.0)
NAMES = ("lumped", "reduced")
TOGETHER: Mapping[str, tuple[str, ...]] = {
    "kidneys": ORGANS["kidneys"],
    "salivary glands": ORGANS["glands"],
    "lacrimal glands": ORGANS["lacrimal"],
    "blood": (ARTERIAL, VENOUS),
}
"""What is told as one; every other region of the whole body is told by itself."""


def run(patients: int = 200, seed: int = 1, model: str = "psma") -> dict[str, Any]:
    """Named figures of `patients` draws of the population of `model`."""
    if patients < 2:
        raise UsageError(f"{patients} patients", expected="at least 2, for a percentile", kind="usage.bench")
    people = population(model)
    drawn, given = people.draw(patients, seed), [people.administration()]
    models = {"whole": people.model, "lumped": lumped(people.model), "reduced": reduced(people.model)}
    found = {n: by_organ(m, simulate_batch(m, drawn, given, TIMES_H, rtol=RTOL), drawn) for n, m in models.items()}
    groups = _groups(people.model)
    figures: dict[str, Any] = {"model": model, "patients": patients, "seed": seed, "states": {}, "ms_per_patient": {}}
    for name, one in models.items():
        figures["states"][name] = len(one.network().states)
        figures["ms_per_patient"][name] = _timed(one, drawn, given) / patients * 1e3
    figures["tia_difference_percent"] = {
        n: {g: _difference(_told(found[n], r)[0], _told(found["whole"], r)[0]) for g, r in groups.items()} for n in NAMES
    }
    figures["activity_difference_percent"] = {
        n: {g: _late(_told(found[n], r)[1], _told(found["whole"], r)[1]) for g, r in groups.items()} for n in NAMES
    }
    return figures


def _told(data: xr.Dataset, regions: tuple[str, ...]) -> tuple[FloatArray, FloatArray]:
    """(m,) MBq h and (m, times) MBq of some regions together."""
    told = data.sel(label="total", region=list(regions)).sum("region")
    return told["tia_mbq_h"].to_numpy(), told["activity_mbq"].transpose("member", "time_h").to_numpy()


def _groups(whole: PBRPK) -> dict[str, tuple[str, ...]]:
    groups = {n: tuple(r for r in regions if r in whole.regions) for n, regions in TOGETHER.items()}
    told = {r for regions in groups.values() for r in regions}
    return {n: r for n, r in groups.items() if r} | {r: (r,) for r in whole.regions if r not in told}


def _difference(found: FloatArray, wanted: FloatArray) -> dict[str, float]:
    """Median of the differences with their sign, median and 95th percentile of their size, in percent."""
    off = 100.0 * (found / wanted - 1.0)
    return {"signed": float(np.median(off)), "median": float(np.median(abs(off))), "p95": float(np.quantile(abs(off), 0.95))}


def _late(found: FloatArray, wanted: FloatArray) -> dict[str, float]:
    """95th percentile of the size of the differences at each time, in percent."""
    return {f"{t:g}h": _difference(found[:, i], wanted[:, i])["p95"] for i, t in enumerate(TIMES_H)}


def _timed(model: PBRPK, drawn: Mapping[str, Any], given: list[Any]) -> float:
    """Seconds of the fastest of several runs on one core."""
    with cores(1):
        return best(lambda: simulate_batch(model, drawn, given, [24.0], rtol=TIMED_RTOL), REPEATS)[0]


def describe(figures: Mapping[str, Any]) -> str:
    """The table for the terminal."""
    lines = [f"{figures['patients']} virtual patients of {figures['model']}, seed {figures['seed']}"]
    for name, states in figures["states"].items():
        lines.append(f"{name:<9}{states:>4} states {figures['ms_per_patient'][name]:>8.3f} ms per patient")
    lines.append("time-integrated activity against the whole body, %: signed median, median size, 95th percentile of the size")
    lines.append(f"{'':<18}{'lumped':>26}{'reduced':>26}")
    differences = figures["tia_difference_percent"]
    for group in differences["lumped"]:
        cells = [differences[n][group] for n in NAMES]
        lines.append(f"{group:<18}" + "".join(f"{c['signed']:>+10.3f}{c['median']:>8.3f}{c['p95']:>8.3f}" for c in cells))
    lines.append(
        "activity against the whole body, 95th percentile of the size, %, at " + ", ".join(f"{t:g}" for t in TIMES_H) + " h"
    )
    differences = figures["activity_difference_percent"]
    for group in differences["lumped"]:
        lines.append(f"{group:<18}" + "   ".join("".join(f"{v:>8.2f}" for v in differences[n][group].values()) for n in NAMES))
    return "\n".join(lines)
