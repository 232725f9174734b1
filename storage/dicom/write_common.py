"""What every DICOM object that we write shares: patient, study, equipment, times, geometry, and how the file is saved.

The same inputs give the same bytes: UIDs come from the caller, times are arguments, nothing reads a clock. Decimal strings are
written with the at most 16 characters that DICOM allows; a writer that scales pixels by such a number uses the *printed* one.

Where a reader finds things in an NM file (`write_nm`):

==========================  ======================================================================================
device                      DeviceSerialNumber (0018,1000)
energy window               EnergyWindowInformationSequence > EnergyWindowName (0054,0018), at most 16 characters
collimator                  DetectorInformationSequence > CollimatorGridName (0018,1180), at most 16 characters;
                            CollimatorType (0018,1181) is PARA
reconstruction              ProcessingFunction (0018,5020) of the NM Image Module, at most 64 characters
total duration              RotationInformationSequence > ActualFrameDuration (ms) x NumberOfFramesInRotation
counts                      stored value x RescaleSlope (0028,1053) where it is present (only when counts exceed 16 bits)
activity, real-world form   RealWorldValueMappingSequence, unit `Bq/ml` (UCUM), valid at the middle of the acquisition
administered activity       RadiopharmaceuticalInformationSequence > RadionuclideTotalDose, MBq in NM, Bq in PT
==========================  ======================================================================================

NM values are never decay corrected (CorrectedImage has no DECY). PT values are corrected to the start of the series
(DecayCorrection START). AcquisitionDate and AcquisitionTime are the start of the scan, local time, zone in
TimezoneOffsetFromUTC.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from storage.dicom.uids import derived_uid
from tdt_core.errors import GeometryError, InputError, TimeError

RESEARCH_USE = "Research use only. Not for clinical decisions without independent review."
IMPLEMENTATION_UID = derived_uid("theranostic-digital-twin", "implementation")

# SNOMED CT codes of radionuclides, as listed for DICOM context groups 18 and 4020
_RADIONUCLIDES = {
    "C-11": ("40565003", "^11^Carbon"),
    "F-18": ("77004003", "^18^Fluorine"),
    "Cu-64": ("3932008", "^64^Copper"),
    "Cu-67": ("53700003", "^67^Copper"),
    "Ga-68": ("35337001", "^68^Gallium"),
    "Y-86": ("10738001", "^86^Yttrium"),
    "Zr-89": ("63360001", "^89^Zirconium"),
    "Y-90": ("14691008", "^90^Yttrium"),
    "In-111": ("56609000", "^111^Indium"),
    "I-123": ("21572004", "^123^Iodine"),
    "I-124": ("40937006", "^124^Iodine"),
    "I-131": ("1368003", "^131^Iodine"),
    "Lu-177": ("447553000", "^177^Lutetium"),
}


@dataclass(frozen=True)
class DicomPatient:
    """Who a file is about.

    `deidentified` files carry a pseudonym, say that identity was removed and that dates are not real. `comments` goes to
    PatientComments, the one free text that every object has.
    """

    id: str
    name: str
    sex: Literal["male", "female"] | None = None
    birth_date: date | None = None
    height_cm: float | None = None
    weight_kg: float | None = None
    deidentified: bool = False
    comments: str = ""


@dataclass(frozen=True)
class DicomStudy:
    """A study and the frame of reference that its images share. `at` is the start of the study, with a zone."""

    uid: str
    frame_of_reference_uid: str
    at: datetime
    description: str = ""
    study_id: str = "1"


@dataclass(frozen=True)
class DicomSeries:
    """A series. `at` is the start of the acquisition (or of the making of a derived object), with a zone."""

    uid: str
    number: int
    at: datetime
    description: str = ""


@dataclass(frozen=True)
class Equipment:
    """What made the images."""

    manufacturer: str = "Theranostic Digital Twin"
    model: str = "reference phantom"
    serial: str = "PHANTOM"
    software: str = "1"


@dataclass(frozen=True)
class Grid:
    """An array's place as DICOM words it, from the affine (k, j, i, 1) -> LPS mm.

    Attributes
    ----------
    position_mm : (3,) centre of voxel (0, 0, 0). row, column : (3,) unit vectors along i and along j.
    step_mm : (3,) vector from slice k to k + 1. spacing_mm : (between rows, between columns).
    normal_spacing_mm : signed spacing of slices along row x column.
    """

    position_mm: npt.NDArray[np.float64]
    row: npt.NDArray[np.float64]
    column: npt.NDArray[np.float64]
    step_mm: npt.NDArray[np.float64]
    spacing_mm: tuple[float, float]
    normal_spacing_mm: float


def grid_of(affine: npt.NDArray[np.float64]) -> Grid:
    """The DICOM words for an affine.

    Raises
    ------
    GeometryError
        When rows and columns are not perpendicular or slices are not stacked along their normal: DICOM multi-frame
        objects with one spacing cannot hold that.
    """
    i_mm, j_mm, k_mm = affine[:3, 2], affine[:3, 1], affine[:3, 0]
    dx, dy, dz = (float(np.linalg.norm(v)) for v in (i_mm, j_mm, k_mm))
    row, column = i_mm / dx, j_mm / dy
    normal = np.cross(row, column)
    along = float(k_mm @ normal)
    if abs(row @ column) > 1e-6 or abs(abs(along) - dz) > 1e-6 * dz:
        raise GeometryError(
            "the grid is sheared",
            expected="perpendicular rows and columns, slices stacked along their normal",
            remedy="resample the volume to a rectangular grid before writing it",
            kind="geometry.shear",
        )
    return Grid(affine[:3, 3].copy(), row, column, k_mm.copy(), (dy, dx), along)


def ds(value: float) -> str:
    """A number as a DICOM decimal string: at most 16 characters."""
    if not np.isfinite(value):
        raise InputError(f"{value} cannot be written as a decimal string", expected="a finite number")
    return str(format_number_as_ds(float(value) + 0.0))


def ds_list(values: npt.ArrayLike) -> list[str]:
    """Numbers as decimal strings, with -0 written as 0 and rounding dust removed."""
    return [ds(float(np.round(v, 9))) for v in np.asarray(values, float).ravel()]


def printed(value: float) -> float:
    """The number a reader gets back from `ds(value)`."""
    return float(ds(value))


def date_of(at: datetime) -> str:
    """DA of a time in its own zone."""
    return _zoned(at).strftime("%Y%m%d")


def time_of(at: datetime) -> str:
    """TM of a time in its own zone, microseconds only where there are any."""
    return _zoned(at).strftime("%H%M%S.%f" if at.microsecond else "%H%M%S")


def datetime_of(at: datetime) -> str:
    """DT with offset."""
    return date_of(at) + time_of(at) + zone_of(at)


def zone_of(at: datetime) -> str:
    """`+0100`. Raises TimeError for a time without a zone."""
    return _zoned(at).strftime("%z")[:5]


def _zoned(at: datetime) -> datetime:
    if at.tzinfo is None or at.utcoffset() is None:
        raise TimeError("a time to be written has no zone", expected="a time with an offset from UTC", kind="time.zone")
    return at


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """One coded concept."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def new_dataset(
    sop_class: str,
    sop_uid: str,
    modality: str,
    patient: DicomPatient,
    study: DicomStudy,
    series: DicomSeries,
    equipment: Equipment,
) -> Dataset:
    """Patient, study, series, equipment, SOP common: the modules that all objects share."""
    d = Dataset()
    d.SpecificCharacterSet = "ISO_IR 192"
    d.SOPClassUID, d.SOPInstanceUID = sop_class, sop_uid
    d.file_meta = _file_meta(d)
    set_patient(d, patient)
    d.StudyInstanceUID, d.StudyID = study.uid, study.study_id
    d.StudyDate, d.StudyTime = date_of(study.at), time_of(study.at)
    d.StudyDescription = study.description
    d.AccessionNumber = ""
    d.ReferringPhysicianName = ""
    d.Modality = modality
    d.SeriesInstanceUID, d.SeriesNumber = series.uid, series.number
    d.SeriesDate, d.SeriesTime = date_of(series.at), time_of(series.at)
    d.SeriesDescription = series.description
    d.ContentDate, d.ContentTime = date_of(series.at), time_of(series.at)
    d.TimezoneOffsetFromUTC = zone_of(series.at)
    d.BodyPartExamined = "WHOLEBODY"  # unpaired, so Laterality is absent
    d.Manufacturer, d.ManufacturerModelName = equipment.manufacturer, equipment.model
    d.DeviceSerialNumber, d.SoftwareVersions = equipment.serial, equipment.software
    d.FrameOfReferenceUID = study.frame_of_reference_uid
    d.PositionReferenceIndicator = ""
    return d


