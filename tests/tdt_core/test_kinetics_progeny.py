"""Where daughters decay, by region of a patient: nothing is lost, nothing moves that nobody follows, and limits."""

import numpy as np
import pytest
from test_kinetics_whole_body import GIVEN, KNOWN, REGIONS

from tdt_core.assimilation import population_prior
from tdt_core.kinetics import activity_by_energy, followed, kept_in_place, rung_for, shifts, source_activity
from tdt_core.kinetics.daughters import drawn, stated
from tdt_core.kinetics.progeny import energy_share
from tdt_core.nuclides import decays_per_parent_decay, emissions, nuclide
from tdt_core.planning.outlook import Tissue, lea_catcheside_by_region
from tdt_core.twin import Administration

PAIRS = {"Ac-225": "Bi-213", "Pb-212": "Bi-212"}
each_pair = pytest.mark.parametrize(("parent", "daughter"), PAIRS.items())
KIDNEYS, GLAND, REST = [0, 1], 2, 6


def vial(parent):
    return Administration(0.0, f"{parent}-PSMA-617", "PSMA-617", parent, 8.0, amount_nmol=90.0)


def body(name="whole_body", regions=REGIONS):
    return rung_for(name, "PSMA-617", regions, KNOWN)


def draws(rung, count=4):
    return population_prior(rung).draws(count, np.random.default_rng(1))


@pytest.mark.parametrize(
    ("name", "parent", "daughter"),
    [("whole_body", *pair) for pair in PAIRS.items()] + [("reduced_body", "Ac-225", "Bi-213")],
)
def test_what_moves_adds_up_to_nothing_over_regions_excretion_and_what_has_no_region(name, parent, daughter):
    decays = decays_per_parent_decay(parent)[daughter] * 8.0 / nuclide(parent).decay_constant_per_h
    for regions in (REGIONS, REGIONS[:-1]):  # with and without `rest`
        rung = body(name, regions)
        (shift,) = shifts(rung, population_prior(rung).mean[None], vial(parent))
        total = shift.tia_mbq_h.sum(axis=1) + shift.excreted_mbq_h + shift.unplaced_mbq_h
        assert shift.daughter == daughter
        assert np.abs(total).max() < 3e-6 * decays
        assert np.abs(shift.excreted_mbq_h).min() > 1e-3 * decays
        assert (np.abs(shift.unplaced_mbq_h).max() > 1e-3 * decays) == (regions is not REGIONS)


def test_no_region_loses_more_daughters_than_its_parents_make():
    rung, given = body(), vial("Ac-225")
    theta = draws(rung, 40)
    made = decays_per_parent_decay("Ac-225")["Bi-213"] * rung.time_integrated_activity(theta, given)
    (shift,) = shifts(rung, theta, given)
    assert (shift.tia_mbq_h >= -made * (1 + 1e-12)).all()
    assert (shift.tia_mbq_h[:, GLAND] < 0).all()
    assert np.median(shift.tia_mbq_h[:, KIDNEYS] / made[:, KIDNEYS]) > 0.3


def test_daughters_that_stay_on_their_ligand_decay_in_the_organ_of_their_parent():
    """None leaves: what is left is that the ligand travels on for the daughter's 46 min; it decays elsewhere by below 1 %."""
    rung, given = body(), vial("Ac-225")
    theta = population_prior(rung).mean[None]
    made = decays_per_parent_decay("Ac-225")["Bi-213"] * rung.time_integrated_activity(theta, given)
    (still,), (gone,) = (rung.daughter_shifts(theta, given, np.zeros(0), {"Ac-225/Bi-213.leaving": x}) for x in (0.0, 1.0))
    organs = slice(0, 5)
    assert np.abs(still.tia_mbq_h / made)[:, organs].max() < 0.01
    assert np.abs(gone.tia_mbq_h / made)[:, KIDNEYS].min() > 0.5
    (half,) = rung.daughter_shifts(theta, given, np.zeros(0), {"Ac-225/Bi-213.leaving": 0.5})
    np.testing.assert_allclose(half.tia_mbq_h, (still.tia_mbq_h + gone.tia_mbq_h) / 2, atol=1e-5 * made.sum())


