"""Multiple elastic scattering: Goudsmit and Saunderson's exact distribution for the screened Rutherford cross section.

The cross section has Moliere's screening and Z (Z + 1), no spin correction. With eta the screening parameter and K the path in
first transport mean free paths, the distribution depends on (eta, K) alone, so that one table serves all media. It is tabled
as quantiles of t in w = (1 - cos) / 2 = a t / (1 + a - t), which is nearly uniform in t, and keeps the exact mean of w.
Below `PLURAL` collisions the transport samples them one by one.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import njit
from scipy.optimize import brentq

from tdt_core.dosimetry.montecarlo.composition import Medium
from tdt_core.dosimetry.montecarlo.grid import (
    AVOGADRO,
    CLASSICAL_RADIUS_CM,
    ELECTRON_REST_KEV,
    FINE_STRUCTURE,
    beta_squared,
)
from tdt_core.dosimetry.units import FloatArray

QUANTILES = 65
PLURAL = 12.0
"""Mean number of collisions below which they are sampled one by one."""

K_OCTAVES, K_PER_OCTAVE = 8, 4
ETA_LOWEST, ETA_RATIO, ETA_NODES = 1.5e-7, 3.0, 13
_FEWEST = 2.5
_THOMAS_FERMI_KEV = 3.7289 / 0.88534


def screening(medium: Medium, energy_kev: FloatArray) -> FloatArray:
    """Moliere's screening parameter eta of a medium, the elements weighted as they scatter."""
    tau = energy_kev / ELECTRON_REST_KEV
    momentum2 = ELECTRON_REST_KEV**2 * tau * (tau + 2.0)
    weight = medium.pair_weights / medium.pair_weights.sum()
    log_element = np.log(medium.z ** (2.0 / 3.0) * (1.13 + 3.76 * (FINE_STRUCTURE * medium.z) ** 2))
    return np.asarray(np.exp(float((weight * log_element).sum())) * _THOMAS_FERMI_KEV**2 / (4.0 * momentum2))


def first_moment(eta: FloatArray) -> FloatArray:
    """Mean of 1 - cos in one collision."""
    return np.asarray(2.0 * eta * ((1.0 + eta) * np.log1p(1.0 / eta) - 1.0))


def transport_cm2_g(medium: Medium, energy_kev: FloatArray) -> FloatArray:
    """First transport cross section per gram: the inverse of the path over which the mean cosine falls to 1/e."""
    tau = energy_kev / ELECTRON_REST_KEV
    p_beta_c = ELECTRON_REST_KEV * np.sqrt(tau * (tau + 2.0)) * np.sqrt(beta_squared(energy_kev))
    eta = screening(medium, energy_kev)
    rutherford = (CLASSICAL_RADIUS_CM * ELECTRON_REST_KEV / p_beta_c) ** 2 * np.pi / (eta * (1.0 + eta))
    return np.asarray(AVOGADRO * float(medium.pair_weights.sum()) * rutherford * first_moment(eta))


def k_nodes() -> FloatArray:
    """(nodes,) values of K: octaves from 2^-8 to 1 in four equal steps."""
    octave, step = np.divmod(np.arange(K_OCTAVES * K_PER_OCTAVE + 1), K_PER_OCTAVE)
    return np.asarray(2.0 ** (octave - K_OCTAVES) * (1.0 + step / K_PER_OCTAVE))


def eta_nodes() -> FloatArray:
    """(nodes,) screening parameters."""
    return np.asarray(ETA_LOWEST * ETA_RATIO ** np.arange(ETA_NODES))


