"""From decoded masks to one label volume, with the checks that catch a wrong segmentation before it becomes a dose.

Overlaps: a lesion inside an organ belongs to the lesion, an organ inside the body outline to the organ; both are remarked.
Two organs may share a seam (up to 5 % of the smaller, which keeps it); more is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.errors import InputError
from tdt_core.imaging.volume import LabelVolume
from tdt_core.twin import Region

SEAM_FRACTION = 0.05
MIDLINE_TOLERANCE_MM = 25.0
# Least distance of the centroids of a pair, mm. Assumed: well under what adult anatomy shows; a horseshoe kidney passes.
PAIR_DISTANCE_MM = {"kidneys": 50.0, "parotid_glands": 50.0, "submandibular_glands": 20.0, "lacrimal_glands": 30.0}


@dataclass(frozen=True, eq=False)
class Grid:
    """A grid that masks may be drawn on: that of a CT or a scan. UIDs are the original ones."""

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    frame_of_reference: str
    series_uid: str


@dataclass(frozen=True, eq=False)
class Mask:
    """One region's voxels, bit-packed: a body CT with 20 regions would not fit otherwise. `name` is for messages."""

    region: Region
    packed: npt.NDArray[np.uint8]
    shape: tuple[int, int, int]
    voxels: int
    name: str

    @classmethod
    def of(cls, region: Region, mask: npt.NDArray[np.bool_], name: str) -> Mask:
        """Pack a boolean (z, y, x) array. Raises InputError `mask.empty`."""
        voxels = int(np.count_nonzero(mask))
        if voxels == 0:
            raise InputError(
                f"{name} ({region.name}) has no voxel",
                expected="at least one voxel",
                remedy="draw the region, or remove the empty segment",
                kind="mask.empty",
            )
        z, y, x = mask.shape
        return cls(region, np.packbits(mask), (z, y, x), voxels, name)

    @property
    def array(self) -> npt.NDArray[np.bool_]:
        """The boolean (z, y, x) array."""
        n = int(np.prod(self.shape))
        return np.unpackbits(self.packed, count=n).reshape(self.shape).astype(bool)


def label_volume(masks: Sequence[Mask], grid: Grid, midline_x_mm: float | None) -> tuple[LabelVolume, list[str]]:
    """One label volume of all masks, and remarks.

    Parameters
    ----------
    midline_x_mm : x (LPS) of the body's midline, from the CT; None skips the test against it.

    Raises
    ------
    InputError
        `mask.repeated`, `mask.overlap`, `mask.one_organ_as_two`, `mask.laterality`, `mask.empty`.
    """
    names = [m.region.name for m in masks]
    for name in sorted({n for n in names if names.count(n) > 1}):
        raise InputError(
            f"{names.count(name)} segments are all {name}",
            expected="one segment per region",
            remedy="merge them, or correct laterality and tracking ids",
            kind="mask.repeated",
        )
    _check_sides(masks, grid, midline_x_mm)
    ordered = sorted(masks, key=lambda m: (_rank(m.region), -m.voxels, m.region.name))
    labels = np.zeros(grid.shape, np.int16)
    findings = []
    for n, mask in enumerate(ordered, start=1):
        array = mask.array
        under = np.bincount(labels[array], minlength=n)
        for other in np.flatnonzero(under[1:n]) + 1:
            findings += _overlap(mask, ordered[other - 1], int(under[other]))
        labels[array] = n
    return _canonical(labels, ordered, grid), findings


def _rank(region: Region) -> int:
    """Later paints over earlier."""
    return {"body": 0, "rest": 0, "lesions": 3}.get(region.organ, 1 if region.name == "red_marrow" else 2)


def _overlap(top: Mask, under: Mask, shared: int) -> list[str]:
    """Remarks on an overlap, or a refusal. `top` keeps the voxels."""
    rank_top, rank_under = _rank(top.region), _rank(under.region)
    if rank_under == 0:
        return []  # everything lies in the body; nothing to say
    smaller = min(top.voxels, under.voxels)
    words = f"{top.region.name} and {under.region.name} share {shared} voxels ({100 * shared / smaller:.0f} % of the smaller)"
    if rank_top > rank_under:
        return [f"{words}; they count as {top.region.name}"]
    if shared <= SEAM_FRACTION * smaller:
        return [f"{words}; a seam, they count as {top.region.name}"]
    same_pair = top.region.organ == under.region.organ and top.region.laterality != under.region.laterality
    raise InputError(
        words,
        expected=f"separate regions, at most {100 * SEAM_FRACTION:.0f} % shared",
        remedy="one organ seems to be drawn as two: keep the side that exists" if same_pair else "correct the segmentation",
        kind="mask.one_organ_as_two" if same_pair else "mask.overlap",
    )


