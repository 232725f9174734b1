"""`tdt dose`: a small phantom's cycle through the command, what it leaves, and what is refused before anything is written."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from inbox_builder import AFFINE, SHAPE, copy_of, edit, write_inbox
from loop_case import only_cycle

from flows.cli import main
from flows.dose.integrate import only
from flows.dose.take_in import take_in
from storage.dicom.write_common import save
from storage.dicom.write_rtdose import header_shadow
from storage.nifti import read_nifti
from storage.posterior_files import open_dose
from tdt_core.errors import UsageError
from tdt_core.imaging.quantification import CycleImages, RegisteredScan

pytestmark = pytest.mark.shared_run
FILES = {
    *("bed.dcm", "bed.nii.gz", "dose.dcm", "dose.json", "dose.nii.gz", "dose.zarr", "dose_sd.dcm", "dose_sd.nii.gz"),
    *("page.html", "regions.csv", "regions.dcm"),
}


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the first cycle of a phantom, `truth` beside it."""
    made = tmp_path_factory.mktemp("phantom")
    code = main(["phantom", str(made / "all"), "--matrix", "48", "--time-points", "3", "--no-pet"])
    assert code == 0
    return only_cycle(made / "all" / "inbox", made / "cycle", (1,), 1)


@pytest.fixture(scope="module")
def result(phantom: Path) -> Path:
    before = contents(phantom)
    assert main(["dose", str(phantom), "--draws", "60"]) == 0
    assert contents(phantom) == before
    return phantom.with_name("cycle-dose")


@pytest.fixture(scope="module")
def told(result: Path) -> dict[str, Any]:
    return json.loads((result / "dose.json").read_text())


def test_a_run_leaves_whole_files_beside_the_folder_and_nothing_else(phantom: Path, result: Path) -> None:
    assert {p.name for p in result.iterdir()} == FILES
    assert {p.name for p in phantom.parent.iterdir()} == {"all", "cycle", "cycle-dose"}
    assert "Research use only" in (result / "page.html").read_text()


def test_doses_are_those_that_the_phantom_was_given(phantom: Path, told: dict[str, Any]) -> None:
    cycle = json.loads((phantom.parent / "all" / "truth" / "truth.json").read_text())["cycles"]
    truth = next(c for c in cycle if c["number"] == 1)["truth"]["regions"]
    for row in told["regions"]:
        # large organs and lesions: small ones fill no voxel of 9.6 mm, and bladder empties before the first scan
        if row["region"] in ("kidney_left", "kidney_right", "liver", "spleen", "lesion/L1", "lesion/L2"):
            assert row["dose_gy"]["mean"] == pytest.approx(truth[row["region"]]["dose_gy"], rel=0.15), row["region"]


def test_the_table_the_maps_and_the_energy_agree(result: Path, told: dict[str, Any]) -> None:
    maps = open_dose(result / "dose.zarr")
    label, dose, tia = (maps[n].values for n in ("label", "dose_mean_gy", "tia_mbq_h"))
    names = json.loads(maps.attrs["regions"])
    for row in told["regions"]:
        if row["region"] in names:
            inside = label == names.index(row["region"]) + 1
            assert row["dose_gy"]["mean"] == pytest.approx(float(dose[inside].mean(dtype=np.float64)), rel=1e-5)
            assert row["tia_mbq_h"]["mean"] == pytest.approx(float(tia[inside].sum(dtype=np.float64)), rel=1e-5)
    whole = sum(r["tia_mbq_h"]["mean"] for r in told["regions"] if "scans" in r)
    assert float(tia.sum(dtype=np.float64)) == pytest.approx(whole, rel=1e-5)
    assert told["conservation"]["balance_relative_difference"] < 5e-3
    kidneys = {r["region"]: r for r in told["regions"]}
    assert kidneys["kidneys"]["bed_gy"]["mean"] > kidneys["kidneys"]["dose_gy"]["mean"]
    assert kidneys["kidney_left"]["tissue_status"] == "literature"


