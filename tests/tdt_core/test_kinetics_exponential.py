"""Laws of the mono-, bi- and triexponential rungs: start, order, decay bound, closed integrals, gradients, limits, priors."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from tdt_core.assimilation import population_prior
from tdt_core.errors import ModelError
from tdt_core.kinetics import log_jacobian_by_differences, rung_for
from tdt_core.kinetics.exponential import Exponentials
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration, Region

REGIONS = (
    Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0, mass_g=168.0),
    Region("lesion/L1", "lesions", "52988006", tracking_id="L1", volume_ml=12.0, mass_g=12.5),
    Region("rest", "rest", "", volume_ml=68000.0, mass_g=70000.0),
)
GIVEN = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, residual_mbq=30.0)
INFUSED = replace(GIVEN, duration_h=2.0)
TIMES = np.array([1.0, 4.0, 24.0, 72.0, 160.0])
NAMES = {1: "monoexponential", 2: "biexponential", 3: "triexponential"}
bolus_and_infusion = pytest.mark.parametrize("administration", [GIVEN, INFUSED], ids=["bolus", "infusion"])
every_rung = pytest.mark.parametrize("name", NAMES.values())
LAMBDA = float(nuclide("Lu-177").decay_constant_per_h)


def draws(rung, count, seed=0):
    return population_prior(rung).draws(count, np.random.default_rng(seed))


def of(phases, regions=REGIONS):
    return rung_for(NAMES[phases], "PSMA-617", regions)


def theta_of(rung, **values):
    """(1, n) theta of a one-region rung from natural values."""
    return np.log([[values[q] for q in rung.quantities]])


@every_rung
def test_curves_are_never_negative_and_late_activity_falls_at_least_as_fast_as_physical_decay(name):
    rung = rung_for(name, "PSMA-617", REGIONS)
    grid = np.concatenate([np.geomspace(1e-3, 300, 60), [1500.0, 1600.0]])
    activity = rung.activity(draws(rung, 300), GIVEN, grid)
    assert activity.min() >= 0
    assert (activity[:, :, -1] <= activity[:, :, -2] * np.exp(-LAMBDA * 100.0) * (1 + 1e-9)).all()


@pytest.mark.parametrize("phases", [2, 3])
def test_two_and_three_phases_start_at_zero_and_their_amplitudes_sum_to_zero(phases):
    rung = of(phases)
    theta = draws(rung, 50)
    amplitudes, rates = rung.exponentials(theta, GIVEN)
    assert np.abs(amplitudes.sum(axis=-1)).max() <= 1e-12 * np.abs(amplitudes).max()
    assert np.abs(rung.activity(theta, GIVEN, np.zeros(1))).max() < 1e-9 * GIVEN.activity_mbq
    uptake, others = rates[..., -1], rates[..., :-1]
    assert (uptake[..., None] > others).all()
    assert (rates > LAMBDA).all()


def test_one_phase_is_the_textbook_exponential():
    rung = of(1, REGIONS[:1])
    theta = theta_of(rung, uptake_per_ml=2e-4, slow_half_time=50.0)
    rate = np.log(2) / 50.0 + LAMBDA
    start = 2e-4 * 160.0 * 7370.0
    np.testing.assert_allclose(rung.activity(theta, GIVEN, TIMES)[0, 0], start * np.exp(-rate * TIMES), rtol=1e-13)
    assert rung.time_integrated_activity(theta, GIVEN)[0, 0] == pytest.approx(start / rate, rel=1e-13)


def test_two_phases_have_the_closed_integral_and_peak_of_uptake_and_clearance():
    rung = of(2, REGIONS[:1])
    theta = theta_of(rung, uptake_per_ml=2e-4, slow_half_time=50.0, uptake_half_time=3.0)
    slow = np.log(2) / 50.0
    fast = slow + np.log(2) / 3.0
    start = 2e-4 * 160.0 * 7370.0
    exact = start * (1 / (slow + LAMBDA) - 1 / (fast + LAMBDA))
    assert rung.time_integrated_activity(theta, GIVEN)[0, 0] == pytest.approx(exact, rel=1e-12)
    peak = np.log((fast + LAMBDA) / (slow + LAMBDA)) / (fast - slow)
    grid = peak + np.linspace(-0.5, 0.5, 101)
    assert grid[np.argmax(rung.activity(theta, GIVEN, grid)[0, 0])] == pytest.approx(peak, abs=0.006)


@every_rung
@bolus_and_infusion
def test_the_time_integral_in_closed_form_equals_quadrature(name, administration):
    rung = rung_for(name, "PSMA-617", REGIONS)
    theta = draws(rung, 2, seed=3)
    closed = rung.time_integrated_activity(theta, administration)
    for m in range(2):
        for r in range(len(REGIONS)):
            parts = [0.0, 0.05, 0.5, 2.0, 5.0, 50.0, 500.0, 4000.0]
            value = sum(
                quad(lambda t, m=m, r=r: rung.activity(theta[m], administration, np.array([t]))[0, r, 0], a, b, epsrel=1e-10)[0]
                for a, b in pairwise(parts)
            )
            assert closed[m, r] == pytest.approx(value, rel=1e-7)


@every_rung
@bolus_and_infusion
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_analytic_gradient_equals_central_differences(name, administration, seed):
    rung = rung_for(name, "PSMA-617", REGIONS)
    theta = draws(rung, 1, seed)[0]
    found = log_jacobian_by_differences(rung, theta, administration, TIMES, step=1e-4)
    np.testing.assert_allclose(rung.log_jacobian(theta, administration, TIMES), found, atol=1e-5, rtol=1e-5)


@every_rung
def test_an_infusion_is_the_mean_of_decayed_boluses_over_its_duration(name):
    rung = rung_for(name, "PSMA-617", REGIONS)
    theta = draws(rung, 3, seed=4)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    for t in (0.7, 4.0, 72.0):
        until = min(t, INFUSED.duration_h)
        starts = until * (nodes + 1) / 2
        boluses = rung.activity(theta, GIVEN, t - starts) * np.exp(-LAMBDA * starts)
        mean = boluses @ weights * until / (2 * INFUSED.duration_h)
        np.testing.assert_allclose(rung.activity(theta, INFUSED, np.array([t]))[..., 0], mean, rtol=1e-6)


@every_rung
def test_a_short_infusion_tends_to_the_bolus(name):
    rung = rung_for(name, "PSMA-617", REGIONS)
    theta = draws(rung, 20, seed=5)
    brief = replace(GIVEN, duration_h=1e-5)
    np.testing.assert_allclose(rung.activity(theta, brief, TIMES), rung.activity(theta, GIVEN, TIMES), rtol=1e-4)
    np.testing.assert_allclose(
        rung.time_integrated_activity(theta, brief), rung.time_integrated_activity(theta, GIVEN), rtol=1e-6
    )


def test_the_rungs_are_nested():
    """Three phases with s = 1 are two, and two with an uptake that is at once are one."""
    values = {"uptake_per_ml": 2e-4, "slow_half_time": 50.0}
    one, two, three = (of(k, REGIONS[:1]) for k in (1, 2, 3))
    mono = one.activity(theta_of(one, **values), GIVEN, TIMES)
    at_once = two.activity(theta_of(two, **values, uptake_half_time=1e-3), GIVEN, TIMES)
    np.testing.assert_allclose(at_once, mono, rtol=1e-12)
    together = 1.0 / (1 / 8.0 + 1 / 2.0)
    bi = two.activity(theta_of(two, **values, uptake_half_time=together), GIVEN, TIMES)
    tri = three.activity(theta_of(three, **values, fast_half_time=8.0, slow_amplitude=1.0, uptake_half_time=2.0), GIVEN, TIMES)
    np.testing.assert_allclose(tri, bi, rtol=1e-12)


@every_rung
def test_biological_curves_do_not_know_the_nuclide_and_activity_scales_with_what_was_given(name):
    rung = rung_for(name, "PSMA-617", REGIONS)
    theta = draws(rung, 3)
    gallium = Administration(0.0, "p", "PSMA-617", "Ga-68", 150.0)
    times = np.array([0.5, 1.0, 3.0])
    shares = [
        rung.activity(theta, a, times) * np.exp(nuclide(a.nuclide).decay_constant_per_h * times) / a.net_activity_mbq
        for a in (GIVEN, gallium)
    ]
    np.testing.assert_allclose(shares[0], shares[1], rtol=1e-12)


@every_rung
def test_priors_are_assumed_and_wider_than_the_population_with_its_level(name):
    rung = rung_for(name, "PSMA-617", REGIONS)
    people = rung_for("sum_of_exponentials", "PSMA-617", REGIONS).parameters
    assert all(p.status == "assumed" for p in rung.parameters.values())
    assert all("kinetics_exponential.csv" in p.source for p in rung.parameters.values())
    assert all(p.sd > 1.2 * people[n].sd for n, p in rung.parameters.items())
    three = name == NAMES[3]
    for region in REGIONS:
        late = 1.0 if three else people[f"{region.name}.slow_amplitude"].value
        level = people[f"{region.name}.uptake_per_ml"].value * late
        assert rung.parameters[f"{region.name}.uptake_per_ml"].value == pytest.approx(level)
        assert rung.parameters[f"{region.name}.slow_half_time"].value == people[f"{region.name}.slow_half_time"].value


def test_the_population_sum_of_exponentials_is_the_triexponential_under_population_priors():
    people, wide = rung_for("sum_of_exponentials", "PSMA-617", REGIONS), of(3)
    theta = draws(people, 5)
    np.testing.assert_array_equal(people.activity(theta, GIVEN, TIMES), wide.activity(theta, GIVEN, TIMES))
    assert list(people.parameters) == list(wide.parameters)


def test_an_unknown_number_of_phases_and_a_region_without_volume_are_refused():
    with pytest.raises(ModelError, match="4 exponential phases"):
        Exponentials("PSMA-617", REGIONS, phases=4)
    empty = Exponentials("PSMA-617", (Region("liver", "liver", ""),), phases=1)
    with pytest.raises(ModelError, match="without volume"):
        empty.activity(np.zeros(2), GIVEN, TIMES)
