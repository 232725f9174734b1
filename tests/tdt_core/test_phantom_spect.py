"""Laws of the physical SPECT chain: projector, counting, reconstruction, and what the fast mode takes from it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdt_core.errors import ModelError
from tdt_core.parameters import packaged_table
from tdt_core.phantom import PhantomSettings, reference_patient
from tdt_core.phantom.imaging import gaussian, motion, noise_field, physical_widths, scanner, spect_counts
from tdt_core.phantom.shapes import Grid
from tdt_core.phantom.spect.acquire import Counts, count, noise_free
from tdt_core.phantom.spect.attenuation import mass_attenuation_mm2_g, of_ct
from tdt_core.phantom.spect.camera import camera, contour_orbit
from tdt_core.phantom.spect.characterise import (
    clean_image,
    cylinder_noise,
    gaussian_width_mm,
    recovery,
    water_body,
    width_of_region_mm,
)
from tdt_core.phantom.spect.osem import osem, subsets
from tdt_core.phantom.spect.projector import Projector
from tdt_core.phantom.spect.sampling import halve, place
from tdt_core.phantom.spect.scan import acquire, reconstruct
from tdt_core.phantom.spect.spheres import SPHERES, measure
from tdt_core.phantom.spect.spheres import table as sphere_table

N, Z, STEP = 24, 10, 9.6
DEVICE = replace(camera(), angles=12, subsets=3, iterations=8)
RADII = np.linspace(125.0, 150.0, DEVICE.angles)


def projector(mu=0.0, **more):
    return Projector(np.full((Z, N, N), mu, np.float32), STEP, RADII, DEVICE, **more)


def centred(rng):
    """Random activity away from the edges, so that nothing can leave the field."""
    volume = np.zeros((Z, N, N), np.float32)
    volume[4:6, 9:15, 9:15] = rng.random((2, 6, 6), dtype=np.float32)
    return volume


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31), blurred=st.booleans())
def test_the_back_projector_is_the_adjoint(seed, blurred):
    rng = np.random.default_rng(seed)
    mu = rng.random((Z, N, N), dtype=np.float32) * np.float32(0.02)
    p = Projector(mu, STEP, RADII, DEVICE, resolution=blurred)
    x = rng.random(p.shape, dtype=np.float32) * p.support[None]
    y = rng.random((DEVICE.angles, *p.plane_shape), dtype=np.float32)
    forth = np.vdot(p.forward(x).astype(float), y.astype(float))
    assert forth == pytest.approx(np.vdot(x.astype(float), p.backward(y).astype(float)), rel=1e-5)


def test_projection_is_linear_and_not_negative():
    rng, p = np.random.default_rng(1), projector(0.01)
    a, b = centred(rng), centred(rng)
    both = p.forward(2 * a + 3 * b)
    assert np.allclose(both, 2 * p.forward(a) + 3 * p.forward(b), rtol=1e-4, atol=1e-5)
    assert both.min() >= 0


def test_without_attenuation_every_projection_holds_all_counts():
    activity = centred(np.random.default_rng(2))
    assert projector().forward(activity).sum(axis=(1, 2)) == pytest.approx(activity.sum(), rel=2e-4)
    exact = projector(resolution=False).forward(activity)
    assert exact.sum(axis=(1, 2)) == pytest.approx(activity.sum(), rel=1e-5)


def test_expected_counts_are_activity_times_sensitivity_times_time():
    body = water_body(STEP, (60.0, 60.0), 30.0, DEVICE)
    air = np.where(body.mu_per_mm > 0, np.float32(0.0021), np.float32(0))  # thin enough to be known exactly below
    activity = body.body * np.float32(0.5)
    data = acquire(activity, air, STEP, DEVICE, 9.4, 1500.0, 160.0)
    lost = 1 - data.primary.sum() / (activity.sum() * 9.4 * 1500.0)
    mean_chord = 8 * 60 / (3 * np.pi)  # mean way out of a disc, parallel to the detector's axis
    assert lost == pytest.approx(1 - np.exp(-0.0021 * mean_chord), abs=0.012)


def test_a_slab_attenuates_by_the_exponential_of_its_thickness():
    mu = np.zeros((Z, N, N), np.float32)
    mu[:, 16:20, :] = 0.0135  # four voxels between the source and the detector of angle 0
    source = np.zeros((Z, N, N), np.float32)
    source[5, 12, 12] = 1.0
    through = Projector(mu, STEP, RADII, DEVICE).forward(source)
    half_turn = DEVICE.angles // 2
    assert through[0].sum() == pytest.approx(np.exp(-0.0135 * 4 * STEP), rel=1e-3)
    assert through[half_turn].sum() == pytest.approx(1.0, rel=1e-3)


def test_half_of_the_own_voxel_attenuates():
    source = np.zeros((Z, N, N), np.float32)
    source[5, 12, 12] = 1.0
    mu = np.where(source > 0, np.float32(0.0135), np.float32(0))
    seen = Projector(mu, STEP, RADII, DEVICE, resolution=False).forward(source)[0].sum()
    assert seen == pytest.approx(np.exp(-0.0135 * STEP / 2), rel=0.01)


@pytest.mark.parametrize("distance_mm", [40.0, 100.0, 250.0])
def test_the_response_widens_with_distance_as_the_collimator_formula_says(distance_mm):
    n, step = 96, 2.4
    device = replace(DEVICE, angles=6, heads=2)
    mid = (n - 1) / 2
    radii = np.full(6, distance_mm)
    source = np.zeros((n, n, n), np.float32)
    source[n // 2, n // 2, n // 2] = 1.0
    plane = Projector(np.zeros_like(source), step, radii, device).forward(source)[0]
    at = (np.arange(n) - n // 2) * step
    total = plane.sum()
    expected = float(device.fwhm_mm(distance_mm - (n // 2 - mid) * step))
    for axis in (0, 1):
        profile = plane.sum(axis=axis)
        center = (profile * at).sum() / total
        variance = (profile * (at - center) ** 2).sum() / total
        if total > 0.999:
            assert np.sqrt(variance) * 2.3548 == pytest.approx(expected, rel=0.02)
        rising = np.interp(profile.max() / 2, profile[: profile.argmax() + 1], at[: profile.argmax() + 1])
        falling = np.interp(profile.max() / 2, profile[profile.argmax() :][::-1], at[profile.argmax() :][::-1])
        assert falling - rising == pytest.approx(expected, rel=0.05)


def test_the_collimator_formula_at_ten_centimetres():
    # Symbia medium energy: about 12 mm system resolution at 10 cm in the manufacturer's data and in Monte Carlo
    assert 10.5 < float(camera().fwhm_mm(100.0)) < 12.5
    assert float(camera().fwhm_mm(0.0)) == pytest.approx(np.hypot(2.94 * (38.70 + 4.75) / 38.70, 3.8), rel=1e-3)


def test_water_attenuates_as_tabled():
    # NIST XCOM: water 0.1370 cm2/g at 200 keV and 0.1505 at 150 keV
    assert mass_attenuation_mm2_g("water", 200.0) == pytest.approx(13.70, rel=0.01)
    assert mass_attenuation_mm2_g("water", 150.0) == pytest.approx(15.05, rel=0.01)
    assert of_ct(np.array([[[-1000, 0, 1000]]], np.int16), 208.37)[0, 0] == pytest.approx([1.5e-5, 0.0137, 0.0210], rel=0.1)


def test_the_orbit_keeps_its_gap_to_the_body():
    body = water_body(STEP, (60.0, 90.0), 30.0, DEVICE)
    radii = contour_orbit(body.scan_mu, STEP, DEVICE)
    assert radii[0] == pytest.approx(60 + DEVICE.gap_mm, abs=STEP)
    assert radii[DEVICE.angles // 4] == pytest.approx(90 + DEVICE.gap_mm, abs=STEP)
    with pytest.raises(ModelError, match="body"):
        contour_orbit(np.zeros((3, 8, 8), np.float32), STEP, DEVICE)


def test_decay_during_the_acquisition_weighs_the_stops():
    weights = DEVICE.decay_weights(3600.0, 1.0)
    stops = DEVICE.angles // DEVICE.heads
    assert weights.mean() == pytest.approx(1.0)
    assert weights[stops - 1] / weights[0] == pytest.approx(0.5 ** ((stops - 1) / stops))
    assert np.array_equal(weights[:stops], weights[stops:])


def cylinder(device=DEVICE):
    body = water_body(STEP, (80.0, 80.0), 40.0, device)
    data = acquire(body.body * np.float32(0.02), body.mu_per_mm, STEP, device, 9.4, 1500.0, 160.0)
    return body, data


def test_osem_finds_the_activity_of_a_cylinder_from_noise_free_data():
    body, data = cylinder()
    image = reconstruct(data, noise_free(data), body.scan_mu, DEVICE)
    true = halve(body.body) * np.float32(0.02 * 9.4 * 1500)
    assert image.sum() == pytest.approx(true.sum(), rel=0.02)
    middle = true == true.max()
    middle[:, : N // 4] = False
    assert image[middle].mean() == pytest.approx(true.max(), rel=0.04)
    assert image.min() >= 0


def test_more_iterations_explain_the_data_better():
    body, data = cylinder()
    p = Projector(body.scan_mu, STEP, data.radii_mm, DEVICE)
    known = noise_free(data)

    def misfit(iterations):
        found = osem(known.peak, p, data.weights, known.scatter, iterations)
        model = data.weights[:, None, None] * p.forward(found) + known.scatter
        model = np.maximum(model, 1e-9)
        return float((model - known.peak * np.log(model)).sum())

    values = [misfit(k) for k in (1, 2, 4)]
    assert values[0] > values[1] > values[2]


def test_subsets_take_every_angle_once():
    assert sorted(angle for part in subsets(60, 10) for angle in part) == list(range(60))


def test_the_result_does_not_depend_on_the_threads():
    body, data = cylinder()
    known = noise_free(data)
    with ThreadPoolExecutor(3) as pool:
        spread = reconstruct(data, known, body.scan_mu, DEVICE, pool.map)
    assert np.array_equal(spread, reconstruct(data, known, body.scan_mu, DEVICE))


def test_counts_are_poisson_and_follow_the_seed():
    _, data = cylinder()
    peaks = np.stack([count(data, DEVICE, np.random.default_rng([5, k])).peak for k in range(60)])
    mean = (data.primary + data.scattered).astype(float)
    seen = mean > 1.0
    assert peaks.mean(axis=0)[seen].sum() == pytest.approx(mean[seen].sum(), rel=5e-3)
    assert (peaks.var(axis=0, ddof=1)[seen] / mean[seen]).mean() == pytest.approx(1.0, abs=0.02)
    again = count(data, DEVICE, np.random.default_rng([5, 0])).peak
    assert np.array_equal(again, peaks[0])
    assert not np.array_equal(peaks[0], peaks[1])


def test_the_scatter_windows_estimate_the_scatter_without_bias_and_with_noise():
    _, data = cylinder()
    estimates = np.stack([count(data, DEVICE, np.random.default_rng([6, k])).scatter for k in range(30)])
    inside = data.scattered > 0.5 * data.scattered.max()
    assert 0.1 < data.scattered.sum() / data.primary.sum() < 0.4
    assert estimates.mean(axis=0)[inside].mean() == pytest.approx(data.scattered[inside].mean(), rel=0.05)
    assert estimates.std(axis=0)[inside].mean() > 0.01 * data.scattered[inside].mean()


def test_scatter_left_in_raises_the_image():
    body, data = cylinder()
    known = noise_free(data)
    corrected = reconstruct(data, known, body.scan_mu, DEVICE).sum()
    left = reconstruct(data, Counts(known.peak, np.zeros_like(known.scatter)), body.scan_mu, DEVICE).sum()
    assert left / corrected - 1 == pytest.approx(data.scattered.sum() / data.primary.sum(), abs=0.08)


def test_placing_at_half_voxels_agrees_with_the_scan_grid():
    grid = Grid((8, 12, 12), 4.0, (2, 4, 4), (6, 10, 10), (0.0, 0.0, 0.0))
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 3, grid.shape).astype(np.uint8)
    texture = np.ones(grid.shape, np.float32)
    mu = np.where(labels > 0, np.float32(0.0135), np.float32(1e-5))
    activity = np.array([0.0, 2.0, 5.0])
    still = motion(grid, np.zeros(3), np.zeros(3))
    fine, attenuation = place(grid, labels, texture, mu, activity, still)
    box = tuple(slice(o, o + n) for o, n in zip(grid.offset, grid.shape, strict=True))
    assert fine.sum() == pytest.approx(7.0, rel=1e-5)
    assert np.allclose(attenuation[box], mu, rtol=1e-5)
    moved, _ = place(grid, labels, texture, mu, activity, motion(grid, np.array([1.0, -2.0, 3.0]), np.array([1.0, 2.0, -1.0])))
    assert moved.sum() == pytest.approx(7.0, rel=1e-5)
    assert not np.allclose(moved, fine)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Projector(np.zeros((4, 8, 9), np.float32), STEP, RADII, DEVICE),
        lambda: Projector(np.full((4, 8, 8), np.nan, np.float32), STEP, RADII, DEVICE),
        lambda: Projector(np.zeros((4, 8, 8), np.float32), STEP, RADII[:3], DEVICE),
        lambda: projector().forward(np.zeros((3, 3, 3))),
        lambda: projector().backward(np.zeros((3, 3, 3), np.float32)),
        lambda: osem(np.full((DEVICE.angles, N, Z), -1.0), projector(), np.full(DEVICE.angles, 1 / DEVICE.angles)),
        lambda: replace(DEVICE, angles=10),
    ],
)
def test_bad_input_is_refused(wrong):
    with pytest.raises(ModelError):
        wrong()


def test_a_sphere_recovers_better_near_the_detector():
    device = replace(DEVICE, iterations=10)
    body = water_body(STEP, (110.0, 110.0), 50.0, device)
    deep, near = (recovery(body, 30.0, (1.0, y, 1.0), device) for y in (0.7, 75.0))
    assert near.coefficient > deep.coefficient + 0.02
    assert near.fwhm_mm < deep.fwhm_mm
    assert deep.overshoot > 0.5


def test_a_uniform_body_stays_uniform():
    body = water_body(STEP, (80.0, 80.0), 40.0, DEVICE)
    image = clean_image(body, body.body, DEVICE)
    deep = np.hypot(*np.meshgrid(*[(np.arange(image.shape[1]) - (image.shape[1] - 1) / 2) * STEP] * 2)) < 50
    assert image[image.shape[0] // 2][deep] == pytest.approx(1.0, abs=0.12)


def test_relative_noise_variance_is_inverse_to_the_counts():
    body = water_body(STEP, (110.0, 110.0), 80.0, DEVICE)
    few, many = (cylinder_noise(body, c, 6, DEVICE, 3) for c in (0.05, 0.8))
    assert few.density_per_ml == pytest.approx(many.density_per_ml, rel=0.35)
    assert few.mean == pytest.approx(1.0, abs=0.03)
    assert few.correlation[1, 0] > 0.1


def test_the_width_of_a_blurred_region_is_found_again():
    rng = np.random.default_rng(5)
    activity = rng.random((30, 30, 30), dtype=np.float32) * 0.1
    activity[12:18, 12:18, 12:18] = 3.0
    region = activity > 2
    blurred = gaussian(activity, 11.0, 4.8)
    assert width_of_region_mm(activity, blurred, region, 4.8) == pytest.approx(11.0, rel=0.01)
    assert width_of_region_mm(activity, activity, region, 4.8) == 0.0
    assert np.isnan(width_of_region_mm(activity, 0 * activity, region, 4.8))


def test_the_correlation_of_a_known_filter_is_found_again():
    field = noise_field(np.random.default_rng(4), (48, 48, 48), 9.7, 4.8, 7.2)
    found = [[float((field * np.roll(field, -k, axis)).mean()) for k in (1, 2)] for axis in (0, 1)]
    assert gaussian_width_mm(np.array(found[0]), 4.8) == pytest.approx(7.2, rel=0.05)
    assert gaussian_width_mm(np.array(found[1]), 4.8) == pytest.approx(9.7, rel=0.05)


def test_the_fast_mode_follows_the_measured_covariance_when_asked():
    grid = Grid((80, 80, 80), 2.4, (0, 0, 0), (40, 40, 40), (0.0, 0.0, 0.0))
    activity = np.full(grid.scan_shape, 0.01, np.float32)
    device = scanner(1, "spect", "Lu-177", noise="physical_chain", voxel_mm=4.8)
    images = np.stack([spect_counts(activity, grid, device, 1500.0, np.random.default_rng([2, k])) for k in range(12)])
    inner = (slice(12, 28),) * 3
    variance = images.var(axis=0, ddof=1)[inner].mean() / images.mean(axis=0)[inner].mean() ** 2
    per_ml = 0.01 * device.true_sensitivity * 1500 / (4.8**3 / 1000)
    assert variance * per_ml == pytest.approx(device.settings["noise_density"], rel=0.1)
    assert scanner(1, "spect", "Lu-177").record == device.record


def test_the_record_of_physical_images_states_the_widths_of_the_chain():
    device = scanner(1, "spect", "Lu-177", "physical", voxel_mm=4.8)
    widths = dict(physical_widths(4.8))
    assert [r for r, _ in device.record.resolution_by_radius_mm] == list(widths)
    for radius, width in device.record.resolution_by_radius_mm:
        assert width == pytest.approx(widths[radius], rel=0.1)
    assert physical_widths(6.0)[0][1] == pytest.approx((physical_widths(4.8)[0][1] + physical_widths(7.2)[0][1]) / 2)


@pytest.mark.long
def test_a_physical_patient_is_quantitative_and_reproducible():
    made = [reference_patient(PhantomSettings(seed=2, matrix=48, pet=False, images="physical")).cycle(1) for _ in range(2)]
    scan, again = made[0].scans[1], made[1].scans[1]
    assert np.array_equal(scan.image, again.image)
    counts_per_mbq = reference_patient(PhantomSettings(seed=2, matrix=48, pet=False)).spect.true_sensitivity * scan.duration_s
    voxel_ml = abs(np.linalg.det(scan.affine[:3, :3])) / 1000
    assert scan.image.sum() / counts_per_mbq == pytest.approx(scan.truth_mbq_ml.sum() * voxel_ml, rel=0.05)


def test_the_tabled_spheres_are_those_of_the_simulated_phantom():
    name, found = next(measure(7.2, camera()))
    assert found.recovery == pytest.approx(packaged_table(SPHERES).value(name), abs=2e-4)
    again = sphere_table(3, 7.19)
    assert again is not None
    assert again == sphere_table(3, 7.19)
    assert again.rows[0].recovery == pytest.approx(found.recovery, rel=0.06)
    assert again.rows[0].body_mm == pytest.approx(found.body_mm, abs=0.1)


def test_a_hotter_sphere_recovers_more_since_its_edge_converges_sooner():
    at = {(r.body_mm, r.radius_mm, r.volume_ml, r.ratio): r.recovery for r in sphere_table(1, 7.2).rows}
    true = packaged_table(SPHERES)
    rows = [n for n in true if n.endswith("ratio_5")]
    for name in rows:
        stem = name.removesuffix("ratio_5")
        assert true.value(name) < true.value(stem + "ratio_20") < true.value(stem + "ratio_100")
    assert len(at) == 3 * len(rows)


def test_only_voxels_near_those_of_a_phantom_have_a_sphere_table():
    assert sphere_table(1, 7.5) is not None
    assert sphere_table(1, 12.0) is None
    patient = reference_patient(PhantomSettings(seed=1, matrix=64, pet=False, images="physical"))
    assert patient.spect.record.spheres == sphere_table(1, 2 * patient.anatomy.grid.spacing_mm)
    assert reference_patient(PhantomSettings(seed=1, matrix=64, pet=False)).spect.record.spheres is None
