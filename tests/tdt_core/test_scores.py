"""Scores against closed forms."""

import numpy as np
import pytest
from scipy import stats

from tdt_core.scores import crps


def test_crps_of_a_gaussian_meets_its_closed_form():
    draws = np.random.default_rng(0).normal(1.0, 2.0, 200_000)
    z = (2.5 - 1.0) / 2.0
    exact = 2.0 * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    assert crps(draws, 2.5) == pytest.approx(exact, rel=0.01)


def test_crps_of_one_draw_is_the_absolute_error():
    assert crps(np.array([3.0]), 5.0) == 2.0


def test_crps_is_least_for_the_true_distribution():
    rng = np.random.default_rng(1)
    truths = rng.standard_normal(300)
    scores = {s: np.mean([crps(rng.normal(0, s, 2000), t) for t in truths]) for s in (0.3, 1.0, 3.0)}
    assert scores[1.0] < scores[0.3]
    assert scores[1.0] < scores[3.0]
