"""The conventional estimators that the field uses, for comparison: one optimum, and the curvature there.

`least_squares` fits the data alone within `BOUND` prior sd, as a fit without a prior does: where the data say nothing, its
interval is as wide as the bounds. `differential_evolution` and `simulated_annealing` search the whole of J, the first without
gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize

from tdt_core.assimilation.target import BOUND, Fit, Target, gaussian, laplace

FloatArray = npt.NDArray[np.float64]


def least_squares(target: Target, rng: np.random.Generator) -> Fit:
    """Trust-region least squares without a prior; its variance in a direction is at most that of the bounds, BOUND^2 / 3."""
    if not target.sd.size:
        return laplace(target, np.zeros(target.size))

    def residuals(z: FloatArray) -> FloatArray:
        return np.minimum(target.residuals(z)[0], 1e6)  # the solver refuses infinities; this far away it turns back

    found = optimize.least_squares(
        residuals,
        np.zeros(target.size),
        lambda z: -target.jacobian(z),
        bounds=(-BOUND, BOUND),
        xtol=1e-6,
        ftol=1e-6,
        max_nfev=100,
    )
    h = target.jacobian(found.x)
    covariance = np.asarray(np.linalg.inv(h.T @ h + 3.0 / BOUND**2 * np.eye(target.size)), dtype=np.float64)
    value = float(target.objective(found.x)[0])
    return gaussian(target, found.x, covariance, h, objectives=(value,), notes={"at_bound": int(found.active_mask.any())})


def differential_evolution(target: Target, rng: np.random.Generator, solves: int = 20_000) -> Fit:
    """Differential evolution over J, a generation in one batch, with about `solves` solves."""
    population = max(5 * target.size, 50)

    def search(objective: Callable[[FloatArray], FloatArray]) -> Any:
        return optimize.differential_evolution(
            lambda x: objective(x.T),
            [(-BOUND, BOUND)] * target.size,
            init=np.clip(rng.standard_normal((population, target.size)), -BOUND, BOUND),
            maxiter=max(1, solves // population - 1),
            tol=1e-6,
            polish=False,
            updating="deferred",
            vectorized=True,
            rng=rng,
        )

    return _searched(target, search)


def simulated_annealing(target: Target, rng: np.random.Generator, solves: int = 5_000) -> Fit:
    """Generalised simulated annealing over J with local searches along its gradient; `solves` bounds the evaluations of J."""

    def slope(z: FloatArray) -> FloatArray:
        r = target.residuals(z)[0]
        return z - target.jacobian(z).T @ r if np.isfinite(r).all() else np.zeros(target.size)

    def search(objective: Callable[[FloatArray], FloatArray]) -> Any:
        return optimize.dual_annealing(
            lambda x: float(objective(x)[0]),
            [(-BOUND, BOUND)] * target.size,
            x0=np.zeros(target.size),
            maxfun=solves,
            maxiter=solves,
            minimizer_kwargs={"method": "L-BFGS-B", "jac": slope, "bounds": [(-BOUND, BOUND)] * target.size},
            rng=rng,
        )

    return _searched(target, search)


def _searched(target: Target, search: Callable[[Callable[[FloatArray], FloatArray]], Any]) -> Fit:
    if not target.sd.size:
        return laplace(target, np.zeros(target.size))
    found = search(lambda z: np.minimum(target.objective(z), 1e12))
    return laplace(target, np.asarray(found.x), objectives=(float(found.fun),))