def test_histograms_fall_from_one_to_zero_through_their_metrics_inside_their_band(told: dict[str, Any]) -> None:
    for curve in told["dvh"]:
        dose, low, mid, high = (np.array(curve[k]) for k in ("dose_gy", "q05", "mean", "q95"))
        assert (mid[0], mid[-1]) == (1.0, 0.0)
        assert (np.diff(mid) <= 0).all()
        assert (low <= high).all()
        if curve["region"] in ("liver", "lungs", "spleen"):  # many voxels: no steps
            at_half = float(np.interp(-0.5, -mid, dose))
            assert curve["metrics"]["d50"]["mean"] == pytest.approx(at_half, rel=0.01)


def test_shares_before_the_first_and_after_the_last_scan_are_told_of_every_region_and_the_rest(
    result: Path, told: dict[str, Any]
) -> None:
    rows = {r["region"]: r for r in told["regions"] if "scans" in r}
    for name, row in rows.items():
        first = row["scans"][0]
        assert 0 < row["before_first_share"] < 1 - row["after_last_share"], name
        constant = first["time_h"] * first["activity_mbq"] / row["tia_mbq_h"]["mean"]
        assert row["before_first_share"] == pytest.approx(constant, rel=1e-3), name
    page = (result / "page.html").read_text()
    assert page.count(">Rest</td>") == 2
    assert "before the first scan</th>" in page
    assert "of the dose map" in page


def test_every_file_tells_the_same_dose(result: Path) -> None:
    dose = open_dose(result / "dose.zarr")["dose_mean_gy"].values
    d = pydicom.dcmread(result / "dose.dcm")
    stored = d.pixel_array * float(d.DoseGridScaling)
    assert (d.DoseType, stored.max()) == ("PHYSICAL", pytest.approx(dose.max(), rel=1e-6))
    assert pydicom.dcmread(result / "bed.dcm").DoseType == "EFFECTIVE"
    np.testing.assert_array_equal(read_nifti(result / "dose.nii.gz")[0], dose)
    header, *rows = (result / "regions.csv").read_text().splitlines()
    assert header.startswith("region,organ,volume_ml")
    assert len(rows) > 20


def test_dicom_results_pass_dciodvfy(result: Path, tmp_path: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    checked = [result / "dose_sd.dcm", result / "regions.dcm"]
    checked += [save(header_shadow(pydicom.dcmread(result / f"{n}.dcm")), tmp_path / f"{n}.dcm") for n in ("dose", "bed")]
    for path in checked:
        found = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in found.stderr + found.stdout, found.stderr


def test_no_result_names_the_patient(phantom: Path, result: Path) -> None:
    person = json.loads((phantom / "administrations.json").read_text())["patient"]["id"]
    assert not [p for p in result.rglob("*") if p.is_file() and person.encode() in p.read_bytes()]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inbox(tmp_path_factory.mktemp("small") / "inbox")


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *options: str, code: int = 3) -> dict[str, str]:
    """The error of a run that must leave nothing behind."""
    before = {p.name for p in folder.parent.iterdir()}
    capsys.readouterr()
    assert main(["dose", str(folder), *options, "--json"]) == code
    error = json.loads(capsys.readouterr().out)["error"]
    assert {p.name for p in folder.parent.iterdir()} == before
    assert error["found"]
    assert error["expected"]
    assert error["remedy"]
    return error


def _no_scan(folder: Path) -> None:
    for path in folder.glob("*.dcm"):
        path.unlink()


def _negative(folder: Path) -> None:
    edit(folder / "t1.dcm", lambda d: d.__setattr__("PixelData", np.full(len(d.PixelData) // 2, -5, "<i2").tobytes()))
    edit(folder / "t1.dcm", lambda d: d.__setattr__("PixelRepresentation", 1))


def _not_a_number(folder: Path) -> None:
    edit(folder / "t1.dcm", lambda d: d.__setattr__("RescaleSlope", "nan"))


def _short_ct(folder: Path) -> None:
    for k in (0, 1):
        (folder / f"t1ct-{k:02d}.dcm").unlink()
    (folder / "t1seg.dcm").unlink()
    _label_map(folder, AFFINE)


def _label_map(folder: Path, affine: np.ndarray) -> None:
    array = np.zeros(SHAPE, np.int16)
    array[3:5, 5:7, 16:18] = 1
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine[:, [2, 1, 0, 3]]
    nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), ras), folder / "regions.nii.gz")
    frame = str(pydicom.dcmread(folder / "t1.dcm").FrameOfReferenceUID)
    sidecar = {"schema": 1, "patient_id": "ID-4711", "frame_of_reference": frame, "labels": {"1": {"region": "kidney_left"}}}
    (folder / "regions.json").write_text(json.dumps(sidecar))


