"""Laws of learning a population from closed patients: limits, recovery, order, the gate, and what a learned prior does."""

import dataclasses
import pickle

import numpy as np
import pytest
from scipy import stats

from tdt_core.assimilation import assimilate, evolve, population_prior, state_model, transition
from tdt_core.assimilation.experiment import simulated
from tdt_core.assimilation.hierarchy import (
    Factor,
    Hyper,
    Strength,
    cross_validated,
    factor_of_posterior,
    learn,
    log_density,
    packaged,
    predictive_p,
)
from tdt_core.assimilation.learned import LearnedPrior, Taught, learn_population, with_learned
from tdt_core.assimilation.problem import SAMPLED, Prior, gained, least_gain
from tdt_core.assimilation.relations import keys_of
from tdt_core.errors import EstimationError
from tdt_core.kinetics import Sampled, rung_for
from tdt_core.kinetics.ladder import Separable
from tdt_core.twin import Administration, ErrorBudget, Evidence, Patient, Region, RegionActivity

KEYS = ("kidneys.uptake", "liver.uptake", "lesions.uptake")
START = packaged(KEYS, (0.5, 0.85, 0.3))
SHIFTED = Hyper(
    KEYS,
    np.array([0.8, -0.5, 0.0]),
    np.array([[0.3, 0.15, 0.0], [0.15, 0.4, 0.0], [0.0, 0.0, 0.2]]),
    np.array([0.2, 0.1, 0.5]),
)
STRENGTH = Strength(4.0, 20.0)

REGIONS = (
    Region("kidney_left", "kidneys", "64033007", "left", volume_ml=160.0, mass_g=168.0),
    Region("kidney_right", "kidneys", "64033007", "right", volume_ml=150.0, mass_g=157.0),
    Region("liver", "liver", "10200004", volume_ml=1600.0, mass_g=1680.0),
)
PATIENT = Patient("p1", "male", 70.0, 175.0, 80.0)
GIVEN = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
BUDGET = ErrorBudget(counts=0.03, calibration=0.04, partial_volume=0.05, segmentation=0.03, registration=0.02)


def cohort(count, population, seed, noise=0.3, name="p"):
    """Factors of patients of a population with regions of different number, each seen with an error of its own."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        keys = (KEYS[0], KEYS[0], KEYS[1], KEYS[2], KEYS[2]) if i % 3 else (KEYS[0], KEYS[1])
        truth = rng.multivariate_normal(*population.moments(keys))
        sd = noise * np.exp(0.5 * rng.standard_normal(len(keys)))
        precision = np.diag(sd**-2)
        found.append(Factor(f"{name}{i:04d}", keys, precision, precision @ (truth + sd * rng.standard_normal(len(keys)))))
    return found


@pytest.fixture(scope="module")
def rung():
    return rung_for("sum_of_exponentials", "PSMA-617", REGIONS)


def plan():
    return Evidence(
        1,
        PATIENT,
        (GIVEN,),
        REGIONS,
        tuple(
            RegionActivity(r.name, t, 1.0, 1.0, 1.0, BUDGET, f"s{t}", "SPECT", "Lu-177", "cal")
            for r in REGIONS
            for t in (4.0, 24.0, 72.0, 150.0)
        ),
    )


def taught(rung, prior, theta, number, rng):
    """What a patient with parameters theta teaches after one cycle."""
    evidence = simulated(plan(), rung, theta, rng)
    posterior = assimilate(prior, evidence, rung, n_draws=2, options={"starts": 1})
    n = len(prior.names)
    return Taught(
        factor_of_posterior(f"p{number:03d}", rung, prior, posterior.mean[:n], posterior.covariance[:n, :n], rung),
        rung,
        f"{number:064x}",
    )


@pytest.fixture(scope="module")
def shifted_patients(rung):
    """Forty patients whose uptake is 1 sd higher and spreads half as much as the packaged population's."""
    rng = np.random.default_rng(5)
    prior = population_prior(rung)
    uptake = np.array([name.endswith("uptake_per_ml") for name in prior.names])
    sd = np.sqrt(np.diag(prior.covariance))
    centre, root = prior.mean + sd * uptake, 0.5 * np.linalg.cholesky(prior.covariance)
    return [taught(rung, prior, centre + root @ rng.standard_normal(sd.size), i, rng) for i in range(40)]


