"""Integrals of sampled activity before, between and after the scans, compiled."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from tdt_core.dosimetry.units import Array32, FloatArray

LINEAR, CONSTANT, EXPONENTIAL = 0, 1, 2
EARLY = {"linear": LINEAR, "constant": CONSTANT, "exponential": EXPONENTIAL}
PLAIN, LOG_LINEAR = 0, 1
BETWEEN = {"linear": PLAIN, "log": LOG_LINEAR}


@njit(cache=True, nogil=True, error_model="numpy")
def log_mean(a: float, b: float) -> float:
    """Mean over an interval of an exponential that goes from a to b; both > 0."""
    x = math.log(b / a)
    if abs(x) < 1e-4:
        return a * (1.0 + x * (0.5 + x / 6.0))
    return (b - a) / x


@njit(cache=True, nogil=True, error_model="numpy")
def end_rate(y, times, first, decay):  # type: ignore[no-untyped-def]
    """Rate of a log-linear fit to scans `first` and later, at least `decay`; -1 where activity does not show one."""
    n = len(times)
    sx = sy = sxx = sxy = 0.0
    for k in range(first, n):
        if y[k] <= 0.0:
            return -1.0
        x, v = times[k] - times[n - 1], math.log(y[k])
        sx, sy, sxx, sxy = sx + x, sy + v, sxx + x * x, sxy + x * v
    m = n - first
    if m < 2:
        return -1.0
    slope = (m * sxy - sx * sy) / (m * sxx - sx * sx)
    return max(-slope, decay) if slope < 0.0 else -1.0


@njit(cache=True, nogil=True, error_model="numpy")
def _parts(scans, times, decay, between, early, tail_scans, out):  # type: ignore[no-untyped-def]
    """(scans, voxels) activity -> out (4, voxels): before, between, after, and 1 where the tail is physical decay."""
    n, voxels = scans.shape
    y = np.empty(n)
    for v in range(voxels):
        for k in range(n):
            y[k] = scans[k, v]
        rate = -1.0
        if tail_scans > 1:
            rate = end_rate(y, times, n - tail_scans, decay)
        out[3, v] = 1.0 if rate < 0.0 else 0.0
        out[2, v] = y[n - 1] / (decay if rate < 0.0 else rate)
        total = 0.0
        for k in range(n - 1):
            dt = times[k + 1] - times[k]
            if between == LOG_LINEAR and 0.0 < y[k + 1] < y[k]:
                total += dt * log_mean(y[k], y[k + 1])
            else:
                total += dt * 0.5 * (y[k] + y[k + 1])
        out[1, v] = total
        if early == LINEAR:
            out[0, v] = 0.5 * times[0] * y[0]
        elif early == CONSTANT:
            out[0, v] = times[0] * y[0]
        else:
            # the decline that the first two scans show; with one scan, or a rise, physical decay
            back = decay
            if n > 1 and 0.0 < y[1] < y[0]:
                back = max(decay, math.log(y[0] / y[1]) / (times[1] - times[0]))
            out[0, v] = y[0] * math.expm1(back * times[0]) / back


def integrate_parts(
    scans: FloatArray | Array32, times_h: FloatArray, decay_per_h: float, between: int, early: int, tail_scans: int
) -> FloatArray:
    """(scans, n) activity -> (4, n): integrals before, between and after the scans, and 1 where the tail is physical decay."""
    out = np.empty((4, scans.shape[1]))
    _parts(scans, np.asarray(times_h, dtype=np.float64), decay_per_h, between, early, tail_scans, out)
    return out
