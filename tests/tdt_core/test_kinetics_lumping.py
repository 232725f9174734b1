"""Laws of the merged organs of the middle rungs, what merging costs, and the variant with albumin."""

from dataclasses import replace

import numpy as np
import pytest
import roadrunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from tdt_core.errors import ModelError
from tdt_core.kinetics import model as named
from tdt_core.kinetics import sbml, simulate, simulate_batch
from tdt_core.kinetics.lumping import (
    KIDNEYS,
    LACRIMAL,
    REST,
    SALIVARY,
    VISCERA,
    by_organ,
    lumped,
    merged,
    reduced,
    shares,
    whole,
)
from tdt_core.kinetics.pbrpk import COMPLEX, SINK, VENOUS, pbrpk
from tdt_core.kinetics.population import population
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration

PSMA, SSTR, REFERENCE = pbrpk("psma"), pbrpk("sstr"), pbrpk("psma_reference")
PEOPLE = population("psma")
VIAL = Administration(0.0, "vial", "PSMA-617", "Lu-177", 7400.0, 90.0)
LATER = replace(VIAL, time_h=48.0, activity_mbq=3000.0, amount_nmol=60.0)
TIMES = [0.1, 1.0, 4.0, 24.0, 72.0, 168.0]
SILENT = ["heart", "bone", "skin", "muscle", "brain", "adipose", "rest"]
LESIONS = {"L1": {"volume": 0.012}, "L2": {"volume": 0.03, "R_density": 80.0}}
NO_TISSUE = {"brain.kPS", "brain.interstitial_volume"}
"""What the merged models do not have: nothing enters the brain."""


def variants():
    """Name -> whole body, merged."""
    return {
        "lumped": (PSMA, lumped(PSMA)),
        "lumped with marrow": (PSMA, lumped(PSMA, keep=())),
        "reduced but for marrow": (PSMA, reduced(PSMA, keep=("red_marrow",))),
        "reduced": (PSMA, reduced(PSMA)),
        "reduced, free fraction": (PEOPLE.model, reduced(PEOPLE.model)),
        "reduced, albumin": (named("psma_albumin"), reduced(named("psma_albumin"))),
        "reduced, recycled": (PSMA.with_options(release="recycled"), reduced(PSMA.with_options(release="recycled"))),
        "reduced, one kidney, no prostate": ((one := PSMA.without("kidney_left", "prostate")), reduced(one)),
        "reduced reference": (REFERENCE, reduced(REFERENCE)),
        "reduced sstr": (SSTR, reduced(SSTR)),
    }


VARIANTS = variants()
every_variant = pytest.mark.parametrize(("full", "small"), VARIANTS.values(), ids=VARIANTS)


def tia(model, values=None, schedule=(VIAL,), rtol=1e-9):
    return simulate(model, values, schedule, TIMES, rtol=rtol)["tia_mbq_h"].sel(label="total")


def total(model, quantity, values=None):
    """Sum over the organs of the model that have the quantity."""
    known = model.quantities(values)
    return sum(np.asarray(known[n]) for n in (f"{o.name}.{quantity}" for o in model.organs) if n in known)


# --- what is there


def test_the_rungs_have_the_states_that_their_names_promise():
    sizes = {n: len(named(n).network().states) for n in ("psma", "psma_lumped", "psma_reduced", "psma_albumin")}
    assert sizes == {"psma": 75, "psma_lumped": 63, "psma_reduced": 28, "psma_albumin": 100}
    assert [len(named(n).with_lesions(LESIONS).network().states) - sizes[n] for n in ("psma_lumped", "psma_reduced")] == [8, 8]
    assert set(named("psma_lumped").regions) == set(PSMA.regions) - set(SILENT) | {REST}
    kept = {"tumour_rest", "lungs", "arterial_pool", VENOUS, SINK}
    assert set(named("psma_reduced").regions) == kept | {KIDNEYS, SALIVARY, LACRIMAL, VISCERA, REST}
    assert [named(n).name for n in ("psma_lumped", "psma_reduced", "psma_albumin")] == [
        "psma_lumped", "psma_reduced", "psma_albumin",
    ]  # fmt: skip


