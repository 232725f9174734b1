"""From slices to one volume: strict, because a reader that guesses puts a kidney in the wrong place without a word.

Slices are sorted by the projection of their position on the normal, never by number or name. One orientation, one pixel
spacing, one frame of reference; a gap, a repeated position or a shear is refused, never repaired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from storage.dicom.parse import numbers, uid, whole
from tdt_core.errors import GeometryError

FloatArray = npt.NDArray[np.float64]

SPACING_TOLERANCE = 0.01  # of the spacing, or mm, whichever is larger
SHEAR_TOLERANCE_MM = 0.1
_DIRECTION_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Plane:
    """Placement of one slice. `spacing_mm` is (between rows, between columns); directions are unit vectors in LPS."""

    position: FloatArray
    row: FloatArray
    column: FloatArray
    spacing_mm: tuple[float, float]
    shape: tuple[int, int]
    frame_of_reference: str

    @property
    def normal(self) -> FloatArray:
        """row x column."""
        return np.asarray(np.cross(self.row, self.column))


def directions(cosines: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    """Row and column direction from ImageOrientationPatient. Raises GeometryError when they are not perpendicular units."""
    row, column = np.array(cosines[:3], float), np.array(cosines[3:], float)
    skew = max(abs(row @ row - 1), abs(column @ column - 1), abs(row @ column))
    if skew > _DIRECTION_TOLERANCE:
        raise GeometryError(
            "the image orientation is not two perpendicular unit vectors",
            expected="direction cosines of rows and columns",
            remedy="export the series again from the scanner or archive",
            kind="geometry.orientation",
        )
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    return row, column / np.linalg.norm(column)


def pixel_spacing(d: Dataset) -> tuple[float, float]:
    """PixelSpacing (between rows, between columns), mm. Raises GeometryError when absent or not positive."""
    try:
        dy, dx = numbers(d, "PixelSpacing", 2, kind="geometry.pixel_spacing_missing")
    except Exception as e:
        if getattr(e, "kind", "") != "geometry.pixel_spacing_missing":
            raise
        raise GeometryError(
            "PixelSpacing is absent",
            expected="the distance of rows and of columns, mm",
            remedy="export the series with its pixel spacing; it is never taken from the field of view",
            kind="geometry.pixel_spacing_missing",
        ) from None
    if not (0.01 < dy < 100 and 0.01 < dx < 100):
        raise GeometryError(
            f"pixel spacing {dy} x {dx} mm",
            expected="0.01 to 100 mm",
            remedy="export one reconstruction per series, with its own pixel spacing",
            kind="geometry.pixel_spacing",
        )
    return dy, dx


def plane_of(d: Dataset) -> Plane:
    """Image plane of a single-frame object."""
    row, column = directions(numbers(d, "ImageOrientationPatient", 6, kind="geometry.orientation_missing"))
    return Plane(
        position=np.array(numbers(d, "ImagePositionPatient", 3, kind="geometry.position_missing")),
        row=row,
        column=column,
        spacing_mm=pixel_spacing(d),
        shape=(whole(d, "Rows", required=True) or 0, whole(d, "Columns", required=True) or 0),
        frame_of_reference=uid(d, "FrameOfReferenceUID", kind="geometry.frame_of_reference_missing"),
    )


def stack(planes: Sequence[Plane]) -> tuple[list[int], FloatArray]:
    """Order of slices along the normal and the affine of the volume.

    Returns
    -------
    order : indices into `planes`, first slice first.
    affine : (4, 4) voxel indices (k, j, i, 1) to LPS mm; the first axis runs along row x column.

    Raises
    ------
    GeometryError
        `geometry.frames_of_reference`, `geometry.orientation`, `geometry.pixel_spacing`, `geometry.shape`,
        `geometry.single_slice`, `geometry.repeated_position`, `geometry.missing_slice`, `geometry.uneven`, `geometry.shear`.
    """
    first = planes[0]
    _same(planes)
    if len(planes) < 2:
        raise GeometryError(
            "a series of one slice", expected="a volume", remedy="send all slices", kind="geometry.single_slice"
        )
    along = np.array([p.position @ first.normal for p in planes])
    order = [int(n) for n in np.argsort(along, kind="stable")]
    step_mm = _even_step(along[order])
    positions = np.array([planes[n].position for n in order])
    drift = positions - positions[0] - np.outer(along[order] - along[order[0]], first.normal)
    if np.linalg.norm(drift, axis=1).max() > SHEAR_TOLERANCE_MM:
        raise GeometryError(
            f"slices drift {np.linalg.norm(drift, axis=1).max():.2f} mm off their normal: a sheared stack (tilted gantry)",
            expected=f"positions along the normal within {SHEAR_TOLERANCE_MM} mm",
            remedy="export a reconstruction without tilt, or resample it to a straight grid in the CT software",
            kind="geometry.shear",
        )
    affine = np.eye(4)
    affine[:3, 0] = first.normal * step_mm
    affine[:3, 1] = first.column * first.spacing_mm[0]
    affine[:3, 2] = first.row * first.spacing_mm[1]
    affine[:3, 3] = positions[0]
    return order, affine


def _same(planes: Sequence[Plane]) -> None:
    first = planes[0]
    frames = {p.frame_of_reference for p in planes}
    if len(frames) > 1:
        raise GeometryError(
            f"{len(frames)} frames of reference in one series",
            expected="one",
            remedy="split the series by frame of reference; patients moved between them",
            kind="geometry.frames_of_reference",
        )
    if any(np.abs(p.row - first.row).max() > 1e-4 or np.abs(p.column - first.column).max() > 1e-4 for p in planes):
        raise GeometryError(
            "slices of several orientations in one series",
            expected="one orientation",
            remedy="leave out localisers and reformats",
            kind="geometry.orientation",
        )
    if any(not np.allclose(p.spacing_mm, first.spacing_mm, rtol=1e-4) for p in planes):
        raise GeometryError(
            "several pixel spacings in one series",
            expected="one",
            remedy="export one reconstruction per series, with its own pixel spacing",
            kind="geometry.pixel_spacing",
        )
    if any(p.shape != first.shape for p in planes):
        raise GeometryError(
            "slices of several sizes in one series",
            expected="one size",
            remedy="export one reconstruction per series",
            kind="geometry.shape",
        )


def _even_step(along: FloatArray) -> float:
    """Spacing of sorted slices, mm."""
    gaps = np.diff(along)
    step = float(np.median(gaps))
    if gaps.min() < 0.01:
        raise GeometryError(
            f"{int((gaps < 0.01).sum())} slices stand at the place of another",
            expected="one slice at each position",
            remedy="send one reconstruction per series; this one holds two, or phases",
            kind="geometry.repeated_position",
        )
    off = np.abs(gaps - step)
    if (off > max(SPACING_TOLERANCE, SPACING_TOLERANCE * step)).any():
        lost = np.rint(gaps / step) - 1
        whole_gaps = np.abs(gaps - (lost + 1) * step) <= 0.1 * step
        if whole_gaps.all() and lost.sum() > 0:
            raise GeometryError(
                f"{int(lost.sum())} slices are missing of {len(along) + int(lost.sum())}",
                expected=f"a slice every {step:.3f} mm",
                remedy="send the whole series again; a gap is never filled",
                kind="geometry.missing_slice",
            )
        raise GeometryError(
            f"slice distances between {gaps.min():.3f} and {gaps.max():.3f} mm",
            expected="even spacing within 1 %",
            remedy="export a reconstruction with one slice distance",
            kind="geometry.uneven",
        )
    return float((along[-1] - along[0]) / (len(along) - 1))
