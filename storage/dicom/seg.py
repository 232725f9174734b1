"""SEG objects of type BINARY as masks on the grid that they were drawn on. PS3.3 C.8.20.

Regions come from coded values: property type (or anatomic region), laterality as a modifier, tracking id for lesions. A label
is free text: it may confirm a code, never replace it, and is never repeated in a message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from storage.dicom.geometry import directions, pixel_spacing
from storage.dicom.parse import items, numbers, safe, text, uid, whole
from storage.masks import Grid, Mask
from tdt_core.errors import GeometryError, InputError
from tdt_core.imaging.regions import LATERALITY_CODES, LESION_CODES, alias, lesion_region, region_for
from tdt_core.twin import Region

Token = Callable[[str], str]
"""A persistent pseudonym of a text."""

PLAIN_TRACKING = re.compile(r"[A-Za-z]{0,8}[._-]?[0-9]{1,4}[A-Za-z]?")
"""A tracking id that is a number or short code, and may therefore travel."""

# property types that say nothing about the organ; the anatomic region does then
_GENERIC = frozenset({"85756007", "T-D0050", "91723000", "113343008", "123037004", "T-D000A"})
_IN_PLANE_TOLERANCE = 0.02  # voxels


def read_seg(d: Dataset, grids: Sequence[Grid], token: Token) -> tuple[list[Mask], Grid]:
    """Masks of one SEG object and the grid they are on.

    Parameters
    ----------
    d : data set with pixels.
    grids : grids of the images that were read, any frame of reference.
    token : pseudonym for a tracking UID, used where the tracking id is not a plain number or code.

    Raises
    ------
    InputError
        `seg.type`, `seg.reference`, `seg.segments`, `region.unknown`, `region.laterality`, `region.contradiction`,
        `region.tracking`, `mask.empty`.
    GeometryError
        `seg.grid` when no grid of its frame of reference fits.
    """
    kind = text(d, "SegmentationType")
    if kind != "BINARY" or whole(d, "BitsAllocated") != 1:
        raise InputError(
            f"a segmentation of type {safe(kind)}", expected="BINARY", remedy="export it as BINARY", kind="seg.type"
        )
    segments = {whole(s, "SegmentNumber", required=True) or 0: s for s in items(d, "SegmentSequence")}
    frames = items(d, "PerFrameFunctionalGroupsSequence")
    if not segments or len(frames) != (whole(d, "NumberOfFrames") or 0):
        raise InputError(
            f"{len(segments)} segments in {len(frames)} described frames",
            expected="one description per frame and segment",
            remedy="export the segmentation again",
            kind="seg.segments",
        )
    regions = {n: _region(n, s, token) for n, s in sorted(segments.items())}
    grid = _grid(d, frames, grids)
    of_segment: dict[int, list[tuple[int, int]]] = {n: [] for n in segments}
    for f, frame in enumerate(frames):
        n = _segment_number(d, frame)
        if n not in of_segment:
            raise InputError(
                "a frame of a segment that is not described",
                expected="segments with a description each",
                remedy="export the segmentation again",
                kind="seg.segments",
            )
        of_segment[n].append((f, _slice_index(d, frame, grid)))
    masks = []
    for n, places in of_segment.items():
        mask = np.zeros(grid.shape, bool)
        for f, k in places:
            mask[k] |= _frame(d, f, grid.shape[1:])
        masks.append(Mask.of(regions[n], mask, f"segment {n}"))
    return masks, grid


def _segment_number(d: Dataset, frame: Dataset) -> int:
    return whole(_functional(d, frame, "SegmentIdentificationSequence"), "ReferencedSegmentNumber") or 0


def _frame(d: Dataset, f: int, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """One frame out of the packed bits (least significant bit first, frames not padded)."""
    n = shape[0] * shape[1]
    first = f * n
    raw = np.frombuffer(d.PixelData, np.uint8, count=(first + n + 7) // 8 - first // 8, offset=first // 8)
    bits = np.unpackbits(raw, bitorder="little")[first % 8 : first % 8 + n]
    return bits.reshape(shape).astype(bool)


def _functional(d: Dataset, frame: Dataset, group: str) -> Dataset:
    """A functional group's item: of the frame, else the shared one."""
    shared = items(d, "SharedFunctionalGroupsSequence")
    found = items(frame, group) or (items(shared[0], group) if shared else [])
    if not found:
        raise GeometryError(
            f"{group} is absent",
            expected="a placement for each frame",
            remedy="export the segmentation again with the place of every frame",
            kind="seg.placement",
        )
    return found[0]


def _placement(d: Dataset, frame: Dataset) -> tuple[npt.NDArray[np.float64], ...]:
    """Position, vector to the next row, vector to the next column, LPS mm."""
    position = np.array(numbers(_functional(d, frame, "PlanePositionSequence"), "ImagePositionPatient", 3))
    row, column = directions(numbers(_functional(d, frame, "PlaneOrientationSequence"), "ImageOrientationPatient", 6))
    dy, dx = pixel_spacing(_functional(d, frame, "PixelMeasuresSequence"))
    return position, column * dy, row * dx


