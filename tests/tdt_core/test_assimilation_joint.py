"""Laws of the fit of all cycles at once: Kalman filter and smoother where all is linear, gradients, changing regions."""

import dataclasses

import numpy as np
import pytest

from tdt_core.assimilation import (
    Prior,
    adapt,
    assimilate,
    build_problem,
    next_prior,
    population_prior,
    smooth_draws,
    transition,
)
from tdt_core.assimilation.experiment import simulated
from tdt_core.assimilation.joint import Cycle, build_joint, smooth
from tdt_core.assimilation.map_laplace import fit_map
from tdt_core.assimilation.target import Target
from tdt_core.errors import EstimationError
from tdt_core.kinetics import rung_for
from tdt_core.twin import Administration, ErrorBudget, Evidence, Patient, Region, RegionActivity

KIDNEY = Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0, mass_g=168.0)
LESION = Region("lesion/L1", "lesions", "52988006", tracking_id="L1", volume_ml=12.0, mass_g=12.5)
NEW = Region("lesion/L2", "lesions", "52988006", tracking_id="L2", volume_ml=8.0, mass_g=8.4)
BUDGET = ErrorBudget(counts=0.03, calibration=0.04, partial_volume=0.05, segmentation=0.03, registration=0.02)
INTERVAL = 1008.0


