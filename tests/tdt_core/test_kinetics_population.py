"""Laws of protein binding and of tubular reuptake, and of the virtual patients that are calibrated to clinical levels."""

from dataclasses import replace

import numpy as np
import pytest

from tdt_core.errors import EstimationError, ModelError, TwinError
from tdt_core.kinetics.clinical_levels import SD_FACTOR, calibrate, cohort, levels, outcomes, target, trends
from tdt_core.kinetics.pbrpk import COMPLEX, SINK, VENOUS, pbrpk
from tdt_core.kinetics.population import population
from tdt_core.kinetics.simulation import simulate, simulate_batch
from tdt_core.twin import Administration

REFERENCE, PSMA = pbrpk("psma_reference"), pbrpk("psma")
BY_FRACTION, BY_ALBUMIN = (PSMA.with_options(plasma_binding=b) for b in ("free_fraction", "albumin"))
GIVEN = (Administration(0.0, "p", "PSMA-617", "Lu-177", 7400.0, amount_nmol=110.0),)
TIMES = [1.0, 4.0, 24.0, 72.0]


def tia(model, values=None, rtol=1e-8):
    return simulate(model, values or {}, GIVEN, TIMES, rtol=rtol)["tia_mbq_h"].sel(label="total")


# --- binding to proteins


@pytest.mark.parametrize("model", [REFERENCE, PSMA], ids=["psma_reference", "psma"])
def test_a_free_fraction_of_one_is_no_binding_to_the_last_bit(model):
    bound = model.with_options(plasma_binding="free_fraction")
    without, with_ = (simulate(m, v, GIVEN, TIMES) for m, v in ((model, {}), (bound, {"free_fraction": 1.0})))
    assert np.array_equal(without["activity_mbq"], with_["activity_mbq"])
    assert np.array_equal(without["tia_mbq_h"], with_["tia_mbq_h"])


def test_without_albumin_there_is_no_binding():
    data = tia(BY_ALBUMIN, {"albumin_concentration": 0.0})
    np.testing.assert_allclose(data, tia(PSMA), rtol=1e-6)


@pytest.mark.parametrize("model", [BY_FRACTION, BY_ALBUMIN], ids=["free_fraction", "albumin"])
def test_binding_creates_and_destroys_no_ligand(model):
    network = model.network()
    coefficients = network.gather(model.coefficients({}))[0]
    y = np.random.default_rng(0).uniform(0, 1, len(network.states))
    flow = network.derivative(coefficients, y)
    assert abs(flow.sum()) < 1e-12 * np.abs(flow).max()
    assert np.abs(network.rate_matrix(coefficients).sum(axis=0)).max() < 1e-12 * np.abs(coefficients).max()
    data = simulate(model, {}, GIVEN, TIMES)
    total = data["amount_nmol"].sel(label="total").sum(["region", "part"])
    np.testing.assert_allclose(total, 110.0, rtol=1e-9)


def test_fast_albumin_in_excess_is_a_free_fraction():
    """In the limit of fast exchange the complex is in equilibrium, and without protein outside vessels both say the same."""
    share = 0.25
    strength = {"K_D_albumin": 6e5 * share / (1 - share), "tumour_albumin_ratio": 0.0}
    limit = tia(BY_FRACTION, {"free_fraction": share, "interstitial_protein_ratio": 0.0})
    errors = [float(np.abs(tia(BY_ALBUMIN, strength | {"k_off_albumin": k}) / limit - 1).max()) for k in (300.0, 3000.0)]
    assert errors[1] < 4e-4
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.2)  # what is left is the lag, which is inverse in the rate


def test_ligand_held_by_proteins_stays_longer_in_blood_and_is_excreted_later():
    for weak, strong in (
        ((BY_FRACTION, {"free_fraction": 0.8}), (BY_FRACTION, {"free_fraction": 0.2})),
        ((BY_ALBUMIN, {"K_D_albumin": 1e6}), (BY_ALBUMIN, {"K_D_albumin": 1e5})),
    ):
        less, more = (simulate(model, values, GIVEN, TIMES, rtol=1e-6) for model, values in (weak, strong))
        assert more["tia_mbq_h"].sel(label="total", region=VENOUS) > 1.5 * less["tia_mbq_h"].sel(label="total", region=VENOUS)
        out = [d["amount_nmol"].sel(label="total", region=SINK, time_h=4.0).sum() for d in (less, more)]
        assert out[1] < out[0]


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_exposure_of_blood_follows_from_what_is_filtered_free(share):
    """Where ligand only leaves by the kidneys, blood sees amount (1/(free clearance) + 1/(kidney flow)), nmol min/L."""
    values = BY_FRACTION.quantities({"k_on": 0.0, "free_fraction": share})
    lasting = (Administration(0.0, "p", "PSMA-617", "C-14", 1.0, amount_nmol=110.0),)  # hardly decays while it is in the body
    found = simulate(BY_FRACTION, {"k_on": 0.0, "free_fraction": share}, lasting, [1.0], end_h=3000.0)
    cleared = float(values["kidneys.GFR"] * values["kidneys.phi"] * values["kidneys.f_exc"]) * share
    for pool in ("arterial_pool", VENOUS):
        exposure = float(found["tia_mbq_h"].sel(label="total", region=pool)) * 60.0 / float(values[f"{pool}.volume"])
        assert exposure == pytest.approx(1 / cleared + 1 / float(values["kidneys.flow"]), rel=1e-4)