@every_variant
def test_what_is_merged_comes_apart_again(full, small):
    again = whole(small)
    assert set(again.organs) == set(full.organs)
    left, right = again.coefficients(), full.coefficients()
    assert left.keys() == right.keys()
    assert all(float(left[n]) == pytest.approx(float(right[n]), rel=1e-13) for n in left)  # sums run in another order


def test_a_model_that_is_merged_already_is_merged_from_its_organs_again():
    for twice, once in ((reduced(LUMPED), REDUCED), (lumped(REDUCED), LUMPED)):
        assert twice.name == once.name
        assert set(twice.regions) == set(once.regions)
        left, right = twice.coefficients(), once.coefficients()
        assert left.keys() == right.keys()
        assert all(float(left[n]) == pytest.approx(float(right[n]), rel=1e-13) for n in left)


# --- conservation


@st.composite
def given_quantities(draw):
    """Some parameters of the whole body, scaled by up to a fifth either way."""
    table = PSMA.parameters
    known = sorted(set(table) - NO_TISSUE - {"body.reference_weight", "body.male_reference_weight"})
    names = draw(st.lists(st.sampled_from(known), max_size=8, unique=True))
    return {n: min(table.value(n) * draw(st.floats(0.8, 1.02)), 1.0 if table[n].unit == "1" else np.inf) for n in names}


LUMPED, REDUCED = VARIANTS["lumped"][1], VARIANTS["reduced"][1]
SMALL = {"lumped": LUMPED, "reduced": REDUCED}
CONSERVED = ("volume", "vascular_volume", "flow", "PS", "R0", "filtered_flow", "excreted_flow", "intracellular_volume")


@pytest.mark.parametrize("small", SMALL.values(), ids=SMALL)
@given(values=given_quantities())
@settings(max_examples=25, deadline=None)
def test_volumes_flows_permeabilities_and_receptors_are_conserved(small, values):
    for quantity in CONSERVED:
        assert float(total(small, quantity, values)) == pytest.approx(float(total(PSMA, quantity, values)), rel=1e-12), quantity
    tissue = float(PSMA.quantities(values)["brain.interstitial_volume"])  # nothing enters it
    assert float(total(small, "interstitial_volume", values)) == pytest.approx(
        float(total(PSMA, "interstitial_volume", values)) - tissue, rel=1e-12
    )


@every_variant
def test_what_a_merged_organ_has_is_the_sum_over_its_members(full, small):
    before, after = full.quantities(), small.quantities()
    merged_ = [o for o in small.organs if o.members]
    assert merged_
    for organ in merged_:
        for quantity in CONSERVED:
            names = [f"{m.name}.{quantity}" for m in organ.members]
            parts = [float(before[n]) for n in names if n in before]
            if f"{organ.name}.{quantity}" in after:
                assert float(after[f"{organ.name}.{quantity}"]) == pytest.approx(sum(parts), rel=1e-12)


@every_variant
def test_every_parameter_of_the_whole_body_acts_in_the_merged_model(full, small):
    assert set(full.parameters) - set(small.parameters) <= NO_TISSUE
    assert set(small.parameters) <= set(full.parameters)

    # organs without receptors differ, so that moving volume from one to another is not without effect
    told = [
        n for n in full.parameters if n.rpartition(".")[2] in ("kPS", "interstitial_to_vascular_ratio") and n not in NO_TISSUE
    ]
    base = {n: full.parameters.value(n) * (1 + 0.03 * i) for i, n in enumerate(told)}

    def moved(model, name):
        value = base.get(name, model.parameters.value(name))
        other = value + 0.01 if value == 0 else value * (0.99 if model.table[name].bound == "[0,1]" else 0.999)
        changed, usual = model.coefficients(base | {name: other}), model.coefficients(base)
        return max(abs(float(changed[n] - usual[n])) / (abs(float(usual[n])) + 1e-30) for n in usual) > 1e-12

    acting = [n for n in small.parameters if moved(full, n)]
    assert len(acting) > 60
    silent = {n for n in acting if not moved(small, n)}
    together = {f"{m.name}.flow_fraction" for o in small.organs if o.name == REST for m in o.members}
    assert silent <= together  # what one of them takes the rest gives: the flow of all of them stays


