"""Laws of the dose-rate model."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdt_core.errors import ModelError
from tdt_core.parameters import packaged_table
from tdt_core.radiobiology import bed, dose_of_bed, lea_catcheside, lea_catcheside_sampled, quadratic_dose

positive = st.floats(1e-3, 2.0)


@settings(max_examples=60, deadline=None)
@given(rates=st.lists(positive, min_size=1, max_size=4), repair=st.floats(0.1, 20.0))
def test_g_lies_between_zero_and_one_for_any_sum_of_falling_phases(rates, repair):
    g = lea_catcheside(np.ones(len(rates)), np.array(rates), repair)
    assert 0 < g <= 1


@settings(max_examples=40, deadline=None)
@given(fast=st.floats(0.02, 0.3), slow=st.floats(0.005, 0.02), share=st.floats(0.05, 0.95), repair=st.floats(0.3, 10.0))
def test_the_sampled_engine_agrees_with_the_closed_form(fast, slow, share, repair):
    a, rates = np.array([1 - share, share, -1.0]), np.array([fast, slow, 1.5])
    times = np.concatenate([[0.0], np.geomspace(0.02, 1500.0, 400)])
    rate = np.maximum(a @ np.exp(-rates[:, None] * times), 0.0)
    assert lea_catcheside_sampled(times, rate, repair) == pytest.approx(float(lea_catcheside(a, rates, repair)), rel=2e-3)


def test_splitting_the_rate_scale_changes_dose_linearly_and_q_quadratically():
    times = np.linspace(0, 300, 200)
    rate = np.exp(-0.02 * times)
    d1, q1 = quadratic_dose(times, rate, 2.8)
    d3, q3 = quadratic_dose(times, 3 * rate, 2.8)
    assert d3 == pytest.approx(3 * d1)
    assert q3 == pytest.approx(9 * q1)


def test_instant_repair_leaves_the_absorbed_dose_and_no_repair_gives_g_of_one():
    a, rates = np.array([1.0]), np.array([0.02])
    assert lea_catcheside(a, rates, 1e-9) == pytest.approx(0.0, abs=1e-8)
    assert lea_catcheside(a, rates, 1e9) == pytest.approx(1.0, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(d=st.floats(0.01, 60), g=st.floats(0.001, 1), ab=st.floats(1, 20))
def test_dose_of_bed_inverts_bed(d, g, ab):
    assert float(dose_of_bed(bed(d, g, ab), g, ab)) == pytest.approx(d, rel=1e-9)


def test_curves_that_mean_nothing_are_refused():
    times = np.linspace(0, 10, 5)
    with pytest.raises(ModelError, match="negative"):
        quadratic_dose(times, np.array([1, 1, -1, 1, 0.5]), 2.8)
    with pytest.raises(ModelError, match="fall at its end"):
        quadratic_dose(times, np.array([1.0, 1, 1, 1, 2]), 2.8)
    with pytest.raises(ModelError, match="ascending"):
        quadratic_dose(times[::-1], np.ones(5), 2.8)


def test_every_tissue_has_both_parameters():
    names = list(packaged_table("radiobiology.csv"))
    organs = {n.rpartition(".")[0] for n in names}
    assert all({f"{o}.alpha_beta", f"{o}.repair_half_time"} <= set(names) for o in organs)
