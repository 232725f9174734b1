"""CT to density and media: the curve, a scanner's own, metal, couch."""

import numpy as np
import pytest
from imaging_bodies import make_scan

from tdt_core.dosimetry import MATERIALS
from tdt_core.errors import CalibrationError, GeometryError, UnitError
from tdt_core.imaging.ct_calibration import (
    METAL_HU,
    CtCalibration,
    calibration_of,
    packaged_calibration,
    scanner_calibrations,
)
from tdt_core.imaging.density import density, media
from tdt_core.imaging.masks import body_outline
from tdt_core.imaging.volume import Volume

SHAPE, SPACING = (64, 46, 56), 6.0
SCAN, CT_SCAN = make_scan("A", 0.0)
CT = CT_SCAN.volume


def column(*hu):
    return Volume(np.array(hu, np.float64).reshape(1, 1, -1), np.eye(4), "HU", "A")


def names(material):
    return [MATERIALS[i] for i in material.ravel()]


def test_ct_numbers_of_known_tissues_get_their_media():
    hu = (-3000, -1000, -951, -950, -700, -121, -120, -95, 0, 50, 119, 120, 250, 399, 400, 1500, 8000)
    everywhere = np.ones((1, 1, len(hu)), bool)
    found = names(media(column(*hu), everywhere).material)
    assert found == (
        ["air"] * 3 + ["lung"] * 3 + ["adipose"] * 2 + ["soft_tissue"] * 3 + ["red_marrow"] * 3 + ["cortical_bone"] * 3
    )


def test_density_rises_with_the_ct_number_but_for_contrast_against_bone():
    hu = np.arange(-1200.0, 3000.0)
    rho = density(column(*hu)).array.ravel()
    falling = hu[1:][np.diff(rho) < -1e-6]
    assert ((falling >= 100) & (falling <= 101)).all()
    assert rho[0] == pytest.approx(0.00121)
    assert rho[-1] == pytest.approx(1.9642)


def test_density_and_medium_agree_where_they_are_used_together():
    hu = np.arange(-1000.0, 2000.0, 5.0)
    found = media(column(*hu), np.ones((1, 1, hu.size), bool))
    rho = found.density.array.ravel()
    for name, low, high in (
        ("lung", 0.05, 0.93),
        ("adipose", 0.90, 0.99),
        ("soft_tissue", 0.96, 1.12),
        ("cortical_bone", 1.2, 2.0),
    ):
        of = rho[found.material.ravel() == MATERIALS.index(name)]
        assert low <= of.min() <= of.max() <= high


def test_metal_is_dense_bone_and_reported():
    found = media(column(40.0, METAL_HU + 1, 20000.0), np.ones((1, 1, 3), bool))
    assert names(found.material)[1:] == ["cortical_bone"] * 2
    assert found.density.array.max() < 2.0
    assert len(found.findings) == 1
    assert "metal" in found.findings[0]
    assert media(column(40.0, 300.0), np.ones((1, 1, 2), bool)).findings == ()


def test_the_couch_is_air_and_the_lungs_are_not():
    bare = make_scan("A", 0.0, couch=False)[1].volume
    couch = (CT.array > -400) & (bare.array < -900)
    assert couch.any()
    found = media(CT)
    assert (found.material[couch] == MATERIALS.index("air")).mean() > 0.99
    assert found.density.array[couch].mean() < 0.01
    lung = CT.array < -600
    inside = body_outline(CT)
    assert (found.material[lung & inside] == MATERIALS.index("lung")).mean() > 0.9


def test_a_scanner_s_own_calibration_replaces_the_packaged_one():
    rows = [
        {"device": "CT-1", "hu": "-1000", "density_g_cm3": "0.001", "medium": "air", "source": "phantom 2026"},
        {"device": "CT-1", "hu": "-900", "density_g_cm3": "0.1", "medium": "lung", "source": "phantom 2026"},
        {"device": "CT-1", "hu": "0", "density_g_cm3": "1.0", "medium": "water", "source": "phantom 2026"},
        {"device": "CT-1", "hu": "1000", "density_g_cm3": "1.7", "medium": "cortical_bone", "source": "phantom 2026"},
        {"device": "CT-2", "hu": "-1000", "density_g_cm3": "0.001", "medium": "", "source": ""},
        {"device": "CT-2", "hu": "1000", "density_g_cm3": "1.5", "medium": "", "source": ""},
    ]
    scanners = scanner_calibrations(rows)
    own = calibration_of("CT-1", scanners)
    assert own.source == "phantom 2026"
    found = media(column(-950.0, 500.0, 1200.0), np.ones((1, 1, 3), bool), own)
    assert found.density.array.ravel() == pytest.approx([0.0505, 1.35, 1.7])
    assert names(found.material) == ["air", "water", "cortical_bone"]
    assert calibration_of("CT-2", scanners).media == packaged_calibration().media
    assert calibration_of("other", scanners) is packaged_calibration()


@pytest.mark.parametrize(
    ("curve", "media_"),
    [
        ((), ((0.0, "air"),)),
        (((0.0, 0.001),), ((0.0, "air"),)),
        (((0.0, 0.001), (0.0, 1.5)), ((0.0, "air"),)),
        (((0.0, 0.001), (10.0, np.nan)), ((0.0, "air"),)),
        (((0.0, 0.001), (10.0, 1.5), (20.0, 1.2)), ((0.0, "air"),)),
        (((0.0, 0.9), (10.0, 1.5)), ((0.0, "air"),)),
        (((0.0, 0.001), (10.0, 1.5)), ((0.0, "butter"),)),
        (((0.0, 0.001), (10.0, 1.5)), ()),
    ],
)
def test_calibrations_without_meaning_are_refused(curve, media_):
    with pytest.raises(CalibrationError) as e:
        CtCalibration("CT-1", curve, media_, "test")
    assert e.value.kind == "calibration.ct"
    assert e.value.remedy


def test_a_table_with_words_for_numbers_is_refused():
    with pytest.raises(CalibrationError, match="columns"):
        scanner_calibrations([{"device": "CT-1", "hu": "soft", "density_g_cm3": "1"}])


def test_media_need_hounsfield_units_and_one_grid():
    with pytest.raises(UnitError):
        media(Volume(np.zeros((2, 2, 2)), np.eye(4), "MBq/mL", "A"))
    with pytest.raises(GeometryError):
        media(CT, np.ones((2, 2, 2), bool))
