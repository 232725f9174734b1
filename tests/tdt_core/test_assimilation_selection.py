"""Laws of the choice between rungs: closed forms of the linear case, limits of weights, identifiability, averaging."""

import dataclasses
import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tdt_core.assimilation import assimilate, build_problem, candidates, population_prior
from tdt_core.assimilation.candidates import climb
from tdt_core.assimilation.map_laplace import descend
from tdt_core.assimilation.selection import aicc, average, score, score_at, weigh
from tdt_core.assimilation.target import Target, laplace
from tdt_core.errors import EstimationError
from tdt_core.kinetics import rung_for
from tdt_core.twin import Administration, ErrorBudget, Evidence, Patient, Region, RegionActivity, Sample

REGIONS = (
    Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0, mass_g=168.0),
    Region("kidney_right", "kidneys", "64033007", "right", volume_ml=150.0, mass_g=157.0),
    Region("lesion/L1", "lesions", "52988006", tracking_id="L1", volume_ml=12.0, mass_g=12.5),
)
PATIENT = Patient("p1", "male", 70.0, 175.0, 80.0)
GIVEN = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
BUDGET = ErrorBudget(0.03, 0.04, 0.05, 0.03, 0.02, resolution=0.02)
TIMES = (4.0, 24.0, 72.0, 150.0)
EXPONENTIALS = ("monoexponential", "biexponential", "triexponential", "sum_of_exponentials")


def rung(name):
    return rung_for(name, "PSMA-617", REGIONS)


def measured(name, seed=0, times=TIMES, shift=0.0):
    """Evidence from the median of a rung, with every kind of error."""
    model, rng = rung(name), np.random.default_rng(seed)
    theta = (
        population_prior(rung("sum_of_exponentials")).mean if name == "sum_of_exponentials" else population_prior(model).mean
    )
    activity = model.activity(theta + shift, GIVEN, np.array(times))[0]
    calibration, resolution = 0.04 * rng.standard_normal(), rng.standard_normal()
    data = []
    for i, region in enumerate(REGIONS):
        recovery = BUDGET.shared * rng.standard_normal()
        for k, t in enumerate(times):
            error = calibration + 0.02 * resolution + recovery + np.hypot(BUDGET.independent, 0.04) * rng.standard_normal()
            value = float(activity[i, k] * np.exp(error))
            data.append(RegionActivity(region.name, t, value, value, 1.0, BUDGET, f"s{k}", "SPECT", "Lu-177", "cal"))
    return Evidence(1, PATIENT, (GIVEN,), REGIONS, tuple(data))


def only_uptake(model):
    """A prior that knows every rate, so that ln activity is linear in what it does not know."""
    prior = population_prior(model)
    free = np.array([n.endswith("uptake_per_ml") for n in prior.names])
    return dataclasses.replace(prior, covariance=prior.covariance * np.outer(free, free) + np.diag(np.where(free, 0.0, 1e-10)))


@pytest.fixture
def linear():
    """Problem, its posterior, and (d,), (d, d) mean and covariance of the data before they were seen."""
    model = rung("biexponential")
    prior, evidence = only_uptake(model), measured("biexponential", 3, shift=0.2)
    problem = build_problem(prior, evidence, model)
    posterior = assimilate(prior, evidence, model)
    h = problem.jacobian(problem.mean) @ problem.factor
    return problem, posterior, problem.predict(problem.mean)[0], h @ h.T + np.diag(problem.sd**2)


def test_the_evidence_of_a_linear_problem_is_its_closed_form(linear):
    problem, posterior, mean, covariance = linear
    found = score_at(problem, posterior.mean, problem.sd)
    exact = stats.multivariate_normal(mean, covariance).logpdf(problem.y)
    assert found.log_evidence == pytest.approx(exact, abs=1e-4)


