"""A reference patient as the files a clinic would have, with the truth beside them.

    out/inbox/cycle-<k>/*.dcm         NM or PT, CT and SEG, mixed, names without meaning
    out/inbox/administrations.json    product, activity at its calibration time, residual, ligand amount
    out/inbox/calibration.json        calibration records of the scanners
    out/inbox/labs.csv, labs.fhir.json   the same results twice
    out/truth/truth.json, out/truth/cycle-<k>/*.npz

Same settings, same bytes: UIDs come from SHA-256 of the settings, each object's role and its pixels, dates from the seed, and
nothing reads a clock. The person is fictitious (PHANTOM^<seed>; the patient id also tells other settings and anatomies
apart), born and treated on invented days. The truth is never read back by the loop; volumes are npz with `array` and `affine`
((k, j, i, 1) -> LPS mm).

Cycles must be written in order, since what a cycle does to the patient depends on what was given before.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from storage.dicom.uids import derived_uid
from storage.dicom.write_common import DicomPatient, DicomSeries, DicomStudy, Equipment, save
from storage.dicom.write_ct import ct_series
from storage.dicom.write_nm import EnergyWindow, SpectAcquisition, nm_spect
from storage.dicom.write_pt import PetAcquisition, pt_series
from storage.dicom.write_seg import seg
from storage.phantom_tables import PhantomIdentity, administrations_json, calibration_json, labs_csv, labs_fhir
from tdt_core.codec import digest, to_plain
from tdt_core.errors import InputError, UsageError
from tdt_core.nuclides import nuclide
from tdt_core.phantom.types import PhantomCycle, PhantomScan, PhantomSettings
from tdt_core.twin import Administration, Patient

TRUTH_SCHEMA = 1
# after the date of the phantom's calibration records
_FIRST_DAY = datetime(2026, 2, 2)
_DAYS = 60
_ZONES_MIN = (0, 60, 120, -300, 330)
# main photopeak of therapy nuclides and a 20 % window around it, keV: assumed camera settings
_PHOTOPEAK_KEV = {"Lu-177": 208.37, "I-131": 364.49}
_HALF_WIDTH = 0.1
_DEFAULT_IMAGES = (("images", "fast"), ("noise", "assumed"))


class Anatomy(Protocol):
    """Where a phantom's anatomy comes from."""

    @property
    def source(self) -> str: ...


class Reference(Protocol):
    """What this module needs of a `tdt_core.phantom.ReferencePatient`."""

    @property
    def settings(self) -> PhantomSettings: ...

    @property
    def patient(self) -> Patient: ...

    @property
    def anatomy(self) -> Anatomy: ...

    def cycle(self, number: int, activity_mbq: float | None = None) -> PhantomCycle: ...


@dataclass(frozen=True)
class _Clinic:
    """The invented clinic of one phantom: identity, origin of time, and names for UIDs."""

    identity: PhantomIdentity
    origin: datetime
    key: str

    def at(self, time_h: float) -> datetime:
        """Absolute time of an hour from the first therapy, whole milliseconds, in the clinic's offset."""
        return self.origin + timedelta(milliseconds=round(time_h * 3_600_000))

    def uid(self, *role: object) -> str:
        """UID of an object of this phantom."""
        return derived_uid("phantom", self.key, *role)

    def dicom_patient(self) -> DicomPatient:
        """Identity for DICOM headers."""
        p = self.identity.patient
        return DicomPatient(
            self.identity.id, self.identity.name, p.sex, self.identity.birth_date, round(p.height_cm, 1), round(p.weight_kg, 1)
        )


def write_reference_patient(
    out: Path, reference: Reference, *, real_world: bool = False, through_cycle: int | None = None
) -> Path:
    """Write a patient from cycle 0 on.

    Parameters
    ----------
    out : folder; `inbox` and `truth` in it must not hold anything yet.
    real_world : SPECT as Bq/mL through a real-world value map, in place of counts with a calibration record.
    through_cycle : last cycle to write; all cycles of the settings when None. `append_cycle` adds later ones.

    Returns
    -------
    The inbox folder.
    """
    for name in ("inbox", "truth"):
        if (out / name).exists() and any((out / name).iterdir()):
            raise UsageError(
                f"the folder {name} of the phantom is not empty",
                expected="a new or empty folder",
                remedy="choose another folder, or remove the old phantom",
                kind="input.phantom_exists",
            )
    last = reference.settings.cycles if through_cycle is None else through_cycle
    for number in range(last + 1):
        append_cycle(out, reference, number, real_world=real_world)
    return out / "inbox"


