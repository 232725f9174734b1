"""Laws of the reference patient's anatomy on voxels and of its images."""

import numpy as np
import pytest

from tdt_core.errors import ModelError, UsageError
from tdt_core.phantom.activity import texture, texture_field
from tdt_core.phantom.anatomy import CODE, FIRST_LESION, STRUCTURES
from tdt_core.phantom.drawn import draw_anatomy
from tdt_core.phantom.imaging import add_noise, bin_to_scan, blur, motion, noise_field, scanner
from tdt_core.phantom.physiology import draw_body
from tdt_core.phantom.shapes import lowest
from tdt_core.phantom.truth import to_scan
from tdt_core.phantom.types import PhantomSettings


@pytest.fixture(scope="module")
def drawn():
    body = draw_body(12)
    anatomy = draw_anatomy(12, 64, body)
    return body, anatomy, anatomy.with_lesions(body.volumes_ml)


def test_every_region_has_its_drawn_volume_to_a_half_voxel(drawn):
    body, anatomy, labels = drawn
    count = np.bincount(labels.ravel(), minlength=FIRST_LESION + 6)
    hosted = np.bincount(anatomy.host.ravel(), minlength=FIRST_LESION + 6)
    for name, volume in body.volumes_ml.items():
        if name.startswith("lesion/"):
            codes, n = [FIRST_LESION + [x.name for x in anatomy.lesions].index(name)], count
        else:  # organs on the host, before a lesion may take bowel
            codes, n = [s.code for s in STRUCTURES if name in (s.region, s.name)], hosted
        assert abs(n[codes].sum() * anatomy.grid.voxel_ml - volume) <= anatomy.grid.voxel_ml, name


def test_lesions_leave_segmented_organs_whole(drawn):
    _, anatomy, labels = drawn
    for s in STRUCTURES:
        if s.region:
            assert (labels == s.code).sum() == (anatomy.host == s.code).sum()


def test_the_medulla_lies_inside_the_cortex(drawn):
    _, _, labels = drawn
    medulla = labels == CODE["kidney_left_medulla"]
    kidney = medulla | (labels == CODE["kidney_left_cortex"])
    outside = ~kidney
    for axis in range(3):
        for step in (-1, 1):
            assert not (medulla & np.roll(outside, step, axis)).any()


def test_a_lesion_of_smaller_volume_lies_inside_the_larger_one(drawn):
    body, anatomy, labels = drawn
    half = {n: v / 2 for n, v in body.volumes_ml.items()}
    smaller = anatomy.with_lesions(half)
    for i, _ in enumerate(anatomy.lesions):
        assert not ((smaller == FIRST_LESION + i) & (labels != FIRST_LESION + i)).any()


def test_organs_lie_on_their_side(drawn):
    _, anatomy, labels = drawn
    x = anatomy.grid.axes()[2]
    for organ in ("kidney_left_cortex", "parotid_left", "spleen"):
        assert x[np.nonzero(labels == CODE[organ])[2]].mean() > 20
    for organ in ("kidney_right_cortex", "parotid_right", "liver"):
        assert x[np.nonzero(labels == CODE[organ])[2]].mean() < -20


@pytest.mark.parametrize(("variant", "gone"), [("one_kidney", "kidney_"), ("no_spleen", "spleen")])
def test_a_variant_lacks_its_organ_everywhere(variant, gone):
    body = draw_body(3, variant=variant)
    anatomy = draw_anatomy(3, 32, body)
    left = [r for r in anatomy.regions() if r.startswith(gone)]
    assert len(left) == (1 if variant == "one_kidney" else 0)


def test_texture_is_uneven_and_keeps_the_mean_of_every_structure(drawn):
    _, anatomy, labels = drawn
    t = texture(anatomy, labels, texture_field(12, anatomy))
    for code in (CODE["liver"], CODE["parotid_left"], FIRST_LESION):
        part = t[labels == code]
        assert part.mean() == pytest.approx(1.0, abs=1e-4)
        assert part.std() > 0.04


@pytest.mark.parametrize("moved", [False, True])
def test_binning_keeps_the_activity_of_a_moved_patient(drawn, moved):
    _, anatomy, labels = drawn
    t = np.ones(labels.shape, np.float32)
    activity = np.zeros(FIRST_LESION + 6)
    activity[[CODE["liver"], CODE["lacrimal_left"], CODE["kidney_left_cortex"]]] = (400.0, 2.0, 60.0)
    shift, turn = (np.array([4.0, -3.0, 5.0]), np.array([2.0, 1.0, -2.0])) if moved else (np.zeros(3), np.zeros(3))
    binned, hu = bin_to_scan(anatomy.grid, labels, t, anatomy.hu(labels), activity, motion(anatomy.grid, shift, turn))
    assert binned.sum() == pytest.approx(462.0, rel=1e-5)
    if not moved:
        share = np.where(np.bincount(labels.ravel(), minlength=activity.size) > 0, activity, 0)
        per_voxel = share / np.maximum(np.bincount(labels.ravel(), minlength=activity.size), 1)
        assert np.allclose(binned, to_scan(per_voxel.astype(np.float32)[labels], anatomy.grid), atol=1e-5)
        assert hu[0, 0, 0] == -1000
    assert -1000 <= hu.min() < hu.max() < 1000