def _misaligned(folder: Path) -> None:
    (folder / "t1seg.dcm").unlink()
    moved = AFFINE.copy()
    moved[0, 3] += 7.0
    _label_map(folder, moved)


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (_no_scan, "scan.missing"),
        (lambda folder: (folder / "t1seg.dcm").unlink(), "labels.missing"),
        (_negative, "values.negative_counts"),
        (_not_a_number, "dicom.nonfinite"),
        (_short_ct, "geometry.ct_coverage"),
        (_misaligned, "nifti.grid"),
    ],
)
def test_what_cannot_be_dosed_is_refused_with_its_reason_and_leaves_nothing(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: Callable[[Path], object], kind: str
) -> None:
    folder = copy_of(small, tmp_path / "inbox")
    broken(folder)
    assert refused(folder, capsys)["kind"] == kind


def test_a_nuclide_without_spectrum_is_refused(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_of(small, tmp_path / "inbox")
    record = folder / "administrations.json"
    record.write_text(record.read_text().replace('Lu-177"', 'Lu-277"'))
    assert refused(folder, capsys)["kind"] in ("nuclide.unknown", "administration.nuclide")


def test_another_cycle_a_used_folder_and_a_place_in_the_input_are_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(small, tmp_path / "inbox")
    error = refused(folder, capsys, "--cycle", "7", code=2)
    assert error["kind"] == "dose.cycle"
    assert "7" in error["found"]
    assert error["expected"] == "cycle 1"
    assert refused(folder, capsys, "--out", str(folder / "dose"), code=2)["kind"] == "dose.out"
    (tmp_path / "inbox-dose").mkdir()
    (tmp_path / "inbox-dose" / "mine.txt").write_text("kept")
    assert refused(folder, capsys, code=2)["kind"] == "dose.out"
    assert (tmp_path / "inbox-dose" / "mine.txt").read_text() == "kept"


def test_an_unknown_engine_or_method_is_said_before_any_work(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--engine", "--method", "--before-first"):
        assert main(["dose", str(small), option, "nothing", "--json"]) == 2
        error = json.loads(capsys.readouterr().out)["error"]
        assert error["kind"] == "model.name"
        assert "one of" in error["expected"]
        assert error["remedy"]


@pytest.fixture(scope="module")
def one_scan(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scan 4 h after the administration."""
    folder = copy_of(small, tmp_path_factory.mktemp("one") / "inbox")
    for path in folder.glob("t2*.dcm"):
        path.unlink()
    return folder


def told_of(folder: Path, out: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["dose", str(folder), "--draws", "40", "--out", str(out), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_one_scan_falls_with_physical_decay_or_with_a_population_and_says_so(
    one_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = told_of(one_scan, tmp_path / "a", capsys)
    madsen = told_of(one_scan, tmp_path / "b", capsys, "--method", "madsen")
    assert any("upper bound" in f for f in plain["findings"])
    assert any("population" in f for f in madsen["findings"])
    for a, b in zip(plain["regions"][:3], madsen["regions"][:3], strict=True):
        activity, t = a["scans"][0]["activity_mbq"], a["scans"][0]["time_h"]
        half_life = plain["therapy"]["physical_half_life_h"]
        assert a["tia_mbq_h"]["mean"] == pytest.approx(activity * (t + half_life / np.log(2)), rel=1e-4)
        life = b["effective_half_life_h"]
        assert life < half_life
        assert b["tia_mbq_h"]["mean"] == pytest.approx(activity * 2 ** (t / life) * life / np.log(2), rel=1e-4)
        # the half-life of a population is uncertain, and that is in the interval
        assert b["tia_mbq_h"]["sd"] / b["tia_mbq_h"]["mean"] > a["tia_mbq_h"]["sd"] / a["tia_mbq_h"]["mean"]


@pytest.mark.long
def test_monte_carlo_gives_the_dose_of_the_kernel_where_media_are_alike_and_adds_its_statistics(
    one_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = told_of(one_scan, tmp_path / "a", capsys)
    traced = told_of(one_scan, tmp_path / "b", capsys, "--engine", "mc", "--decays", "4e4")
    assert traced["monte_carlo"]["decays"] >= 4e4
    for a, b in zip(kernel["regions"][:3], traced["regions"][:3], strict=True):
        assert b["dose_gy"]["mean"] == pytest.approx(a["dose_gy"]["mean"], rel=0.05)
    sd = [float(open_dose(tmp_path / n / "dose.zarr")["dose_sd_gy"].sum()) for n in ("a", "b")]
    assert sd[1] > sd[0]


def test_identified_results_name_the_patient_in_the_frame_of_the_input_and_others_do_not(
    one_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told_of(one_scan, tmp_path / "mine", capsys, "--identified")
    told_of(one_scan, tmp_path / "theirs", capsys)
    frame = pydicom.dcmread(one_scan / "t1.dcm").FrameOfReferenceUID
    for name in ("dose", "bed", "dose_sd", "regions"):
        mine, theirs = (pydicom.dcmread(tmp_path / n / f"{name}.dcm") for n in ("mine", "theirs"))
        assert (mine.PatientID, mine.FrameOfReferenceUID) == ("ID-4711", frame)
        assert "PatientIdentityRemoved" not in mine
        assert theirs.PatientID != "ID-4711"
        assert theirs.FrameOfReferenceUID != frame
    assert b"ID-4711" not in (tmp_path / "mine" / "page.html").read_bytes()


def test_intervals_hold_what_nobody_said_about_the_time_before_the_first_scan(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unsaid = told_of(phantom, tmp_path / "unsaid", capsys)
    said = told_of(phantom, tmp_path / "said", capsys, "--before-first", "constant")
    widths = []
    for a, b in zip(unsaid["regions"], said["regions"], strict=True):
        assert a["dose_gy"]["mean"] == pytest.approx(b["dose_gy"]["mean"], rel=1e-6)
        widths.append((a["dose_gy"]["q95"] - a["dose_gy"]["q05"]) / (b["dose_gy"]["q95"] - b["dose_gy"]["q05"]))
    assert np.median(widths) > 1.01


def test_one_scan_of_several_is_told_without_words_about_the_others() -> None:
    def scan(name: str, *findings: str) -> RegisteredScan:
        return RegisteredScan(name, 0.0, "SPECT", "Lu-177", *[None] * 5, findings=findings)  # type: ignore[arg-type]

    scans = (scan("a", "of both", "a alone"), scan("b", "of both", "b alone"))
    images = CycleImages((), *[None] * 7, registered=scans, findings=("labels", "of both", "a alone", "b alone"))  # type: ignore[arg-type]
    assert only(images, 2).registered == scans[1:]
    assert only(images, 2).findings == ("labels", "of both", "b alone")
    assert only(images, 1).findings == ("labels", "of both", "a alone")


@pytest.mark.parametrize("options", [("--scan", "9"), ("--method", "madsen"), ("--method", "madsen", "--scan", "3")])
def test_a_scan_that_is_not_there_or_not_named_is_said_before_any_work(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    monkeypatch.setattr("flows.dose.calculate.quantify_cycle", None)
    error = refused(copy_of(small, tmp_path / "inbox"), capsys, *options, code=2)
    assert error["kind"] == "dose.scans"
    assert "2" in error["found"]
    assert "1 to 2" in error["expected"]


def test_two_cycles_are_both_named_where_a_third_is_asked_for(phantom: Path) -> None:
    both = phantom.parent / "all" / "inbox"
    with pytest.raises(UsageError) as e:
        take_in(both, 7)
    assert "cycle 7" in e.value.found
    assert "one of 1, 2" in e.value.expected
    with pytest.raises(UsageError, match="therapy cycles 1, 2"):
        take_in(both)
