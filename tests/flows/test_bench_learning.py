"""`tdt bench learning`: where its patients come from, and its scores."""

import numpy as np
import pytest

from flows.bench.learning import run, scores, truth_of
from flows.bench.virtual import QUANTITIES, drawn
from tdt_core.assimilation import population_prior
from tdt_core.errors import UsageError
from tdt_core.parameters import packaged_table


@pytest.fixture(scope="module")
def rung():
    return drawn(1, np.random.default_rng(1)).rung("sum_of_exponentials")


def test_the_control_draws_from_the_packaged_population(rung):
    found, prior = truth_of(rung, shifted=False), population_prior(rung)
    np.testing.assert_array_equal(found.mean, prior.mean)
    np.testing.assert_array_equal(found.covariance, prior.covariance)


def test_the_shifted_population_lies_where_the_table_says(rung):
    found, prior, table = truth_of(rung, shifted=True), population_prior(rung), packaged_table("misfit.csv")
    sd = np.sqrt(np.diag(prior.covariance))
    moved = dict(zip(prior.names, (found.mean - prior.mean) / sd, strict=True))
    assert moved["kidney_left.uptake_per_ml"] == pytest.approx(table.value("population.kidneys.uptake"))
    assert moved["parotid_right.uptake_per_ml"] == pytest.approx(table.value("population.parotid_glands.uptake"))
    assert moved["lesion/V1.slow_half_time"] == pytest.approx(table.value("population.lesions.retention"))
    assert moved["liver.uptake_per_ml"] == 0.0
    np.testing.assert_allclose(np.diag(found.covariance), (table.value("population.spread") * sd) ** 2)


def test_scores_are_means_by_prior_and_quantity():
    rows = [
        {"prior": "packaged", "quantity": q, "crps": c, "covered": c < 2, "half_width": 0.5}
        for q in QUANTITIES
        for c in (1.0, 3.0)
    ]
    found = scores(rows)["packaged"]["kidneys"]
    assert found == {"crps": 2.0, "coverage90": 0.5, "halfwidth90_median": 0.5}


def test_an_unknown_population_is_refused():
    with pytest.raises(UsageError, match="nobody"):
        run(population="nobody")
