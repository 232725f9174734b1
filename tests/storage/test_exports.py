"""Exports carry a pseudonym, the state and the banner, and another program reads the same dose from them."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import xarray as xr

from storage.dicom.write_common import save
from storage.dicom.write_rtdose import header_shadow
from storage.exports import ExportReference, export_ct, export_rtdose, export_seg, export_state
from storage.nifti import read_nifti
from tdt_core.errors import GeometryError, UnitError
from tdt_core.imaging.volume import LabelVolume, Volume
from tdt_core.twin import DoseLedger, Evidence, Lesion, Patient, Posterior, Region, TwinState

AFFINE = np.array([[0, 0, 4.0, -20.0], [0, 4.5, 0, -30.0], [-5.0, 0, 0, 100.0], [0, 0, 0, 1.0]])
FRAME = "2.25.1234567890"
STATE = "ab" * 32
REGIONS = (
    Region("kidney_left", "kidneys", "64033007", "left"),
    Region("lesion/L1", "lesions", "52988006", tracking_id="L1"),
)
REFERENCE = ExportReference("PSEUDONYM", STATE, 1, FRAME, 960.5, "male")


@pytest.fixture
def dose():
    return Volume(np.random.default_rng(4).gamma(2, 5, (5, 6, 7)).astype(np.float32), AFFINE, "Gy", FRAME)


@pytest.fixture
def labels():
    array = np.zeros((5, 6, 7), np.int16)
    array[1:4, 1:3, 1:4], array[2, 4, 4:6] = 1, 2
    return LabelVolume(array, AFFINE, FRAME, REGIONS)


@pytest.fixture
def ct():
    return Volume(np.arange(210).reshape(5, 6, 7) * 3.0 - 300, AFFINE, "HU", FRAME)


def test_an_independent_reader_finds_the_dose_at_its_place(tmp_path, dose):
    path = export_rtdose(tmp_path / "dose.dcm", dose, REFERENCE)
    image = sitk.ReadImage(str(path))
    scaling = float(pydicom.dcmread(path).DoseGridScaling)
    for index in [(0, 0, 0), (4, 5, 6), (2, 3, 1)]:
        place = (AFFINE @ [*index, 1])[:3]
        there = image.TransformPhysicalPointToIndex([float(p) for p in place])
        assert image[there] * scaling == pytest.approx(float(dose.array[index]), abs=1e-7)


def test_every_file_says_research_use_state_and_removed_identity(tmp_path, dose, labels, ct):
    paths = [
        export_rtdose(tmp_path / "dose.dcm", dose, REFERENCE),
        export_seg(tmp_path / "regions.dcm", labels, ct, REFERENCE),
        *export_ct(tmp_path / "ct", ct, REFERENCE),
    ]
    for path in paths:
        d = pydicom.dcmread(path)
        assert "Research use only" in d.PatientComments
        assert STATE in d.PatientComments
        assert (d.PatientIdentityRemoved, str(d.PatientID), str(d.PatientName)) == ("YES", "PSEUDONYM", "PSEUDONYM^")
        assert d.DeidentificationMethodCodeSequence
        assert d.LongitudinalTemporalInformationModified == "MODIFIED"
        assert d.StudyDate == "20000210"
        assert d.FrameOfReferenceUID == FRAME


def test_bed_is_an_effective_dose_with_a_comment_and_zero_where_it_is_undefined(tmp_path, dose):
    array = dose.array.copy()
    array[0] = np.nan
    d = pydicom.dcmread(
        export_rtdose(tmp_path / "bed.dcm", dose.replace(array), REFERENCE, quantity="BED", alpha_beta="2.5 Gy")
    )
    assert d.DoseType == "EFFECTIVE"
    assert "BED" in d.DoseComment
    # slices run the other way in the file, since the grid's first axis runs against row x column
    np.testing.assert_allclose(d.pixel_array[::-1][1:] * float(d.DoseGridScaling), array[1:], atol=1e-6)
    assert (d.pixel_array[-1] == 0).all()


def test_absorbed_dose_with_a_hole_of_nan_is_refused(tmp_path, dose):
    array = dose.array.copy()
    array[1, 1, 1] = np.nan
    with pytest.raises(Exception, match="non-finite"):
        export_rtdose(tmp_path / "dose.dcm", dose.replace(array), REFERENCE)


def test_units_and_grids_are_checked(tmp_path, dose, labels, ct):
    with pytest.raises(UnitError):
        export_rtdose(tmp_path / "x.dcm", dose.replace(dose.array, "HU"), REFERENCE)
    moved = AFFINE.copy()
    moved[0, 3] += 1
    with pytest.raises(GeometryError):
        export_seg(tmp_path / "x.dcm", labels, Volume(ct.array, moved, "HU", FRAME), REFERENCE)


def test_a_whole_state_is_exported_and_the_seg_refers_to_the_exported_ct(tmp_path, dose, labels, ct):
    paths = export_state(tmp_path / "a", _state(), _grid(dose, labels, ct), with_ct=True)
    again = export_state(tmp_path / "b", _state(), _grid(dose, labels, ct), with_ct=True)
    assert set(paths) == {"dose", "sd", "bed", "regions", "ct", "dose_nifti", "sd_nifti", "bed_nifti"}
    for name in set(paths) - {"ct"}:
        assert paths[name].read_bytes() == again[name].read_bytes()
    regions = pydicom.dcmread(paths["regions"])
    assert [s.SegmentLabel for s in regions.SegmentSequence] == ["kidney_left", "lesion/L1"]
    uids = {pydicom.dcmread(p).SOPInstanceUID for p in paths["ct"].iterdir()}
    referenced = {i.ReferencedSOPInstanceUID for i in regions.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referenced <= uids


def test_the_sd_lies_on_the_exported_ct_as_a_parametric_map_in_gray(tmp_path, dose, labels, ct):
    grid = _grid(dose, labels, ct)
    d = pydicom.dcmread(export_state(tmp_path, _state(), grid)["sd"])
    frames = np.frombuffer(d.FloatPixelData, "<f4").reshape(d.NumberOfFrames, d.Rows, d.Columns)
    for frame, place in zip(frames, d.PerFrameFunctionalGroupsSequence, strict=True):
        k = int(np.rint((100.0 - place.PlanePositionSequence[0].ImagePositionPatient[2]) / 5.0))
        np.testing.assert_array_equal(frame, grid["dose_sd_gy"].values[k])
    mapping = d.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "Gy"
    assert (d.PatientIdentityRemoved, d.FrameOfReferenceUID) == ("YES", FRAME)


def test_nifti_maps_lie_where_the_dicom_ones_do(tmp_path, dose, labels, ct):
    paths = export_state(tmp_path, _state(), _grid(dose, labels, ct))
    image = sitk.ReadImage(str(paths["dose_nifti"]))  # ITK reads NIfTI into the LPS frame of DICOM
    for index in [(0, 0, 0), (4, 5, 6), (2, 3, 1)]:
        place = (AFFINE @ [*index, 1])[:3]
        there = image.TransformPhysicalPointToIndex([float(p) for p in place])
        assert image[there] == pytest.approx(float(dose.array[index]), abs=1e-6)
    array, affine = read_nifti(paths["bed_nifti"])
    np.testing.assert_allclose(affine, AFFINE, atol=1e-5)
    assert np.isnan(array[labels.labels != 1]).all()


def test_exports_pass_dciodvfy(tmp_path, dose, labels, ct):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    paths = export_state(tmp_path, _state(), _grid(dose, labels, ct), with_ct=True)
    checked = [paths["regions"], paths["sd"], next(paths["ct"].iterdir())]
    for name in ("dose", "bed"):
        checked.append(save(header_shadow(pydicom.dcmread(paths[name])), tmp_path / f"{name}-16.dcm"))
    for path in checked:
        found = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in found.stderr + found.stdout, found.stderr


def _grid(dose: Volume, labels: LabelVolume, ct: Volume) -> xr.Dataset:
    dims = ("z", "y", "x")
    # `rest` has no code and is left out of the SEG; it also moves the numbers of the others
    label = np.where(labels.labels > 0, labels.labels + 1, 1).astype(np.int16)
    return xr.Dataset(
        {
            "dose_mean_gy": (dims, dose.array),
            "dose_sd_gy": (dims, 0.1 * dose.array),
            "bed_mean_gy": (dims, np.where(labels.labels == 1, dose.array, np.nan).astype(np.float32)),
            "ct_hu": (dims, ct.array.astype(np.int16)),
            "label": (dims, label),
        },
        attrs={
            "affine": AFFINE.ravel().tolist(),
            "regions": json.dumps(["rest", "kidney_left", "lesion/L1"]),
            "frame_of_reference": FRAME,
        },
    )


def _state() -> TwinState:
    patient = Patient("PSEUDONYM", "male", 70.0, 178.0, 80.0)
    empty = np.zeros((0,))
    posterior = Posterior((), empty, np.zeros((0, 0)), np.zeros((1, 0)), "model")
    ledger = DoseLedger((), (), (), (), (), np.zeros((0, 0, 1)), np.zeros((0, 0, 1)))
    lesion = Lesion("L1", "bone", 1.0, 1)
    evidence = Evidence(1, patient, (), REGIONS)
    return TwinState(STATE, {}, "PSEUDONYM", 1, None, 960.5, "model", patient, posterior, ledger, (lesion,), evidence, None, {})
