"""Daughters of Ac-225 and Pb-212 on and off their ligand: atoms, the closed form where none leaves, and where free ones go."""

import numpy as np
import pytest

from tdt_core.errors import ModelError
from tdt_core.kinetics import sbml
from tdt_core.kinetics.anatomy import SINK
from tdt_core.kinetics.daughters import daughters_of, element_of, elements, scopes
from tdt_core.kinetics.pbrpk import pbrpk
from tdt_core.kinetics.sensitivity import sensitivities
from tdt_core.kinetics.simulation import simulate, simulate_batch
from tdt_core.nuclides import decays_per_parent_decay, nuclide
from tdt_core.parameters import packaged_csv
from tdt_core.twin import Administration

BODY = pbrpk("psma_reference")
FOLLOWED = BODY.with_options(daughters="followed")
PAIRS = {"Ac-225": "Bi-213", "Pb-212": "Bi-212"}
MODELS = {
    "lost": FOLLOWED,
    "recycled": FOLLOWED.with_options(release="recycled"),
    "albumin": FOLLOWED.with_options(plasma_binding="albumin"),
    "sides": pbrpk("psma").with_options(daughters="followed", turnover="explicit"),
    "reduced": pbrpk("psma_reduced").with_options(daughters="followed"),
    "somatostatin": pbrpk("sstr").with_options(daughters="followed", plasma_binding="free_fraction"),
}
each_pair = pytest.mark.parametrize(("parent", "daughter"), PAIRS.items())
each_model = pytest.mark.parametrize("body", MODELS.values(), ids=MODELS)


def vial(parent, time_h=0.0, mbq=8.0, nmol=110.0, ligand="PSMA-617", duration_h=0.0, residual_mbq=0.0):
    return Administration(time_h, "vial", ligand, parent, mbq, nmol, duration_h, residual_mbq)


def decay_per_h(name):
    return float(nuclide(name).decay_constant_per_h)


def leaving(parent, share, **more):
    return {f"{parent}/{PAIRS[parent]}.leaving": share, **more}


def bateman(parent, hours):
    """Activity of the daughter over that of the parent, of a parent that was pure at 0."""
    p, d = decay_per_h(parent), decay_per_h(PAIRS[parent])
    born = decays_per_parent_decay(parent)[PAIRS[parent]]
    return born * d / (d - p) * -np.expm1(-(d - p) * np.asarray(hours))


@each_model
@each_pair
def test_every_parent_that_decayed_is_a_daughter_or_was_one(parent, daughter, body):
    """Two fresh vials, one slowly, one with a residual; the sink is counted like any organ."""
    given = [vial(parent), vial(parent, 6.0, 4.0, 60.0, duration_h=1.0, residual_mbq=0.3)]
    for share in (0.0, 0.4, 1.0):
        found = simulate(body, leaving(parent, share), given, [20.0], end_h=20.0, rtol=1e-8)
        decayed = found.tia_mbq_h.sum("region")
        born = decays_per_parent_decay(parent)[daughter] * float(decayed.sel(label=parent))
        present = float(found.activity_mbq.sel(label=daughter).sum()) / decay_per_h(daughter)
        assert present + float(decayed.sel(label=daughter)) == pytest.approx(born, rel=1e-7)
        assert present > 1e-3 * born
        for name in ("activity_mbq", "tia_mbq_h", "amount_nmol"):
            parts = found[name].sel(label=[f"{daughter}/on_ligand", f"{daughter}/free"])
            np.testing.assert_allclose(parts.sum("label"), found[name].sel(label=daughter), rtol=1e-12, atol=1e-15)


@each_model
@each_pair
def test_where_none_leaves_each_place_follows_the_closed_form_of_two_decays(parent, daughter, body):
    hours = np.array([0.2, 1.0, 5.0, 24.0])
    found = simulate(body, leaving(parent, 0.0), [vial(parent)], hours, rtol=1e-9).activity_mbq
    wanted = found.sel(label=parent) * bateman(parent, hours)
    assert float(abs(found.sel(label=daughter) - wanted).max()) < 1e-8 * float(wanted.max())
    assert float(abs(found.sel(label=f"{daughter}/free")).max()) == 0.0


@each_pair
def test_of_the_whole_body_the_free_share_is_what_leaves_and_the_sum_is_the_closed_form(parent, daughter):
    hours = np.array([0.5, 3.0, 30.0])
    for share in (0.25, 1.0):
        found = simulate(FOLLOWED, leaving(parent, share), [vial(parent)], hours, rtol=1e-9).activity_mbq.sum(
            ["region", "part"]
        )
        both = found.sel(label=parent) * bateman(parent, hours)
        np.testing.assert_allclose(found.sel(label=daughter), both, rtol=1e-7)
        np.testing.assert_allclose(found.sel(label=f"{daughter}/free"), share * both, rtol=1e-7)
    # long after, the daughter keeps a steady ratio to a parent that lives longer: transient equilibrium
    p, d = decay_per_h(parent), decay_per_h(daughter)
    ratio = float(found.sel(label=daughter)[-1] / found.sel(label=parent)[-1])
    assert ratio == pytest.approx(decays_per_parent_decay(parent)[daughter] * d / (d - p), rel=1e-6)


