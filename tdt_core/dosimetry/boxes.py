"""Energy that a radial kernel takes from one box to its neighbours on a lattice of equal boxes.

For a source uniform in a box, the mean energy in the box displaced by d is the integral over all displacements v of

    k(|v|) * product over axes of tri((v_a - d_a) / L_a),        k(r) = e'(r) / (4 pi r^2),   tri(x) = max(0, 1 - |x|)

(the chance that two uniform points of the two boxes lie v apart). The triangles are linear on every lattice cell, so eight
moments per cell give all displacements exactly: no sampling of voxels by points. The cell at the origin, where k diverges, is
split into three pyramids in which the radial integral is done on the cumulative kernel itself.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from tdt_core.dosimetry.radial import RadialKernel
from tdt_core.dosimetry.units import FloatArray

EXACT_CELLS = 8
"""Displacements up to this many boxes are integrated exactly; beyond, the point value with its second-order term."""

_NEAR_CELLS = 3
_NEAR_ORDER, _FAR_ORDER, _ORIGIN_ORDER = 10, 4, 32


def _gauss(order: int) -> tuple[FloatArray, FloatArray]:
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return (nodes + 1) / 2, weights / 2


def octant_kev(kernel: RadialKernel, edges_cm: tuple[float, float, float], half_width: tuple[int, int, int]) -> FloatArray:
    """(hz + 1, hy + 1, hx + 1) energy per decay, keV, in the boxes at displacements >= 0; the others are mirror images.

    Parameters
    ----------
    kernel : energy within a radius; its local part goes to the source box.
    edges_cm : edge lengths of the box (z, y, x).
    half_width : largest displacement per axis, in boxes.
    """
    exact = exact_cells(kernel, edges_cm, half_width)
    near = _exact_octant(kernel, edges_cm, exact)
    if exact == half_width:
        return near
    out = _far_octant(kernel, edges_cm, half_width)
    out[: exact[0] + 1, : exact[1] + 1, : exact[2] + 1] = near
    return out


def exact_cells(
    kernel: RadialKernel, edges_cm: tuple[float, float, float], half_width: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Number of displacements per axis done exactly: a cube of equal length in cm, wide enough in the longest edge."""
    reach = min(EXACT_CELLS * max(edges_cm), 2 * EXACT_CELLS * min(edges_cm))
    if kernel.radius_cm[-1] < 20.0:  # electrons: all of it, it is short
        reach = max(reach, kernel.radius_cm[-1] + max(edges_cm))
    z, y, x = (min(h, math.ceil(reach / edge)) for h, edge in zip(half_width, edges_cm, strict=True))
    return z, y, x


def mirrored(octant: FloatArray) -> FloatArray:
    """The full (2 h + 1) array from its octant of displacements >= 0."""
    full = octant
    for axis in range(3):
        flipped = np.flip(full, axis)
        full = np.concatenate([np.delete(flipped, -1, axis), full], axis)
    return full


def _exact_octant(kernel: RadialKernel, edges_cm: tuple[float, float, float], half_width: tuple[int, int, int]) -> FloatArray:
    moments = _cell_moments(kernel, edges_cm, half_width)
    # axis by axis: displacement i takes the rising side of cell i - 1 and the falling side of cell i; at 0 both are the
    # falling side of cell 0 and of its mirror image
    for axis in range(3):
        rising, falling = moments[1], moments[0]
        out = falling.copy()
        at = [slice(None)] * rising.ndim
        spatial = rising.ndim - 3 + axis
        at[spatial] = slice(1, None)
        before = list(at)
        before[spatial] = slice(None, -1)
        out[tuple(at)] += rising[tuple(before)]
        at[spatial] = slice(0, 1)
        out[tuple(at)] *= 2.0
        moments = out
    moments[0, 0, 0] += kernel.local_kev
    return moments


def _cell_moments(kernel: RadialKernel, edges_cm: tuple[float, float, float], half_width: tuple[int, int, int]) -> FloatArray:
    """(2, 2, 2, cz, cy, cx) integrals of k over each cell times (falling, rising) along z, y, x."""
    cz, cy, cx = (h + 1 for h in half_width)
    out = np.zeros((2, 2, 2, cz, cy, cx))
    close = tuple(min(c, _NEAR_CELLS) for c in (cz, cy, cx))
    for z in range(cz):  # a slab at a time, for memory
        slab = slice(z, z + 1)
        if z < close[0]:
            _fill_moments(out, kernel, edges_cm, (slab, slice(0, close[1]), slice(0, close[2])), _NEAR_ORDER)
            _fill_moments(out, kernel, edges_cm, (slab, slice(close[1], cy), slice(0, cx)), _FAR_ORDER)
            _fill_moments(out, kernel, edges_cm, (slab, slice(0, close[1]), slice(close[2], cx)), _FAR_ORDER)
        else:
            _fill_moments(out, kernel, edges_cm, (slab, slice(0, cy), slice(0, cx)), _FAR_ORDER)
    out[..., 0, 0, 0] = _origin_moments(kernel, edges_cm)
    return out