def plan(cycle, regions):
    start = (cycle - 1) * INTERVAL
    given = Administration(start, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
    data = tuple(
        RegionActivity(r.name, start + t, 1.0, 1.0, 1.0, BUDGET, f"s{cycle}-{t}", "SPECT", "Lu-177", f"camera {cycle}")
        for r in regions
        for t in (4.0, 24.0, 72.0, 150.0)
    )
    return Evidence(cycle, Patient("p1", "male", 70.0, 175.0, 80.0), (given,), tuple(regions), data)


def course(regions_by_cycle, prior_of=population_prior, seed=1):
    """Cycles with drawn evidence, and the first prior."""
    rng = np.random.default_rng(seed)
    cycles, theta, prior = [], None, None
    for k, regions in enumerate(regions_by_cycle, start=1):
        rung = rung_for("sum_of_exponentials", "PSMA-617", tuple(regions))
        born = prior_of(rung)
        if prior is None:
            prior, theta = born, dict(zip(born.names, born.draws(1, rng)[0], strict=True))
        theta = {name: theta.get(name, mean) for name, mean in zip(born.names, born.mean, strict=True)}
        evidence = simulated(plan(k, regions), rung, np.array(list(theta.values())), rng)
        cycles.append(Cycle(rung, evidence, transition(rung, k, INTERVAL, treated=True)))
    return prior, cycles


def only_uptake(rung):
    prior = population_prior(rung)
    uptake = np.array([name.endswith("uptake_per_ml") for name in prior.names])
    covariance = prior.covariance * np.outer(uptake, uptake) + np.diag(np.where(uptake, 0.0, 1e-12))
    return dataclasses.replace(prior, covariance=covariance)


def still(step, rung):
    """A transition that moves uptake only, so that the course stays linear."""
    uptake = np.array([name.endswith("uptake_per_ml") for name in step.names])
    return dataclasses.replace(
        step,
        phi=np.where(uptake, step.phi, 1.0),
        offset=np.where(uptake, step.offset, 0.0),
        noise=step.noise * np.outer(uptake, uptake) + np.diag(np.where(uptake, 0.0, 1e-12)),
    )


def linear_course():
    prior, cycles = course([[KIDNEY, LESION]] * 3, only_uptake)
    return prior, [dataclasses.replace(c, onward=still(c.onward, c.rung)) for c in cycles]


def filtered(prior, cycles):
    posteriors = []
    for i, c in enumerate(cycles):
        if i:
            prior = adapt(next_prior(posteriors[-1], cycles[i - 1].onward, "x"), c.rung)
        posteriors.append(assimilate(prior, c.evidence, c.rung, n_draws=4000))
    return posteriors


def fit(prior, cycles):
    found = smooth(prior, cycles, filtered(prior, cycles))
    return found.problem, found.fit


def test_where_all_is_linear_the_last_cycle_is_the_kalman_filters():
    prior, cycles = linear_course()
    problem, found = fit(prior, cycles)
    last = filtered(prior, cycles)[-1]
    n = len(prior.names)
    position = problem.of(2)
    covariance = found.cholesky @ found.cholesky.T
    np.testing.assert_allclose(found.theta[position], last.mean[:n], atol=1e-3)
    np.testing.assert_allclose(covariance[np.ix_(position, position)], last.covariance[:n, :n], atol=2e-5)


def test_where_all_is_linear_earlier_cycles_are_those_of_the_backward_smoother():
    prior, cycles = linear_course()
    problem, found = fit(prior, cycles)
    posteriors = filtered(prior, cycles)
    n = len(prior.names)
    draws = posteriors[2].draws[:, :n]
    covariance = found.cholesky @ found.cholesky.T
    for k in (1, 0):
        draws = smooth_draws(posteriors[k], cycles[k].onward, prior.names, draws, np.random.default_rng(k))
        position = problem.of(k)
        moving = np.sqrt(np.diag(covariance)[position]) > 1e-3
        sd = np.sqrt(np.diag(covariance)[position])[moving]
        assert np.abs((draws.mean(axis=0)[moving] - found.theta[position][moving]) / sd).max() < 0.1
        np.testing.assert_allclose(draws.std(axis=0)[moving], sd, rtol=0.07)


def test_one_cycle_is_the_ordinary_problem():
    prior, cycles = course([[KIDNEY, LESION]])
    joint, single = build_joint(prior, cycles), build_problem(prior, cycles[0].evidence, cycles[0].rung)
    np.testing.assert_allclose(joint.mean, single.mean)
    np.testing.assert_allclose(joint.factor, single.factor, atol=1e-12)
    theta = single.mean + 0.1
    np.testing.assert_allclose(joint.predict(theta), single.predict(theta))
    np.testing.assert_allclose(joint.jacobian(theta), single.jacobian(theta))


def test_the_joint_prior_of_each_cycle_is_the_prior_carried_on():
    prior, cycles = course([[KIDNEY, LESION], [KIDNEY, LESION, NEW], [KIDNEY, NEW]])
    problem = build_joint(prior, cycles)
    covariance = problem.factor @ problem.factor.T
    carried = prior
    for k, c in enumerate(cycles):
        if k:
            before = cycles[k - 1].onward
            carried = adapt(Prior(before.names, *before.moments(carried.mean, carried.covariance), "x"), c.rung)
        position = problem.of(k)
        np.testing.assert_allclose(problem.mean[position], carried.mean, atol=1e-12)
        np.testing.assert_allclose(covariance[np.ix_(position, position)], carried.covariance, atol=1e-9)


def test_the_jacobian_equals_central_differences():
    prior, cycles = course([[KIDNEY, LESION], [KIDNEY, LESION, NEW]])
    problem = build_joint(prior, cycles)
    theta = problem.mean + 0.1 * problem.factor @ np.random.default_rng(2).standard_normal(problem.mean.size)
    steps = 1e-5 * np.eye(theta.size)
    differences = (problem.predict(theta + steps) - problem.predict(theta - steps)).T / 2e-5
    np.testing.assert_allclose(problem.jacobian(theta), differences, atol=1e-6)


def test_a_later_cycle_tells_of_an_earlier_one():
    prior, cycles = course([[KIDNEY, LESION]] * 2, seed=4)
    problem, found = fit(prior, cycles)
    alone = assimilate(prior, cycles[0].evidence, cycles[0].rung)
    n = len(prior.names)
    position = problem.of(0)
    covariance = (found.cholesky @ found.cholesky.T)[np.ix_(position, position)]
    assert np.linalg.slogdet(covariance)[1] < np.linalg.slogdet(alone.covariance[:n, :n])[1] - 0.5


def test_a_course_must_say_how_it_goes_on():
    prior, cycles = course([[KIDNEY, LESION]] * 2)
    with pytest.raises(EstimationError, match="how they go on"):
        build_joint(prior, [dataclasses.replace(cycles[0], onward=None), cycles[1]])
    with pytest.raises(EstimationError, match="0 cycles"):
        build_joint(prior, [])


def test_the_fit_from_where_the_filter_ended_is_that_of_many_starts():
    prior, cycles = course([[KIDNEY, LESION], [KIDNEY, LESION, NEW]], seed=6)
    found = smooth(prior, cycles, filtered(prior, cycles))
    starts = fit_map(Target(found.problem, found.problem.sd), np.random.default_rng(0))
    assert found.fit.objectives[0] == pytest.approx(min(starts.objectives), abs=0.01)
    mean, covariance = found.moments(1)
    drawn = found.draws(6000, np.random.default_rng(1))[1]
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.05)
    np.testing.assert_allclose(drawn.std(axis=0), np.sqrt(np.diag(covariance)), rtol=0.05)


def test_a_posterior_of_other_evidence_is_refused():
    prior, cycles = course([[KIDNEY, LESION]])
    posterior = filtered(prior, cycles)[0]
    short = dataclasses.replace(
        cycles[0], evidence=dataclasses.replace(cycles[0].evidence, activities=cycles[0].evidence.activities[:3])
    )
    with pytest.raises(EstimationError, match="8 data"):
        smooth(prior, [short], [posterior])
