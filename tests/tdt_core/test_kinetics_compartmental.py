"""The compartmental rung as a network: what the solver, the derivatives and the whole-body tools say of it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import expm

from tdt_core.assimilation import population_prior
from tdt_core.errors import ModelError
from tdt_core.kinetics import rung_for, sensitivities, simulate, simulate_batch, to_natural
from tdt_core.kinetics.sensitivity import fisher_information
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration, Region

REGIONS = (
    Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0, mass_g=168.0),
    Region("liver", "liver", "10200004", volume_ml=1600.0, mass_g=1700.0),
    Region("lesion/L1", "lesions", "52988006", tracking_id="L1", volume_ml=12.0, mass_g=12.5),
    Region("rest", "rest", "", volume_ml=68000.0, mass_g=70000.0),
)
RUNG = rung_for("compartmental", "PSMA-617", REGIONS)
NAMES = tuple(RUNG.parameters)
GIVEN = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
TIMES = np.array([72.0, 4.0, 24.0, 160.0, 24.0])
DECAY = float(nuclide("Lu-177").decay_constant_per_h)


def draws(count, seed=0):
    return population_prior(RUNG).draws(count, np.random.default_rng(seed))


def by_name(theta):
    return dict(zip(NAMES, to_natural(RUNG.parameters, np.atleast_2d(theta)).T, strict=True))


# --- laws


def test_every_amount_that_is_given_stays_in_the_regions_or_in_the_sink():
    found = simulate(RUNG.ode, None, [GIVEN], np.unique(TIMES))
    np.testing.assert_allclose(found.amount_nmol.sel(label="total").sum(["region", "part"]), 90.0, rtol=1e-12)
    closed = 7400.0 / DECAY * -np.expm1(-DECAY * found.end_h)
    assert float(found.tia_mbq_h.sel(label="Lu-177").sum()) == pytest.approx(closed, rel=1e-8)


def test_columns_of_the_rate_matrix_sum_to_zero():
    network = RUNG.ode.network()
    matrix = network.rate_matrix(network.gather(RUNG.ode.coefficients())[0])
    assert np.abs(matrix.sum(axis=0)).max() < 1e-15


def test_a_trace_of_ligand_moves_as_the_matrix_exponential():
    network = RUNG.ode.network()
    values = network.gather(RUNG.ode.coefficients())[0]
    zero = np.zeros(len(network.states))
    start = zero.copy()
    start[network.index["ligand/rest/plasma"]] = 1e-9
    trace = replace(GIVEN, amount_nmol=1e-9, activity_mbq=1e-7)
    found = simulate(RUNG.ode, None, [trace], [24.0], rtol=1e-10).amount_nmol.sel(label="total", time_h=24.0)
    exact = expm(network.jacobian(values, zero) * 24.0 * 60.0) @ start
    for state, wanted in zip(network.states, exact, strict=True):
        assert float(found.sel(region=state.region, part=state.part)) == pytest.approx(wanted, rel=1e-7)


def test_amounts_and_receptors_scaled_together_scale_the_solution():
    density = {n: 3.0 * p.value for n, p in RUNG.ode.parameters.items() if n.endswith(".receptor_density")}
    one = simulate(RUNG.ode, None, [GIVEN], [24.0])
    three = simulate(RUNG.ode, density, [replace(GIVEN, amount_nmol=270.0)], [24.0])
    np.testing.assert_allclose(three.amount_nmol.sel(label="total"), 3 * one.amount_nmol.sel(label="total"), rtol=1e-10)
    np.testing.assert_allclose(three.tia_mbq_h, one.tia_mbq_h, rtol=1e-10)


# --- one solver


@pytest.mark.parametrize(
    "given", [GIVEN, replace(GIVEN, residual_mbq=900.0), replace(GIVEN, duration_h=0.5)], ids=["bolus", "residual", "infusion"]
)
def test_the_rung_gives_what_simulate_gives_for_its_network(given):
    theta = draws(5)
    found = simulate_batch(RUNG.ode, by_name(theta), [given], np.unique(TIMES), end_h=12 * np.log(2) / DECAY, rtol=1e-8)
    wanted = found.sel(label="Lu-177", region=[r.name for r in REGIONS])
    np.testing.assert_allclose(RUNG.activity(theta, given, TIMES), wanted.activity_mbq.sel(time_h=TIMES), rtol=2e-5)
    np.testing.assert_allclose(RUNG.time_integrated_activity(theta, given), wanted.tia_mbq_h, rtol=2e-6)


def test_hours_count_from_the_administration_wherever_it_lies():
    theta = draws(2)
    np.testing.assert_array_equal(
        RUNG.activity(theta, replace(GIVEN, time_h=-100.0), TIMES), RUNG.activity(theta, GIVEN, TIMES)
    )


def test_regions_come_in_the_order_of_the_patient():
    backward = rung_for("compartmental", "PSMA-617", REGIONS[::-1])
    mean = {n: p.value for n, p in RUNG.parameters.items()}
    theta, turned = (np.log([[mean[n] for n in rung.parameters]]) for rung in (RUNG, backward))
    np.testing.assert_allclose(backward.activity(turned, GIVEN, TIMES)[:, ::-1], RUNG.activity(theta, GIVEN, TIMES), rtol=1e-6)


# --- derivatives


def differences(theta, times, step=0.02):
    """d ln activity / d theta -> (regions, t, n): fourth-order central differences of solves of tight tolerance."""
    n = theta.size
    shifts = np.concatenate([k * step * np.eye(n) for k in (1, -1, 2, -2)])
    found = simulate_batch(RUNG.ode, by_name(theta + shifts), [GIVEN], times, rtol=1e-11)
    wanted = found.activity_mbq.sel(label="Lu-177", region=[r.name for r in REGIONS])
    one, less, two, fewer = np.log(wanted.transpose("member", "region", "time_h").to_numpy()).reshape(4, n, len(REGIONS), -1)
    return np.moveaxis((8 * (one - less) - (two - fewer)) / (12 * step), 0, -1)


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_equals_differences_of_exact_solves(seed):
    theta = draws(1, seed)[0]
    found = RUNG.log_jacobian(theta, GIVEN, TIMES)
    assert found.shape == (len(REGIONS), TIMES.size, len(NAMES))
    np.testing.assert_allclose(found, differences(theta, TIMES), rtol=1e-5, atol=1e-5)


def test_the_gradient_is_that_of_sensitivities():
    theta = draws(1, 7)[0]
    times = np.unique(TIMES)
    values = {n: float(v[0]) for n, v in by_name(theta).items()}
    data = sensitivities(RUNG.ode, values, NAMES, [GIVEN], times, rtol=1e-6)
    chosen = data.sel(label="Lu-177", region=[r.name for r in REGIONS])
    wanted = (chosen.activity_slope / chosen.activity_mbq).transpose("region", "time_h", "parameter")
    np.testing.assert_allclose(RUNG.log_jacobian(theta, GIVEN, times), wanted, atol=3e-5)


def test_information_of_a_schedule_is_symmetric_and_grows_with_another_scan():
    def information(times):
        data = sensitivities(RUNG.ode, None, NAMES, [GIVEN], times)
        regions = [r.name for r in REGIONS]
        return fisher_information(data, "Lu-177", regions, np.full((len(regions), len(times)), 0.1))

    few, more = information([24.0, 72.0]), information([24.0, 72.0, 160.0])
    np.testing.assert_allclose(more, more.T, rtol=1e-12)
    assert np.linalg.eigvalsh(more - few).min() > -1e-9 * np.abs(more).max()
    assert np.linalg.matrix_rank(more) > np.linalg.matrix_rank(few)


# --- refusals


@pytest.mark.parametrize(
    ("overrides", "kind", "words"),
    [
        ({"plasma.clearence": 0.2}, "model.quantity", r"plasma\.clearence.*plasma\.clearance"),
        ({"kidney_left.release_rate": -0.1}, "model.value", r"kidney_left\.release_rate = -0\.1"),
        ({"release.returned": 1.2}, "model.value", r"returned = 1\.2"),
        ({"lesion/L1.volume": 0.0}, "model.value", r"lesion/L1\.volume = 0"),
        ({"liver.uptake_rate_per_ml": np.nan}, "model.value", r"liver\.uptake_rate_per_ml = nan"),
    ],
)
def test_a_parameter_that_cannot_be_meant_is_refused_by_name(overrides, kind, words):
    with pytest.raises(ModelError, match=words) as caught:
        simulate(RUNG.ode, overrides, [GIVEN], [24.0])
    assert caught.value.kind == kind
