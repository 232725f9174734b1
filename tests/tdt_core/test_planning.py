"""Laws of planning: closed forms, monotony, abstention, limits that never mix quantities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdt_core.assimilation import poorly_fitted
from tdt_core.errors import ModelError, PlanningError
from tdt_core.planning import OrganOutlook, limits, objections, products, propose, read_rows
from tdt_core.planning.diagnostics import beyond_the_ledger
from tdt_core.planning.ledger import LedgerRow, latest, ledger_of, opening_balance
from tdt_core.planning.outlook import Tissue, bed_map, for_ligand, responses, tissues
from tdt_core.planning.proposal import with_cycle
from tdt_core.radiobiology import bed
from tdt_core.twin import Administration, Limit, PriorTherapy, Product, Region

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


def test_what_equal_cycles_of_the_proposal_add_up_to_is_the_limit():
    """n = 4, 40 Gy2.5 (O19): the first cycle's outlook is a quarter of the limit, up to the rounding of the activity."""
    wide = Product("P", "l", "Lu-177", 4, (10.0, 1e6), 7400.0, 1008.0, "t", "assumed")
    exact = OrganOutlook(np.full(100, 1e-3), np.full(100, 2.8 / (2.8 + 51.0)), np.zeros(100))
    (row,) = propose("s", 1, {"kidneys": exact}, (BED,), wide, 4).limits
    assert row["after_gy"]["mean"] == pytest.approx(10.0, rel=2e-3)
    assert row["after_gy"]["mean"] < 10.0


@pytest.mark.parametrize("limit", [AD, BED])
@pytest.mark.parametrize("cumulative", [0.0, 6.0])
def test_the_outlook_exceeds_the_allowance_in_as_many_draws_as_the_risk_says(limit, cumulative):
    told = outlook(median=0.8e-3, sd=0.3, cumulative=cumulative)
    proposal = propose("s", 2, {"kidneys": told}, (limit,), PRODUCT, 3)
    assert proposal.activity_mbq is not None
    after = with_cycle(limit, told, proposal.activity_mbq)
    allowance = (limit.value_gy - told.cumulative_gy) / 3
    assert (after - told.cumulative_gy > allowance).mean() == proposal.risk
    (row,) = proposal.limits
    assert row["after_gy"]["q95"] == pytest.approx(np.quantile(after, 0.95))
    assert (after > told.cumulative_gy).all()


def test_an_abstention_has_no_outlook():
    (row,) = propose("s", 1, {"kidneys": outlook(cumulative=23.5)}, (AD,), PRODUCT, 3).limits
    assert "after_gy" not in row


def test_the_risk_curve_rises_from_zero_to_one():
    curve = propose("s", 1, {"kidneys": outlook(median=2.5e-3)}, (AD,), PRODUCT, 3).curve
    assert np.all(np.diff(curve["any"]) >= 0)


def test_the_joint_risk_is_at_least_each_limits_risk():
    marrow = Limit("red_marrow", "AD", 2.0, 0.05, "t", "assumed", "t")
    two = {"kidneys": outlook(sd=0.3), "red_marrow": outlook(0.05e-3, 0.3, seed=1)}
    curve = propose("s", 1, two, (AD, marrow), PRODUCT, 6).curve
    for organ in two:
        assert (np.array(curve["any"]) >= np.array(curve["per_limit"][organ])).all()


def test_the_deciding_limit_is_the_one_with_most_of_the_risk_and_every_share_is_told():
    """Marrow has the fatter tail: less of it at 5 % alone, more where both together reach 5 %."""
    marrow = Limit("red_marrow", "AD", 2.0, 0.05, "t", "assumed", "t")
    rng = np.random.default_rng(3)
    tail = np.where(rng.random(20_000) < 0.03, 10.0, 1.0)
    two = {
        "kidneys": outlook(0.40e-3, 0.12, n=20_000),
        "red_marrow": OrganOutlook(0.03e-3 * tail, np.full(20_000, 0.05), np.zeros(20_000)),
    }
    proposal = propose("s", 1, two, (AD, marrow), PRODUCT, 6)
    assert proposal.activity_mbq is not None
    given_ = proposal.activity_mbq + 10.0
    share = {o: float((two[o].gy_per_mbq * given_ > x.value_gy / 6).mean()) for o, x in zip(two, (AD, marrow), strict=True)}
    assert proposal.binding == "red_marrow" == max(share, key=share.__getitem__)
    assert share["kidneys"] < 0.05
    assert "a limit's allowance is more than 5% (red_marrow 3." in proposal.reasons[0]
    assert "kidneys 1." in proposal.reasons[0]


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


