"""Laws of the organ level: MIRD sums, ellipsoids, remainder of the body, kidney parts, marrow, comparison with voxels."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdt_core.dosimetry import credible_dose, sphere_s_value
from tdt_core.dosimetry.organ import (
    OrganSValues,
    activity_shares,
    blood_draws,
    blood_time_integral,
    ellipsoid,
    ellipsoids_of_labels,
    kidney_s_values,
    marrow_dose,
    marrow_to_blood_ratio,
    organ_level,
    organ_s_values,
    remainder_s_value,
    scaled_s_value,
    self_s_value,
)
from tdt_core.dosimetry.organ.compare import compared, reason
from tdt_core.dosimetry.organ.geometry import exchange_kev, self_kev
from tdt_core.dosimetry.organ.s_values import GY_PER_MBQ_H, MGY_G_PER_KEV
from tdt_core.dosimetry.s_values import point_kernels
from tdt_core.errors import GeometryError, InputError, ModelError, TimeError
from tdt_core.nuclides import nuclide
from tdt_core.twin import Region, Sample

NUCLIDES = st.sampled_from(["Lu-177", "I-131", "Y-90", "Tb-161", "Ac-225"])
RATIOS = st.tuples(*[st.floats(0.4, 2.5)] * 3)
MASSES = st.floats(0.5, 2000.0)
FIVE = st.lists(st.floats(0, 1e6), min_size=5, max_size=5)


def people():
    """A body with two kidneys, a liver, marrow and the rest, in cm; masses in g."""
    liver = ellipsoid("liver", 1700.0, (1, 1.2, 1.6), 1.05, (20.0, 2.0, -7.0))
    left = ellipsoid("kidney_left", 150.0, (2, 1, 1.1), 1.05, (12.0, 6.0, 7.0))
    right = ellipsoid("kidney_right", 160.0, (2, 1, 1.1), 1.05, (11.0, 6.0, -7.0))
    marrow = ellipsoid("red_marrow", 120.0, (4, 1, 1), 1.05, (10.0, 8.0, 0.0))
    whole = ellipsoid("body", 60_000.0, (4, 1, 1.5), 1.0)
    rest = ellipsoid("rest", 60_000.0 - 2130.0, (4, 1, 1.5), 1.0)
    return [liver, left, right, marrow, rest], whole


@pytest.fixture(scope="module")
def lutetium():
    bodies, whole = people()
    return organ_s_values("Lu-177", bodies, whole)


@settings(max_examples=12, deadline=None)
@given(NUCLIDES, MASSES, st.floats(0.3, 1.9))
def test_an_ellipsoid_of_equal_axes_is_the_sphere(name, mass_g, density):
    charged, photons = self_s_value(name, ellipsoid("x", mass_g, density_g_cm3=density))
    assert charged + photons == pytest.approx(sphere_s_value(name, mass_g, density_g_cm3=density), rel=1e-9)


@settings(max_examples=12, deadline=None)
@given(NUCLIDES, MASSES, RATIOS)
def test_a_sphere_keeps_most_and_no_body_keeps_more_than_is_emitted(name, mass_g, ratio):
    kernels = point_kernels(name)
    sphere, long = ellipsoid("x", mass_g), ellipsoid("x", mass_g, ratio)
    kept = [sum(self_kev(k, b) for k in (kernels.electrons, kernels.photons)) for b in (sphere, long)]
    assert kept[1] <= kept[0] * (1 + 1e-9)
    assert kept[0] <= kernels.emitted_kev * (1 + 1e-3)


def test_turning_an_ellipsoid_does_not_change_what_it_keeps():
    kernel = point_kernels("Lu-177").photons
    values = [self_kev(kernel, ellipsoid("x", 200.0, r)) for r in ((3, 1, 2), (1, 2, 3), (2, 3, 1))]
    assert values == pytest.approx([values[0]] * 3, rel=1e-9)


@pytest.mark.parametrize("ratio", [(1, 1, 1), (3, 1, 1), (1, 2, 2)])
def test_rays_and_the_pair_law_agree_on_what_a_body_keeps_of_its_photons(ratio):
    """Two derivations of one number: the mean over directions of the pair law, and rays from points of the body."""
    kernel, body = point_kernels("Lu-177").photons, ellipsoid("x", 300.0, ratio)
    assert exchange_kev(kernel, body, body) == pytest.approx(self_kev(kernel, body), rel=3e-3)


@settings(max_examples=12, deadline=None)
@given(MASSES, MASSES, RATIOS, st.tuples(*[st.floats(-1, 1)] * 3), st.floats(1.05, 4.0))
def test_photons_between_two_bodies_are_the_same_both_ways(first_g, second_g, ratio, way, gap):
    """Reciprocity, each way from its own source points: energy over the target's mass, bodies that do not overlap."""
    kernel = point_kernels("Lu-177").photons
    direction = np.array(way) / max(np.linalg.norm(way), 1e-3)
    reach = [np.linalg.svd(ellipsoid("x", m, ratio).half_axes_cm, compute_uv=False)[0] for m in (first_g, second_g)]
    a, b = ellipsoid("a", first_g, ratio), ellipsoid("b", second_g, ratio, 1.0, tuple(direction * sum(reach) * gap))
    if not np.linalg.norm(b.centre_cm) > sum(reach):
        return
    there, back = exchange_kev(kernel, a, b) / b.mass_g, exchange_kev(kernel, b, a) / a.mass_g
    assert there == pytest.approx(back, rel=0.02)


