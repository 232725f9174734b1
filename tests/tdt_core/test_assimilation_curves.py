"""Curves of their own, drawn by tempered Monte Carlo: exact where importance sampling is, and at peace with all else."""

import dataclasses

import numpy as np
import pytest

from tdt_core.assimilation import assimilate, build_problem, population_prior
from tdt_core.assimilation.curves import _tied, with_tempered_curves
from tdt_core.assimilation.experiment import simulated
from tdt_core.assimilation.map_laplace import fit_map
from tdt_core.assimilation.target import Target, draws_of
from tdt_core.kinetics import rung_for
from tdt_core.kinetics.ladder import Separable
from tdt_core.twin import Administration, ErrorBudget, Evidence, Patient, Region, RegionActivity

KIDNEYS = tuple(Region(f"kidney_{s}", "kidneys", "64033007", s, volume_ml=160.0, mass_g=168.0) for s in ("left", "right"))
LESION = Region("lesion/L1", "lesions", "52988006", tracking_id="L1", volume_ml=12.0, mass_g=12.5)
LIVER = Region("liver", "liver", "10200004", volume_ml=1700.0, mass_g=1780.0)
GIVEN = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
BUDGET = ErrorBudget(counts=0.08, calibration=0.05, partial_volume=0.05, segmentation=0.03, registration=0.02)
TIMES = (24.0, 72.0, 150.0)


def planned(regions, budget=BUDGET, times=TIMES):
    data = [
        RegionActivity(region.name, t, 1.0, 1.0, 1.0, budget, f"scan-{t}", "SPECT", "Lu-177", "cal")
        for region in regions
        for t in times
    ]
    return Evidence(1, Patient("p1", "male", 70.0, 175.0, 80.0), (GIVEN,), regions, tuple(data))


def drawn(regions, seed, name="sum_of_exponentials", **plan):
    rng = np.random.default_rng(seed)
    rung = rung_for(name, "PSMA-617", regions)
    prior = population_prior(rung)
    return rung, prior, simulated(planned(regions, **plan), rung, prior.draws(1, rng)[0], rng)


def by_importance(prior, evidence, rung, count=400_000):
    """Mean and sd of the parameters from weighted draws of the prior, and their effective number."""
    problem = build_problem(prior, evidence, rung)
    target = Target(problem, problem.sd)
    z = np.random.default_rng(9).standard_normal((count, target.size))
    log_weight = -0.5 * np.square(target.residuals(z)).sum(axis=1)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    theta = target.theta(z)
    mean = weight @ theta
    return mean, np.sqrt(weight @ (theta - mean) ** 2), 1.0 / (weight @ weight)


@pytest.mark.parametrize("seed", [1, 4, 7])
def test_the_default_fit_of_a_curve_is_that_of_importance_sampling_where_laplace_is_not(seed):
    rung, prior, evidence = drawn((LIVER,), seed)
    mean, sd, effective = by_importance(prior, evidence, rung)
    assert effective > 4000
    found = assimilate(prior, evidence, rung, seed=(seed,), n_draws=4000)
    laplace = assimilate(prior, evidence, rung, seed=(seed,), n_draws=4000, options={"most_moves": 0})
    off, was = (np.abs(p.draws.mean(axis=0) - mean) / sd for p in (found, laplace))
    assert off.max() < 0.12
    assert np.abs(found.draws.std(axis=0) / sd - 1.0).max() < 0.2
    assert was.max() > max(0.18, off.max())


def redrawn(rung, prior, evidence, seed=5, count=2000):
    problem = build_problem(prior, evidence, rung)
    target, rng = Target(problem, problem.sd), np.random.default_rng(seed)
    before = draws_of(fit_map(target, rng), count, rng)
    return problem, before, *with_tempered_curves(target, before, rng)


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
    problem = build_problem(prior, evidence, rung)
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
