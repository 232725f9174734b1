"""The comparison of chosen and fixed scans: every arm sees the same series, goes on where it stopped, wrong options."""

import numpy as np
import pytest

from flows.bench import bench
from flows.bench import design as under_test
from tdt_core.errors import UsageError

OPTIONS = {"patients": 4, "seed": 3, "rung": "sum_of_exponentials", "hours": "4,24,72,168", "draws": 100, "processes": 0}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    return under_test.run(**OPTIONS, folder=str(folder)), folder


def test_every_arm_is_judged_on_every_target(told):
    found, _ = told
    assert set(found["arms"]) == {"fixed", "pair", "one by one", "same pair"}
    for by in found["arms"].values():
        for r in by.values():
            assert 0 <= r["median_abs_error"] <= r["q95_abs_error"] < 1.0
            assert 0 < r["mean_variance"] < 0.5
    for target in ("kidneys", "tumours"):
        variance = {arm: by[target]["mean_variance"] for arm, by in found["arms"].items()}
        assert variance["fixed"] < min(variance["pair"], variance["same pair"])  # the four hold both pairs
    assert found["expected_left"]["adaptive"] <= found["expected_left"]["same_pair"] < 1.0
    assert sum(p["patients"] for p in found["chosen_pairs"]) == OPTIONS["patients"]
    assert "4 virtual patients" in under_test.describe(found)


def test_a_run_goes_on_where_it_stopped_with_the_same_numbers(told):
    found, folder = told
    kept = sorted(folder.glob("*.json"))
    same = sum(p["patients"] for p in found["chosen_pairs"] if p["hours"] == found["same_pair"])
    assert len(kept) == 2 * OPTIONS["patients"] - same  # who chose the common pair has its fit already
    kept[0].unlink()
    times = [p.stat().st_mtime_ns for p in kept[1:]]
    assert under_test.run(**OPTIONS, folder=str(folder)) == found
    assert [p.stat().st_mtime_ns for p in kept[1:]] == times


def test_a_pair_that_was_chosen_is_the_same_fit_as_the_pair_of_all():
    case = (7, "sum_of_exponentials", [4.0, 24.0, 72.0], [24.0, 72.0], False, 50)
    first = under_test.one_patient(*case, None)
    again = under_test.with_pair(*case, first["pair"], None)
    assert again["rows"] == under_test._same_pair(first["rows"])


def test_the_same_scan_has_the_same_errors_in_every_arm():
    case = under_test._case(7, "sum_of_exponentials", [4.0, 24.0, 72.0], [24.0, 168.0], False, 50)
    one, other = case.scanned([4.0, 24.0]), case.scanned([24.0, 168.0])
    values = [{a.region: a.activity_mbq for a in e.activities if np.isclose(a.time_h, 24.0)} for e in (one, other)]
    assert values[0] == values[1]
    assert len(one.activities) == 2 * len(case.virtual.regions)


@pytest.mark.parametrize(
    "options", [{"patients": 1}, {"hours": "soon"}, {"hours": "24"}, {"fixed": "-4"}, {"pet": 2}, {"draws": 3}]
)
def test_options_without_meaning_are_refused(options):
    with pytest.raises(UsageError):
        under_test.run(**options)


def test_it_is_found_by_its_name():
    run, describe = bench("design")
    assert (run, describe) == (under_test.run, under_test.describe)
