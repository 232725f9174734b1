"""RTSTRUCT whose contours run along voxel edges, so that filling them gives back exactly the voxels they came from.

Contours through voxel centres lose the outer half voxel in other readers, which takes a small lesion down to half its volume.
A hole is joined to its outline by a keyhole, a cut without width, because readers disagree on inner contours. Cuts run off
voxel centres. PS3.3 C.8.8.5, C.8.8.6, C.8.8.8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from storage.dicom.write_common import (
    DicomPatient,
    DicomSeries,
    DicomStudy,
    Equipment,
    ds_list,
    new_dataset,
)
from storage.dicom.write_ct import CT_SOP_CLASS
from tdt_core.imaging.volume import LabelVolume

RTSTRUCT_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
Vertex = tuple[int, int]
Point = tuple[float, float]


def rtstruct(
    labels: LabelVolume,
    source: Sequence[Dataset],
    patient: DicomPatient,
    study: DicomStudy,
    series: DicomSeries,
    equipment: Equipment,
    sop_uid: str,
) -> Dataset:
    """An RTSTRUCT data set of a label volume drawn on the CT series `source` (one data set per slice, same grid)."""
    d = new_dataset(RTSTRUCT_SOP_CLASS, sop_uid, "RTSTRUCT", patient, study, series, equipment)
    for absent in ("BodyPartExamined", "ContentDate", "ContentTime"):
        del d[absent]
    d.OperatorsName = ""
    d.InstanceNumber = 1
    d.StructureSetLabel = "REGIONS"
    d.StructureSetDate, d.StructureSetTime = d.SeriesDate, d.SeriesTime
    d.ApprovalStatus = "UNAPPROVED"
    d.ReferencedFrameOfReferenceSequence = [_referenced_frame(study, source)]
    d.StructureSetROISequence, d.ROIContourSequence, d.RTROIObservationsSequence = [], [], []
    for n, region in enumerate(labels.regions, start=1):
        mask = labels.labels == n
        if not mask.any():
            continue
        roi, contour, observation = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = n, region.name, "MANUAL"
        roi.ReferencedFrameOfReferenceUID = study.frame_of_reference_uid
        contour.ReferencedROINumber = n
        contour.ContourSequence = list(_contours(mask, labels.affine, source))
        observation.ObservationNumber, observation.ReferencedROINumber = n, n
        observation.RTROIInterpretedType, observation.ROIInterpreter = "ORGAN", ""
        d.StructureSetROISequence.append(roi)
        d.ROIContourSequence.append(contour)
        d.RTROIObservationsSequence.append(observation)
    return d


def outlines(mask: npt.NDArray[np.bool_]) -> list[list[Vertex]]:
    """Closed polygons along the pixel edges of a 2-D mask.

    Returns
    -------
    Vertices (row corner, column corner) as whole numbers: corner (r, c) is the corner between pixels (r - 1, c - 1) and
    (r, c), that is index (r - 1/2, c - 1/2). Outer outlines and holes run in opposite senses. Pixels that touch only at a
    corner get separate polygons.
    """
    following: dict[Vertex, list[Vertex]] = {}
    for start, end in _edges(np.pad(mask, 1)):
        following.setdefault(start, []).append(end)
    polygons = []
    while following:
        first = min(following)
        polygon, here, heading = [first], first, (0, 0)
        while True:
            ends = following[here]
            # at a corner where two pixels touch, turn left: that keeps the pixel just walked around
            left = (-heading[1], heading[0])
            step = next((e for e in ends if (e[0] - here[0], e[1] - here[1]) == left), ends[0])
            ends.remove(step)
            if not ends:
                del following[here]
            direction = (step[0] - here[0], step[1] - here[1])
            if direction == heading:
                polygon[-1] = step
            else:
                polygon.append(step)
            here, heading = step, direction
            if here == first:
                break
        polygons.append(polygon[:-1])
    return polygons


def keyholed(polygons: list[list[Vertex]]) -> list[list[Point]]:
    """The outer polygons of `outlines`, each joined with its holes by a cut to the left of the hole's leftmost edge."""
    outer: list[list[Point]] = [[*p] for p in polygons if _doubled_area(p) > 0]
    holes = sorted((p for p in polygons if _doubled_area(p) < 0), key=lambda p: min(c for _, c in p))
    for hole in holes:
        left = min(c for _, c in hole)
        start = next(n for n in range(len(hole)) if hole[n][1] == left and hole[(n + 1) % len(hole)][1] == left)
        # a quarter voxel from a corner: between voxel centres, and never through a vertex
        row = min(hole[start][0], hole[(start + 1) % len(hole)][0]) + 0.25
        around: list[Point] = [*hole[start + 1 :], *hole[: start + 1]]
        n, m, column = _edge_left_of(outer, row, left)
        gate, lock = (row, column), (row, float(left))
        outer[n] = [*outer[n][: m + 1], gate, lock, *around, lock, gate, *outer[n][m + 1 :]]
    return outer