@pytest.fixture(scope="module")
def learned(shifted_patients):
    return learn_population(shifted_patients)


def test_without_patients_the_population_is_the_packaged_one():
    assert learn([], START, STRENGTH) is START


def test_patients_whose_data_say_nothing_leave_the_packaged_population():
    blind = [Factor(f"p{i}", KEYS, np.zeros((3, 3)), np.zeros(3)) for i in range(30)]
    found = learn(blind, START, STRENGTH)
    np.testing.assert_allclose(found.shift, 0.0, atol=1e-9)
    np.testing.assert_allclose(found.common, START.common, atol=1e-6)
    np.testing.assert_allclose(found.own, START.own, atol=1e-6)
    np.testing.assert_allclose(log_density(blind, found), 0.0, atol=1e-9)


def test_many_patients_of_another_population_teach_its_mean_and_spread():
    few, many = (learn(cohort(n, SHIFTED, 1), START, STRENGTH) for n in (20, 1500))
    np.testing.assert_allclose(many.shift, SHIFTED.shift, atol=0.06)
    np.testing.assert_allclose(many.variance, SHIFTED.variance, rtol=0.1)
    np.testing.assert_allclose(many.common, SHIFTED.common, atol=0.06)
    assert np.abs(few.shift - SHIFTED.shift).max() > np.abs(many.shift - SHIFTED.shift).max()


def test_patients_of_the_packaged_population_do_not_move_it_beyond_its_error():
    """Over cohorts the shift in units of its own error is that of a mean: shrunk, so no wider than standard normal."""
    z, variances = [], []
    for seed in range(20):
        found = learn(cohort(40, START, seed), START, STRENGTH)
        z += (found.shift / np.sqrt(START.variance / 40)).tolist()
        variances += found.variance.tolist()
    assert np.std(z) < 1.25
    assert abs(np.mean(z)) < 3 * 1.25 / np.sqrt(len(z))
    assert np.std(variances) < np.sqrt(2 / 40)  # the error of a sample variance; shrunk, so less
    assert abs(np.mean(variances) - 1.0) < 3 * np.sqrt(2 / 40) / np.sqrt(len(variances))


def test_exact_data_of_complete_patients_give_the_conjugate_mean_in_closed_form():
    """One region a key and no error: the shift is the sum of the patients over their number and the prior's weight."""
    rng = np.random.default_rng(3)
    start = packaged(KEYS, (0.0, 0.0, 0.0))
    x = rng.standard_normal((15, 3)) + 1.0
    exact = 1e8 * np.eye(3)
    found = learn([Factor(f"p{i}", KEYS, exact, exact @ v) for i, v in enumerate(x)], start, Strength(4.0, 1e9))
    np.testing.assert_allclose(found.shift, x.sum(axis=0) / (15 + 4.0), rtol=1e-4)
    np.testing.assert_allclose(found.own, 1.0, rtol=1e-6)


def test_the_order_of_the_patients_does_not_matter():
    patients = cohort(25, SHIFTED, 4)
    a, b = learn(patients, START, STRENGTH), learn(patients[::-1], START, STRENGTH)
    np.testing.assert_array_equal(a.shift, b.shift)
    np.testing.assert_array_equal(a.common, b.common)
    assert cross_validated(patients, START, STRENGTH, 5) == cross_validated(patients[::-1], START, STRENGTH, 5)


