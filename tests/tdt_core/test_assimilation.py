"""Laws of assimilation: closed forms, information, order, correlation of errors, drift, coverage."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tdt_core.assimilation import Prior, adapt, assimilate, build_problem, population_prior, smooth_draws, transition
from tdt_core.errors import EstimationError, InputError
from tdt_core.kinetics import rung_for
from tdt_core.parameters import packaged_table
from tdt_core.twin import Administration, ErrorBudget, Evidence, Patient, Region, RegionActivity

REGIONS = (
    Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0, mass_g=168.0),
    Region("kidney_right", "kidneys", "64033007", "right", volume_ml=150.0, mass_g=157.0),
    Region("lesion/L1", "lesions", "52988006", tracking_id="L1", volume_ml=12.0, mass_g=12.5),
    Region("rest", "rest", "", volume_ml=68000.0, mass_g=70000.0),
)
PATIENT = Patient("p1", "male", 70.0, 175.0, 80.0)
GIVEN = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
BUDGET = ErrorBudget(counts=0.03, calibration=0.04, partial_volume=0.05, segmentation=0.03, registration=0.02)
TIMES = (4.0, 24.0, 72.0, 150.0)


def synthetic(rung, theta, rng, times=TIMES, budget=BUDGET, cycle=1):
    activity = rung.activity(theta, GIVEN, np.array(times))[0]
    calibration = budget.calibration * rng.standard_normal()
    data = []
    for i, region in enumerate(rung.regions):
        recovery = budget.shared * rng.standard_normal()
        for k, t in enumerate(times):
            noise = np.hypot(budget.independent, 0.05) * rng.standard_normal()
            value = float(activity[i, k] * np.exp(calibration + recovery + noise))
            data.append(RegionActivity(region.name, t, value, value, 1.0, budget, f"s{k}", "SPECT", "Lu-177", "cal"))
    return Evidence(cycle, PATIENT, (GIVEN,), rung.regions, tuple(data))


@pytest.fixture
def rung():
    return rung_for("sum_of_exponentials", "PSMA-617", REGIONS)


def test_evidence_without_activities_leaves_the_prior(rung):
    prior = population_prior(rung)
    posterior = assimilate(prior, Evidence(1, PATIENT, (GIVEN,), REGIONS), rung)
    np.testing.assert_allclose(posterior.mean, prior.mean)
    np.testing.assert_allclose(posterior.covariance, prior.covariance, atol=1e-9)
    assert posterior.diagnostics["n_obs"] == 0


def test_a_gauss_linear_problem_gives_the_kalman_update(rung):
    """With rates known exactly ln activity is linear in ln uptake, so the MAP is the Kalman update in closed form."""
    prior = population_prior(rung)
    uptake = np.array([name.endswith("uptake_per_ml") for name in prior.names])
    covariance = prior.covariance * np.outer(uptake, uptake) + np.diag(np.where(uptake, 0.0, 1e-12))
    prior = dataclasses.replace(prior, covariance=covariance)
    evidence = synthetic(rung, prior.mean[None] + 0.3 * uptake, np.random.default_rng(1))
    posterior = assimilate(prior, evidence, rung)
    problem = build_problem(prior, evidence, rung)
    h = problem.jacobian(problem.mean)
    p = problem.factor @ problem.factor.T
    s = h @ p @ h.T + np.diag(problem.sd**2)
    gain = p @ h.T @ np.linalg.inv(s)
    expected = problem.mean + gain @ (problem.y - problem.predict(problem.mean)[0])
    np.testing.assert_allclose(posterior.mean, expected, atol=2e-4)
    np.testing.assert_allclose(posterior.covariance, p - gain @ s @ gain.T, atol=1e-6)


def test_the_order_of_the_data_does_not_matter(rung):
    evidence = synthetic(rung, population_prior(rung).draws(1, np.random.default_rng(2)), np.random.default_rng(3))
    shuffled = dataclasses.replace(evidence, activities=evidence.activities[::-1])
    a, b = (assimilate(population_prior(rung), e, rung) for e in (evidence, shuffled))
    n = len(rung.parameters)
    np.testing.assert_array_equal(a.mean[:n], b.mean[:n])
    np.testing.assert_array_equal(a.covariance[:n, :n], b.covariance[:n, :n])
    np.testing.assert_array_equal(a.draws, b.draws)


def test_the_same_seed_gives_the_same_draws_and_another_seed_others(rung):
    evidence = synthetic(rung, population_prior(rung).mean[None], np.random.default_rng(3))
    a, b, c = (assimilate(population_prior(rung), evidence, rung, seed=(s, 1)) for s in (5, 5, 6))
    np.testing.assert_array_equal(a.draws, b.draws)
    assert not np.array_equal(a.draws, c.draws)


def test_more_scans_never_widen_the_time_integrated_activity(rung):
    theta = population_prior(rung).draws(1, np.random.default_rng(4))
    widths = []
    for times in (TIMES[1:2], TIMES[1:3], TIMES):
        evidence = synthetic(rung, theta, np.random.default_rng(5), times)
        posterior = assimilate(population_prior(rung), evidence, rung, n_draws=4000)
        n = len(rung.parameters)
        widths.append(np.log(rung.time_integrated_activity(posterior.draws[:, :n], GIVEN)).std(axis=0))
    assert (widths[0] > widths[1] * 0.97).all()
    assert (widths[1] > widths[2] * 0.97).all()


def test_a_shared_calibration_error_cannot_be_averaged_away(rung):
    """However many precise scans there are, the uptake is never known better than the calibration."""
    exact = ErrorBudget(counts=1e-3, calibration=0.05, partial_volume=0.0, segmentation=1e-4, registration=0.0)
    evidence = synthetic(
        rung, population_prior(rung).mean[None], np.random.default_rng(6), tuple(np.linspace(2, 200, 40)), exact
    )
    posterior = assimilate(population_prior(rung), evidence, rung, n_draws=4000)
    n = len(rung.parameters)
    spread = np.log(rung.time_integrated_activity(posterior.draws[:, :n], GIVEN)).std(axis=0)
    assert (spread > 0.045).all()


def test_a_gross_outlier_is_marked_and_widened_not_dropped(rung):
    evidence = synthetic(rung, population_prior(rung).mean[None], np.random.default_rng(7))
    broken = list(evidence.activities)
    broken[2] = dataclasses.replace(broken[2], activity_mbq=broken[2].activity_mbq * 20)
    posterior = assimilate(population_prior(rung), dataclasses.replace(evidence, activities=tuple(broken)), rung)
    (row,) = (r for r in posterior.fit_report if (r["region"], r["time_h"]) == (broken[2].region, broken[2].time_h))
    assert row["status"] == "outlier"
    assert row["sd_log"] > 3 * max(r["sd_log"] for r in posterior.fit_report if r["status"] == "active")


def test_a_datum_without_positive_activity_is_reported_missing(rung):
    evidence = synthetic(rung, population_prior(rung).mean[None], np.random.default_rng(8))
    broken = (dataclasses.replace(evidence.activities[0], activity_mbq=0.0), *evidence.activities[1:])
    posterior = assimilate(population_prior(rung), dataclasses.replace(evidence, activities=broken), rung)
    assert [r["status"] for r in posterior.fit_report].count("missing") == 1
    assert posterior.diagnostics["n_left_out"] == 1


def test_an_activity_before_its_administration_is_refused(rung):
    evidence = synthetic(rung, population_prior(rung).mean[None], np.random.default_rng(9))
    early = (dataclasses.replace(evidence.activities[0], time_h=-3.0), *evidence.activities[1:])
    with pytest.raises(InputError, match="no earlier administration"):
        assimilate(population_prior(rung), dataclasses.replace(evidence, activities=early), rung)


def test_an_unknown_estimator_and_a_foreign_prior_are_refused(rung):
    evidence = synthetic(rung, population_prior(rung).mean[None], np.random.default_rng(9))
    with pytest.raises(EstimationError, match="no estimator"):
        assimilate(population_prior(rung), evidence, rung, estimator="guess")
    with pytest.raises(EstimationError, match="different parameters"):
        assimilate(population_prior(rung_for("sum_of_exponentials", "PSMA-617", REGIONS[:2])), evidence, rung)


def test_drift_widens_every_parameter_and_lowers_only_lesion_uptake(rung):
    prior = population_prior(rung)
    covariance = prior.covariance * 0.01
    mean, moved = transition(rung, 1, 1008.0, treated=True).moments(prior.mean, covariance)
    assert (np.diag(moved) > np.diag(covariance)).all()
    shift = dict(zip(prior.names, mean - prior.mean, strict=True))
    assert shift.pop("lesion/L1.uptake_per_ml") == pytest.approx(np.log(0.73))
    np.testing.assert_allclose(list(shift.values()), 0.0, atol=1e-12)
    untreated, _ = transition(rung, 1, 1008.0, treated=False).moments(prior.mean, covariance)
    np.testing.assert_allclose(untreated, prior.mean, atol=1e-12)


@pytest.mark.parametrize("hours", [24.0, 1008.0, 2500.0])
def test_two_intervals_move_parameters_as_one_of_their_length(rung, hours):
    """Without treatment only time passes, however it is cut: mean reversion and drift both belong to an interval."""
    prior = population_prior(rung)
    mean, covariance = prior.mean + 0.3, prior.covariance * 0.2
    once = transition(rung, 1, hours, treated=False).moments(mean, covariance)
    half = transition(rung, 1, hours / 2, treated=False)
    for found, wanted in zip(half.moments(*half.moments(mean, covariance)), once, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)
    assert not np.allclose(once[0], mean, atol=1e-6)


def test_pre_therapy_to_first_cycle_does_not_drift(rung):
    prior = population_prior(rung)
    at_once = transition(rung, 1, 0.0, treated=True).noise
    assert np.linalg.eigvalsh(at_once).min() > 0.0  # a drift that can be learned from
    mean, covariance = transition(rung, 0, 200.0, treated=True).moments(prior.mean + 0.1, prior.covariance * 0.5)
    np.testing.assert_allclose(mean, prior.mean + 0.1)
    np.testing.assert_allclose(covariance, prior.covariance * 0.5)


def test_a_cycle_before_the_last_one_is_refused(rung):
    with pytest.raises(EstimationError, match="before this one"):
        transition(rung, 1, -1.0, treated=True)


def test_draws_through_a_transition_have_its_moments(rung):
    prior = population_prior(rung)
    step = transition(rung, 1, 1008.0, treated=True)
    draws = step.draws(prior.draws(40_000, np.random.default_rng(1)), np.random.default_rng(2))
    mean, covariance = step.moments(prior.mean, prior.covariance)
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(draws.std(axis=0), np.sqrt(np.diag(covariance)), rtol=0.03)


def test_smoothing_with_an_uninformative_next_cycle_returns_the_filtered_posterior(rung):
    evidence = synthetic(rung, population_prior(rung).mean[None], np.random.default_rng(3))
    posterior = assimilate(population_prior(rung), evidence, rung, n_draws=20)
    n = len(rung.parameters)
    step = transition(rung, 1, 1008.0, treated=True)
    mean, covariance = step.moments(posterior.mean[:n], posterior.covariance[:n, :n])
    rng = np.random.default_rng(4)
    following = mean + rng.standard_normal((40_000, n)) @ np.linalg.cholesky(covariance).T
    back = smooth_draws(posterior, step, step.names, following, rng)
    np.testing.assert_allclose(back.mean(axis=0), posterior.mean[:n], atol=0.03)
    np.testing.assert_allclose(back.std(axis=0), np.sqrt(np.diag(posterior.covariance)[:n]), rtol=0.04)


def test_a_new_lesion_is_born_from_the_population_and_a_vanished_one_is_marginalised(rung):
    prior = dataclasses.replace(population_prior(rung), mean=population_prior(rung).mean + 1.0)
    regions = (
        *REGIONS[:2],
        Region("lesion/L2", "lesions", "52988006", tracking_id="L2", volume_ml=5.0, mass_g=5.0),
        REGIONS[3],
    )
    other = rung_for("sum_of_exponentials", "PSMA-617", regions)
    adapted = adapt(prior, other)
    born = population_prior(other)
    for i, name in enumerate(adapted.names):
        expected = born.mean[i] if name.startswith("lesion/L2") else born.mean[i] + 1.0
        assert adapted.mean[i] == pytest.approx(expected)
    np.linalg.cholesky(adapted.covariance + 1e-12 * np.eye(len(adapted.names)))


def test_a_region_seen_later_is_what_the_population_says_given_what_is_known(rung):
    """The population of one kidney carried to two is the population of two; known exactly, the second is like the first."""
    both = population_prior(rung)
    one = population_prior(rung_for("sum_of_exponentials", "PSMA-617", REGIONS[:1]))
    kidneys = [i for i, name in enumerate(both.names) if name.startswith(("kidney_left.", "kidney_right."))]
    carried = adapt(one, rung)
    np.testing.assert_allclose(carried.mean, both.mean)
    np.testing.assert_allclose(
        carried.covariance[np.ix_(kidneys, kidneys)], both.covariance[np.ix_(kidneys, kidneys)], atol=1e-12
    )
    sd = np.sqrt(np.diag(one.covariance))
    high = adapt(Prior(one.names, one.mean + sd, 1e-12 * np.eye(len(sd)), "state"), rung)
    left, right = (both.names.index(f"kidney_{side}.uptake_per_ml") for side in ("left", "right"))
    share = both.covariance[left, right] / both.covariance[right, right]
    assert share > 0.5
    assert high.mean[right] - both.mean[right] == pytest.approx(share * sd[one.names.index(both.names[left])])
    assert high.covariance[right, right] == pytest.approx((1 - share**2) * both.covariance[right, right], rel=1e-6)


def test_imaging_agent_data_inform_less_than_therapy_data(rung):
    pet = Administration(-100.0, "Ga-68-PSMA-11", "PSMA-11", "Ga-68", 150.0, intent="imaging")
    value = rung.activity(population_prior(rung).mean[None], pet, np.array([1.0]))[0, 0, 0]
    datum = RegionActivity("kidney_left", -99.0, value, value, 1.0, BUDGET, "pet", "PET", "Ga-68", "pet")
    posterior = assimilate(population_prior(rung), Evidence(0, PATIENT, (pet,), REGIONS, (datum,)), rung)
    i = posterior.index("kidney_left.uptake_per_ml")
    prior_sd = np.sqrt(population_prior(rung).covariance[i, i])
    spect = synthetic(rung, population_prior(rung).mean[None], np.random.default_rng(1), (4.0,))
    therapy = assimilate(population_prior(rung), spect, rung)
    assert np.sqrt(therapy.covariance[i, i]) < np.sqrt(posterior.covariance[i, i]) < prior_sd


def test_ninety_percent_intervals_cover_on_patients_drawn_from_the_prior(rung):
    """A smoke test of calibration: 60 patients x 4 regions; the exact bounds are for the long suite."""
    prior = population_prior(rung)
    rng = np.random.default_rng(11)
    n = len(rung.parameters)
    hits = []
    two_j = []
    for _ in range(60):
        theta = prior.draws(1, rng)
        posterior = assimilate(prior, synthetic(rung, theta, rng), rung, n_draws=400)
        tia = rung.time_integrated_activity(posterior.draws[:, :n], GIVEN)
        truth = rung.time_integrated_activity(theta, GIVEN)[0]
        low, high = np.quantile(tia, [0.05, 0.95], axis=0)
        hits.append((low <= truth) & (truth <= high))
        two_j.append(posterior.diagnostics["two_j_per_n"])
    assert 0.84 < np.mean(hits) < 0.96
    assert 0.8 < np.mean(two_j) < 1.2


@pytest.mark.parametrize("scans", [1, 2])
def test_few_scans_still_give_a_finite_posterior(rung, scans):
    evidence = synthetic(rung, population_prior(rung).mean[None], np.random.default_rng(12), TIMES[:scans])
    posterior = assimilate(population_prior(rung), evidence, rung)
    assert np.isfinite(posterior.draws).all()


def test_the_compartmental_rung_fits_its_own_data():
    rung = rung_for("compartmental", "PSMA-617", REGIONS)
    prior = population_prior(rung)
    theta = prior.draws(1, np.random.default_rng(13))
    posterior = assimilate(prior, synthetic(rung, theta, np.random.default_rng(14)), rung, n_draws=100)
    tia = rung.time_integrated_activity(posterior.draws[:, : len(rung.parameters)], GIVEN)
    truth = rung.time_integrated_activity(theta, GIVEN)[0]
    assert (np.abs(np.log(np.median(tia, axis=0) / truth)) < 0.35).all()
    assert posterior.diagnostics["two_j_per_n"] < 2.5


def test_an_early_pet_at_its_expected_ratio_to_the_therapy_curve_tells_nothing_against_the_population(rung):
    """The kidneys of a PET at 1 h stand well above the curve of the therapy; the known ratio must not become more dose."""
    prior = population_prior(rung)
    pet = Administration(-100.0, "PET", "PSMA-11", "Ga-68", 160.0, amount_nmol=3.0, intent="imaging")
    at = rung.activity(prior.mean[None], pet, np.array([1.0]))[0, :, 0]
    table = packaged_table("assimilation.csv")
    ratio = {"kidneys": table.value("transfer.PSMA-617.kidneys"), "lesions": table.value("transfer.PSMA-617.lesions"),
             "rest": table.value("transfer.PSMA-617.rest")}  # fmt: skip
    assert ratio["kidneys"] > 1
    values = {r.name: float(a * np.exp(ratio[r.organ])) for r, a in zip(rung.regions, at, strict=True)}
    data = tuple(RegionActivity(n, -99.0, v, v, 1.0, BUDGET, "pet", "PET", "Ga-68", "pet") for n, v in values.items())
    evidence = Evidence(0, PATIENT, (pet,), REGIONS, data)
    posterior = assimilate(prior, evidence, rung, options={"most_moves": 0})  # at its best point
    n = len(prior.names)
    before = rung.time_integrated_activity(prior.mean[None], GIVEN)[0]
    after = rung.time_integrated_activity(posterior.mean[None, :n], GIVEN)[0]
    np.testing.assert_allclose(after, before, rtol=1e-3)
    assert posterior.diagnostics["two_j"] < 1e-3


def test_variants_of_the_whole_body_take_its_calibration_and_curves_their_own():
    """A PET of the kidneys stands 1.7 times above what the whole body says and 5 times above what a curve says of that time."""
    table = packaged_table("assimilation.csv")
    regions = (Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0, mass_g=168.0),)
    given = Administration(0.0, "Ga-68-PSMA-11", "PSMA-11", "Ga-68", 160.0, amount_nmol=3.0, intent="imaging")
    budget = ErrorBudget(counts=0.03, calibration=0.04, partial_volume=0.05, segmentation=0.03, registration=0.02)
    seen = RegionActivity("kidney_left", 1.0, 5.0, 5.0, 1.0, budget, "s", "PET", "Ga-68", "cal")
    evidence = Evidence(0, Patient("p", "male", 70.0, 175.0, 80.0), (given,), regions, (seen,))
    for name in ("whole_body", "reduced_body", "lumped_body", "whole_body_albumin", "sum_of_exponentials"):
        rung = rung_for(name, "PSMA-617", regions)
        problem = build_problem(population_prior(rung), evidence, rung)
        row = "transfer.PSMA-617.kidneys" if name == "sum_of_exponentials" else "transfer.whole_body.PSMA-617.kidneys"
        at = problem.names.index("kidney_left.transfer")
        assert (problem.mean[at], problem.factor[at, at]) == pytest.approx((table.value(row), table[row].sd))


def test_the_example_of_the_documentation_runs_and_says_what_it_says(capsys):
    text = (Path(__file__).parents[2] / "docs" / "assimilation.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    exec(compile(code, "docs/assimilation.md", "exec"), {})
    said = [float(x) for x in code.rsplit("# ", 1)[1].split(",")]
    assert [float(x) for x in capsys.readouterr().out.split()] == pytest.approx(said, rel=0.05)
