"""Compiled parts of the voxel-wise fit: one voxel's two parameters, the spread between voxels, integrals per voxel.

A voxel's activity at scan k is u[k] = exp(alpha + l[k] - d x[k]), with l the logarithm of its region's curve over that curve's
value at a reference time, x the hours after that time, and d = r exp(eps) - r the voxel's rate less its region's rate r. A
normal prior on (alpha, eps) has the mean `mu` and the precision `p` = (p00, p01, p11).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_ITERATIONS = 25
_STEP = 1.5  # largest step of alpha or eps, so that the exponential stays in reach of its linearisation
_NOTHING = -60.0  # ln amplitude of a voxel without activity


@njit(cache=True, nogil=True, error_model="numpy")
def _objective(y, w, logs, hours, rate, alpha, eps, mu, p, u):  # type: ignore[no-untyped-def]
    """Misfit of data and prior; leaves the model's activity in u."""
    d = rate * math.expm1(eps)
    total = 0.0
    for k in range(len(y)):
        u[k] = math.exp(alpha + logs[k] - d * hours[k])
        r = y[k] - u[k]
        total += w[k] * r * r
    a, e = alpha - mu[0], eps - mu[1]
    return total + p[0] * a * a + 2.0 * p[1] * a * e + p[2] * e * e


@njit(cache=True, nogil=True, error_model="numpy")
def _derivatives(y, w, hours, k_now, u):  # type: ignore[no-untyped-def]
    """Information of the data about (alpha, eps), and the gradient."""
    h00 = h01 = h11 = g0 = g1 = 0.0
    for k in range(len(y)):
        wu = w[k] * u[k]
        s, r = -k_now * hours[k], y[k] - u[k]
        h00 += wu * u[k]
        h01 += wu * u[k] * s
        h11 += wu * u[k] * s * s
        g0 += wu * r
        g1 += wu * r * s
    return h00, h01, h11, g0, g1


@njit(cache=True, nogil=True, error_model="numpy")
def _start(y, w, logs, hours, rate, eps, mu, p, u):  # type: ignore[no-untyped-def]
    """ln amplitude to start from at a given eps: between what data and prior say, by their information; NaN without either."""
    top = bottom = 0.0
    d = rate * math.expm1(eps)
    for k in range(len(y)):
        u[k] = math.exp(logs[k] - d * hours[k])
        top, bottom = top + w[k] * y[k] * u[k], bottom + w[k] * u[k] * u[k]
    if top <= 0.0:
        return math.nan if p[0] == 0.0 else mu[0] - 1.0
    alpha = math.log(top / bottom)
    if p[0] == 0.0:
        return alpha
    inform = top * top / bottom
    return (inform * alpha + p[0] * mu[0]) / (inform + p[0])


@njit(cache=True, nogil=True, error_model="numpy")
def fit_voxel(y, w, logs, hours, rate, low, high, mu, p, u, trial, out):  # type: ignore[no-untyped-def]
    """Posterior mode of one voxel; damped Gauss-Newton inside low <= eps <= high.

    y, w : (scans,) activity and inverse noise variance; u, trial : (scans,) work space. out : (7,) alpha, eps, information of
    the data (three numbers), and their pull (two numbers), information @ mode + gradient: what the linearised data say.
    """
    eps = min(max(mu[1], low), high)
    alpha = _start(y, w, logs, hours, rate, eps, mu, p, u)
    if math.isnan(alpha):
        out[:] = 0.0
        out[0], out[1] = _NOTHING, eps
        return
    damping = 1e-4
    best = _objective(y, w, logs, hours, rate, alpha, eps, mu, p, u)
    for _ in range(_ITERATIONS):
        h00, h01, h11, g0, g1 = _derivatives(y, w, hours, rate * math.exp(eps), u)
        a, e = alpha - mu[0], eps - mu[1]
        q0, q1 = g0 - p[0] * a - p[1] * e, g1 - p[1] * a - p[2] * e
        a00, a01, a11 = h00 + p[0], h01 + p[1], h11 + p[2]
        held = (eps <= low and q1 < 0.0) or (eps >= high and q1 > 0.0)
        moved, size, gained = False, 0.0, 0.0
        for _ in range(8):
            m00, m11 = a00 * (1.0 + damping), a11 * (1.0 + damping)
            det = m00 * m11 - a01 * a01
            if held or det <= 1e-12 * m00 * m11 or m11 <= 0.0:
                da, de = q0 / m00, 0.0
            else:
                da, de = (m11 * q0 - a01 * q1) / det, (m00 * q1 - a01 * q0) / det
            size = max(abs(da), abs(de))
            if size > _STEP:
                da, de = da * _STEP / size, de * _STEP / size
            wanted = min(max(eps + de, low), high)
            now = _objective(y, w, logs, hours, rate, alpha + da, wanted, mu, p, trial)
            if now <= best:
                moved, gained, damping = True, best - now, damping * 0.1
                alpha, eps, best = alpha + da, wanted, now
                for k in range(len(y)):
                    u[k] = trial[k]
                break
            damping = max(damping, 1e-4) * 10.0
        if not moved or size < 1e-4 or (gained < 1e-7 and size < 1e-2) or alpha < _NOTHING:
            break
    h00, h01, h11, g0, g1 = _derivatives(y, w, hours, rate * math.exp(eps), u)
    out[0], out[1], out[2], out[3], out[4] = alpha, eps, h00, h01, h11
    out[5] = h00 * alpha + h01 * eps + g0
    out[6] = h01 * alpha + h11 * eps + g1