@pytest.mark.parametrize(
    "values",
    [
        {"kidneys.TER": 0.15},
        {"kidneys.volume": 0.25},
        {"kidney_left.R_density": 20.0},
        {"kidney_left.R0": 3.0},
        {"ligand.reuptake": 0.3},
        {"K_D": 0.5},
        {"parotid_left.lambda_rel": 1e-4},
        {"muscle.PS": 0.1},
        {"spleen.volume": 0.3, "body.weight": 90.0},
    ],
    ids=str,
)
def test_what_can_be_given_to_the_whole_body_can_be_given_to_the_reduced(values):
    small = REDUCED
    for quantity in CONSERVED:
        found, want = (float(total(m, quantity, values)) for m in (small, PSMA))
        assert found == pytest.approx(want, rel=1e-12), quantity
    before, after = small.coefficients(), small.coefficients(values)
    assert any(float(before[n]) != float(after[n]) for n in before)


@every_variant
def test_ligand_is_neither_made_nor_lost(full, small):
    network = small.network()
    coefficients = network.gather(small.coefficients())[0]
    y = np.random.default_rng(0).uniform(0, 1, len(network.states))
    flow = network.derivative(coefficients, y)
    assert abs(flow.sum()) < 1e-12 * np.abs(flow).max()
    assert np.abs(network.rate_matrix(coefficients).sum(axis=0)).max() < 1e-12 * np.abs(coefficients).max()


# --- limits


def alike(model):
    """Flows, permeabilities and spaces that make all organs without receptors but the brain alike, F/v, PS/v and i/v equal."""
    values = model.quantities()
    alike_ = [o for o in SILENT if o not in ("brain", "rest")]
    vessels = {o: float(values[f"{o}.vascular_volume"]) for o in (*alike_, "rest")}
    turnover = sum(float(values[f"{o}.flow"]) for o in vessels) / sum(vessels.values())
    out = {f"{o}.flow": turnover * v for o, v in vessels.items() if o != "rest"}  # the rest's follows
    out |= {f"{o}.PS": 0.4 * v for o, v in vessels.items()}
    return out | {f"{o}.interstitial_volume": 5.5 * v for o, v in vessels.items()}


@pytest.mark.parametrize("schedule", [[VIAL], [VIAL, LATER]], ids=["a vial", "two vials"])
def test_organs_that_are_alike_merge_without_error(schedule):
    """Equal transit times, PS/v and i/v: one concentration for all of them, so that nothing is lost."""
    values = alike(PSMA)
    small = lumped(PSMA, keep=("red_marrow", "brain"))
    wanted = simulate(PSMA, values, schedule, TIMES, rtol=1e-9)
    found = simulate(small, values, schedule, TIMES, rtol=1e-9)
    kept = [r for r in small.regions if r != REST]
    scale = float(wanted.amount_nmol.sum(["region", "part"]).max())
    assert np.abs(found.amount_nmol - wanted.amount_nmol).sel(region=kept).max() < 1e-8 * scale
    np.testing.assert_allclose(found.tia_mbq_h.sel(region=kept), wanted.tia_mbq_h.sel(region=kept), rtol=1e-7)
    # and without these values it is an approximation
    off = tia(small).sel(region=kept) / tia(PSMA).sel(region=kept) - 1
    assert 1e-4 < np.abs(off).max() < 5e-3


def test_sides_that_differ_in_size_alone_merge_without_error_and_come_apart_by_volume():
    values = {
        "kidney_left.volume": 0.12,
        "kidney_right.volume": 0.19,
        "parotid_left.volume": 0.015,
        "lacrimal_right.volume": 1e-3,
    }
    small = merged(PSMA, KIDNEYS, ["kidney_left", "kidney_right"], "kidney")
    small = merged(small, "glands", [o.name for o in PSMA.organs if o.template == "gland"], "receptor")
    wanted, found = (simulate(m, values, [VIAL, LATER], TIMES, rtol=1e-9) for m in (PSMA, small))
    again = by_organ(small, found, values)
    assert list(again.region) == list(whole(small).regions)
    known = again.region.values.tolist()
    np.testing.assert_allclose(again.tia_mbq_h, wanted.tia_mbq_h.sel(region=known), rtol=1e-7)
    amounts = wanted.amount_nmol.sum("part").sel(region=known)
    np.testing.assert_allclose(again.amount_nmol.transpose(*amounts.dims), amounts, rtol=1e-6, atol=1e-9)
    table = shares(small, values)
    kidneys = [float(table.sel(region=KIDNEYS, organ=f"kidney_{side}")) for side in ("left", "right")]
    assert kidneys == pytest.approx([12 / 31, 19 / 31], rel=1e-12)


