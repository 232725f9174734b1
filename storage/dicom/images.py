"""What a reader of images hands on: values with a unit, a place, a start, and what the header says of the injection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from storage.dicom.parse import items, maybe_number, safe, text, value
from storage.dicom.times import parse_dt, zone_of
from tdt_core.errors import InputError
from tdt_core.imaging.ct_calibration import CtCalibration
from tdt_core.twin import CalibrationRecord

# SNOMED code -> nuclide; the codes with a letter are the older spelling of the same concepts (SRT).
NUCLIDE_CODES: Mapping[str, str] = MappingProxyType(
    {
        "40565003": "C-11",
        "77004003": "F-18",
        "C-111A1": "F-18",
        "3932008": "Cu-64",
        "C-127A2": "Cu-64",
        "53700003": "Cu-67",
        "35337001": "Ga-68",
        "C-131A3": "Ga-68",
        "10738001": "Y-86",
        "63360001": "Zr-89",
        "C-168A4": "Zr-89",
        "14691008": "Y-90",
        "C-162A7": "Y-90",
        "56609000": "In-111",
        "C-145A4": "In-111",
        "21572004": "I-123",
        "C-114A4": "I-123",
        "40937006": "I-124",
        "C-114A5": "I-124",
        "1368003": "I-131",
        "C-114B1": "I-131",
        "447553000": "Lu-177",
        "C-101ED": "Lu-177",
    }
)

POSITRON_EMITTERS = frozenset({"C-11", "F-18", "Cu-64", "Ga-68", "Y-86", "Zr-89", "I-124"})


@dataclass(frozen=True)
class Injection:
    """What an image's header says of the radiopharmaceutical; None where it is silent. Activity in MBq at `start`."""

    nuclide: str
    half_life_h: float | None
    start: datetime | None
    activity_mbq: float | None


@dataclass(frozen=True, eq=False)
class ReadImage:
    """One volume of one series, with original UIDs; pseudonyms come later.

    Attributes
    ----------
    array : (z, y, x); SPECT and PET: MBq/mL, CT: HU.
    start : start of the acquisition. time_of_values : when the values hold.
    """

    modality: Literal["SPECT", "PET", "CT"]
    array: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]
    unit: str
    frame_of_reference: str
    series_uid: str
    study_uid: str
    start: datetime
    time_of_values: datetime
    duration_s: float = 0.0
    injection: Injection | None = None
    calibration: CalibrationRecord | None = None
    counts_per_mbq: float = 0.0
    value_branch: Literal["", "counts", "real_world", "rescale"] = ""
    ct_calibration: CtCalibration | None = None
    findings: tuple[str, ...] = ()


def injection_of(d: Dataset, *, to_mbq: float) -> Injection:
    """The single item of RadiopharmaceuticalInformationSequence.

    Parameters
    ----------
    to_mbq : factor of RadionuclideTotalDose to MBq: 1 in NM, 1e-6 in PT.

    Raises
    ------
    InputError
        `nuclide.missing`, `nuclide.several`, `nuclide.unknown`.
    """
    found = items(d, "RadiopharmaceuticalInformationSequence")
    if not found:
        raise InputError(
            "the image does not say which nuclide it shows",
            expected="RadiopharmaceuticalInformationSequence with a coded radionuclide",
            remedy="enter the radiopharmaceutical at the scanner and export again",
            kind="nuclide.missing",
        )
    if len(found) > 1:
        raise InputError(
            f"{len(found)} radiopharmaceuticals in one image",
            expected="one nuclide per volume",
            remedy="reconstruct and export each nuclide's window as its own series",
            kind="nuclide.several",
        )
    item = found[0]
    codes = items(item, "RadionuclideCodeSequence")
    code = text(codes[0], "CodeValue") if codes else ""
    if code not in NUCLIDE_CODES:
        raise InputError(
            f"the radionuclide has code {safe(code)}",
            expected=f"the code of one of {', '.join(sorted(set(NUCLIDE_CODES.values())))}",
            remedy="set the radionuclide's code at the scanner; a name alone is not enough",
            kind="nuclide.unknown",
        )
    half_life_s, dose = maybe_number(item, "RadionuclideHalfLife"), maybe_number(item, "RadionuclideTotalDose")
    written = text(item, "RadiopharmaceuticalStartDateTime")
    return Injection(
        nuclide=NUCLIDE_CODES[code],
        half_life_h=None if half_life_s is None else half_life_s / 3600,
        start=parse_dt(written, zone_of(d), "RadiopharmaceuticalStartDateTime") if written else None,
        activity_mbq=None if dose is None else dose * to_mbq,
    )


def stored_values(d: Dataset) -> npt.NDArray[Any]:
    """(frames, rows, columns) stored integers of an uncompressed monochrome object.

    Raises
    ------
    InputError
        `values.format` for anything other than 8, 16 or 32 bit monochrome integers.
    """
    bits, stored, high = (value(d, k) for k in ("BitsAllocated", "BitsStored", "HighBit"))
    if (
        bits not in (8, 16, 32)
        or stored is None
        or not 0 < stored <= bits
        or high != stored - 1
        or (value(d, "SamplesPerPixel") or 1) != 1
        or text(d, "PhotometricInterpretation") != "MONOCHROME2"
    ):
        raise InputError(
            "pixels that are not plain monochrome integers",
            expected="MONOCHROME2, one sample, 8, 16 or 32 bits",
            remedy="export the quantitative series, not a rendering",
            kind="values.format",
        )
    signed = value(d, "PixelRepresentation") == 1
    dtype = np.dtype(f"<{'i' if signed else 'u'}{bits // 8}")
    frames, rows, columns = int(value(d, "NumberOfFrames") or 1), int(d.Rows), int(d.Columns)
    n = frames * rows * columns
    raw = np.frombuffer(d.PixelData, dtype=dtype, count=n).reshape(frames, rows, columns)
    if stored == bits:
        return raw
    shift = bits - stored  # bits above the stored ones may hold anything (old overlays); sign extension brings it right
    return np.right_shift(np.left_shift(raw, shift), shift)


def plausible_activity(mbq_per_ml: npt.NDArray[Any]) -> None:
    """Refuse activity that no reconstruction gives. Raises InputError `values.nonfinite`, `values.negative`, `values.empty`,
    `values.implausible`."""
    if not np.isfinite(mbq_per_ml).all():
        raise InputError(
            "values that are not finite",
            expected="finite activity in every voxel",
            remedy="export the series again; its scaling is damaged",
            kind="values.nonfinite",
        )
    top, bottom = float(mbq_per_ml.max()), float(mbq_per_ml.min())
    if bottom < 0:
        raise InputError(
            f"{float((mbq_per_ml < 0).mean()) * 100:.2g} % of the voxels are negative",
            expected="counts and activity of 0 or more",
            remedy="export the reconstruction itself, not a difference image; check the pixel type",
            kind="values.negative",
        )
    if top == 0:
        raise InputError(
            "every voxel is 0", expected="activity", remedy="check that the series is complete", kind="values.empty"
        )
    if top > 1e4:
        raise InputError(
            f"an activity concentration of {top:.3g} MBq/mL",
            expected="below 10 000 MBq/mL",
            remedy="check the unit (Bq/mL, kBq/mL, MBq/mL) and the calibration factor",
            kind="values.implausible",
        )
