"""NM SPECT volumes (`RECON TOMO` multi-frame): counts, or counts with a real-world value map to Bq/ml.

Geometry follows PS3.3 C.8.4.8, C.8.4.11 and C.8.4.15: position and orientation of the first frame stand in the Detector
Information Sequence, frame k lies at position + k x SpacingBetweenSlices x (row x column), and SpacingBetweenSlices carries
a sign. Where a reader finds device, window, collimator and reconstruction: see `write_common`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from storage.dicom.write_common import (
    DicomPatient,
    DicomSeries,
    DicomStudy,
    Equipment,
    code_item,
    ds,
    ds_list,
    grid_of,
    new_dataset,
    radiopharmaceutical,
    set_pixels,
    set_supine_head_first,
)
from tdt_core.errors import InputError

NM_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.20"
_MAX_STORED = 65535


@dataclass(frozen=True)
class EnergyWindow:
    """A window's name (at most 16 characters) and limits, keV."""

    name: str
    low_kev: float
    high_kev: float


@dataclass(frozen=True)
class SpectAcquisition:
    """How a SPECT was taken.

    `duration_s` is the whole acquisition: frames per rotation x frame duration; it is written as that product, and the frame
    duration is a whole number of ms, as DICOM wants it. Counts are those of all heads together.
    """

    window: EnergyWindow
    collimator: str
    reconstruction: str
    duration_s: float
    nuclide: str
    half_life_s: float
    product: str
    injected_mbq: float
    injection_start: datetime
    frames_per_rotation: int = 60
    heads: int = 2
    injection_duration_min: float = 0.0


def nm_spect(
    values: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
    acquisition: SpectAcquisition,
    patient: DicomPatient,
    study: DicomStudy,
    series: DicomSeries,
    equipment: Equipment,
    sop_uid: str,
    real_world: bool = False,
) -> Dataset:
    """An NM data set of one reconstructed SPECT volume.

    Parameters
    ----------
    values : (z, y, x) reconstructed counts per voxel, or with `real_world` the activity concentration in Bq/mL at the middle
        of the acquisition. Counts are stored rounded; where one exceeds 16 bits, all are divided by a power of two that
        stands in RescaleSlope.
    affine : (4, 4) voxel indices (k, j, i, 1) to LPS mm.

    Raises
    ------
    InputError for negative or non-finite values; GeometryError for a sheared grid; TimeError for times without zone.
    """
    _check(values)
    _check_names(acquisition)
    grid = grid_of(affine)
    d = new_dataset(NM_SOP_CLASS, sop_uid, "NM", patient, study, series, equipment)
    n = values.shape[0]
    d.ImageType = ["DERIVED", "PRIMARY", "RECON TOMO", "EMISSION"]
    d.InstanceNumber = 1
    d.AcquisitionNumber = 1
    d.AcquisitionDate, d.AcquisitionTime = d.SeriesDate, d.SeriesTime
    d.AcquisitionDateTime = d.SeriesDate + d.SeriesTime + d.TimezoneOffsetFromUTC
    set_supine_head_first(d)
    d.LossyImageCompression = "00"
    d.NumberOfFrames = n
    d.FrameIncrementPointer = [0x00540080]
    d.SliceVector = list(range(1, n + 1))
    d.NumberOfSlices = n
    d.PixelSpacing = ds_list(grid.spacing_mm)
    d.SpacingBetweenSlices = ds(round(grid.normal_spacing_mm, 9))
    d.SliceThickness = ds(round(abs(grid.normal_spacing_mm), 9))
    d.CorrectedImage = ["ATTN", "SCAT", "DTIM"]
    d.ProcessingFunction = acquisition.reconstruction
    d.EnergyWindowInformationSequence, d.NumberOfEnergyWindows = [_window(acquisition.window)], 1
    d.RadiopharmaceuticalInformationSequence = [
        radiopharmaceutical(
            acquisition.product,
            acquisition.nuclide,
            acquisition.injection_start,
            acquisition.injected_mbq,  # MBq in NM
            acquisition.half_life_s,
            duration_min=acquisition.injection_duration_min,
        )
    ]
    d.DetectorInformationSequence, d.NumberOfDetectors = [_detector(acquisition, grid.position_mm, grid.row, grid.column)], 1
    d.RotationInformationSequence, d.NumberOfRotations = [_rotation(acquisition)], 1
    if real_world:
        _store_real_world(d, values)
    else:
        _store_counts(d, values)
    return d