@each_model
def test_what_leaves_and_what_stays_inside_act_in_proportion(body):
    """The daughters are linear in both shares: half way between the ends is their mean."""
    for name in ("Ac-225/Bi-213.leaving", "Bi.retained"):
        found = simulate_batch(body, {name: np.array([0.0, 0.5, 1.0])}, [vial("Ac-225")], [4.0], rtol=1e-9)
        tia = found.tia_mbq_h.sel(label="Bi-213")
        middle = (tia[0] + tia[2]) / 2
        assert float(abs(tia[1] - middle).max() / middle.max()) < 1e-7
        assert float((abs(tia[0] - tia[2]) / middle).max()) > 0.01


def test_the_parent_moves_and_decays_as_if_nobody_followed():
    given = [vial("Ac-225"), vial("Lu-177", 0.0, 7400.0)]
    wanted = simulate(BODY, {}, given, [1.0, 24.0], rtol=1e-9)
    found = simulate(FOLLOWED, {}, given, [1.0, 24.0], rtol=1e-9)
    assert found.label.values.tolist() == ["total", "Ac-225", "Lu-177", "Bi-213", "Bi-213/on_ligand", "Bi-213/free"]
    for name in ("activity_mbq", "tia_mbq_h"):
        for label in ("total", "Ac-225", "Lu-177"):  # the total is of what was given
            assert float(abs(found[name].sel(label=label) - wanted[name].sel(label=label)).max()) < 1e-8 * float(
                wanted[name].sel(label=label).max()
            )


def test_a_nuclide_without_followed_daughters_is_run_as_without_the_option():
    wanted, found = (simulate(body, {}, [vial("Lu-177")], [1.0, 24.0], rtol=1e-6) for body in (BODY, FOLLOWED))
    assert found.identical(wanted)


def test_free_bismuth_leaves_tumours_for_kidneys_by_their_extraction():
    """More extraction moves time-integrated activity into kidneys and out of blood; nothing is lost of the sum."""
    found = simulate_batch(FOLLOWED, {"Bi.kidney_extraction": np.array([0.0, 0.08, 0.5])}, [vial("Ac-225")], [4.0], rtol=1e-8)
    tia = found.tia_mbq_h
    ratio = tia.sel(label="Bi-213") / tia.sel(label="Ac-225")
    kidneys, blood = ratio.sel(region="kidneys").values, ratio.sel(region="venous_pool").values
    assert np.all(np.diff(kidneys) > 0.1)
    assert np.all(np.diff(blood) < 0)
    assert np.all(ratio.sel(region="tumour_2").values < 0.9)
    np.testing.assert_allclose(tia.sel(label="Bi-213").sum("region"), tia.sel(label="Bi-213").sum("region")[0], rtol=1e-6)


def test_what_is_born_inside_and_stays_decays_where_its_parent_did():
    """All retained: cells hold the daughters of what they hold, as the closed form of an organ at rest says."""
    given = {"Bi.retained": 1.0, "Bi.kidney_extraction": 0.0, **{f"{o.name}.lambda_rel": 0.0 for o in BODY.organs if o.binds}}
    found = simulate(FOLLOWED, given, [vial("Ac-225")], [120.0, 240.0], rtol=1e-8).activity_mbq
    inside = found.sel(part="internalised", region=["tumour_2", "salivary_glands", "liver"])
    steady = float(bateman("Ac-225", 240.0))
    np.testing.assert_allclose(inside.sel(label="Bi-213/free") / inside.sel(label="Ac-225"), steady, rtol=1e-3)


def test_two_ligands_carry_their_daughters_apart_and_free_ones_together():
    two = simulate(
        FOLLOWED,
        leaving("Ac-225", 0.5),
        [vial("Ac-225", ligand="A", mbq=3.0), vial("Ac-225", ligand="B", mbq=5.0)],
        [5.0],
        rtol=1e-9,
    )
    one = simulate(FOLLOWED, leaving("Ac-225", 0.5), [vial("Ac-225", ligand="A", nmol=220.0)], [5.0], rtol=1e-9)
    for label in ("Ac-225", "Bi-213", "Bi-213/on_ligand", "Bi-213/free"):
        wanted = one.tia_mbq_h.sel(label=label)
        assert float(abs(two.tia_mbq_h.sel(label=label) - wanted).max()) < 1e-8 * float(wanted.max())


