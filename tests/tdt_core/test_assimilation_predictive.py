"""Checks of data against the fitted model: closed form, uniform for a right model, extreme for a wrong scan."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tdt_core.assimilation import assimilate, build_problem, population_prior
from tdt_core.assimilation.experiment import simulated
from tdt_core.assimilation.predictive import extreme, surprise
from tdt_core.assimilation.target import Target
from tdt_core.kinetics import rung_for
from tdt_core.twin import Administration, ErrorBudget, Evidence, Patient, Region, RegionActivity, Sample

REGIONS = (
    Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0, mass_g=168.0),
    Region("lesion/L1", "lesions", "52988006", tracking_id="L1", volume_ml=12.0, mass_g=12.5),
    Region("liver", "liver", "10200004", volume_ml=1600.0, mass_g=1680.0),
)
GIVEN = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
BUDGET = ErrorBudget(counts=0.03, calibration=0.04, partial_volume=0.05, segmentation=0.03, registration=0.02)
TIMES = (4.0, 24.0, 72.0, 168.0)
PLAN = Evidence(
    1,
    Patient("p1", "male", 70.0, 175.0, 80.0),
    (GIVEN,),
    REGIONS,
    tuple(
        RegionActivity(r.name, t, 1.0, 1.0, 1.0, BUDGET, f"scan-{t:g}", "SPECT", "Lu-177", "cal")
        for r in REGIONS
        for t in TIMES
    ),
)


@pytest.fixture(scope="module")
def rung():
    return rung_for("sum_of_exponentials", "PSMA-617", REGIONS)


def fitted(rung, seed, prior=None, change=lambda a: a):
    prior = prior or population_prior(rung)
    rng = np.random.default_rng(seed)
    evidence = simulated(PLAN, rung, prior.draws(1, rng)[0], rng)
    evidence = replace(evidence, activities=tuple(change(a) for a in evidence.activities))
    return evidence, assimilate(prior, evidence, rung, seed=(seed,), n_draws=200, options={"starts": 1})


def rows(posterior):
    return {(g["what"], g["name"]): g for g in posterior.diagnostics["predictive"]["groups"]}


def test_a_group_is_held_against_a_fit_without_it(rung):
    """Where all is linear: the Kalman prediction of one scan from the prior and the other scans."""
    prior = population_prior(rung)
    uptake = np.array([name.endswith("uptake_per_ml") for name in prior.names])
    prior = replace(prior, covariance=prior.covariance * np.outer(uptake, uptake) + np.diag(np.where(uptake, 0.0, 1e-12)))
    evidence, posterior = fitted(rung, 1, prior)
    problem = build_problem(prior, evidence, rung)
    h = problem.jacobian(problem.mean) @ problem.factor
    covariance = h @ h.T + np.diag(problem.sd**2)
    e = problem.y - problem.predict(problem.mean)[0]
    own = np.array([d.source.scan == "scan-72" for d in problem.data])
    gain = covariance[np.ix_(own, ~own)] @ np.linalg.inv(covariance[np.ix_(~own, ~own)])
    left = e[own] - gain @ e[~own]
    spread = covariance[np.ix_(own, own)] - gain @ covariance[np.ix_(~own, own)]
    expected = stats.chi2.sf(left @ np.linalg.solve(spread, left), own.sum())
    assert rows(posterior)["scan", "scan-72"]["p_left_out"] == pytest.approx(expected, rel=2e-3)
    assert rows(posterior)["all", "all data"]["p_left_out"] == pytest.approx(
        stats.chi2.sf(e @ np.linalg.solve(covariance, e), e.size), rel=2e-3
    )


def test_replicated_shares_are_those_of_replicates_drawn(rung):
    evidence, posterior = fitted(rung, 2)
    problem = build_problem(population_prior(rung), evidence, rung)
    rng = np.random.default_rng(3)
    theta = np.repeat(posterior.draws, 40, axis=0)
    predicted = problem.predict(theta)
    replicates = predicted + problem.sd * rng.standard_normal(predicted.shape)
    ours, theirs = ((np.asarray(y) - predicted) / problem.sd for y in (problem.y, replicates))
    for name in ("kidney_left", "liver"):
        own = np.array([d.name == name for d in problem.data])
        for key, measure in (
            ("p_replicated", lambda r: np.square(r).sum(axis=1)),
            ("p_largest", lambda r: np.abs(r).max(axis=1)),
        ):
            drawn = (measure(theirs[:, own]) >= measure(ours[:, own])).mean()
            assert rows(posterior)["region", name][key] == pytest.approx(drawn, abs=0.02)
    below = (replicates <= problem.y).mean(axis=0)
    told = [row["p_replicated"] for row in posterior.fit_report]
    np.testing.assert_allclose(told, 2 * np.minimum(below, 1 - below), atol=0.03)


def test_left_out_p_values_are_uniform_where_the_model_is_right_and_replicated_ones_crowd_in_the_middle(rung):
    found = [fitted(rung, seed)[1] for seed in range(1000, 1150)]
    for key in (
        ("region", "kidney_left"),
        ("region", "lesion/L1"),
        ("scan", "scan-24"),
        ("scan", "scan-168"),
        ("all", "all data"),
    ):
        p = np.array([rows(x)[key]["p_left_out"] for x in found])
        assert stats.kstest(p, "uniform").pvalue > 0.001, key
    data = np.array([[row["p_left_out"] for row in x.fit_report] for x in found])
    assert min(stats.kstest(column, "uniform").pvalue for column in data.T) > 0.001
    replicated = np.array([rows(x)["all", "all data"]["p_replicated"] for x in found])
    assert (replicated < 0.05).mean() < 0.05
    assert replicated.std() < 1 / np.sqrt(12)
    assert np.mean([bool(x.diagnostics["predictive"]["extreme"]) for x in found]) < 0.05


def test_a_scan_that_was_done_later_than_its_record_says_stands_out(rung):
    def early(a):
        return replace(a, activity_mbq=a.activity_mbq * 0.7) if a.scan == "scan-24" else a

    least = []
    for seed in range(10):
        _, posterior = fitted(rung, seed, change=early)
        assert "scan-24" in {row["name"] for row in posterior.diagnostics["predictive"]["extreme"]}
        p = {name: row["p_left_out"] for (what, name), row in rows(posterior).items() if what == "scan"}
        least.append(min(p, key=p.get))
    # what one wrong scan of four does to the fit without another one may look as strange
    assert least.count("scan-24") >= 6


def test_checks_are_extreme_by_their_number(rung):
    groups = [{"name": str(i), "p_left_out": 0.5, "p_replicated": 0.5, "p_largest": 0.5} for i in range(10)]
    assert extreme(groups) == []
    groups[3]["p_largest"], groups[7]["p_left_out"] = 1e-4, 1e-6
    assert [row["name"] for row in extreme(groups)] == ["7", "3"]
    groups[3]["p_largest"] = 4e-4  # below 0.01, and no more than 30 checks bring by chance
    assert [row["name"] for row in extreme(groups)] == ["7"]


def test_without_data_there_is_nothing_to_check_and_limits_are_left_out():
    rung = rung_for("whole_body", "PSMA-617", REGIONS[:1])
    prior = population_prior(rung)
    nothing = assimilate(prior, Evidence(1, PLAN.patient, (GIVEN,), REGIONS[:1]), rung, n_draws=20)
    assert nothing.diagnostics["predictive"] == {"groups": [], "extreme": []}
    limit = Sample("blood", 100.0, 1.0, "Lu-177", 0.05, below=True)
    seen = replace(PLAN, regions=REGIONS[:1], activities=PLAN.activities[1:2], samples=(limit,))
    posterior = assimilate(prior, simulated(seen, rung, prior.mean, np.random.default_rng(1)), rung, n_draws=20)
    assert set(rows(posterior)) == {("region", "kidney_left"), ("scan", "scan-24"), ("all", "all data")}
    assert ["p_left_out" in row for row in posterior.fit_report] == [True, False]


class Bent:
    """Three data of two parameters, growing faster than exp(theta_0): the linearised prior says little of it."""

    mean, factor, below = np.zeros(2), np.array([[1.0, 0.0], [0.4, 0.9]]), np.zeros(3, dtype=bool)

    def __init__(self, y=np.zeros(3)):
        self.y = y

    def predict(self, theta):
        theta = np.atleast_2d(theta)
        return np.stack([np.exp(1.5 * theta[:, 0]), theta[:, 0] * theta[:, 1], theta[:, 1] ** 2], axis=1)


def test_surprise_is_uniform_for_a_right_model_however_bent_and_small_for_a_wrong_one():
    rng, sd = np.random.default_rng(3), np.array([0.1, 0.3, 0.2])
    found = []
    for _ in range(400):
        truth = rng.standard_normal(2) @ Bent.factor.T
        y = Bent().predict(truth)[0] + sd * rng.standard_normal(3)
        found.append(surprise(Target(Bent(y), sd), rng))
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert np.mean(np.array(found) < 0.02) < 0.05
    assert surprise(Target(Bent(np.array([0.0, 0.0, -20.0])), sd), rng) < 0.005
    unseen = Bent()
    unseen.below = np.ones(3, dtype=bool)
    assert surprise(Target(unseen, sd), rng) is None
    unseen.below = np.array([True, True, False])
    assert 0.0 < surprise(Target(unseen, sd), rng) <= 1.0
