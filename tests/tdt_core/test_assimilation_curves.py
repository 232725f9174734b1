"""Curves of their own, drawn by tempered Monte Carlo: exact where importance sampling is, and at peace with all else."""

import dataclasses

import numpy as np
import pytest
from drawn_case import BUDGET, GIVEN, KIDNEYS, LESION, LIVER, TIMES, by_importance, drawn, target_of

from tdt_core.assimilation import assimilate
from tdt_core.assimilation.curves import _tied, with_tempered_curves
from tdt_core.assimilation.map_laplace import fit_map
from tdt_core.assimilation.target import draws_of
from tdt_core.kinetics.ladder import Separable


@pytest.mark.parametrize("seed", [1, 4, 7])
def test_the_default_fit_of_a_curve_is_that_of_importance_sampling_where_laplace_is_not(seed):
    rung, prior, evidence = drawn((LIVER,), seed)
    mean, sd, effective = by_importance(rung, prior, evidence, 400_000)
    assert effective > 4000
    found = assimilate(prior, evidence, rung, seed=(seed,), n_draws=4000)
    laplace = assimilate(prior, evidence, rung, seed=(seed,), n_draws=4000, options={"most_moves": 0})
    off, was = (np.abs(p.draws.mean(axis=0) - mean) / sd for p in (found, laplace))
    assert off.max() < 0.12
    assert np.abs(found.draws.std(axis=0) / sd - 1.0).max() < 0.2
    assert was.max() > max(0.18, off.max())


def redrawn(rung, prior, evidence, seed=5, count=2000):
    target, rng = target_of(rung, prior, evidence), np.random.default_rng(seed)
    before = draws_of(fit_map(target, rng), count, rng)
    return target.problem, before, *with_tempered_curves(target, before, rng)


def test_curves_follow_the_calibration_that_they_share():
    """One factor of 30 % for all regions: predicted data spread as little as data err, not by that factor."""
    budget = dataclasses.replace(BUDGET, calibration=0.3)
    rung, prior, evidence = drawn((LIVER, LESION), 3, budget=budget)
    problem, before, after, again = redrawn(rung, prior, evidence)
    np.testing.assert_array_equal(after[:, ~again], before[:, ~again])
    shared = [n for n, mine in zip(problem.names, again, strict=True) if not mine]
    assert shared == ["scanner.calibration/cal"]
    posterior = assimilate(prior, evidence, rung, seed=(3,), n_draws=2000).draws
    spread = [problem.predict(x).std(axis=0) for x in (after, posterior)]
    np.testing.assert_allclose(*spread, rtol=0.15)
    assert spread[0].max() < 0.5 * budget.calibration


def test_regions_that_the_prior_ties_are_drawn_together():
    rung, prior, evidence = drawn((*KIDNEYS, LIVER, LESION), 4)
    problem = target_of(rung, prior, evidence).problem
    assert [[r.name for r in group] for group in _tied(problem, rung.regions)] == [
        ["kidney_left", "kidney_right"],
        ["liver"],
        ["lesion/L1"],
    ]


def test_only_regions_outside_the_body_are_drawn_again_and_only_with_data():
    rung, prior, evidence = drawn((*KIDNEYS, LIVER), 5, "whole_body")
    assert isinstance(rung, Separable)
    problem, before, after, again = redrawn(rung, prior, evidence, count=60)
    owners = {n.rpartition(".")[0] for n, mine in zip(problem.names, again, strict=True) if mine}
    assert owners == {"liver"}
    np.testing.assert_array_equal(after[:, ~again], before[:, ~again])
    unseen = dataclasses.replace(evidence, activities=tuple(a for a in evidence.activities if a.region != "liver"))
    assert not redrawn(rung, prior, unseen, count=60)[3].any()


def test_a_region_alone_is_the_curve_that_it_is_in_the_rung():
    rung, prior, _ = drawn((*KIDNEYS, LIVER), 6, "whole_body")
    theta = prior.draws(3, np.random.default_rng(1))
    alone = rung.of_regions(rung.separable)
    own = [list(prior.names).index(n) for n in alone.parameters]
    row = [r.name for r in rung.regions].index("liver")
    whole = rung.activity(theta, GIVEN, np.array(TIMES))[:, row]
    np.testing.assert_allclose(alone.activity(theta[:, own], GIVEN, np.array(TIMES))[:, 0], whole, rtol=1e-12)
