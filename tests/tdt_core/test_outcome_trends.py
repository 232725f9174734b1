"""Trends of laboratory values: they follow the data and widen with time."""

import numpy as np

from tdt_core.outcome import lab_trends, trend
from tdt_core.twin import LabResult


def test_a_constant_series_gives_a_flat_trend_around_it():
    times = np.arange(6) * 300.0
    low, mid, high = trend("platelets", times, np.full(6, 200.0), np.array([1600.0, 2500.0]), np.ones(6))
    np.testing.assert_allclose(mid, 200.0, rtol=1e-9)
    assert (low < 200).all()
    assert (high > 200).all()


def test_bands_widen_with_the_distance_from_the_last_value():
    times = np.arange(4) * 300.0
    low, _, high = trend("psa", times, np.array([50.0, 40.0, 30.0, 25.0]), np.array([950.0, 1500.0, 3000.0]), np.ones(4))
    assert (np.diff(np.log(high / low)) > 0).all()


def test_a_falling_series_is_expected_to_fall_further():
    times = np.arange(5) * 400.0
    _, mid, _ = trend("psa", times, 100 * np.exp(-np.arange(5) * 0.4), np.array([2000.0]), np.ones(5))
    assert mid[0] < 100 * np.exp(-1.6)


def test_units_of_scale_do_not_matter():
    times, values = np.arange(4) * 400.0, np.array([3.0, 3.3, 2.8, 3.1])
    a = trend("albumin", times, values, np.array([2000.0]), np.ones(4))
    b = trend("albumin", times, 10 * values, np.array([2000.0]), np.ones(4))
    np.testing.assert_allclose(10 * a, b)


def test_retracted_values_are_left_out_and_single_values_have_no_trend():
    labs = [
        LabResult("psa", 0.0, 50.0, "ng/mL"),
        LabResult("psa", 100.0, 9999.0, "ng/mL", status="entered-in-error"),
        LabResult("crp", 0.0, 5.0, "mg/L", comparator="<"),
        LabResult("crp", 500.0, 7.0, "mg/L"),
    ]
    rows = {r["analyte"]: r for r in lab_trends(labs, 1000.0)}
    assert rows["psa"]["trend"] is None
    assert len(rows["psa"]["points"]) == 1
    assert "censored" in rows["crp"]["note"]
    assert rows["crp"]["trend"]["times_h"][-1] == 1000.0