def test_what_is_left_out_is_predicted_as_by_the_problem_without_it(linear):
    problem, posterior, mean, covariance = linear
    total = 0.0
    for i in range(problem.y.size):
        rest = np.arange(problem.y.size) != i
        gain = np.linalg.solve(covariance[np.ix_(rest, rest)], covariance[rest, i])
        centre = mean[i] + gain @ (problem.y - mean)[rest]
        total += stats.norm(centre, np.sqrt(covariance[i, i] - gain @ covariance[rest, i])).logpdf(problem.y[i])
    assert score_at(problem, posterior.mean, problem.sd).log_left_out == pytest.approx(total, abs=1e-4)


def test_the_likelihood_is_that_of_data_whose_shared_errors_are_integrated_out(linear):
    problem, posterior, _, _ = linear
    n = problem.n_model
    design = problem.jacobian(problem.mean)[:, n:] @ problem.factor[n:, n:]
    at = np.concatenate([posterior.mean[:n], problem.mean[n:]])
    error = np.diag(problem.sd**2) + design @ design.T
    exact = stats.multivariate_normal(problem.predict(at)[0], error).logpdf(problem.y)
    assert score_at(problem, posterior.mean, problem.sd).minus_two_log_likelihood == pytest.approx(-2 * exact, abs=1e-9)


def test_the_evidence_of_a_small_problem_that_is_not_linear_agrees_with_quadrature():
    model = rung_for("monoexponential", "PSMA-617", REGIONS[2:])
    prior = population_prior(model)
    full = measured("monoexponential", 5)
    evidence = dataclasses.replace(full, regions=REGIONS[2:], activities=full.activities[-len(TIMES) :])
    problem = build_problem(prior, evidence, model)
    noise = problem.jacobian(problem.mean)[:, 2:] @ problem.factor[2:, 2:]
    error = stats.multivariate_normal(cov=np.diag(problem.sd**2) + noise @ noise.T)
    posterior = assimilate(prior, evidence, model)
    centre, spread = posterior.mean[:2], np.sqrt(np.diag(posterior.covariance)[:2])
    axes = [c + s * np.linspace(-8, 8, 401) for c, s in zip(centre, spread, strict=True)]
    theta = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    nuisances = np.broadcast_to(problem.mean[2:], (len(theta), problem.mean.size - 2))
    predicted = problem.predict(np.concatenate([theta, nuisances], axis=1))
    density = error.logpdf(problem.y - predicted) + stats.multivariate_normal(prior.mean, prior.covariance).logpdf(theta)
    cell = np.prod([a[1] - a[0] for a in axes])
    exact = np.log(np.exp(density - density.max()).sum() * cell) + density.max()
    assert score(prior, evidence, model, posterior).log_evidence == pytest.approx(exact, abs=0.05)


def limited(by_sd):
    """A problem whose last datum is a limit that lies so many of its sd above what is predicted, the same without it, theta."""
    model, evidence = rung("biexponential"), measured("biexponential", 3)
    prior = population_prior(model)
    shorter = dataclasses.replace(evidence, activities=evidence.activities[:-1])
    without, whole = (build_problem(prior, e, model) for e in (shorter, evidence))
    theta = without.mean
    spread = whole.jacobian(theta)[-1, whole.n_model :] @ whole.factor[whole.n_model :, whole.n_model :]
    total = np.hypot(whole.sd[-1], np.linalg.norm(spread))
    last = np.arange(whole.y.size) == whole.y.size - 1
    y = np.where(last, whole.predict(theta)[0] + by_sd * total, whole.y)
    return dataclasses.replace(whole, y=y, below=last), without, theta


def test_a_limit_far_above_what_is_predicted_tells_nothing_of_a_rung():
    problem, without, theta = limited(20.0)
    found, plain = (score_at(p, theta, p.sd) for p in (problem, without))
    assert found.log_evidence == pytest.approx(plain.log_evidence, abs=1e-9)
    assert found.log_left_out == pytest.approx(plain.log_left_out, abs=1e-9)
    assert found.n_data == plain.n_data + 1