def test_the_predictive_density_is_that_of_the_normal_distribution():
    """ln of the integral of the factor over the population, less what no population changes."""
    patient, blank = cohort(2, SHIFTED, 6)[1], np.zeros(5)
    measured = np.linalg.solve(patient.precision, patient.information)

    def normal(population):
        mean, covariance = population.moments(patient.keys)
        return stats.multivariate_normal(mean, covariance + np.linalg.inv(patient.precision)).logpdf(measured)

    by_factor = [float(log_density([patient], p)[0]) for p in (START, SHIFTED)]
    assert by_factor[0] - by_factor[1] == pytest.approx(normal(START) - normal(SHIFTED), rel=1e-9)
    assert predictive_p(Factor("x", patient.keys, np.zeros((5, 5)), blank), START) == 1.0


def test_held_out_patients_beyond_the_population_are_told_uniformly_when_it_is_right():
    p = [predictive_p(f, SHIFTED) for f in cohort(400, SHIFTED, 7)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_the_gate_lets_a_shifted_population_pass_and_tells_its_gain():
    gate = cross_validated(cohort(30, SHIFTED, 8), START, STRENGTH, 5)
    assert gate.accepted
    assert gate.held_out == 30
    assert gate.gain_mean > 0.3
    assert gate.gain_median > 0.3


@pytest.mark.parametrize("share", [0.2, 0.3])
def test_the_gate_refuses_a_poisoned_cohort(share):
    """Most patients are of the packaged population, some far off (a wrong unit): widened for all, the prior fits most worse."""
    wrong = Hyper(KEYS, np.full(3, 8.0), np.eye(3) * 0.5, np.full(3, 0.5))
    bad = round(30 * share)
    gate = cross_validated(cohort(30 - bad, START, 9) + cohort(bad, wrong, 10, name="q"), START, STRENGTH, 5)
    assert not gate.accepted
    assert "median" in gate.reason


def test_patients_kept_apart_refuse_what_the_whole_cohort_has_wrong():
    """An error that all learning patients share is a population to them; patients known to be right tell otherwise."""
    wrong = cohort(30, dataclasses.replace(START, shift=np.full(3, 2.0)), 11)
    right = cohort(8, START, 12, name="q")
    assert cross_validated(wrong, START, STRENGTH, 5).accepted
    refused = cross_validated(wrong, START, STRENGTH, 5, trusted=right)
    assert not refused.accepted
    assert "kept apart" in refused.reason


def test_dividing_the_prior_out_and_putting_it_back_gives_the_posterior(rung):
    prior = population_prior(rung)
    rng = np.random.default_rng(2)
    n, sd = len(prior.names), np.sqrt(np.diag(prior.covariance))
    h = rng.standard_normal((6, n)) / sd
    covariance = np.linalg.inv(np.linalg.inv(prior.covariance) + h.T @ h)
    mean = prior.mean + covariance @ h.T @ rng.standard_normal(6)
    factor = factor_of_posterior("p", rung, prior, mean, covariance, rung)
    np.testing.assert_allclose(factor.precision, sd[:, None] * (h.T @ h) * sd, atol=1e-6)
    again = np.linalg.inv(np.linalg.inv(prior.covariance) + factor.precision / np.outer(sd, sd))
    np.testing.assert_allclose(again, covariance, rtol=1e-6, atol=1e-10)
    back = prior.mean + again @ (factor.information / sd)
    np.testing.assert_allclose(back, mean, atol=1e-7)


def test_what_moments_of_draws_show_by_chance_is_no_information(rung):
    """300 draws of the prior itself: their moments are narrower here and there; a Laplace covariance is taken as it is."""
    prior = population_prior(rung)
    draws = prior.draws(300, np.random.default_rng(6))
    covariance = np.cov(draws, rowvar=False)
    plain = gained(prior.covariance, covariance)[2]
    assert 0.1 < plain.max() < SAMPLED
    assert gained(prior.covariance, covariance, SAMPLED)[2].max() == 0.0
    assert least_gain({"estimator": {"members": 500}}) == SAMPLED
    assert least_gain({"estimator": {"solves": 12}}) == 0.0
    factor = factor_of_posterior("p", rung, prior, draws.mean(axis=0), covariance, rung, SAMPLED)
    assert not factor.precision.any()
    assert not factor.information.any()


def test_a_factor_does_not_hang_on_the_prior_that_was_divided_out(rung):
    """The same data under another prior say the same, where all is Gaussian."""
    prior = population_prior(rung)
    rng = np.random.default_rng(4)
    sd = np.sqrt(np.diag(prior.covariance))
    h, y = rng.standard_normal((6, sd.size)) / sd, rng.standard_normal(6)

    def factor(given):
        covariance = np.linalg.inv(np.linalg.inv(given.covariance) + h.T @ h)
        mean = given.mean + covariance @ h.T @ (y - h @ (given.mean - prior.mean))
        return factor_of_posterior("p", rung, given, mean, covariance, rung)

    other = Prior(prior.names, prior.mean + 0.5 * sd, 0.3 * prior.covariance, "other")
    a, b = factor(prior), factor(other)
    np.testing.assert_allclose(a.precision, b.precision, atol=1e-5)
    np.testing.assert_allclose(a.information, b.information, atol=1e-5)


def test_virtual_patients_teach_the_rung_its_shifted_uptake(rung, learned):
    keys = learned.hyper.keys
    uptake = [keys.index(k) for k in ("kidneys.uptake_per_ml", "liver.uptake_per_ml")]
    np.testing.assert_allclose(learned.hyper.shift[uptake], 1.0, atol=0.3)  # error of a mean of 40: 0.08; shrunk by a tenth
    others = [i for i in range(len(keys)) if i not in uptake]
    np.testing.assert_allclose(learned.hyper.shift[others], 0.0, atol=0.3)
    assert (learned.hyper.variance < 0.8).all()  # truth 0.25, two thirds of the way at a prior strength of 20 patients
    assert learned.gate.accepted


def test_what_scans_cannot_see_is_not_learned(rung, learned):
    """Four scans from 4 h on say little of the first hour's uptake: its half-time stays as packaged."""
    assert "liver.uptake_half_time" not in learned.hyper.keys
    assert "kidneys.uptake_per_ml" in learned.hyper.keys
    found = with_learned(rung, [learned])
    assert found.parameters["liver.uptake_half_time"] == rung.parameters["liver.uptake_half_time"]


def test_keys_that_are_not_learned_stay_and_the_others_move():
    found = learn(cohort(40, SHIFTED, 2), START, STRENGTH, KEYS[:1])
    assert found.shift[0] > 0.4
    np.testing.assert_array_equal(found.shift[1:], 0.0)
    np.testing.assert_array_equal(found.common[1:], START.common[1:])
    np.testing.assert_array_equal(found.own[1:], START.own[1:])


def test_a_learned_prior_says_where_its_numbers_come_from(rung, learned):
    found = with_learned(rung, [learned])
    for name, p in found.parameters.items():
        if not name.endswith(("uptake_per_ml", "slow_half_time", "slow_amplitude")):
            continue
        assert p.status == "calibrated"
        assert learned.version[:12] in p.source
        assert p.distribution == rung.parameters[name].distribution
    prior = population_prior(found)
    assert learned.version in prior.origin
    np.testing.assert_allclose([p.unconstrained for p in found.parameters.values()], prior.mean, rtol=1e-9)
    np.testing.assert_allclose([p.sd for p in found.parameters.values()], np.sqrt(np.diag(prior.covariance)), rtol=1e-9)


def test_a_learned_rung_keeps_what_its_rung_can_do_and_survives_a_journey(rung, learned):
    found = with_learned(rung, [learned])
    assert isinstance(found, Separable)
    assert found.separable == rung.separable
    assert tuple(found.of_regions(REGIONS[:1]).parameters) == tuple(rung.of_regions(REGIONS[:1]).parameters)
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(population_prior(again).mean, population_prior(found).mean)
    assert isinstance(again, Separable)


def test_parameters_that_were_not_learned_stay_as_packaged(learned):
    more = rung_for("sum_of_exponentials", "PSMA-617", (*REGIONS, Region("spleen", "spleen", "", volume_ml=180.0)))
    found = with_learned(more, [learned])
    assert found.parameters["spleen.uptake_per_ml"] == more.parameters["spleen.uptake_per_ml"]
    n = len(rung_for("sum_of_exponentials", "PSMA-617", REGIONS).parameters)
    spleen = population_prior(found).covariance[n:, n:]
    np.testing.assert_allclose(spleen, population_prior(more).covariance[n:, n:])


def test_another_rung_or_ligand_keeps_its_packaged_prior(rung, learned):
    other = rung_for("sum_of_exponentials", "DOTATATE", REGIONS)
    assert with_learned(other, [learned]) is other
    assert with_learned(rung, []) is rung


def test_drift_goes_back_to_the_learned_mean(rung, learned):
    found = with_learned(rung, [learned])
    mean = population_prior(found).mean
    moved, _ = transition(found, 1, 1008.0, treated=False).moments(mean, np.eye(mean.size))
    np.testing.assert_allclose(moved, mean, atol=1e-12)


def test_a_learned_drift_widens_its_group_and_no_other(rung, learned):
    wider = with_learned(rung, [dataclasses.replace(learned, noise={"kidneys": 4.0})])
    ratio = np.diag(transition(wider, 1, 1008.0, True).noise) / np.diag(transition(rung, 1, 1008.0, True).noise)
    kidneys = np.array([n.startswith("kidney") for n in rung.parameters])
    np.testing.assert_allclose(ratio, np.where(kidneys, 4.0, 1.0))


def test_a_learned_rung_still_predicts_samples_where_the_rung_does(rung, learned):
    assert isinstance(with_learned(rung, [learned]), Sampled) == isinstance(rung, Sampled)
    theta = population_prior(rung).mean[None]
    np.testing.assert_array_equal(
        with_learned(rung, [learned]).time_integrated_activity(theta, GIVEN), rung.time_integrated_activity(theta, GIVEN)
    )


def test_an_artefact_comes_back_the_same_and_its_version_is_its_content(learned):
    again = LearnedPrior.of(learned.plain())
    assert again.version == learned.version
    assert again.plain() == learned.plain()
    other = LearnedPrior.of({**learned.plain(), "own": [0.5] * len(learned.hyper.keys)})
    assert other.version != learned.version


def test_an_artefact_holds_nothing_of_a_single_patient_but_the_ids_of_states(learned, shifted_patients):
    text = str(learned.plain())
    assert all(t.factor.patient not in text for t in shifted_patients)
    assert len(learned.states) == learned.patients == 40
    sizes = {len(v) for v in learned.plain().values() if isinstance(v, list)} - {40}
    n = len(learned.hyper.keys)
    assert sizes <= {n, n * (n + 1) // 2}


def test_too_few_patients_a_patient_twice_and_mixed_cohorts_are_refused_in_words(shifted_patients):
    with pytest.raises(EstimationError, match="9 closed patients"):
        learn_population(shifted_patients[:9])
    with pytest.raises(EstimationError, match="twice"):
        learn_population([*shifted_patients[:12], shifted_patients[0]])
    other = rung_for("sum_of_exponentials", "DOTATATE", REGIONS)
    odd = dataclasses.replace(
        shifted_patients[12],
        rung=other,
    )
    with pytest.raises(EstimationError, match="2 rungs or ligands"):
        learn_population([*shifted_patients[:12], odd])


def test_a_state_carries_the_prior_that_its_identity_names(rung, learned):
    state = _state({"origin": "population", "learned": [learned.plain()]})
    assert population_prior(state_model(state)).origin.endswith(learned.version)
    assert population_prior(state_model(_state({"origin": "population"}))).origin == "population"
    far = evolve(state, None, 1e7)  # long after, reverting parameters are the learned population's
    kidneys = [i for i, n in enumerate(far.names) if n.startswith("kidney")]
    np.testing.assert_allclose(far.mean[kidneys], population_prior(state_model(state)).mean[kidneys], atol=1e-6)


def _state(prior):
    from state_builder import build_state

    rung = rung_for("sum_of_exponentials", "PSMA-617", REGIONS)
    start = population_prior(rung)
    posterior = assimilate(start, plan(), rung, n_draws=2, options={"starts": 1})
    state = build_state(1)
    return dataclasses.replace(
        state,
        identity={**state.identity, "prior": prior},
        model=rung.name,
        summary={**state.summary, "ligand": "PSMA-617"},
        posterior=posterior,
        evidence=dataclasses.replace(state.evidence, patient=PATIENT, regions=REGIONS, administrations=(GIVEN,)),
    )


def test_what_a_held_out_patient_says_does_not_choose_what_is_learned_to_predict_it():
    """Each fold's keys are chosen by the other patients: a fold for which nothing is chosen gains nothing."""
    patients = cohort(20, SHIFTED, 13)
    first_fold = {f.patient for f in sorted(patients, key=lambda f: f.patient)[::5]}

    def keys(some):
        return () if not first_fold & {f.patient for f in some} else KEYS

    found, all_keys = (cross_validated(patients, START, STRENGTH, 5, keys=k) for k in (keys, lambda some: KEYS))
    others = learn([f for f in patients if f.patient not in first_fold], START, STRENGTH)
    held = [f for f in patients if f.patient in first_fold]
    lost = log_density(held, others) - log_density(held, START)
    assert all_keys.gain_mean - found.gain_mean == pytest.approx(float(lost.sum()) / 20, rel=1e-9)
    assert abs(lost.sum()) > 0.1


def seen_patients(rung, count, seed):
    """Taught patients whose data see the uptake of every region, 1 sd up, and nothing else."""
    rng = np.random.default_rng(seed)
    keys = tuple(keys_of(rung))
    uptake = np.array([k.endswith("uptake_per_ml") for k in keys])
    found = []
    for i in range(count):
        truth = 1.0 + 0.7 * rng.standard_normal(uptake.sum())
        precision, information = np.zeros((len(keys),) * 2), np.zeros(len(keys))
        precision[np.ix_(uptake, uptake)] = np.eye(uptake.sum()) / 0.3**2
        information[uptake] = (truth + 0.3 * rng.standard_normal(uptake.sum())) / 0.3**2
        found.append(Taught(Factor(f"p{i:03d}", keys, precision, information), rung, f"{i:064x}"))
    return found


def test_the_same_patients_again_predict_as_the_prior_in_use_does(rung):
    """What stands was learned from the very patients that are held out: without them it is what is learned from the others."""
    patients = seen_patients(rung, 20, 1)
    first = learn_population(patients)
    again = learn_population(patients, standing=first)
    assert first.gate.accepted
    assert again.gate.accepted
    assert (again.gate.gain_mean, again.gate.gain_median) == (0.0, 0.0)


def test_more_patients_of_one_population_are_not_refused_for_what_the_prior_in_use_has_seen(rung):
    """Twenty patients, then ten more of the same kind: those that the prior in use was learned from are not its forecast."""
    gains = []
    for seed in range(8):
        patients = seen_patients(rung, 30, 100 + seed)
        grown = learn_population(patients, standing=learn_population(patients[:20]))
        gains.append(grown.gate.gain_mean)
    assert np.mean(gains) > 0


def test_where_a_patient_of_the_prior_in_use_is_lost_it_stands_as_it_is(rung):
    patients = seen_patients(rung, 30, 3)
    standing = learn_population(patients[:20])
    fair = learn_population(patients, standing=standing).gate
    lost = learn_population(patients[1:], standing=standing).gate
    own = learn_population([dataclasses.replace(t, state=f"{500 + i:064x}") for i, t in enumerate(patients)], standing=standing)
    assert fair.gain_mean > own.gate.gain_mean
    assert fair.gain_mean > lost.gain_mean
