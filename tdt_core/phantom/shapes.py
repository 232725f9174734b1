"""Smooth organs of exact volume on a voxel grid.

A shape is a level function (below 1 inside an ellipsoid), warped by a few long plane waves so that it is no perfect
ellipsoid. An organ takes the voxels of lowest level until its volume is reached, so drawn and voxel volume agree to a voxel,
and the same rule shrinks or grows a lesion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tdt_core.errors import ModelError

FloatArray = npt.NDArray[np.float64]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Grid:
    """Half-voxel grid of the anatomy and the scan grid it refines.

    Attributes
    ----------
    shape : (z, y, x) of the half-voxel grid, cropped to the body.
    spacing_mm : edge of a half voxel.
    offset : (z, y, x) half voxels from the scan grid's corner to this grid's corner, even.
    scan_shape : (z, y, x) of the scan grid, voxel edge 2 x spacing.
    corner_mm : LPS (x, y, z) of the scan grid's low corner.
    """

    shape: tuple[int, int, int]
    spacing_mm: float
    offset: tuple[int, int, int]
    scan_shape: tuple[int, int, int]
    corner_mm: tuple[float, float, float]

    def axes(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Centres of the half voxels along z, y, x in LPS mm."""
        x0, y0, z0 = self.corner_mm
        h = self.spacing_mm
        return tuple(c + (o + np.arange(n) + 0.5) * h for c, o, n in zip((z0, y0, x0), self.offset, self.shape, strict=True))  # type: ignore[return-value]

    @property
    def voxel_ml(self) -> float:
        """Volume of a half voxel."""
        return self.spacing_mm**3 / 1000.0

    @property
    def scan_affine(self) -> FloatArray:
        """(k, j, i, 1) of the scan grid -> LPS mm."""
        s = 2 * self.spacing_mm
        x0, y0, z0 = self.corner_mm
        return np.array([[0.0, 0.0, s, x0 + s / 2], [0.0, s, 0.0, y0 + s / 2], [s, 0.0, 0.0, z0 + s / 2], [0.0, 0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Ellipsoid:
    """Centre (x, y, z) and semi-axes (x, y, z) in mm; tilts in degrees about y (in the coronal plane) and x; `warp` is the
    relative size of the surface waves and `wave_mm` their shortest length."""

    center: tuple[float, float, float]
    axes: tuple[float, float, float]
    tilt_y: float = 0.0
    tilt_x: float = 0.0
    warp: float = 0.06
    wave_mm: float = 60.0


def _rotation(shape: Ellipsoid) -> FloatArray:
    b, a = np.deg2rad(shape.tilt_y), np.deg2rad(shape.tilt_x)
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    return about_x @ about_y


def box_around(grid: Grid, center: Sequence[float], half_mm: Sequence[float]) -> Box:
    """Index box of the grid that holds centre +- half widths (x, y, z order in, z, y, x out)."""
    out = []
    for axis, n, c, r in zip(grid.axes(), grid.shape, reversed(list(center)), reversed(list(half_mm)), strict=True):
        low = int(np.clip((c - r - axis[0]) / grid.spacing_mm, 0, n - 1))
        high = int(np.clip((c + r - axis[0]) / grid.spacing_mm + 2, low + 1, n))
        out.append(slice(low, high))
    return out[0], out[1], out[2]


def level(grid: Grid, shape: Ellipsoid, rng: np.random.Generator, reach: float = 1.6) -> tuple[Box, npt.NDArray[np.float32]]:
    """Level function of a warped ellipsoid on the box that reaches `reach` times its semi-axes; 1 on its surface."""
    radius = max(shape.axes) if (shape.tilt_x or shape.tilt_y) else None
    box = box_around(grid, shape.center, [reach * (radius or a) + grid.spacing_mm for a in shape.axes])
    z, y, x = (axis[s] for axis, s in zip(grid.axes(), box, strict=True))
    dx, dy, dz = x[None, None, :] - shape.center[0], y[None, :, None] - shape.center[1], z[:, None, None] - shape.center[2]
    m = _rotation(shape)
    u, v, w = (m[0, r] * dx + m[1, r] * dy + m[2, r] * dz for r in range(3))
    size = np.sqrt((u / shape.axes[0]) ** 2 + (v / shape.axes[1]) ** 2 + (w / shape.axes[2]) ** 2)
    wave = np.zeros_like(size)
    for _ in range(5):
        k = rng.standard_normal(3)
        k *= 2 * np.pi / (shape.wave_mm * (1 + rng.random()) * np.linalg.norm(k))
        wave += np.cos(k[0] * dx + k[1] * dy + k[2] * dz + 2 * np.pi * rng.random())
    return box, (size / (1 + shape.warp * wave / np.sqrt(2.5))).astype(np.float32)


def lowest(values: npt.NDArray[np.float32], allowed: npt.NDArray[np.bool_], count: int, what: str) -> npt.NDArray[np.bool_]:
    """Mask of the `count` allowed voxels with the lowest value; ties go to the lower index. Raises ModelError when fewer are
    allowed."""
    if int(allowed.sum()) < count:
        raise ModelError(
            f"{what} needs {count} voxels and only {int(allowed.sum())} are free",
            expected="room for the organ",
            remedy="use a larger matrix or another seed, and report it",
            kind="model.phantom",
        )
    flat = np.where(allowed, values, np.inf).ravel()
    cut = np.partition(flat, count - 1)[count - 1]
    mask = flat < cut
    ties = np.flatnonzero(flat == cut)[: count - int(mask.sum())]
    mask[ties] = True
    return np.asarray(mask.reshape(values.shape))


def voxels(volume_ml: float, grid: Grid) -> int:
    """Half voxels nearest to a volume, at least one."""
    return max(1, round(volume_ml / grid.voxel_ml))
