"""Dose-rate linear-quadratic model: Lea-Catcheside factor, BED, EQD2.

Unrepaired damage dY/dt = R - mu Y, Y(0) = 0, mu = ln2 / T_rep;  Q = G D^2 = 2 int R Y dt;  BED = D + Q / (alpha/beta).
Sources: Dale 1985 (dose-rate BED), Lea and Catcheside 1942 (G), Carabe-Fernandez 2007 (RBEmax, RBEmin). Units: Gy, h.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tdt_core.errors import ModelError

FloatArray = npt.NDArray[np.float64]
LN2 = float(np.log(2.0))


def repair_rate(repair_half_time_h: float) -> float:
    """mu in 1/h. Raises ModelError unless the half-time is positive."""
    if not repair_half_time_h > 0:
        raise ModelError(f"repair half-time of {repair_half_time_h} h", expected="> 0", kind="model.repair")
    return LN2 / repair_half_time_h


def lea_catcheside(amplitudes: FloatArray, rates_per_h: FloatArray, repair_half_time_h: float) -> FloatArray:
    """G of R(t) = sum_k A_k exp(-l_k t), 0 to infinity; amplitudes may be negative (uptake). Shapes (..., k) -> (...).

    G = (2/D^2) sum_ij A_i A_j / ((l_i + l_j)(l_i + mu)), which has no pole at l_i = mu.
    """
    a, rates = np.asarray(amplitudes, dtype=float), np.asarray(rates_per_h, dtype=float)
    mu = repair_rate(repair_half_time_h)
    dose = (a / rates).sum(axis=-1)
    pairs = a[..., :, None] * a[..., None, :]
    sums = rates[..., :, None] + rates[..., None, :]
    q = 2.0 * (pairs / (sums * (rates[..., :, None] + mu))).sum(axis=(-2, -1))
    return np.asarray(q / dose**2)


def lea_catcheside_components(
    amplitudes: FloatArray, rates_per_h: FloatArray, weights: Sequence[float], repair_half_times_h: Sequence[float]
) -> FloatArray:
    """G with several repair components: sum of w_k G(mu_k). Raises ModelError unless the weights sum to one."""
    if abs(sum(weights) - 1.0) > 1e-9 or len(weights) != len(repair_half_times_h):
        raise ModelError(f"repair weights {tuple(weights)}", expected="one per half-time, sum 1", kind="model.repair")
    parts = [w * lea_catcheside(amplitudes, rates_per_h, t) for w, t in zip(weights, repair_half_times_h, strict=True)]
    return np.asarray(np.sum(parts, axis=0))


def lea_catcheside_constant(duration_h: float, repair_half_time_h: float) -> float:
    """G of a constant dose rate over `duration_h`: 2/(mu T)^2 (mu T - 1 + exp(-mu T)); 1 in the acute limit."""
    x = repair_rate(repair_half_time_h) * duration_h
    if x < 1e-3:
        return float(1.0 - x / 3.0 + x**2 / 12.0)
    return float(2.0 / x**2 * (x - 1.0 + np.exp(-x)))


def quadratic_dose(times_h: FloatArray, rate: FloatArray, repair_half_time_h: float) -> tuple[FloatArray, FloatArray]:
    """D and Q = G D^2 of a sampled dose rate, continued by the exponential of its last interval.

    Parameters
    ----------
    times_h : (t,) ascending, t >= 3. rate : (..., t) >= 0, any unit per h; overlapping cycles and infusions included.

    Returns
    -------
    D, Q : (...) exact for rates that are exponential between samples; an interval with a zero end counts as its mean.

    Raises
    ------
    ModelError : times not ascending, negative or non-finite rates, or a curve that does not fall at its end.
    """
    t, r = np.asarray(times_h, dtype=float), np.asarray(rate, dtype=float)
    if t.ndim != 1 or t.size < 3 or (np.diff(t) <= 0).any() or r.shape[-1] != t.size:
        raise ModelError("a dose rate needs at least three ascending times, one per sample", kind="model.dose_rate")
    if not np.isfinite(r).all() or (r < 0).any():
        raise ModelError("a dose rate that is negative or not finite", expected=">= 0", kind="model.dose_rate")
    mu = repair_rate(repair_half_time_h)
    damage, dose, q = (np.zeros(r.shape[:-1]) for _ in range(3))
    k = np.zeros(r.shape[:-1])
    for i, h in enumerate(np.diff(t)):
        start, end = r[..., i], r[..., i + 1]
        both = (start > 0) & (end > 0)
        level = np.where(both, start, 0.5 * (start + end))
        k = np.where(both, np.log(np.where(both, start, 1.0) / np.where(both, end, 1.0)) / h, 0.0)
        k = np.where(np.abs(k - mu) < 1e-7 * mu, mu * (1.0 - 1e-7), k)
        once, twice, repaired = _mean_exp(k * h) * h, _mean_exp(2 * k * h) * h, _mean_exp((k + mu) * h) * h
        q += 2.0 * (damage * level * repaired + level**2 * (twice - repaired) / (mu - k))
        dose += level * once
        damage = damage * np.exp(-mu * h) + level * (np.exp(-k * h) - np.exp(-mu * h)) / (mu - k)
    last = r[..., -1]
    if ((last > 0) & (k <= 0)).any():
        raise ModelError("the dose rate does not fall at its end", remedy="sample it until it falls", kind="model.dose_rate")
    tail = np.where(last > 0, k, 1.0)
    q += 2.0 * (damage * last / (mu + tail) + last**2 / (2.0 * tail * (mu + tail)))
    return dose + last / tail, q


def lea_catcheside_sampled(times_h: FloatArray, rate: FloatArray, repair_half_time_h: float) -> FloatArray:
    """G of a sampled dose rate, (..., t) -> (...); see `quadratic_dose`. 1 where there is no dose."""
    dose, q = quadratic_dose(times_h, rate, repair_half_time_h)
    return np.asarray(np.where(dose > 0, q / np.where(dose > 0, dose, 1.0) ** 2, 1.0))


def bed(dose_gy: FloatArray | float, g: FloatArray | float, alpha_beta_gy: FloatArray | float) -> FloatArray:
    """Biologically effective dose D + G D^2 / (alpha/beta), Gy."""
    d = np.asarray(dose_gy, dtype=float)
    return np.asarray(d + np.asarray(g) * d**2 / alpha_beta_gy)


def bed_high_let(
    dose_gy: FloatArray | float, g: FloatArray | float, alpha_beta_gy: float, rbe_max: float, rbe_min: float = 1.0
) -> FloatArray:
    """BED of high-LET radiation: RBEmax D + RBEmin^2 G D^2 / (alpha/beta), Gy (low-LET alpha/beta)."""
    d = np.asarray(dose_gy, dtype=float)
    return np.asarray(rbe_max * d + rbe_min**2 * np.asarray(g) * d**2 / alpha_beta_gy)


def eqd2(bed_gy: FloatArray | float, alpha_beta_gy: float, fraction_gy: float = 2.0) -> FloatArray:
    """Equivalent dose in fractions of `fraction_gy`: BED / (1 + fraction / (alpha/beta)), Gy."""
    return np.asarray(np.asarray(bed_gy, dtype=float) / (1.0 + fraction_gy / alpha_beta_gy))


def dose_of_bed(bed_gy: FloatArray | float, g: FloatArray | float, alpha_beta_gy: float) -> FloatArray:
    """The absorbed dose whose BED is `bed_gy`: the positive root of D + G D^2 / (alpha/beta) = BED, Gy."""
    b = np.asarray(bed_gy, dtype=float)
    return np.asarray(2.0 * b / (1.0 + np.sqrt(1.0 + 4.0 * np.asarray(g) * b / alpha_beta_gy)))


def _mean_exp(x: FloatArray) -> FloatArray:
    """(1 - exp(-x)) / x, 1 at zero."""
    safe = np.where(np.abs(x) < 1e-8, 1.0, x)
    return np.asarray(np.where(np.abs(x) < 1e-8, 1.0 - 0.5 * x, -np.expm1(-safe) / safe))
