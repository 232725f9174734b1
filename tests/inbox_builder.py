"""A small valid patient as files, built once per run and copied for each way to break it.

One PET before therapy, one therapy cycle of two SPECT scans, each with its CT in its own frame of reference, a SEG on the
first SPECT, administrations, calibrations, and labs both as CSV and as FHIR.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from storage.deliveries import content_of, pool_of, put_bundles
from storage.dicom.uids import derived_uid
from storage.dicom.write_common import DicomPatient, DicomSeries, DicomStudy, Equipment, save
from storage.dicom.write_ct import ct_series
from storage.dicom.write_nm import EnergyWindow, SpectAcquisition, nm_spect
from storage.dicom.write_pt import PetAcquisition, pt_series
from storage.dicom.write_rtstruct import rtstruct
from storage.dicom.write_seg import seg
from storage.evidence import EvidenceStore
from storage.intake import Intake
from storage.twins import TwinStore
from tdt_core.imaging.regions import region_named
from tdt_core.imaging.volume import LabelVolume
from tdt_core.nuclides import nuclide

ZONE = timezone(timedelta(hours=1))
THERAPY = datetime(2026, 3, 2, 9, 30, tzinfo=ZONE)
SHAPE = (6, 10, 24)  # z, y, x: not square on purpose
SPACING_MM = 20.0
AFFINE = np.array([[0, 0, 20.0, -230.0], [0, 20.0, 0, -90.0], [20.0, 0, 0, -50.0], [0, 0, 0, 1.0]])
PERSON = DicomPatient("ID-4711", "CANARYNAME^JOHN", "male", date(1955, 6, 1), 178.0, 82.0)
SENSITIVITY, DURATION_S = 10.0, 1200.0
PRODUCT, PET_PRODUCT = "Lu-177-PSMA-617", "Ga-68-PSMA-11"
CALIBRATION = {
    "device": "SN-1", "energy_window": "Lu177_208", "collimator": "MEGP", "reconstruction": "OSEM4i10s", "nuclide": "Lu-177",
    "sensitivity_cps_per_mbq": SENSITIVITY, "sensitivity_rel_sd": 0.03, "resolution_fwhm_mm": 12.0, "resolution_rel_sd": 0.05,
    "date": "2026-01-15", "source": "phantom measurement",
}  # fmt: skip
PET_CALIBRATION = CALIBRATION | {
    "device": "PET-1", "energy_window": "511", "collimator": "NONE", "reconstruction": "OSEM-TOF-PSF", "nuclide": "Ga-68",
}  # fmt: skip


def labels(names: tuple[str, ...] = ("kidney_left", "kidney_right", "liver", "lesion/L1")) -> LabelVolume:
    """Left organs at large x, as in LPS."""
    boxes = {
        "kidney_left": np.s_[1:4, 5:7, 16:18],
        "kidney_right": np.s_[1:4, 5:7, 6:8],
        "liver": np.s_[3:6, 2:5, 5:9],
        "lesion/L1": np.s_[0:2, 3:5, 12:14],
    }
    array = np.zeros(SHAPE, np.int16)
    for n, name in enumerate(names, start=1):
        array[boxes[name]] = n
    return LabelVolume(array, AFFINE, "unused", tuple(region_named(n) for n in names))


def activity(seed: int) -> np.ndarray:
    """MBq/mL, more in the kidneys."""
    rng = np.random.default_rng(seed)
    mbq_ml = rng.uniform(0.005, 0.01, SHAPE)
    mbq_ml[labels().labels > 0] += 0.5
    return mbq_ml


def hounsfield() -> np.ndarray:
    """A block of tissue in air, symmetric about x = 0."""
    hu = np.full(SHAPE, -1000, np.int16)
    hu[:, 1:9, 2:22] = 40
    return hu


def study_of(name: str, at: datetime) -> DicomStudy:
    return DicomStudy(derived_uid("study", name), derived_uid("frame", name), at, name)


def spect(name: str, at: datetime, values: np.ndarray, *, real_world: bool = False, affine: np.ndarray = AFFINE) -> Dataset:
    acquisition = SpectAcquisition(
        EnergyWindow("Lu177_208", 187.0, 229.0), "MEGP", "OSEM4i10s", DURATION_S, "Lu-177",
        nuclide("Lu-177").half_life_h * 3600, PRODUCT, 7350.0, THERAPY,
    )  # fmt: skip
    series = DicomSeries(derived_uid("nm", name), 1, at, "SPECT")
    uid = derived_uid("nm", name, 1)
    return nm_spect(values, affine, acquisition, PERSON, study_of(name, at), series, Equipment(serial="SN-1"), uid, real_world)


def counts_of(mbq_ml: np.ndarray) -> np.ndarray:
    return mbq_ml * SENSITIVITY * DURATION_S * (SPACING_MM**3 / 1000)


def ct(name: str, at: datetime, hu: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> list[Dataset]:
    series = DicomSeries(derived_uid("ct", name), 2, at - timedelta(minutes=5), "CT")
    values = hounsfield() if hu is None else hu
    return list(ct_series(values, affine, PERSON, study_of(name, at), series, Equipment(serial="CT-1")))


def pet(name: str, at: datetime, mbq_ml: np.ndarray, injected: datetime) -> list[Dataset]:
    acquisition = PetAcquisition(
        600.0, "Ga-68", nuclide("Ga-68").half_life_h * 3600, PET_PRODUCT, 150.0, injected, "OSEM-TOF-PSF"
    )
    series = DicomSeries(derived_uid("pt", name), 1, at, "PET")
    equipment = Equipment(serial="PET-1")
    return list(pt_series(mbq_ml * 1e6, AFFINE, acquisition, PERSON, study_of(name, at), series, equipment))


def administration(**changes: object) -> dict[str, object]:
    return {
        "product": PRODUCT, "ligand": "PSMA-617", "nuclide": "Lu-177", "intent": "therapy", "activity": 7400.0,
        "activity_unit": "MBq", "calibration_time": THERAPY.isoformat(), "start_time": THERAPY.isoformat(),
        "duration_min": 10.0, "residual": 50.0, "residual_unit": "MBq", "residual_time": THERAPY.isoformat(),
        "amount": 120.0, "amount_unit": "nmol", "route": "intravenous", **changes,
    }  # fmt: skip


INJECTED = THERAPY - timedelta(days=7)


def pet_administration() -> dict[str, object]:
    at = INJECTED.isoformat()
    return administration(
        product=PET_PRODUCT, ligand="PSMA-11", nuclide="Ga-68", intent="imaging", activity=150.0, residual=2.0,
        calibration_time=at, start_time=at, residual_time=at,
    )  # fmt: skip


LABS = [
    (THERAPY - timedelta(days=1), "2160-0", 1.1, "mg/dL", "", "final", "LAB-1"),
    (THERAPY - timedelta(days=1), "2857-1", 0.02, "ng/mL", "<", "final", "LAB-2"),
    (THERAPY + timedelta(days=14), "777-3", 180.0, "10*9/L", "", "final", "LAB-3"),
]


def lab_csv(rows=LABS, subject: str = PERSON.id) -> str:
    head = "pseudonym,datetime,loinc,value,unit,comparator,status,record\n"
    return head + "".join(
        f"{subject},{at.isoformat()},{code},{value},{unit},{comparator},{status},{record}\n"
        for at, code, value, unit, comparator, status, record in rows
    )


def lab_fhir(rows=LABS, subject: str = PERSON.id) -> dict[str, object]:
    entries = [{"resource": {"resourceType": "Patient", "id": "p1", "identifier": [{"value": subject}]}}]
    for at, code, value, unit, comparator, status, record in rows:
        quantity = {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}
        entries.append(
            {
                "resource": {
                    "resourceType": "Observation",
                    "id": f"o-{record}",
                    "identifier": [{"value": record}],
                    "status": status,
                    "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
                    "subject": {"reference": "Patient/p1"},
                    "effectiveDateTime": at.isoformat(),
                    "valueQuantity": quantity | ({"comparator": comparator} if comparator else {}),
                }
            }
        )
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


def patient_json(administrations: list[dict[str, object]] | None = None, **changes: object) -> dict[str, object]:
    person = {
        "id": PERSON.id, "sex": "male", "birth_date": "1955-06-01", "height_cm": 178.0, "weight_kg": 82.0, "haematocrit": 0.41,
    } | changes  # fmt: skip
    given = [pet_administration(), administration()] if administrations is None else administrations
    return {"schema": 1, "patient": person, "administrations": given}


def segmentation(name: str, source: list[Dataset], regions: LabelVolume | None = None) -> Dataset:
    series = DicomSeries(derived_uid("seg", name), 3, THERAPY + timedelta(days=1), "regions")
    drawn = labels() if regions is None else regions
    return seg(drawn, source, series, Equipment(), PERSON, derived_uid("seg", name, 1), tracking_seed="seed")


def structures(name: str, source: list[Dataset], regions: LabelVolume | None = None) -> Dataset:
    at = THERAPY + timedelta(days=1)
    series = DicomSeries(derived_uid("rs", name), 3, at, "regions")
    drawn = labels() if regions is None else regions
    uid = derived_uid("rs", name, 1)
    return rtstruct(drawn, source, PERSON, study_of(name, THERAPY + timedelta(hours=4)), series, Equipment(), uid)


def write_inbox(folder: Path) -> Path:
    """The valid patient. Files: pet-00.dcm.., petct-00.dcm.., t1.dcm, t1ct-00.dcm.., t1seg.dcm, t2.dcm, t2ct-00.dcm.."""
    folder.mkdir(parents=True, exist_ok=True)
    times = {"t1": THERAPY + timedelta(hours=4), "t2": THERAPY + timedelta(hours=48)}
    for n, (name, at) in enumerate(times.items()):
        save(spect(name, at, counts_of(activity(n))), folder / f"{name}.dcm")
        slices = ct(name, at)
        for k, d in enumerate(slices):
            save(d, folder / f"{name}ct-{k:02d}.dcm")
        if name == "t1":
            save(segmentation(name, slices), folder / "t1seg.dcm")
    at = INJECTED + timedelta(hours=1)
    for k, d in enumerate(pet("pet", at, activity(9) * 0.01, INJECTED)):
        save(d, folder / f"pet-{k:02d}.dcm")
    for k, d in enumerate(ct("pet", at)):
        save(d, folder / f"petct-{k:02d}.dcm")
    (folder / "administrations.json").write_text(json.dumps(patient_json()))
    (folder / "calibration.json").write_text(json.dumps({"schema": 1, "calibrations": [CALIBRATION, PET_CALIBRATION]}))
    (folder / "labs.csv").write_text(lab_csv())
    (folder / "labs.fhir.json").write_text(json.dumps(lab_fhir()))
    return folder


def edit(path: Path, change: Callable[[Dataset], None]) -> None:
    """Change one DICOM file in place."""
    with pydicom.config.disable_value_validation():
        d = pydicom.dcmread(path)
        change(d)
        d.save_as(path)


def edit_json(path: Path, change: Callable[[dict], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def copy_of(valid: Path, target: Path) -> Path:
    shutil.copytree(valid, target)
    return target


def bundles_of(evidence: EvidenceStore, intake: Intake) -> dict[int, str]:
    """Cycle number -> digest of its bundle, when this intake is all that is known of the patient."""
    known = pool_of(TwinStore(evidence.home), intake.pid, more=content_of(intake))
    return put_bundles(evidence, known.cycles())