def test_far_apart_only_the_distance_counts():
    """Small bodies far apart: energy absorbed is the kernel's density at that distance times the target's volume."""
    kernel = point_kernels("I-131").photons
    small, other = ellipsoid("a", 0.5), ellipsoid("b", 2.0, (2, 1, 1), 1.0, (0.0, 25.0, 0.0))
    shell = np.diff(kernel.within(np.array([24.5, 25.5])))[0] / (4 * np.pi * 25.0**2)
    assert exchange_kev(kernel, small, other) == pytest.approx(shell * 2.0, rel=0.01)


def test_a_large_body_around_the_source_takes_all_but_what_the_kernel_carries_past_it():
    kernel = point_kernels("Lu-177").photons
    organ, around = ellipsoid("o", 1.0), ellipsoid("b", 4.0e6)
    assert exchange_kev(kernel, organ, around) == pytest.approx(kernel.within(np.array([98.47]))[0], rel=2e-3)


@settings(max_examples=20, deadline=None)
@given(FIVE, FIVE, st.floats(0, 9))
def test_dose_is_linear_in_activity(lutetium, one, other, factor):
    a, b = np.array(one), np.array(other)
    expected = lutetium.dose_gy(a) + factor * lutetium.dose_gy(b)
    np.testing.assert_allclose(lutetium.dose_gy(a + factor * b), expected, rtol=1e-9, atol=1e-12)


def test_all_energy_absorbed_is_at_most_what_is_emitted_and_near_it_for_a_large_body(lutetium):
    """Sum over targets of S times mass, per source: energy per decay."""
    absorbed = lutetium.total.T @ lutetium.masses_g / MGY_G_PER_KEV
    emitted = point_kernels("Lu-177").emitted_kev
    assert (absorbed <= emitted * 1.001).all()
    assert (absorbed > 0.85 * emitted).all()


def test_cross_s_values_are_photons_alone_and_symmetric(lutetium):
    away = ~np.eye(5, dtype=bool)
    assert (lutetium.electrons[away] == 0).all()
    np.testing.assert_allclose(lutetium.photons, lutetium.photons.T, rtol=1e-12)
    assert (lutetium.photons > 0).all()


def test_the_remainder_and_the_organs_together_are_the_whole_body(lutetium):
    """Activity even over the body gives an organ the photon dose of an even body: parts add up to the whole."""
    bodies, whole = people()
    volumes = np.array([b.volume_ml for b in bodies])
    volumes[-1] = whole.volume_ml - volumes[:-1].sum()
    kernel = point_kernels("Lu-177").photons
    for i, organ in enumerate(bodies[:-1]):
        even = lutetium.photons[i] @ volumes / whole.volume_ml
        expected = exchange_kev(kernel, organ, whole) / whole.mass_g * MGY_G_PER_KEV
        assert even == pytest.approx(expected, rel=1e-6)