@njit(cache=True, nogil=True, error_model="numpy")
def fit_voxels(scans, sd, voxels, logs, hours, rate, low, high, mu, p, out):  # type: ignore[no-untyped-def]
    """`fit_voxel` for the flat indices `voxels`; scans, sd (scans, voxels of the grid); out (voxels, 7)."""
    n = len(logs)
    y, w, u, trial = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for i in range(len(voxels)):
        v = voxels[i]
        for k in range(n):
            y[k] = scans[k, v]
            w[k] = 1.0 / (float(sd[k, v]) * float(sd[k, v]))
        fit_voxel(y, w, logs, hours, rate, low, high, mu, p, u, trial, out[i])


@njit(cache=True, nogil=True, error_model="numpy")
def spread(fits, mu, cov, iterations, tolerance):  # type: ignore[no-untyped-def]
    """EM for the mean (2,) and covariance (3: 00, 01, 11) between voxels from linearised data, in place; steps taken.

    The data of a voxel enter as information and pull, so voxels that say nothing about a parameter do no harm.
    """
    n = len(fits)
    for step in range(iterations):
        det = cov[0] * cov[2] - cov[1] * cov[1]
        p0, p1, p2 = cov[2] / det, -cov[1] / det, cov[0] / det
        b0, b1 = p0 * mu[0] + p1 * mu[1], p1 * mu[0] + p2 * mu[1]
        s0 = s1 = s00 = s01 = s11 = 0.0
        for v in range(n):
            a00, a01, a11 = fits[v, 2] + p0, fits[v, 3] + p1, fits[v, 4] + p2
            d = a00 * a11 - a01 * a01
            c0, c1 = fits[v, 5] + b0, fits[v, 6] + b1
            m0, m1 = (a11 * c0 - a01 * c1) / d - mu[0], (a00 * c1 - a01 * c0) / d - mu[1]
            s0, s1 = s0 + m0, s1 + m1
            s00, s01, s11 = s00 + m0 * m0 + a11 / d, s01 + m0 * m1 - a01 / d, s11 + m1 * m1 + a00 / d
        s0, s1 = s0 / n, s1 / n
        new0, new1, new2 = s00 / n - s0 * s0, s01 / n - s0 * s1, s11 / n - s1 * s1
        change = abs(new0 - cov[0]) / cov[0] + abs(new2 - cov[2]) / cov[2] + abs(s0) + abs(s1)
        mu[0] += s0
        mu[1] += s1
        cov[0], cov[2] = max(new0, 1e-8), max(new2, 1e-8)
        most = 0.99 * math.sqrt(cov[0] * cov[2])
        cov[1] = min(max(new1, -most), most)
        if change < tolerance:
            return step + 1
    return iterations


@njit(cache=True, nogil=True, error_model="numpy")
def unit_integral(eps, logs, hours, times, rate, early, between):  # type: ignore[no-untyped-def]
    """Integral over the activity at the reference time of a voxel whose rate is r exp(eps), h.

    early : hours that multiply the activity at the first scan; negative: the voxel's own decline drawn back to time zero.
    between : factor that makes the log-linear integral of the region's curve between the scans that curve's own.
    """
    n = len(logs)
    d, k = rate * math.expm1(eps), rate * math.exp(eps)
    u = math.exp(logs[0] - d * hours[0])
    total = u * early if early >= 0.0 else u * math.expm1(k * times[0]) / k
    for i in range(1, n):
        x = logs[i] - logs[i - 1] - d * (hours[i] - hours[i - 1])
        w = u * math.exp(x)
        mean = u * (1.0 + x * (0.5 + x / 6.0)) if abs(x) < 1e-4 else (w - u) / x
        total += between * (times[i] - times[i - 1]) * mean
        u = w
    return total + u / k


@njit(cache=True, nogil=True, error_model="numpy")
def integrate_voxels(fits, logs, hours, times, rate, early, between, p, out):  # type: ignore[no-untyped-def]
    """(voxels, 7) fits -> out (voxels, 2): mean and SD of the TIA, of a log-normal posterior.

    ln TIA = alpha + g(eps); g to second order in the mean, to first in the variance. Without a prior (p all zero) the first
    number is the fit's own integral, as a plain fit gives it.
    """
    flat = p[0] == 0.0 and p[2] == 0.0
    for i in range(len(fits)):
        alpha, eps = fits[i, 0], fits[i, 1]
        if alpha <= _NOTHING:
            out[i, 0], out[i, 1] = 0.0, 0.0
            continue
        g = math.log(unit_integral(eps, logs, hours, times, rate, early, between))
        step = 0.05
        up = math.log(unit_integral(eps + step, logs, hours, times, rate, early, between))
        down = math.log(unit_integral(eps - step, logs, hours, times, rate, early, between))
        slope, bend = (up - down) / (2.0 * step), (up - 2.0 * g + down) / (step * step)
        a00, a01, a11 = fits[i, 2] + p[0], fits[i, 3] + p[1], fits[i, 4] + p[2]
        det = a00 * a11 - a01 * a01
        if det <= 1e-12 * a00 * a11:
            variance, of_eps = 1.0 / a00, 0.0
        else:
            of_eps = a00 / det
            variance = (a11 - 2.0 * slope * a01 + slope * slope * a00) / det
        if flat:
            out[i, 0] = math.exp(alpha + g)
            out[i, 1] = out[i, 0] * math.sqrt(variance)
        else:
            variance = min(variance, 4.0)
            out[i, 0] = math.exp(alpha + g + 0.5 * variance + min(max(0.5 * bend * of_eps, -0.5), 0.5))
            out[i, 1] = out[i, 0] * math.sqrt(math.expm1(variance))