def append_cycle(
    out: Path, reference: Reference, number: int, *, activity_mbq: float | None = None, real_world: bool = False
) -> Path:
    """Add one cycle to a phantom's folder, given with `activity_mbq` (a signed decision) or the standard activity.

    Returns
    -------
    The folder of the cycle's DICOM files. They are complete before the administration that announces them is written.
    """
    inbox, truth = out / "inbox", out / "truth"
    folder = inbox / f"cycle-{number}"
    if folder.exists():
        raise InputError(
            f"cycle {number} of the phantom is there already", remedy="append the next one", kind="input.phantom_exists"
        )
    cycle = reference.cycle(number, activity_mbq=activity_mbq)
    clinic = _clinic(reference)
    staged = inbox / f".cycle-{number}.part"
    shutil.rmtree(staged, ignore_errors=True)  # what an interrupted run left
    staged.mkdir(parents=True)
    for n, d in enumerate(_datasets(cycle, clinic, real_world), start=1):
        save(d, staged / f"IM{n:05d}.dcm")
    _write_truth(truth, reference, cycle)
    staged.rename(folder)
    _write_tables(inbox, cycle, clinic)
    return folder


def _clinic(reference: Reference) -> _Clinic:
    settings, patient = reference.settings, reference.patient
    raw = hashlib.sha256(f"phantom dates {settings.seed}".encode()).digest()
    day, zone = int.from_bytes(raw[:4], "big") % _DAYS, _ZONES_MIN[raw[4] % len(_ZONES_MIN)]
    origin = (_FIRST_DAY + timedelta(days=day, hours=9, minutes=raw[5] % 120)).replace(tzinfo=timezone(timedelta(minutes=zone)))
    birth = (origin - timedelta(days=patient.age_y * 365.25)).date()
    said = {k: v for k, v in to_plain(settings).items() if (k, v) not in _DEFAULT_IMAGES}  # names from before these settings
    key = digest([said, reference.anatomy.source])
    number = f"{settings.seed:04d}"
    identity = PhantomIdentity(f"PHANTOM-{number}-{key[:4].upper()}", f"PHANTOM^{number}", birth, patient)
    return _Clinic(identity, origin, key)


def _datasets(cycle: PhantomCycle, clinic: _Clinic, real_world: bool) -> Iterator[Dataset]:
    """Every DICOM object of a cycle: per scan its emission volume and CT, once the SEG on the first scan's CT."""
    for n, scan in enumerate(cycle.scans):
        given = _latest(cycle.administrations, scan)
        # what was measured names the objects too: another activity, now or before, gives other objects
        role = (cycle.number, scan.name, _content(scan))
        at = clinic.at(scan.time_h)
        study = DicomStudy(clinic.uid(*role, "study"), clinic.uid(*role, "frame"), at, scan.name, scan.name[:16])
        equipment = Equipment(model=f"Phantom {scan.modality}", serial=scan.calibration.device)
        patient = clinic.dicom_patient()
        series = DicomSeries(clinic.uid(*role, "emission"), 1, at, f"{scan.name} {scan.modality}")
        if scan.modality == "SPECT":
            values = _real_world_bq_ml(scan) if real_world else scan.image
            acquisition = _spect(scan, given, clinic)
            uid = clinic.uid(*role, "emission", 1)
            yield nm_spect(values, scan.affine, acquisition, patient, study, series, equipment, uid, real_world)
        else:
            bq_ml = np.maximum(scan.image.astype(np.float64), 0.0) * 1e6
            yield from pt_series(bq_ml, scan.affine, _pet(scan, given, clinic), patient, study, series, equipment)
        ct_at = at - timedelta(minutes=5)
        ct = DicomSeries(clinic.uid(*role, "ct"), 2, ct_at, f"{scan.name} CT")
        slices = list(ct_series(scan.ct_hu, scan.affine, patient, study, ct, equipment))
        yield from slices
        if n == 0 and cycle.segmentation is not None:
            regions = DicomSeries(clinic.uid(*role, "regions"), 3, at + timedelta(hours=2), f"{scan.name} regions")
            uid = clinic.uid(*role, "regions", 1)
            yield seg(cycle.segmentation, slices, regions, Equipment(), patient, uid, tracking_seed=clinic.key)


def _content(scan: PhantomScan) -> str:
    """SHA-256 of a scan's pixels."""
    return hashlib.sha256(scan.image.tobytes() + scan.ct_hu.tobytes()).hexdigest()


def _latest(schedule: tuple[Administration, ...], scan: PhantomScan) -> Administration:
    """The administration that a scan shows: the last one of its nuclide before it."""
    before = [a for a in schedule if a.nuclide == scan.nuclide and a.time_h <= scan.time_h]
    if not before:
        raise InputError(f"scan {scan.name} without an administration before it", kind="input.phantom")
    return before[-1]


