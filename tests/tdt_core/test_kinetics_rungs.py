"""Laws of the kinetic rungs: zero start, decay bound, integrals, gradients, conservation, scaling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp

from tdt_core.assimilation import population_prior
from tdt_core.errors import ModelError
from tdt_core.kinetics import log_jacobian_by_differences, rung_for, rungs, to_natural
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration, Region

REGIONS = (
    Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0, mass_g=168.0),
    Region("kidney_right", "kidneys", "64033007", "right", volume_ml=150.0, mass_g=157.0),
    Region("lesion/L1", "lesions", "52988006", tracking_id="L1", volume_ml=12.0, mass_g=12.5),
    Region("rest", "rest", "", volume_ml=68000.0, mass_g=70000.0),
)
GIVEN = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
TIMES = np.array([4.0, 24.0, 72.0, 160.0])


def draws(rung, count, seed=0):
    return population_prior(rung).draws(count, np.random.default_rng(seed))


@pytest.mark.parametrize("name", rungs())
def test_activity_is_never_negative_and_late_activity_falls_at_least_as_fast_as_physical_decay(name):
    rung = rung_for(name, "PSMA-617", REGIONS)
    late = rung.activity(draws(rung, 50), GIVEN, np.array([300.0, 400.0]))
    decay = nuclide("Lu-177").decay_constant_per_h
    assert (late > 0).all()
    assert (late[:, :, 1] <= late[:, :, 0] * np.exp(-decay * 100.0) * (1 + 1e-6)).all()


@pytest.mark.parametrize("name", rungs())
def test_time_integrated_activity_equals_the_integral_of_the_activity(name):
    rung = rung_for(name, "PSMA-617", REGIONS)
    theta = draws(rung, 3)
    grid = np.concatenate([[0.0], np.geomspace(1e-3, 1900.0, 6000)])
    activity = rung.activity(theta, GIVEN, grid)
    integral = np.trapezoid(activity, grid, axis=-1)
    np.testing.assert_allclose(rung.time_integrated_activity(theta, GIVEN), integral, rtol=2e-4)


@pytest.mark.parametrize("name", rungs())
def test_activity_is_proportional_to_the_administered_activity_at_fixed_ligand_amount(name):
    rung = rung_for(name, "PSMA-617", REGIONS)
    theta = draws(rung, 2)
    double = Administration(0.0, "p", "PSMA-617", "Lu-177", 14800.0, amount_nmol=90.0)
    np.testing.assert_allclose(rung.activity(theta, double, TIMES), 2 * rung.activity(theta, GIVEN, TIMES), rtol=1e-12)


def test_sum_of_exponentials_starts_at_zero_in_every_region():
    rung = rung_for("sum_of_exponentials", "PSMA-617", REGIONS)
    start = rung.activity(draws(rung, 20), GIVEN, np.array([0.0]))
    assert np.abs(start).max() < 1e-9 * GIVEN.activity_mbq


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_analytic_gradient_equals_central_differences(seed):
    rung = rung_for("sum_of_exponentials", "PSMA-617", REGIONS)
    theta = draws(rung, 1, seed)[0]
    np.testing.assert_allclose(
        rung.log_jacobian(theta, GIVEN, TIMES), log_jacobian_by_differences(rung, theta, GIVEN, TIMES), atol=2e-4
    )


@pytest.mark.parametrize("name", rungs())
def test_gradients_at_many_places_are_those_at_each(name):
    """Members of one batch of the solver take common steps, so that rungs of differential equations agree to its tolerance."""
    rung = rung_for(name, "PSMA-617", REGIONS)
    theta = draws(rung, 6).reshape(2, 3, -1)
    found = rung.log_jacobian(theta, GIVEN, TIMES)
    assert found.shape == (2, 3, len(REGIONS), len(TIMES), theta.shape[-1])
    each = [[rung.log_jacobian(at, GIVEN, TIMES) for at in row] for row in theta]
    np.testing.assert_allclose(found, each, atol=1e-3)
    differences = log_jacobian_by_differences(rung, theta[:, 0], GIVEN, TIMES)
    each = [log_jacobian_by_differences(rung, at, GIVEN, TIMES) for at in theta[:, 0]]
    np.testing.assert_allclose(differences, each, atol=0.02)  # of solves to their tolerance


def test_compartmental_rung_agrees_with_an_independent_integrator():
    rung = rung_for("compartmental", "PSMA-617", REGIONS)
    theta = draws(rung, 1)
    p = dict(zip(rung.parameters, to_natural(rung.parameters, theta)[0], strict=True))
    tissues = [r for r in REGIONS if r.name != "rest"]
    k = np.array([p[f"{r.name}.uptake_rate_per_ml"] * r.volume_ml for r in tissues])
    o = np.array([p[f"{r.name}.release_rate"] for r in tissues])
    capacity = np.array([p[f"{r.name}.receptor_density"] * r.volume_ml / 1000 for r in tissues])

    def rhs(_t, y):
        into = k * y[0] * (1 - y[2:] / capacity)
        leave = o * y[2:]
        exchange = p["plasma.to_tissue"] * y[0] - p["plasma.from_tissue"] * y[1]
        return np.concatenate(
            [[0.3 * leave.sum() - into.sum() - p["plasma.clearance"] * y[0] - exchange, exchange], into - leave]
        )

    y0 = np.zeros(5)
    y0[0] = 90.0
    reference = solve_ivp(rhs, (0, 160), y0, method="Radau", rtol=1e-10, atol=1e-12, t_eval=TIMES).y
    decay = np.exp(-nuclide("Lu-177").decay_constant_per_h * TIMES) * 7400.0 / 90.0
    activity = rung.activity(theta, GIVEN, TIMES)[0]
    np.testing.assert_allclose(activity[:3], reference[2:] * decay, rtol=2e-5)
    np.testing.assert_allclose(activity[3], reference[:2].sum(axis=0) * decay, rtol=2e-5)


def test_occupancy_never_exceeds_the_receptors_even_when_ligand_is_in_great_excess():
    rung = rung_for("compartmental", "PSMA-617", REGIONS)
    flooded = Administration(0.0, "p", "PSMA-617", "Lu-177", 7400.0, amount_nmol=5000.0)
    theta = draws(rung, 20)
    natural = to_natural(rung.parameters, theta)
    density = natural[:, list(rung.parameters).index("lesion/L1.receptor_density")]
    bound_nmol = rung.activity(theta, flooded, np.array([1.0, 6.0, 24.0]))[:, 2] * 5000.0 / 7400.0
    assert (bound_nmol <= density[:, None] * 0.012 * (1 + 1e-6)).all()


def test_more_cold_ligand_lowers_the_uptake_fraction_of_receptor_organs():
    rung = rung_for("compartmental", "PSMA-617", REGIONS)
    theta = draws(rung, 10)
    few, many = (Administration(0.0, "p", "PSMA-617", "Lu-177", 7400.0, amount_nmol=a) for a in (10.0, 400.0))
    assert (rung.time_integrated_activity(theta, many)[:, :3] < rung.time_integrated_activity(theta, few)[:, :3]).all()


def test_compartmental_rung_refuses_an_administration_without_ligand_amount():
    rung = rung_for("compartmental", "PSMA-617", REGIONS)
    with pytest.raises(ModelError, match="ligand amount"):
        rung.activity(draws(rung, 1), Administration(0.0, "p", "PSMA-617", "Lu-177", 7400.0), TIMES)


@pytest.mark.parametrize(("name", "ligand", "regions"), [("none", "PSMA-617", REGIONS), ("compartmental", "X", REGIONS)])
def test_unknown_rungs_and_ligands_are_refused_with_the_known_ones(name, ligand, regions):
    with pytest.raises(ModelError, match="one of"):
        _ = rung_for(name, ligand, regions).parameters


def test_a_borrowed_ligand_is_marked_assumed_in_every_parameter():
    table = rung_for("sum_of_exponentials", "PSMA-I&T", REGIONS).parameters
    assert all(p.status == "assumed" for p in table.values())
    assert "PSMA-617" in next(iter(table.values())).source


def test_population_kidney_dose_lies_at_the_published_level():
    rung = rung_for("sum_of_exponentials", "PSMA-617", REGIONS)
    tia = rung.time_integrated_activity(draws(rung, 4000), GIVEN)
    gy_per_gbq = tia[:, 0] * 0.0853196 / REGIONS[0].mass_g / 7.4
    assert 0.3 < np.median(gy_per_gbq) < 0.9  # cohorts: 0.43 +- 0.16 to 0.82 +- 0.25 Gy/GBq


def test_one_exponential_phase_integrates_to_its_closed_form():
    rung = rung_for("sum_of_exponentials", "PSMA-617", REGIONS[:1])
    theta = draws(rung, 1)
    exact, _ = quad(lambda t: rung.activity(theta, GIVEN, np.array([t]))[0, 0, 0], 0, 3000, limit=400)
    assert rung.time_integrated_activity(theta, GIVEN)[0, 0] == pytest.approx(exact, rel=1e-6)