def test_the_printed_form_of_the_remainder_is_the_same_correction(lutetium):
    bodies, whole = people()
    marrow = bodies[3]
    kernel = point_kernels("Lu-177").photons
    total = exchange_kev(kernel, marrow, whole) / whole.mass_g * MGY_G_PER_KEV
    organs = [(lutetium.electrons[3, j], lutetium.photons[3, j]) for j in range(4)]
    masses = [b.volume_ml for b in bodies[:4]]  # medium of 1 g/cm3: source shares by volume
    found = remainder_s_value((whole.mass_g, total), whole.mass_g, organs, masses)
    assert found == pytest.approx(lutetium.photons[3, 4], rel=1e-6)


def test_without_the_correction_the_remainder_gives_marrow_electrons_that_never_reach_it(lutetium):
    """The naive S of the remainder, electrons over the body's mass, is several times the photon part alone (Stabin 2001)."""
    _, whole = people()
    naive = lutetium.photons[3, 4] + point_kernels("Lu-177").electrons.total_kev / whole.mass_g * MGY_G_PER_KEV
    assert naive > 3 * lutetium.photons[3, 4]


@pytest.mark.parametrize("name", ["Lu-177", "I-131", "F-18"])
@pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 2.0])
def test_self_s_scales_with_mass_as_the_sphere_does(name, factor):
    """1/m for electrons and m^(-2/3) for photons against the exact sphere, 150 g halved to doubled."""
    reference = self_s_value(name, ellipsoid("x", 150.0))
    exact = sum(self_s_value(name, ellipsoid("x", 150.0 * factor)))
    assert scaled_s_value(*reference, 150.0, 150.0 * factor) == pytest.approx(exact, rel=0.02)


@settings(max_examples=20, deadline=None)
@given(st.floats(1, 3000), st.floats(1, 3000), st.floats(1, 3000))
def test_scaling_twice_is_scaling_once_for_each_part(a, b, c):
    for parts in ((1.0, 0.0), (0.0, 1.0)):
        once = scaled_s_value(*parts, a, c)
        twice = scaled_s_value(*parts, a, b) * scaled_s_value(*parts, b, c)
        assert once == pytest.approx(twice, rel=1e-9)


@pytest.mark.parametrize("share", [0.1, 0.263, 0.5])
@pytest.mark.parametrize("name", ["Lu-177", "Y-90"])
def test_even_activity_gives_cortex_and_medulla_the_mean_of_the_kidney(name, share):
    """The mass-weighted mean of both is the kidney's self-dose; to rounding, whatever the split."""
    kidney = ellipsoid("kidney", 150.0, (2, 1, 1.1), 1.05)
    s = kidney_s_values(name, kidney, share)
    weights = s.masses_g / kidney.mass_g
    assert weights.sum() == pytest.approx(1.0)
    assert weights @ s.total @ activity_shares(share, 1.0) == pytest.approx(sum(self_s_value(name, kidney)), rel=1e-9)


def test_uneven_activity_keeps_the_mean_of_the_kidney_within_one_percent_and_loads_the_cortex():
    kidney = ellipsoid("kidney", 150.0, (2, 1, 1.1), 1.05)
    s = kidney_s_values("Lu-177", kidney)
    dose = s.dose_gy(100.0 * activity_shares())
    mean = dose @ s.masses_g / kidney.mass_g
    assert mean == pytest.approx(100.0 * sum(self_s_value("Lu-177", kidney)) * GY_PER_MBQ_H, rel=0.01)
    assert dose[0] > mean > dose[1]


def test_electrons_cross_between_cortex_and_medulla_the_more_the_longer_their_range():
    kidney = ellipsoid("kidney", 150.0, (2, 1, 1.1), 1.05)
    shares = [kidney_s_values(n, kidney).electrons for n in ("Lu-177", "Y-90")]
    crossing = [e[0, 1] / e[1, 1] for e in shares]
    assert 0 < crossing[0] < crossing[1] < 0.2


@pytest.mark.parametrize(("haematocrit", "ratio"), [(0.40, 0.19 / 0.60), (0.25, 0.19 / 0.75), (None, 1.0)])
def test_marrow_to_blood_ratio(haematocrit, ratio):
    assert marrow_to_blood_ratio(haematocrit) == pytest.approx(ratio, rel=1e-12)
    assert marrow_to_blood_ratio(haematocrit, peptide=True) == 1.0


