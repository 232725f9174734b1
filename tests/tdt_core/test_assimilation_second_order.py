"""The expansion to second order: exact at its place and in closed forms, third order off elsewhere; draws by way of it."""

import numpy as np
import pytest
from drawn_case import KIDNEYS, LESION, LIVER, by_importance, drawn, target_of

from tdt_core.assimilation import assimilate
from tdt_core.assimilation.map_laplace import fit_map
from tdt_core.assimilation.second_order import expanded
from tdt_core.errors import EstimationError

REGIONS = (KIDNEYS[0], LESION, LIVER)


@pytest.fixture(scope="module")
def both():
    target = target_of(*drawn(REGIONS, 2, "whole_body", times=(24.0, 96.0)))
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


def test_there_is_nothing_to_expand_in_curves_alone():
    target = target_of(*drawn(REGIONS, 2))
    assert expanded(target, fit_map(target, np.random.default_rng(1))) is None


def test_a_model_without_a_solution_one_sd_away_is_not_expanded(both, monkeypatch):
    target, fit, _ = both
    solved = type(target.problem.model).log_jacobian
    best = target.theta(fit.z)[: target.problem.n_model]

    def ends(self, theta, *given):
        if (theta[:, 0] > best[0] + 1e-9).any():
            raise EstimationError("no solution there")
        return solved(self, theta, *given)

    def breaks_down(self, theta, *given):
        found = solved(self, theta, *given)
        found[theta[:, 0] > best[0] + 1e-9] = np.nan
        return found

    for there in (ends, breaks_down):
        monkeypatch.setattr(type(target.problem.model), "log_jacobian", there)
        assert expanded(target, fit) is None


def test_draws_by_way_of_the_expansion_are_those_of_weighted_draws_of_the_prior():
    """One kidney, one scan: seven parameters and nuisances, whose posterior is known from a hundred thousand solves."""
    rung, prior, evidence = drawn(KIDNEYS[:1], 2, "whole_body", times=(24.0,))
    mean, sd, effective = by_importance(rung, prior, evidence, 100_000)
    assert effective > 3000
    found = assimilate(prior, evidence, rung, seed=(1,), n_draws=2000)
    assert found.diagnostics["estimator"]["accepted"] > 0.7
    assert (np.abs(found.draws.mean(axis=0) - mean) / sd).max() < 0.12
    np.testing.assert_allclose(found.draws.std(axis=0), sd, rtol=0.1)
    assert (np.abs(found.mean - found.draws.mean(axis=0)) / sd).max() < 0.1
