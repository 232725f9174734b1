"""Laws of planning: closed forms, monotony, abstention, limits that never mix quantities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdt_core.errors import PlanningError
from tdt_core.planning import OrganOutlook, limits, objections, products, propose, read_rows
from tdt_core.twin import Limit, Product

PRODUCT = Product("P", "PSMA-617", "Lu-177", 6, (3700.0, 11100.0), 7400.0, 1008.0, "test", "assumed")
AD = Limit("kidneys", "AD", 23.0, 0.05, "test", "assumed", "test")
BED = Limit("kidneys", "BED", 40.0, 0.05, "test", "assumed", "test", 2.5, 2.8)


def outlook(median=0.55e-3, sd=0.1, cumulative=0.0, g=0.052, n=4000, seed=0):
    draws = median * np.exp(sd * np.random.default_rng(seed).standard_normal(n))
    return OrganOutlook(draws, np.full(n, g), np.full(n, cumulative))


def test_absorbed_dose_rule_meets_its_lognormal_closed_form():
    """A = allowance / (median exp(1.645 sigma)), for one remaining cycle and a range that does not bind."""
    wide = Product("P", "l", "Lu-177", 6, (10.0, 1e6), 7400.0, 1008.0, "t", "assumed")
    proposal = propose("s", 1, {"kidneys": outlook(sd=0.3, n=200_000)}, (AD,), wide, 1)
    expected = 23.0 / (0.55e-3 * np.exp(1.6449 * 0.3))
    assert proposal.activity_mbq == pytest.approx(expected, rel=5e-3)
    assert proposal.risk == pytest.approx(0.05, abs=2e-3)


def test_bed_rule_meets_its_closed_form_for_equal_cycles():
    """n = 4, 40 Gy2.5: 8.497 Gy per cycle (O19), here with G of T_eff 51 h and T_rep 2.8 h."""
    wide = Product("P", "l", "Lu-177", 4, (10.0, 1e6), 7400.0, 1008.0, "t", "assumed")
    exact = OrganOutlook(np.full(100, 1e-3), np.full(100, 2.8 / (2.8 + 51.0)), np.zeros(100))
    proposal = propose("s", 1, {"kidneys": exact}, (BED,), wide, 4)
    assert proposal.activity_mbq == pytest.approx(8490.0)  # 8.497 Gy at 1 Gy/GBq, rounded down to 10 MBq


@settings(max_examples=40, deadline=None)
@given(cumulative=st.floats(0, 30), remaining=st.integers(1, 6), sd=st.floats(0.01, 0.6))
def test_more_dose_given_never_raises_the_proposal_and_its_risk_is_accepted(cumulative, remaining, sd):
    less = propose("s", 1, {"kidneys": outlook(sd=sd, cumulative=cumulative)}, (AD,), PRODUCT, remaining)
    more = propose("s", 1, {"kidneys": outlook(sd=sd, cumulative=cumulative + 2)}, (AD,), PRODUCT, remaining)
    assert (more.activity_mbq or 0) <= (less.activity_mbq or 0)
    if less.activity_mbq is not None:
        assert less.risk is not None
        assert less.risk <= 0.05
        assert PRODUCT.activity_range_mbq[0] <= less.activity_mbq <= PRODUCT.activity_range_mbq[1]


def test_the_risk_curve_rises_from_zero_to_one():
    curve = propose("s", 1, {"kidneys": outlook(median=2.5e-3)}, (AD,), PRODUCT, 3).curve
    assert np.all(np.diff(curve["any"]) >= 0)


def test_the_joint_risk_is_at_least_each_limits_risk():
    marrow = Limit("red_marrow", "AD", 2.0, 0.05, "t", "assumed", "t")
    two = {"kidneys": outlook(sd=0.3), "red_marrow": outlook(0.05e-3, 0.3, seed=1)}
    curve = propose("s", 1, two, (AD, marrow), PRODUCT, 6).curve
    for organ in two:
        assert (np.array(curve["any"]) >= np.array(curve["per_limit"][organ])).all()


@pytest.mark.parametrize(
    ("outlooks", "remaining", "objection", "word"),
    [
        ({"kidneys": outlook(cumulative=23.5)}, 3, (), "smallest allowed activity"),
        ({}, 3, (), "no dose estimate for kidneys"),
        ({"kidneys": outlook()}, 0, (), "planned cycles"),
        ({"kidneys": outlook()}, 3, ("the model does not fit",), "does not fit"),
    ],
)
def test_the_twin_abstains_with_a_reason(outlooks, remaining, objection, word):
    proposal = propose("s", 1, outlooks, (AD,), PRODUCT, remaining, objection)
    assert proposal.abstains
    assert any(word in reason for reason in proposal.reasons)


def test_limits_never_mix_absorbed_dose_and_bed_for_one_organ():
    header = "organ,quantity,value_gy,alpha_beta_gy,repair_half_time_h,risk,status,source,set_by\n"
    twice = header + "kidneys,AD,23,,,0.05,assumed,a,me\nkidneys,BED,40,2.5,2.8,0.05,assumed,a,me\n"
    with pytest.raises(PlanningError, match="twice"):
        limits(read_rows(twice))
    with pytest.raises(PlanningError, match="alpha/beta"):
        limits(read_rows(header + "kidneys,BED,40,,,0.05,assumed,a,me\n"))
    with pytest.raises(PlanningError, match="AD or BED"):
        limits(read_rows(header + "kidneys,EQD2,40,,,0.05,assumed,a,me\n"))


def test_packaged_limits_and_products_carry_source_and_status():
    assert all(x.source and x.status for x in limits())
    assert all(x.source and x.status for x in products().values())


def test_diagnostics_that_fail_become_objections_in_words():
    good = {"n_obs": 60, "misfit_by_organ": {"kidneys": {"two_j": 7.0, "n_obs": 8}}, "linearity_shift_sd": 0.1}
    bad = {"kidneys": {"two_j": 40.0, "n_obs": 8}}
    assert objections(good, {"kidneys"}, {"kidneys"}) == ()
    assert "does not fit" in objections({**good, "misfit_by_organ": bad}, {"kidneys"}, {"kidneys"})[0]
    assert objections({**good, "misfit_by_organ": {"lungs": {"two_j": 90.0, "n_obs": 4}}}, {"kidneys"}, {"kidneys"}) == ()
    assert "Laplace" in objections({**good, "linearity_shift_sd": 0.9}, {"kidneys"}, {"kidneys"})[0]
    assert "assumed, not learned" in objections(good, set(), {"kidneys"})[0]
    assert "no usable" in objections({**good, "n_obs": 0, "misfit_by_organ": {}}, {"kidneys"}, {"kidneys"})[0]
