"""Tempered sequential Monte Carlo with as many moves as it takes.

Particles go from the prior (temperature t = 0) to the posterior (t = 1) along exp(-t Phi(z)) N(z; 0, I), Phi the data part of
J. Each step raises t as far as the effective sample size stays above a share, resamples, and moves the particles by
preconditioned Crank-Nicolson steps about a Gaussian fitted to them (Rudolf and Sprungk 2018):

    z' = m + sqrt(1 - b^2) (z - m) + b C^1/2 e,   accepted with min(1, target(z') N(z; m, C) / (target(z) N(z'; m, C)))

Moves go on until the particles have gone, on average, `MIXED` of the squared distance between two independent members, or
`most_moves` is reached, which is noted: too few moves give intervals that are confident and wrong.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.optimize import brentq
from scipy.special import logsumexp

from tdt_core.assimilation.ensemble import ensemble_size
from tdt_core.assimilation.target import Fit, Target, sampled

FloatArray = npt.NDArray[np.float64]

KEEP = 0.5
"""Effective sample size after a rise in temperature, as a share of the particles."""
MIXED = 0.7
"""Correlation with the start of the moves that is low enough: 1 - MIXED."""
ACCEPTANCE = 0.3
NO_SOLUTION = 1e12


def smc(target: Target, rng: np.random.Generator, members: int | None = None, most_moves: int = 40) -> Fit:
    """Tempered sequential Monte Carlo over an ensemble of particles."""
    z = rng.standard_normal((ensemble_size(target, members), target.size))
    data = _data_part(target, z)
    temperature, stages, moves, short = 0.0, 0, 0, 0
    step = 0.5
    while temperature < 1.0 and target.sd.size:
        rise = _rise(data, 1.0 - temperature)
        temperature = min(1.0, temperature + rise)
        weight = np.exp(-rise * data - logsumexp(-rise * data))
        chosen = _systematic(weight, rng)
        z, data = z[chosen], data[chosen]
        z, data, step, made, mixed = _moved(target, z, data, temperature, step, most_moves, rng)
        stages, moves, short = stages + 1, moves + made, short + (not mixed)
    notes = {"members": len(z), "temperatures": stages, "moves": moves, "stages_not_mixed": short}
    return sampled(target, z, notes=notes)


def _data_part(target: Target, z: FloatArray) -> FloatArray:
    """(m,) Phi, half the squared residuals; `NO_SOLUTION` where there is none."""
    with np.errstate(over="ignore"):
        return np.minimum(0.5 * np.square(target.residuals(z)).sum(axis=1), NO_SOLUTION)


def _rise(data: FloatArray, most: float) -> float:
    """The rise in temperature that leaves the wanted effective sample size."""

    def excess(rise: float) -> float:
        log_weight = -rise * data
        log_ess = 2.0 * logsumexp(log_weight) - logsumexp(2.0 * log_weight)
        return float(log_ess - np.log(KEEP * len(data)))

    return most if excess(most) >= 0 else float(brentq(excess, 0.0, most, xtol=1e-10 * most))


def _systematic(weight: FloatArray, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Members by systematic resampling."""
    n = len(weight)
    edges = np.cumsum(weight)
    edges[-1] = 1.0
    return np.searchsorted(edges, (rng.random() + np.arange(n)) / n, side="right").clip(max=n - 1)


def _moved(
    target: Target, z: FloatArray, data: FloatArray, temperature: float, step: float, most: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, float, int, bool]:
    """Particles after their moves: places, data parts, step length, number of moves, and whether they are mixed."""
    centre = z.mean(axis=0)
    root = _root(z - centre)
    start = linalg.solve_triangular(root, (z - centre).T, lower=True).T
    u, density = start, _log_target(z, data, temperature) + 0.5 * np.square(start).sum(axis=1)
    spread = 2.0 * np.square(start - start.mean(axis=0)).sum(axis=1).mean()  # of two independent members
    for made in range(1, most + 1):
        trial = np.sqrt(1.0 - step**2) * u + step * rng.standard_normal(u.shape)
        there = centre + trial @ root.T
        inside = _data_part(target, there)
        log_ratio = _log_target(there, inside, temperature) + 0.5 * np.square(trial).sum(axis=1) - density
        accepted = np.log(rng.random(len(u))) < log_ratio
        u = np.where(accepted[:, None], trial, u)
        data = np.where(accepted, inside, data)
        density = np.where(accepted, density + log_ratio, density)
        step = float(np.clip(step * np.exp(accepted.mean() - ACCEPTANCE), 0.02, 0.98))
        if np.square(u - start).sum(axis=1).mean() >= MIXED * spread:
            return centre + u @ root.T, data, step, made, True
    return centre + u @ root.T, data, step, most, False


def _log_target(z: FloatArray, data: FloatArray, temperature: float) -> FloatArray:
    return np.asarray(-temperature * data - 0.5 * np.square(z).sum(axis=1))


def _root(anomalies: FloatArray) -> FloatArray:
    """Lower Cholesky factor of the ensemble's covariance, shrunk toward its diagonal by p / (p + n) to have full rank."""
    n, p = anomalies.shape
    covariance = anomalies.T @ anomalies / (n - 1)
    share = p / (p + n)
    return np.asarray(np.linalg.cholesky((1 - share) * covariance + (share * np.diag(covariance) + 1e-12) * np.eye(p)))