@pytest.mark.parametrize("small", SMALL.values(), ids=SMALL)
def test_a_trace_of_ligand_follows_the_matrix_exponential(small):
    network = small.network()
    coefficients = network.gather(small.coefficients())[0]
    jacobian = network.jacobian(coefficients, np.zeros(len(network.states)))
    start = np.zeros(len(network.states))
    start[network.select("ligand", VENOUS, "pool")] = 1e-9
    found = simulate(small, None, [replace(VIAL, amount_nmol=1e-9, activity_mbq=1e-9)], TIMES, rtol=1e-10)
    for hours in TIMES:
        wanted = expm(jacobian * hours * 60.0) @ start
        at = found.amount_nmol.sel(label="total", time_h=hours)
        amounts = [float(at.sel(region=s.region, part=s.part)) for s in network.states]
        np.testing.assert_allclose(amounts, wanted, rtol=1e-6, atol=1e-8 * 1e-9)


@every_variant
def test_time_integrated_activity_of_all_regions_is_that_of_all_decays(full, small):
    given = [replace(VIAL, ligand="DOTATATE" if "SSTR2" in full.targets else "PSMA-617")]
    found = simulate(small, None, given, TIMES)
    decay = nuclide("Lu-177").decay_constant_per_h
    wanted = 7400.0 * -np.expm1(-decay * found.end_h) / decay
    assert float(found.tia_mbq_h.sel(label="total").sum()) == pytest.approx(wanted, rel=1e-8)
    assert float(by_organ(small, found).tia_mbq_h.sel(label="total").sum()) == pytest.approx(wanted, rel=1e-8)


# --- lesions, other models, options


@pytest.mark.parametrize("make", [lumped, reduced])
def test_lesions_can_be_added_before_or_after(make):
    before, after = make(PSMA.with_lesions(LESIONS)), make(PSMA).with_lesions(LESIONS)
    assert set(before.regions) == set(after.regions) >= {"lesion/L1", "lesion/L2"}
    left, right = before.coefficients(), after.coefficients()
    assert left.keys() == right.keys()
    assert all(float(left[n]) == pytest.approx(float(right[n]), rel=1e-13) for n in left)
    values = after.quantities()
    tumours = sum(float(values[f"{o}.flow"]) for o in ("tumour_rest", "lesion/L1", "lesion/L2"))
    assert float(values["lungs.flow"]) == pytest.approx(float(values["body.CO"]) + tumours, rel=1e-12)


@pytest.mark.parametrize("make", [lumped, reduced])
def test_an_organ_that_is_added_later_takes_its_volume_and_flow_from_the_rest(make):
    small = {lumped: LUMPED, reduced: REDUCED}[make]
    more = small.with_organ(
        "thymus", "exchange",
        {"volume": 0.02, "flow": 0.05, "vascular_volume": 0.002, "interstitial_volume": 0.004},
    )  # fmt: skip
    before, after = small.quantities(), more.quantities()
    for quantity, taken in (("volume", 0.02), ("flow", 0.05), ("vascular_volume", 0.002)):
        assert float(before[f"{REST}.{quantity}"] - after[f"{REST}.{quantity}"]) == pytest.approx(taken, rel=1e-9)


def test_the_ligand_and_the_options_of_the_whole_body_reach_the_merged_model():
    for full, small in (
        (PSMA.with_ligand("DCFPyL"), REDUCED.with_ligand("DCFPyL")),
        (SSTR.with_ligand("DOTATOC"), reduced(SSTR).with_ligand("DOTATOC")),
    ):
        assert float(small.quantities()["ligand.K_D"]) == float(full.quantities()["ligand.K_D"])
    for binding in ("free_fraction", "albumin"):
        before, after = reduced(PSMA.with_options(plasma_binding=binding)), REDUCED.with_options(plasma_binding=binding)
        assert before.network().states == after.network().states
        left, right = before.coefficients(), after.coefficients()
        assert all(float(left[n]) == float(right[n]) for n in left)


