"""Twin experiments: evidence drawn from the very problem that an estimator solves, so that its intervals must cover.

Parameters come from a prior, nuisances and errors from the problem that `build_problem` makes of the plan of the measurement.
What an estimator then finds can be compared with the truth draw by draw: ranks of the truth among posterior draws are uniform
if and only if the posterior is right on average (Talts et al. 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tdt_core.assimilation.problem import Prior, build_problem
from tdt_core.kinetics import KineticModel
from tdt_core.twin import Evidence, Sample

FloatArray = npt.NDArray[np.float64]


def simulated(plan: Evidence, model: KineticModel, theta: FloatArray, rng: np.random.Generator) -> Evidence:
    """What the scans of `plan` would have shown of a patient with parameters theta (n,), errors and nuisances drawn.

    The activities of `plan` give regions, times, error budgets and scanners; their values are replaced, and must be positive.
    """
    n = len(tuple(model.parameters))
    problem = build_problem(Prior(tuple(model.parameters), np.asarray(theta), np.eye(n), "truth"), plan, model)
    nuisances = problem.mean[n:] + np.diag(problem.factor)[n:] * rng.standard_normal(problem.mean.size - n)
    log_activity = problem.predict(np.concatenate([theta, nuisances]))[0] + problem.sd * rng.standard_normal(problem.sd.size)
    seen = np.exp(log_activity)
    activities, samples = [], []
    for datum, value in zip(problem.data, seen.tolist(), strict=True):
        if isinstance(datum.source, Sample):
            samples.append(replace(datum.source, value=value))
        else:
            activities.append(replace(datum.source, activity_mbq=value, raw_activity_mbq=value))
    return replace(plan, activities=tuple(activities), samples=tuple(samples))


def rank(truth: float, draws: FloatArray) -> int:
    """Number of draws below the truth: 0 to their number."""
    return int((np.asarray(draws) < truth).sum())


def ranks(truth: Mapping[str, float], draws: Mapping[str, FloatArray], count: int) -> dict[str, int]:
    """Rank of each quantity's truth among `count` of its draws, taken evenly."""
    return {
        name: rank(true, draws[name][np.linspace(0, len(draws[name]) - 1, count).round().astype(int)])
        for name, true in truth.items()
    }
