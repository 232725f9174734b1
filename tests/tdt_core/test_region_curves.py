"""A region's curve: what is drawn integrates to what is told, passes its points, and its draws keep the measured mean."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from tdt_core.dosimetry.region_curves import drawn_curves
from tdt_core.errors import ModelError
from tdt_core.twin import ErrorBudget, RegionActivity

DECAY = math.log(2.0) / 159.5
NONE = ErrorBudget(0.0, 0.0, 0.0, 0.0, 0.0)


def measured(values, times, budget=NONE, region="liver", calibration="cal"):
    return [
        RegionActivity(region, t, v, v, 1.0, budget, f"s{k}", "SPECT", "Lu-177", calibration)
        for k, (v, t) in enumerate(zip(values, times, strict=True))
    ]


def curve(values, times, early="constant", budget=NONE, draws=3):
    at = {f"s{k}": t for k, t in enumerate(times)}
    return drawn_curves(measured(values, times, budget), at, DECAY, draws, 1, early)["liver"]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(0.5, 500.0), min_size=1, max_size=5),
    st.lists(st.floats(2.0, 60.0), min_size=5, max_size=5),
    st.sampled_from(["constant", "linear", "exponential"]),
)
def test_the_curve_that_is_drawn_has_the_integral_that_is_told_and_passes_its_points(values, steps, early):
    times = np.cumsum(steps)[: len(values)]
    c = curve(values, times, early)
    np.testing.assert_allclose(c.values(times)[0], values, rtol=1e-9)
    edges = [0.0, *times]
    parts = [quad(lambda t: c.values(np.array([t]))[0, 0], a, b - 1e-9)[0] for a, b in itertools.pairwise(edges)]
    assert c.integral[0] == pytest.approx(sum(parts) + values[-1] / c.tail_rate[0], rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(0.5, 500.0), min_size=1, max_size=5),
    st.lists(st.floats(2.0, 60.0), min_size=5, max_size=5),
    st.sampled_from(["constant", "linear", "exponential"]),
)
def test_another_assumption_before_the_first_scan_gives_the_curve_that_is_drawn_with_it(values, steps, early):
    times, budget = np.cumsum(steps)[: len(values)], ErrorBudget(0.1, 0.05, 0.05, 0.05, 0.05)
    found = curve(values, times, "constant", budget, 20).before_first(early)
    np.testing.assert_allclose(found, curve(values, times, early, budget, 20).parts[0], rtol=1e-9)


@given(st.floats(DECAY, 0.2), st.floats(0.1, 1e4))
def test_one_exponential_is_integrated_exactly(rate, amplitude):
    times = np.array([4.0, 24.0, 96.0])
    c = curve(amplitude * np.exp(-rate * times), times, "exponential")
    assert c.integral[0] == pytest.approx(amplitude / rate, rel=1e-6)
    assert c.tail_rate[0] == pytest.approx(rate, rel=1e-6)


def test_the_tail_is_never_slower_than_physical_decay():
    assert curve([1.0, 0.999], [24.0, 48.0]).tail_rate[0] == pytest.approx(DECAY)
    assert curve([1.0, 2.0], [24.0, 48.0]).tail_rate[0] == pytest.approx(DECAY)


def test_without_an_error_budget_every_draw_is_the_measured_curve():
    c = curve([10.0, 5.0, 1.0], [4.0, 24.0, 96.0], draws=5)
    np.testing.assert_allclose(c.integral, c.integral[0])


def test_draws_keep_the_mean_and_have_the_sd_of_their_budget():
    c = curve([10.0, 5.0], [24.0, 96.0], budget=ErrorBudget(0.0, 0.2, 0.0, 0.0, 0.0), draws=40_000)
    assert c.at_scans[1:, 0].mean() == pytest.approx(10.0, rel=0.01)
    assert c.at_scans[1:, 0].std() == pytest.approx(2.0, rel=0.03)
    # a common factor moves the integral as a whole
    np.testing.assert_allclose(c.integral / c.integral[0], c.at_scans[:, 0] / 10.0, rtol=1e-9)


def test_regions_of_one_calibration_move_together_and_regions_of_two_do_not():
    budget = ErrorBudget(0.0, 0.2, 0.0, 0.0, 0.0)
    rows = [m for r, c in (("liver", "a"), ("spleen", "a"), ("bladder", "b")) for m in measured([9.0], [24.0], budget, r, c)]
    drawn = drawn_curves(rows, {"s0": 24.0}, DECAY, 2000, 1)
    liver, spleen, bladder = (drawn[r].integral[1:] for r in ("liver", "spleen", "bladder"))
    np.testing.assert_allclose(liver, spleen)
    assert abs(np.corrcoef(liver, bladder)[0, 1]) < 0.1


def test_an_unknown_assumption_before_the_first_scan_is_refused():
    with pytest.raises(ModelError, match="constant"):
        curve([1.0], [24.0], early="nothing")


@given(st.floats(5.0, 159.0), st.floats(2.0, 200.0))
def test_one_scan_with_a_half_life_is_one_exponential_from_time_zero(half_life, time):
    c = drawn_curves(measured([7.0], [time]), {"s0": time}, DECAY, 2, 1, "exponential", {"liver": half_life})["liver"]
    assert c.integral[0] == pytest.approx(7.0 * 2 ** (time / half_life) * half_life / math.log(2.0), rel=1e-9)
    np.testing.assert_allclose(c.values(np.array([0.0, time]))[0], [7.0 * 2 ** (time / half_life), 7.0], rtol=1e-9)


def test_a_half_life_longer_than_the_physical_one_is_cut_to_it():
    c = drawn_curves(measured([7.0], [24.0]), {"s0": 24.0}, DECAY, 2, 1, "constant", {"liver": 500.0})["liver"]
    assert c.tail_rate[0] == pytest.approx(DECAY)