def test_the_complex_is_in_blood_and_in_tumours_only_and_no_receptor_takes_it():
    network = BY_ALBUMIN.network()
    held = {s.region for s in network.states if s.part == COMPLEX}
    assert held == {o.name for o in BY_ALBUMIN.organs}
    assert [s.region for s in network.states if s.part == "interstitial_complex"] == ["tumour_rest"]
    assert not [b for b in network.bindings if b.source.endswith(COMPLEX)]
    leaves = {t.target.split("/")[1] for t in network.transfers if t.source.endswith(f"kidney_left/{COMPLEX}")}
    assert leaves == {"kidney_left", VENOUS}  # apart again, or on with the blood; not filtered


def test_a_batch_of_one_structure_has_any_free_fraction():
    shares = np.array([1.0, 0.6, 0.2])
    together = simulate_batch(BY_FRACTION, {"free_fraction": shares}, GIVEN, TIMES, rtol=1e-8)["tia_mbq_h"]
    for i, share in enumerate(shares):
        np.testing.assert_allclose(together[i].sel(label="total"), tia(BY_FRACTION, {"free_fraction": share}), rtol=1e-5)


def test_an_unknown_binding_is_refused_with_what_is_known():
    with pytest.raises(ModelError, match=r"plasma_binding is 'globulin'.*albumin") as caught:
        PSMA.with_options(plasma_binding="globulin")
    assert caught.value.kind == "model.option"
    with pytest.raises(ModelError, match=r"blood\.free_fraction = 1\.2.*from 0 to 1"):
        BY_FRACTION.coefficients({"free_fraction": 1.2})


# --- tubular reuptake


def test_all_of_the_usual_reuptake_changes_nothing_and_none_of_it_sends_all_that_is_filtered_into_urine():
    usual, all_, none = (REFERENCE.quantities(v) for v in ({}, {"ligand.reuptake": 1.0}, {"ligand.reuptake": 0.0}))
    for name in usual:
        assert float(all_[name]) == pytest.approx(float(usual[name]), rel=1e-12), name
    assert float(none["kidneys.reabsorbed_flow"]) == 0.0
    assert float(none["kidneys.excreted_flow"]) == float(usual["kidneys.filtered_flow"])
    half = PSMA.quantities({"ligand.reuptake": 0.5})
    for side in ("kidney_left", "kidney_right"):
        assert float(half[f"{side}.excreted_flow"] + half[f"{side}.reabsorbed_flow"]) == pytest.approx(
            float(half[f"{side}.filtered_flow"]), rel=1e-12
        )


def test_less_reuptake_lowers_the_kidney_dose():
    values = [float(tia(PSMA, {"ligand.reuptake": share}, rtol=1e-6).sel(region="kidney_left")) for share in (1.0, 0.5, 0.0)]
    assert values[0] > values[1] > values[2]


# --- virtual patients

PEOPLE = population("psma")
SMALL = 1000


@pytest.fixture(scope="module")
def found():
    return cohort(PEOPLE, SMALL, seed=5)


def test_draws_are_reproducible_and_a_patient_does_not_depend_on_how_many_are_drawn():
    few, again, many, other = (PEOPLE.draw(m, seed) for m, seed in ((3, 1), (3, 1), (50, 1), (3, 2)))
    assert set(few) == set(many)
    for name, values in few.items():
        assert np.array_equal(values, again[name])
        np.testing.assert_allclose(values, many[name][:3], rtol=1e-13)
    assert not np.allclose(few["body.weight"], other["body.weight"])


