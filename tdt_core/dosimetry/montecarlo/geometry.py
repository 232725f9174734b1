"""The voxel grid as compiled transport reads it, and where energy is scored.

Components are in array order: axis 0 (z), 1 (y), 2 (x); lengths in cm from the corner of the first voxel. Outside is vacuum.
With `radii2` not empty, energy is also scored by the distance from `centre` (point kernels in one huge voxel).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from tdt_core.dosimetry.montecarlo.grid import STEPS_PER_OCTAVE
from tdt_core.dosimetry.montecarlo.random import State, uniform
from tdt_core.dosimetry.montecarlo.tables import MU, Tables
from tdt_core.dosimetry.units import Array32, FloatArray

EMITTED, PHOTONS_OUT, ELECTRONS_OUT, SUNK = 0, 1, 2, 3
ACCOUNTS = 4

_SHIFT = 23 - STEPS_PER_OCTAVE.bit_length() + 1
_MASK = (1 << _SHIFT) - 1
_UNIT = 1.0 / (1 << _SHIFT)
_BIAS = 127 * STEPS_PER_OCTAVE


class Grid(NamedTuple):
    """Voxels, flattened in C order.

    Attributes
    ----------
    material : (voxels,) index of medium; density : (voxels,) g/cm3.
    nz, ny, nx, ez, ey, ex : number of voxels, and their edges in cm.
    majorant : (n,) largest attenuation of any voxel on the energy grid, 1/cm.
    reject_cm : an electron whose range is below this stops where it is, wherever the voxel's walls are; 0 in dose maps.
    sinks : (voxels,) true where deposits count as lost to the balance of escaping energy; empty for dose maps.
    cz, cy, cx, radii2 : centre in cm, and (k,) squared radii in cm2 of shells, empty for dose maps.
    """

    material: npt.NDArray[np.uint8]
    density: FloatArray
    nz: int
    ny: int
    nx: int
    ez: float
    ey: float
    ex: float
    majorant: FloatArray
    reject_cm: float
    sinks: npt.NDArray[np.bool_]
    cz: float
    cy: float
    cx: float
    radii2: FloatArray


def make_grid(
    material: npt.NDArray[Any],
    density: Array32 | FloatArray,
    spacing_mm: tuple[float, float, float],
    physics: Tables,
    *,
    reject_cm: float = 0.0,
    radii_cm: FloatArray | None = None,
    sinks: npt.NDArray[np.bool_] | None = None,
) -> Grid:
    """Grid from (z, y, x) maps; `radii_cm` are shells around the middle of the grid."""
    ez, ey, ex = (float(s) / 10.0 for s in spacing_mm)
    nz, ny, nx = material.shape
    present = np.unique(material)
    densest = np.array([float(density[material == m].max()) for m in present])
    return Grid(
        material=np.ascontiguousarray(material, dtype=np.uint8).ravel(),
        density=np.ascontiguousarray(density, dtype=np.float64).ravel(),
        nz=nz,
        ny=ny,
        nx=nx,
        ez=ez,
        ey=ey,
        ex=ex,
        majorant=np.maximum((physics.rows[present, :, MU] * densest[:, None]).max(axis=0), 1e-12),
        reject_cm=reject_cm,
        sinks=np.zeros(0, np.bool_) if sinks is None else np.ascontiguousarray(sinks).ravel(),
        cz=ez * nz / 2.0,
        cy=ey * ny / 2.0,
        cx=ex * nx / 2.0,
        radii2=np.zeros(0) if radii_cm is None else np.asarray(radii_cm, dtype=np.float64) ** 2,
    )


@njit(cache=True, nogil=True, error_model="numpy")
def place(energy: float) -> tuple[int, float]:
    """Index of the energy below, and the fraction of the way to the next."""
    bits = np.float32(energy).view(np.int32)
    index = (bits >> _SHIFT) - _BIAS
    if index < 0:
        return 0, 0.0
    return int(index), (bits & _MASK) * _UNIT


@njit(cache=True, nogil=True, error_model="numpy")
def at(rows: FloatArray, medium: int, index: int, fraction: float, column: int) -> float:
    """Value of one column of the tables between two energies."""
    low = rows[medium, index, column]
    return low + fraction * (rows[medium, index + 1, column] - low)


@njit(cache=True, nogil=True, error_model="numpy")
def between(row: FloatArray, index: int, fraction: float) -> float:
    """Value between two entries of a one-dimensional table."""
    return row[index] + fraction * (row[index + 1] - row[index])


@njit(cache=True, nogil=True, error_model="numpy")
def score(
    grid: Grid, tally: FloatArray, shells: FloatArray, account: FloatArray, voxel: int,
    x: float, y: float, z: float, energy: float,
) -> None:  # fmt: skip
    """Energy to a voxel, and to the shell of the point where there are shells."""
    tally[voxel] += energy
    if grid.sinks.size and grid.sinks[voxel]:
        account[SUNK] += energy
    if grid.radii2.size:
        r2 = (z - grid.cz) ** 2 + (y - grid.cy) ** 2 + (x - grid.cx) ** 2
        shells[np.searchsorted(grid.radii2, r2)] += energy


@njit(cache=True, nogil=True, error_model="numpy")
def score_along(
    state: State, grid: Grid, tally: FloatArray, shells: FloatArray, account: FloatArray, voxel: int,
    x: float, y: float, z: float, u: float, v: float, w: float, length: float, energy: float,
) -> None:  # fmt: skip
    """Energy lost evenly along a straight segment inside one voxel; for shells, at one random point of it."""
    tally[voxel] += energy
    if grid.sinks.size and grid.sinks[voxel]:
        account[SUNK] += energy
    if grid.radii2.size:
        s = length * uniform(state)
        r2 = (z + s * w - grid.cz) ** 2 + (y + s * v - grid.cy) ** 2 + (x + s * u - grid.cx) ** 2
        shells[np.searchsorted(grid.radii2, r2)] += energy


@njit(cache=True, nogil=True, error_model="numpy")
def to_wall(edge: float, index: int, position: float, cosine: float) -> float:
    """Distance along the flight to the wall of the voxel on one axis."""
    if cosine > 1e-12:
        return max(0.0, ((index + 1) * edge - position) / cosine)
    if cosine < -1e-12:
        return max(0.0, (index * edge - position) / cosine)
    return 1e30


@njit(cache=True, nogil=True, error_model="numpy")
def clearance(grid: Grid, iz: int, iy: int, ix: int, z: float, y: float, x: float) -> float:
    """Shortest distance to any wall of the voxel."""
    a = min(z - iz * grid.ez, (iz + 1) * grid.ez - z)
    b = min(y - iy * grid.ey, (iy + 1) * grid.ey - y)
    c = min(x - ix * grid.ex, (ix + 1) * grid.ex - x)
    return min(a, min(b, c))