def _check(values: npt.NDArray[Any]) -> None:
    if values.ndim != 3 or 0 in values.shape:
        raise InputError(f"SPECT values of shape {values.shape}", expected="three non-empty axes z, y, x")
    if not np.isfinite(values).all() or values.min() < 0:
        raise InputError(
            "SPECT values are negative or not finite", expected="counts or Bq/mL of 0 or more", kind="input.values"
        )


def _check_names(acquisition: SpectAcquisition) -> None:
    """A name cut short would match no calibration record."""
    for what, name, most in (
        ("energy window", acquisition.window.name, 16),
        ("collimator", acquisition.collimator, 16),
        ("reconstruction", acquisition.reconstruction, 64),
    ):
        if not 0 < len(name) <= most or "\\" in name:
            raise InputError(f"{what} name {name!r}", expected=f"1 to {most} characters, no backslash", kind="input.name")


def _store_counts(d: Dataset, counts: npt.NDArray[Any]) -> None:
    slope = 1
    while np.rint(counts.max() / slope) > _MAX_STORED:
        slope *= 2
    set_pixels(d, np.rint(counts / slope).astype(np.uint16))
    d.CountsAccumulated = int(np.rint(counts.sum()))
    if slope > 1:
        d.RescaleIntercept, d.RescaleSlope = "0", str(slope)


def _store_real_world(d: Dataset, bq_per_ml: npt.NDArray[Any]) -> None:
    slope = float(max(bq_per_ml.max(), 1e-6)) / _MAX_STORED
    set_pixels(d, np.rint(bq_per_ml / slope).astype(np.uint16))
    d.CountsAccumulated = None
    item = Dataset()
    item.RealWorldValueFirstValueMapped, item.RealWorldValueLastValueMapped = 0, _MAX_STORED
    item.RealWorldValueIntercept, item.RealWorldValueSlope = 0.0, slope
    item.LUTExplanation, item.LUTLabel = "Activity concentration at the middle of the acquisition", "ACTIVITY"
    item.MeasurementUnitsCodeSequence = [code_item("Bq/ml", "UCUM", "Becquerels/milliliter")]
    d.RealWorldValueMappingSequence = [item]


def _window(window: EnergyWindow) -> Dataset:
    limits = Dataset()
    limits.EnergyWindowLowerLimit, limits.EnergyWindowUpperLimit = ds(window.low_kev), ds(window.high_kev)
    item = Dataset()
    item.EnergyWindowName = window.name
    item.EnergyWindowRangeSequence = [limits]
    return item


def _detector(
    acquisition: SpectAcquisition,
    position_mm: npt.NDArray[np.float64],
    row: npt.NDArray[np.float64],
    column: npt.NDArray[np.float64],
) -> Dataset:
    item = Dataset()
    item.CollimatorGridName, item.CollimatorType = acquisition.collimator, "PARA"
    item.FieldOfViewShape = "RECTANGLE"
    item.ImagePositionPatient = ds_list(position_mm)
    item.ImageOrientationPatient = ds_list(np.concatenate([row, column]))
    return item


def _rotation(acquisition: SpectAcquisition) -> Dataset:
    n = acquisition.frames_per_rotation
    frame_ms = round(acquisition.duration_s * 1000 / n)
    if abs(frame_ms * n / 1000 - acquisition.duration_s) > 1e-3:
        raise InputError(
            f"a SPECT of {acquisition.duration_s} s cannot be {n} frames of whole milliseconds",
            expected="duration = frames per rotation x a whole number of ms",
            kind="input.duration",
        )
    item = Dataset()
    item.StartAngle, item.AngularStep, item.ScanArc = "0", ds(360 / n / acquisition.heads), ds(360 / acquisition.heads)
    item.RotationDirection = "CW"
    item.ActualFrameDuration = frame_ms
    item.NumberOfFramesInRotation = n
    item.RadialPosition = ["250"]
    return item