@njit(cache=True, nogil=True, error_model="numpy")
def single_moments(eta: float, terms: int) -> FloatArray:
    """(terms,) Legendre moments of one collision, l (Q_{l-1} - x Q_l) at x = 1 + 2 eta, by backward recurrence of Q_l."""
    x = 1.0 + 2.0 * eta
    q, logs = np.zeros(terms), np.zeros(terms)
    upper, current, scale = 0.0, 1e-280, 0.0
    for n in range(terms + int(40.0 / np.sqrt(eta)) + 50, 0, -1):
        upper, current = current, ((2 * n + 1) * x * current - (n + 1) * upper) / n
        if current > 1e200:
            upper, current, scale = upper * 1e-200, current * 1e-200, scale + 200.0 * np.log(10.0)
        if n - 1 < terms:
            q[n - 1], logs[n - 1] = current, scale
    unit = 0.5 * np.log1p(1.0 / eta) / q[0]
    moments = np.ones(terms)
    for n in range(1, terms):
        moments[n] = n * (q[n - 1] * np.exp(logs[n - 1] - logs[0]) - x * q[n] * np.exp(logs[n] - logs[0])) * unit
    return moments


def distribution(eta: float, k: float, w: FloatArray) -> FloatArray:
    """Probability that (1 - cos) / 2 is at most w after a path K, by the Goudsmit-Saunderson series."""
    collisions = k / float(first_moment(np.array([eta]))[0])
    single = single_moments(eta, int(min(30.0 / np.sqrt(eta), 40.0 / np.sqrt(eta) / np.sqrt(max(collisions, 1.0)) + 60.0)) + 10)
    nothing = np.exp(-collisions)
    # None and one collision apart, in closed form: what is left converges fast
    weight = np.exp(-collisions * (1.0 - single)) - nothing * (1.0 + collisions * single)
    out = nothing * (1.0 + collisions * w * (1.0 + eta) / (w + eta)) + weight[0] * w
    return out + _legendre_integral(weight, w)


@njit(cache=True, nogil=True, error_model="numpy")
def _legendre_integral(weight: FloatArray, w: FloatArray) -> FloatArray:
    """Sum over l >= 1 of weight_l (l + 1/2) times the integral of P_l from mu = 1 - 2 w to 1."""
    out = np.zeros_like(w)
    for i in range(w.size):
        mu, below, current, total = 1.0 - 2.0 * w[i], 1.0, 1.0 - 2.0 * w[i], 0.0
        for n in range(1, weight.size):
            above = ((2 * n + 1) * mu * current - n * below) / (n + 1)
            total += weight[n] * (below - above)
            below, current = current, above
        out[i] = 0.5 * total
    return out


def _mean(a: float, t: FloatArray) -> float:
    """Mean of w over quantiles t that are joined by straight lines."""
    # integral of a t / (1 + a - t) is -a t - a (1 + a) ln(1 + a - t)
    step = np.maximum(np.diff(t), 1e-12)
    inner = -a * step + a * (1.0 + a) * np.log((1.0 + a - t[:-1]) / (1.0 + a - t[:-1] - step))
    return float((inner / step).mean())


@cache
def quantile_table() -> tuple[FloatArray, FloatArray]:
    """(eta, K) shape parameter a and (eta, K, QUANTILES) t; a is 0 where the transport samples single collisions."""
    shape_a = np.zeros((ETA_NODES, k_nodes().size))
    table = np.zeros((*shape_a.shape, QUANTILES))
    probability = np.linspace(0.0, 1.0, QUANTILES)
    fine = np.unique(np.concatenate([np.linspace(0.0, 1.0, 600), 1.0 - np.geomspace(1e-5, 1e-2, 60)]))
    for i, eta in enumerate(eta_nodes()):
        for j, k in enumerate(k_nodes()):
            if k < _FEWEST * float(first_moment(np.array([eta]))[0]):
                continue
            mean = -np.expm1(-k) / 2.0

            def miss(a: float, mean: float = mean) -> float:
                return a * ((1.0 + a) * np.log1p(1.0 / a) - 1.0) - mean

            a = brentq(miss, 1e-9, 1e4)
            w = a * fine / (1.0 + a - fine)
            cdf = np.maximum.accumulate(np.clip(distribution(eta, k, w), 0.0, 1.0))
            cdf[-1] = 1.0
            keep = np.concatenate([[True], np.diff(cdf) > 0.0])
            t = np.interp(probability, cdf[keep], fine[keep])
            t[0], t[-1] = 0.0, 1.0
            shape_a[i, j] = brentq(lambda a, t=t, mean=mean: _mean(a, t) - mean, a / 4.0, a * 4.0)
            table[i, j] = t
    return shape_a, table
