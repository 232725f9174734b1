"""Endpoints of a trial and their statistics: means with Monte-Carlo standard errors, and differences within patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tdt_core.trials.arms import Choice
from tdt_core.trials.outcome import CycleDose

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cycle:
    """What one cycle of one arm came to: the choice, the true dose (None when nothing was given), per limited organ the
    allowance it had and what it used, both in the limit's quantity."""

    choice: Choice
    dose: CycleDose | None
    allowance_gy: Mapping[str, float]
    used_gy: Mapping[str, float]


@dataclass(frozen=True)
class Endpoint:
    """A number of one cycle. `course` says how cycles combine: their sum, or whether any had it."""

    name: str
    unit: str
    value: Callable[[Cycle], float]
    course: str = "sum"


def _dose(name: str) -> Callable[[Cycle], float]:
    return lambda cycle: 0.0 if cycle.dose is None else float(cycle.dose.of(name)[0])


def _mean_lesion_dose(cycle: Cycle) -> float:
    if cycle.dose is None:
        return 0.0
    lesions = [i for i, name in enumerate(cycle.dose.names) if name.startswith("lesion/")]
    return float(cycle.dose.dose_gy[lesions, 0].mean())


def _exceeds_any(cycle: Cycle) -> float:
    return float(any(cycle.used_gy[organ] > cycle.allowance_gy[organ] for organ in cycle.used_gy))


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("activity", "MBq", lambda c: c.choice.activity_mbq or 0.0),
    Endpoint("kidney_dose", "Gy", _dose("kidneys")),
    Endpoint("parotid_dose", "Gy", _dose("parotid_glands")),
    Endpoint("submandibular_dose", "Gy", _dose("submandibular_glands")),
    Endpoint("marrow_dose", "Gy", _dose("red_marrow")),
    Endpoint("lesion_dose", "Gy", _mean_lesion_dose),
    Endpoint("allowance_exceeded", "1", _exceeds_any, course="any"),
    Endpoint("not_given", "1", lambda c: float(c.choice.activity_mbq is None), course="any"),
)


@dataclass(frozen=True)
class Estimate:
    """A mean over patients and its Monte-Carlo standard error."""

    mean: float
    standard_error: float
    patients: int


def estimate(values: FloatArray) -> Estimate:
    """Mean and s / sqrt(n) of (patients,) independent values."""
    n = int(values.size)
    spread = float(values.std(ddof=1)) / float(np.sqrt(n)) if n > 1 else float("nan")
    return Estimate(float(values.mean()), spread, n)


def over_course(results: FloatArray) -> FloatArray:
    """(patients, arms, cycles, endpoints) -> (patients, arms, endpoints): sums, or whether any cycle had it."""
    total = results.sum(axis=2)
    for i, endpoint in enumerate(ENDPOINTS):
        if endpoint.course == "any":
            total[..., i] = results[..., i].max(axis=2)
    return np.asarray(total)


@dataclass(frozen=True)
class Comparison:
    """One endpoint: each arm's estimate, and each further arm minus the first within patients. `cycle` None: the course."""

    endpoint: str
    unit: str
    cycle: int | None
    arms: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]


def compare(results: FloatArray, arm_names: Sequence[str], cycle: int | None = None) -> tuple[Comparison, ...]:
    """Estimates of every endpoint from (patients, arms, cycles, endpoints): over the course, or of one cycle (from 1)."""
    values = over_course(results) if cycle is None else results[:, :, cycle - 1]
    found = []
    for i, endpoint in enumerate(ENDPOINTS):
        by_arm = {name: estimate(values[:, a, i]) for a, name in enumerate(arm_names)}
        differences = {name: estimate(values[:, a, i] - values[:, 0, i]) for a, name in enumerate(arm_names) if a > 0}
        found.append(Comparison(endpoint.name, endpoint.unit, cycle, by_arm, differences))
    return tuple(found)
