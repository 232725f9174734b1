"""The expansion to second order: exact at its place and in closed forms, third order off elsewhere; draws by way of it."""

import dataclasses

import numpy as np
import pytest

from tdt_core.assimilation import assimilate, build_problem, population_prior
from tdt_core.assimilation.experiment import simulated
from tdt_core.assimilation.map_laplace import fit_map
from tdt_core.assimilation.second_order import expanded
from tdt_core.assimilation.target import Target
from tdt_core.errors import EstimationError
from tdt_core.kinetics import rung_for
from tdt_core.twin import Administration, ErrorBudget, Evidence, Patient, Region, RegionActivity

REGIONS = (
    Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0, mass_g=168.0),
    Region("lesion/L1", "lesions", "52988006", tracking_id="L1", volume_ml=12.0, mass_g=12.5),
    Region("liver", "liver", "10200004", volume_ml=1700.0, mass_g=1780.0),
)
GIVEN = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
BUDGET = ErrorBudget(counts=0.04, calibration=0.05, partial_volume=0.05, segmentation=0.03, registration=0.02)
TIMES = (24.0, 96.0)


def drawn(name="whole_body", regions=REGIONS, seed=2):
    data = tuple(
        RegionActivity(r.name, t, 1.0, 1.0, 1.0, BUDGET, f"scan-{t}", "SPECT", "Lu-177", "cal") for r in regions for t in TIMES
    )
    plan = Evidence(1, Patient("p1", "male", 70.0, 175.0, 80.0), (GIVEN,), regions, data)
    rng = np.random.default_rng(seed)
    rung = rung_for(name, "PSMA-617", regions)
    prior = population_prior(rung)
    return rung, prior, simulated(plan, rung, prior.draws(1, rng)[0], rng)


@pytest.fixture(scope="module")
def both():
    rung, prior, evidence = drawn()
    problem = build_problem(prior, evidence, rung)
    target = Target(problem, problem.sd)
    fit = fit_map(target, np.random.default_rng(1))
    return target, fit, expanded(target, fit)


def test_at_its_place_it_is_the_problem_and_curves_and_nuisances_are_everywhere(both):
    target, fit, near = both
    theta = target.theta(fit.z)
    np.testing.assert_allclose(near.predicted(theta), target.predicted(theta), atol=1e-9)
    problem = target.problem
    body = np.array([d.name != "liver" for d in problem.data])
    other = np.array([not n.startswith(("kidney_left.", "lesion/L1.", "body.", "blood.")) for n in problem.names])
    other[problem.n_model :] = True
    away = theta + np.where(other, np.random.default_rng(2).standard_normal((20, theta.size)), 0.0)
    np.testing.assert_allclose(near.predicted(away), target.predicted(away), atol=1e-9)
    everywhere = target.theta(np.random.default_rng(3).standard_normal((20, theta.size)))
    np.testing.assert_allclose(near.predicted(everywhere)[:, ~body], target.predicted(everywhere)[:, ~body], atol=1e-9)


def test_what_it_lacks_is_of_third_order(both):
    target, fit, near = both
    steps = np.random.default_rng(4).standard_normal((10, target.size)) @ fit.cholesky.T
    error = [np.abs(near.predicted(fit.theta + s * steps) - target.predicted(fit.theta + s * steps)).max(axis=1)
             for s in (1.0, 0.5)]  # fmt: skip
    linear = target.predicted(fit.theta[None])[0] + steps @ target.problem.jacobian(fit.theta).T
    assert np.median(error[0] / error[1]) == pytest.approx(8.0, rel=0.4)
    assert (error[0] < np.abs(linear - target.predicted(fit.theta + steps)).max(axis=1)).mean() > 0.8


def test_there_is_nothing_to_expand_in_curves_alone_nor_where_the_model_ends():
    rung, prior, evidence = drawn("sum_of_exponentials")
    problem = build_problem(prior, evidence, rung)
    target = Target(problem, problem.sd)
    assert expanded(target, fit_map(target, np.random.default_rng(1))) is None


def test_a_model_without_a_solution_one_sd_away_is_not_expanded(both, monkeypatch):
    target, fit, _ = both

    def none_there(self, *args):
        raise EstimationError("no solution there")

    monkeypatch.setattr(type(target.problem.model), "log_jacobian", none_there)
    assert expanded(target, fit) is None


def test_draws_by_way_of_the_expansion_are_those_of_weighted_draws_of_the_prior():
    """One kidney, one scan: seven parameters and nuisances, whose posterior is known from a hundred thousand solves."""
    rung, prior, evidence = drawn(regions=REGIONS[:1])
    evidence = dataclasses.replace(evidence, activities=evidence.activities[:1])
    problem = build_problem(prior, evidence, rung)
    target = Target(problem, problem.sd)
    z = np.random.default_rng(9).standard_normal((100_000, target.size))
    log_weight = -0.5 * np.square(target.residuals(z)).sum(axis=1)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    assert 1.0 / (weight @ weight) > 3000
    theta = target.theta(z)
    mean = weight @ theta
    sd = np.sqrt(weight @ (theta - mean) ** 2)
    found = assimilate(prior, evidence, rung, seed=(1,), n_draws=2000)
    assert found.diagnostics["estimator"]["accepted"] > 0.7
    assert (np.abs(found.draws.mean(axis=0) - mean) / sd).max() < 0.12
    np.testing.assert_allclose(found.draws.std(axis=0), sd, rtol=0.1)
    np.testing.assert_allclose(found.mean, found.draws.mean(axis=0), atol=0.1 * sd.max())
