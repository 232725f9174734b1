"""The solver: RODAS4 on a static sparse pattern, members of a batch side by side in the innermost loop.

RODAS4 (Hairer and Wanner, Solving Ordinary Differential Equations II, section VII.4): a Rosenbrock method of order 4 with six
stages, L-stable and stiffly accurate, error estimate of order 3, dense output of order 3. Per step one LU of
E = I/(h gamma) - J and six solves E K_s = f(y + v_s) + sum_q c_sq/h K_q with v_s = sum_q a_sq K_q. The models are quadratic,
f(y + v) = f(y) + J v + N(v) with N the second-order part of the bindings, so that

    E (K_s + v_s) = f(y) + N(v_s) + 1/h sum_q (a_sq/gamma + c_sq) K_q

and the transfer matrix is applied once per step. `LANES` members advance with one common step, the largest that the strictest
of them allows; chunks of lanes run on all cores.

Sensitivities are exact derivatives of these equations at the steps taken: each member may carry one direction of its
coefficients, and

    E d(K_s + v_s) = d f(y) + d N(v_s) + 1/h sum_q (a_sq/gamma + c_sq) d K_q + (d J) (K_s + v_s)

uses the same factors.

Time integrals Q' = e^(-lambda (t - t0)) S, S the sum of some amounts, are states of the same method that nothing depends on.
Their stages unroll to one linear combination of y and the K_s per step, whose weights follow from the method's coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from tdt_core.kinetics.lanes import (
    LANES,
    add_product,
    set_difference,
    set_product,
    set_quotient,
    set_sum,
    subtract_product,
)
from tdt_core.kinetics.symbolic import Int32, Tables

FloatArray = npt.NDArray[np.float64]

BLOCKS_PER_THREAD = 8
"""So many that a thread with easy members takes over from one with hard ones."""

MAX_STEPS = 30_000  # from one event to the next
SMALLEST_STEP_MIN = 1e-12
FIRST_STEP_MIN = 1e-3

_GAMMA = 0.25
_A = np.zeros((6, 6))
_A[1, :1] = 1.544
_A[2, :2] = 0.9466785280815826, 0.2557011698983284
_A[3, :3] = 3.314825187068521, 2.896124015972201, 0.9986419139977817
_A[4, :4] = 1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950
_A[5, :5] = *_A[4, :4], 1.0
_C = np.zeros((6, 6))
_C[1, :1] = -5.6688
_C[2, :2] = -2.430093356833875, -0.2063599157091915
_C[3, :3] = -0.1073529058151375, -9.594562251023355, -20.47028614809616
_C[4, :4] = 7.496443313967647, -10.24680431464352, -33.99990352819905, 11.70890893206160
_C[5, :5] = 8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136, -6.058818238834054
_ALPHA = np.array([0.0, 0.386, 0.21, 0.63, 1.0, 1.0])  # stage times
_SLOPE = np.array([0.25, -0.1043, 0.1035, -0.0362, 0.0, 0.0])  # weights of the explicit time dependence
_DENSE = np.zeros((2, 5))
_DENSE[0] = 10.12623508344586, -7.487995877610167, -34.80091861555747, -7.992771707568823, 1.025137723295662
_DENSE[1] = -0.6762803392806898, 6.087714651680015, 16.43084320892478, 24.76722511418386, -6.594389125716872

_G = _A / _GAMMA + _C  # see the equation above
# k = h (I/gamma - C)^-1 r of a quadrature with stage values r: its increment and its error are rows of that inverse
_UNROLLED = np.linalg.inv(np.eye(6) / _GAMMA - _C)
_GAIN = (_A[5] + np.eye(6)[5]) @ _UNROLLED
_DOUBT = _UNROLLED[5]

_A21, _A31, _A32, _A41, _A42, _A43 = (float(x) for x in (_A[1, 0], *_A[2, :2], *_A[3, :3]))
_A51, _A52, _A53, _A54 = (float(x) for x in _A[4, :4])
_G21, _G31, _G32, _G41, _G42, _G43 = (float(x) for x in (_G[1, 0], *_G[2, :2], *_G[3, :3]))
_G51, _G52, _G53, _G54 = (float(x) for x in _G[4, :4])
_G61, _G62, _G63, _G64, _G65 = (float(x) for x in _G[5, :5])


class Course(NamedTuple):
    """What happens to every member of a batch, in minutes; states in elimination order.

    event_min (e,) rising, the last one is the end; bolus (e, n) nmol added at each event, the end included, before the time
    that follows; inflow (e, n) nmol/min from each event to the next, where it begins; it falls with inflow_decay (n,) 1/min.
    output_min (o,) rising.
    row_ptr, row_state : rows of the output, each the sum of some states, CSR.
    integral_ptr, integral_state : likewise for the time integrals, which e^(-decay (t - start_min)) weights.
    """

    event_min: FloatArray
    bolus: FloatArray
    inflow: FloatArray
    inflow_decay: FloatArray
    output_min: FloatArray
    row_ptr: Int32
    row_state: Int32
    integral_ptr: Int32
    integral_state: Int32
    decay: float
    start_min: float


@dataclass(frozen=True, eq=False)
class Solution:
    """amounts (m, outputs, rows) nmol; integrals (m, q) nmol min; their derivatives along the directions, same shapes, or
    without outputs and rows; failed (m,); steps (m,) taken, rejected ones included."""

    amounts: FloatArray
    integrals: FloatArray
    amounts_slope: FloatArray
    integrals_slope: FloatArray
    failed: npt.NDArray[np.bool_]
    steps: npt.NDArray[np.int64]


def solve(
    tables: Tables,
    coefficients: FloatArray,
    course: Course,
    rtol: float,
    scale_nmol: float,
    directions: FloatArray | None = None,
) -> Solution:
    """Run a batch.

    Parameters
    ----------
    coefficients : (m, c) in the order of the network. scale_nmol : amount that the absolute tolerance is measured by.
    rtol : tolerance of the root mean square of all states and integrals per step; the absolute one is `rtol` x 1e-4 x
        `scale_nmol` (x 60 min).
    directions : (m, c) d coefficients / d parameter, one parameter for each member.

    A member whose numbers stop being finite is marked failed and left out; the others go on.
    """
    m = len(coefficients)
    amounts = np.zeros((m, len(course.output_min), len(course.row_ptr) - 1))
    integrals = np.zeros((m, len(course.integral_ptr) - 1))
    failed = np.zeros(m, dtype=np.bool_)
    steps = np.zeros(m, dtype=np.int64)
    sloped = 0 if directions is None else m
    found = Solution(
        amounts, integrals, np.zeros((sloped, *amounts.shape[1:])), np.zeros((sloped, *integrals.shape[1:])), failed, steps
    )
    along = np.zeros((0, coefficients.shape[1])) if directions is None else np.ascontiguousarray(directions)
    tolerances = (rtol, rtol * 1e-4 * scale_nmol)
    slopes = (found.amounts_slope, found.integrals_slope)
    given = (tables, np.ascontiguousarray(coefficients), along, course, tolerances)
    made = ((amounts, integrals), slopes, failed, steps)
    _on_all_cores(lambda begin, end: _run(*given, *made, begin, end), m)
    for array in (amounts, integrals, *(slopes if sloped else ())):
        array[failed] = np.nan
    return found


def _on_all_cores(run: Callable[[int, int], None], m: int) -> None:
    """`run(begin, end)` over m members in whole chunks of lanes, on as many threads as numba is set to use.

    Plain threads, since the compiled loop lets go of the interpreter: numba's own parallel loop would compile all of it again.
    Chunks know nothing of each other, so the result does not depend on the threads.
    """
    chunks = -(-m // LANES)
    threads = min(numba.get_num_threads(), chunks)
    if threads <= 1:
        run(0, m)
        return
    block = LANES * -(-chunks // (threads * BLOCKS_PER_THREAD))
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda begin: run(begin, min(begin + block, m)), range(0, m, block)):
            pass


class Values(NamedTuple):
    """Coefficients of one chunk, a row per entry or binding: what the tables index."""

    linear: FloatArray
    rate: FloatArray
    capacity: FloatArray


@numba.njit(cache=True, error_model="numpy")
def _values(tables, coefficients, member):  # type: ignore[no-untyped-def] # pragma: no cover
    linear = np.zeros((tables.linear_col.size, LANES))
    rate = np.empty((tables.bind_rate.size, LANES))
    capacity = np.empty((tables.pool_capacity.size, LANES))
    for lane in range(LANES):
        own = coefficients[member[lane]]
        for p in range(tables.fill_entry.size):
            linear[tables.fill_entry[p], lane] += tables.fill_sign[p] * own[tables.fill_coefficient[p]]
        for k in range(tables.bind_rate.size):
            rate[k, lane] = own[tables.bind_rate[k]]
        for k in range(tables.pool_capacity.size):
            capacity[k, lane] = own[tables.pool_capacity[k]]
    return Values(linear, rate, capacity)


@numba.njit(cache=True, error_model="numpy")
def _derivative(tables, values, y, free, out):  # type: ignore[no-untyped-def] # pragma: no cover
    """out = f(y); free (pools + 1, LANES) = free sites of each pool; its last row is scratch."""
    out[:] = 0.0
    for p in range(tables.linear_row.size):
        add_product(out, tables.linear_row[p], values.linear, p, y, tables.linear_col[p])
    pools = tables.pool_capacity.size
    free[:pools] = values.capacity
    free[pools] = 1.0
    for k in range(pools):
        for p in range(tables.pool_ptr[k], tables.pool_ptr[k + 1]):
            subtract_product(free, k, free, pools, y, tables.pool_member[p])
    for k in range(tables.bind_source.size):
        source = tables.bind_source[k]
        set_product(free, pools, values.rate, k, y, source)
        subtract_product(out, source, free, pools, free, tables.bind_pool[k])
        add_product(out, tables.bind_target[k], free, pools, free, tables.bind_pool[k])


@numba.njit(cache=True, error_model="numpy")
def _second_order(tables, values, v, scratch, out):  # type: ignore[no-untyped-def] # pragma: no cover
    """out += N(v): what f(y + v) has beyond f(y) + J v."""
    for k in range(tables.bind_source.size):
        pool, source = tables.bind_pool[k], tables.bind_source[k]
        set_product(scratch, 0, values.rate, k, v, source)
        for p in range(tables.pool_ptr[pool], tables.pool_ptr[pool + 1]):
            add_product(out, source, scratch, 0, v, tables.pool_member[p])
            subtract_product(out, tables.bind_target[k], scratch, 0, v, tables.pool_member[p])


@numba.njit(cache=True, error_model="numpy")
def _derivative_slope(tables, values, turned, y, dy, free, dfree, out):  # type: ignore[no-untyped-def] # pragma: no cover
    """out = d f(y); dfree as free in `_derivative`. `turned` holds the derivatives of the values."""
    out[:] = 0.0
    for p in range(tables.linear_row.size):
        row, col = tables.linear_row[p], tables.linear_col[p]
        add_product(out, row, values.linear, p, dy, col)
        add_product(out, row, turned.linear, p, y, col)
    pools = tables.pool_capacity.size
    dfree[:pools] = turned.capacity
    dfree[pools] = 1.0
    for k in range(pools):
        for p in range(tables.pool_ptr[k], tables.pool_ptr[k + 1]):
            subtract_product(dfree, k, dfree, pools, dy, tables.pool_member[p])
    for k in range(tables.bind_source.size):
        source, target, pool = tables.bind_source[k], tables.bind_target[k], tables.bind_pool[k]
        set_product(dfree, pools, turned.rate, k, y, source)
        add_product(dfree, pools, values.rate, k, dy, source)
        subtract_product(out, source, dfree, pools, free, pool)
        add_product(out, target, dfree, pools, free, pool)
        set_product(dfree, pools, values.rate, k, y, source)
        subtract_product(out, source, dfree, pools, dfree, pool)
        add_product(out, target, dfree, pools, dfree, pool)


@numba.njit(cache=True, error_model="numpy")
def _stage_slope(tables, values, turned, y, dy, free, dfree, v, dv, x, scratch, out):  # type: ignore[no-untyped-def] # pragma: no cover
    """out += d N(v) + (d J) x. scratch (2, LANES)."""
    for p in range(tables.linear_row.size):
        add_product(out, tables.linear_row[p], turned.linear, p, x, tables.linear_col[p])
    for k in range(tables.bind_source.size):
        source, target, pool = tables.bind_source[k], tables.bind_target[k], tables.bind_pool[k]
        # J x has the flow r x_s free - r y_s sum of x; its derivative at fixed x
        set_product(scratch, 0, turned.rate, k, x, source)
        subtract_product(out, source, scratch, 0, free, pool)
        add_product(out, target, scratch, 0, free, pool)
        set_product(scratch, 0, values.rate, k, x, source)
        subtract_product(out, source, scratch, 0, dfree, pool)
        add_product(out, target, scratch, 0, dfree, pool)
        set_product(scratch, 0, turned.rate, k, y, source)
        add_product(scratch, 0, values.rate, k, dy, source)
        # N(v) has the flow -r v_s sum of v
        set_product(scratch, 1, turned.rate, k, v, source)
        add_product(scratch, 1, values.rate, k, dv, source)
        for p in range(tables.pool_ptr[pool], tables.pool_ptr[pool + 1]):
            member = tables.pool_member[p]
            add_product(out, source, scratch, 0, x, member)
            subtract_product(out, target, scratch, 0, x, member)
            add_product(out, source, scratch, 1, v, member)
            subtract_product(out, target, scratch, 1, v, member)
        set_product(scratch, 1, values.rate, k, v, source)
        for p in range(tables.pool_ptr[pool], tables.pool_ptr[pool + 1]):
            member = tables.pool_member[p]
            add_product(out, source, scratch, 1, dv, member)
            subtract_product(out, target, scratch, 1, dv, member)


@numba.njit(cache=True, error_model="numpy")
def _factor(tables, values, y, free, diagonal, lu, inverse):  # type: ignore[no-untyped-def] # pragma: no cover
    """L D U of diagonal I - J(y): unit triangles in `lu`, 1/D in `inverse`, whose last row is scratch."""
    scratch = inverse.shape[0] - 1
    lu[:] = 0.0
    for p in range(tables.lu_of_linear.size):
        set_difference(lu, tables.lu_of_linear[p], lu, tables.lu_of_linear[p], values.linear, p)
    for k in range(tables.bind_source.size):
        first, after = tables.lu_of_binding_ptr[k], tables.lu_of_binding_ptr[k + 1]
        add_product(lu, tables.lu_of_binding[first], values.rate, k, free, tables.bind_pool[k])
        subtract_product(lu, tables.lu_of_binding[first + 1], values.rate, k, free, tables.bind_pool[k])
        for p in range(first + 2, after, 2):
            subtract_product(lu, tables.lu_of_binding[p], values.rate, k, y, tables.bind_source[k])
            add_product(lu, tables.lu_of_binding[p + 1], values.rate, k, y, tables.bind_source[k])
    inverse[scratch] = diagonal
    for i in range(tables.diagonal.size):
        set_sum(lu, tables.diagonal[i], lu, tables.diagonal[i], inverse, scratch)
    inverse[scratch] = 1.0
    for i in range(tables.diagonal.size):
        for e in range(tables.row_ptr[i], tables.row_ptr[i + 1]):
            here = tables.lower_at[e]
            set_product(lu, here, lu, here, inverse, tables.lower_from[e])
            for p in range(tables.update_ptr[e], tables.update_ptr[e + 1]):
                subtract_product(lu, tables.update_to[p], lu, here, lu, tables.update_from[p])
        set_quotient(inverse, i, inverse, scratch, lu, tables.diagonal[i])
    for p in range(tables.upper_at.size):
        set_product(lu, tables.upper_at[p], lu, tables.upper_at[p], inverse, tables.upper_to[p])


@numba.njit(cache=True, error_model="numpy")
def _solve(tables, lu, inverse, x):  # type: ignore[no-untyped-def] # pragma: no cover
    """x <- (L D U)^-1 x."""
    for p in range(tables.lower_at.size):
        subtract_product(x, tables.lower_to[p], lu, tables.lower_at[p], x, tables.lower_from[p])
    for i in range(tables.diagonal.size):
        set_product(x, i, x, i, inverse, i)
    for p in range(tables.upper_at.size):
        subtract_product(x, tables.upper_to[p], lu, tables.upper_at[p], x, tables.upper_from[p])


@numba.njit(cache=True, fastmath={"contract"}, error_model="numpy", inline="never")
def _argument(s, i_h, f, k1, k2, k3, k4, k5, v, b):  # type: ignore[no-untyped-def] # pragma: no cover
    """v_s and f(y) + 1/h sum_q g_sq K_q of stage s > 0; arrays flat. Stage 6 builds on the v of stage 5."""
    if s == 1:
        g1 = i_h * _G21
        for i in range(f.size):
            v[i] = _A21 * k1[i]
            b[i] = f[i] + g1 * k1[i]
    elif s == 2:
        g1, g2 = i_h * _G31, i_h * _G32
        for i in range(f.size):
            v[i] = _A31 * k1[i] + _A32 * k2[i]
            b[i] = f[i] + g1 * k1[i] + g2 * k2[i]
    elif s == 3:
        g1, g2, g3 = i_h * _G41, i_h * _G42, i_h * _G43
        for i in range(f.size):
            v[i] = _A41 * k1[i] + _A42 * k2[i] + _A43 * k3[i]
            b[i] = f[i] + g1 * k1[i] + g2 * k2[i] + g3 * k3[i]
    elif s == 4:
        g1, g2, g3, g4 = i_h * _G51, i_h * _G52, i_h * _G53, i_h * _G54
        for i in range(f.size):
            v[i] = _A51 * k1[i] + _A52 * k2[i] + _A53 * k3[i] + _A54 * k4[i]
            b[i] = f[i] + g1 * k1[i] + g2 * k2[i] + g3 * k3[i] + g4 * k4[i]
    else:
        g1, g2, g3, g4, g5 = i_h * _G61, i_h * _G62, i_h * _G63, i_h * _G64, i_h * _G65
        for i in range(f.size):
            v[i] += k5[i]
            b[i] = f[i] + g1 * k1[i] + g2 * k2[i] + g3 * k3[i] + g4 * k4[i] + g5 * k5[i]


@numba.njit(cache=True, fastmath={"contract"}, error_model="numpy", inline="never")
def _take(b, v, k):  # type: ignore[no-untyped-def] # pragma: no cover
    """K_s = (K_s + v_s) - v_s; arrays flat."""
    for i in range(k.size):
        k[i] = b[i] - v[i]


@numba.njit(cache=True, fastmath={"contract"}, error_model="numpy", inline="never")
def _finish(atol, rtol, y, v, k6, new, scaled):  # type: ignore[no-untyped-def] # pragma: no cover
    """New amounts and the error in units of the tolerance; arrays flat."""
    for i in range(y.size):
        new[i] = y[i] + v[i] + k6[i]
        scaled[i] = k6[i] / (atol + rtol * max(abs(y[i]), abs(new[i])))


@numba.njit(cache=True, fastmath={"contract"}, error_model="numpy", inline="never")
def _combine(w, y, k1, k2, k3, k4, k5, k6, out):  # type: ignore[no-untyped-def] # pragma: no cover
    """out = w0 y + sum w_s K_s; arrays flat."""
    w0, w1, w2, w3, w4, w5, w6 = w[0], w[1], w[2], w[3], w[4], w[5], w[6]
    for i in range(y.size):
        out[i] = w0 * y[i] + w1 * k1[i] + w2 * k2[i] + w3 * k3[i] + w4 * k4[i] + w5 * k5[i] + w6 * k6[i]


@numba.njit(cache=True, error_model="numpy")
def _overfull(tables, values, y, atol, rtol, states, error):  # type: ignore[no-untyped-def] # pragma: no cover
    """Refuse amounts that overfill a pool by more than the tolerance: beyond it binding runs away from the physical branch."""
    for k in range(tables.pool_capacity.size):
        for lane in range(LANES):
            filled = -values.capacity[k, lane]
            for p in range(tables.pool_ptr[k], tables.pool_ptr[k + 1]):
                filled += y[tables.pool_member[p], lane]
            if filled > 0.0:
                beyond = filled / (10.0 * (atol + rtol * values.capacity[k, lane]))
                error[0, lane] += states * beyond * beyond


@numba.njit(cache=True, error_model="numpy")
def _quadrature_weights(outer, t, h, decay, out):  # type: ignore[no-untyped-def] # pragma: no cover
    """out (7,): sum_s outer_s r_s of a quadrature as weights of y and K_1 ... K_6.

    r_s = h [w(t + alpha_s h) S(y + v_s) + w(t) S(K_s) + slope_s h w'(t) S(y)], w(t) = e^(-decay t).
    """
    now = np.exp(-decay * t)
    out[:] = 0.0
    for s in range(6):
        w = np.exp(-decay * (t + _ALPHA[s] * h))
        out[0] += h * outer[s] * (w - _SLOPE[s] * h * decay * now)
        out[s + 1] += h * outer[s] * now
        for q in range(s):
            out[q + 1] += h * outer[s] * w * _A[s, q]


@numba.njit(cache=True, error_model="numpy")
def _dense(theta, out):  # type: ignore[no-untyped-def] # pragma: no cover
    """out (7,): weights of y, K_1 ... K_5 and the new amounts at t + theta h."""
    out[0], out[6] = 1.0 - theta, theta
    for q in range(5):
        out[q + 1] = theta * (1.0 - theta) * (_DENSE[0, q] + theta * _DENSE[1, q])


@numba.njit(cache=True, error_model="numpy")
def _sum_rows(ptr, state, x, one, out):  # type: ignore[no-untyped-def] # pragma: no cover
    """out[r] = sum of x over the states of row r."""
    out[:] = 0.0
    for r in range(ptr.size - 1):
        for p in range(ptr[r], ptr[r + 1]):
            add_product(out, r, one, 0, x, state[p])


@numba.njit(cache=True, error_model="numpy")
def _chunk(tables, coefficients, directions, course, tolerances, first, found, slopes, failed, steps):  # type: ignore[no-untyped-def] # pragma: no cover
    rtol, atol = tolerances
    m, n, nq = coefficients.shape[0], tables.order.size, course.integral_ptr.size - 1
    alive, member = np.zeros(LANES, np.bool_), np.empty(LANES, np.int64)
    for lane in range(LANES):
        alive[lane] = first + lane < m
        member[lane] = min(first + lane, m - 1)
    values = _values(tables, coefficients, member)
    sloped = directions.shape[0] > 0
    turned = _values(tables, directions if sloped else coefficients, member)

    y, f, v, b = np.zeros((n, LANES)), np.zeros((n, LANES)), np.zeros((n, LANES)), np.zeros((n, LANES))
    scaled, size = np.zeros((n, LANES)), n * LANES
    yf, ff, vf, bf, scaledf = y.reshape(size), f.reshape(size), v.reshape(size), b.reshape(size), scaled.reshape(size)
    newf, k1f, k2f, k3f = np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size)
    k4f, k5f, k6f = np.zeros(size), np.zeros(size), np.zeros(size)
    lu, inverse = np.zeros((tables.lu_size, LANES)), np.zeros((n + 1, LANES))
    free, one = np.zeros((tables.pool_capacity.size + 1, LANES)), np.ones((1, LANES))
    q, gain, doubt = np.zeros((nq, LANES)), np.zeros((nq, LANES)), np.zeros((nq, LANES))
    blame = np.zeros(LANES, np.int64)
    row, error, weights = np.zeros((course.row_ptr.size - 1, LANES)), np.zeros((1, LANES)), np.zeros(7)

    # derivatives along each member's direction, empty without one
    d = n if sloped else 0
    dsize = d * LANES
    dy, df, dv, db = np.zeros((d, LANES)), np.zeros((d, LANES)), np.zeros((d, LANES)), np.zeros((d, LANES))
    dyf, dff, dvf, dbf = dy.reshape(dsize), df.reshape(dsize), dv.reshape(dsize), db.reshape(dsize)
    dk1, dk2, dk3, dk4 = np.zeros(dsize), np.zeros(dsize), np.zeros(dsize), np.zeros(dsize)
    dk5, dk6, dnew = np.zeros(dsize), np.zeros(dsize), np.zeros(dsize)
    dfree, scratch, dq = np.zeros(free.shape), np.zeros((2, LANES)), np.zeros((nq, LANES))

    t, out, taken = course.event_min[0], 0, 0
    while out < course.output_min.size and course.output_min[out] < t:
        out += 1  # before the first event nothing is there
    for event in range(course.event_min.size - 1):
        begin, end = course.event_min[event], course.event_min[event + 1]
        for i in range(n):
            y[i] += course.bolus[event, i]
        while out < course.output_min.size and course.output_min[out] <= t:
            _sum_rows(course.row_ptr, course.row_state, y, one, row)
            _store(row, alive, first, out, found[0])
            if sloped:
                _sum_rows(course.row_ptr, course.row_state, dy, one, row)
                _store(row, alive, first, out, slopes[0])
            out += 1
        h, budget = min(FIRST_STEP_MIN, end - t), taken + MAX_STEPS
        blame[:] = 0
        while t < end:
            taken += 1
            step = min(h, end - t)
            last = step >= end - t
            _derivative(tables, values, y, free, f)
            if sloped:
                _derivative_slope(tables, values, turned, y, dy, free, dfree, df)
            _factor(tables, values, y, free, 1.0 / (step * _GAMMA), lu, inverse)
            for s in range(6):
                if s == 0:
                    bf[:] = ff
                else:
                    _argument(s, 1.0 / step, ff, k1f, k2f, k3f, k4f, k5f, vf, bf)
                    _second_order(tables, values, v, scratch, b)
                for i in range(n):
                    into = course.inflow[event, i]
                    if into != 0.0:
                        lam = course.inflow_decay[i]
                        now = np.exp(-lam * (t - begin))
                        b[i] += into * (np.exp(-lam * (t - begin + _ALPHA[s] * step)) - _SLOPE[s] * step * lam * now)
                _solve(tables, lu, inverse, b)
                if sloped:
                    if s == 0:
                        dbf[:] = dff
                        vf[:] = 0.0
                    else:
                        _argument(s, 1.0 / step, dff, dk1, dk2, dk3, dk4, dk5, dvf, dbf)
                    _stage_slope(tables, values, turned, y, dy, free, dfree, v, dv, b, scratch, db)
                    _solve(tables, lu, inverse, db)
                    if s == 0:
                        dk1[:] = dbf
                    else:
                        _take(dbf, dvf, dk2 if s == 1 else dk3 if s == 2 else dk4 if s == 3 else dk5 if s == 4 else dk6)
                if s == 0:
                    k1f[:] = bf
                else:
                    _take(bf, vf, k2f if s == 1 else k3f if s == 2 else k4f if s == 3 else k5f if s == 4 else k6f)
            _finish(atol, rtol, yf, vf, k6f, newf, scaledf)
            error[:] = 0.0
            for i in range(n):
                add_product(error, 0, scaled, i, scaled, i)
            if nq:
                since = t - course.start_min
                _quadrature_weights(_DOUBT, since, step, course.decay, weights)
                _combine(weights, yf, k1f, k2f, k3f, k4f, k5f, k6f, bf)
                _sum_rows(course.integral_ptr, course.integral_state, b, one, doubt)
                for r in range(nq):
                    for lane in range(LANES):
                        doubt[r, lane] /= 60.0 * atol + rtol * abs(q[r, lane])
                    add_product(error, 0, doubt, r, doubt, r)
            _overfull(tables, values, newf.reshape((n, LANES)), atol, rtol, n + nq, error)
            worst, broken, slowest = 0.0, False, 0
            for lane in range(LANES):
                if alive[lane]:
                    here = np.sqrt(error[0, lane] / (n + nq))
                    broken = broken or not np.isfinite(here)
                    if here > worst:
                        worst, slowest = here, lane
            blame[slowest] += 1
            if taken >= budget:
                # whoever set most of the steps is given up, and the others go on
                slowest = int(np.argmax(blame))
                alive[slowest] = False
                failed[member[slowest]] = True
                y[:, slowest], dy[:, slowest], blame[slowest] = 0.0, 0.0, 0
                if not alive.any():
                    return
                h, budget = FIRST_STEP_MIN, taken + MAX_STEPS
                continue
            if broken or worst > 1.0:
                h = step * (0.1 if broken else max(0.2, 0.9 * worst**-0.25))
                if h > SMALLEST_STEP_MIN * max(1.0, abs(t)):
                    continue
                for lane in range(LANES):
                    if alive[lane] and not error[0, lane] <= n + nq:
                        alive[lane] = False
                        failed[member[lane]] = True
                        y[:, lane], dy[:, lane] = 0.0, 0.0
                if not alive.any():
                    return
                h = FIRST_STEP_MIN
                continue
            h = step * min(6.0, max(0.2, 0.9 * max(worst, 1e-10) ** -0.25))
            to = end if last else t + step
            while out < course.output_min.size and course.output_min[out] <= to:
                theta = min(1.0, (course.output_min[out] - t) / step)
                _dense(theta, weights)
                _combine(weights, yf, k1f, k2f, k3f, k4f, k5f, newf, bf)
                _sum_rows(course.row_ptr, course.row_state, b, one, row)
                _store(row, alive, first, out, found[0])
                if sloped:
                    for i in range(dsize):
                        dnew[i] = dyf[i] + dvf[i] + dk6[i]
                    _combine(weights, dyf, dk1, dk2, dk3, dk4, dk5, dnew, dbf)
                    _sum_rows(course.row_ptr, course.row_state, db, one, row)
                    _store(row, alive, first, out, slopes[0])
                out += 1
            if nq:
                _quadrature_weights(_GAIN, t - course.start_min, step, course.decay, weights)
                _combine(weights, yf, k1f, k2f, k3f, k4f, k5f, k6f, bf)
                _sum_rows(course.integral_ptr, course.integral_state, b, one, gain)
                q += gain
                if sloped:
                    _combine(weights, dyf, dk1, dk2, dk3, dk4, dk5, dk6, dbf)
                    _sum_rows(course.integral_ptr, course.integral_state, db, one, gain)
                    dq += gain
            yf[:] = newf
            for i in range(dsize):
                dyf[i] += dvf[i] + dk6[i]
            t = to
    for i in range(n):
        y[i] += course.bolus[course.event_min.size - 1, i]
    while out < course.output_min.size:  # a hair after the end
        _sum_rows(course.row_ptr, course.row_state, y, one, row)
        _store(row, alive, first, out, found[0])
        if sloped:
            _sum_rows(course.row_ptr, course.row_state, dy, one, row)
            _store(row, alive, first, out, slopes[0])
        out += 1
    for lane in range(LANES):
        if first + lane < m:
            steps[first + lane] = taken
            for r in range(nq):
                found[1][first + lane, r] = q[r, lane]
                if sloped:
                    slopes[1][first + lane, r] = dq[r, lane]


@numba.njit(cache=True)
def _store(row, alive, first, out, amounts):  # type: ignore[no-untyped-def] # pragma: no cover
    for lane in range(alive.size):
        if alive[lane]:
            for r in range(row.shape[0]):
                amounts[first + lane, out, r] = row[r, lane]


@numba.njit(cache=True, nogil=True)
def _run(tables, coefficients, directions, course, tolerances, found, slopes, failed, steps, begin, end):  # type: ignore[no-untyped-def] # pragma: no cover
    for first in range(begin, end, LANES):
        _chunk(tables, coefficients, directions, course, tolerances, first, found, slopes, failed, steps)