@pytest.mark.parametrize("by_sd", [1.0, 0.0, -3.0])
def test_a_limit_costs_the_probability_that_the_truth_is_below_it(by_sd):
    problem, without, theta = limited(by_sd)
    found, plain = (score_at(p, theta, p.sd) for p in (problem, without))
    cost = found.minus_two_log_likelihood - plain.minus_two_log_likelihood
    assert cost == pytest.approx(-2.0 * stats.norm.logcdf(by_sd), abs=1e-9)
    assert found.effective_parameters > plain.effective_parameters


def test_effective_parameters_count_those_that_the_data_determine(linear):
    problem, posterior, _, _ = linear
    loose = score_at(problem, posterior.mean, problem.sd)
    assert 2.0 < loose.effective_parameters < len(REGIONS)  # three uptakes are free, shared errors blur them
    known = dataclasses.replace(problem, sd=problem.sd * 1e6)
    assert score_at(known, posterior.mean, known.sd).effective_parameters < 1e-6


def test_a_wider_prior_costs_evidence_by_the_logarithm_and_hardly_any_left_out_density():
    """Each determined parameter whose prior is c times wider lowers the evidence by about ln c."""
    model, evidence = rung("biexponential"), measured("biexponential", 3)
    narrow = only_uptake(model)
    wide = dataclasses.replace(narrow, covariance=narrow.covariance * 100.0)
    scores = [score(p, evidence, model, assimilate(p, evidence, model)) for p in (narrow, wide)]
    identified = [s.effective_parameters for s in scores]
    assert scores[0].log_evidence - scores[1].log_evidence == pytest.approx(3 * np.log(10.0), rel=0.1)
    assert scores[0].log_left_out == pytest.approx(scores[1].log_left_out, abs=0.3)
    assert identified[1] >= identified[0]


def test_aicc_is_the_textbook_value_and_is_not_defined_for_too_few_data():
    assert aicc(10.0, 20, 3) == pytest.approx(10 + 6 + 24 / 16)
    assert aicc(10.0, 10**9, 3) == pytest.approx(16.0)
    assert aicc(10.0, 4, 3) is None
    assert aicc(10.0, 5, 3) == pytest.approx(10 + 6 + 24)


def test_weights_fall_back_to_the_evidence_and_say_which_rung_has_too_few_data():
    evidence = measured("biexponential")
    found = climb(EXPONENTIALS, "PSMA-617", evidence, GIVEN, basis="aicc", n_draws=50)
    assert found.weights.basis == "evidence"
    assert "triexponential (n = 12, k = 15)" in found.weights.reason
    assert "biexponential (n" not in found.weights.reason.replace("triexponential", "")
    few = climb(EXPONENTIALS[:2], "PSMA-617", evidence, GIVEN, basis="aicc", n_draws=50)
    assert (few.weights.basis, few.weights.reason) == ("aicc", "")
    values = {n: few.candidates[n].score.aicc for n in EXPONENTIALS[:2]}
    ratio = np.exp(-0.5 * (values["biexponential"] - values["monoexponential"]))
    assert few.weights.by_rung["biexponential"] / few.weights.by_rung["monoexponential"] == pytest.approx(ratio, rel=1e-9)


@given(st.lists(st.floats(-2000, 2000), min_size=1, max_size=6), st.floats(-500, 500))
@settings(max_examples=50, deadline=None)
def test_weights_sum_to_one_and_do_not_change_when_all_scores_shift(values, shift):
    base = score_at_example()
    first = weigh({f"r{i}": dataclasses.replace(base, log_evidence=v) for i, v in enumerate(values)}, "evidence").by_rung
    moved = weigh(
        {f"r{i}": dataclasses.replace(base, log_evidence=v + shift) for i, v in enumerate(values)}, "evidence"
    ).by_rung
    assert sum(first.values()) == pytest.approx(1.0)
    np.testing.assert_allclose(list(first.values()), list(moved.values()), atol=1e-9)
    best = max(range(len(values)), key=values.__getitem__)
    assert first[f"r{best}"] == max(first.values())


def score_at_example():
    problem = build_problem(population_prior(rung("monoexponential")), measured("monoexponential"), rung("monoexponential"))
    return score_at(problem, problem.mean, problem.sd)


