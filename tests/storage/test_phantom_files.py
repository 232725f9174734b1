"""The files of a reference patient: the values of the phantom, twice the same bytes, and nothing of the truth in the inbox."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest

from storage.intake import check
from storage.phantom_files import append_cycle, write_reference_patient
from storage.tables import read_csv, read_json
from storage.vault import Vault
from tdt_core.errors import InputError, UsageError
from tdt_core.imaging.regions import region_named
from tdt_core.imaging.volume import LabelVolume, Volume
from tdt_core.nuclides import nuclide
from tdt_core.phantom import reference_patient
from tdt_core.phantom.types import PhantomCycle, PhantomScan, PhantomSettings
from tdt_core.twin import Administration, CalibrationRecord, LabResult, Lesion, Patient

AFFINE = np.array([[0, 0, 4.8, -30.0], [0, 4.8, 0, -40.0], [4.8, 0, 0, -50.0], [0, 0, 0, 1.0]])
SPECT = CalibrationRecord(
    "SPECT-01", "Lu177_208", "MEHRP", "OSEM-4i10s-AC-SC-RR", "Lu-177", 9.5, 0.05, 11.0, 0.1, "2024-01-01", "phantom"
)
PET = CalibrationRecord("PET-01", "PET511", "NONE", "OSEM-TOF-PSF", "Ga-68", 5000.0, 0.03, 5.0, 0.1, "2024-01-01", "phantom")


@dataclass(frozen=True)
class SmallPatient:
    """A patient of hand-made arrays in the shape of the generator's own, small enough to write many times."""

    settings: PhantomSettings = field(default_factory=lambda: PhantomSettings(seed=7))

    @property
    def patient(self) -> Patient:
        return Patient("phantom", "male", 68.25, 178.04, 81.26, 0.41)

    @property
    def anatomy(self) -> SimpleNamespace:
        return SimpleNamespace(source="boxes")

    @cached_property
    def labels(self) -> LabelVolume:
        array = np.zeros((5, 6, 7), np.int16)
        array[1:3, 1:4, 1:3], array[2:4, 3:5, 5] = 1, 2
        return LabelVolume(array, AFFINE, "C1-T1", (region_named("kidney_left"), region_named("lesion/L1")))

    def cycle(self, number: int, activity_mbq: float | None = None) -> PhantomCycle:
        start_h = -168.0 if number == 0 else (number - 1) * self.settings.interval_h
        given = activity_mbq or self.settings.standard_activity_mbq
        if number == 0:
            administration = Administration(start_h, "Ga-68-PSMA-11", "PSMA-11", "Ga-68", 150.0, 4.0, intent="imaging")
            scans = (self._scan("C0-PET", "PET", start_h + 1.0, 900.0, PET, 0.01),)
        else:
            administration = Administration(start_h, self.settings.product, "PSMA-617", "Lu-177", given, 100.0, 0.25, 40.0)
            scans = tuple(
                self._scan(f"C{number}-T{n}", "SPECT", start_h + h, 1200.0, SPECT, given) for n, h in enumerate((4.0, 24.0), 1)
            )
        labs = (
            LabResult("creatinine", start_h - 2, 1.0123456789, "mg/dL"),
            LabResult("psa", start_h - 2, 0.01, "ng/mL", comparator="<"),
        )
        dose = Volume(np.full((5, 6, 7), float(number)), AFFINE, "Gy", "f")
        return PhantomCycle(
            number,
            (administration,),
            scans,
            self.labels if number else None,
            labs,
            (Lesion("L1", "bone", 2.0, 1),),
            {"canary": "TRUTH-ONLY", "regions": {"kidney_left": {"dose_gy": 1.5}}},
            dose,
            None,
            self.labels,
        )

    def _scan(self, name, modality, time_h, duration_s, calibration, scale) -> PhantomScan:
        truth = np.random.default_rng([self.settings.seed, int(time_h * 10) + 10_000]).gamma(2, scale * 1e-5, (5, 6, 7))
        voxel_ml = 4.8**3 / 1000
        counts = truth * voxel_ml * calibration.sensitivity_cps_per_mbq * duration_s
        image, unit = (counts, "counts") if modality == "SPECT" else (truth, "MBq/mL")
        hu = np.full((5, 6, 7), 40, np.int16)
        motion = (0.0, 0.0, 0.0)
        return PhantomScan(
            name, modality, image.astype(np.float32), unit, hu, AFFINE, name, time_h, duration_s, calibration.nuclide,
            calibration, motion, motion, truth.astype(np.float32),
        )  # fmt: skip


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def headers(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(p) for p in sorted(folder.glob("*.dcm"))]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_files(tmp_path):
    write_reference_patient(tmp_path / "a", SmallPatient())
    time.sleep(1.1)  # a wall clock in a file would show
    write_reference_patient(tmp_path / "b", SmallPatient())
    write_reference_patient(tmp_path / "c", SmallPatient(PhantomSettings(seed=8)))
    a, c = tree(tmp_path / "a"), tree(tmp_path / "c")
    assert a == tree(tmp_path / "b")
    assert a.keys() == c.keys()
    assert not {n for n in a if a[n] == c[n] and not n.endswith(".npz") and not n.endswith("calibration.json")}