@settings(max_examples=20, deadline=None)
@given(st.floats(1.0, 100.0), st.floats(0.01, 50.0))
def test_blood_that_falls_as_one_exponential_is_integrated_exactly(half_life_h, height):
    effective = min(half_life_h, nuclide("Lu-177").half_life_h)
    times = [0.5, 2.0, 7.0, 30.0]
    samples = [height * 0.5 ** (t / effective) for t in times]
    assert blood_time_integral(times, samples, "Lu-177") == pytest.approx(height * effective / np.log(2), rel=1e-9)


def test_a_tail_of_blood_never_falls_slower_than_decay():
    rising = blood_time_integral([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], "Lu-177")
    assert rising == pytest.approx(3.0 + nuclide("Lu-177").half_life_h / np.log(2), rel=1e-9)


def sample(time_h, value, name="Lu-177", **changes):
    return Sample(**{"kind": "blood", "time_h": time_h, "value": value, "nuclide": name, "relative_sd": 0.0, **changes})


def test_blood_is_integrated_from_the_administration_of_its_own_nuclide():
    """Half-life 12 h from 0.1 MBq/mL, given at hour 1000; another nuclide, excreta, what was before or below does not count."""
    used = [sample(1000.0 + t, 0.1 * 0.5 ** (t / 12.0)) for t in (1.0, 6.0, 30.0)]
    others = [
        sample(999.0, 0.05),
        sample(1002.0, 0.004, "I-131"),
        sample(1050.0, 0.001, below=True),
        sample(1003.0, 50.0, kind="excreta", until_h=1004.0),
    ]
    found = blood_draws([*used, *others], "Lu-177", 1000.0, 3, (1,))
    assert found == pytest.approx([0.1 * 12.0 / np.log(2)] * 3, rel=1e-9)
    assert blood_draws([used[0], *others], "Lu-177", 1000.0, 3, (1,)) is None


def test_blood_counted_by_two_counters_at_one_time_counts_as_its_mean():
    one = [sample(t, 0.1 * 0.5 ** (t / 12.0)) for t in (1.0, 6.0, 30.0)]
    low, high = (sample(6.0, f * one[1].value, calibration_id=f"counter {f}") for f in (0.9, 1.1))
    once, twice = (blood_draws(s, "Lu-177", 0.0, 3, (1,)) for s in (one, [one[0], low, high, one[2]]))
    assert twice == pytest.approx(once, rel=1e-12)
    assert blood_draws([low, high], "Lu-177", 0.0, 3, (1,)) is None


def test_an_error_of_the_counter_is_the_error_of_the_integral_and_errors_of_samples_average():
    times = (1.0, 6.0, 20.0, 40.0)
    shared, own = (
        blood_draws([sample(t, 0.1 * 0.5 ** (t / 12.0), **error) for t in times], "Lu-177", 0.0, 4000, (1,))
        for error in ({"calibration_sd": 0.1}, {"relative_sd": 0.1})
    )
    assert np.log(shared).std() == pytest.approx(0.1, rel=0.05)
    assert 0.03 < np.log(own).std() < 0.1


def test_marrow_dose_by_image_is_the_sum_of_the_schema_and_by_blood_replaces_the_self_part(lutetium):
    tia = np.array([[3000.0, 900.0, 800.0, 30.0, 20_000.0]] * 3) * np.array([[0.9], [1.0], [1.1]])
    image = marrow_dose(lutetium, tia, "Lu-177")
    assert image.method == "image"
    np.testing.assert_allclose(image.total_gy, lutetium.dose_gy(tia)[:, 3], rtol=1e-12)
    blood = marrow_dose(lutetium, tia, "Lu-177", blood_mbq_h_per_ml=0.3, ratio=1.0)
    assert (blood.method, blood.ratio) == ("blood", 1.0)
    for name in ("liver", "kidney_left", "rest"):
        np.testing.assert_allclose(blood.cross_gy[name], image.cross_gy[name], rtol=1e-12)
    spread = marrow_dose(lutetium, tia, "Lu-177", blood_mbq_h_per_ml=np.array([0.2, 0.3, 0.4]), ratio=1.0)
    np.testing.assert_allclose(spread.self_gy, blood.self_gy * np.array([2, 3, 4]) / 3, rtol=1e-12)
    double = marrow_dose(lutetium, tia, "Lu-177", blood_mbq_h_per_ml=0.6, ratio=1.0)
    np.testing.assert_allclose(double.self_gy, 2 * blood.self_gy, rtol=1e-12)


