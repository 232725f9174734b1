"""Widths from a sphere phantom: the law is found again, little says little, and shapes do not depend on where voxels lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdt_core.codec import canonical_json, digest, from_plain, to_plain
from tdt_core.errors import CalibrationError
from tdt_core.imaging.label_shape import shape_fractions
from tdt_core.imaging.partial_volume import compartments, correct, overlap, spread
from tdt_core.imaging.resampling import FractionMask, fractions_on
from tdt_core.imaging.resolution import Resolution
from tdt_core.imaging.sphere_table import (
    RATIO,
    WIDTHS_MM,
    WidthLaw,
    fit_widths,
    mean_extent_mm,
    ratios,
    recoveries,
    sphere_mask,
    widths,
)
from tdt_core.imaging.volume import LabelVolume, Volume
from tdt_core.twin import CalibrationRecord, Region, SphereRecovery, SphereTable

VOXEL = 5.0
TRUE = WidthLaw(float(np.log(9.0)), -0.25, -0.004, 1.2, 0.0, (5.0, 100.0))


def table(law: WidthLaw = TRUE, bodies: tuple[float, ...] = (130.0, 165.0), noise: float = 0.0) -> SphereTable:
    rng = np.random.default_rng(3)
    rows = []
    for body in bodies:
        for radius in (0.0, 60.0, 100.0):
            for volume in (8.0, 20.0, 60.0):
                for ratio in (5.0, 20.0, 100.0):
                    width = law.fwhm_mm(ratio, radius, body)
                    log = float(np.interp(np.log(width), np.log(WIDTHS_MM), recoveries(volume, VOXEL)))
                    rows.append(SphereRecovery(body, radius, volume, ratio, float(np.exp(log + noise * rng.standard_normal()))))
    return SphereTable(VOXEL, 0.02, tuple(rows))


@settings(max_examples=8, deadline=None)
@given(width=st.floats(6.0, 14.0), power=st.floats(-0.3, 0.0), slope=st.floats(-0.005, 0.0), body=st.floats(0.7, 1.4))
def test_the_law_behind_a_table_is_found_again(width: float, power: float, slope: float, body: float) -> None:
    law = WidthLaw(float(np.log(width)), power, slope, body, 0.0, (5.0, 100.0))
    got = fit_widths(table(law))
    for ratio, radius, extent in ((5, 0, 130), (100, 100, 165), (20, 60, 150)):
        assert got.fwhm_mm(ratio, radius, extent) == pytest.approx(law.fwhm_mm(ratio, radius, extent), rel=0.05)
    assert got.rel_sd < 0.05


def test_scatter_of_the_spheres_becomes_the_spread_of_the_law() -> None:
    exact, noisy = fit_widths(table()), fit_widths(table(noise=0.05))
    assert noisy.rel_sd > exact.rel_sd + 0.05
    assert noisy.fwhm_mm(RATIO, 60, 150) == pytest.approx(exact.fwhm_mm(RATIO, 60, 150), rel=0.15)


def test_one_body_says_nothing_of_other_bodies_and_the_collimator_widens_linearly() -> None:
    law = fit_widths(table(bodies=(130.0,)))
    assert law.body_power == pytest.approx(1.0, abs=1e-3)
    assert law.fwhm_mm(RATIO, 60, 130) == pytest.approx(TRUE.fwhm_mm(RATIO, 60, 130), rel=0.03)


def test_beyond_twice_its_ratios_the_law_stays() -> None:
    assert TRUE.fwhm_mm(200, 0, 150) == TRUE.fwhm_mm(1e6, 0, 150) < TRUE.fwhm_mm(100, 0, 150)
    assert TRUE.fwhm_mm(2.5, 0, 150) == TRUE.fwhm_mm(1, 0, 150) > TRUE.fwhm_mm(5, 0, 150)


def test_a_table_of_tiny_spheres_alone_is_refused() -> None:
    with pytest.raises(CalibrationError) as told:
        fit_widths(SphereTable(VOXEL, 0.02, (SphereRecovery(130.0, 0.0, 0.5, 10.0, 0.1),)))
    assert told.value.kind == "calibration.spheres"


@pytest.mark.parametrize("fwhm", [1.0, 2.5, 5.0, 15.0])
def test_the_narrow_gaussian_keeps_sum_and_variance_at_any_width(fwhm: float) -> None:
    point = FractionMask((slice(20, 21),) * 3, np.ones((1, 1, 1), np.float32))
    wide = spread(point, (41, 41, 41), (VOXEL,) * 3, fwhm, narrow=True).full((41, 41, 41)).astype(float)
    at = (np.arange(41) - 20) * VOXEL
    assert wide.sum() == pytest.approx(1.0, rel=1e-5)
    assert (wide.sum(axis=(1, 2)) * at**2).sum() == pytest.approx((fwhm / 2.3548200450309493) ** 2, rel=2e-3)


def test_recovery_rises_with_volume_and_falls_with_width() -> None:
    small, large = recoveries(8.0, VOXEL), recoveries(60.0, VOXEL)
    assert (large > small).all()
    assert (np.diff(small) < 0).all()


def labelled_sphere(radius: float, center: np.ndarray) -> tuple[LabelVolume, Volume]:
    """A sphere labelled on one grid, and an empty image of the same voxels."""
    at = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"), -1) - center
    labels = (np.linalg.norm(at, axis=-1) * VOXEL < radius).astype(np.int16)
    affine = np.diag([VOXEL, VOXEL, VOXEL, 1.0])
    region = Region("lesion/L1", "lesions", "")
    return LabelVolume(labels, affine, "A", (region,)), Volume(np.zeros((24, 24, 24), np.float32), affine, "MBq/mL", "A")


def own(mask: FractionMask) -> float:
    """Share of a region that a narrow response leaves in it."""
    return overlap(mask, spread(mask, (24, 24, 24), (VOXEL,) * 3, 4.0, narrow=True)) / mask.voxels


def test_shapes_recover_alike_wherever_the_voxels_lie_and_labels_do_not() -> None:
    labels, grid = labelled_sphere(14.0, np.array([11.6, 11.4, 11.2]))
    shape, label = [], []
    for part in (0.02, 0.1, 0.3, 0.5):
        moved = grid.affine.copy()
        moved[:3, 3] = part * VOXEL
        onto = replace(grid, affine=moved)
        shape.append(own(shape_fractions(labels, onto)["lesion/L1"]))
        label.append(own(fractions_on(labels, onto)["lesion/L1"]))
    assert np.ptp(shape) < 0.07 * np.mean(shape)
    assert np.ptp(shape) < 0.7 * np.ptp(label)
    true = own(sphere_mask(4 / 3 * np.pi * 1.4**3, VOXEL, 0.3)[0])
    assert np.mean(shape) == pytest.approx(true, rel=0.05)


@pytest.mark.parametrize("radius", [6.0, 14.0, 30.0])
def test_a_shape_keeps_the_volume_of_its_label(radius: float) -> None:
    labels, grid = labelled_sphere(radius, np.array([11.2, 12.0, 11.7]))
    mask = shape_fractions(labels, grid)["lesion/L1"]
    assert mask.voxels == pytest.approx(labels.labels.sum(), rel=0.01)
    assert mask.values.max() <= 1.0


def test_touching_shapes_share_their_voxels() -> None:
    labels, grid = labelled_sphere(30.0, np.array([11.5, 11.5, 11.5]))
    array = labels.labels.copy()
    array[:12] *= 2
    two = LabelVolume(array, labels.affine, "A", (labels.regions[0], Region("lesion/L2", "lesions", "")))
    masks = shape_fractions(two, grid)
    total = sum(m.full((24, 24, 24)) for m in masks.values())
    assert total.max() <= 1 + 1e-6
    assert len(masks) == 2


def test_a_regions_ratio_and_width_are_those_of_its_surroundings() -> None:
    mask, shape = sphere_mask(30.0, VOXEL, 0.0)
    parts = compartments({"lesion/L1": mask}, np.ones(shape, np.float32), (VOXEL,) * 3, 10.0)
    truth = np.where([n.endswith("L1") and not n.startswith("around/") for n in parts.names], 12.0, 0.5)
    assert ratios(parts, truth)[0] == pytest.approx(24.0, rel=0.02)
    got = dict(zip(parts.names, widths(parts, truth, TRUE, Resolution(11.0), 150.0), strict=True))
    assert got["around/lesion/L1"] == got["lesion/L1"] == pytest.approx(TRUE.fwhm_mm(24.0, 9.0, 150.0), rel=0.05)
    assert got["remote"] == 11.0
    image = sum((c * m.full(shape) for c, m in zip(truth, parts.masks, strict=True)), np.zeros(shape))
    back = correct(parts, image.astype(np.float32), Resolution(11.0), 0.05, np.full(len(parts.names), 0.3))
    assert back.concentration == pytest.approx(truth, rel=0.1)


def test_the_extent_of_a_cylinder_is_its_radius() -> None:
    r = (np.arange(60) - 29.5) * VOXEL
    body = np.broadcast_to(np.hypot(r[:, None], r[None, :]) < 120, (3, 60, 60))
    assert mean_extent_mm(body, (VOXEL,) * 3) == pytest.approx(120, abs=VOXEL / 2)


def test_a_record_without_spheres_keeps_its_name_and_one_with_them_comes_back() -> None:
    plain = CalibrationRecord("d", "w", "c", "r", "Lu-177", 9.0, 0.03, 11.0, 0.07, "2026-01-15", "s")
    assert "spheres" not in canonical_json(plain)
    assert digest(plain) == "7fb4e12f7764cae88f636d3a453287826169f0636e64b7ecf5d338db8f35c2ad"
    full = replace(plain, spheres=table())
    assert from_plain(CalibrationRecord, to_plain(full)) == full
    assert digest(full) != digest(plain)