def _spect(scan: PhantomScan, given: Administration, clinic: _Clinic) -> SpectAcquisition:
    peak = _PHOTOPEAK_KEV[scan.nuclide]
    calibration = scan.calibration
    return SpectAcquisition(
        EnergyWindow(calibration.energy_window, round(peak * (1 - _HALF_WIDTH), 1), round(peak * (1 + _HALF_WIDTH), 1)),
        calibration.collimator,
        calibration.reconstruction,
        scan.duration_s,
        scan.nuclide,
        nuclide(scan.nuclide).half_life_h * 3600,
        given.product,
        given.net_activity_mbq,
        clinic.at(given.time_h),
        injection_duration_min=given.duration_h * 60,
    )


def _pet(scan: PhantomScan, given: Administration, clinic: _Clinic) -> PetAcquisition:
    return PetAcquisition(
        scan.duration_s,
        scan.nuclide,
        nuclide(scan.nuclide).half_life_h * 3600,
        given.product,
        given.net_activity_mbq,
        clinic.at(given.time_h),
        scan.calibration.reconstruction,
    )


def _real_world_bq_ml(scan: PhantomScan) -> npt.NDArray[np.float64]:
    """Counts through the calibration record, as a scanner that quantifies by itself writes them: mean over the acquisition."""
    voxel_ml = abs(float(np.linalg.det(scan.affine[:3, :3]))) / 1000
    counts_per_mbq = scan.calibration.sensitivity_cps_per_mbq * scan.duration_s
    return scan.image.astype(np.float64) / (counts_per_mbq * voxel_ml) * 1e6


def _write_tables(inbox: Path, cycle: PhantomCycle, clinic: _Clinic) -> None:
    records = [s.calibration for s in cycle.scans]

    def before(name: str) -> str | None:
        return (inbox / name).read_text(encoding="utf-8") if (inbox / name).exists() else None

    def half_life_h(name: str) -> float:
        return nuclide(name).half_life_h

    identity = clinic.identity
    texts = {
        "calibration.json": calibration_json(records, before("calibration.json")),
        "labs.csv": labs_csv(identity, cycle.labs, clinic.at, cycle.number, before("labs.csv")),
        "labs.fhir.json": labs_fhir(identity, cycle.labs, clinic.at, cycle.number, before("labs.fhir.json")),
        "administrations.json": administrations_json(
            identity, cycle.administrations, clinic.at, half_life_h, before("administrations.json")
        ),
    }
    for name, text in texts.items():
        _replace(inbox / name, text)


def _write_truth(truth: Path, reference: Reference, cycle: PhantomCycle) -> None:
    folder = truth / f"cycle-{cycle.number}"
    folder.mkdir(parents=True, exist_ok=True)
    volumes: dict[str, tuple[npt.NDArray[Any], npt.NDArray[np.float64]]] = {}
    if cycle.truth_dose is not None:
        volumes["dose_gy"] = (cycle.truth_dose.array.astype(np.float32), cycle.truth_dose.affine)
    if cycle.truth_tia is not None:
        volumes["tia_mbq_h_ml"] = (cycle.truth_tia.array.astype(np.float32), cycle.truth_tia.affine)
    if cycle.truth_labels is not None:
        volumes["labels"] = (cycle.truth_labels.labels, cycle.truth_labels.affine)
    for scan in cycle.scans:
        volumes[f"{scan.name}_activity_mbq_ml"] = (scan.truth_mbq_ml, scan.affine)
    for name, (array, affine) in volumes.items():
        np.savez_compressed(folder / f"{name}.npz", array=array, affine=affine)
    path = truth / "truth.json"
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else _truth_head(reference)
    data["cycles"] = [c for c in data["cycles"] if c["number"] != cycle.number] + [_truth_of(cycle)]
    _replace(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _truth_head(reference: Reference) -> dict[str, Any]:
    return {
        "schema": TRUTH_SCHEMA,
        "settings": to_plain(reference.settings),
        "anatomy": reference.anatomy.source,
        "cycles": [],
    }


def _truth_of(cycle: PhantomCycle) -> Mapping[str, Any]:
    labels = () if cycle.truth_labels is None else tuple(r.name for r in cycle.truth_labels.regions)
    return to_plain(
        {
            "number": cycle.number,
            "administrations": cycle.administrations,
            "lesions": cycle.lesions,
            "labs": cycle.labs,
            "label_names": labels,
            "truth": cycle.truth,
        }
    )


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
