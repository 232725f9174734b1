"""CT and PET series of single-slice objects: CT in HU, PET in MBq/mL at the start of the acquisition.

PET slices are rescaled one by one, since their slopes differ. PET values are corrected for decay to the start of the series
(DecayCorrection START); values corrected to the injection are refused, the twin keeps activity at the time of the scan.
A quantitative SPECT exported as PT carries a nuclide that emits no positrons and is taken as a SPECT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from storage.calibrations import Calibrations
from storage.dicom.geometry import FloatArray, plane_of, stack
from storage.dicom.images import (
    POSITRON_EMITTERS,
    Injection,
    ReadImage,
    injection_of,
    plausible_activity,
    stored_values,
)
from storage.dicom.parse import maybe_number, missing, number, safe, text, uid
from storage.dicom.times import acquisition_start, earliest
from tdt_core.errors import InputError, TimeError, UnitError
from tdt_core.imaging.ct_calibration import CtCalibration

MAX_SLICES = 5000
UNCALIBRATED = "the scanner of a CT is not in ct_calibration.csv: density follows from the general curve"


def read_ct(slices: Sequence[Dataset], scanners: Mapping[str, CtCalibration] = MappingProxyType({})) -> ReadImage:
    """One CT series in HU, int16 where all values are whole.

    Parameters
    ----------
    slices : data sets with pixels, in any order, no object twice.
    scanners : calibrations of CT numbers by device serial; "" holds for any.
    """
    order, affine, frame = _stacked(slices)
    planes = []
    for n in order:
        d = slices[n]
        kind = text(d, "RescaleType")
        if kind not in ("", "HU"):
            raise UnitError(
                f"CT values in {safe(kind)}",
                expected="HU",
                remedy="export the CT in Hounsfield units",
                kind="unit.image",
            )
        planes.append(_rescaled(d, "HU"))
    hu = np.stack(planes)
    if not np.isfinite(hu).all() or hu.min() < -32768 or hu.max() > 32767 or hu.max() < -500:
        raise InputError(
            f"CT values between {hu.min():.5g} and {hu.max():.5g}",
            expected="Hounsfield units of a body, at most 16 bits",
            remedy="check rescale slope and intercept",
            kind="values.hu",
        )
    whole = np.rint(hu)
    array = whole.astype(np.int16) if np.array_equal(whole, hu) else hu.astype(np.float32)
    start = earliest(slices)
    own = scanners.get(text(slices[0], "DeviceSerialNumber")) or scanners.get("")
    return ReadImage(
        modality="CT",
        array=array,
        affine=affine,
        unit="HU",
        frame_of_reference=frame,
        series_uid=uid(slices[0], "SeriesInstanceUID"),
        study_uid=uid(slices[0], "StudyInstanceUID"),
        start=start,
        time_of_values=start,
        value_branch="rescale",
        ct_calibration=own,
        findings=(UNCALIBRATED,) if scanners and own is None else (),
    )


def read_pt(slices: Sequence[Dataset], calibrations: Calibrations) -> ReadImage:
    """One PT series in MBq/mL, from per-slice slopes in BQML.

    Raises
    ------
    UnitError `unit.image`; InputError `values.decay`, `values.slope`, ...; GeometryError; TimeError.
    """
    injection = _one_injection(slices)
    order, affine, frame = _stacked(slices)
    mbq_ml = np.stack([_rescaled(slices[n], "BQML") for n in order]) * 1e-6
    plausible_activity(mbq_ml)
    start = earliest(slices)
    duration_s = max((maybe_number(d, "ActualFrameDuration") or 0.0) for d in slices) / 1000
    when, findings = _time_of_values(slices, start, duration_s, injection)
    d = slices[0]
    record = calibrations.find_pet(text(d, "DeviceSerialNumber"), text(d, "ReconstructionMethod"), injection.nuclide)
    modality: Literal["SPECT", "PET"] = "PET"
    if injection.nuclide not in POSITRON_EMITTERS:
        modality = "SPECT"
        findings.append(f"a PT series of {injection.nuclide} was taken as a quantitative SPECT")
    if record is None:
        findings.append(f"no calibration record for the {modality} scanner: its resolution is unknown")
    return ReadImage(
        modality=modality,
        array=mbq_ml.astype(np.float32),
        affine=affine,
        unit="MBq/mL",
        frame_of_reference=frame,
        series_uid=uid(d, "SeriesInstanceUID"),
        study_uid=uid(d, "StudyInstanceUID"),
        start=start,
        time_of_values=when,
        duration_s=duration_s,
        injection=injection,
        calibration=record,
        counts_per_mbq=0.0 if record is None else record.sensitivity_cps_per_mbq * duration_s,
        value_branch="rescale",
        findings=tuple(findings),
    )


def _stacked(slices: Sequence[Dataset]) -> tuple[list[int], FloatArray, str]:
    if len(slices) > MAX_SLICES:
        raise InputError(
            f"a series of {len(slices)} slices",
            expected=f"at most {MAX_SLICES}",
            remedy="export the object again at a usual size; a header like this is damaged or made to harm",
            kind="file.dimensions",
        )
    planes = [plane_of(d) for d in slices]
    order, affine = stack(planes)
    return order, affine, planes[0].frame_of_reference


def _rescaled(d: Dataset, unit: Literal["HU", "BQML"]) -> npt.NDArray[np.float64]:
    """(rows, columns) of one slice. Slope and intercept must be there; the slope is finite and above 0."""
    if unit == "BQML":
        written = text(d, "Units")
        if not written:
            raise missing("Units", kind="unit.missing")
        if written != "BQML":
            raise UnitError(
                f"PET values in {safe(written)}",
                expected="BQML",
                remedy="export activity concentration in Bq/mL, not SUV or counts",
                kind="unit.image",
            )
    slope = number(d, "RescaleSlope", kind="values.slope_missing")
    intercept = number(d, "RescaleIntercept", kind="values.slope_missing")
    if slope <= 0:
        raise InputError(
            f"RescaleSlope is {slope}",
            expected="> 0 in every slice",
            remedy="export the series again; the scaling of its values is lost",
            kind="values.slope",
        )
    stored: npt.NDArray[Any] = stored_values(d)[0]
    return stored * slope + intercept


def _one_injection(slices: Sequence[Dataset]) -> Injection:
    found = {injection_of(d, to_mbq=1e-6) for d in (slices[0], slices[-1])}
    if len(found) != 1:
        raise InputError(
            "slices of one series name different injections",
            expected="one radiopharmaceutical",
            remedy="split the series",
            kind="nuclide.several",
        )
    return found.pop()


def _time_of_values(
    slices: Sequence[Dataset], start: datetime, duration_s: float, injection: Injection
) -> tuple[datetime, list[str]]:
    """When the values hold, and remarks."""
    kinds = {text(d, "DecayCorrection") for d in slices}
    if kinds == {"START"}:
        _check_decay_factor(slices[0], start, duration_s, injection)
        return start, []
    if kinds == {"NONE"}:
        spread = (max(acquisition_start(d) for d in slices) - start).total_seconds()
        if spread > 1:
            raise TimeError(
                f"slices acquired over {spread:.0f} s without correction for decay",
                expected="DecayCorrection START, or one bed position",
                remedy="reconstruct with decay correction to the start of the series",
                kind="values.decay",
            )
        return start + timedelta(seconds=duration_s / 2), ["PET values are not corrected for decay: taken at mid-frame"]
    word = "several ways" if len(kinds) > 1 else safe(kinds.pop())
    raise InputError(
        f"values corrected for decay to {word}",
        expected="DecayCorrection START (start of the series)",
        remedy="export with decay correction to the start of the acquisition",
        kind="values.decay",
    )


def _check_decay_factor(d: Dataset, start: datetime, duration_s: float, injection: Injection) -> None:
    """DecayFactor of a slice against its time after the series' start; catches a correction to another time."""
    factor = maybe_number(d, "DecayFactor")
    if factor is None or injection.half_life_h is None or injection.half_life_h <= 0:
        return
    late_h = (acquisition_start(d) - start).total_seconds() / 3600
    low = 2 ** (late_h / injection.half_life_h)
    high = 2 ** ((late_h + duration_s / 3600) / injection.half_life_h)
    if not 0.98 * low <= factor <= 1.02 * high:
        raise InputError(
            f"a decay factor of {factor:.4g} in a series corrected to its start",
            expected=f"{low:.4g} to {high:.4g}",
            remedy="check to which time the scanner corrected; the acquisition times may be those of processing",
            kind="values.decay_factor",
        )