def test_a_row_of_products_without_a_column_is_refused_in_words():
    with pytest.raises(PlanningError, match="products cannot be read"):
        products([{"name": "X", "ligand": "PSMA-617"}])


def test_packaged_limits_and_products_carry_source_and_status():
    assert all(x.source and x.status for x in limits())
    assert all(x.source and x.status for x in products().values())


REGIONS = (
    Region("kidney_left", "kidneys", "", "left", None, 150.0, 156.0),
    Region("lungs", "lungs", "", "none", None, 3000.0, 900.0),
)
SEEN = ({"region": "kidney_left", "status": "active"}, {"region": "lungs", "status": "active"})
GOOD = {
    "n_obs": 60,
    "misfit_by_organ": {"kidneys": {"two_j": 7.0, "n_obs": 8}},
    "linearity_shift_by_region": {"kidney_left": 0.1, "lungs": 0.1},
}


def objections_to(fit_report=SEEN, **changed):
    return objections({**GOOD, **changed}, fit_report, REGIONS, {"kidneys"})


def test_diagnostics_that_fail_become_objections_in_words():
    assert objections_to() == ()
    assert "does not fit" in objections_to(misfit_by_organ={"kidneys": {"two_j": 40.0, "n_obs": 8}})[0]
    assert "Laplace" in objections_to(linearity_shift_by_region={"kidney_left": 0.9})[0]
    # of draws moved until they mixed it is the posterior's own skewness
    far = {"linearity_shift_by_region": {"kidney_left": 0.9}}
    assert objections_to(**far, estimator={"moves": 20, "mixed": True}) == ()
    assert "Laplace" in objections_to(**far, estimator={"moves": 60, "mixed": False})[0]
    assert "assumed, not learned" in objections_to(({"region": "kidney_left", "status": "missing"},))[0]
    assert "no usable" in objections_to(n_obs=0, misfit_by_organ={})[0]


def test_an_organ_without_a_limit_neither_objects_nor_stays_unnamed():
    misfit = {"lungs": {"two_j": 90.0, "n_obs": 4}}
    assert objections_to(misfit_by_organ=misfit, linearity_shift_by_region={"kidney_left": 0.1, "lungs": 0.9}) == ()
    assert set(poorly_fitted({**GOOD, "misfit_by_organ": misfit})) == {"lungs"}


def test_the_ledger_keeps_a_region_that_a_cycle_did_not_have_at_zero():
    given = Administration(0.0, "P", "PSMA-617", "Lu-177", 7400.0)
    one = LedgerRow(1, given, ("kidneys",), np.full((1, 3), 2.0), np.full((1, 3), 3.0))
    two = LedgerRow(2, given, ("kidneys", "lesion/A"), np.full((2, 3), 1.0), np.full((2, 3), 1.5))
    ledger = ledger_of([one, two], two)
    assert ledger.cumulative("kidneys") == pytest.approx([3.0, 3.0, 3.0])
    assert ledger.cumulative("lesion/A", "BED") == pytest.approx([1.5, 1.5, 1.5])


def test_the_bed_map_of_a_uniform_region_is_the_bed_of_its_dose():
    tissues = {"kidneys": Tissue(2.5, 2.8, "test", "assumed")}
    labels = np.array([[[1, 1, 2, 0]]])
    dose, g = np.full(labels.shape, 5.0, np.float32), np.full((2, 4), 0.05)
    found = bed_map(labels, REGIONS, dose, g, tissues)
    assert found[0, 0, :2] == pytest.approx(float(bed(5.0, 0.05, 2.5)))
    assert np.isnan(found[0, 0, 2:]).all()


def test_regions_with_an_alpha_beta_have_a_response_and_the_others_none():
    tissue = Tissue(2.5, 2.8, "test", "assumed", alpha_per_gy=0.1, eud_a=1.4)
    g = np.arange(2 * 4).reshape(2, 4) / 100
    found = responses(REGIONS, g, {"kidneys": tissue})
    expected = {r.name: row for r, row in zip(REGIONS, g, strict=True) if r.organ == "kidneys"}
    assert expected
    assert set(found) == set(expected)
    for name, response in found.items():
        assert (response.g == expected[name]).all()
        assert (response.alpha_beta_gy, response.alpha_per_gy, response.eud_a) == (2.5, 0.1, 1.4)


