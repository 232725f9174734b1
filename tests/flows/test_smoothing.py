"""Alarms of the smoother in words, and that it stops nothing."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from flows import smoothing
from flows.smoothing import alarms
from tdt_core.errors import EstimationError, ModelError
from tdt_core.kinetics import rung_for
from tdt_core.planning import product_for
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


@pytest.mark.parametrize("error", [EstimationError("no solution"), ModelError("no amount"), np.linalg.LinAlgError("singular")])
def test_a_fit_of_all_cycles_that_fails_is_a_reason_and_stops_no_cycle(error, monkeypatch, commit):
    state = commit()
    rung = rung_for("sum_of_exponentials", "PSMA-617", state.evidence.regions)

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(smoothing, "_course", lambda *_: [state])
    monkeypatch.setattr(smoothing, "state_model", lambda _: rung)
    monkeypatch.setattr(smoothing, "smooth", fails)
    product = product_for("PSMA-617", "Lu-177")
    later = dataclasses.replace(
        state.evidence,
        administrations=tuple(dataclasses.replace(a, time_h=a.time_h + 1000.0) for a in state.evidence.administrations),
    )
    site = SimpleNamespace(store=SimpleNamespace(load=lambda _: state))
    told = smoothing.against_all_cycles(site, state.id, rung, later, state.posterior, product, (1,))
    assert told["reason"].startswith("all cycles at once could not be fitted")
    assert len(alarms(told, rung.regions)) == 1


def test_a_draw_without_a_solution_is_left_out_and_the_others_stay():
    class Rung:
        regions = (Region("kidney_left", "kidneys", ""), Region("liver", "liver", ""))

        def time_integrated_activity(self, theta, given):
            if (theta[:, 0] < 0).any():
                raise ModelError("no solution")
            return np.exp(theta)

    theta = np.array([[1.0, 2.0], [3.0, 4.0], [-1.0, 5.0], [6.0, 7.0], [8.0, 9.0]])
    found = smoothing.log_activity(Rung(), theta, None)
    np.testing.assert_allclose(found[[0, 1, 3, 4]], theta[[0, 1, 3, 4]])
    assert np.isnan(found[2]).all()
