"""Images arrive at the right place with the right values, whichever legal way their header tells it."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from pathlib import Path

import inbox_builder as b
import numpy as np
import pytest
from pydicom.dataset import Dataset

from storage.calibrations import Calibrations
from storage.dicom.ct_pt import read_ct, read_pt
from storage.dicom.images import ReadImage
from storage.dicom.nm import read_nm
from storage.dicom.parse import open_file
from storage.dicom.write_common import code_item, save
from tdt_core.codec import from_plain
from tdt_core.errors import TwinError
from tdt_core.twin import CalibrationRecord

AT = b.THERAPY + timedelta(hours=24)
RECORDS = Calibrations((from_plain(CalibrationRecord, b.CALIBRATION), from_plain(CalibrationRecord, b.PET_CALIBRATION)))
HOT = (4, 7, 18)


def read_back(d: Dataset, tmp_path: Path, name: str = "x.dcm") -> Dataset:
    return open_file(save(d, tmp_path / name), pixels=True)


def tilted(sign: float = 1.0) -> np.ndarray:
    """Anisotropic, oblique in two angles; `sign` turns the slices round."""
    a, c = np.deg2rad(20), np.deg2rad(-12)
    rotation = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]) @ np.array(
        [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    x, y, z = rotation.T
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = sign * 7.0 * z, 3.0 * y, 4.0 * x
    affine[:3, 3] = [11.0, -22.0, 33.0]
    return affine


def hot_volume() -> np.ndarray:
    array = np.full(b.SHAPE, 0.001)
    array[HOT] = 1.0
    return array


def place_of_the_hottest(image: ReadImage) -> np.ndarray:
    index = np.unravel_index(int(image.array.argmax()), image.array.shape)
    return (image.affine @ np.array([*index, 1.0]))[:3]


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["slices along the normal", "slices against the normal"])
@pytest.mark.parametrize("affine_of", [tilted, lambda sign: b.AFFINE * np.array([sign, 1, 1, 1])], ids=["oblique", "axial"])
def test_a_hot_voxel_of_a_spect_is_found_where_it_was_put(sign, affine_of, tmp_path):
    affine = affine_of(sign)
    d = read_back(b.spect("x", AT, b.counts_of(hot_volume()), affine=affine), tmp_path)
    assert (float(d.SpacingBetweenSlices) < 0) == (sign < 0)
    image = read_nm(d, RECORDS)
    np.testing.assert_allclose(place_of_the_hottest(image), (affine @ np.array([*HOT, 1.0]))[:3], atol=1e-4)
    assert np.linalg.det(image.affine[:3, :3]) < 0  # k, j, i run along normal, column, row: one handedness for all
    assert image.affine[:3, 0] @ np.cross(image.affine[:3, 2], image.affine[:3, 1]) > 0


def test_a_spect_with_geometry_at_top_level_is_placed_the_same(tmp_path):
    d = b.spect("x", AT, b.counts_of(hot_volume()), affine=tilted())
    detector = d.DetectorInformationSequence[0]
    d.ImagePositionPatient, d.ImageOrientationPatient = detector.ImagePositionPatient, detector.ImageOrientationPatient
    del detector.ImagePositionPatient
    del detector.ImageOrientationPatient
    image = read_nm(read_back(d, tmp_path), RECORDS)
    np.testing.assert_allclose(place_of_the_hottest(image), (tilted() @ np.array([*HOT, 1.0]))[:3], atol=1e-4)


def test_slice_thickness_never_takes_the_place_of_the_slice_spacing(tmp_path):
    d = b.spect("x", AT, b.counts_of(hot_volume()))
    d.SliceThickness = "3.0"
    assert np.linalg.norm(read_nm(read_back(d, tmp_path), RECORDS).affine[:3, 0]) == pytest.approx(20.0)


def test_counts_become_activity_by_sensitivity_and_duration(tmp_path):
    mbq_ml = b.activity(3)
    image = read_nm(read_back(b.spect("x", AT, b.counts_of(mbq_ml)), tmp_path), RECORDS)
    voxel_ml = b.SPACING_MM**3 / 1000
    assert image.value_branch == "counts"
    assert image.counts_per_mbq == b.SENSITIVITY * b.DURATION_S
    assert image.array.sum() * voxel_ml == pytest.approx(mbq_ml.sum() * voxel_ml, rel=1e-3)  # whole counts are stored
    assert image.time_of_values - image.start == timedelta(seconds=b.DURATION_S / 2)
    assert image.start == AT


def test_counts_beyond_16_bits_come_back_through_their_rescale_slope(tmp_path):
    d = read_back(b.spect("x", AT, b.counts_of(b.activity(3) * 50)), tmp_path)
    assert float(d.RescaleSlope) > 1
    image = read_nm(d, RECORDS)
    assert image.value_branch == "counts"
    np.testing.assert_allclose(image.array, b.activity(3) * 50, rtol=0.05)


def test_a_real_world_map_goes_before_a_rescale_slope_and_never_both(tmp_path):
    d = b.spect("x", AT, b.activity(3) * 1e6, real_world=True)
    d.RescaleSlope, d.RescaleIntercept, d.RescaleType = "7", "0", "BQML"
    image = read_nm(read_back(d, tmp_path), RECORDS)
    assert image.value_branch == "real_world"
    np.testing.assert_allclose(image.array, b.activity(3), rtol=1e-2)


def test_a_real_world_map_in_counts_still_needs_the_calibration(tmp_path):
    d = b.spect("x", AT, b.activity(3) * 1e6, real_world=True)
    item = d.RealWorldValueMappingSequence[0]
    item.MeasurementUnitsCodeSequence = [code_item("{counts}", "UCUM", "Counts")]
    item.RealWorldValueSlope = 0.5
    d = read_back(d, tmp_path)
    image = read_nm(d, RECORDS)
    stored = np.frombuffer(d.PixelData, "<u2").reshape(b.SHAPE)
    assert image.value_branch == "counts"
    voxel_ml = b.SPACING_MM**3 / 1000
    np.testing.assert_allclose(image.array, stored * 0.5 / (b.SENSITIVITY * b.DURATION_S * voxel_ml), rtol=1e-6)
    with pytest.raises(TwinError, match="no calibration record"):
        read_nm(d, Calibrations())


def test_a_rescale_slope_in_bqml_is_activity_without_any_calibration(tmp_path):
    d = b.spect("x", AT, np.full(b.SHAPE, 100.0))
    d.RescaleSlope, d.RescaleIntercept, d.RescaleType = "2000", "0", "BQML"
    image = read_nm(read_back(d, tmp_path), Calibrations())
    assert image.value_branch == "rescale"
    assert image.calibration is None
    np.testing.assert_allclose(image.array, 0.2)


def test_of_two_energy_windows_the_calibrated_one_is_read(tmp_path):
    both = np.concatenate([b.counts_of(b.activity(1)), b.counts_of(b.activity(2))])
    d = b.spect("x", AT, both)
    second = Dataset()
    second.EnergyWindowName = "Lu177_113"
    d.EnergyWindowInformationSequence = [second, d.EnergyWindowInformationSequence[0]]
    n = b.SHAPE[0]
    d.FrameIncrementPointer = [0x00540010, 0x00540080]
    d.EnergyWindowVector, d.SliceVector = [1] * n + [2] * n, [*range(1, n + 1)] * 2
    image = read_nm(read_back(d, tmp_path), RECORDS)
    np.testing.assert_allclose(image.array, b.activity(2), rtol=1e-2)
    assert any("energy windows" in f for f in image.findings)


def test_frames_out_of_order_are_stacked_by_their_slice_vector(tmp_path):
    order = [3, 0, 5, 1, 4, 2]
    d = b.spect("x", AT, b.counts_of(b.activity(1))[order])
    d.SliceVector = [k + 1 for k in order]
    np.testing.assert_allclose(read_nm(read_back(d, tmp_path), RECORDS).array, b.activity(1), rtol=1e-2)


def pet_slices(tmp_path: Path, **changes: object) -> list[Dataset]:
    slices = b.pet("x", b.INJECTED + timedelta(hours=1), b.activity(5) * 0.01, b.INJECTED)
    for d in slices:
        for name, value in changes.items():
            setattr(d, name, value)
    return [read_back(d, tmp_path, f"{k}.dcm") for k, d in enumerate(slices)]


def test_each_pet_slice_has_its_own_slope_and_file_order_does_not_matter(tmp_path):
    slices = pet_slices(tmp_path)
    assert len({str(d.RescaleSlope) for d in slices}) > 1
    straight = read_pt(slices, RECORDS)
    random.Random(1).shuffle(slices)
    shuffled = read_pt(slices, RECORDS)
    np.testing.assert_allclose(straight.array, b.activity(5) * 0.01, rtol=1e-4, atol=2e-7)
    np.testing.assert_array_equal(straight.array, shuffled.array)
    np.testing.assert_array_equal(straight.affine, shuffled.affine)
    assert straight.time_of_values == straight.start  # corrected to the start of the series
    assert straight.calibration == RECORDS.records[1]
    assert straight.modality == "PET"


def test_a_pt_series_of_lutetium_is_a_quantitative_spect(tmp_path):
    slices = pet_slices(tmp_path)
    for d in slices:
        item = d.RadiopharmaceuticalInformationSequence[0]
        item.RadionuclideCodeSequence[0].CodeValue = "447553000"
        item.RadionuclideHalfLife = "574000"
        d.DecayFactor = "1.0"
    image = read_pt(slices, RECORDS)
    assert image.modality == "SPECT"
    assert any("quantitative SPECT" in f for f in image.findings)


def test_pet_without_decay_correction_holds_at_mid_frame(tmp_path):
    image = read_pt(pet_slices(tmp_path, DecayCorrection="NONE"), RECORDS)
    assert image.time_of_values - image.start == timedelta(seconds=300)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_hot_voxel_of_a_ct_is_found_where_it_was_put(sign, tmp_path):
    hu = np.full(b.SHAPE, -1000, np.int16)
    hu[HOT] = 1500
    slices = [read_back(d, tmp_path, f"{k}.dcm") for k, d in enumerate(b.ct("x", AT, hu, tilted(sign)))]
    random.Random(2).shuffle(slices)
    image = read_ct(slices)
    np.testing.assert_allclose(place_of_the_hottest(image), (tilted(sign) @ np.array([*HOT, 1.0]))[:3], atol=1e-4)
    assert image.array.dtype == np.int16
    assert image.array.max() == 1500


def test_bits_above_the_stored_ones_are_not_read(tmp_path):
    slices = b.ct("x", AT)
    for d in slices:
        d.BitsStored, d.HighBit = 12, 11
        stored = np.frombuffer(d.PixelData, "<i2").astype("<u2") & 0x0FFF
        d.PixelData = (stored | 0x5000).astype("<u2").tobytes()
        d.RescaleIntercept = "-1024"
        d.PixelRepresentation = 0
    image = read_ct([read_back(d, tmp_path, f"{k}.dcm") for k, d in enumerate(slices)])
    np.testing.assert_array_equal(np.unique(image.array), [-1000, 40])


def test_a_clock_change_between_injection_and_scan_moves_nothing(tmp_path):
    """Half an hour before and after the spring change of 2026, as one instant each in their own offset."""
    before = datetime.fromisoformat("2026-03-29T01:30:00+01:00")
    after = datetime.fromisoformat("2026-03-29T03:30:00+02:00")
    starts = [
        read_nm(read_back(b.spect("x", at, b.counts_of(b.activity(1))), tmp_path), RECORDS).start for at in (before, after)
    ]
    assert starts[1] - starts[0] == timedelta(hours=1)