def _edge_left_of(polygons: list[list[Point]], row: float, column: float) -> tuple[int, int, float]:
    """Polygon, edge and column of the vertical edge nearest to the left of a point."""
    best = (0, 0, -np.inf)
    for n, polygon in enumerate(polygons):
        for m, (a, b) in enumerate(pairwise([*polygon, polygon[0]])):
            if a[1] == b[1] and min(a[0], b[0]) < row < max(a[0], b[0]) and best[2] < a[1] < column:
                best = (n, m, float(a[1]))
    return best


def _doubled_area(polygon: Sequence[Point]) -> float:
    """Twice the signed area; positive for outer outlines."""
    return float(sum(a[0] * b[1] - a[1] * b[0] for a, b in pairwise([*polygon, polygon[0]])))


def _edges(padded: npt.NDArray[np.bool_]) -> Iterator[tuple[Vertex, Vertex]]:
    """Directed unit edges with the mask on the left hand (rows down, columns right), in unpadded corner indices."""
    inside = padded[1:-1, 1:-1]
    for r, c in zip(*np.nonzero(inside & ~padded[:-2, 1:-1]), strict=True):  # upper edge: right to left
        yield (int(r), int(c) + 1), (int(r), int(c))
    for r, c in zip(*np.nonzero(inside & ~padded[2:, 1:-1]), strict=True):  # lower edge: left to right
        yield (int(r) + 1, int(c)), (int(r) + 1, int(c) + 1)
    for r, c in zip(*np.nonzero(inside & ~padded[1:-1, :-2]), strict=True):  # left edge: downwards
        yield (int(r), int(c)), (int(r) + 1, int(c))
    for r, c in zip(*np.nonzero(inside & ~padded[1:-1, 2:]), strict=True):  # right edge: upwards
        yield (int(r) + 1, int(c) + 1), (int(r), int(c) + 1)


def _contours(mask: npt.NDArray[np.bool_], affine: npt.NDArray[np.float64], source: Sequence[Dataset]) -> Iterator[Dataset]:
    for k in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        for polygon in keyholed(outlines(mask[k])):
            corners = np.array(polygon, float) - 0.5
            index = np.column_stack([np.full(len(corners), float(k)), corners, np.ones(len(corners))])
            item = Dataset()
            item.ContourImageSequence = [_reference(source[k])]
            item.ContourGeometricType = "CLOSED_PLANAR"
            item.NumberOfContourPoints = len(corners)
            item.ContourData = ds_list((index @ affine.T)[:, :3])
            yield item


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT_SOP_CLASS, image.SOPInstanceUID
    return item


def _referenced_frame(study: DicomStudy, source: Sequence[Dataset]) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = source[0].SeriesInstanceUID
    series.ContourImageSequence = [_reference(image) for image in source]
    referenced_study = Dataset()
    referenced_study.ReferencedSOPClassUID, referenced_study.ReferencedSOPInstanceUID = _STUDY_MANAGEMENT, study.uid
    referenced_study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = study.frame_of_reference_uid
    frame.RTReferencedStudySequence = [referenced_study]
    return frame