def test_kidneys_that_trap_ligand_trap_it_together():
    small = reduced(SSTR)
    full, found = SSTR.quantities(), small.quantities()
    for quantity in ("trapped_flow", "passed_flow"):
        want = sum(float(full[f"kidney_{side}.{quantity}"]) for side in ("left", "right"))
        assert float(found[f"{KIDNEYS}.{quantity}"]) == pytest.approx(want, rel=1e-12)
    assert "trapped" in [s.part for s in small.network().states if s.region == KIDNEYS]
    given = [replace(VIAL, ligand="DOTATATE")]
    pair = tia(SSTR, schedule=given).sel(region=["kidney_left", "kidney_right"]).sum()
    assert float(tia(small, schedule=given).sel(region=KIDNEYS)) == pytest.approx(float(pair), rel=0.01)


@pytest.mark.parametrize("option", [{"turnover": "explicit"}, {"daughters": "followed"}], ids=str)
def test_receptor_turnover_and_daughters_go_with_merged_organs(option):
    full, given = PSMA.with_options(**option), [replace(VIAL, nuclide="Ac-225", activity_mbq=8.0)]
    small = REDUCED.with_options(**option)
    wanted, found = (simulate(m, None, given, [24.0]) for m in (full, small))
    again = by_organ(small, found)
    labels = [n for n in found.label.values if float(found.tia_mbq_h.sel(label=n).sum()) > 0]
    assert {"Ac-225"} < set(labels)
    for label in labels:
        left, right = (d.tia_mbq_h.sel(label=label) for d in (again, wanted))
        assert float(left.sum()) == pytest.approx(float(right.sum()), rel=1e-8)
        for organs in (["kidney_left", "kidney_right"], ["tumour_rest"], ["parotid_left"]):
            assert float(left.sel(region=organs).sum()) == pytest.approx(float(right.sel(region=organs).sum()), rel=0.03)


def test_organs_to_keep_stay_as_they_are():
    small = reduced(PSMA, keep=("red_marrow", "liver", "spleen", "gi", "kidney_left", "kidney_right"))
    assert {"liver", "spleen", "gi", "prostate", "kidney_left", "kidney_right"} <= set(small.regions)
    assert not {VISCERA, KIDNEYS} & set(small.regions)
    lumps = LUMPED  # what is merged beyond it are glands, and these are alike
    shared = [r for r in small.regions if r in lumps.regions]
    np.testing.assert_allclose(tia(small).sel(region=shared), tia(lumps).sel(region=shared), rtol=1e-7)
    with pytest.raises(ModelError, match="pancreas is to be kept") as caught:
        lumped(PSMA, keep=("pancreas",))
    assert caught.value.kind == "model.organ"


@pytest.mark.parametrize(
    ("members", "why"),
    [
        (["muscle", "pancreas"], "pancreas, which the model does not have"),
        (["tumour_rest", "muscle"], "tumour_rest, which cannot be merged"),
        (["lungs", "muscle"], "lungs, which cannot be merged"),
        (["liver", "muscle"], "liver, but not what drains into it"),
        (["spleen", "muscle"], "spleen, but not what it drains into"),
    ],
)
def test_what_cannot_be_merged_is_refused_with_the_reason(members, why):
    with pytest.raises(ModelError, match=why) as caught:
        merged(PSMA, "both", members, "receptor")
    assert caught.value.kind == "model.organ"


def test_an_organ_inside_a_merged_one_is_left_out_before():
    with pytest.raises(ModelError, match="both_kidneys holds kidney_left: leave it out before") as caught:
        REDUCED.without("kidney_left")
    assert caught.value.kind == "model.organ"
    one = reduced(PSMA.without("kidney_left"))
    assert "kidney_right" in one.regions
    assert KIDNEYS not in one.regions


def test_merging_twice_and_different_receptors_are_refused():
    with pytest.raises(ModelError, match="rest_of_body, which is merged already"):
        merged(LUMPED, "all", [REST, "red_marrow"], "rest")
    other = replace(
        PSMA,
        targets=("PSMA", "SSTR2"),
        organs=tuple(replace(o, receptor="SSTR2") if o.name == "prostate" else o for o in PSMA.organs),
    )
    with pytest.raises(ModelError, match="receptors PSMA, SSTR2") as caught:
        merged(other, "pelvis", ["prostate", "kidney_left"], "receptor")
    assert caught.value.kind == "model.receptor"


# --- back to the organs, and what merging costs