def _fill_moments(
    out: FloatArray,
    kernel: RadialKernel,
    edges_cm: tuple[float, float, float],
    block: tuple[slice, slice, slice],
    order: int,
) -> None:
    """Gauss-Legendre moments of a block of cells away from the origin, written into `out`."""
    if any(s.stop <= s.start for s in block):
        return
    mid = (kernel.radius_cm[1:] + kernel.radius_cm[:-1]) / 2
    per_cm = np.diff(kernel.cumulative_kev) / np.diff(kernel.radius_cm)
    u, w = _gauss(order)
    z, y, x = ((np.arange(s.start, s.stop)[:, None] + u) * edge for s, edge in zip(block, edges_cm, strict=True))
    square = z[:, :, None, None, None, None] ** 2 + y[:, :, None, None] ** 2 + x**2
    density = np.interp(np.sqrt(square), mid, per_cm, right=0.0) / (4 * np.pi * square)
    sides = np.stack([(1 - u) * w, u * w])  # (falling or rising, node)
    moments = np.einsum("zaybxc,pa,qb,rc->pqrzyx", density, sides, sides, sides, optimize=True)
    out[(slice(None), slice(None), slice(None), *block)] = moments * math.prod(edges_cm)


def _origin_moments(kernel: RadialKernel, edges_cm: tuple[float, float, float]) -> FloatArray:
    """(2, 2, 2) moments of the cell that touches the origin."""
    powers = _radial_moments(kernel)
    nodes, weights = _gauss(_ORIGIN_ORDER)
    p, q = np.meshgrid(nodes, nodes, indexing="ij")
    weight = np.outer(weights, weights)
    out = np.zeros((2, 2, 2))
    for axis in range(3):
        slopes = [p, q]
        slopes.insert(axis, np.ones_like(p))  # v_a = t * slope_a * L_a, t from 0 to 1 along `axis`
        reach = np.sqrt(sum((s * edge) ** 2 for s, edge in zip(slopes, edges_cm, strict=True)))
        # integral over t of e'(t reach) t^n = M_n(reach) / reach^(n + 1)
        radial = [np.interp(reach, kernel.radius_cm, powers[n]) / reach ** (n + 1) for n in range(4)]
        for a in range(2):
            for b in range(2):
                for c in range(2):
                    polynomial = _product([_side(s, rising) for s, rising in zip(slopes, (a, b, c), strict=True)])
                    inner = sum(coefficient * radial[n] for n, coefficient in enumerate(polynomial))
                    out[a, b, c] += float((weight * inner / reach**2).sum())
    return out * math.prod(edges_cm) / (4 * np.pi)


def _side(slope: FloatArray, rising: int) -> list[FloatArray]:
    """Coefficients in t of the falling side 1 - t s or the rising side t s."""
    one, zero = np.ones_like(slope), np.zeros_like(slope)
    return [zero, slope] if rising else [one, -slope]


def _product(factors: list[list[FloatArray]]) -> list[FloatArray]:
    """Coefficients in t of the product of three linear factors."""
    (a0, a1), (b0, b1), (c0, c1) = factors
    return [
        a0 * b0 * c0,
        a1 * b0 * c0 + a0 * b1 * c0 + a0 * b0 * c1,
        a1 * b1 * c0 + a1 * b0 * c1 + a0 * b1 * c1,
        a1 * b1 * c1,
    ]


def _radial_moments(kernel: RadialKernel) -> list[FloatArray]:
    """M_n(r) = integral of e'(s) s^n from 0 to r, n = 0 to 3, on the kernel's radii."""
    low, high = kernel.radius_cm[:-1], kernel.radius_cm[1:]
    per_cm = np.diff(kernel.cumulative_kev) / (high - low)
    return [np.concatenate([[0.0], np.cumsum(per_cm * (high ** (n + 1) - low ** (n + 1)) / (n + 1))]) for n in range(4)]


def _far_octant(kernel: RadialKernel, edges_cm: tuple[float, float, float], half_width: tuple[int, int, int]) -> FloatArray:
    mid = (kernel.radius_cm[1:] + kernel.radius_cm[:-1]) / 2
    per_cm = np.diff(kernel.cumulative_kev) / np.diff(kernel.radius_cm)
    step = 0.05
    uniform = np.arange(0.0, kernel.radius_cm[-1] + 2 * step, step)
    table = np.interp(uniform, mid, per_cm, right=0.0) / (4 * np.pi)
    table[uniform > kernel.radius_cm[-1]] = 0.0
    shape = tuple(h + 1 for h in half_width)
    out = np.zeros(shape)
    _fill_far(out, table, step, np.asarray(edges_cm, dtype=np.float64))
    return out


@numba.njit(cache=True)
def _fill_far(out: FloatArray, table: FloatArray, step: float, edges: FloatArray) -> None:  # pragma: no cover
    """V k(r) plus the second-order term of the box average of 1 / r^2, whose slow factor is taken as constant."""
    volume = edges[0] * edges[1] * edges[2]
    last = table.size - 2
    for i in range(out.shape[0]):
        zz = (i * edges[0]) ** 2
        for j in range(out.shape[1]):
            yy = (j * edges[1]) ** 2
            for k in range(out.shape[2]):
                xx = (k * edges[2]) ** 2
                rr = zz + yy + xx
                if rr == 0.0:
                    continue
                at = math.sqrt(rr) / step
                n = int(at)
                if n > last:
                    continue
                shell = table[n] + (at - n) * (table[n + 1] - table[n])
                bend = zz * edges[0] ** 2 + yy * edges[1] ** 2 + xx * edges[2] ** 2
                spread = edges[0] ** 2 + edges[1] ** 2 + edges[2] ** 2
                out[i, j, k] = volume * shell / rr * (1.0 + (8.0 * bend / rr**2 - 2.0 * spread / rr) / 12.0)