def test_cycles_appended_one_by_one_give_the_same_files_as_all_at_once(tmp_path):
    write_reference_patient(tmp_path / "a", SmallPatient())
    write_reference_patient(tmp_path / "b", SmallPatient(), through_cycle=1)
    assert not (tmp_path / "b" / "inbox" / "cycle-2").exists()
    append_cycle(tmp_path / "b", SmallPatient(), 2)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_an_appended_cycle_has_the_activity_that_was_decided_and_objects_of_its_own(tmp_path):
    for name, activity in (("a", None), ("b", 5000.0)):
        write_reference_patient(tmp_path / name, SmallPatient(), through_cycle=1)
        append_cycle(tmp_path / name, SmallPatient(), 2, activity_mbq=activity)
    started = [given_at_start(tmp_path / n / "inbox", -1) for n in ("a", "b")]
    assert started == pytest.approx([7400.0, 5000.0])
    uids = [{d.SOPInstanceUID for d in headers(tmp_path / n / "inbox" / "cycle-2")} for n in ("a", "b")]
    assert not uids[0] & uids[1]
    with pytest.raises(InputError, match="there already"):
        append_cycle(tmp_path / "b", SmallPatient(), 2)


def given_at_start(inbox: Path, n: int) -> float:
    row = read_json(inbox / "administrations.json")["administrations"][n]
    waited = datetime.fromisoformat(row["start_time"]) - datetime.fromisoformat(row["calibration_time"])
    assert waited.total_seconds() > 0
    return row["activity"] * 2 ** (-waited.total_seconds() / 3600 / nuclide(row["nuclide"]).half_life_h)


def test_activity_and_residual_decay_back_to_what_the_phantom_got(tmp_path):
    inbox = write_reference_patient(tmp_path, SmallPatient(), through_cycle=1)
    assert [given_at_start(inbox, n) for n in (0, 1)] == pytest.approx([150.0, 7400.0])
    row = read_json(inbox / "administrations.json")["administrations"][1]
    waited = datetime.fromisoformat(row["residual_time"]) - datetime.fromisoformat(row["start_time"])
    back = row["residual"] * 2 ** (waited.total_seconds() / 3600 / nuclide("Lu-177").half_life_h)
    assert back == pytest.approx(40.0)
    assert (row["duration_min"], row["amount"], row["amount_unit"], row["intent"]) == (15.0, 100.0, "nmol", "therapy")
    person = read_json(inbox / "administrations.json")["patient"]
    assert person["id"].startswith("PHANTOM-0007-")
    days = datetime.fromisoformat(row["start_time"]).date() - datetime.fromisoformat(person["birth_date"]).date()
    assert days.days / 365.25 == pytest.approx(68.25, abs=0.01)


