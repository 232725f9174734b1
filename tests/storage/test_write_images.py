"""NM, PT and CT files: values, places, times and units come back as they were written, and dciodvfy agrees."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, date, datetime, timedelta, timezone

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from storage.dicom.uids import derived_uid
from storage.dicom.write_common import (
    DicomPatient,
    DicomSeries,
    DicomStudy,
    Equipment,
    datetime_of,
    ds,
    encode,
    grid_of,
    printed,
    save,
)
from storage.dicom.write_ct import ct_series
from storage.dicom.write_nm import EnergyWindow, SpectAcquisition, nm_spect
from storage.dicom.write_pt import PetAcquisition, pt_series
from tdt_core.errors import GeometryError, InputError, TimeError

ZONE = timezone(timedelta(hours=5, minutes=30))
AT = datetime(2026, 3, 2, 23, 50, 7, tzinfo=ZONE)
PATIENT = DicomPatient("PHANTOM-0001", "PHANTOM^0001", "male", date(1955, 3, 1), 178, 80)
STUDY = DicomStudy(derived_uid("study"), derived_uid("frame"), AT, "Cycle 1")
SERIES = DicomSeries(derived_uid("series"), 1, AT, "SPECT")
SPECT = SpectAcquisition(
    EnergyWindow("Lu177_208", 187.5, 229.2),
    "MEHRP",
    "OSEM-4i10s-AC-SC-RR",
    1200.0,
    "Lu-177",
    6.647 * 86400,
    "Lu-177-PSMA-617",
    7400.0,
    AT - timedelta(days=1),
)
PET = PetAcquisition(900.0, "Ga-68", 4062.6, "Ga-68-PSMA-11", 150.0, AT - timedelta(hours=1))


def affine(sign: float = 1.0) -> np.ndarray:
    return np.array([[0, 0, 4.0, -30.0], [0, 4.5, 0, -40.0], [sign * 5.0, 0, 0, 100.0], [0, 0, 0, 1.0]])


def oblique() -> np.ndarray:
    a, b = 0.3, 0.2
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    out = affine()
    out[:3, :3] = about_z @ about_x @ out[:3, :3]
    return out


def values(scale: float = 40.0) -> np.ndarray:
    return np.random.default_rng(3).gamma(1.5, scale, (6, 8, 10))


def nm(array=None, place=None, real_world=False, acquisition=SPECT):
    array = values() if array is None else array
    place = affine() if place is None else place
    return nm_spect(array, place, acquisition, PATIENT, STUDY, SERIES, Equipment(), derived_uid("nm"), real_world)


def test_the_same_words_name_the_same_uid_and_other_words_another():
    assert derived_uid("a", 1) == derived_uid("a", "1")
    assert len({derived_uid("a", "b"), derived_uid("ab"), derived_uid("b", "a"), derived_uid("a", "b", key=b"k")}) == 4
    assert pydicom.uid.UID(derived_uid("a")).is_valid


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_spect_voxel_lies_where_an_independent_reader_puts_it_with_either_sign_of_slice_spacing(tmp_path, sign):
    counts = np.rint(values())
    image = sitk.ReadImage(str(save(nm(counts, affine(sign)), tmp_path / "nm.dcm")))
    for index in [(0, 0, 0), (5, 7, 9), (2, 6, 1)]:
        place = (affine(sign) @ [*index, 1])[:3]
        assert image[image.TransformPhysicalPointToIndex([float(p) for p in place])] == counts[index]


def test_slice_spacing_carries_the_sign_and_position_stands_in_the_detector_sequence():
    d = nm(place=affine(-1.0))
    assert float(d.SpacingBetweenSlices) == -5.0
    assert [float(v) for v in d.DetectorInformationSequence[0].ImagePositionPatient] == [-30.0, -40.0, 100.0]
    assert "ImagePositionPatient" not in d


def test_counts_beyond_16_bits_travel_with_a_slope_that_is_a_power_of_two():
    counts = values() * 1e4
    d = nm(counts)
    slope = float(d.RescaleSlope)
    assert np.log2(slope) == int(np.log2(slope))
    np.testing.assert_allclose(d.pixel_array * slope, counts, atol=slope / 2)
    assert "RescaleSlope" not in nm()


def test_a_real_world_map_gives_bq_per_ml_in_a_reader_that_knows_maps(tmp_path):
    bq_ml = values(5e4)
    path = save(nm(bq_ml, real_world=True), tmp_path / "nm.dcm")
    mapped = hd.imread(path).get_frames(apply_real_world_transform=True)
    np.testing.assert_allclose(mapped, bq_ml, atol=bq_ml.max() / 65535)
    units = pydicom.dcmread(path).RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence[0]
    assert (units.CodeValue, units.CodingSchemeDesignator) == ("Bq/ml", "UCUM")


def test_total_duration_is_frames_times_frame_duration_and_activity_is_mbq_in_nm_and_bq_in_pt():
    rotation = nm().RotationInformationSequence[0]
    assert rotation.ActualFrameDuration / 1000 * rotation.NumberOfFramesInRotation == 1200.0
    assert float(nm().RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose) == 7400.0
    assert float(pt()[0].RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose) == 150e6


def test_a_duration_that_is_no_whole_number_of_milliseconds_per_frame_is_refused():
    with pytest.raises(InputError, match="whole milliseconds"):
        nm(acquisition=SpectAcquisition(**{**SPECT.__dict__, "duration_s": 1000.0007}))


def test_names_that_do_not_fit_the_header_are_refused_since_they_would_match_no_calibration():
    for wrong in ({"collimator": "a collimator with a long name"}, {"reconstruction": ""}):
        with pytest.raises(InputError, match="characters"):
            nm(acquisition=SpectAcquisition(**{**SPECT.__dict__, **wrong}))


def test_times_carry_their_zone_and_a_time_without_one_is_refused():
    d = nm()
    assert (d.AcquisitionDate, d.AcquisitionTime, d.TimezoneOffsetFromUTC) == ("20260302", "235007", "+0530")
    assert d.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartDateTime == "20260301235007+0530"
    with pytest.raises(TimeError):
        datetime_of(datetime(2026, 1, 1))
    assert datetime_of(datetime(2026, 1, 1, 0, 0, 0, 5, UTC)) == "20260101000000.000005+0000"


def test_negative_or_undefined_counts_are_refused():
    for bad in (-1.0, np.nan, np.inf):
        array = values()
        array[1, 2, 3] = bad
        with pytest.raises(InputError):
            nm(array)


def test_a_sheared_grid_is_refused():
    sheared = affine()
    sheared[0, 0] = 1.0
    with pytest.raises(GeometryError):
        nm(place=sheared)


def pt(array=None, place=None):
    array = values(2e4) if array is None else array
    return list(pt_series(array, affine() if place is None else place, PET, PATIENT, STUDY, SERIES, Equipment()))


def test_every_pet_slice_has_its_own_slope_and_two_readers_agree_on_bq_per_ml(tmp_path):
    bq_ml = values(2e4)
    slices = pt(bq_ml)
    assert len({str(d.RescaleSlope) for d in slices}) == len(slices)
    for k, d in enumerate(slices):
        np.testing.assert_allclose(
            d.pixel_array * float(d.RescaleSlope), bq_ml[k], atol=0.51 * float(d.RescaleSlope) + bq_ml.max() * 1e-12
        )
        save(d, tmp_path / f"{k}.dcm")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    image = sitk.ReadImage(names)
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), bq_ml, rtol=1e-3, atol=bq_ml.max() / 32767)


def test_the_decay_factor_of_a_start_corrected_pet_lies_between_start_and_end_of_the_frame():
    d = pt()[0]
    end = 2 ** (900 / 4062.6)
    assert 1 < float(d.DecayFactor) < end
    assert 0 < float(d.FrameReferenceTime) < 900_000
    # the reference time is that of the average count rate: decay to it undoes the factor
    assert 2 ** (float(d.FrameReferenceTime) / 1000 / 4062.6) == pytest.approx(float(d.DecayFactor), rel=1e-6)


def test_an_oblique_ct_comes_back_in_place_with_its_hounsfield_units(tmp_path):
    hu = np.rint(values()) - 700
    for k, d in enumerate(ct_series(hu, oblique(), PATIENT, STUDY, SERIES, Equipment())):
        save(d, tmp_path / f"{9 - k}.dcm")
    volume = hd.get_volume_from_series([pydicom.dcmread(p) for p in tmp_path.iterdir()])
    for index in [(0, 0, 0), (5, 7, 9), (3, 1, 8)]:
        place = (oblique() @ [*index, 1])[:3]
        there = np.rint(volume.map_reference_to_indices(place[None]))[0].astype(int)
        assert volume.array[tuple(there)] == hu[index]


def test_decimal_strings_have_at_most_16_characters_and_printed_is_what_a_reader_gets():
    for number in (np.pi, -1 / 3e-9, 1e-300, 123456789.123456789, 0.0, -0.0):
        assert len(ds(number)) <= 16
        assert printed(number) == float(ds(number))
    with pytest.raises(InputError):
        ds(np.nan)


def test_the_grid_of_an_affine_says_the_same_as_the_affine():
    grid = grid_of(oblique())
    np.testing.assert_allclose(grid.position_mm + 3 * grid.step_mm, (oblique() @ [3, 0, 0, 1])[:3])
    np.testing.assert_allclose(np.cross(grid.row, grid.column) * grid.normal_spacing_mm, grid.step_mm, atol=1e-12)


def test_the_same_input_gives_the_same_bytes():
    assert encode(nm()) == encode(nm())
    assert encode(pt()[2]) == encode(pt()[2])


def test_files_pass_dciodvfy_and_a_series_passes_dcentvfy(tmp_path):
    if shutil.which("dciodvfy") is None or shutil.which("dcentvfy") is None:
        pytest.skip("dciodvfy and dcentvfy (dicom3tools) are not installed")
    files = [
        save(nm(), tmp_path / "nm.dcm"),
        save(nm(place=affine(-1.0), real_world=True), tmp_path / "nm_rw.dcm"),
        save(nm(values() * 1e4), tmp_path / "nm_big.dcm"),
        save(pt()[0], tmp_path / "pt.dcm"),
    ]
    ct = [
        save(d, tmp_path / f"ct{k}.dcm")
        for k, d in enumerate(ct_series(values(), affine(), PATIENT, STUDY, SERIES, Equipment()))
    ]
    for path in [*files, ct[0]]:
        found = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in found.stderr + found.stdout, f"{path.name}: {found.stderr}"
        # extensions that NM allows beside its own attributes; anything else is a fault of ours
        allowed = ("RadionuclideHalfLife", "RadiopharmaceuticalStartDateTime", "RescaleSlope", "RescaleIntercept")
        warnings = [w for w in found.stderr.splitlines() if w.startswith("Warning")]
        assert [w for w in warnings if not any(a in w for a in allowed)] == []
    found = subprocess.run(["dcentvfy", *map(str, ct)], capture_output=True, text=True, check=False)
    assert (found.stdout + found.stderr).strip() == ""