def test_a_bed_limit_brings_its_own_alpha_beta_and_no_alpha():
    packaged = tissues()["lesions"]
    assert packaged.alpha_per_gy is not None
    limit = Limit("lesions", "BED", 100.0, 0.05, "test", "assumed", "test", alpha_beta_gy=3.0, repair_half_time_h=1.0)
    own = tissues([limit])["lesions"]
    assert (own.alpha_beta_gy, own.alpha_per_gy, own.eud_a) == (3.0, None, packaged.eud_a)


def test_the_response_of_prostate_metastases_is_assumed_for_other_tumours():
    known = tissues()
    assert for_ligand(known, "PSMA-617") is known
    other = for_ligand(known, "DOTATATE")
    assert (known["lesions"].status, other["lesions"].status) == ("literature", "assumed")
    assert other["lesions"].alpha_beta_gy == known["lesions"].alpha_beta_gy
    assert "another tumour" in other["lesions"].source
    assert other["kidneys"] == known["kidneys"]
    limit = Limit("lesions", "BED", 100.0, 0.05, "site", "literature", "site", alpha_beta_gy=3.0, repair_half_time_h=1.0)
    own = tissues([limit])
    assert for_ligand(own, "DOTATATE")["lesions"] == own["lesions"]


def kidney_ledger(*prior: PriorTherapy):
    given = Administration(0.0, "P", "l", "Lu-177", 7400.0)
    dose = np.full((1, 4000), 4.0)
    row = LedgerRow(1, given, ("kidneys",), dose, 1.2 * dose)
    return ledger_of([row], row, prior)


EARLIER = PriorTherapy(-9000.0, "kidneys", 5.0, "photon", "treatment_plan")


def test_an_earlier_absorbed_dose_takes_from_the_allowance_as_a_lower_limit_would():
    before, after = kidney_ledger(), kidney_ledger(EARLIER)
    np.testing.assert_allclose(after.cumulative("kidneys"), before.cumulative("kidneys") + 5.0)
    lower = Limit("kidneys", "AD", 18.0, 0.05, "test", "assumed", "test")

    def proposed(limit, ledger):
        ahead = outlook()
        ahead = OrganOutlook(ahead.gy_per_mbq, ahead.lea_catcheside, ledger.cumulative("kidneys"))
        return propose("s", 2, {"kidneys": ahead}, (limit,), PRODUCT, 3)

    assert proposed(AD, after).curve == proposed(lower, before).curve
    assert proposed(AD, after).activity_mbq == proposed(lower, before).activity_mbq
    assert (proposed(AD, after).activity_mbq or 0) < proposed(AD, before).activity_mbq


def test_a_bed_limit_beside_an_earlier_absorbed_dose_makes_the_twin_abstain_for_that_reason_alone():
    ledger = kidney_ledger(EARLIER)
    assert ledger.knows("kidneys", "AD")
    assert not ledger.knows("kidneys", "BED")
    with pytest.raises(ModelError, match="opening"):
        ledger.cumulative("kidneys", "BED")
    why = beyond_the_ledger(ledger, (BED,))
    proposal = propose("s", 2, {}, (BED,), PRODUCT, 3, missing=why)
    assert proposal.abstains
    (reason,) = proposal.reasons
    assert "kidneys received 5 Gy in earlier therapies, whose BED is not known" in reason
    assert beyond_the_ledger(ledger, (AD,)) == {}
    assert beyond_the_ledger(kidney_ledger(), (BED,)) == {}


def test_earlier_therapies_add_up_by_organ_and_a_later_record_replaces_its_own():
    other = PriorTherapy(-2000.0, "kidneys", 2.0, "beta_gamma", "dosimetry")
    marrow = PriorTherapy(-2000.0, "red_marrow", 0.4, "beta_gamma", "dosimetry")
    corrected = PriorTherapy(-9000.0, "kidneys", 6.0, "photon", "dosimetry")
    known = latest((), (other, EARLIER, marrow))
    assert known == (EARLIER, other, marrow)
    assert latest(known, known) == known
    assert opening_balance(known) == {"kidneys": 7.0, "red_marrow": 0.4}
    assert opening_balance(latest(known, (corrected,))) == {"kidneys": 8.0, "red_marrow": 0.4}