@pytest.mark.parametrize("real_world", [False, True])
def test_activity_read_from_the_spect_files_is_that_of_the_phantom(tmp_path, real_world):
    reference = SmallPatient()
    inbox = write_reference_patient(tmp_path, reference, real_world=real_world, through_cycle=1)
    spects = [d for d in headers(inbox / "cycle-1") if d.Modality == "NM"]
    assert len(spects) == 2
    record = next(r for r in read_json(inbox / "calibration.json")["calibrations"] if r["nuclide"] == "Lu-177")
    for d, scan in zip(spects, reference.cycle(1).scans, strict=True):
        if real_world:
            item = d.RealWorldValueMappingSequence[0]
            total = float((d.pixel_array * item.RealWorldValueSlope).sum() * 4.8**3 / 1000 / 1e6)
        else:
            key = (d.DeviceSerialNumber, d.EnergyWindowInformationSequence[0].EnergyWindowName)
            assert (*key, d.DetectorInformationSequence[0].CollimatorGridName, d.ProcessingFunction) == SPECT.key
            total = float(d.pixel_array.sum()) / (record["sensitivity_cps_per_mbq"] * 1200.0)
        assert total == pytest.approx(scan.truth_mbq_ml.sum() * 4.8**3 / 1000, rel=2e-3)


def test_scans_lie_in_time_after_the_injection_by_the_phantoms_hours(tmp_path):
    inbox = write_reference_patient(tmp_path, SmallPatient(), through_cycle=1)
    row = read_json(inbox / "administrations.json")["administrations"][1]
    start = datetime.fromisoformat(row["start_time"])
    waits = []
    for d in headers(inbox / "cycle-1"):
        if d.Modality == "NM":
            begun = datetime.strptime(d.AcquisitionDateTime, "%Y%m%d%H%M%S%z")
            waits.append((begun - start).total_seconds() / 3600)
            injected = d.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime
            assert datetime.strptime(injected, "%Y%m%d%H%M%S%z") == start
    assert waits == [4.0, 24.0]


def test_each_scan_shares_its_frame_with_its_ct_only_and_the_seg_refers_to_the_first_ct(tmp_path):
    inbox = write_reference_patient(tmp_path, SmallPatient(), through_cycle=1)
    by_frame: dict[str, set[str]] = {}
    for d in headers(inbox / "cycle-1"):
        by_frame.setdefault(d.FrameOfReferenceUID, set()).add(d.Modality)
    assert sorted(map(sorted, by_frame.values())) == [["CT", "NM"], ["CT", "NM", "SEG"]]
    seg = next(d for d in headers(inbox / "cycle-1") if d.Modality == "SEG")
    cts = {d.SOPInstanceUID for d in headers(inbox / "cycle-1") if d.Modality == "CT"}
    assert {i.ReferencedSOPInstanceUID for i in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence} <= cts


def test_a_lesion_keeps_its_tracking_uid_over_cycles(tmp_path):
    inbox = write_reference_patient(tmp_path, SmallPatient())
    segs = [next(d for d in headers(inbox / f"cycle-{k}") if d.Modality == "SEG") for k in (1, 2)]
    assert segs[0].SegmentSequence[1].TrackingUID == segs[1].SegmentSequence[1].TrackingUID


def test_labs_are_the_same_in_both_files_with_censoring_and_the_bundle_is_valid_fhir(tmp_path):
    inbox = write_reference_patient(tmp_path, SmallPatient())
    rows = read_csv(inbox / "labs.csv", ("pseudonym", "datetime", "loinc", "value", "unit", "comparator", "status", "record"))
    bundle = read_json(inbox / "labs.fhir.json")
    assert len(rows) == len(bundle["entry"]) == 6
    for row, entry in zip(rows, bundle["entry"], strict=True):
        found = entry["resource"]
        quantity = found["valueQuantity"]
        assert (row["loinc"], row["datetime"]) == (found["code"]["coding"][0]["code"], found["effectiveDateTime"])
        assert (float(row["value"]), row["unit"]) == (quantity["value"], quantity["code"])
        assert row["comparator"] == quantity.get("comparator", "")
        assert (row["status"], row["record"]) == (found["status"], found["identifier"][0]["value"])
        assert datetime.fromisoformat(row["datetime"]).utcoffset() is not None
    assert (rows[0]["value"], rows[1]["value"], rows[1]["comparator"]) == ("1.01235", "0.01", "<")
    assert len({r["record"] for r in rows}) == 6
    from fhir.resources.R4B.bundle import Bundle

    assert len(Bundle.model_validate(bundle).entry) == 6


