"""Laws of data that are no region's activity at one time: frames, blood, excreta, whole body, limits of quantification."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tdt_core.assimilation import Prior, assimilate, build_problem, population_prior
from tdt_core.assimilation.experiment import simulated
from tdt_core.assimilation.inflation import innovation
from tdt_core.assimilation.target import Target, censored
from tdt_core.errors import InputError
from tdt_core.kinetics import rung_for
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration, ErrorBudget, Evidence, Patient, Region, RegionActivity, Sample

REGIONS = (
    Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0, mass_g=168.0),
    Region("kidney_right", "kidneys", "64033007", "right", volume_ml=150.0, mass_g=157.0),
    Region("liver", "liver", "10200004", volume_ml=1600.0, mass_g=1680.0),
)
PATIENT = Patient("p1", "male", 70.0, 175.0, 80.0)
GIVEN = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
BUDGET = ErrorBudget(counts=0.03, calibration=0.04, partial_volume=0.05, segmentation=0.03, registration=0.02)
LAMBDA = nuclide("Lu-177").decay_constant_per_h


def blood(t, value=0.1, **rest):
    return Sample("blood", t, value, "Lu-177", 0.05, **rest)


def excreta(start, end, value=100.0):
    return Sample("excreta", start, value, "Lu-177", 0.05, until_h=end)


def body(t, value=1000.0):
    return Sample("whole_body", t, value, "Lu-177", 0.05)


def evidence(*samples, activities=()):
    return Evidence(1, PATIENT, (GIVEN,), REGIONS, tuple(activities), samples=tuple(samples))


def image(region, t, value=100.0, **rest):
    return RegionActivity(region, t, value, value, 1.0, BUDGET, f"s{t}", "SPECT", "Lu-177", "cal", **rest)


@pytest.fixture(scope="module")
def rung():
    return rung_for("whole_body", "PSMA-617", REGIONS)


@pytest.fixture(scope="module")
def curves():
    return rung_for("sum_of_exponentials", "PSMA-617", REGIONS)


def test_a_collection_that_ends_as_the_time_axis_begins_holds_at_its_end(rung):
    before = replace(GIVEN, time_h=-48.0)
    given = replace(evidence(excreta(-46.0, 0.0)), administrations=(before,))
    later = evidence(excreta(2.0, 48.0))
    assert problem_of(rung, given).data[0].time_h == 0.0
    theta = population_prior(rung).mean
    shifted, plain = (problem_of(rung, x) for x in (given, later))
    np.testing.assert_allclose(
        shifted.predict(np.append(theta, shifted.mean[len(theta) :])), plain.predict(np.append(theta, plain.mean[len(theta) :]))
    )


@pytest.mark.parametrize("end", [None, -1.0, 0.0, 5.0, np.nan, np.inf])
def test_a_collection_that_does_not_end_after_its_start_is_refused(end):
    with pytest.raises(InputError):
        excreta(5.0, end)


def problem_of(rung, given):
    return build_problem(population_prior(rung), given, rung)


def test_what_is_in_the_body_and_what_has_left_it_are_the_administered_activity(rung):
    theta = population_prior(rung).draws(4, np.random.default_rng(1))
    times = np.array([0.5, 4.0, 24.0, 200.0])
    seen = rung.compartment_activity(theta, GIVEN, times)
    total = seen[:, rung.compartments.index("excreta")] + seen[:, rung.compartments.index("whole_body")]
    np.testing.assert_allclose(total, np.broadcast_to(7400.0 * np.exp(-LAMBDA * times), total.shape), rtol=2e-4)
    assert (np.diff(seen[:, rung.compartments.index("excreta")] * np.exp(LAMBDA * times), axis=1) > 0).all()


def test_blood_starts_near_the_injected_activity_per_volume_and_falls(rung):
    theta = population_prior(rung).mean[None]
    concentration = rung.compartment_activity(theta, GIVEN, np.array([0.01, 0.1, 1.0, 24.0, 72.0]))[0, 0]
    assert (np.diff(concentration) < 0).all()
    assert concentration[0] < 7400.0 / 400.0  # MBq/mL, were all in a pool of 400 mL of blood
    assert concentration[2] < 7400.0 / 5000.0  # after an hour less than if all were still in 5 L of blood


def test_collections_one_after_the_other_add_up_to_one_decayed_to_its_end(rung):
    parts, whole = (
        problem_of(rung, evidence(excreta(0.0, 4.0), excreta(4.0, 24.0))),
        problem_of(rung, evidence(excreta(0.0, 24.0))),
    )
    first, second = np.exp(parts.predict(parts.mean)[0])
    assert first * np.exp(-LAMBDA * 20.0) + second == pytest.approx(np.exp(whole.predict(whole.mean)[0, 0]), rel=1e-9)


def test_a_frame_may_begin_with_the_administration_and_not_before(curves):
    first = image("liver", 0.5, duration_h=1.0)
    assert problem_of(curves, evidence(activities=[first])).y.size == 1
    with pytest.raises(InputError, match="holds an administration"):
        problem_of(curves, evidence(activities=[replace(first, time_h=0.4)]))


def test_a_frame_is_the_mean_of_the_activity_over_it(curves):
    short, long = image("liver", 1.0), image("liver", 1.0, duration_h=1.6)
    at, over = (problem_of(curves, evidence(activities=[a])) for a in (short, long))
    theta = population_prior(curves).draws(5, np.random.default_rng(2))
    grid = np.linspace(0.2, 1.8, 2001)
    row = [r.name for r in REGIONS].index("liver")
    mean = np.trapezoid(curves.activity(theta, GIVEN, grid)[:, row], grid, axis=1) / 1.6
    nuisances = np.tile(over.mean[over.n_model :], (5, 1))
    np.testing.assert_allclose(np.exp(over.predict(np.hstack([theta, nuisances]))[:, 0]), mean, rtol=2e-4)
    assert at.predict(at.mean)[0, 0] != pytest.approx(over.predict(over.mean)[0, 0], abs=1e-6)


@pytest.mark.parametrize("name", ["whole_body", "sum_of_exponentials"])
def test_the_jacobian_of_every_kind_of_datum_equals_central_differences(name):
    rung = rung_for(name, "PSMA-617", REGIONS)
    samples = [blood(1.0), blood(30.0), excreta(0.0, 4.0), excreta(4.0, 24.0), body(2.0), body(72.0)]
    images = [image("liver", 24.0), image("kidney_left", 1.0, duration_h=0.5), image("kidney_left", 72.0)]
    problem = problem_of(rung, evidence(*(samples if name == "whole_body" else []), activities=images))
    theta = problem.mean + 0.2 * problem.factor @ np.random.default_rng(3).standard_normal(problem.mean.size)
    steps = 1e-4 * np.eye(theta.size)
    differences = (problem.predict(theta + steps) - problem.predict(theta - steps)).T / 2e-4
    np.testing.assert_allclose(problem.jacobian(theta), differences, atol=2e-3)


def test_samples_narrow_what_images_of_organs_cannot_tell(rung):
    rng = np.random.default_rng(4)
    theta = population_prior(rung).draws(1, rng)[0]
    images = [image(r.name, t) for r in REGIONS for t in (4.0, 24.0, 72.0)]
    samples = [blood(t) for t in (0.5, 2.0, 24.0)] + [body(t) for t in (1.0, 24.0, 72.0)]
    seen = simulated(evidence(*samples, activities=images), rung, theta, rng)
    with_samples, without = (assimilate(population_prior(rung), e, rung) for e in (seen, replace(seen, samples=())))
    n = len(rung.parameters)
    log_det = [np.linalg.slogdet(p.covariance[:n, :n])[1] for p in (with_samples, without)]
    assert log_det[0] < log_det[1] - 1.0
    assert {row["status"] for row in with_samples.fit_report} <= {"active", "outlier"}
    assert [row["unit"] for row in with_samples.fit_report if row["region"] == "blood"] == ["MBq/mL"] * 3


def test_a_rung_that_knows_no_blood_leaves_samples_out_and_says_so(curves):
    posterior = assimilate(population_prior(curves), evidence(blood(1.0), activities=[image("liver", 24.0)]), curves)
    missing = [row for row in posterior.fit_report if row["status"] == "missing"]
    assert [row["region"] for row in missing] == ["blood"]
    assert "does not say what a blood sample would show" in missing[0]["reason"]


@pytest.mark.parametrize(
    ("nuclide_", "modality", "intent", "agent"),
    [("Y-90", "PET", "therapy", False), ("Lu-177", "SPECT", "therapy", False), ("Lu-177", "SPECT", "imaging", True)],
)
def test_the_transfer_belongs_to_an_imaging_agent_and_to_no_kind_of_camera(curves, nuclide_, modality, intent, agent):
    given = replace(GIVEN, nuclide=nuclide_, intent=intent)
    seen = replace(image("kidney_left", 24.0), nuclide=nuclide_, modality=modality)
    problem = problem_of(curves, replace(evidence(activities=[seen]), administrations=(given,)))
    assert ("kidney_left.transfer" in problem.names) == agent
    assert ("imaging_agent.transfer" in problem.names) == agent


def test_data_after_two_administrations_of_one_nuclide_are_refused_unless_nothing_is_left_of_the_first(curves):
    """A fit follows the last one alone; before the second one, and after enough half-lives, that is right."""
    second = replace(GIVEN, time_h=20.0, activity_mbq=100.0)
    late = replace(GIVEN, time_h=1500.0)
    for after in (image("liver", 24.0), image("liver", 30.0)):
        with pytest.raises(InputError, match=r"up to 67\d\d MBq are left when 100 MBq are given"):
            problem_of(curves, replace(evidence(activities=[after]), administrations=(second, GIVEN)))
    both = replace(evidence(activities=[image("liver", 19.0)]), administrations=(GIVEN, second))
    assert problem_of(curves, both).y.size == 1
    parted = [replace(evidence(activities=[image("liver", 1524.0)]), administrations=a) for a in ((GIVEN, late), (late,))]
    with_first, without = (problem_of(curves, e) for e in parted)
    np.testing.assert_array_equal(with_first.predict(with_first.mean), without.predict(without.mean))
    with pytest.raises(InputError, match="7400 MBq are left"):
        problem_of(curves, replace(evidence(activities=[image("liver", 24.0)]), administrations=(GIVEN, replace(GIVEN))))


def test_simulated_samples_err_and_fall_below_the_limit_as_the_truth_has_them(rung):
    """An absolute error is relative to what is there, not to the value that stands in the plan; a limit censors the draw."""
    theta = population_prior(rung).mean
    problem = problem_of(rung, evidence(body(150.0)))
    there = float(np.exp(problem.predict(problem.mean)[0, 0]))
    plan = replace(body(150.0), relative_sd=0.0, absolute_sd=0.1 * there, value=1e-3 * there)
    rng = np.random.default_rng(5)
    drawn = [simulated(evidence(plan), rung, theta, rng).samples[0].value for _ in range(300)]
    expected = np.hypot(0.1, problem_of(rung, evidence(replace(plan, absolute_sd=0.0))).sd[0])
    assert np.log(drawn).std() == pytest.approx(expected, rel=0.15)
    limits = [simulated(evidence(replace(plan, value=there, below=True)), rung, theta, rng).samples[0] for _ in range(300)]
    below = [s for s in limits if s.below]
    assert {s.value for s in below} == {there}
    assert min(s.value for s in limits if not s.below) > there
    assert len(below) / 300 == pytest.approx(0.5, abs=0.1)


def test_a_counter_off_by_a_factor_is_one_error_of_all_its_samples(rung):
    samples = [blood(t, calibration_sd=0.2) for t in (1.0, 4.0, 24.0)]
    problem = problem_of(rung, evidence(*samples))
    shared = [n for n in problem.names if n.startswith("counter.calibration")]
    assert len(shared) == 1
    column = problem.jacobian(problem.mean)[:, problem.names.index(shared[0])]
    np.testing.assert_array_equal(column, np.ones(3))


def test_a_limit_far_above_the_prediction_costs_nothing_and_one_at_it_ln_2():
    r, _ = censored(np.array([8.0, 0.0, -3.0]))
    assert 0.5 * r**2 == pytest.approx([0.0, np.log(2.0), -stats.norm.logcdf(-3.0)], abs=1e-12)


def test_the_slope_of_a_limit_equals_differences():
    u = np.linspace(-8.0, 5.0, 40)
    _, slope = censored(u)
    np.testing.assert_allclose(slope, (censored(u + 1e-6)[0] - censored(u - 1e-6)[0]) / 2e-6, rtol=1e-4, atol=1e-6)


def test_a_value_below_the_limit_pulls_the_prediction_down_and_a_limit_far_above_does_not(rung):
    prior = population_prior(rung)
    usual = float(np.exp(problem_of(rung, evidence(blood(24.0))).predict(problem_of(rung, evidence(blood(24.0))).mean)[0, 0]))

    def found(limit):
        posterior = assimilate(prior, evidence(blood(24.0, limit, below=True)), rung)
        row = posterior.fit_report[0]
        assert row["status"] in ("below_limit", "outlier")
        return row["posterior_mbq"], posterior

    low, _ = found(usual / 3.0)
    high, posterior = found(usual * 1000.0)
    assert low < 0.6 * usual
    assert high == pytest.approx(usual, rel=0.2)  # median of draws beside the mode
    np.testing.assert_allclose(posterior.mean[: len(prior.names)], prior.mean, atol=1e-3)
    assert posterior.diagnostics["innovation_chi2_per_n"] == 0.0
    assert innovation(posterior) == (0.0, 0)  # a limit is compared with nothing, and counts as none


def test_gradients_of_many_places_in_one_batch_are_those_of_each(rung):
    """Frames, collections, samples and limits; members of one batch of the solver take common steps."""
    data = (blood(24.0, 1e-3, below=True), blood(1.0, 0.2), excreta(4.0, 24.0), body(30.0))
    problem = problem_of(rung, evidence(*data, activities=[image("liver", 24.0), image("liver", 1.0, duration_h=1.6)]))
    target = Target(problem, problem.sd)
    z = 0.3 * np.random.default_rng(5).standard_normal((2, 3, target.size))
    found = target.jacobian(z)
    np.testing.assert_allclose(found, [[target.jacobian(at) for at in row] for row in z], rtol=1e-3, atol=1e-3)


def test_the_objective_with_a_limit_has_the_gradient_that_the_fit_uses(rung):
    problem = problem_of(rung, evidence(blood(24.0, 1e-3, below=True), blood(1.0, 0.2), activities=[image("liver", 24.0)]))
    target = Target(problem, problem.sd)
    z = 0.3 * np.random.default_rng(5).standard_normal(target.size)
    gradient = z - target.jacobian(z).T @ target.residuals(z)[0]
    steps = 1e-4 * np.eye(target.size)
    differences = (target.objective(z + steps) - target.objective(z - steps)) / 2e-4
    np.testing.assert_allclose(gradient, differences, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: blood(1.0, 0.0), "0.0 MBq/mL"),
        (lambda: blood(float("nan")), "nan h"),
        (lambda: Sample("excreta", 4.0, 1.0, "Lu-177", 0.1), "until None"),
        (lambda: Sample("excreta", 4.0, 1.0, "Lu-177", 0.1, until_h=2.0), "until 2.0"),
        (lambda: Sample("blood", 4.0, 1.0, "Lu-177", 0.1, until_h=6.0), "until 6.0"),
    ],
)
def test_samples_without_meaning_are_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_a_sample_before_any_administration_is_refused(rung):
    with pytest.raises(InputError, match="no earlier administration"):
        build_problem(
            Prior(tuple(rung.parameters), population_prior(rung).mean, population_prior(rung).covariance, "x"),
            evidence(blood(-2.0)),
            rung,
        )