def test_equal_activity_per_gram_gives_the_same_marrow_dose_by_both_methods(lutetium):
    """Where the image's concentration is that of blood times the ratio, the methods differ by electrons that leave alone."""
    concentration = 0.25  # MBq h per g of marrow
    tia = np.array([[3000.0, 900.0, 800.0, concentration * 120.0, 20_000.0]])
    image = marrow_dose(lutetium, tia, "Lu-177").total_gy
    blood = marrow_dose(lutetium, tia, "Lu-177", blood_mbq_h_per_ml=concentration * 1.06 / 0.4, ratio=0.4).total_gy
    assert blood == pytest.approx(image, rel=0.02)


def voxel_ellipsoid(shape, spacing_mm, centre_mm, radii_mm):
    axes = [(np.arange(n) + 0.5) * d for n, d in zip(shape, spacing_mm, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre_mm, radii_mm, strict=True)) < 1


def test_an_ellipsoid_of_voxels_is_found_again_with_its_place_and_axes():
    shape, spacing = (40, 36, 30), (4.0, 5.0, 6.0)
    mask = voxel_ellipsoid(shape, spacing, (80.0, 90.0, 100.0), (60.0, 30.0, 45.0))
    density = np.full(shape, 1.05)
    mass = mask.sum() * 0.12 * 1.05
    (found,), whole = ellipsoids_of_labels(mask.astype(int), ["x"], [mass], density, spacing)
    assert sorted(np.linalg.svd(found.half_axes_cm, compute_uv=False)) == pytest.approx([3.0, 4.5, 6.0], rel=0.01)
    assert found.centre_cm + np.array(spacing) / 20 == pytest.approx([8.0, 9.0, 10.0], abs=0.05)
    assert found.volume_ml * 1.05 == pytest.approx(mass)
    assert found.compactness == pytest.approx(1.0, abs=0.015)
    assert whole.mass_g == pytest.approx(mass)


def test_two_apart_halves_are_not_compact():
    shape, spacing = (40, 20, 20), (5.0, 5.0, 5.0)
    mask = sum(voxel_ellipsoid(shape, spacing, (c, 50.0, 50.0), (20.0,) * 3) for c in (30.0, 170.0)) > 0
    (found,), _ = ellipsoids_of_labels(mask.astype(int), ["x"], [60.0], np.ones(shape), spacing)
    assert found.compactness < 0.4


REGIONS = (
    Region("kidney_left", "kidneys", "64033007", "left", volume_ml=150.0, mass_g=157.0),
    Region("red_marrow", "red_marrow", "14016003", volume_ml=100.0, mass_g=105.0),
    Region("rest", "rest", "", volume_ml=0.0, mass_g=0.0),
)


def test_the_two_levels_agree_for_even_ellipsoids_in_water():
    """A kidney, a marrow and the rest through the voxel engine and through the schema: means within 2 %, and it says so."""
    shape, spacing = (30, 24, 32), (6.0, 6.0, 6.0)
    whole = voxel_ellipsoid(shape, spacing, (90.0, 75.0, 100.0), (88.0, 72.0, 98.0))
    kidney = voxel_ellipsoid(shape, spacing, (90.0, 100.0, 55.0), (40.0, 22.0, 25.0))
    marrow = voxel_ellipsoid(shape, spacing, (90.0, 100.0, 110.0), (60.0, 18.0, 20.0))
    labels = np.where(kidney, 1, np.where(marrow, 2, np.where(whole, 3, 0)))
    masses = [float((labels == n).sum() * 0.216) for n in (1, 2, 3)]
    regions = tuple(Region(r.name, r.organ, r.code, r.laterality, None, m, m) for r, m in zip(REGIONS, masses, strict=True))
    density = np.where(whole, 1.0, 0.001)
    masks = {r.name: labels == n for n, r in enumerate(regions, 1)}
    tia = np.array([[1000.0, 60.0, 2000.0], [1100.0, 50.0, 1800.0]])
    voxel = credible_dose(
        {n: m / m.sum() for n, m in masks.items()}, tia, masks, spacing_mm=spacing, nuclide="Lu-177", density_g_cm3=density
    )
    voxels = (tia, np.ones_like(tia), voxel.region_dose_gy, voxel.dose_matrix_gy_per_mbq_h)
    found = organ_level(labels, regions, density, spacing, "Lu-177", *voxels)
    assert [r["region"] for r in found["rows"]] == ["kidney_left", "red_marrow"]
    for row in found["rows"]:
        assert row["ratio"] == pytest.approx(1.0, abs=0.02)
        assert row["why"] == "agree within 2 %"
    assert found["marrow"]["method"] == "image"
    alone, chain = (
        organ_level(labels, regions, density, spacing, "Ac-225", *voxels, progeny=p)["kidney_parts"][0]["dose_gy"]["mean"]
        for p in ("none", "equilibrium")
    )
    assert alone < 0.3 * chain  # one alpha of four, and no daughter's electrons
    cortex, medulla = found["kidney_parts"]
    mean = (cortex["dose_gy"]["mean"] * cortex["mass_g"] + medulla["dose_gy"]["mean"] * medulla["mass_g"]) / masses[0]
    assert mean == pytest.approx(found["rows"][0]["organ_gy"]["mean"], rel=0.01)


