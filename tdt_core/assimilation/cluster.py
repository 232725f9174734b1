"""Cluster Gauss-Newton (Aoki et al. 2020): many fits at once from starts spread over the prior, to see ridges and optima.

Every member takes damped Gauss-Newton steps with a Jacobian regressed on its neighbours' solves, weighted by nearness, so an
iteration is one batch and no gradient is asked of the model. It finds many parameter sets that fit, not a posterior: draws are
those of the curvature at the best one. What it adds are the members near the best J (within `NEAR` nats) and their spread.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import linalg

from tdt_core.assimilation.target import BOUND, Fit, Target, check_members, laplace

FloatArray = npt.NDArray[np.float64]

MEMBERS = 250
NEAR = 3.0
"""Nats above the best objective within which a member fits as well. Assumed."""
FAR = 1.0
"""Members this far apart, in units of the root mean square distance, weigh e^-1 of near ones. Assumed."""


def cluster_gauss_newton(target: Target, rng: np.random.Generator, members: int = MEMBERS, iterations: int = 25) -> Fit:
    """Best of a cluster of fits with the Laplace covariance there, and how the others lie."""
    if not target.sd.size:
        return laplace(target, np.zeros(target.size))
    z = rng.standard_normal((members, target.size))
    r = target.residuals(z)
    good = np.isfinite(r).all(axis=1)
    check_members(int(good.sum()))
    z, r = z[good], r[good]
    value = _objective(z, r)
    damping = np.full(len(z), 0.1)
    for _ in range(iterations):
        trial = np.clip(z + _steps(z, r, damping), -BOUND, BOUND)
        there = target.residuals(trial)
        new = _objective(trial, there)
        better = new < value
        z, r, value = np.where(better[:, None], trial, z), np.where(better[:, None], there, r), np.where(better, new, value)
        damping = np.clip(np.where(better, damping / 5.0, damping * 5.0), 1e-6, 1e6)
        if not better.any() and damping.min() > 1e3:
            break
    best = int(np.argmin(value))
    near = value - value[best] < NEAR
    notes = {
        "members": len(z),
        "members_near_best": int(near.sum()),
        "spread_near_best": float(z[near].std(axis=0).max()),
    }
    return laplace(target, z[best], objectives=tuple(np.sort(value).tolist()), notes=notes)


def _objective(z: FloatArray, r: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        return np.asarray(0.5 * (np.square(r).sum(axis=1) + np.square(z).sum(axis=1)))


def _steps(z: FloatArray, r: FloatArray, damping: FloatArray) -> FloatArray:
    """(m, p) damped Gauss-Newton steps, the Jacobian of each member regressed on all members weighted by nearness."""
    m, p = z.shape
    between = np.square(z[:, None] - z[None]).sum(axis=-1)
    scale = np.maximum(between.mean(), 1e-12)
    out = np.empty_like(z)
    for j in range(m):
        weight = np.exp(-between[j] / (FAR * scale))
        dz, dr = z - z[j], r - r[j]
        gram = (dz * weight[:, None]).T @ dz
        ridge = 1e-6 * np.trace(gram) / p + 1e-12
        slope = linalg.solve(gram + ridge * np.eye(p), (dz * weight[:, None]).T @ dr, assume_a="pos")  # (p, d) d r / d z
        normal = slope @ slope.T + np.eye(p)
        gradient = slope @ r[j] + z[j]
        out[j] = -linalg.solve(normal + damping[j] * np.diag(np.diag(normal)), gradient, assume_a="pos")
    return out