def test_draws_have_the_medians_spreads_and_correlations_of_the_table():
    many = PEOPLE.draw(20_000, 3)
    for name, p in PEOPLE.drawn.items():
        if name in many and p.distribution == "lognormal":
            logs = np.log(many[name])
            assert logs.mean() == pytest.approx(np.log(p.value), abs=5 * p.sd / np.sqrt(20_000))
            assert logs.std() == pytest.approx(p.sd, rel=0.03)
    age, filtration = many["body.age"], np.log(many["body.eGFR"])
    assert np.corrcoef(age, filtration)[0, 1] == pytest.approx(-0.4, abs=0.03)
    left, right = (np.log(many[f"kidney_{side}.volume"]) for side in ("left", "right"))
    assert np.corrcoef(left, right)[0, 1] == pytest.approx(0.16**2 / (0.16**2 + 0.06**2), abs=0.02)  # the size is shared
    assert abs(np.corrcoef(np.log(many["kidneys.R_density"]), np.log(many["salivary_glands.R_density"]))[0, 1]) < 0.03


def test_every_virtual_patient_has_a_body_that_closes():
    values = PEOPLE.model.quantities(PEOPLE.draw(2000, 4))
    np.testing.assert_allclose(values["body.BSA"], np.sqrt(values["body.height"] * values["body.weight"] / 3600.0))
    np.testing.assert_allclose(values["kidneys.GFR"], values["body.eGFR"] * values["body.BSA"] / 1.73 / 1000.0)
    assert float(values["rest.volume"].min()) > 0
    assert 55 < np.median(values["body.weight"]) < 95


def test_the_typical_patient_has_every_median():
    typical = PEOPLE.typical()
    assert typical["kidneys.R_density"] == pytest.approx(PEOPLE.drawn.value("kidneys.R_density"))
    assert typical["body.weight"] == pytest.approx(26.5 * 1.75**2)
    assert float(simulate(PEOPLE.model, typical, [PEOPLE.administration()], [24.0])["tia_mbq_h"].sum()) > 0


def test_draws_for_a_variant_leave_out_what_it_lacks():
    single = PEOPLE.model.without("kidney_left")
    drawn = PEOPLE.draw(2, 0, single)
    assert "kidney_left.volume" not in drawn
    np.testing.assert_array_equal(drawn["kidney_right.volume"], PEOPLE.draw(2, 0)["kidney_right.volume"])
    assert single.coefficients(drawn)


def test_every_number_of_the_population_has_a_status_and_what_was_fitted_says_to_which_row():
    rows = {level.row: level.use for level in levels()}
    parameters = PEOPLE.table.parameters
    assert all(p.source for p in parameters.values())
    assert {n for n, p in parameters.items() if p.source.startswith(("fitted", "median fitted"))} == set(PEOPLE.calibrated)
    for name, fits in PEOPLE.calibrated.items():
        assert parameters[name].status == "calibrated"
        assert {rows[row] for row in fits.values()} == {"calibrated"}
    fitted = {row for fits in PEOPLE.calibrated.values() for row in fits.values()}
    assert fitted == {row for row, use in rows.items() if use == "calibrated"}
    assert rows["red_marrow.dose"] == "predicted"


def test_self_dose_is_electron_energy_over_mass(found):
    """0.2726 Gy/GBq for each hour in a kidney of 0.311 kg, by 147 keV a decay."""
    drawn = PEOPLE.draw(SMALL, 5)
    mass = drawn["kidney_left.volume"] + drawn["kidney_right.volume"]
    np.testing.assert_allclose(found["kidneys.dose"] / found["kidneys.tiac"] * mass, 0.2726 * 0.311, rtol=1e-2)


def test_the_late_half_life_is_the_slope_of_the_curve_between_its_samples():
    typical, given = PEOPLE.typical(), PEOPLE.administration()
    times = np.arange(4.0, 24.5, 0.5)
    blood = simulate(PEOPLE.model, typical, [given], times)["amount_nmol"].sel(label="total", region=VENOUS).sum("part")
    slope = np.polyfit(times, np.log(blood.to_numpy()), 1)[0]
    one = outcomes(PEOPLE, {n: np.array([v]) for n, v in typical.items()}, rtol=1e-6)
    assert one["blood.late_half_life"][0] == pytest.approx(-np.log(2) / slope, rel=0.03)


# --- clinical levels


def test_rows_are_per_what_entered_the_patient():
    """A vial of which a fifth stays behind is one of four fifths."""
    typical = {n: np.array([v]) for n, v in PEOPLE.typical().items()}
    vial = PEOPLE.administration(9250.0)
    less = PEOPLE.administration(7400.0, 0.8 * vial.amount_nmol)
    found = outcomes(PEOPLE, typical, administration=replace(vial, residual_mbq=1850.0), rtol=1e-6)
    for row, value in outcomes(PEOPLE, typical, administration=less, rtol=1e-6).items():
        np.testing.assert_allclose(found[row], value, rtol=1e-9, err_msg=row)


