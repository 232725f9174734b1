"""The optional resolution by radius of a calibration record: read as given, refused when it cannot be meant."""

import json
from pathlib import Path
from typing import Any

import pytest

from storage.calibrations import read_calibrations
from tdt_core.errors import CalibrationError

RECORD = {
    "device": "SN-1", "energy_window": "Lu177_208", "collimator": "MEGP", "reconstruction": "OSEM", "nuclide": "Lu-177",
    "sensitivity_cps_per_mbq": 9.5, "sensitivity_rel_sd": 0.03, "resolution_fwhm_mm": 12, "resolution_rel_sd": 0.1,
    "date": "2026-01-15", "source": "cylinder phantom",
}  # fmt: skip


def written(folder: Path, **more: Any) -> Path:
    path = folder / "calibration.json"
    path.write_text(json.dumps({"schema": 1, "calibrations": [RECORD | more]}))
    return path


def test_a_record_without_a_profile_states_one_resolution(tmp_path: Path) -> None:
    assert read_calibrations(written(tmp_path)).records[0].resolution_by_radius_mm == ()


def test_a_profile_is_kept_as_it_was_measured(tmp_path: Path) -> None:
    got = read_calibrations(written(tmp_path, resolution_by_radius_mm=[[0, 13.1], [100, 12], [200, 10.8]]))
    assert got.records[0].resolution_by_radius_mm == ((0.0, 13.1), (100.0, 12.0), (200.0, 10.8))


@pytest.mark.parametrize(
    "profile",
    [
        [[100, 12.0], [0, 13.0]], [[0, 12.0], [0, 13.0]], [[0, 0.0]], [[-1, 12.0]], [[0, 12.0, 1.0]], "12 mm", [12.0],
        [["a", 12.0]], 3,
    ],
)  # fmt: skip
def test_a_profile_that_cannot_be_meant_is_refused_with_the_form_it_should_have(tmp_path: Path, profile: Any) -> None:
    with pytest.raises(CalibrationError) as told:
        read_calibrations(written(tmp_path, resolution_by_radius_mm=profile))
    assert "resolution_by_radius_mm" in str(told.value)


SPHERE = {"body_mm": 130, "radius_mm": 60.5, "volume_ml": 20, "ratio": 10, "recovery": 0.73}
SPHERES = {"voxel_mm": 4.8, "rel_sd": 0.02, "rows": [SPHERE, SPHERE | {"ratio": 40, "recovery": 0.78}]}


def test_a_sphere_phantom_is_kept_as_it_was_measured(tmp_path: Path) -> None:
    got = read_calibrations(written(tmp_path, spheres=SPHERES)).records[0].spheres
    assert got is not None
    assert got.voxel_mm == 4.8
    assert [r.recovery for r in got.rows] == [0.73, 0.78]
    assert read_calibrations(written(tmp_path)).records[0].spheres is None


@pytest.mark.parametrize(
    "spheres",
    [
        SPHERES | {"rows": [SPHERE | {"volume_ml": 2.9}]},
        [], {}, {"rows": [SPHERE]}, SPHERES | {"rows": []}, SPHERES | {"rel_sd": -0.1}, SPHERES | {"voxel_mm": True},
        SPHERES | {"rows": [SPHERE | {"recovery": 0}]}, SPHERES | {"rows": [SPHERE | {"ratio": 0.5}]},
        SPHERES | {"rows": [SPHERE | {"ratio": "10"}]}, SPHERES | {"rows": [3]},
        SPHERES | {"rows": [SPHERE | {"contrast": 9.0}]},
    ],
)  # fmt: skip
def test_a_sphere_phantom_that_cannot_be_meant_is_refused(tmp_path: Path, spheres: Any) -> None:
    with pytest.raises(CalibrationError) as told:
        read_calibrations(written(tmp_path, spheres=spheres))
    assert told.value.kind == "calibration.format"