@pytest.mark.parametrize(
    ("changes", "organ", "voxel", "word"),
    [
        ({}, (1.0, 0.1), (1.0, 0.1), "agree"),
        ({}, (1.0, 0.1), (1.0, 0.5), "cross-dose"),
        ({"compactness": 0.4}, (1.2, 0.1), (1.0, 0.1), "40 % of its ellipsoid"),
        ({"density_spread": 0.3}, (0.9, 0.1), (1.0, 0.1), "density varies by 30 %"),
        ({"mass_g": 25.0}, (0.8, 0.1), (1.0, 0.3), "density 0.25"),
        ({}, (1.2, 0.1), (1.0, 0.1), "surface"),
        ({}, (0.9, 0.1), (1.0, 0.1), "uneven"),
    ],
)
def test_the_reason_names_what_is_largest(changes, organ, voxel, word):
    assert word in reason(replace(ellipsoid("x", 100.0), **changes), organ, voxel)


def test_bad_input_is_refused_in_words():
    body = ellipsoid("x", 100.0)
    s = organ_s_values("Lu-177", [body])
    ones = np.ones((4, 1))
    with pytest.raises(ModelError, match="shapes"):
        compared(s, [body], ones, ones, ones, np.ones((2, 2)))
    with pytest.raises(InputError, match="named once"):
        organ_s_values("Lu-177", [body, body])
    with pytest.raises(InputError, match="no region red_marrow"):
        marrow_dose(s, ones, "Lu-177")
    marrow = OrganSValues(("red_marrow",), s.masses_g, s.electrons, s.photons)
    with pytest.raises(InputError, match="without a marrow-to-blood ratio"):
        marrow_dose(marrow, ones, "Lu-177", blood_mbq_h_per_ml=1.0)
    with pytest.raises(InputError, match="haematocrit 40"):
        marrow_to_blood_ratio(40)
    with pytest.raises(TimeError, match="rising hours"):
        blood_time_integral([2.0, 1.0], [1.0, 1.0], "Lu-177")
    with pytest.raises(InputError, match="two at least"):
        blood_time_integral([2.0], [1.0], "Lu-177")
    with pytest.raises(InputError, match="negative"):
        blood_time_integral([1.0, 2.0], [1.0, -1.0], "Lu-177")
    with pytest.raises(InputError, match="a mass > 0"):
        ellipsoid("x", -1.0)
    with pytest.raises(InputError, match=r"medulla is 1\.2"):
        kidney_s_values("Lu-177", body, 1.2)
    with pytest.raises(GeometryError, match="no voxel of b"):
        ellipsoids_of_labels(np.ones((3, 3, 3), int), ["a", "b"], [1.0, 1.0], np.ones((3, 3, 3)), (4.0, 4.0, 4.0))
    with pytest.raises(GeometryError, match="fill the whole body"):
        organ_s_values("Lu-177", [ellipsoid("a", 90.0), ellipsoid("rest", 1.0)], ellipsoid("body", 80.0))
    with pytest.raises(InputError, match="less than the body"):
        remainder_s_value((1.0, 1.0), 100.0, [(1.0, 1.0)], [200.0])
