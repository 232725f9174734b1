"""RTSTRUCT contours as masks on the CT that they were drawn on. PS3.3 C.8.8.5, C.8.8.6.

Contours are filled on a grid eight times finer than the voxel in plane, and a voxel belongs to the region when at least half
of it is inside: a rule on voxel centres alone would lose half of a small lesion. Contours of one plane combine by exclusive
or, so that inner contours are holes; a keyhole needs no special care under the even-odd rule.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from storage.dicom.parse import items, text, value, whole
from storage.masks import Grid, Mask
from tdt_core.errors import GeometryError, InputError
from tdt_core.imaging.regions import lesion_region, region_named
from tdt_core.twin import Region

FINE = 8
MAX_POINTS = 2_000_000
_LESION = re.compile(r"(?:lesion|gtv)[ _/-]?([A-Za-z]{0,4}[0-9]{1,4}[A-Za-z]?)", re.IGNORECASE)
_PLANAR_TOLERANCE = 0.1  # slices


def read_rtstruct(d: Dataset, grids: Sequence[Grid]) -> tuple[list[Mask], Grid, list[str]]:
    """Masks of one structure set, the grid they are on, and remarks.

    Raises
    ------
    InputError
        `region.unknown`, `region.tracking`, `rtstruct.contour_type`, `rtstruct.contour`, `mask.empty`.
    GeometryError
        `rtstruct.reference`, `rtstruct.planes`.
    """
    rois = {whole(r, "ROINumber", required=True) or 0: r for r in items(d, "StructureSetROISequence")}
    grid = _grid(d, rois, grids)
    contours = {whole(c, "ReferencedROINumber", required=True) or 0: c for c in items(d, "ROIContourSequence")}
    masks, findings, points = [], [], 0
    for n, roi in sorted(rois.items()):
        region = _region(n, text(roi, "ROIName"))
        polygons = [_polygon(c, n) for c in items(contours.get(n, Dataset()), "ContourSequence")]
        points += sum(len(p) for p in polygons)
        if points > MAX_POINTS:
            raise InputError(
                "too many contour points",
                expected=f"at most {MAX_POINTS}",
                remedy="export the object again at a usual size; a header like this is damaged or made to harm",
                kind="file.dimensions",
            )
        mask, drawn = _fill(polygons, grid, n)
        masks.append(Mask.of(region, mask, f"structure {n}"))
        if abs(masks[-1].voxels - drawn) > 0.1 * drawn:
            findings.append(f"{region.name}: filled volume is {100 * masks[-1].voxels / drawn:.0f} % of the drawn volume")
    if not masks:
        raise InputError(
            "a structure set without structures",
            expected="regions",
            remedy="draw the regions and export the structure set again",
            kind="mask.empty",
        )
    return masks, grid, findings


def _grid(d: Dataset, rois: dict[int, Dataset], grids: Sequence[Grid]) -> Grid:
    frames = {text(r, "ReferencedFrameOfReferenceUID") for r in rois.values()}
    here = [g for g in grids if frames == {g.frame_of_reference}]
    if not here:
        raise GeometryError(
            f"structures in {len(frames)} frames of reference, not one that an image of the folder has",
            expected="the frame of reference of one CT of the cycle",
            remedy="send the CT that the structures were drawn on",
            kind="rtstruct.reference",
        )
    series = {
        text(s, "SeriesInstanceUID")
        for frame in items(d, "ReferencedFrameOfReferenceSequence")
        for study in items(frame, "RTReferencedStudySequence")
        for s in items(study, "RTReferencedSeriesSequence")
    }
    return sorted(here, key=lambda g: g.series_uid not in series)[0]


def _region(n: int, name: str) -> Region:
    lesion = _LESION.fullmatch(name)
    if lesion:
        return lesion_region(lesion[1])
    try:
        region = region_named(name)
    except InputError:
        region = None
    if region is None or region.organ == "lesions":
        raise InputError(
            f"structure {n} has a name that is not in the table of regions",
            expected="a name of the region table, such as kidney_left, or lesion/<tracking id>",
            remedy="rename the structure, or add the spelling to region_codes.csv",
            kind="region.unknown",
        )
    return region


def _polygon(contour: Dataset, n: int) -> npt.NDArray[np.float64]:
    """(points, 3) of one closed contour, LPS mm."""
    if text(contour, "ContourGeometricType") not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
        raise InputError(
            f"structure {n} has contours that are not closed and planar",
            expected="CLOSED_PLANAR",
            remedy="leave points and open lines out of the structure set",
            kind="rtstruct.contour_type",
        )
    data = value(contour, "ContourData")
    flat = np.array([float(v) for v in data] if data is not None and hasattr(data, "__iter__") else [], float)
    if len(flat) < 9 or len(flat) % 3 or not np.isfinite(flat).all():
        raise InputError(
            f"structure {n} has a contour of {len(flat)} coordinates",
            expected="three or more finite points of three coordinates",
            remedy="export the structure set again",
            kind="rtstruct.contour",
        )
    return flat.reshape(-1, 3)


def _fill(polygons: Sequence[npt.NDArray[np.float64]], grid: Grid, n: int) -> tuple[npt.NDArray[np.bool_], float]:
    """The mask, and the drawn volume in voxels (area x plane distance)."""
    inverse = np.linalg.inv(grid.affine)
    planes: dict[float, list[npt.NDArray[np.float64]]] = {}
    for polygon in polygons:
        index = polygon @ inverse[:3, :3].T + inverse[:3, 3]
        if np.ptp(index[:, 0]) > _PLANAR_TOLERANCE:
            raise GeometryError(
                f"structure {n} has a contour that does not lie in a slice of its CT",
                expected="planar contours, parallel to the slices",
                remedy="draw on the axial slices of the referenced CT, or export a SEG",
                kind="rtstruct.planes",
            )
        planes.setdefault(round(float(index[:, 0].mean()), 2), []).append(index[:, 1:])
    mask = np.zeros(grid.shape, bool)
    if not planes:
        return mask, 0.0
    places = np.array(sorted(planes))
    spacing = max(1.0, float(np.median(np.diff(places)))) if len(places) > 1 else 1.0
    filled, area = {}, 0.0
    for place, drawn in planes.items():
        coverage = _coverage(drawn, grid.shape[1:])
        filled[place] = coverage >= 0.5
        area += float(coverage.sum())
    for k in range(grid.shape[0]):
        nearest = float(places[np.argmin(np.abs(places - k))])
        if abs(nearest - k) <= spacing / 2 + 1e-6:
            mask[k] = filled[nearest]
    return mask, area * spacing


def _coverage(polygons: Sequence[npt.NDArray[np.float64]], shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Share of each voxel inside the polygons, (rows, columns): even-odd rule on a grid `FINE` times finer."""
    fine = np.zeros((shape[0] * FINE, shape[1] * FINE), bool)
    for polygon in polygons:
        fine ^= _even_odd((polygon + 0.5) * FINE - 0.5, fine.shape)
    return np.asarray(fine.reshape(shape[0], FINE, shape[1], FINE).mean(axis=(1, 3)))


def _even_odd(polygon: npt.NDArray[np.float64], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Points of a unit grid inside one polygon of (row, column) vertices: a point is in when an odd number of edges lie left
    of it. Edges are half open in rows, so that a vertex on a row counts once."""
    y0, x0 = polygon[:, 0], polygon[:, 1]
    y1, x1 = np.roll(y0, -1), np.roll(x0, -1)
    toggles = np.zeros((shape[0], shape[1] + 1), bool)
    low, high = np.ceil(np.minimum(y0, y1)), np.ceil(np.maximum(y0, y1))  # rows low <= r < high
    for e in range(len(y0)):
        rows = np.arange(max(int(low[e]), 0), min(int(high[e]), shape[0]))
        if len(rows) == 0:
            continue
        cut = x0[e] + (rows - y0[e]) * (x1[e] - x0[e]) / (y1[e] - y0[e])
        first = np.clip(np.ceil(cut), 0, shape[1]).astype(int)
        toggles[rows, first] ^= True
    return np.logical_xor.accumulate(toggles, axis=1)[:, :-1]