def test_of_the_typical_patient_a_sixth_of_the_kidneys_dose_is_bismuth_that_came_from_elsewhere():
    """At the medians of the table; the figures of docs/dosimetry.md."""
    rung, given = body(), vial("Ac-225")
    theta = population_prior(rung).mean[None]
    (shift,) = rung.daughter_shifts(theta, given, np.zeros(0), {})
    change = energy_share("Ac-225", "Bi-213") * shift.tia_mbq_h[0] / rung.time_integrated_activity(theta, given)[0]
    assert change[KIDNEYS] / (1 + change[KIDNEYS]) == pytest.approx(0.174, abs=0.003)
    assert change[GLAND] == pytest.approx(-0.133, abs=0.003)
    assert change[4] == pytest.approx(-0.098, abs=0.003)  # lesion


@each_pair
def test_activity_of_what_moves_integrates_to_its_time_integral(parent, daughter):
    rung, times = body(), np.concatenate([[0.0], np.geomspace(0.01, 2400.0, 400)])
    (shift,) = shifts(rung, draws(rung, 2), vial(parent), times)
    integral = np.trapezoid(shift.activity_mbq, times, axis=-1)
    scale = np.abs(shift.tia_mbq_h).max()
    np.testing.assert_allclose(integral, shift.tia_mbq_h, atol=2e-3 * scale)


def test_a_nuclide_without_followed_daughters_and_a_rung_that_follows_none_have_their_parent_only():
    whole, curves = body(), body("sum_of_exponentials")
    assert (followed(whole, "Ac-225"), kept_in_place(whole, "225Ac")) == (("Bi-213",), ())
    assert (followed(curves, "Ac-225"), kept_in_place(curves, "Ac-225")) == ((), ("Bi-213",))
    assert (followed(whole, "Lu-177"), kept_in_place(curves, "Lu-177")) == ((), ())
    times = np.array([1.0, 24.0, 300.0])
    for rung, given in ((whole, GIVEN), (curves, GIVEN), (curves, vial("Ac-225"))):
        theta = draws(rung)
        assert shifts(rung, theta, given) == ()
        np.testing.assert_array_equal(source_activity(rung, theta, given), rung.time_integrated_activity(theta, given))
        np.testing.assert_array_equal(activity_by_energy(rung, theta, given, times), rung.activity(theta, given, times))


def test_sources_are_the_parents_then_what_moves_of_the_daughter():
    rung, given = body(), vial("Ac-225")
    theta = draws(rung)
    found, n = source_activity(rung, theta, given), len(REGIONS)
    assert found.shape == (4, 2 * n)
    np.testing.assert_array_equal(found[:, :n], rung.time_integrated_activity(theta, given))
    np.testing.assert_array_equal(found[:, n:], shifts(rung, theta, given)[0].tia_mbq_h)


def test_the_course_of_dose_follows_daughters_in_time():
    """Kidneys get free bismuth while ligand is in blood, so their dose comes earlier and G is higher; curves see none of it."""
    tissue = {"kidneys": Tissue(2.5, 2.8, "test", "assumed")}
    rung, given = body(), vial("Ac-225")
    theta = population_prior(rung).mean[None]
    g = lea_catcheside_by_region(rung, theta, given, tissue)[0]
    in_place = lea_catcheside_by_region(rung, theta, Administration(0.0, "-", "PSMA-617", "Ra-225", 8.0, 90.0), tissue)[0]
    assert np.isfinite(g).all()
    assert 1.0 > g[0] > 1.02 * in_place[0] > 0  # Ra-225 has half-lives like Ac-225 and no followed daughter


def test_draws_of_what_daughters_do_are_the_same_for_the_same_draw_and_spread_as_stated():
    few, many = drawn(5), drawn(4000)
    table = stated()
    assert set(few) == {p.name for p in table.values() if p.sd > 0}
    for name, values in many.items():
        np.testing.assert_array_equal(values[:5], few[name])
        assert np.median(values) == pytest.approx(table[name].value, rel=0.1)
        assert 0 < values.min() < values.max() <= 1.0


@each_pair
def test_a_chain_is_the_daughter_with_all_that_follows_it_and_a_rest_that_is_nowhere_negative(parent, daughter):
    whole, below = emissions(parent), emissions(daughter, "all")
    per_parent = whole.decays[daughter]
    for name, count in below.decays.items():
        assert whole.decays[name] >= per_parent * count * (1 - 1e-12)
        assert whole.decays[name] == pytest.approx(per_parent * count, rel=2e-4)  # Rn-217 passes by Bi-213
    assert per_parent * below.total_kev < whole.total_kev
    assert 0.25 < per_parent * below.charged_kev / whole.charged_kev <= 1.0
