"""Body outline, density and the checks of a segmentation."""

from dataclasses import replace

import numpy as np
import pytest
from imaging_bodies import affine_of, labels_of, make_scan

from tdt_core.errors import GeometryError, InputError, UnitError
from tdt_core.imaging.density import density
from tdt_core.imaging.masks import axial_axis, body_outline, check_labels, label_volume, region_sizes, surface_cm2
from tdt_core.imaging.resampling import FractionMask
from tdt_core.imaging.volume import LabelVolume, Volume

SHAPE, SPACING = (64, 46, 56), 6.0
CT = make_scan("A", 0.0)[1].volume
LABELS = labels_of(SHAPE, affine_of(SHAPE, SPACING), "A")


def test_the_outline_holds_the_lungs_but_not_the_couch() -> None:
    body = body_outline(CT)
    bare = body_outline(make_scan("A", 0.0, couch=False)[1].volume)
    assert body[CT.array < -600].any()
    both = (body & bare).sum() * 2 / (body.sum() + bare.sum())
    assert both > 0.995
    assert body.sum() * CT.voxel_ml == pytest.approx(np.pi * 13.0 * 9.0 * 34.0, rel=0.04)


def test_an_empty_field_has_no_body() -> None:
    with pytest.raises(GeometryError) as e:
        body_outline(CT.replace(np.full(SHAPE, -1000.0, np.float32)))
    assert e.value.kind == "geometry.body"


def test_the_outline_does_not_depend_on_the_order_of_axes() -> None:
    turned = Volume(np.ascontiguousarray(CT.array.transpose(1, 0, 2)), CT.affine[:, [1, 0, 2, 3]], "HU", "A")
    assert axial_axis(CT.affine) == 0
    assert axial_axis(turned.affine) == 1
    assert np.array_equal(body_outline(turned).transpose(1, 0, 2), body_outline(CT))


def test_a_sphere_has_the_surface_of_a_sphere() -> None:
    for radius in (10.0, 25.0):
        grid = np.indices((30, 30, 30)) * 3.0 - 44.0
        mask = FractionMask((slice(0, 30),) * 3, ((grid**2).sum(axis=0) < radius**2).astype(np.float32))
        assert surface_cm2(mask, (3.0, 3.0, 3.0)) == pytest.approx(4 * np.pi * radius**2 / 100, rel=0.08)


def test_sizes_are_in_millilitres_and_world_space() -> None:
    sizes = region_sizes(LABELS)
    assert sizes["kidney_left"].volume_ml == pytest.approx(4 / 3 * np.pi * 2.8 * 2.6 * 5.0, rel=0.03)
    assert np.allclose(sizes["kidney_left"].centroid_mm, (62, 40, -30), atol=3.5)


def test_a_good_segmentation_is_quiet() -> None:
    assert check_labels(LABELS, body_outline(CT)) == ()


def test_exchanged_sides_are_refused() -> None:
    names = {"kidney_left": "kidney_right", "kidney_right": "kidney_left"}
    regions = tuple(replace(r, name=names.get(r.name, r.name)) for r in LABELS.regions)
    with pytest.raises(InputError) as e:
        check_labels(LabelVolume(LABELS.labels, LABELS.affine, "A", regions))
    assert e.value.kind == "input.laterality"


def test_one_kidney_declared_as_two_is_refused_and_one_kidney_is_remarked() -> None:
    body = body_outline(CT)
    array = LABELS.labels.copy()
    array[array == 3] = 0
    upper = np.argwhere(array == 2)
    half = upper[upper[:, 2] <= np.median(upper[:, 2])]
    array[tuple(half.T)] = 3
    with pytest.raises(InputError) as e:
        check_labels(LabelVolume(array, LABELS.affine, "A", LABELS.regions), body)
    assert e.value.kind == "input.laterality"
    alone = LabelVolume(np.where(LABELS.labels == 2, 1, 0).astype(np.int16), LABELS.affine, "A", LABELS.regions[1:2])
    assert any("one kidney" in f for f in check_labels(alone, body))


def test_an_empty_mask_is_refused() -> None:
    array = np.where(LABELS.labels == 4, 0, LABELS.labels).astype(np.int16)
    with pytest.raises(InputError) as e:
        check_labels(LabelVolume(array, LABELS.affine, "A", LABELS.regions))
    assert e.value.kind == "input.mask"


def test_overlapping_masks_are_refused_with_their_overlap() -> None:
    masks = {r.name: LABELS.mask(r.name) for r in LABELS.regions}
    assert np.array_equal(label_volume(masks, LABELS).labels, LABELS.labels)
    masks["liver"] = masks["liver"] | masks["kidney_right"]
    with pytest.raises(InputError) as e:
        label_volume(masks, LABELS)
    assert e.value.kind == "input.overlap"
    assert "mL" in e.value.found


def test_a_region_outside_the_body_is_remarked() -> None:
    assert any("outside the body" in f for f in check_labels(LABELS, np.zeros(SHAPE, bool)))


def test_density_follows_the_curve_and_stays_within_its_ends() -> None:
    hu = np.array([-3000.0, -1000.0, -98.0, 0.0, 14.0, 1600.0, 30000.0]).reshape(1, 1, 7)
    rho = density(Volume(hu, np.eye(4), "HU", "A")).array.ravel()
    assert rho[0] == rho[1] == pytest.approx(0.00121)
    assert rho[2] == pytest.approx(0.93)
    assert rho[3] == pytest.approx(1.018, abs=0.002)
    assert rho[5] == rho[6] == pytest.approx(1.9642)


def test_the_couch_has_no_mass_outside_the_body() -> None:
    body = body_outline(CT)
    rho = density(CT, body).array
    assert rho[~body].max() < 0.002
    assert rho[LABELS.mask("liver")].mean() == pytest.approx(1.07, abs=0.02)


def test_density_needs_hounsfield_units() -> None:
    with pytest.raises(UnitError):
        density(Volume(np.zeros((2, 2, 2)), np.eye(4), "MBq/mL", "A"))