def test_motion_moves_the_centre_of_mass_by_the_stated_shift(drawn):
    _, anatomy, labels = drawn
    t, hu = np.ones(labels.shape, np.float32), anatomy.hu(labels)
    activity = np.zeros(FIRST_LESION + 6)
    activity[CODE["liver"]] = 1.0
    centers = []
    for shift in (np.zeros(3), np.array([6.0, -4.0, 3.0])):
        image, _ = bin_to_scan(anatomy.grid, labels, t, hu, activity, motion(anatomy.grid, shift, np.zeros(3)))
        grid = np.indices(image.shape)
        centers.append([(g * image).sum() / image.sum() for g in grid])
    moved = (np.array(centers[1]) - np.array(centers[0])) * 2 * anatomy.grid.spacing_mm
    assert np.allclose(moved, [6.0, -4.0, 3.0], atol=0.02)


def test_blur_keeps_counts_and_is_wider_on_the_axis_than_near_the_detector():
    image = np.zeros((31, 96, 96), np.float32)
    widths = []
    for x in (48, 82):
        image[:] = 0
        image[15, 48, x] = 1000.0
        out = blur(image, 11.0, 4.8, -0.2, 0.0, 45.0)
        assert out.sum() == pytest.approx(1000.0, rel=1e-3)
        z = np.arange(31) - 15
        widths.append(np.sqrt((out.sum(axis=(1, 2)) * z**2).sum() / out.sum()) * 4.8 * 2.3548)
    assert widths[0] == pytest.approx(11.0 * 1.1, rel=0.04)
    assert widths[1] < 0.92 * widths[0]


def test_noise_is_correlated_from_voxel_to_voxel():
    z = noise_field(np.random.default_rng(1), (40, 40, 40), 9.0, 4.8)
    assert z.std() == pytest.approx(1.0, abs=1e-3)
    assert np.corrcoef(z[:, :, 1:].ravel(), z[:, :, :-1].ravel())[0, 1] > 0.2


def test_noise_grows_with_the_signal_keeps_the_mean_and_is_never_negative():
    rng = np.random.default_rng(2)
    low, high = np.full((60, 60, 60), 20.0, np.float32), np.full((60, 60, 60), 2000.0, np.float32)
    noisy = [add_noise(x, x / 0.11, 45.0, 1.2, noise_field(rng, x.shape, 5.0, 4.8)) for x in (low, high)]
    sd = [n.std() for n in noisy]
    assert sd[1] > 3 * sd[0]
    assert sd[0] / 20 > 3 * sd[1] / 2000
    assert noisy[0].min() >= 0
    assert noisy[0].mean() == pytest.approx(20.0, rel=0.02)
    assert noisy[1].mean() == pytest.approx(2000.0, rel=0.01)


def test_a_shape_takes_exactly_the_voxels_asked_for_even_with_ties():
    values = np.zeros((4, 4, 4), np.float32)
    assert lowest(values, np.ones(values.shape, bool), 7, "test").sum() == 7
    with pytest.raises(ModelError, match="free"):
        lowest(values, np.zeros(values.shape, bool), 1, "test")


@pytest.mark.parametrize(
    "wrong",
    [
        *({"cycles": 7}, {"matrix": 65}, {"time_points": 2}, {"seed": -1}, {"product": "X"}),
        *({"images": "true"}, {"noise": "none"}, {"variant": "x"}),
    ],
)
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(UsageError):
        PhantomSettings(**wrong)


@pytest.mark.parametrize(
    ("kind", "nuclide", "seen"),
    [
        ("spect", "Lu-177", (9.46, 10.34, 9.995298536, 9.734003011)),
        ("pet", "Ga-68", (8368.966, 6.43, 8496.251236771, 6.307156633)),
    ],
)
def test_a_seed_keeps_its_scanner(kind, nuclide, seen):
    """Every row of the table draws one number: a new one would give all patients of published seeds other images."""
    s = scanner(1, kind, nuclide)
    found = (s.record.sensitivity_cps_per_mbq, s.record.resolution_fwhm_mm, s.true_sensitivity, s.true_fwhm_mm)
    assert found == pytest.approx(seen, rel=1e-8)
