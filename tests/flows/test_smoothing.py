"""Alarms of the smoother in words."""

from flows.smoothing import alarms
from tdt_core.twin import Region


def test_only_doses_that_move_far_are_told_the_farthest_first():
    told = {"cycles": 3, "shift_sd_by_region": {"kidney_left": 0.2, "liver": -0.8, "lesion/L1": 1.4}}
    first, second = alarms(told, (Region("lesion/L1", "lesions", ""), Region("liver", "liver", "")))
    assert first.startswith("lesion/L1 (lesions)")
    assert "1.4 sd down" in first
    assert "0.8 sd up" in second


def test_a_failed_fit_of_all_cycles_is_told_and_a_first_cycle_is_not():
    assert alarms({"reason": "no earlier cycle was fitted with whole_body"}, ()) == []
    assert alarms({"reason": "all cycles at once could not be fitted: x"}, ()) == ["all cycles at once could not be fitted: x"]
