"""The segmentation that a clinic would have: true surfaces moved by a systematic and a local error, on the scan grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tdt_core.imaging.regions import region_named, with_volume
from tdt_core.imaging.volume import LabelVolume
from tdt_core.phantom.activity import IMAGES
from tdt_core.phantom.anatomy import Anatomy, Structure, UInt8, tissues
from tdt_core.phantom.draws import rows
from tdt_core.phantom.shapes import Box, Grid, lowest
from tdt_core.twin import Region

Float32 = npt.NDArray[np.float32]
MARGIN_MM = 8.0


@dataclass(frozen=True)
class ContourReport:
    """How one contour differs from the truth: volume ratio, overlap (Dice) on the scan grid, and its stated volume sd."""

    volume_ratio: float
    dice: float
    volume_rel_sd: float


def _even_box(mask: npt.NDArray[np.bool_], grid: Grid) -> Box:
    """Box of a mask with a margin, whole scan voxels."""
    margin = int(np.ceil(MARGIN_MM / grid.spacing_mm))
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    out = []
    for s, n in zip(box, mask.shape, strict=True):
        low, high = max(0, s.start - margin), min(n, s.stop + margin)
        out.append(slice(low - low % 2, min(n, high + high % 2)))
    return out[0], out[1], out[2]


def _occupancy(mask: npt.NDArray[Any]) -> Float32:
    """Mean over each scan voxel of values on half voxels; of a mask, the share that it fills."""
    z, y, x = (n // 2 for n in mask.shape)
    return np.asarray(mask.reshape(z, 2, y, 2, x, 2).mean(axis=(1, 3, 5)), np.float32)


def _scan_box(box: Box, grid: Grid) -> Box:
    return tuple(slice((o + s.start) // 2, (o + s.stop) // 2) for o, s in zip(grid.offset, box, strict=True))  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class _Moved:
    """A region with its surface moved: score that orders scan voxels from the inside out, enclosed volume, its relative sd."""

    score: Float32
    volume_ml: float
    rel_sd: float


def _moved(mask: npt.NDArray[np.bool_], spacing_mm: float, rng: np.random.Generator) -> _Moved:
    """Move the surface by one systematic error (which changes the volume) and a smooth local one (which changes the shape).

    The signed depth is known to half a voxel only, so the volume follows from error x surface area, not from counting.
    """
    v = {name: rows(IMAGES)[f"contour.{name}"].parameter.value for name in ("bias_sd", "local_sd", "local_length")}
    out = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    depth = (ndimage.distance_transform_edt(mask, sampling=spacing_mm) - out).astype(np.float32)
    local = ndimage.gaussian_filter(
        rng.standard_normal(mask.shape, dtype=np.float32), v["local_length"] / spacing_mm / 2, mode="wrap"
    )
    local *= v["local_sd"] / max(float(local.std()), 1e-9)
    area_mm2 = float((np.abs(depth) <= 1.01 * spacing_mm).sum()) / 2 * spacing_mm**2
    depth = ndimage.gaussian_filter(depth, 1.0, mode="nearest")
    volume_mm3 = float(mask.sum()) * spacing_mm**3
    rel_sd = min(v["bias_sd"] * area_mm2 / volume_mm3, 0.4)
    factor = 1 + rel_sd * float(np.clip(rng.standard_normal(), -2, 2))
    return _Moved(_occupancy(depth + local), volume_mm3 / 1000 * max(factor, 0.2), rel_sd)


@dataclass(frozen=True, eq=False)
class _Part:
    number: int
    name: str
    box: Box
    moved: _Moved
    filled: Float32
    volume_ml: float


def density_of(name: str, structures: tuple[Structure, ...]) -> float:
    """Density (g/cm3) of a region's tissue."""
    return next(tissues()[s.tissue].density_g_cm3 for s in structures if s.region == name)


def segment(
    anatomy: Anatomy, labels: UInt8, rng: np.random.Generator, frame_of_reference: str
) -> tuple[LabelVolume, LabelVolume, dict[str, ContourReport]]:
    """The drawn segmentation, the true regions on the same grid, and how they differ.

    A region takes the scan voxels of highest occupancy until it has the volume that its moved surface encloses, at least one
    voxel; small regions are laid over large ones, so regions never overlap.
    """
    grid, structures = anatomy.grid, anatomy.structures()
    voxel_ml = 8 * grid.voxel_ml
    drawn, true = (np.zeros(grid.scan_shape, np.int16) for _ in range(2))
    parts: list[_Part] = []
    for name in anatomy.regions():
        mask = np.isin(labels, [s.code for s in structures if s.region == name])
        if not mask.any():
            continue
        box = _even_box(mask, grid)
        moved = _moved(mask[box], grid.spacing_mm, rng)
        filled = _occupancy(mask[box])
        parts.append(_Part(len(parts) + 1, name, _scan_box(box, grid), moved, filled, float(mask.sum()) * grid.voxel_ml))
    for part in sorted(parts, key=lambda p: -p.volume_ml):
        smooth = part.filled + 0.05 * ndimage.gaussian_filter(part.filled, 1.0)
        everywhere = np.ones(part.filled.shape, bool)
        for target, score, volume in ((drawn, part.moved.score, part.moved.volume_ml), (true, smooth, part.volume_ml)):
            count = min(max(1, round(volume / voxel_ml)), everywhere.size)
            target[part.box][lowest(-score, everywhere, count, part.name)] = part.number
    regions: list[Region] = []
    true_regions: list[Region] = []
    report: dict[str, ContourReport] = {}
    for part in parts:
        name, volume, rel_sd = part.name, part.volume_ml, part.moved.rel_sd
        density = density_of(name, structures)
        a, b = drawn == part.number, true == part.number
        drawn_ml = float(a.sum()) * voxel_ml
        regions.append(with_volume(region_named(name), drawn_ml, drawn_ml * density, rel_sd))
        true_regions.append(with_volume(region_named(name), volume, volume * density, 0.0))
        both = 2.0 * float((a & b).sum()) / float(a.sum() + b.sum())
        report[name] = ContourReport(drawn_ml / volume, both, rel_sd)
    affine = grid.scan_affine
    return (
        LabelVolume(drawn, affine, frame_of_reference, tuple(regions)),
        LabelVolume(true, affine, frame_of_reference, tuple(true_regions)),
        report,
    )
