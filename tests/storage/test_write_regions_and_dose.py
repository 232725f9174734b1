"""SEG, RTSTRUCT and RTDOSE: other programs find the same voxels and the same dose, and dciodvfy agrees."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from storage.dicom.uids import derived_uid
from storage.dicom.write_common import DicomPatient, DicomSeries, DicomStudy, Equipment, encode, save
from storage.dicom.write_ct import ct_series
from storage.dicom.write_rtdose import header_shadow, rtdose
from storage.dicom.write_rtstruct import keyholed, outlines, rtstruct
from storage.dicom.write_seg import seg, tracking_uid
from tdt_core.errors import GeometryError, InputError
from tdt_core.imaging.regions import region_codes, region_named
from tdt_core.imaging.volume import LabelVolume
from tdt_core.twin import Region

AT = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
PATIENT = DicomPatient("PHANTOM-0001", "PHANTOM^0001")
STUDY = DicomStudy(derived_uid("study"), derived_uid("frame"), AT, "Cycle 1")
AFFINE = np.array([[0, 0, 4.0, -30.0], [0, 4.5, 0, -40.0], [5.0, 0, 0, 100.0], [0, 0, 0, 1.0]])
DOWNWARD = np.array([[0, 0, 4.0, -30.0], [0, 4.5, 0, -40.0], [-5.0, 0, 0, 100.0], [0, 0, 0, 1.0]])
REGIONS = (region_named("kidney_left"), region_named("lesion/L1"), region_named("red_marrow"), region_named("spleen"))


def series(role: str) -> DicomSeries:
    return DicomSeries(derived_uid("series", role), 1, AT, role)


def ct() -> list[pydicom.Dataset]:
    hu = np.zeros((6, 12, 20), np.int16)
    return list(ct_series(hu, AFFINE, PATIENT, STUDY, series("ct"), Equipment()))


def labels() -> LabelVolume:
    """A kidney with a hole, pixels that touch at corners, one single voxel, columns beyond the common square; no spleen."""
    array = np.zeros((6, 12, 20), np.int16)
    array[1:4, 2:7, 12:19], array[2, 4, 14:16] = 1, 0
    array[4:6, 8:10, 1:3], array[4, 8, 1], array[3, 10, 4], array[3, 11, 5] = 2, 0, 2, 2
    array[0, 0, 0] = 3
    return LabelVolume(array, AFFINE, STUDY.frame_of_reference_uid, REGIONS)


def written_seg(volume: LabelVolume | None = None) -> pydicom.Dataset:
    return seg(volume or labels(), ct(), series("seg"), Equipment(), PATIENT, derived_uid("seg"), "seed")


def test_a_seg_comes_back_voxel_for_voxel_in_a_reader_of_its_own(tmp_path):
    found = hd.seg.segread(save(written_seg(), tmp_path / "seg.dcm"))
    reference = hd.get_volume_from_series(ct())
    back = found.get_volume(combine_segments=True, relabel=True).match_geometry(reference).array
    expected = labels().labels
    # highdicom's first axis may run against ours
    np.testing.assert_array_equal(back if np.array_equal(back, expected) else back[::-1], expected)


def test_segments_carry_names_codes_laterality_as_a_modifier_and_lasting_lesion_ids():
    d = written_seg()
    kidney, lesion, marrow = d.SegmentSequence
    assert [s.SegmentLabel for s in d.SegmentSequence] == ["kidney_left", "lesion/L1", "red_marrow"]  # no spleen: no voxel
    kind = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue) == ("64033007", "7771000")
    assert lesion.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert (lesion.TrackingID, lesion.TrackingUID) == ("L1", tracking_uid("seed", "L1"))
    assert marrow.SegmentedPropertyTypeCodeSequence[0].CodeValue == "14016003"
    assert "TrackingUID" not in kidney
    assert tracking_uid("seed", "L1") != tracking_uid("seed", "L2")


def test_every_region_of_the_table_can_be_written():
    names = [n for n, row in region_codes().items() if row.code and n != "lesion"]
    array = np.zeros((6, 12, 20), np.int16)
    array.ravel()[: len(names)] = np.arange(1, len(names) + 1)
    volume = LabelVolume(array, AFFINE, STUDY.frame_of_reference_uid, tuple(region_named(n) for n in names))
    assert [s.SegmentLabel for s in written_seg(volume).SegmentSequence] == names


def test_a_seg_without_voxels_of_an_unknown_code_or_on_another_grid_is_refused():
    empty = LabelVolume(np.zeros((6, 12, 20), np.int16), AFFINE, "f", REGIONS)
    with pytest.raises(InputError, match="without any labelled voxel"):
        written_seg(empty)
    unknown = LabelVolume(labels().labels, AFFINE, "f", (Region("x", "x", "1234567890"), *REGIONS[1:]))
    with pytest.raises(InputError, match="SNOMED"):
        written_seg(unknown)
    with pytest.raises(GeometryError):
        written_seg(LabelVolume(labels().labels[:5], AFFINE, "f", REGIONS))


def filled(polygons, shape) -> np.ndarray:
    """Even-odd filling at voxel centres: the slow, obvious counterpart."""
    out = np.zeros(shape, bool)
    for r in range(shape[0]):
        for c in range(shape[1]):
            for polygon in polygons:
                crossings = 0
                for a, b in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
                    (r0, c0), (r1, c1) = a, b
                    if (r0 > r + 0.5) != (r1 > r + 0.5):
                        crossings += c0 + (r + 0.5 - r0) / (r1 - r0) * (c1 - c0) > c + 0.5
                out[r, c] ^= crossings % 2 == 1
    return out


def area(polygon) -> float:
    r, c = np.array(polygon, float).T
    return 0.5 * float(np.sum(r * np.roll(c, -1) - c * np.roll(r, -1)))


@pytest.mark.parametrize("seed", range(12))
def test_filling_the_contours_of_any_mask_gives_back_the_mask_and_its_area(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 13)) < rng.choice([0.3, 0.5, 0.85])
    for polygons in (outlines(mask), keyholed(outlines(mask))):
        np.testing.assert_array_equal(filled(polygons, mask.shape), mask)
        assert sum(area(p) for p in polygons) == pytest.approx(mask.sum())
    assert all(area(p) > 0 for p in keyholed(outlines(mask)))


def test_nested_holes_and_islands_survive_the_keyholes():
    mask = np.zeros((11, 15), bool)
    mask[0:11, 0:15], mask[1:10, 1:14], mask[3:8, 3:12], mask[4:7, 4:6], mask[5, 8] = True, False, True, False, False
    polygons = keyholed(outlines(mask))
    assert len(polygons) == 2
    np.testing.assert_array_equal(filled(polygons, mask.shape), mask)


def test_plastimatch_fills_our_contours_to_exactly_the_same_voxels(tmp_path):
    if shutil.which("plastimatch") is None:
        pytest.skip("plastimatch is not installed")
    for k, d in enumerate(ct()):
        save(d, tmp_path / "ct" / f"{k}.dcm")
    save(_rtstruct(), tmp_path / "rs.dcm")
    _plastimatch(tmp_path, "--input", "rs.dcm", "--referenced-ct", "ct", "--output-prefix", "masks", "--prefix-format", "nrrd")
    for n, name in enumerate(("kidney_left", "lesion/L1", "red_marrow"), start=1):
        image = sitk.ReadImage(str(tmp_path / "masks" / f"{name}.nrrd"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image) > 0, labels().labels == n)


@pytest.mark.parametrize("affine", [AFFINE, DOWNWARD])
def test_dose_times_scaling_is_the_dose_at_its_place_in_an_independent_reader(tmp_path, affine):
    dose = np.random.default_rng(2).gamma(2, 10, (6, 8, 10))
    path = save(_rtdose(dose, affine), tmp_path / "dose.dcm")
    image, scaling = sitk.ReadImage(str(path)), float(pydicom.dcmread(path).DoseGridScaling)
    for index in [(0, 0, 0), (5, 7, 9), (1, 6, 3)]:
        place = (affine @ [*index, 1])[:3]
        there = image.TransformPhysicalPointToIndex([float(p) for p in place])
        assert image[there] * scaling == pytest.approx(dose[index], abs=0.51 * scaling)
    offsets = [float(v) for v in pydicom.dcmread(path).GridFrameOffsetVector]
    assert offsets == [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]


def test_plastimatch_reads_the_same_dose(tmp_path):
    if shutil.which("plastimatch") is None:
        pytest.skip("plastimatch is not installed")
    dose = np.random.default_rng(2).gamma(2, 10, (6, 8, 10))
    save(_rtdose(dose, DOWNWARD), tmp_path / "dose.dcm")
    _plastimatch(tmp_path, "--input", "dose.dcm", "--output-dose-img", "dose.nrrd")
    image = sitk.ReadImage(str(tmp_path / "dose.nrrd"))
    np.testing.assert_allclose(image.GetOrigin(), (-30, -40, 75))
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), dose[::-1], rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("highest", [1e-9, 3.3e-5, 80.0, 12345.678, 0.0])
def test_quantisation_uses_the_printed_scaling_and_never_overflows(highest):
    dose = np.linspace(0, highest, 60).reshape(3, 4, 5)
    d = _rtdose(dose)
    assert len(str(d.DoseGridScaling)) <= 16
    back = d.pixel_array.astype(np.float64) * float(d.DoseGridScaling)
    np.testing.assert_allclose(back, dose, atol=0.51 * float(d.DoseGridScaling))


def test_an_effective_dose_needs_a_comment_and_no_dose_is_negative():
    with pytest.raises(InputError, match="comment"):
        _rtdose(np.ones((2, 2, 2)), dose_type="EFFECTIVE")
    with pytest.raises(InputError, match="negative"):
        _rtdose(-np.ones((2, 2, 2)))


def test_the_same_input_gives_the_same_bytes():
    assert encode(written_seg()) == encode(written_seg())
    assert encode(_rtstruct()) == encode(_rtstruct())
    assert encode(_rtdose(np.ones((2, 2, 2)))) == encode(_rtdose(np.ones((2, 2, 2))))


def test_files_pass_dciodvfy_dose_by_its_header(tmp_path):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    dose = _rtdose(np.ones((3, 4, 5)), comment="Absorbed dose. Research use only.")
    for name, d in (("seg", written_seg()), ("rtstruct", _rtstruct()), ("rtdose", header_shadow(dose))):
        path = save(d, tmp_path / f"{name}.dcm")
        found = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
        lines = (found.stderr + found.stdout).splitlines()
        assert [line for line in lines if line.startswith(("Error", "Warning"))] == [], name
    assert dose.BitsAllocated == 32


def _rtstruct() -> pydicom.Dataset:
    return rtstruct(labels(), ct(), PATIENT, STUDY, series("rtstruct"), Equipment(), derived_uid("rtstruct"))


def _rtdose(dose: np.ndarray, affine: np.ndarray = AFFINE, **more) -> pydicom.Dataset:
    return rtdose(dose, affine, PATIENT, STUDY, series("dose"), Equipment(), derived_uid("dose"), **more)


def _plastimatch(folder: Path, *arguments: str) -> None:
    subprocess.run(["plastimatch", "convert", *arguments], cwd=folder, check=True, capture_output=True)