def _canonical(labels: npt.NDArray[np.int16], ordered: Sequence[Mask], grid: Grid) -> LabelVolume:
    """Labels renumbered in order of region names; volumes are those of the final labels."""
    by_name = sorted(range(len(ordered)), key=lambda n: ordered[n].region.name)
    lut = np.zeros(len(ordered) + 1, np.int16)
    lut[np.array(by_name) + 1] = np.arange(1, len(ordered) + 1)
    final = lut[labels]
    counts = np.bincount(final.ravel(), minlength=len(ordered) + 1)
    voxel_ml = abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000
    regions = []
    for label, n in enumerate(by_name, start=1):
        if counts[label] == 0:
            raise InputError(
                f"{ordered[n].name} ({ordered[n].region.name}) lies wholly inside other regions",
                expected="voxels of its own",
                remedy="correct the segmentation",
                kind="mask.empty",
            )
        regions.append(replace(ordered[n].region, volume_ml=float(counts[label] * voxel_ml)))
    return LabelVolume(final, grid.affine, grid.frame_of_reference, tuple(regions))


def _centroid_x(mask: Mask, affine: npt.NDArray[np.float64]) -> float:
    index = np.array([float(axis.mean()) for axis in np.nonzero(mask.array)])
    return float(affine[0, :3] @ index + affine[0, 3])


def _check_sides(masks: Sequence[Mask], grid: Grid, midline_x_mm: float | None) -> None:
    """Sides against each other and against the midline; LPS x grows to the patient's left."""
    sides: dict[str, dict[str, float]] = {}
    for mask in masks:
        if mask.region.laterality == "none":
            continue
        x = _centroid_x(mask, grid.affine)
        sides.setdefault(mask.region.organ, {})[mask.region.laterality] = x
    for organ, found in sorted(sides.items()):
        if len(found) == 2:
            _check_pair(organ, found["left"], found["right"])
        for where, x in found.items():
            wrong = 0.0 if midline_x_mm is None else (midline_x_mm - x) * (1 if where == "left" else -1)
            if wrong > MIDLINE_TOLERANCE_MM:
                raise InputError(
                    f"{organ}, {where}: its centre lies {wrong:.0f} mm on the other side of the body's midline",
                    expected=f"the {where} side",
                    remedy="correct the laterality of the segment, or the orientation of the images",
                    kind="mask.laterality",
                )


def _check_pair(organ: str, left: float, right: float) -> None:
    least = PAIR_DISTANCE_MM.get(organ, 20.0)
    if abs(left - right) < least:
        raise InputError(
            f"left and right {organ} have their centres {abs(left - right):.0f} mm apart across the body",
            expected=f"at least {least:.0f} mm",
            remedy="one organ seems to be drawn as two: keep the side that exists",
            kind="mask.one_organ_as_two",
        )
    if left < right:
        raise InputError(
            f"left and right {organ} are exchanged",
            expected="the left one on the patient's left (larger x in LPS)",
            remedy="correct the laterality of the segments",
            kind="mask.laterality",
        )


def midline_x_mm(hu: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> float | None:
    """x (LPS) of the body's middle: halfway between the outer ends of tissue (HU > -300), median over slices.

    None for a stack that is not nearly axial, or shows no body.
    """
    if abs(affine[0, 2]) < 0.9 * float(np.linalg.norm(affine[:3, 2])):
        return None
    profile = (hu > -300).mean(axis=1) > 0.1  # (z, x); a table is thin in y and falls out
    middles = []
    for row in profile:
        inside = np.flatnonzero(row)
        if len(inside):
            middles.append((inside[0] + inside[-1]) / 2)
    if not middles:
        return None
    index = np.array([(hu.shape[0] - 1) / 2, (hu.shape[1] - 1) / 2, float(np.median(middles))])
    return float(affine[0, :3] @ index + affine[0, 3])