def test_data_of_one_phase_choose_one_phase_and_data_of_uptake_refuse_it():
    late = climb(EXPONENTIALS[:2], "PSMA-617", measured("monoexponential", 1), GIVEN, basis="left_out", n_draws=50)
    assert late.weights.by_rung["monoexponential"] > 0.5
    times = (1.0, 2.0, 4.0, 8.0, 24.0, 72.0, 150.0)
    shift = np.array([1.5 if n.endswith("uptake_half_time") else 0.0 for n in rung("biexponential").parameters])
    early = climb(EXPONENTIALS[:2], "PSMA-617", measured("biexponential", 1, times, shift), GIVEN, basis="aicc", n_draws=50)
    assert early.weights.basis == "aicc"
    assert early.weights.by_rung["biexponential"] > 0.99


def test_scans_that_see_no_uptake_leave_its_half_time_to_the_prior():
    model = rung("biexponential")
    late = measured("biexponential", 2, (24.0, 72.0, 150.0))
    posterior = assimilate(population_prior(model), late, model)
    found = {p.name: p for p in score(population_prior(model), late, model, posterior).identified}
    for region in REGIONS:
        unseen, seen = found[f"{region.name}.uptake_half_time"], found[f"{region.name}.slow_half_time"]
        assert unseen.shrinkage < 0.1 < 0.5 < seen.shrinkage
        assert not unseen.passes
        assert seen.cv < 0.5
    worst = score(population_prior(model), late, model, posterior).identified[0]
    assert worst.name.endswith("uptake_half_time")


def test_identifiability_is_that_of_the_laplace_covariance():
    model, evidence = rung("triexponential"), measured("sum_of_exponentials", 4)
    prior = population_prior(model)
    posterior = assimilate(prior, evidence, model)
    found = {p.name: p for p in score(prior, evidence, model, posterior).identified}
    problem = build_problem(prior, evidence, model)
    target = Target(problem, problem.sd)
    fit = laplace(target, descend(target, np.linalg.solve(problem.factor, posterior.mean - problem.mean))[1])
    covariance = fit.cholesky @ fit.cholesky.T
    sd = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(sd, sd)
    prior_sd = np.sqrt(np.diag(prior.covariance))
    for i, name in enumerate(prior.names):
        assert found[name].shrinkage == pytest.approx(1 - sd[i] / prior_sd[i], abs=1e-5)
        assert found[name].cv == pytest.approx(np.sqrt(np.expm1(sd[i] ** 2)), rel=1e-4)
        partner = posterior.index(found[name].partner)
        assert found[name].correlation == pytest.approx(abs(correlation[i, partner]), abs=1e-5)
        assert found[name].passes == (found[name].cv < 0.5 and found[name].correlation < 0.8)


def test_a_rung_that_refuses_is_listed_with_its_reason_and_the_others_go_on():
    evidence = measured("biexponential")
    no_amount = dataclasses.replace(GIVEN, amount_nmol=None)
    evidence = dataclasses.replace(evidence, administrations=(no_amount,))
    found = climb(("compartmental", "biexponential"), "PSMA-617", evidence, no_amount, n_draws=50)
    assert list(found.candidates) == ["biexponential"]
    assert "ligand amount" in found.refused["compartmental"]
    with pytest.raises(EstimationError, match=r"no rung takes this evidence.*ligand amount"):
        climb(("compartmental",), "PSMA-617", evidence, no_amount, n_draws=50)


def test_a_fit_has_a_cost_and_does_not_depend_on_being_counted():
    ticks = iter((10.0, 12.5))
    evidence = measured("biexponential")
    found = climb(
        ("biexponential",), "PSMA-617", evidence, GIVEN, n_draws=50, seed=(4, 1), clock=lambda: next(ticks)
    ).candidates["biexponential"]
    alone = assimilate(population_prior(found.model), evidence, found.model, seed=(4, 1), n_draws=50)
    np.testing.assert_array_equal(found.posterior.draws, alone.draws)
    assert found.seconds == 2.5
    assert found.gradients > 4 + 2  # the starts, the optimum, the prior mean, and the steps between