GROUPS = {
    "kidneys": ("kidney_left", "kidney_right"),
    "lacrimal": ("lacrimal_left", "lacrimal_right"),
    "salivary": ("parotid_left", "parotid_right", "submandibular_left", "submandibular_right"),
    "tumour": ("tumour_rest",),
    "marrow": ("red_marrow",),
    "liver": ("liver",),
    "spleen": ("spleen",),
    "rest": tuple(SILENT),
}


@every_variant
def test_shares_lose_no_ligand_and_name_every_organ(full, small):
    table = shares(small)
    assert set(table.organ.values) == set(full.regions)
    assert list(table.region.values) == list(small.regions)
    np.testing.assert_allclose(table.sum("organ"), 1.0, rtol=1e-12)


def test_shares_of_a_batch_are_those_of_its_members():
    small, drawn = reduced(PEOPLE.model), PEOPLE.draw(3, seed=1)
    together = shares(small, drawn)
    assert together.dims == ("member", "organ", "region")
    for i in range(3):
        alone = shares(small, {n: float(v[i]) for n, v in drawn.items()})
        np.testing.assert_allclose(together.isel(member=i), alone, rtol=1e-12, atol=1e-15)


def test_no_organ_is_below_zero_from_a_few_minutes_on():
    small, drawn = reduced(PEOPLE.model), PEOPLE.draw(32, seed=2)
    found = by_organ(small, simulate_batch(small, drawn, [VIAL], [0.25, 0.5, 1.0, 4.0, 24.0, 168.0]), drawn)
    assert float(found.activity_mbq.min()) > 0


@pytest.mark.parametrize(
    ("make", "bounds"),
    [
        # three times the largest 95th percentile that `tdt bench lumping` measures, or the organ's own
        (lumped, dict.fromkeys(GROUPS, 0.0025)),
        (reduced, {"kidneys": 0.015, "salivary": 0.013, "lacrimal": 0.009, "tumour": 0.009, "marrow": 0.004, "liver": 0.009,
                   "spleen": 0.016, "rest": 0.003}),
    ],
    ids=["lumped", "reduced"],
)  # fmt: skip
def test_merging_changes_the_dose_of_virtual_patients_by_less_than_any_measurement_would_show(make, bounds):
    drawn, given = PEOPLE.draw(48, seed=3), [PEOPLE.administration()]
    small = make(PEOPLE.model)
    assert all(n in small.table for n in drawn)
    wanted, found = (simulate_batch(m, drawn, given, [24.0], rtol=1e-6) for m in (PEOPLE.model, small))
    again = by_organ(small, found, drawn)
    for group, regions in GROUPS.items():
        left, right = (d.tia_mbq_h.sel(label="total", region=list(regions)).sum("region") for d in (again, wanted))
        assert np.abs(left / right - 1).max() < bounds[group], group


def test_more_tumour_takes_as_much_from_the_kidneys_as_in_the_whole_body():
    """The sink effect, for which the reduced rung is there."""
    ratios = []
    for model, kidneys in ((PSMA, ["kidney_left", "kidney_right"]), (REDUCED, [KIDNEYS])):
        little, much = (tia(model, {"tumour_rest.R0": r0}).sel(region=kidneys).sum() for r0 in (13.0, 130.0))
        ratios.append(float(much / little))
    assert ratios[0] < 0.95
    assert ratios[1] == pytest.approx(ratios[0], abs=0.003)


def test_merged_models_have_the_virtual_patients_of_their_whole_body():
    for name in ("psma_lumped", "psma_reduced"):
        people = population(name)
        assert people.model.organs == named(name).organs
        assert people.model.plasma_binding == PEOPLE.model.plasma_binding == "free_fraction"
        for quantity, values in people.draw(3, seed=5).items():
            assert np.array_equal(values, PEOPLE.draw(3, seed=5)[quantity]), quantity
    with pytest.raises(ModelError, match="no population of 'psma_albumin'"):  # it was calibrated with free fractions
        population("psma_albumin")


# --- export


