"""Tempered sequential Monte Carlo with as many moves as it takes.

Particles go from the prior (temperature t = 0) to the posterior (t = 1) along exp(-t Phi(z)) N(z; 0, I), Phi the data part of
J. Each step raises t as far as the effective sample size stays above a share, resamples, and moves the particles
(`crank_nicolson`) about a Gaussian fitted to them. Moves go on until the particles are mixed, or `most_moves` is reached, which
is noted: too few moves give intervals that are confident and wrong.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.optimize import brentq

from tdt_core.assimilation.crank_nicolson import Moved, crank_nicolson
from tdt_core.assimilation.ensemble import ensemble_size
from tdt_core.assimilation.target import Fit, Target, sampled

FloatArray = npt.NDArray[np.float64]

KEEP = 0.5
"""Effective sample size after a rise in temperature, as a share of the particles."""
MIXED = 0.7
"""Share of the squared distance between independent particles that moves must go: a correlation of 0.3 with their start."""
NO_SOLUTION = 1e12
"""Half the squared residuals (nats) of a place without a solution: finite, so that weights stay numbers, and never drawn."""


def smc(target: Target, rng: np.random.Generator, members: int | None = None, most_moves: int = 40) -> Fit:
    """Tempered sequential Monte Carlo over an ensemble of particles."""
    z = rng.standard_normal((ensemble_size(target, members), target.size))
    data = _data_part(target, z)
    temperature, stages, moves, short = 0.0, 0, 0, 0
    step = 0.5
    while temperature < 1.0 and target.sd.size:
        rise = _rise(data, 1.0 - temperature)
        temperature = min(1.0, temperature + rise)
        chosen = resampled(data, rise, rng)
        z, found = _moved(target, z[chosen], data[chosen], temperature, step, most_moves, rng)
        data, step = found.carried, found.step
        stages, moves, short = stages + 1, moves + found.made, short + (not found.mixed)
    notes = {"members": len(z), "temperatures": stages, "moves": moves, "stages_not_mixed": short}
    return sampled(target, z, notes=notes)


def _data_part(target: Target, z: FloatArray) -> FloatArray:
    """(m,) Phi, half the squared residuals; `NO_SOLUTION` where there is none."""
    with np.errstate(over="ignore"):
        return np.minimum(0.5 * np.square(target.residuals(z)).sum(axis=1), NO_SOLUTION)


def _rise(data: FloatArray, most: float) -> float:
    """The rise in temperature that leaves the wanted effective sample size."""

    def excess(rise: float) -> float:
        weight = _weights(data, rise)
        return float(2.0 * np.log(weight.sum()) - np.log(weight @ weight) - np.log(KEEP * len(data)))

    return most if excess(most) >= 0 else float(brentq(excess, 0.0, most, xtol=1e-10 * most))


def _weights(data: FloatArray, rise: float) -> FloatArray:
    """(m,) exp(-rise data), 1 at the least of the data."""
    return np.asarray(np.exp(-rise * (data - data.min())))


def resampled(data: FloatArray, rise: float, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """(m,) members by systematic resampling with weights exp(-rise data)."""
    n = len(data)
    edges = np.cumsum(_weights(data, rise))
    edges /= edges[-1]
    return np.searchsorted(edges, (rng.random() + np.arange(n)) / n, side="right").clip(max=n - 1)


def _moved(
    target: Target, z: FloatArray, data: FloatArray, temperature: float, step: float, most: int, rng: np.random.Generator
) -> tuple[FloatArray, Moved]:
    """Particles after their moves about a Gaussian fitted to them; their data parts (m,) are carried."""
    centre = z.mean(axis=0)
    root = _root(z - centre)

    def weight(u: FloatArray, there: FloatArray, data: FloatArray) -> FloatArray:
        return np.asarray(-temperature * data - 0.5 * np.square(there).sum(axis=1) + 0.5 * np.square(u).sum(axis=1))

    def evaluate(u: FloatArray) -> tuple[FloatArray, FloatArray]:
        there = centre + u @ root.T
        inside = _data_part(target, there)
        return weight(u, there, inside), inside

    u = linalg.solve_triangular(root, (z - centre).T, lower=True).T
    known = weight(u, z, data), data
    found = crank_nicolson(evaluate, u, rng, mixed=MIXED, most=most, step=step, known=known)
    return centre + found.u @ root.T, found


def _root(anomalies: FloatArray) -> FloatArray:
    """Lower Cholesky factor of the ensemble's covariance, shrunk toward its diagonal by p / (p + n) to have full rank."""
    n, p = anomalies.shape
    covariance = anomalies.T @ anomalies / (n - 1)
    share = p / (p + n)
    return np.asarray(np.linalg.cholesky((1 - share) * covariance + (share * np.diag(covariance) + 1e-12) * np.eye(p)))