# --- averaging


def test_the_average_is_a_mixture_with_its_mean_and_variance_and_repeats_by_seed():
    rng = np.random.default_rng(0)
    draws = {"a": rng.normal(1.0, 0.1, (4000, 2)), "b": rng.normal(3.0, 0.2, (4000, 2)), "c": rng.normal(9.0, 1.0, (4000, 2))}
    weights = {"a": 0.25, "b": 0.75, "c": 0.0}
    mixed = average(draws, weights, 4000, (3, 1))
    np.testing.assert_allclose(mixed.mean(axis=0), 0.25 * 1 + 0.75 * 3, atol=0.02)
    variance = 0.25 * (0.01 + 1.0) + 0.75 * (0.04 + 9.0) - 2.5**2
    np.testing.assert_allclose(mixed.var(axis=0), variance, rtol=0.03)
    np.testing.assert_array_equal(mixed, average(draws, weights, 4000, (3, 1)))
    assert not np.array_equal(mixed, average(draws, weights, 4000, (4, 1)))
    assert (mixed[:, 0] < 2).sum() == 1000  # shares are exact, not drawn


def test_rows_of_a_rung_stay_together_and_full_weight_returns_its_draws():
    draws = {"a": np.stack([np.arange(10.0), -np.arange(10.0)], axis=1), "b": np.zeros((10, 2))}
    mixed = average(draws, {"a": 1.0, "b": 0.0}, 10)
    np.testing.assert_array_equal(np.sort(mixed[:, 0]), np.arange(10.0))
    np.testing.assert_array_equal(mixed[:, 0], -mixed[:, 1])
    assert average(draws, {"a": 0.5, "b": 0.5}, 37).shape == (37, 2)


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"a": 0.0, "b": 0.0}, {"a": -1.0, "b": 2.0}, {"a": np.nan, "b": 1.0}])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(EstimationError, match="weights of"):
        average({"a": np.ones((3, 1)), "b": np.ones((3, 1))}, weights, 5)


def test_scores_of_different_data_and_an_unknown_basis_are_refused():
    base = score_at_example()
    with pytest.raises(EstimationError, match="different data"):
        weigh({"a": base, "b": dataclasses.replace(base, n_data=base.n_data - 1)})
    with pytest.raises(EstimationError, match="one of aicc"):
        weigh({"a": base}, "guess")
    with pytest.raises(EstimationError, match="no rung"):
        weigh({})


def test_a_counted_rung_says_that_its_curves_are_its_own_without_delegation():
    model = rung("biexponential")
    counted = candidates._CountedSeparable(model)
    # how `isinstance` looks at a protocol's members from Python 3.12 on
    assert all(inspect.getattr_static(counted, name, None) is not None for name in ("separable", "of_regions"))
    assert counted.separable == model.separable
    assert tuple(counted.of_regions(REGIONS[:1]).parameters) == tuple(model.of_regions(REGIONS[:1]).parameters)


def test_a_posterior_of_another_problem_cannot_be_scored():
    model = rung("biexponential")
    prior = population_prior(model)
    posterior = assimilate(prior, measured("biexponential"), model)
    with pytest.raises(EstimationError, match="another problem"):
        score(prior, measured("biexponential", times=TIMES[:2]), model, posterior)
    empty = Evidence(1, PATIENT, (GIVEN,), REGIONS)
    with pytest.raises(EstimationError, match="no datum"):
        score(prior, empty, model, assimilate(prior, empty, model))


def test_samples_that_one_rung_cannot_predict_do_not_refuse_it():
    """The ladder compares on images, which all rungs predict; the whole body alone knows blood."""
    images = measured("biexponential", 3)
    blood = Sample("blood", 4.0, 0.2, "Lu-177", 0.05)
    told = [
        climb(("biexponential", "reduced_body"), "PSMA-617", e, GIVEN, n_draws=50)
        for e in (images, dataclasses.replace(images, samples=(blood,)))
    ]
    assert not told[1].refused
    assert told[0].weights.by_rung == told[1].weights.by_rung