def set_patient(d: Dataset, patient: DicomPatient) -> None:
    """Patient and patient study modules; a pseudonymised patient is declared as such."""
    d.PatientName, d.PatientID = patient.name, patient.id
    d.PatientBirthDate = "" if patient.birth_date is None else patient.birth_date.strftime("%Y%m%d")
    d.PatientSex = {"male": "M", "female": "F", None: ""}[patient.sex]
    if patient.height_cm is not None:
        d.PatientSize = ds(patient.height_cm / 100)
    if patient.weight_kg is not None:
        d.PatientWeight = ds(patient.weight_kg)
    if patient.comments:
        d.PatientComments = patient.comments
    if patient.deidentified:
        d.LongitudinalTemporalInformationModified = "MODIFIED"
        d.PatientIdentityRemoved = "YES"
        d.DeidentificationMethod = "Whitelist extraction, keyed pseudonyms"
        d.DeidentificationMethodCodeSequence = [code_item("113100", "DCM", "Basic Application Confidentiality Profile")]


def set_plane(d: Dataset, grid: Grid, k: int) -> None:
    """Image plane module of slice `k` of a single-frame object."""
    d.ImagePositionPatient = ds_list(grid.position_mm + k * grid.step_mm)
    d.ImageOrientationPatient = ds_list(np.concatenate([grid.row, grid.column]))
    d.PixelSpacing = ds_list(grid.spacing_mm)
    d.SliceThickness = ds(abs(grid.normal_spacing_mm))


