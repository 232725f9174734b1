"""Laws of the estimators: Gauss-linear closed form, no data, failed members, agreement with each other, reproducible."""

import dataclasses
import importlib

import numpy as np
import pytest
from iterative_ensemble_smoother import ESMDA

from tdt_core.assimilation import assimilate, build_problem, estimators, population_prior
from tdt_core.assimilation.cluster import cluster_gauss_newton
from tdt_core.assimilation.ensemble import es_mda, ies
from tdt_core.assimilation.estimators import register
from tdt_core.assimilation.markov import effective_size, mcmc, split_r_hat
from tdt_core.assimilation.target import Target, laplace, sampled
from tdt_core.errors import EstimationError
from tdt_core.kinetics import rung_for
from tdt_core.twin import Administration, ErrorBudget, Evidence, Patient, Region, RegionActivity

REGIONS = (
    Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0, mass_g=168.0),
    Region("lesion/L1", "lesions", "52988006", tracking_id="L1", volume_ml=12.0, mass_g=12.5),
)
PATIENT = Patient("p1", "male", 70.0, 175.0, 80.0)
GIVEN = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
BUDGET = ErrorBudget(counts=0.03, calibration=0.04, partial_volume=0.05, segmentation=0.03, registration=0.02)
TIMES = (4.0, 24.0, 72.0, 150.0)
QUICK = {
    "es_mda": {"members": 2000},
    "ies": {"members": 600},
    "smc": {"members": 2000},
    "mcmc": {"draws": 500, "chains": 2, "warm_up": 100},
}
WITH_PRIOR = [name for name in estimators() if name != "least_squares"]


@pytest.fixture(scope="module")
def rung():
    return rung_for("sum_of_exponentials", "PSMA-617", REGIONS)


def measured(rung, theta, rng):
    """Evidence of four scans with 5 % noise."""
    activity = rung.activity(theta[None], GIVEN, np.array(TIMES))[0]
    data = []
    for i, region in enumerate(rung.regions):
        for k, t in enumerate(TIMES):
            value = float(activity[i, k] * np.exp(0.05 * rng.standard_normal()))
            data.append(RegionActivity(region.name, t, value, value, 1.0, BUDGET, f"s{k}", "SPECT", "Lu-177", "cal"))
    return Evidence(1, PATIENT, (GIVEN,), rung.regions, tuple(data))


@pytest.fixture(scope="module")
def evidence(rung):
    rng = np.random.default_rng(3)
    return measured(rung, population_prior(rung).draws(1, rng)[0], rng)


@pytest.fixture(scope="module")
def linear(rung):
    """A prior that lets only ln uptake vary, in which ln activity is linear: the posterior is known in closed form."""
    prior = population_prior(rung)
    uptake = np.array([name.endswith("uptake_per_ml") for name in prior.names])
    covariance = prior.covariance * np.outer(uptake, uptake) + np.diag(np.where(uptake, 0.0, 1e-12))
    return dataclasses.replace(prior, covariance=covariance)


@pytest.fixture(scope="module")
def linear_evidence(rung, linear):
    rng = np.random.default_rng(4)
    return measured(rung, linear.draws(1, rng)[0], rng)


def kalman(problem):
    h = problem.jacobian(problem.mean)
    p = problem.factor @ problem.factor.T
    s = h @ p @ h.T + np.diag(problem.sd**2)
    gain = p @ h.T @ np.linalg.inv(s)
    return problem.mean + gain @ (problem.y - problem.predict(problem.mean)[0]), p - gain @ s @ gain.T


@pytest.mark.parametrize("name", WITH_PRIOR)
def test_a_gauss_linear_problem_gives_the_kalman_update(name, rung, linear, linear_evidence):
    problem = build_problem(linear, linear_evidence, rung)
    mean, covariance = kalman(problem)
    found = assimilate(linear, linear_evidence, rung, name, options=QUICK.get(name), n_draws=2000)
    moving = np.sqrt(np.diag(covariance)) > 1e-3
    sd = np.sqrt(np.diag(covariance))[moving]
    assert np.abs((found.mean[moving] - mean[moving]) / sd).max() < 0.2
    np.testing.assert_allclose(np.sqrt(np.diag(found.covariance))[moving], sd, rtol=0.15)
    np.testing.assert_allclose(found.draws[:, moving].std(axis=0), sd, rtol=0.15)