def test_a_daughter_that_is_also_given_is_one_label():
    both = simulate(FOLLOWED, {}, [vial("Ac-225", nmol=55.0), vial("Bi-213", nmol=55.0, mbq=100.0)], [1.0], rtol=1e-8)
    assert both.label.values.tolist() == ["total", "Ac-225", "Bi-213", "Bi-213/on_ligand", "Bi-213/free"]
    decays = both.tia_mbq_h.sum("region")
    given = 100.0 / decay_per_h("Bi-213")
    assert float(decays.sel(label="Bi-213/on_ligand")) == pytest.approx(given, rel=1e-6)
    assert float(decays.sel(label="total") - decays.sel(label="Ac-225")) == pytest.approx(given, rel=1e-4)


def test_derivatives_agree_with_central_differences():
    base = {"Ac-225/Bi-213.leaving": 0.5, "Bi.retained": 0.6, "Bi.kidney_extraction": 0.1, "kidneys.R_density": 14.0}
    got = sensitivities(FOLLOWED, base, list(base), [vial("Ac-225", mbq=8000.0)], [4.0, 24.0], rtol=1e-9)
    for name, value in base.items():
        at = {**base, name: value * np.exp(1e-4 * np.array([1.0, -1.0]))}
        pair = simulate_batch(FOLLOWED, at, [vial("Ac-225", mbq=8000.0)], [4.0, 24.0], rtol=1e-11)
        for quantity, slope in (("activity_mbq", "activity_slope"), ("tia_mbq_h", "tia_slope")):
            difference = (pair[quantity][0] - pair[quantity][1]) / 2e-4
            scale = np.abs(difference) + 0.01 * np.abs(pair[quantity][0]) + 0.01
            assert float((np.abs(got[slope].sel(parameter=name) - difference) / scale).max()) < 1e-5, (name, quantity)


def test_excreted_daughters_stay_excreted():
    """All free bismuth of the blood to urine: what the sink gets it keeps, and kidneys hold only what is born in them."""
    found = simulate_batch(
        FOLLOWED, {"Bi.urine_extraction": np.array([0.0, 0.9]), "Bi.kidney_extraction": 0.0}, [vial("Ac-225")], [4.0], rtol=1e-8
    )
    sink = found.tia_mbq_h.sel(region=SINK)
    inside = found.tia_mbq_h.sel(label="Bi-213").drop_sel(region=SINK).sum("region")
    assert float(inside[1]) < 0.8 * float(inside[0])
    assert float(sink.sel(label="Bi-213").diff("member")[0]) == pytest.approx(-float(inside.diff("member")[0]), rel=1e-5)
    np.testing.assert_allclose(sink.sel(label="Ac-225")[1], sink.sel(label="Ac-225")[0], rtol=1e-7)
    assert float(sink.sel(label="Bi-213")[0]) >= float(sink.sel(label="Ac-225")[0]) * 0.99


def test_the_table_names_pairs_of_the_decay_chains_and_says_what_is_assumed():
    assert {p: daughters_of(p) for p in PAIRS} == {p: (d,) for p, d in PAIRS.items()}
    assert (daughters_of("225Ac"), daughters_of("Lu-177"), elements()) == (("Bi-213",), (), ("Bi",))
    assert set(scopes()) == {*(f"{p}/{d}" for p, d in PAIRS.items()), *map(element_of, PAIRS.values())}
    for parent, daughter in PAIRS.items():
        assert decays_per_parent_decay(parent)[daughter] > 0.99
    rows = packaged_csv("pbrpk_daughters.csv")
    assert all(row["source"] for row in rows)
    shown = FOLLOWED.parameters
    assert {shown[f"Bi.{q}"].status for q in ("retained", "kidney_extraction", "urine_extraction")} == {"assumed"}
    assert all(row["distribution"] for row in rows if row["name"].startswith("Bi."))


def test_what_is_off_bounds_or_cannot_be_exported_is_refused():
    with pytest.raises(ModelError, match=r"from 0 to 1"):
        simulate(FOLLOWED, leaving("Ac-225", 1.2), [vial("Ac-225")], [1.0])
    with pytest.raises(ModelError, match="follows daughters"):
        sbml.export(FOLLOWED)
    with pytest.raises(ModelError, match="Bi-213 free apart"):
        sbml.read(sbml.export(FOLLOWED, None, [vial("Ac-225")]))
    with pytest.raises(ModelError, match="one of none, followed"):
        BODY.with_options(daughters="yes")
    with pytest.raises(ModelError, match="no quantity named"):
        simulate(BODY, leaving("Ac-225", 0.5), [vial("Ac-225")], [1.0])
