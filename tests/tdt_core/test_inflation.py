"""Adaptive inflation: nothing where innovations are as expected, wider by what they say where they are not, and bounded."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from state_builder import build_state

from tdt_core.assimilation import Transition
from tdt_core.assimilation.inflation import inflation, innovations_of
from tdt_core.parameters import packaged_table

MOST = packaged_table("population_learning.csv").value("inflation.most")
PAIRS = st.lists(st.tuples(st.floats(0.0, 50.0), st.integers(0, 200)), max_size=6)


def test_innovations_as_expected_seldom_inflate():
    """Two cycles running beyond the 97.5 % point: about one patient in 1600 by chance."""
    rng = np.random.default_rng(1)
    found = [inflation([(rng.chisquare(40) / 40, 40) for _ in range(4)]) for _ in range(2000)]
    assert np.mean(np.array(found) > 1.0) < 0.005


def test_two_surprising_cycles_running_inflate_by_their_mean():
    assert inflation([(1.0, 40), (2.0, 40), (2.4, 40)]) == pytest.approx(2.2)


@pytest.mark.parametrize("history", [[], [(9.0, 40)], [(9.0, 40), (1.0, 40)], [(1.0, 40), (9.0, 40)], [(9.0, 0), (9.0, 0)]])
def test_one_surprising_cycle_or_none_does_nothing(history):
    assert inflation(history) == 1.0


def test_few_data_need_a_larger_surprise():
    assert inflation([(1.6, 100), (1.6, 100)]) > 1.0
    assert inflation([(1.6, 5), (1.6, 5)]) == 1.0


@given(PAIRS)
def test_the_factor_is_bounded(history):
    assert 1.0 <= inflation(history) <= MOST


def state(cycle, chi2):
    built = build_state(cycle)
    diagnostics = {**built.posterior.diagnostics, "innovation_chi2_per_n": chi2, "n_obs": 30}
    return dataclasses.replace(built, posterior=dataclasses.replace(built.posterior, diagnostics=diagnostics))


def test_only_cycles_that_a_treated_cycle_predicted_count():
    chain = [state(1, 7.0), state(2, 2.0), state(3, 3.0)]
    assert innovations_of(chain) == [(2.0, 30), (3.0, 30)]
    other = dataclasses.replace(chain[1], model="another")
    assert innovations_of([chain[0], other, chain[2]]) == []


def test_cycles_on_both_sides_of_a_gap_are_not_running():
    states = [state(k, 9.0) for k in (1, 2, 3, 4, 5)]
    gap = dataclasses.replace(states[2], evidence=dataclasses.replace(states[2].evidence, administrations=()))
    assert innovations_of([*states[:2], gap, *states[3:]]) == [(9.0, 30)]
    assert inflation(innovations_of([*states[:2], gap, *states[3:]])) == 1.0
    assert inflation(innovations_of(states)) > 1.0


def test_a_widened_transition_adds_that_much_more_and_moves_nothing_else():
    step = Transition(("a", "b"), np.array([0.9, 1.0]), np.array([0.1, -0.2]), np.diag([0.01, 0.04]))
    mean, covariance = np.array([1.0, 2.0]), np.eye(2)
    plain, wide = step.moments(mean, covariance), step.widened(2.5).moments(mean, covariance)
    np.testing.assert_array_equal(plain[0], wide[0])
    np.testing.assert_allclose(wide[1] - plain[1], 1.5 * step.noise)
    np.testing.assert_array_equal(step.widened(1.0).noise, step.noise)
