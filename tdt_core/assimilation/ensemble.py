"""Ensemble smoothers: no gradients, every iteration is one batch of solves.

Members are white parameters z with predictions g = h / sd and data d = y / sd, so the error covariance is the identity.

ES-MDA (Emerick and Reynolds 2013): the data are assimilated several times, their variance inflated by alpha, sum 1/alpha = 1,

    z_j += C_zg (C_gg + alpha I)^-1 (d + sqrt(alpha) e_j - g_j),   fresh e_j each time.

Iterative ensemble smoother in the space of the members (Raanes, Stordal and Evensen 2019; Evensen et al. 2019):
z_j = z0_j + A w_j with A the prior anomalies. w minimises 1/2 |w_j|^2 + 1/2 |d + e_j - g(z_j)|^2 by Gauss-Newton, with the mean
sensitivity of the ensemble as its gradient.

Neither has guarantees off the Gauss-linear case. Members are kept within `BOUND` prior sd; a member without a solution is left
out and counted, never replaced.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import linalg

from tdt_core.assimilation.target import BOUND, Fit, Target, check_members, sampled

FloatArray = npt.NDArray[np.float64]

MEMBERS, MEMBERS_PER_PARAMETER = 500, 10


def ensemble_size(target: Target, members: int | None) -> int:
    """The given number, or at least 500 and ten for each parameter: smaller ensembles are too sure."""
    return members or max(MEMBERS, MEMBERS_PER_PARAMETER * target.size)


def es_mda(target: Target, rng: np.random.Generator, members: int | None = None, steps: int = 4) -> Fit:
    """Ensemble smoother with multiple data assimilation: `steps` equal inflations."""
    z = rng.standard_normal((ensemble_size(target, members), target.size))
    failed = 0
    for _ in range(steps if target.sd.size else 0):
        misfit, z, lost = _solved(target, z)
        failed += lost
        noisy = misfit + np.sqrt(steps) * rng.standard_normal(misfit.shape)
        n = len(z) - 1
        g = misfit.mean(axis=0) - misfit  # anomalies of g: residuals are d - g
        gain = linalg.solve(g.T @ g / n + steps * np.eye(g.shape[1]), (g.T @ (z - z.mean(axis=0))) / n, assume_a="pos")
        z = np.clip(z + noisy @ gain, -BOUND, BOUND)
    _, z, lost = _solved(target, z)
    return sampled(target, z, notes={"members": len(z), "failed_members": failed + lost})


def ies(target: Target, rng: np.random.Generator, members: int | None = None, iterations: int = 8, step: float = 0.6) -> Fit:
    """Iterative ensemble smoother: Gauss-Newton steps of length `step` in the space of the members."""
    z0 = rng.standard_normal((ensemble_size(target, members), target.size))
    _, z0, failed = _solved(target, z0)  # the space must hold no member that has no solution from the start
    n = len(z0)
    root = np.sqrt(n - 1)
    anomalies = (z0 - z0.mean(axis=0)) / root
    noise = rng.standard_normal((n, target.sd.size))
    noise -= noise.mean(axis=0)
    w = np.zeros((n, n))
    z = z0
    for _ in range(iterations if target.sd.size else 0):
        misfit = target.residuals(z)
        bad = ~np.isfinite(misfit).all(axis=1)
        failed += int(bad.sum())
        check_members(int((~bad).sum()))
        misfit[bad] = misfit[~bad].mean(axis=0)  # steps as the others do on average, and is solved again
        g = (misfit.mean(axis=0) - misfit) / root
        # anomalies of the predictions, turned back to those of the prior ensemble
        mixing = np.eye(n) + (w - w.mean(axis=0)) / root
        sensitivity = linalg.solve(mixing, g)
        inner = sensitivity.T @ sensitivity + np.eye(g.shape[1])
        wanted = linalg.solve(inner, (w @ sensitivity + misfit + noise).T, assume_a="pos").T @ sensitivity.T
        w += step * (wanted - w)
        z = np.clip(z0 + w @ anomalies, -BOUND, BOUND)
    _, z, lost = _solved(target, z)
    return sampled(target, z, notes={"members": len(z), "failed_members": failed + lost})


def _solved(target: Target, z: FloatArray) -> tuple[FloatArray, FloatArray, int]:
    """Residuals and members that have a solution, and how many have none. Raises EstimationError with fewer than two."""
    misfit = target.residuals(z)
    good = np.isfinite(misfit).all(axis=1)
    check_members(int(good.sum()))
    return misfit[good], z[good], int((~good).sum())
