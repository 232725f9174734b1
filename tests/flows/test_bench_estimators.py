"""The comparison of estimators: every one on the same patients and levels of data; wrong options."""

import numpy as np
import pytest

from flows.bench import estimators as bench
from flows.bench.virtual import drawn
from tdt_core.assimilation.network import available
from tdt_core.errors import EstimationError, UsageError


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
    text = bench.describe(told)
    assert "least_squares" in text
    assert "two, scans at 24, 96 h; one, scans at 72 h" in text
    planned = drawn(1, np.random.default_rng(0)).plan(1).activities
    assert sorted(set(told["hours"]["rich"])) == sorted({a.time_h for a in planned})
    for word in ("over the truth", "90 % intervals that hold the truth", "processor time"):
        assert word in text


def test_an_estimator_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="--names map,magic: no estimator named magic"):
        bench.run(names="map,magic")
    with pytest.raises(UsageError, match="--patients 0"):
        bench.run(patients=0)


@pytest.mark.skipif(not available(), reason="PyTorch is an optional extra: uv sync --extra network")
def test_the_network_works_on_the_first_patients_and_the_table_says_so(tmp_path):
    options = {"patients": 3, "seed": 2, "rung": "sum_of_exponentials", "names": "least_squares,network", "processes": 0}
    told = bench.run(**options, seconds=0.05, network_patients=1, folder=str(tmp_path))
    assert sorted("network" in path.name for path in tmp_path.glob("*.json")) == [False, False, True]
    assert told["patients_of"] == {"network": 1}
    assert all(r["failures"] == 0 and r["crps"] > 0 for r in told["estimators"]["network"].values())
    assert "network on the first 1" in bench.describe(told)


@pytest.mark.skipif(available(), reason="PyTorch is installed")
def test_the_network_asked_for_without_torch_is_refused_with_the_remedy():
    with pytest.raises(EstimationError, match="uv sync --extra network"):
        bench.run(names="map,network")
