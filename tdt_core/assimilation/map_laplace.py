"""MAP in log space by Levenberg-Marquardt with several starts, Laplace covariance.

    J(z) = 1/2 |(y - h(m + L z)) / sd|^2 + 1/2 |z|^2,   theta = m + L z

so the prior is white and (H' H + I) is never singular. Draws are theta* + chol(C) z with C = L (H' H + I)^-1 L'.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg

from tdt_core.assimilation.problem import Problem
from tdt_core.errors import EstimationError, ModelError

FloatArray = npt.NDArray[np.float64]

MAX_ITERATIONS = 60
TOLERANCE = 1e-5
"""A step that lowers the objective by less (nats) is the last."""
DISTINCT_OPTIMUM = 3.0
"""A start that ends this much above the best objective (nats) counts as an optimum of its own."""


@dataclass(frozen=True, eq=False)
class Fit:
    """Optimum in theta, whitened Jacobian there, covariance factor, objective per start."""

    theta: FloatArray
    z: FloatArray
    cholesky: FloatArray
    whitened_jacobian: FloatArray
    residual: FloatArray
    objectives: tuple[float, ...]
    distinct_optima: int


def fit_map(problem: Problem, sd: FloatArray, rng: np.random.Generator, starts: int = 4) -> Fit:
    """Best of `starts` local optima: the prior mean and draws m + 0.7 L z.

    Parameters
    ----------
    sd : (d,) error of each datum; the caller widens outliers.

    Raises
    ------
    EstimationError : no start reached a finite objective.
    """
    p = problem.mean.size
    problem.predict(problem.mean)  # a model that cannot be solved at the prior mean says why; later refusals are steps too far
    best: tuple[float, FloatArray] | None = None
    objectives: list[float] = []
    for s in range(starts if problem.y.size else 1):
        z0 = np.zeros(p) if s == 0 else 0.7 * rng.standard_normal(p)
        value, z = _levenberg_marquardt(problem, sd, z0)
        objectives.append(value)
        if np.isfinite(value) and (best is None or value < best[0]):
            best = (value, z)
    if best is None:
        raise EstimationError("no start of the fit reached a finite objective", kind="estimation.diverged")
    z = best[1]
    theta = problem.mean + problem.factor @ z
    h = (problem.jacobian(theta) @ problem.factor) / sd[:, None]
    residual = (problem.y - problem.predict(theta)[0]) / sd
    precision = h.T @ h + np.eye(p)
    inverse_factor = np.linalg.inv(np.linalg.cholesky(precision))
    covariance = problem.factor @ (inverse_factor.T @ inverse_factor) @ problem.factor.T
    cholesky = np.linalg.cholesky(covariance + 1e-14 * np.eye(p))
    worse = sum(1 for v in objectives if np.isfinite(v) and v - best[0] >= DISTINCT_OPTIMUM)
    return Fit(theta, z, cholesky, h, residual, tuple(objectives), 1 + worse)


def _levenberg_marquardt(problem: Problem, sd: FloatArray, z: FloatArray) -> tuple[float, FloatArray]:
    damping = 1e-3
    residual = _residual(problem, sd, z)
    value = 0.5 * float(residual @ residual + z @ z)
    if not np.isfinite(value):
        return np.inf, z
    for _ in range(MAX_ITERATIONS):
        h = (problem.jacobian(problem.mean + problem.factor @ z) @ problem.factor) / sd[:, None]
        precision = h.T @ h + np.eye(z.size)
        gradient = z - h.T @ residual
        while True:
            damped = precision + damping * np.diag(np.diag(precision))
            step = -linalg.solve(damped, gradient, assume_a="pos", check_finite=False)
            trial = _residual(problem, sd, z + step)
            new = 0.5 * float(trial @ trial + (z + step) @ (z + step))
            if np.isfinite(new) and new <= value:
                break
            damping *= 5.0
            if damping > 1e6:
                return value, z
        drop, z, residual, value = value - new, z + step, trial, new
        damping = max(damping / 5.0, 1e-9)
        if drop < TOLERANCE:
            break
    return value, z


def _residual(problem: Problem, sd: FloatArray, z: FloatArray) -> FloatArray:
    """Whitened residual; infinite where the model has no solution, so that a step there is refused."""
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            return np.asarray((problem.y - problem.predict(problem.mean + problem.factor @ z)[0]) / sd)
        except (EstimationError, ModelError):
            return np.full(problem.y.size, np.inf)
