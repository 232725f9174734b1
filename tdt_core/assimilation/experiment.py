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

from tdt_core.assimilation.problem import Prior, Problem, build_problem
from tdt_core.kinetics import KineticModel
from tdt_core.twin import Evidence, Sample

FloatArray = npt.NDArray[np.float64]


def simulated(plan: Evidence, model: KineticModel, theta: FloatArray, rng: np.random.Generator) -> Evidence:
    """What the scans of `plan` would have shown of a patient with parameters theta (n,), errors and nuisances drawn.

    The activities of `plan` give regions, times, error budgets and scanners; their values are replaced, and must be positive.
    Of a sample below a limit the value of the plan is the limit: what is drawn above it is counted.
    """
    n = len(tuple(model.parameters))
    prior = Prior(tuple(model.parameters), np.asarray(theta), np.eye(n), "truth")
    problem = build_problem(prior, plan, model)
    nuisances = problem.mean[n:] + np.diag(problem.factor)[n:] * rng.standard_normal(problem.mean.size - n)
    there = np.concatenate([theta, nuisances])
    sd = build_problem(prior, as_expected(plan, problem, there), model).sd
    seen = np.exp(problem.predict(there)[0] + sd * rng.standard_normal(sd.size))
    activities, samples = [], []
    for datum, value in zip(problem.data, seen.tolist(), strict=True):
        if isinstance(datum.source, Sample):
            below = datum.below and value < datum.value
            samples.append(replace(datum.source, value=datum.value if below else value, below=below))
        else:
            activities.append(replace(datum.source, activity_mbq=value, raw_activity_mbq=value))
    return replace(plan, activities=tuple(activities), samples=tuple(samples))


def as_expected(plan: Evidence, problem: Problem, theta: FloatArray) -> Evidence:
    """The plan of `problem` with the values that its samples have at theta (p,), so that an absolute error has its relative
    size."""
    if not any(s.absolute_sd for s in plan.samples):
        return plan
    log_value = dict(zip((id(d.source) for d in problem.data), problem.predict(theta)[0], strict=True))
    samples = tuple(replace(s, value=float(np.exp(log_value[id(s)]))) if id(s) in log_value else s for s in plan.samples)
    return replace(plan, samples=samples)


def rank(truth: float, draws: FloatArray) -> int:
    """Number of draws below the truth: 0 to their number."""
    return int((np.asarray(draws) < truth).sum())


def ranks(truth: Mapping[str, float], draws: Mapping[str, FloatArray], count: int) -> dict[str, int]:
    """Rank of each quantity's truth among `count` of its draws, taken evenly."""
    return {
        name: rank(true, draws[name][np.linspace(0, len(draws[name]) - 1, count).round().astype(int)])
        for name, true in truth.items()
    }
