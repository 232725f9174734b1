"""Reconstructed SPECT (NM, `RECON TOMO`) as activity concentration.

Placement, PS3.3 C.8.4.8 and C.8.4.11: position and orientation from the first item of the Detector Information Sequence, else
from the top level. Frame k lies at position + k x SpacingBetweenSlices x (row x column), with the sign as written; neither the
absolute value nor SliceThickness takes its place.

Values, one branch and never two: a real-world value map with a known unit; else RescaleSlope with Units or RescaleType
Bq/mL; else counts with the calibration record of the same device, energy window, collimator and reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from storage.calibrations import Calibrations
from storage.dicom.geometry import FloatArray, directions, pixel_spacing
from storage.dicom.images import ReadImage, injection_of, plausible_activity, stored_values
from storage.dicom.parse import items, maybe_number, missing, number, numbers, safe, text, uid, value, whole
from storage.dicom.times import acquisition_start
from tdt_core.errors import GeometryError, InputError, UnitError
from tdt_core.twin import CalibrationRecord

ACTIVITY_UNITS = {"Bq/ml": 1e-6, "Bq/mL": 1e-6, "kBq/ml": 1e-3, "kBq/mL": 1e-3, "MBq/ml": 1.0, "MBq/mL": 1.0}
_COUNT_UNITS = {"{counts}", "counts", "{Counts}", "CNTS"}

# FrameIncrementPointer elements that split an object into several volumes, and what they count
_SPLITTERS = {
    0x00540010: ("EnergyWindowVector", "energy windows"),
    0x00540020: ("DetectorVector", "detectors"),
    0x00540030: ("PhaseVector", "phases"),
    0x00540050: ("RotationVector", "rotations"),
    0x00540060: ("RRIntervalVector", "heart beat intervals"),
    0x00540070: ("TimeSlotVector", "time slots"),
    0x00540090: ("AngularViewVector", "views"),
    0x00540100: ("TimeSliceVector", "time slices"),
}
_SLICE_VECTOR = 0x00540080


@dataclass(frozen=True)
class Key:
    """What a calibration must match, for one energy window of one object."""

    device: str
    energy_window: str
    collimator: str
    reconstruction: str


def read_nm(d: Dataset, calibrations: Calibrations) -> ReadImage:
    """The SPECT volume of one NM object, MBq/mL at the middle of the acquisition.

    Parameters
    ----------
    d : data set with pixels.
    calibrations : records to match when values are counts, and to take the resolution from in every case.

    Raises
    ------
    InputError and its children, each with its own kind; see `docs/data-in.md`.
    """
    injection = injection_of(d, to_mbq=1.0)
    frames, window, findings = _frames(d, calibrations)
    affine, flip = _placement(d)
    duration_s = acquisition_duration_s(d)
    key = key_of(d, window)
    if "DECY" in text(d, "CorrectedImage").split("\\"):
        raise InputError(
            "a SPECT corrected for decay to an unstated time",
            expected="activity at the time of the scan",
            remedy="reconstruct without decay correction",
            kind="values.decay",
        )
    stored = stored_values(d)[frames]
    branch, values = _values(d, stored)
    record: CalibrationRecord | None
    if branch == "counts":
        _refuse_negative(values)
        record = calibrations.match(key.device, key.energy_window, key.collimator, key.reconstruction, injection.nuclide)
        voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
        values = values / (record.sensitivity_cps_per_mbq * duration_s * voxel_ml)
    else:
        record = calibrations.find(key.device, key.energy_window, key.collimator, key.reconstruction, injection.nuclide)
        if record is None:
            findings.append("no calibration record for a quantitative SPECT: its resolution is unknown")
    plausible_activity(values)
    array = np.ascontiguousarray(values[::-1] if flip else values, dtype=np.float32)
    start = acquisition_start(d)
    return ReadImage(
        modality="SPECT",
        array=array,
        affine=_flipped(affine, len(values)) if flip else affine,
        unit="MBq/mL",
        frame_of_reference=uid(d, "FrameOfReferenceUID", kind="geometry.frame_of_reference_missing"),
        series_uid=uid(d, "SeriesInstanceUID"),
        study_uid=uid(d, "StudyInstanceUID"),
        start=start,
        time_of_values=start + timedelta(seconds=duration_s / 2),
        duration_s=duration_s,
        injection=injection,
        calibration=record,
        counts_per_mbq=0.0 if record is None else record.sensitivity_cps_per_mbq * duration_s,
        value_branch=branch,
        findings=tuple(findings),
    )


def acquisition_duration_s(d: Dataset) -> float:
    """Frames per rotation x frame duration, summed over rotations, s. Raises InputError `time.duration` when absent."""
    total = 0.0
    for rotation in items(d, "RotationInformationSequence"):
        frames = whole(rotation, "NumberOfFramesInRotation") or 0
        total += frames * (maybe_number(rotation, "ActualFrameDuration") or 0.0) / 1000
    if not 1 <= total <= 24 * 3600:
        raise InputError(
            f"an acquisition of {total:g} s",
            expected="ActualFrameDuration and NumberOfFramesInRotation of each rotation, 1 s to 24 h together",
            remedy="export the SPECT with its rotation information; activity cannot be had from counts without it",
            kind="time.duration",
        )
    return total


def key_of(d: Dataset, window: int) -> Key:
    """Device, energy window number `window` (from 1), collimator and reconstruction of an NM object; "" where absent."""
    windows, detectors = items(d, "EnergyWindowInformationSequence"), items(d, "DetectorInformationSequence")
    return Key(
        device=text(d, "DeviceSerialNumber"),
        energy_window=text(windows[window - 1], "EnergyWindowName") if 0 < window <= len(windows) else "",
        collimator=text(detectors[0], "CollimatorGridName") if detectors else "",
        reconstruction=text(d, "ProcessingFunction"),
    )


def _frames(d: Dataset, calibrations: Calibrations) -> tuple[list[int], int, list[str]]:
    """Indices of the frames of the one volume to read, its energy window, and remarks."""
    n = whole(d, "NumberOfFrames", required=True) or 0
    pointer = value(d, "FrameIncrementPointer")
    tags = [int(t) for t in (pointer if isinstance(pointer, (list, tuple)) or hasattr(pointer, "__iter__") else [pointer])]
    vectors: dict[int, list[int]] = {}
    for tag in tags:
        if tag == _SLICE_VECTOR:
            vectors[tag] = _vector(d, "SliceVector", n)
        elif tag in _SPLITTERS:
            vectors[tag] = _vector(d, _SPLITTERS[tag][0], n)
        else:
            raise InputError(
                "frames that are not counted by slices",
                expected="a SliceVector in FrameIncrementPointer",
                remedy="export the reconstructed SPECT as an ordinary volume",
                kind="nm.frames",
            )
    if _SLICE_VECTOR not in vectors:
        raise InputError(
            "frames without a SliceVector",
            expected="a reconstructed volume",
            remedy="export the reconstructed SPECT as an ordinary volume",
            kind="nm.frames",
        )
    window, chosen, findings = 1, list(range(n)), []
    for tag, vector in vectors.items():
        groups = sorted(set(vector))
        if tag == _SLICE_VECTOR or len(groups) == 1:
            continue
        if tag != 0x00540010:
            raise InputError(
                f"{len(groups)} {_SPLITTERS[tag][1]} in one SPECT object",
                expected="one volume: ungated, static, all heads together",
                remedy="reconstruct and export a single static volume",
                kind="nm.several_volumes",
            )
        window = _calibrated_window(d, groups, calibrations)
        chosen = [k for k in chosen if vector[k] == window]
        findings.append(f"one of {len(groups)} energy windows was read: the one with a calibration record")
    slices = [vectors[_SLICE_VECTOR][k] for k in chosen]
    if sorted(slices) != list(range(1, len(slices) + 1)) or len(slices) < 2:
        raise GeometryError(
            "a SPECT whose slices are not numbered 1 to n",
            expected="each slice once",
            remedy="export the reconstruction again",
            kind="geometry.missing_slice",
        )
    return [chosen[i] for i in np.argsort(slices)], window, findings


def _vector(d: Dataset, keyword: str, n: int) -> list[int]:
    found = value(d, keyword)
    vector = [int(v) for v in (found if hasattr(found, "__iter__") else [found])] if found is not None else []
    if len(vector) != n:
        raise GeometryError(
            f"{n} frames, but {len(vector)} entries in {keyword}",
            expected="one entry per frame",
            remedy="export the SPECT again; slices are missing or the header is damaged",
            kind="geometry.frame_count",
        )
    return vector


def _calibrated_window(d: Dataset, windows: Sequence[int], calibrations: Calibrations) -> int:
    nuclide = injection_of(d, to_mbq=1.0).nuclide
    known = []
    for w in windows:
        key = key_of(d, w)
        if calibrations.find(key.device, key.energy_window, key.collimator, key.reconstruction, nuclide):
            known.append(w)
    if len(known) != 1:
        raise InputError(
            f"{len(windows)} energy windows in one SPECT, {len(known)} of them with a calibration record",
            expected="exactly one calibrated window",
            remedy="export the window of the calibration as its own series",
            kind="nm.several_volumes",
        )
    return known[0]


def _placement(d: Dataset) -> tuple[FloatArray, bool]:
    """Affine as written, and whether slices run against row x column."""
    source = next(iter(items(d, "DetectorInformationSequence")), None)
    if source is None or value(source, "ImagePositionPatient") is None:
        source = d
    position = np.array(numbers(source, "ImagePositionPatient", 3, kind="geometry.position_missing"))
    row, column = directions(numbers(source, "ImageOrientationPatient", 6, kind="geometry.orientation_missing"))
    dy, dx = pixel_spacing(d)
    step = number(d, "SpacingBetweenSlices", kind="geometry.slice_spacing_missing")
    if not 0.01 < abs(step) < 100:
        raise GeometryError(
            f"slices {step} mm apart",
            expected="0.01 to 100 mm, either sign",
            remedy="export the series again; check SpacingBetweenSlices",
            kind="geometry.slice_spacing",
        )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = np.cross(row, column) * step, column * dy, row * dx
    affine[:3, 3] = position
    return affine, step < 0


def _flipped(affine: FloatArray, n: int) -> FloatArray:
    """The affine of the same voxels with the first axis reversed, so that every volume runs along row x column."""
    out = affine.copy()
    out[:3, 3] = affine[:3, 3] + (n - 1) * affine[:3, 0]
    out[:3, 0] = -affine[:3, 0]
    return out


def _values(d: Dataset, stored: npt.NDArray[Any]) -> tuple[Literal["counts", "real_world", "rescale"], npt.NDArray[np.float64]]:
    """The branch taken, and MBq/mL or counts."""
    maps = items(d, "RealWorldValueMappingSequence")
    if maps:
        return _real_world(maps, stored)
    slope, intercept = maybe_number(d, "RescaleSlope"), maybe_number(d, "RescaleIntercept") or 0.0
    if slope is not None and slope <= 0:
        raise InputError(f"RescaleSlope is {slope}", expected="> 0", remedy="export the series again", kind="values.slope")
    scaled = stored * (1.0 if slope is None else slope) + intercept
    unit = text(d, "Units") or text(d, "RescaleType")
    if unit in ("BQML", *ACTIVITY_UNITS):
        return "rescale", scaled * ACTIVITY_UNITS.get(unit, 1e-6)
    if unit not in ("", "US", "CNTS"):
        raise _unknown_unit(unit)
    return "counts", scaled


def _real_world(
    maps: Sequence[Dataset], stored: npt.NDArray[Any]
) -> tuple[Literal["counts", "real_world"], npt.NDArray[np.float64]]:
    if len(maps) > 1:
        raise InputError(
            f"{len(maps)} real-world value maps", expected="one", remedy="export one quantity", kind="values.several_maps"
        )
    item = maps[0]
    codes = items(item, "MeasurementUnitsCodeSequence")
    unit = text(codes[0], "CodeValue") if codes else ""
    if not unit:
        raise missing("MeasurementUnitsCodeSequence", kind="unit.missing")
    if unit not in ACTIVITY_UNITS and unit not in _COUNT_UNITS:
        raise _unknown_unit(unit)
    slope = number(item, "RealWorldValueSlope", kind="values.map")
    intercept = number(item, "RealWorldValueIntercept", kind="values.map")
    low, high = (number(item, f"RealWorldValue{end}ValueMapped", kind="values.map") for end in ("First", "Last"))
    if slope <= 0:
        raise InputError(
            f"RealWorldValueSlope is {slope}",
            expected="> 0",
            remedy="export the series again; the scaling of its values is lost",
            kind="values.slope",
        )
    if stored.min() < low or stored.max() > high:
        raise InputError(
            "stored values outside the range of the real-world value map",
            expected="every voxel mapped",
            remedy="export the series again with a map that covers it",
            kind="values.map",
        )
    mapped = stored * slope + intercept
    return ("counts", mapped) if unit in _COUNT_UNITS else ("real_world", mapped * ACTIVITY_UNITS[unit])


def _refuse_negative(counts: npt.NDArray[np.float64]) -> None:
    if counts.min() < 0:
        raise InputError(
            "negative counts",
            expected="counts of 0 or more",
            remedy="export the reconstruction itself; check signed against unsigned pixels",
            kind="values.negative_counts",
        )


def _unknown_unit(unit: str) -> UnitError:
    return UnitError(
        f"image values in {safe(unit)}",
        expected="Bq/mL, kBq/mL, MBq/mL, or counts",
        remedy="export activity concentration or counts; SUV and relative units are not enough",
        kind="unit.image",
    )
