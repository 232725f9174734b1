"""Each way in which a delivery can be broken is refused with its own reason and a remedy, and leaves no trace in any twin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import inbox_builder as b
import numpy as np
import pydicom
import pytest

from storage.dicom.write_common import save
from storage.evidence import EvidenceStore
from storage.home import open_home
from storage.intake import RefusedInbox, check, read_inbox
from storage.vault import Vault
from tdt_core.imaging.regions import region_named
from tdt_core.imaging.volume import LabelVolume

Break = Callable[[Path], None]


@pytest.fixture(scope="session")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return b.write_inbox(tmp_path_factory.mktemp("valid") / "inbox")


def nm(change: Callable[[pydicom.Dataset], None], name: str = "t2.dcm") -> Break:
    return lambda folder: b.edit(folder / name, change)


def every(pattern: str, change: Callable[[pydicom.Dataset], None]) -> Break:
    def broken(folder: Path) -> None:
        for path in sorted(folder.glob(pattern)):
            b.edit(path, change)

    return broken


def record(change: Callable[[dict], None]) -> Break:
    return lambda folder: b.edit_json(folder / "administrations.json", change)


def given(n: int = 1, **changes: object) -> Break:
    return record(lambda data: data["administrations"][n].update(changes))


def csv(old: str, new: str) -> Break:
    def broken(folder: Path) -> None:
        text = (folder / "labs.csv").read_text()
        assert old in text
        (folder / "labs.csv").write_text(text.replace(old, new))
        (folder / "labs.fhir.json").unlink()

    return broken


def fhir(change: Callable[[dict], None]) -> Break:
    def broken(folder: Path) -> None:
        (folder / "labs.csv").unlink()
        b.edit_json(folder / "labs.fhir.json", lambda data: change(data["entry"][1]["resource"]))

    return broken


def prior(row: str) -> Break:
    """An earlier therapy that stands in the folder in this form."""
    header = "pseudonym,region,dose_gy,radiation,date,source"
    return lambda folder: (folder / "prior_therapy.csv").write_text(f"{header}\n{row}\n") and None


def remove(*names: str) -> Break:
    def broken(folder: Path) -> None:
        for name in names:
            for path in list(folder.glob(name)):
                path.unlink()

    return broken


def signed(d: pydicom.Dataset) -> None:
    stored = np.frombuffer(d.PixelData, "<u2").astype("<i2")
    stored[5] = -3
    d.PixelRepresentation, d.PixelData = 1, stored.tobytes()


def truncate(folder: Path) -> None:
    path = folder / "t2.dcm"
    path.write_bytes(path.read_bytes()[:-500])


def other_bytes(folder: Path) -> None:
    shutil.copyfile(folder / "t1ct-02.dcm", folder / "copy.dcm")
    b.edit(folder / "copy.dcm", lambda d: setattr(d, "PixelData", d.PixelData[::-1]))


def shear(folder: Path) -> None:
    for k, path in enumerate(sorted(folder.glob("t1ct-*.dcm"))):
        b.edit(path, lambda d, k=k: d.ImagePositionPatient.__setitem__(1, float(d.ImagePositionPatient[1]) + 2.0 * k))


def real_world(change: Callable[[pydicom.Dataset], None]) -> Break:
    def broken(folder: Path) -> None:
        at = b.THERAPY + timedelta(hours=48)
        d = b.spect("t2", at, b.activity(1) * 1e6, real_world=True)
        change(d)
        with pydicom.config.disable_value_validation():
            save(d, folder / "t2.dcm")

    return broken


def indium(d: pydicom.Dataset) -> None:
    item = d.RadiopharmaceuticalInformationSequence[0]
    item.RadionuclideCodeSequence[0].CodeValue = "56609000"
    item.RadionuclideHalfLife = str(2.8047 * 86400)


def drawn(regions: LabelVolume, name: str = "t1seg.dcm") -> Break:
    """Regions of another shape, in place of the valid ones or beside them."""

    def broken(folder: Path) -> None:
        source = [pydicom.dcmread(p) for p in sorted(folder.glob("t1ct-*.dcm"))]
        d = b.segmentation("t1" if name == "t1seg.dcm" else name, source, regions)
        save(d, folder / name)

    return broken


def regions_of(boxes: dict[str, object]) -> LabelVolume:
    array = np.zeros(b.SHAPE, np.int16)
    for n, box in enumerate(boxes.values(), start=1):
        array[box] = n
    return LabelVolume(array, b.AFFINE, "unused", tuple(region_named(n) for n in boxes))


def segment(change: Callable[[pydicom.Dataset], None], n: int = 0) -> Break:
    return lambda folder: b.edit(folder / "t1seg.dcm", lambda d: change(d.SegmentSequence[n]))


def no_modifier(s: pydicom.Dataset) -> None:
    del s.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence


def no_tracking(s: pydicom.Dataset) -> None:
    del s.TrackingID
    del s.TrackingUID


def gated(d: pydicom.Dataset) -> None:
    d.FrameIncrementPointer = [0x00540070, 0x00540080]
    d.TimeSlotVector = [1, 1, 1, 2, 2, 2]
    d.SliceVector = [1, 2, 3, 1, 2, 3]


def link(folder: Path) -> None:
    (folder / "linked.dcm").symlink_to(folder / "t1.dcm")


def compressed(folder: Path) -> None:
    path = folder / "t2.dcm"
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0", 1))


def half_calibrated(folder: Path) -> None:
    b.edit_json(folder / "calibration.json", lambda d: d["calibrations"].append(d["calibrations"][0]))


def projections(d: pydicom.Dataset) -> None:
    d.ImageType = ["ORIGINAL", "PRIMARY", "TOMO", "EMISSION"]


def text_of(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


RX = "RadiopharmaceuticalInformationSequence"
SPLIT_KIDNEY = {
    "kidney_left": np.s_[1:4, 5:7, 17:18],
    "kidney_right": np.s_[1:4, 5:7, 16:17],
    "lesion/L1": np.s_[0:2, 3:5, 12:14],
}
EXCHANGED = {"kidney_left": np.s_[1:4, 5:7, 6:8], "kidney_right": np.s_[1:4, 5:7, 16:18]}
LIVER_OVER_KIDNEY = {"spleen": np.s_[1:4, 5:7, 15:18]}
LATE = (b.THERAPY + timedelta(hours=5)).isoformat()
OTHER_DAY = (b.THERAPY - timedelta(hours=3)).isoformat()

BROKEN: list[tuple[str, Break, str]] = [
    # the administration record
    ("no administration record", remove("administrations.json"), "administration.file_missing"),
    ("a record that is no JSON", lambda f: text_of(f / "administrations.json", "82.0", "NaN"), "file.json"),
    ("a record of another form", record(lambda d: d.update(schema=2)), "administration.format"),
    ("missing injection time", given(start_time=None), "administration.start_missing"),
    ("injection time without a zone", given(start_time="2026-03-02T09:30:00"), "time.zone_missing"),
    ("activity in an unknown unit", given(activity_unit="Ci"), "administration.unit"),
    ("activity wrong by 1000", given(activity=7.4), "administration.activity_implausible"),
    ("residual above the activity", given(residual=7400.0), "administration.residual"),
    ("residual not recorded", given(residual=None), "administration.residual_missing"),
    ("calibrated on another date", given(calibration_time="2026-01-02T09:30:00+01:00"), "administration.calibration_time"),
    ("ligand amount by mass", given(amount_unit="ug"), "administration.amount_unit"),
    ("infusion of two days", given(duration_min=2880), "administration.duration"),
    ("product and nuclide that disagree", given(nuclide="Y-90"), "administration.nuclide"),
    ("a nuclide that does not exist", given(0, nuclide="Ga-168"), "nuclide.unknown"),
    (
        "two therapies at one time",
        record(lambda d: d["administrations"].append(d["administrations"][1])),
        "administration.same_time",
    ),
    ("no therapy", record(lambda d: d["administrations"].pop()), "administration.no_therapy"),
    ("patient without weight", record(lambda d: d["patient"].update(weight_kg=None)), "patient.weight_missing"),
    ("height in metres", record(lambda d: d["patient"].update(height_cm=1.78)), "patient.covariate"),
    # identity
    ("swapped patient", nm(lambda d: setattr(d, "PatientID", "ID-4712")), "identity.swapped_patient"),
    ("images of nobody", nm(lambda d: setattr(d, "PatientID", "")), "identity.missing"),
    ("another birth date", nm(lambda d: setattr(d, "PatientBirthDate", "19560601")), "identity.contradiction"),
    ("two issuing authorities", lambda f: [
        b.edit(f / "t1.dcm", lambda d: setattr(d, "IssuerOfPatientID", "CANARY-A")),
        b.edit(f / "t2.dcm", lambda d: setattr(d, "IssuerOfPatientID", "CANARY-B")),
    ], "identity.issuer"),
    ("labs of somebody else", csv("ID-4711", "ID-4712"), "identity.labs"),
    # injection
    ("scan before injection", given(start_time=LATE, calibration_time=LATE, residual_time=LATE), "time.before_injection"),
    ("injection times that disagree", given(start_time=OTHER_DAY), "time.injection_contradiction"),
    ("header activity in Bq", nm(lambda d: setattr(d[RX][0], "RadionuclideTotalDose", "7350000000")), "activity.contradiction"),
    ("wrong nuclide in the record", real_world(indium), "nuclide.mismatch"),
    ("wrong half-life", nm(lambda d: setattr(d[RX][0], "RadionuclideHalfLife", "560000")), "nuclide.half_life"),
    ("no radiopharmaceutical", nm(lambda d: d.__delitem__(RX)), "nuclide.missing"),
    ("PET long after its injection", lambda f: [
        given(0, start_time="2026-02-20T09:30:00+01:00", calibration_time="2026-02-20T09:30:00+01:00",
              residual_time="2026-02-20T09:30:00+01:00")(f),
    ], "time.long_after_injection"),
    # values
    ("negative counts", nm(signed), "values.negative_counts"),
    ("all counts zero", nm(lambda d: setattr(d, "PixelData", bytes(len(d.PixelData)))), "values.empty"),
    ("NaN in a slope", nm(lambda d: setattr(d, "RescaleSlope", "NaN"), "pet-03.dcm"), "dicom.nonfinite"),
    ("slope of 0", nm(lambda d: setattr(d, "RescaleSlope", "0"), "pet-03.dcm"), "values.slope"),
    ("CT without slope", nm(lambda d: d.__delitem__("RescaleSlope"), "t1ct-02.dcm"), "values.slope_missing"),
    ("CT of strange values", every("t1ct-*.dcm", lambda d: setattr(d, "RescaleIntercept", "-9000")), "values.hu"),
    ("PET in SUV", every("pet-*.dcm", lambda d: setattr(d, "Units", "GML")), "unit.image"),
    ("PET without unit", every("pet-*.dcm", lambda d: setattr(d, "Units", "")), "unit.missing"),
    ("PET corrected to injection", every("pet-*.dcm", lambda d: setattr(d, "DecayCorrection", "ADMIN")), "values.decay"),
    ("PET with a foreign decay factor", every("pet-*.dcm", lambda d: setattr(d, "DecayFactor", "1.9")), "values.decay_factor"),
    ("PET of kBq written as Bq", every("pet-*.dcm", lambda d: setattr(d, "RescaleSlope", "1e7")), "values.implausible"),
    ("stored values off the map", real_world(
        lambda d: setattr(d.RealWorldValueMappingSequence[0], "RealWorldValueLastValueMapped", 10)), "values.map"),
    ("a rendering", nm(lambda d: setattr(d, "PhotometricInterpretation", "PALETTE COLOR")), "values.format"),
    ("no calibration record", remove("calibration.json"), "calibration.none"),
    ("calibration of another nuclide", lambda f: b.edit_json(
        f / "calibration.json", lambda d: d["calibrations"][0].update(nuclide="I-131")), "calibration.nuclide"),
    ("two calibrations in force", half_calibrated, "calibration.ambiguous"),
    ("calibration without uncertainty", lambda f: b.edit_json(
        f / "calibration.json", lambda d: d["calibrations"][0].pop("sensitivity_rel_sd")), "calibration.format"),
    # time
    ("no time zone", nm(lambda d: [d.__delitem__("TimezoneOffsetFromUTC"),
                                   setattr(d, "AcquisitionDateTime", d.AcquisitionDateTime[:14])]), "time.zone_missing"),
    ("no acquisition time", nm(lambda d: [d.__delitem__(k) for k in (
        "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime")]), "time.acquisition_missing"),
    ("two acquisition times", nm(lambda d: setattr(d, "AcquisitionTime", "050000")), "time.contradiction"),
    ("no duration", nm(lambda d: d.__delitem__("RotationInformationSequence")), "time.duration"),
    # geometry
    ("missing slice", remove("t1ct-03.dcm"), "geometry.missing_slice"),
    ("missing slice of a SPECT", nm(lambda d: setattr(d, "SliceVector", [1, 2, 3, 4, 6])), "geometry.frame_count"),
    ("slice twice with other pixels", other_bytes, "dicom.duplicate"),
    ("two frames of reference", nm(lambda d: setattr(d, "FrameOfReferenceUID", "2.25.7"), "t1ct-02.dcm"),
     "geometry.frames_of_reference"),
    ("sheared CT", shear, "geometry.shear"),
    ("no pixel spacing", nm(lambda d: d.__delitem__("PixelSpacing")), "geometry.pixel_spacing_missing"),
    ("no slice spacing", nm(lambda d: d.__delitem__("SpacingBetweenSlices")), "geometry.slice_spacing_missing"),
    ("tilted rows", nm(lambda d: setattr(d.DetectorInformationSequence[0], "ImageOrientationPatient", [1, 0, 0, 0.5, 1, 0])),
     "geometry.orientation"),
    ("two pixel spacings", nm(lambda d: setattr(d, "PixelSpacing", [10, 10]), "t1ct-02.dcm"), "geometry.pixel_spacing"),
    ("gated SPECT", nm(gated), "nm.several_volumes"),
    ("projections in place of a reconstruction", nm(projections), "scan.projections_only"),
    ("no scan", remove("t1*.dcm", "t2*.dcm", "pet*.dcm"), "scan.missing"),
    ("no CT", remove("t2ct-*.dcm"), "ct.missing"),
    ("a CT shorter than its SPECT", remove("t2ct-05.dcm"), "geometry.ct_coverage"),
    # regions
    ("no segmentation", remove("t1seg.dcm"), "labels.missing"),
    ("empty mask", nm(lambda d: setattr(d, "PixelData", bytes(len(d.PixelData))), "t1seg.dcm"), "mask.empty"),
    ("unknown region", segment(lambda s: setattr(s.SegmentedPropertyTypeCodeSequence[0], "CodeValue", "12738006"), 2),
     "region.unknown"),
    ("kidney without a side", segment(no_modifier), "region.laterality"),
    ("code and label that disagree", segment(lambda s: setattr(s, "SegmentLabel", "Kidney Right")), "region.contradiction"),
    ("lesion without a tracking id", segment(no_tracking, 3), "region.tracking"),
    ("one kidney declared as two", drawn(regions_of(SPLIT_KIDNEY)), "mask.one_organ_as_two"),
    ("kidneys exchanged", drawn(regions_of(EXCHANGED)), "mask.laterality"),
    ("organs that overlap", drawn(regions_of(LIVER_OVER_KIDNEY), "second.dcm"), "mask.overlap"),
    ("a region twice", drawn(regions_of({"liver": np.s_[0:1, 2:4, 3:5]}), "second.dcm"), "mask.repeated"),
    ("a segmentation of fractions", nm(lambda d: setattr(d, "SegmentationType", "FRACTIONAL"), "t1seg.dcm"), "seg.type"),
    ("a segmentation from elsewhere", nm(lambda d: setattr(d, "FrameOfReferenceUID", "2.25.9"), "t1seg.dcm"), "seg.reference"),
    ("a segmentation on another grid", nm(
        lambda d: setattr(d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0], "PixelSpacing", [9, 9]), "t1seg.dcm"),
     "seg.grid"),
    # laboratory
    ("labs without unit", csv(",mg/dL,", ",,"), "labs.unit_missing"),
    ("molar unit on a mass code", csv(",mg/dL,", ",umol/L,"), "labs.unit"),
    ("creatinine of 110", csv(",1.1,", ",110,"), "labs.implausible"),
    ("a mistyped LOINC code", csv("2160-0", "2160-1"), "labs.code"),
    ("a status that does not exist", fhir(lambda o: o.update(status="nonsense")), "labs.status"),
    ("a value in words", csv(",1.1,", ",high,"), "labs.value"),
    ("two values of one sample", lambda f: text_of(f / "labs.csv", ",1.1,", ",1.9,"), "labs.contradiction"),
    ("a bundle that is no FHIR", fhir(lambda o: o.update(effectiveDateTime="yesterday")), "labs.fhir"),
    ("a CSV without header", csv("pseudonym,datetime", "subject,datetime"), "file.csv"),
    ("a result without record number", csv("LAB-1", ""), "labs.record"),
    # earlier therapies
    ("earlier therapy of somebody else", prior("ID-4712,liver,6,photon,2021-02-03,dosimetry"), "identity.prior_therapy"),
    ("earlier therapy of one side", prior("ID-4711,kidney_left,6,photon,2021-02-03,dosimetry"), "prior.region"),
    ("earlier therapy in cGy", prior("ID-4711,liver,600,photon,2021-02-03,dosimetry"), "prior.dose"),
    ("earlier therapy with alpha particles", prior("ID-4711,liver,6,alpha,2021-02-03,dosimetry"), "prior.radiation"),
    ("earlier therapy before birth", prior("ID-4711,liver,6,photon,1921-02-03,dosimetry"), "prior.date"),
    ("earlier therapy out of a letter", prior("ID-4711,liver,6,photon,2021-02-03,CANARY letter"), "prior.source"),
    ("earlier therapy twice", prior("\n".join(["ID-4711,liver,6,photon,2021-02-03,dosimetry"] * 2)), "prior.repeated"),
    # files
    ("truncated file", truncate, "file.truncated"),
    ("a file that is no DICOM", lambda f: (f / "t2.dcm").write_bytes(b"hello"), "file.unreadable"),
    ("a compressed file", compressed, "file.compressed"),
    ("a link", link, "file.link"),
    ("a UID that is a path", nm(lambda d: setattr(d, "SeriesInstanceUID", "../../evil")), "dicom.uid"),
    ("no pixels", nm(lambda d: d.__delitem__("PixelData")), "file.no_pixels"),
    ("a huge image", nm(lambda d: [setattr(d, "Rows", 60000), setattr(d, "Columns", 60000)]), "file.dimensions"),
    ("several injections in one image", nm(lambda d: d[RX].value.append(d[RX][0])), "nuclide.several"),
]  # fmt: skip

SAME_REASON = {"time.zone_missing"}
"""Kinds that two of the broken patients share, because the reason is the same."""


def test_the_unbroken_patient_is_taken_in(valid, tmp_path):
    intake = read_inbox(valid, Vault.open(tmp_path / "vault"))
    assert [c.number for c in intake.cycles] == [0, 1]


@pytest.mark.parametrize(("name", "broken", "kind"), BROKEN, ids=[name for name, _, _ in BROKEN])
def test_a_broken_patient_is_refused_with_its_own_reason(name, broken, kind, valid, tmp_path):
    folder = b.copy_of(valid, tmp_path / "inbox")
    broken(folder)
    vault, evidence = Vault.open(tmp_path / "vault"), EvidenceStore(open_home(tmp_path / "home"))
    with pytest.raises(RefusedInbox) as refused:
        read_inbox(folder, vault, evidence=evidence, quarantine_folder=tmp_path / "quarantine")
    kinds = [i.kind for i in refused.value.report.refused]
    assert kind in kinds, refused.value.report.lines()
    item = next(i for i in refused.value.report.refused if i.kind == kind)
    assert item.found
    assert item.expected
    assert item.remedy
    # nothing of it anywhere, the reason in quarantine, and nobody named in it
    assert list((tmp_path / "home" / "evidence").iterdir()) == []
    assert list((tmp_path / "vault" / "patients").iterdir()) == []
    reasons = [p.read_text() for p in (tmp_path / "quarantine").glob("*/reason.json")]
    assert any(json.loads(r)["kind"] == kind for r in reasons)
    said = "\n".join([str(refused.value), *refused.value.report.lines(), *reasons])
    assert not [c for c in ("CANARY", "JOHN", "ID-47", "1955-06", "19550601") if c in said]


def finer_ct(folder: Path) -> None:
    """The first CT and its segmentation on a finer grid than the SPECT, with one slice of the CT missing."""
    affine = b.AFFINE.copy()
    affine[:, 2] /= 2
    slices = b.ct("t1", b.THERAPY + timedelta(hours=4), np.repeat(b.hounsfield(), 2, axis=2), affine)
    drawn = LabelVolume(np.repeat(b.labels().labels, 2, axis=2), affine, "unused", b.labels().regions)
    for k, d in enumerate(slices):
        save(d, folder / f"t1ct-{k:02d}.dcm")
    save(b.segmentation("t1", slices, drawn), folder / "t1seg.dcm")
    (folder / "t1ct-03.dcm").unlink()


CAUSES: list[tuple[str, Break, str, list[str]]] = [
    ("missing slice of a CT", remove("t1ct-03.dcm"), "geometry.missing_slice", ["ct.missing"]),
    ("missing slice under a segmentation", finer_ct, "geometry.missing_slice", ["ct.missing", "seg.grid"]),
    ("two calibrations in force", half_calibrated, "calibration.ambiguous", ["calibration.none", "calibration.none"]),
]


@pytest.mark.parametrize(("broken", "kind", "consequences"), [c[1:] for c in CAUSES], ids=[c[0] for c in CAUSES])
def test_what_only_follows_from_a_refused_item_is_marked_and_not_counted(broken, kind, consequences, valid, tmp_path):
    folder = b.copy_of(valid, tmp_path / "inbox")
    broken(folder)
    with pytest.raises(RefusedInbox) as refused:
        read_inbox(folder, Vault.open(tmp_path / "vault"), quarantine_folder=tmp_path / "quarantine")
    report = refused.value.report
    (cause,) = report.refused
    assert cause.kind == kind
    following = [i for i in report.items if i.verdict == "follows"]
    assert sorted(i.kind for i in following) == consequences
    assert all(cause.item in i.found and cause.item in i.remedy for i in following)
    assert "more refusals" not in str(refused.value)
    assert report.lines()[-1] == "The folder is refused: 1 item."
    # whole files beside the cause are not put into quarantine
    assert [json.loads(p.read_text())["kind"] for p in (tmp_path / "quarantine").glob("*/reason.json")] == [kind]


def test_a_short_ct_of_a_scan_that_nothing_is_measured_in_refuses_nothing(valid, tmp_path):
    folder = b.copy_of(valid, tmp_path / "inbox")
    remove("petct-05.dcm")(folder)
    report = check(folder)
    assert report.ok
    assert any("scans before therapy have no regions" in words for words in report.findings)


def test_a_ct_that_was_never_sent_is_a_cause_of_its_own_beside_a_broken_one(valid, tmp_path):
    folder = b.copy_of(valid, tmp_path / "inbox")
    remove("t1ct-03.dcm", "t2ct-*.dcm")(folder)
    report = check(folder)
    assert sorted(i.kind for i in report.refused) == ["ct.missing", "geometry.missing_slice"]
    assert [i.kind for i in report.items if i.verdict == "follows"] == ["ct.missing"]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (given(activity="7481,4"), ("'7481,4', unit 'MBq'", "a number above 0", "with a point for the decimals")),
        (given(activity=-7481), ("is -7481, unit 'MBq'", "a number above 0", "correct the number")),
        (
            record(lambda d: d["patient"].update(weight_kg=1046)),
            ("weight_kg is 1046", "a number from 3 to 350 kg", "check its unit"),
        ),
        (record(lambda d: d["patient"].update(weight_kg="104")), ("weight_kg is '104'", "350 kg", "without quotation marks")),
        (csv(",1.1,mg", ",1,1,mg"), ("has 9 columns", "8", "points for decimals (9.9, not 9,9)")),
    ],
)
def test_a_number_that_is_none_is_told_with_what_was_written_its_unit_and_what_to_write(broken, words, valid, tmp_path):
    folder = b.copy_of(valid, tmp_path / "inbox")
    broken(folder)
    report = check(folder)
    assert not report.ok
    said = "\n".join(report.lines())
    assert [w for w in words if w not in said] == []


def test_series_of_other_patients_are_told_apart(valid, tmp_path):
    folder = b.copy_of(valid, tmp_path / "inbox")
    for name in ("t1.dcm", "t2.dcm"):
        b.edit(folder / name, lambda d: setattr(d, "PatientID", "ID-4712"))
    items = [i.item for i in check(folder).refused if i.kind == "identity.swapped_patient"]
    assert len(items) == len(set(items)) == 2


def test_every_reason_is_its_own():
    kinds = [kind for _, _, kind in BROKEN]
    assert len(BROKEN) >= 25
    assert {k for k in kinds if kinds.count(k) > 1} <= SAME_REASON


def test_checking_a_broken_patient_changes_nothing(valid, tmp_path):
    folder = b.copy_of(valid, tmp_path / "inbox")
    truncate(folder)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    report = check(folder)
    assert not report.ok
    assert report.as_dict()["items"]
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert [p.name for p in tmp_path.iterdir()] == ["inbox"]


def test_every_reason_stands_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "data-in.md").read_text(encoding="utf-8")
    assert {kind for _, _, kind in BROKEN if f"`{kind}`" not in text} == set()
