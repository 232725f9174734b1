"""MAP in log space by Levenberg-Marquardt with several starts, Laplace covariance.

The prior is white in z and (H' H + I) never singular. Draws are theta* + chol(C) z with C = L (H' H + I)^-1 L'.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import linalg

from tdt_core.assimilation.target import Fit, Target, laplace
from tdt_core.errors import EstimationError

FloatArray = npt.NDArray[np.float64]

MAX_ITERATIONS = 60
TOLERANCE = 1e-5
"""A step that lowers the objective by less (nats) is the last."""
DISTINCT_OPTIMUM = 3.0
"""A start that ends this much above the best objective (nats) counts as an optimum of its own."""


def fit_map(target: Target, rng: np.random.Generator, starts: int = 4) -> Fit:
    """Best of `starts` local optima: the prior mean and draws m + 0.7 L z.

    Raises
    ------
    EstimationError : no start reached a finite objective.
    """
    p = target.size
    # a model without solution at the prior mean says why; later ones are steps too far
    target.problem.predict(target.problem.mean)
    best: tuple[float, FloatArray] | None = None
    objectives: list[float] = []
    for s in range(starts if target.sd.size else 1):
        z0 = np.zeros(p) if s == 0 else 0.7 * rng.standard_normal(p)
        value, z = descend(target, z0)
        objectives.append(value)
        if np.isfinite(value) and (best is None or value < best[0]):
            best = (value, z)
    if best is None:
        raise EstimationError("no start of the fit reached a finite objective", kind="estimation.diverged")
    worse = sum(1 for v in objectives if np.isfinite(v) and v - best[0] >= DISTINCT_OPTIMUM)
    return laplace(target, best[1], objectives=tuple(objectives), distinct_optima=1 + worse)


def descend(target: Target, z: FloatArray) -> tuple[float, FloatArray]:
    """Levenberg-Marquardt from z (p,) to a local optimum: its objective and place; infinite where the start has no solution."""
    damping = 1e-3
    residual = target.residuals(z)[0]
    value = 0.5 * float(residual @ residual + z @ z)
    if not np.isfinite(value):
        return np.inf, z
    for _ in range(MAX_ITERATIONS):
        h = target.jacobian(z)
        precision = h.T @ h + np.eye(z.size)
        gradient = z - h.T @ residual
        while True:
            damped = precision + damping * np.diag(np.diag(precision))
            step = -linalg.solve(damped, gradient, assume_a="pos", check_finite=False)
            trial = target.residuals(z + step)[0]
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