def _index(d: Dataset, frame: Dataset, grid: Grid) -> int | None:
    """Slice of the grid that a frame covers, None when it is on another grid."""
    if (whole(d, "Rows"), whole(d, "Columns")) != grid.shape[1:]:
        return None
    position, down, right = _placement(d, frame)
    inverse = np.linalg.inv(grid.affine)
    k, j, i = inverse[:3, :3] @ position + inverse[:3, 3]
    steps = inverse[:3, :3] @ np.column_stack([down, right])
    n = max(grid.shape)
    straight = np.abs(steps - np.array([[0, 0], [1, 0], [0, 1]])).max() * n < 10 * _IN_PLANE_TOLERANCE
    here = max(abs(j), abs(i), abs(k - round(k))) < _IN_PLANE_TOLERANCE
    return round(float(k)) if straight and here and 0 <= round(k) < grid.shape[0] else None


def _slice_index(d: Dataset, frame: Dataset, grid: Grid) -> int:
    k = _index(d, frame, grid)
    if k is None:
        raise _no_grid()
    return k


def _grid(d: Dataset, frames: Sequence[Dataset], grids: Sequence[Grid]) -> Grid:
    frame_uid = uid(d, "FrameOfReferenceUID", kind="geometry.frame_of_reference_missing")
    here = [g for g in grids if g.frame_of_reference == frame_uid]
    if not here:
        raise GeometryError(
            "a segmentation in a frame of reference that no image of the folder has",
            expected="the frame of reference of a CT or scan of the cycle",
            remedy="send the images that it was drawn on",
            kind="seg.reference",
        )
    referenced = {text(s, "SeriesInstanceUID") for s in items(d, "ReferencedSeriesSequence")}
    here.sort(key=lambda g: g.series_uid not in referenced)
    for grid in here:
        if all(_index(d, f, grid) is not None for f in frames):
            return grid
    raise _no_grid()


def _no_grid() -> GeometryError:
    return GeometryError(
        "a segmentation whose frames lie on no image's grid",
        expected="rows, columns, spacing and slices of the CT or scan that it refers to",
        remedy="export it on the grid of the images that it was drawn on",
        kind="seg.grid",
    )


def _code(d: Dataset, sequence: str) -> str:
    found = items(d, sequence)
    return text(found[0], "CodeValue") if found else ""


def _region(n: int, segment: Dataset, token: Token) -> Region:
    """Region of a segment from its codes."""
    types = items(segment, "SegmentedPropertyTypeCodeSequence")
    code = text(types[0], "CodeValue") if types else ""
    side = _code(types[0], "SegmentedPropertyTypeModifierCodeSequence") if types else ""
    if code in _GENERIC and items(segment, "AnatomicRegionSequence"):
        anatomy = items(segment, "AnatomicRegionSequence")[0]
        code = text(anatomy, "CodeValue")
        side = _code(anatomy, "AnatomicRegionModifierSequence") or side
    if code in LESION_CODES:
        return _lesion(n, segment, token)
    if side and side not in LATERALITY_CODES:
        raise _laterality(n, code)
    try:
        region = region_for(code, side or None)
    except InputError as e:
        if e.kind == "input.laterality":
            raise _laterality(n, code) from None
        raise InputError(
            f"segment {n} has code {safe(code)}, which names no region",
            expected="a code of the region table (kidney 64033007, liver 10200004, lesion 52988006, ...)",
            remedy="name the segment by a listed code with its laterality, or leave it out of the segmentation",
            kind="region.unknown",
        ) from None
    _check_label(n, text(segment, "SegmentLabel"), region)
    return region


def _laterality(n: int, code: str) -> InputError:
    return InputError(
        f"segment {n} (code {safe(code)}) has no side, or a side that does not fit",
        expected="left (7771000) or right (24028007) as a modifier on a paired organ, none on others",
        remedy="set the laterality modifier of the segment",
        kind="region.laterality",
    )


def _check_label(n: int, label: str, region: Region) -> None:
    """Refuse a label that names another region than the code; an unknown label is free text and says nothing."""
    try:
        named = alias(label)
    except InputError:
        return
    if named != region.name:
        raise InputError(
            f"segment {n} is coded {region.name} but labelled {named}",
            expected="code, laterality and label that agree",
            remedy="correct the code or the label of the segment",
            kind="region.contradiction",
        )


def _lesion(n: int, segment: Dataset, token: Token) -> Region:
    tracking = text(segment, "TrackingID")
    if PLAIN_TRACKING.fullmatch(tracking):
        return lesion_region(tracking)
    persistent = text(segment, "TrackingUID")
    if not persistent:
        raise InputError(
            f"segment {n} is a lesion without a tracking id",
            expected="TrackingID (such as L3) or TrackingUID, the same in every cycle",
            remedy="give the lesion a tracking id that it keeps over the cycles",
            kind="region.tracking",
        )
    return lesion_region(f"u{token(persistent)}")