@pytest.mark.parametrize("name", [n for n in estimators() if n != "mcmc"])
def test_no_data_leave_the_prior(name, rung):
    prior = population_prior(rung)
    found = assimilate(prior, Evidence(1, PATIENT, (GIVEN,), REGIONS), rung, name)
    sd = np.sqrt(np.diag(prior.covariance))
    assert np.abs((found.mean - prior.mean) / sd).max() < 0.2
    np.testing.assert_allclose(np.sqrt(np.diag(found.covariance)), sd, rtol=0.2)


@pytest.mark.parametrize("name", ["es_mda", "smc", "cluster_gauss_newton", "differential_evolution"])
def test_the_same_seed_gives_the_same_draws_and_another_one_others(name, rung, evidence):
    prior = population_prior(rung)
    a, b, c = (assimilate(prior, evidence, rung, name, seed=(s,)).draws for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("name", ["es_mda", "smc", "mcmc"])
def test_samplers_agree_with_the_laplace_fit_of_the_time_integrated_activity(name, rung, evidence):
    prior = population_prior(rung)
    n = len(rung.parameters)
    options = {"mcmc": {"draws": 700, "chains": 2}, "smc": {"members": 1500}}.get(name)
    logs = []
    for estimator in ("map", name):
        draws = assimilate(prior, evidence, rung, estimator, n_draws=1400, options=options if estimator == name else None).draws
        logs.append(np.log(rung.time_integrated_activity(draws[:, :n], GIVEN)))
    a, b = logs
    assert np.abs((a.mean(axis=0) - b.mean(axis=0)) / a.std(axis=0)).max() < 0.4
    np.testing.assert_allclose(a.std(axis=0), b.std(axis=0), rtol=0.3)


def test_es_mda_is_that_of_an_independent_implementation(rung, evidence):
    """Same equations and first members, other perturbations of the data: the members' mean and spread agree."""
    problem = build_problem(population_prior(rung), evidence, rung)
    target, members, steps = Target(problem, problem.sd), 4000, 2
    ours = es_mda(target, np.random.default_rng(1), members=members, steps=steps)
    z = np.random.default_rng(1).standard_normal((members, target.size)).T
    d = target.residuals(np.zeros((1, target.size)))[0]
    reference = ESMDA(np.ones(d.size), d, alpha=np.full(steps, float(steps)), seed=3)
    for _ in range(steps):
        reference.prepare_assimilation(Y=d[:, None] - target.residuals(z.T).T, truncation=1.0)
        z = reference.assimilate_batch(X=z)
    theirs = sampled(target, z.T)
    sd = np.linalg.norm(theirs.cholesky, axis=1)
    assert np.abs((ours.theta - theirs.theta) / sd).max() < 0.15
    np.testing.assert_allclose(np.linalg.norm(ours.cholesky, axis=1), sd, rtol=0.03)


class Failing:
    """A rung without a solution where its first parameter is more than 1 above its median."""

    def __init__(self, rung):
        self._rung, self._limit = rung, population_prior(rung).mean[0]

    def __getattr__(self, name):
        return getattr(self._rung, name)

    def activity(self, theta, administration, times_h):
        if (np.atleast_2d(theta)[:, 0] > self._limit + 1.0).any():
            raise EstimationError("no solution")
        return self._rung.activity(theta, administration, times_h)


@pytest.mark.parametrize("name", ["es_mda", "ies", "smc", "cluster_gauss_newton", "differential_evolution"])
def test_members_without_a_solution_are_left_out_and_the_others_go_on(name, rung, evidence):
    failing = Failing(rung)
    found = assimilate(
        population_prior(rung), evidence, failing, name, options={"members": 300} if name != "differential_evolution" else None
    )
    assert np.isfinite(found.draws).all()
    if name in ("es_mda", "ies"):
        assert found.diagnostics["estimator"]["failed_members"] > 0
    limit = population_prior(rung).mean[0] + 1.0
    assert found.mean[0] < limit


def test_a_batch_of_which_some_fail_says_which(rung, evidence):
    problem = build_problem(population_prior(rung), evidence, Failing(rung))
    z = np.zeros((7, problem.mean.size))
    sd = np.sqrt(population_prior(rung).covariance[0, 0])
    z[[1, 4], 0] = 2.0 / sd
    r = Target(problem, problem.sd).residuals(z)
    assert np.isinf(r).all(axis=1).tolist() == [False, True, False, False, True, False, False]


def test_least_squares_without_a_prior_is_nowhere_narrower_than_with_one(rung, linear, linear_evidence):
    plain, bayes = (assimilate(linear, linear_evidence, rung, e) for e in ("least_squares", "map"))
    values = np.linalg.eigvalsh(plain.covariance - bayes.covariance)
    assert values.min() > -1e-6
    assert values.max() > 1e-3
    # without a bound or a prior the search ends where the data lie: residuals no larger than with a prior
    misfit = [np.sum([row["z"] ** 2 for row in p.fit_report]) for p in (plain, bayes)]
    assert misfit[0] <= misfit[1] + 1e-6


def test_diagnostics_of_chains_know_independent_draws_from_correlated_and_from_separate_ones():
    rng = np.random.default_rng(0)
    free = rng.standard_normal((4, 500, 3))
    assert effective_size(free) == pytest.approx(np.full(3, 2000.0), rel=0.1)
    assert split_r_hat(free).max() < 1.01
    slow = np.zeros((4, 4000, 1))
    for i in range(1, 4000):
        slow[:, i] = 0.9 * slow[:, i - 1] + np.sqrt(1 - 0.81) * rng.standard_normal((4, 1))
    assert effective_size(slow)[0] == pytest.approx(16000 * 0.1 / 1.9, rel=0.25)
    assert split_r_hat(free + np.arange(4)[:, None, None])[0] > 1.5


def test_an_unknown_estimator_is_refused_by_name(rung, evidence):
    with pytest.raises(EstimationError, match="no estimator named"):
        assimilate(population_prior(rung), evidence, rung, "magic")


@pytest.mark.parametrize("estimator", [es_mda, ies, cluster_gauss_newton])
def test_an_ensemble_of_which_no_member_has_a_solution_is_refused_in_words(estimator, rung, evidence):
    class Without(Failing):
        def activity(self, theta, administration, times_h):
            raise EstimationError("no solution")

    problem = build_problem(population_prior(rung), evidence, Without(rung))
    with pytest.raises(EstimationError, match="0 members"):
        estimator(Target(problem, problem.sd), np.random.default_rng(1), members=20)


def test_an_ensemble_of_one_is_refused(rung, evidence):
    problem = build_problem(population_prior(rung), evidence, rung)
    with pytest.raises(EstimationError, match="1 members"):
        sampled(Target(problem, problem.sd), np.zeros((1, problem.mean.size)))


def test_the_reference_sampler_says_how_far_its_chains_mixed(rung, evidence):
    problem = build_problem(population_prior(rung), evidence, rung)
    fit = mcmc(Target(problem, problem.sd), np.random.default_rng(1), draws=300, chains=2, warm_up=100)
    assert 0.99 < fit.notes["r_hat"] < 1.1
    short = mcmc(Target(problem, problem.sd), np.random.default_rng(1), draws=20, chains=2, warm_up=20)
    assert 1 < short.notes["effective_size"] < fit.notes["effective_size"] <= 1200


def test_a_registered_estimator_is_one_of_them(rung, evidence, monkeypatch):
    monkeypatch.setattr(importlib.import_module("tdt_core.assimilation.estimators"), "_ESTIMATORS", {})
    register("as_it_was", lambda target, rng: laplace(target, np.zeros(target.size)))
    assert estimators() == ("as_it_was",)
    found = assimilate(population_prior(rung), evidence, rung, "as_it_was")
    np.testing.assert_allclose(found.mean[: len(rung.parameters)], population_prior(rung).mean)