def test_each_row_is_inside_a_verified_cohort(found):
    judged = [level for level in levels() if level.judges]
    assert len(judged) >= 8
    for row in {level.row for level in judged}:
        mean = float(found[row].mean())
        assert any(level.holds(mean) for level in judged if level.row == row), (row, mean)


def test_the_spread_between_patients_is_that_of_a_cohort_where_the_table_says_so(found):
    for row in ("kidneys.dose", "parotid.dose", "excreted_24h", "blood.late_half_life", "red_marrow.dose"):
        ratios = [level.sd_ratio(float(found[row].std(ddof=1))) for level in levels() if level.row == row and level.judges]
        assert any(1 / SD_FACTOR <= r <= SD_FACTOR for r in ratios), (row, ratios)


def test_the_packaged_values_solve_the_equations_that_they_were_fitted_by():
    found = outcomes(PEOPLE, PEOPLE.draw(4000, 0))
    for fits in PEOPLE.calibrated.values():
        for what, row in fits.items():
            mean, sd = target(row)
            got, wanted = (found[row].mean(), mean) if what == "median" else (found[row].std(ddof=1), sd)
            assert float(got) == pytest.approx(wanted, rel=0.01), (what, row)


def test_the_fit_finds_its_way_back_from_elsewhere():
    fits = {"kidneys.R_density": {"median": "kidneys.dose"}, "blood.free_fraction": {"median": "blood.late_half_life"}}
    away = replace(PEOPLE.changed({"kidneys.R_density": 20.0, "blood.free_fraction": 0.5}), calibrated=fits)
    back = calibrate(away, m=64, seed=9)
    found = outcomes(back, back.draw(64, 9))
    assert found["kidneys.dose"].mean() == pytest.approx(target("kidneys.dose")[0], rel=3e-3)
    assert found["blood.late_half_life"].mean() == pytest.approx(target("blood.late_half_life")[0], rel=3e-3)


def test_a_row_that_no_parameter_moves_is_not_met_and_says_so():
    fits = {"salivary_glands.R_density": {"median": "blood.late_half_life"}}
    away = replace(PEOPLE.changed({"blood.free_fraction": 0.5}), calibrated=fits)
    with pytest.raises(EstimationError, match=r"median of blood\.late_half_life off by -\d") as caught:
        calibrate(away, m=16, rounds=3)
    assert caught.value.kind == "estimation.calibration"


def test_targets_are_the_means_of_verified_cohorts_by_patients():
    assert target("kidneys.dose")[0] == pytest.approx((7 * 0.82 + 9 * 0.53 + 30 * 0.43) / 46)
    assert target("excreted_24h") == (56.5, 8.8)
    assert target("lacrimal.dose") == (2.82, None)


def test_organs_at_risk_lose_uptake_to_tumours_in_every_patient_and_to_more_ligand_on_average():
    """More ligand also fills what competes with a gland of very many receptors, which may then gain a little."""
    found = trends(PEOPLE, 64, seed=6)
    for trend, steps in found.items():
        for row in ("kidneys.dose", "parotid.dose", "lacrimal.dose"):
            falls = np.diff(np.stack([at[row] for at in steps.values()]), axis=0)  # (steps, patients)
            assert (falls.mean(axis=1) < 0).all(), (trend, row)
            assert (falls < 0).mean() > (0.999 if trend == "tumour_load" else 0.9), (trend, row)


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: population("fap"), "model.name", r"no population of 'fap'.*psma, sstr"),
        (lambda: levels("fap"), "model.name", r"no clinical levels for 'fap'.*psma, sstr"),
        (lambda: PEOPLE.draw(0), "input.population", r"0 virtual patients"),
        (
            lambda: replace(PEOPLE, correlations={("body.age", "body.weight"): 0.5}),
            "model.quantity",
            r"body\.weight to be drawn",
        ),
        (
            lambda: replace(
                PEOPLE,
                correlations={
                    ("body.age", "body.eGFR"): 0.9,
                    ("body.age", "liver.volume"): 0.9,
                    ("body.eGFR", "liver.volume"): -0.9,
                },
            ),
            "model.value",
            r"contradict each other.*positive definite",
        ),
        (lambda: replace(PEOPLE, model=PSMA), "model.quantity", r"blood\.free_fraction, which the model psma does not have"),
        (lambda: PEOPLE.changed({"kidneys.volumes": 1.0}), "model.quantity", r"kidneys\.volumes"),
    ],
)
def test_bad_populations_are_refused_with_what_is_wrong(make, kind, words):
    with pytest.raises(TwinError, match=words) as caught:
        make()
    assert caught.value.kind == kind
