"""Rosenbrock solver (RODAS4: order 4, L-stable, 6 stages) for the compartmental rung.

The Jacobian is an arrow: every compartment couples to plasma only. A stage is solved by eliminating the compartments, so a
step costs O(compartments). Coefficients: Hairer and Wanner, Solving ODEs II, RODAS. The time-integrated activity is gathered
on the fly: cubic Hermite interpolation of each step times the exact decay, three-point Gauss quadrature.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_GAMMA = 0.25
_A = np.zeros((6, 6))
_A[1, 0] = 1.544
_A[2, :2] = 0.9466785280815826, 0.2557011698983284
_A[3, :3] = 3.314825187068521, 2.896124015972201, 0.9986419139977817
_A[4, :4] = 1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950
_A[5, :4] = _A[4, :4]
_A[5, 4] = 1.0
_C = np.zeros((6, 6))
_C[1, 0] = -5.6688
_C[2, :2] = -2.430093356833875, -0.2063599157091915
_C[3, :3] = -0.1073529058151375, -9.594562251023355, -20.47028614809616
_C[4, :4] = 7.496443313967647, -10.24680431464352, -33.99990352819905, 11.70890893206160
_C[5, :5] = 8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136, -6.058818238834054
_GAUSS_X = np.array([0.5 - np.sqrt(15.0) / 10.0, 0.5, 0.5 + np.sqrt(15.0) / 10.0])
_GAUSS_W = np.array([5.0, 8.0, 5.0]) / 18.0

MAX_STEPS = 20_000


@numba.njit(cache=True)
def _rhs(y, plasma, uptake, release, inverse_capacity, returned, out):  # type: ignore[no-untyped-def]
    p = y[0]
    out[1] = plasma[1] * p - plasma[2] * y[1]
    flow = 0.0
    for i in range(uptake.size):
        into = uptake[i] * p * (1.0 - y[2 + i] * inverse_capacity[i])
        leave = release[i] * y[2 + i]
        out[2 + i] = into - leave
        flow += returned * leave - into
    out[0] = flow - (plasma[0] + plasma[1]) * p + plasma[2] * y[1]


@numba.njit(cache=True)
def _stage(y, b, diagonal, plasma, uptake, release, inverse_capacity, returned, x):  # type: ignore[no-untyped-def]
    """Solve (diagonal I - J) x = b, J the arrow Jacobian at y, by eliminating every compartment but plasma."""
    p = y[0]
    pivot = diagonal + plasma[0] + plasma[1]
    right = b[0]
    q = diagonal + plasma[2]
    pivot -= plasma[2] * plasma[1] / q
    right += plasma[2] * b[1] / q
    for i in range(uptake.size):
        free = 1.0 - y[2 + i] * inverse_capacity[i]
        down = uptake[i] * free  # d(dy_i)/dP
        bound = uptake[i] * p * inverse_capacity[i]
        up = bound + returned * release[i]  # d(dP)/dy_i
        d = diagonal + bound + release[i]
        pivot += down - up * down / d
        right += up * b[2 + i] / d
    x[0] = right / pivot
    x[1] = (b[1] + plasma[1] * x[0]) / q
    for i in range(uptake.size):
        free = 1.0 - y[2 + i] * inverse_capacity[i]
        bound = uptake[i] * p * inverse_capacity[i]
        x[2 + i] = (b[2 + i] + uptake[i] * free * x[0]) / (diagonal + bound + release[i])


@numba.njit(cache=True)
def _solve_one(  # type: ignore[no-untyped-def]
    plasma, uptake, release, inverse_capacity, returned, dose, times, end, decay, rtol, a, c, gx, gw, amounts, integral
):
    n = 2 + uptake.size
    atol = rtol * 1e-3 * dose
    y = np.zeros(n)
    y[0] = dose
    k = np.zeros((6, n))
    f, f_new, work, b, y_new = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    _rhs(y, plasma, uptake, release, inverse_capacity, returned, f)
    t, h, nxt = 0.0, 1e-4, 0
    while nxt < times.size and times[nxt] <= 0.0:
        amounts[nxt] = y
        nxt += 1
    for _ in range(MAX_STEPS):
        target = times[nxt] if nxt < times.size else end
        step = min(h, target - t)
        hit = step >= target - t
        diagonal = 1.0 / (step * _GAMMA)
        for s in range(6):
            for i in range(n):
                work[i] = y[i]
                b[i] = 0.0
            for r in range(s):
                for i in range(n):
                    work[i] += a[s, r] * k[r, i]
                    b[i] += c[s, r] / step * k[r, i]
            _rhs(work, plasma, uptake, release, inverse_capacity, returned, f_new)
            for i in range(n):
                b[i] += f_new[i]
            _stage(y, b, diagonal, plasma, uptake, release, inverse_capacity, returned, k[s])
            if s == 5:
                for i in range(n):
                    y_new[i] = work[i] + k[5, i]
        error = 0.0
        for i in range(n):
            error = max(error, abs(k[5, i]) / (atol + rtol * max(abs(y[i]), abs(y_new[i]))))
        if not np.isfinite(error):
            return False
        if error <= 1.0:
            _rhs(y_new, plasma, uptake, release, inverse_capacity, returned, f_new)
            for g in range(3):
                x = gx[g]
                weight = gw[g] * step * np.exp(-decay * (t + x * step))
                h00 = (1 + 2 * x) * (1 - x) ** 2
                h10 = x * (1 - x) ** 2 * step
                h01 = x * x * (3 - 2 * x)
                h11 = x * x * (x - 1) * step
                for i in range(n):
                    integral[i] += weight * (h00 * y[i] + h10 * f[i] + h01 * y_new[i] + h11 * f_new[i])
            t = target if hit else t + step
            for i in range(n):
                y[i] = y_new[i]
                f[i] = f_new[i]
            while nxt < times.size and times[nxt] <= t:
                amounts[nxt] = y
                nxt += 1
            if t >= end:
                return True
        factor = min(6.0, max(0.2, 0.9 * max(error, 1e-12) ** -0.25))
        if error > 1.0 or not hit or factor < 1.0:
            h = step * factor
        else:
            h = max(h, step * factor)
    return False


@numba.njit(cache=True)
def _solve_all(  # type: ignore[no-untyped-def]
    plasma, uptake, release, inverse_capacity, returned, dose, times, end, decay, rtol, a, c, gx, gw, amounts, integrals, ok
):
    for j in range(plasma.shape[0]):
        ok[j] = _solve_one(
            plasma[j],
            uptake[j],
            release[j],
            inverse_capacity[j],
            returned,
            dose,
            times,
            end,
            decay,
            rtol,
            a,
            c,
            gx,
            gw,
            amounts[j],
            integrals[j],
        )


def solve_batch(
    plasma: FloatArray,
    uptake: FloatArray,
    release: FloatArray,
    inverse_capacity: FloatArray,
    returned: float,
    dose_nmol: float,
    times_h: FloatArray,
    end_h: float,
    decay_per_h: float,
    rtol: float = 1e-6,
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Solve a batch of patients or draws from one bolus at time zero.

    Parameters
    ----------
    plasma : (m, 3) clearance, to tissue, from tissue, 1/h.
    uptake, release, inverse_capacity : (m, c) 1/h, 1/h, 1/nmol.
    returned : share of released ligand that returns to plasma.
    times_h : (t,) ascending output times; end_h : end of the time integral.

    Returns
    -------
    amounts : (m, t, 2 + c) decay-free nmol in plasma, slow tissue, compartments.
    integrals : (m, 2 + c) time integral of amount x exp(-decay t), nmol h.
    ok : (m,) whether each member was solved; a failed member is reported, never replaced.
    """
    m, compartments = uptake.shape
    amounts = np.full((m, times_h.size, 2 + compartments), np.nan)
    integrals = np.zeros((m, 2 + compartments))
    ok = np.zeros(m, dtype=np.bool_)
    _solve_all(
        np.ascontiguousarray(plasma),
        uptake,
        release,
        inverse_capacity,
        float(returned),
        float(dose_nmol),
        np.ascontiguousarray(times_h, dtype=float),
        float(end_h),
        float(decay_per_h),
        float(rtol),
        _A,
        _C,
        _GAUSS_X,
        _GAUSS_W,
        amounts,
        integrals,
        ok,
    )
    return amounts, integrals, ok