@pytest.mark.parametrize("name", ["psma_lumped", "psma_reduced", "psma_albumin"])
def test_libroadrunner_runs_the_export_to_what_simulate_finds(name):
    body = named(name).with_lesions({"L1": {"volume": 0.012}})
    found = simulate(body, {"TER": 0.15}, [VIAL], TIMES)
    ids = sbml.identifiers(body)
    text = sbml.export(body, {"TER": 0.15}, [VIAL], integrals=True)
    runner = roadrunner.RoadRunner(text)
    runner.integrator.relative_tolerance, runner.integrator.absolute_tolerance = 1e-11, 1e-14
    states = body.network().states
    outputs = [*(ids.states[s.name] for s in states), *(ids.integrals["ligand", r] for r in body.regions)]
    ran = np.array(runner.simulate(times=[0.0, *(60.0 * t for t in TIMES), 60.0 * found.end_h], selections=outputs))[1:]
    amounts = found.amount_nmol.sel(label="total")
    wanted = np.array([amounts.sel(region=s.region, part=s.part).to_numpy() for s in states])
    above = wanted > 1e-6 * VIAL.amount_nmol
    assert above.sum() > 0.5 * wanted.size
    np.testing.assert_allclose(ran[:-1, : len(states)].T[above], wanted[above], rtol=1e-6)
    integrals = ran[-1, len(states) :] * VIAL.activity_mbq / VIAL.amount_nmol / 60.0
    np.testing.assert_allclose(integrals, found.tia_mbq_h.sel(label="Lu-177"), rtol=1e-6)
    again = sbml.read(sbml.export(body))
    assert sorted(s.name for s in again.network().states) == sorted(s.name for s in states)


# --- albumin

ALBUMIN = named("psma_albumin")


def test_with_the_packaged_albumin_every_virtual_patient_is_solved_and_holds_what_can_be():
    drawn = {n: v for n, v in PEOPLE.draw(48, seed=4).items() if n in ALBUMIN.table}
    assert "blood.free_fraction" not in drawn
    found = simulate_batch(ALBUMIN, drawn, [PEOPLE.administration()], TIMES)
    assert not found.failed.any()
    assert float(found.amount_nmol.min()) > -1e-6
    np.testing.assert_allclose(found.amount_nmol.sel(label="total").sum("region"), 7400 / 82, rtol=1e-6)
    alone = simulate(ALBUMIN, None, [VIAL], [0.0, 1 / 60, *TIMES])
    held = alone.amount_nmol.sel(label="total", part=COMPLEX)
    values = ALBUMIN.quantities()
    for organ in (o.name for o in ALBUMIN.organs):
        assert 0 < float(held.sel(region=organ).max()) < float(values[f"{organ}.vascular_albumin"])
        assert float(held.sel(region=organ).min()) >= 0


def test_the_less_albumin_the_nearer_to_none_in_proportion():
    none = tia(PSMA)
    off = [np.abs(tia(ALBUMIN, {"albumin_concentration": c}) / none - 1).max() for c in (6e3, 6e2, 0.0)]
    assert off[0] / off[1] == pytest.approx(10.0, rel=0.05)
    assert off[2] < 1e-7


def test_fast_albumin_is_the_free_fraction_of_its_dissociation_constant_where_the_complex_stays_in_vessels():
    """The equality holds for k_off,alb far above every flow over volume, albumin far above ligand, and protein in vessels only.

    fu = K_D/(K_D + albumin); no albumin in tumours' interstitium, none that crosses (kPS_albumin 0), and no protein outside
    vessels in the free-fraction model. A trace takes the excess of albumin to its limit; what is left falls as 1/k_off,alb.
    """
    values = ALBUMIN.quantities()
    k_d, albumin = float(values["ligand.K_D_albumin"]), float(values["blood.albumin_concentration"])
    trace = [replace(VIAL, amount_nmol=1e-3)]
    by_fraction = PSMA.with_options(plasma_binding="free_fraction")
    wanted = tia(by_fraction, {"free_fraction": k_d / (k_d + albumin), "interstitial_protein_ratio": 0.0}, trace)

    def found(k_off, **more):
        return tia(ALBUMIN, {"tumour_albumin_ratio": 0.0, "k_off_albumin": k_off} | more, trace)

    slow, fast = found(2e3), found(4e3)
    assert np.abs(fast / wanted - 1).max() < 5e-4
    limit = 2 * fast - slow  # the part that is inverse in the rate taken out
    np.testing.assert_allclose(limit, wanted, rtol=2e-6)
    # with albumin in tumours they hold more, and no free fraction of blood alone says so
    assert float(found(4e3, tumour_albumin_ratio=0.4).sel(region="tumour_rest") / wanted.sel(region="tumour_rest")) > 1.0001
