"""The comparison of estimators: every one on the same patients and levels of data; wrong options."""

import pytest

from flows.bench import estimators as bench
from tdt_core.errors import SettingsError


def test_every_estimator_is_told_at_every_level_of_data():
    names = "map,least_squares"
    told = bench.run(patients=3, seed=2, rung="sum_of_exponentials", names=names, seconds=0.2, processes=0)
    assert list(told["estimators"]) == names.split(",")
    for levels in told["estimators"].values():
        assert set(levels) == {"rich", "two", "one"}
        assert all(r["failures"] == 0 and r["crps"] > 0 and r["seconds"] > 0 for r in levels.values())
    assert 0.7 < told["estimators"]["map"]["rich"]["coverage90"] <= 1.0
    assert told["estimators"]["map"]["one"]["halfwidth90_median"] > told["estimators"]["map"]["rich"]["halfwidth90_median"]
    # without a prior, one scan cannot tell a curve
    assert told["estimators"]["least_squares"]["one"]["crps"] > told["estimators"]["map"]["one"]["crps"]
    assert "least_squares" in bench.describe(told)


def test_an_estimator_that_is_not_there_is_refused():
    with pytest.raises(SettingsError, match="magic"):
        bench.run(names="magic")