def set_pixels(d: Dataset, stored: npt.NDArray[Any]) -> None:
    """Pixel module from unsigned or signed 16- or 32-bit integers, (rows, columns) or (frames, rows, columns)."""
    bits = stored.dtype.itemsize * 8
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.Rows, d.Columns = stored.shape[-2:]
    d.BitsAllocated = d.BitsStored = bits
    d.HighBit = bits - 1
    d.PixelRepresentation = int(stored.dtype.kind == "i")
    # written little endian whatever the machine; DICOM wants an even number of bytes, which 16 and 32 bits give
    d.PixelData = np.ascontiguousarray(stored).astype(stored.dtype.newbyteorder("<")).tobytes()
    d["PixelData"].VR = "OW"


def fix_dimension_uid(d: Dataset, uid: str) -> None:
    """A stated UID of the dimensions of a multi-frame object, which highdicom draws at random."""
    for item in (*d.DimensionOrganizationSequence, *d.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def set_supine_head_first(d: Dataset) -> None:
    """NM and PET patient orientation by codes; PatientPosition must then be absent."""
    orientation = code_item("102538003", "SCT", "recumbent")
    orientation.PatientOrientationModifierCodeSequence = [code_item("40199007", "SCT", "supine")]
    d.PatientOrientationCodeSequence = [orientation]
    d.PatientGantryRelationshipCodeSequence = [code_item("102540008", "SCT", "headfirst")]


def radiopharmaceutical(
    name: str,
    nuclide: str,
    start: datetime,
    total_dose: float,
    half_life_s: float,
    duration_min: float = 0.0,
) -> Dataset:
    """One item of RadiopharmaceuticalInformationSequence.

    Parameters
    ----------
    total_dose : administered activity at `start`: **MBq in NM, Bq in PT**; the caller converts.
    nuclide : `Lu-177`, `Ga-68`, ... (table below); another one raises InputError.
    """
    if nuclide not in _RADIONUCLIDES:
        raise InputError(
            f"no DICOM code for nuclide {nuclide!r}", expected=f"one of {sorted(_RADIONUCLIDES)}", kind="input.nuclide"
        )
    item = Dataset()
    item.Radiopharmaceutical = name
    item.RadiopharmaceuticalRoute = "Intravenous route"
    item.RadiopharmaceuticalStartDateTime = datetime_of(start)
    item.RadiopharmaceuticalStartTime = time_of(start)
    if duration_min > 0:
        item.RadiopharmaceuticalStopDateTime = datetime_of(start + timedelta(minutes=duration_min))
    item.RadionuclideTotalDose = ds(total_dose)
    item.RadionuclideHalfLife = ds(half_life_s)
    value, meaning = _RADIONUCLIDES[nuclide]
    item.RadionuclideCodeSequence = [code_item(value, "SCT", meaning)]
    return item


def save(d: Dataset, path: Path) -> Path:
    """Write a dataset as a DICOM file, explicit VR little endian, zero preamble; same dataset, same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(d))
    return path


def encode(d: Dataset) -> bytes:
    """The bytes of the DICOM file of a dataset."""
    d.file_meta = _file_meta(d)
    d.preamble = b"\0" * 128
    out = io.BytesIO()
    dcmwrite(out, d, enforce_file_format=True, little_endian=True, implicit_vr=False)
    return out.getvalue()


def _file_meta(d: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = "TDT_1"
    return meta
