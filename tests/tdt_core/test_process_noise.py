"""Laws of learned process noise: a known drift is found again, none is invented, a chain's likelihood is that of its data."""

import numpy as np
import pytest
from scipy import stats

from tdt_core.assimilation import Prior, Transition
from tdt_core.assimilation.process_noise import Chain, Link, innovation_density, learn_noise, link_of, noise_of_cohort, scaled
from tdt_core.errors import EstimationError

KEYS = ("kidneys.uptake", "kidneys.uptake", "parotid_glands.uptake", "lesions.uptake")
NOISE = (
    np.diag([0.1, 0.1, 0.12, 0.3])
    @ np.array([[1.0, 0.8, 0.0, 0.0], [0.8, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    @ np.diag([0.1, 0.1, 0.12, 0.3])
)
STEP = Transition(("a", "b", "c", "d"), np.array([0.95, 0.95, 0.95, 1.0]), np.array([0.0, 0.0, 0.0, -0.2]), NOISE)


def chains(count, factors, seed=1, cycles=4, error=0.08):
    """Chains of patients that drift by the packaged noise times the factors, each parameter seen with an error of its own."""
    rng = np.random.default_rng(seed)
    true = scaled(STEP, KEYS, factors)
    found = []
    for i in range(count):
        theta = 0.4 * rng.standard_normal(4)
        links = []
        for k in range(cycles):
            precision = np.eye(4) / error**2
            seen = theta + error * rng.standard_normal(4)
            links.append(Link(precision, precision @ seen, STEP if k + 1 < cycles else None))
            theta = true.draws(theta[None], rng)[0]
        found.append(Chain(f"p{i:03d}", KEYS, np.zeros(4), 0.16 * np.eye(4), tuple(links)))
    return found


def test_a_known_drift_is_found_again():
    factors = learn_noise(chains(60, {"kidneys": 4.0, "glands": 1.0, "tumours": 0.25}))
    assert factors["kidneys"] == pytest.approx(4.0, rel=0.3)
    assert factors["glands"] == pytest.approx(1.0, rel=0.4)
    assert factors["tumours"] == pytest.approx(0.25, rel=0.4)


def test_patients_with_the_packaged_drift_leave_it():
    factors = learn_noise(chains(60, {}, seed=3))
    np.testing.assert_allclose(list(factors.values()), 1.0, atol=0.35)


def test_without_chains_and_with_a_strong_packaged_drift_nothing_moves():
    assert learn_noise([]) == {}
    held = learn_noise(chains(10, {"kidneys": 9.0}), strength=1e7)
    np.testing.assert_allclose(list(held.values()), 1.0, atol=1e-4)


def test_the_packaged_drift_weighs_as_many_transitions_as_it_is_said_to():
    """With 30 transitions that show a factor near 9, 30 packaged ones leave about the mean of both."""
    cohort = chains(10, {"kidneys": 9.0}, error=1e-3)
    free, half = (learn_noise(cohort, strength)["kidneys"] for strength in (0.0, 30.0))
    assert half == pytest.approx((1.0 + free) / 2, rel=0.01)


def test_the_order_of_patients_does_not_matter():
    cohort = chains(8, {"tumours": 2.0})
    assert learn_noise(cohort) == learn_noise(cohort[::-1])


def test_learning_climbs_the_likelihood_and_ends_at_its_top():
    cohort = chains(15, {"kidneys": 3.0, "tumours": 0.5}, seed=4)
    best = learn_noise(cohort)

    def density(factors):
        return sum(innovation_density(c, factors) for c in cohort)

    assert density(best) > density({})
    for group in best:
        for by in (0.7, 1.4):
            assert density(best) > density({**best, group: best[group] * by})


def test_the_likelihood_of_a_chain_is_that_of_its_data():
    """Against the joint normal density of all cycles' data: differences between two noises are the same."""
    (chain,) = chains(1, {"kidneys": 3.0}, seed=5, cycles=3)
    measured = np.concatenate([np.linalg.solve(x.precision, x.information) for x in chain.links])
    error = np.linalg.inv(chain.links[0].precision)

    def joint(factors):
        step = scaled(STEP, KEYS, factors)
        mean, covariance = [chain.mean], [[chain.covariance]]
        for _ in range(2):
            before = covariance[-1]
            covariance.append(
                [*(step.phi[:, None] * b for b in before), step.phi[:, None] * before[-1] * step.phi + step.noise]
            )
            mean.append(step.phi * mean[-1] + step.offset)
        whole = np.zeros((12, 12))
        for k, row in enumerate(covariance):
            for j, block in enumerate(row):
                whole[4 * k : 4 * k + 4, 4 * j : 4 * j + 4] = block
                whole[4 * j : 4 * j + 4, 4 * k : 4 * k + 4] = block.T
        whole += np.kron(np.eye(3), error)
        return stats.multivariate_normal(np.concatenate(mean), whole).logpdf(measured)

    other = {"kidneys": 3.0, "glands": 0.5, "tumours": 2.0}
    by_filter = innovation_density(chain, other) - innovation_density(chain, {})
    assert by_filter == pytest.approx(joint(other) - joint({}), rel=1e-6)


def test_held_out_chains_decide_whether_a_drift_is_learned():
    factors, reason = noise_of_cohort(chains(25, {"kidneys": 6.0, "tumours": 3.0}, seed=7), 20.0, 5)
    assert factors["kidneys"] > 2.0
    assert "is learned" in reason
    none, reason = noise_of_cohort(chains(3, {"kidneys": 6.0}), 20.0, 5)
    assert none == {}
    assert "3 patients" in reason


def test_what_a_cycle_adds_is_its_posterior_over_its_prior():
    rng = np.random.default_rng(6)
    prior = Prior(("a", "b"), np.array([1.0, -1.0]), np.array([[0.5, 0.1], [0.1, 0.4]]), "x")
    h = rng.standard_normal((3, 2))
    covariance = np.linalg.inv(np.linalg.inv(prior.covariance) + h.T @ h)
    y = rng.standard_normal(3)
    mean = prior.mean + covariance @ h.T @ (y - h @ prior.mean)
    link = link_of(prior, mean, covariance, (0, 1), None)
    np.testing.assert_allclose(link.precision, h.T @ h, atol=1e-9)
    np.testing.assert_allclose(link.information, h.T @ y, atol=1e-9)


def test_a_single_cycle_is_no_chain():
    with pytest.raises(EstimationError, match="transition"):
        Chain("p", KEYS, np.zeros(4), np.eye(4), (Link(np.eye(4), np.zeros(4)),))
