"""Electrons along straight rays through a voxel map: a water kernel whose depth follows the medium that the ray crosses.

A decay at a point sends its electron energy out evenly over directions. Along a ray the energy left within a distance r is
F(t), F the radial kernel of water and t the integral over the path of a = k times density. Every voxel gets the differences
of F between the ray's entry and exit, so that no energy is lost or made.

All source voxels use the same bundle of rays (start points in the voxel, directions), so the way through the lattice is
walked once, and one pass costs rays x crossed voxels x source voxels. The bundle's own error is taken out: the same rays are
followed through a uniform medium too, whose voxel kernel is known exactly, and the real media change that kernel as they
change the rays. Where media are uniform the exact kernel remains, and no voxel gets less than nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

from tdt_core.dosimetry.boxes import mirrored
from tdt_core.dosimetry.radial import RadialKernel
from tdt_core.dosimetry.units import Array32, FloatArray

Edges = tuple[float, float, float]

TABLE_STEPS = 4096
SPENT = 1e-5
"""Share of the energy at the far end of a kernel that is taken as deposited already, to end rays."""

NOTHING = 1e-8
"""Share of the energy below which a displacement is left out."""

_BUNDLE_SEED = 2024


@dataclass(frozen=True, eq=False)
class Bundle:
    """Rays of one voxel shape; each has the same weight.

    Attributes
    ----------
    first : (rays + 1,) where each ray's crossings start.
    step : (crossings, 3) voxel relative to the source voxel (z, y, x).
    length_cm : (crossings,) path length inside that voxel.
    """

    first: npt.NDArray[np.int64]
    step: npt.NDArray[np.int16]
    length_cm: Array32

    @property
    def rays(self) -> int:
        """Number of rays."""
        return self.first.size - 1


def bundle(edges_cm: Edges, reach_cm: float, rays: int) -> Bundle:
    """Rays up to a distance: low-discrepancy starts and directions, each with its eight mirror images.

    Parameters
    ----------
    edges_cm : edge lengths of the voxel (z, y, x).
    reach_cm : distance from the start at which a ray ends.
    rays : wanted number; rounded up to eight times a power of two.
    """
    count = 8 * 2 ** max(0, math.ceil(math.log2(max(rays, 8) / 8)))
    u = qmc.Sobol(5, rng=np.random.default_rng(_BUNDLE_SEED)).random(count // 8)
    edges = np.array(edges_cm)
    start = u[:, :3]  # in voxel edges
    cosine, angle = 2.0 * u[:, 3] - 1.0, 2.0 * np.pi * u[:, 4]
    sine = np.sqrt(1.0 - cosine**2)
    direction = np.stack([cosine, sine * np.cos(angle), sine * np.sin(angle)], axis=1)
    first, steps, lengths = [0], [], []
    for origin, heading in zip(start, direction, strict=True):
        step, length = _crossings(origin, heading, edges, reach_cm)
        for mirror in np.ndindex(2, 2, 2):  # the mirror image of a ray crosses the mirror images of its voxels
            steps.append(step * (1 - 2 * np.array(mirror, np.int16)))
            lengths.append(length)
            first.append(first[-1] + len(length))
    return Bundle(np.array(first), np.concatenate(steps), np.concatenate(lengths))


def _crossings(
    origin: FloatArray, heading: FloatArray, edges_cm: FloatArray, reach_cm: float
) -> tuple[npt.NDArray[np.int16], Array32]:
    """Voxels that a ray crosses, and the length in each: origin in voxel edges, heading a unit vector."""
    per_cm = heading / edges_cm  # voxel edges per cm of path
    cuts = [np.array([0.0, reach_cm])]
    for start, slope in zip(origin, per_cm, strict=True):
        end = start + slope * reach_cm
        planes = np.arange(math.ceil(min(start, end)), math.floor(max(start, end)) + 1)
        if abs(slope) > 1e-12:
            cuts.append((planes - start) / slope)
    at = np.unique(np.clip(np.concatenate(cuts), 0.0, reach_cm))
    middle = (at[1:] + at[:-1]) / 2
    return np.floor(origin + middle[:, None] * per_cm).astype(np.int16), np.diff(at).astype(np.float32)


@dataclass(frozen=True, eq=False)
class DepthTable:
    """Energy within an areal depth t on a grid uniform in sqrt(t): fast to look up, fine near 0.

    `cumulative_kev[i]` is the energy within `end_g_cm2 * (i / TABLE_STEPS)^2`; all of it is inside `end_g_cm2`.
    """

    end_g_cm2: float
    cumulative_kev: Array32


def depth_table(kernel: RadialKernel) -> DepthTable:
    """The moving part of a kernel as a table; its last hundred-thousandth is taken into the end of the range."""
    total = float(kernel.cumulative_kev[-1])
    end = float(np.interp(total * (1.0 - SPENT), kernel.cumulative_kev, kernel.radius_cm)) if total > 0 else 1e-6
    depth = max(end, 1e-6) * np.linspace(0.0, 1.0, TABLE_STEPS + 1) ** 2
    cumulative = np.interp(depth, kernel.radius_cm, kernel.cumulative_kev)
    cumulative[-1] = total
    return DepthTable(float(depth[-1]), cumulative.astype(np.float32))


@dataclass(frozen=True, eq=False)
class Stencil:
    """What one uniform medium gives to each displacement, exactly and by the bundle; local energy apart.

    Attributes
    ----------
    step : (n, 3) displacements (z, y, x) with any energy.
    kev : (n,) exact energy.
    by_rays_kev : (n,) the same by the bundle, 0 where no ray passes.
    """

    step: npt.NDArray[np.int16]
    kev: Array32
    by_rays_kev: Array32


def stencil(rays: Bundle, table: DepthTable, areal: float, octant: FloatArray) -> Stencil:
    """The stencil of a uniform medium of the given a; `octant` is its exact kernel without the local part."""
    scale = (table.cumulative_kev.size - 1) / math.sqrt(table.end_g_cm2)
    leave = np.cumsum(rays.length_cm, dtype=np.float64)
    enter = leave - rays.length_cm
    start = np.repeat(enter[rays.first[:-1]], np.diff(rays.first))
    steps = np.arange(table.cumulative_kev.size)
    before, within = (
        np.interp(np.sqrt(areal * np.maximum(r - start, 0.0)) * scale, steps, table.cumulative_kev) for r in (enter, leave)
    )
    kev = mirrored(octant)
    middle = np.array(octant.shape) - 1
    by_rays = np.zeros(kev.shape)
    at = rays.step + middle
    inside = ((at >= 0) & (at < kev.shape)).all(axis=1)
    np.add.at(by_rays, tuple(at[inside].T), (within - before)[inside] / rays.rays)
    used = np.argwhere((kev > kev.sum() * NOTHING) | (by_rays > 0))
    return Stencil(
        (used - middle).astype(np.int16), kev[tuple(used.T)].astype(np.float32), by_rays[tuple(used.T)].astype(np.float32)
    )


@dataclass(frozen=True, eq=False)
class Walk:
    """All that following rays needs, except activity.

    Attributes
    ----------
    rays, table : the bundle, and the moving part of the electron kernel of water.
    areal : (z, y, x) a, k times density.
    kind : (z, y, x) index of the uniform medium that stands for each source voxel.
    stencils : one per uniform medium.
    local_kev : energy that stays in the source voxel.
    """

    rays: Bundle
    table: DepthTable
    areal: Array32
    kind: npt.NDArray[np.int16]
    stencils: tuple[Stencil, ...]
    local_kev: float

    def spread(self, out: Array32, decays: Array32, slab: slice) -> None:
        """Add to `out` (z, y, x), keV, what the voxels in the z range `slab` with `decays` other than 0 send out."""
        self._run(out, decays, np.empty((0, 0, 0), np.float32), slab)

    def gathered(self, wanted: Array32, sources: npt.NDArray[np.bool_]) -> Array32:
        """(z, y, x) the transpose of `spread`: keV per decay of each source voxel, weighted with `wanted` where it ends."""
        out = np.zeros(self.areal.shape, np.float32)
        self._run(out, sources.astype(np.float32), wanted, slice(0, self.areal.shape[0]))
        return out

    def _run(self, out: Array32, decays: Array32, wanted: Array32, slab: slice) -> None:
        run: Any = _walk
        first = np.cumsum([0, *(s.kev.size for s in self.stencils)])
        step, kev, by_rays = (np.concatenate([getattr(s, n) for s in self.stencils]) for n in ("step", "kev", "by_rays_kev"))
        half = np.maximum(np.abs(self.rays.step).max(axis=0), np.abs(step).max(axis=0)).astype(np.int64)
        per_end = np.float32(1.0 / self.table.end_g_cm2)
        bundle_ = (self.rays.first, self.rays.step, self.rays.length_cm, per_end, self.table.cumulative_kev)
        stencils = (first, step, kev, by_rays, half, np.float32(self.local_kev))
        run(out, decays, wanted, self.areal, self.kind, *bundle_, *stencils, slab.start, slab.stop)


@numba.njit(cache=True, nogil=True)
def _traced(  # pragma: no cover
    z: int, y: int, x: int, areal: Any, first: Any, step: Any, length: Any, per_end: Any, cumulative: Any, half: Any,
    by_rays: Any, known: Any, touched: Any,
) -> int:  # fmt: skip
    """Energy of one decay by displacement, added to `by_rays`; how many displacements stand in `touched`."""
    nz, ny, nx = areal.shape
    wy, wx = 2 * half[1] + 1, 2 * half[2] + 1
    last = cumulative.size - 1
    share = np.float32(1.0 / (first.size - 1))
    count = 0
    for ray in range(first.size - 1):
        depth = before = np.float32(0.0)
        for n in range(first[ray], first[ray + 1]):
            dz, dy, dx = step[n, 0], step[n, 1], step[n, 2]
            i, j, k = z + dz, y + dy, x + dx
            if i < 0 or j < 0 or k < 0 or i >= nz or j >= ny or k >= nx:
                break
            depth += areal[i, j, k] * length[n]
            at = np.float32(math.sqrt(depth * per_end)) * np.float32(last)
            low = int(at)
            within = cumulative[last] if low >= last else (
                cumulative[low] + (at - np.float32(low)) * (cumulative[low + 1] - cumulative[low])
            )  # fmt: skip
            d = ((dz + half[0]) * wy + dy + half[1]) * wx + dx + half[2]
            if not known[d]:
                known[d] = True
                touched[count] = d
                count += 1
            by_rays[d] += share * (within - before)
            if low >= last:
                break
            before = within
    return count


@numba.njit(cache=True, nogil=True)
def _walk(  # pragma: no cover
    out: Any, decays: Any, wanted: Any, areal: Any, kind: Any, first: Any, step: Any, length: Any, per_end: Any,
    cumulative: Any, first_d: Any, step_d: Any, kev_d: Any, alike_d: Any, half: Any, local_kev: Any, start: int, stop: int,
) -> None:  # fmt: skip
    """Scatter into `out`, or, when `wanted` holds a map, gather into it.

    Where the real media take less than the uniform one, a displacement gets the exact value times the ratio, in which the
    noise of the rays cancels; where they take more, the exact value plus the difference. All are then scaled to the sum that
    loses no energy: exact, plus real, less uniform.
    """
    nz, ny, nx = areal.shape
    wy, wx = 2 * half[1] + 1, 2 * half[2] + 1
    size = (2 * half[0] + 1) * wy * wx
    by_rays, known, touched = np.zeros(size, np.float32), np.zeros(size, np.bool_), np.empty(size, np.int64)
    zero = np.float32(0.0)
    for z in range(start, stop):
        for y in range(ny):
            for x in range(nx):
                decay = decays[z, y, x]
                if decay == 0.0:
                    continue
                count = _traced(
                    z, y, x, areal, first, step, length, per_end, cumulative, half, by_rays, known, touched
                )  # fmt: skip
                medium = kind[z, y, x]
                made, sure, scale = zero, zero, np.float32(1.0)
                heard = local_kev * wanted[z, y, x] if wanted.size else zero
                if not wanted.size:
                    out[z, y, x] += decay * local_kev
                for turn in range(2):
                    if turn == 1:
                        scale = max(sure, zero) / made if made > 0 else zero
                    for n in range(first_d[medium], first_d[medium + 1]):
                        dz, dy, dx = step_d[n, 0], step_d[n, 1], step_d[n, 2]
                        i, j, k = z + dz, y + dy, x + dx
                        if i < 0 or j < 0 or k < 0 or i >= nz or j >= ny or k >= nx:
                            continue
                        d = ((dz + half[0]) * wy + dy + half[1]) * wx + dx + half[2]
                        gain = by_rays[d] - alike_d[n]
                        energy = kev_d[n] * by_rays[d] / alike_d[n] if gain < 0 else kev_d[n] + gain
                        if turn == 0:
                            made += energy
                            sure += kev_d[n] + gain
                            known[d] = False
                        elif wanted.size:
                            heard += wanted[i, j, k] * energy * scale
                        else:
                            out[i, j, k] += decay * energy * scale
                    for n in range(count):  # beyond what the uniform medium reaches
                        d = touched[n]
                        if not known[d]:
                            continue
                        if turn == 0:
                            made += by_rays[d]
                            sure += by_rays[d]
                        else:
                            i = z + d // (wy * wx) - half[0]
                            j = y + d // wx % wy - half[1]
                            k = x + d % wx - half[2]
                            if wanted.size:
                                heard += wanted[i, j, k] * by_rays[d] * scale
                            else:
                                out[i, j, k] += decay * by_rays[d] * scale
                for n in range(count):
                    by_rays[touched[n]] = zero
                    known[touched[n]] = False
                if wanted.size:
                    out[z, y, x] = heard