def test_truth_stays_out_of_the_inbox_and_is_whole_beside_it(tmp_path):
    inbox = write_reference_patient(tmp_path, SmallPatient())
    assert not [p for p in inbox.rglob("*") if p.is_file() and b"TRUTH-ONLY" in p.read_bytes()]
    truth = json.loads((tmp_path / "truth" / "truth.json").read_text())
    assert [c["number"] for c in truth["cycles"]] == [0, 1, 2]
    assert truth["cycles"][1]["truth"]["regions"]["kidney_left"]["dose_gy"] == 1.5
    assert truth["settings"]["seed"] == 7
    with np.load(tmp_path / "truth" / "cycle-2" / "dose_gy.npz", allow_pickle=False) as data:
        assert (data["array"] == 2.0).all()
        np.testing.assert_array_equal(data["affine"], AFFINE)


def test_a_folder_that_holds_a_phantom_is_not_written_over(tmp_path):
    write_reference_patient(tmp_path, SmallPatient(), through_cycle=0)
    with pytest.raises(UsageError, match="not empty"):
        write_reference_patient(tmp_path, SmallPatient())


def test_pet_values_are_bq_per_ml_of_the_phantom(tmp_path):
    inbox = write_reference_patient(tmp_path, SmallPatient(), through_cycle=0)
    scan = SmallPatient().cycle(0).scans[0]
    slices = sorted((d for d in headers(inbox / "cycle-0") if d.Modality == "PT"), key=lambda d: d.ImagePositionPatient[2])
    found = np.stack([d.pixel_array * float(d.RescaleSlope) for d in slices]) / 1e6
    np.testing.assert_allclose(found, scan.image, rtol=1e-3, atol=scan.image.max() / 30000)


def test_a_missing_administration_is_an_error(tmp_path):
    class Broken(SmallPatient):
        def cycle(self, number, activity_mbq=None):
            return replace(super().cycle(number, activity_mbq), administrations=())

    with pytest.raises(InputError, match="without an administration"):
        write_reference_patient(tmp_path, Broken(), through_cycle=0)


def test_every_kind_of_file_passes_dciodvfy(tmp_path):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    inbox = write_reference_patient(tmp_path, SmallPatient(), through_cycle=1)
    checked = set()
    for path in sorted(inbox.rglob("*.dcm")):
        kind = pydicom.dcmread(path, stop_before_pixels=True).Modality
        if kind in checked:
            continue
        checked.add(kind)
        found = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in found.stderr + found.stdout, f"{kind}: {found.stderr}"
    assert checked == {"NM", "PT", "CT", "SEG"}


def test_a_generated_patient_is_taken_in_without_a_finding_against_it(tmp_path):
    reference = reference_patient(PhantomSettings(seed=3, matrix=32, time_points=3))
    inbox = write_reference_patient(tmp_path, reference, through_cycle=1)
    report = check(inbox, Vault.in_memory())
    assert report.ok
    assert [(i.item, i.found) for i in report.items if i.verdict != "ok"] == []
    truth = json.loads((tmp_path / "truth" / "truth.json").read_text())
    assert truth["cycles"][1]["truth"]["regions"]


def test_a_generated_patient_gives_the_same_bytes_twice_and_other_objects_for_another_activity(tmp_path):
    uids = {}
    for name, activity in (("a", 7000.0), ("b", 7000.0), ("c", 3000.0)):
        reference = reference_patient(PhantomSettings(seed=4, matrix=32, time_points=3, pet=False), dose_engine="local")
        write_reference_patient(tmp_path / name, reference, through_cycle=0)
        folder = append_cycle(tmp_path / name, reference, 1, activity_mbq=activity)
        uids[name] = {pydicom.dcmread(p, specific_tags=["SOPInstanceUID"]).SOPInstanceUID for p in folder.glob("*.dcm")}
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert uids["a"] == uids["b"]
    assert not uids["a"] & uids["c"]
