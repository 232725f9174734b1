"""Laws of the whole-body models: conservation, flow balance, scaling, labels, variants; and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdt_core.errors import ModelError
from tdt_core.kinetics.pbrpk import ARTERIAL, SINK, TABLES, VENOUS, assemble, pbrpk
from tdt_core.parameters import Parameter, packaged_csv

REFERENCE = pbrpk("psma_reference")
PSMA = pbrpk("psma")
RECEPTOR_ORGANS = ["tumour_1", "tumour_2", "tumour_rest", "salivary_glands", "spleen", "liver", "prostate", "gi", "kidneys"]
LESIONS = {"L1": {"volume": 0.012}, "2.25.77": {"volume": 0.03, "R_density": 80.0}}


def variants():
    return {
        "reference": REFERENCE,
        "recycled": REFERENCE.with_options(release="recycled"),
        "lesions": REFERENCE.with_lesions(LESIONS),
        "no spleen": REFERENCE.without("spleen"),
        "no prostate, no tumour but the rest": REFERENCE.without("prostate", "tumour_1", "tumour_2"),
        "psma": PSMA,
        "one kidney, lesions": PSMA.without("kidney_left").with_lesions(LESIONS),
    }


every_variant = pytest.mark.parametrize("model", variants().values(), ids=variants())


@st.composite
def overrides(draw):
    """Some given quantities, scaled by up to a third either way."""
    table = REFERENCE.parameters
    # a smaller reference weight makes all organs larger than the body, which the model refuses
    known = sorted(set(table) - {"body.reference_weight"})
    names = draw(st.lists(st.sampled_from(known), max_size=6, unique=True))
    return {n: min(table.value(n) * draw(st.floats(0.7, 1.02)), 1.0 if table[n].unit == "1" else np.inf) for n in names}


def single(model, values=None):
    """Network and (c,) coefficients."""
    network = model.network()
    return network, network.gather(model.coefficients(values or {}))[0]


def amounts(network, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, len(network.states))


def vessels(model, network, quantities):
    """(n,) volume of each vascular space, zero elsewhere."""
    out = np.zeros(len(network.states))
    for i, s in enumerate(network.states):
        if s.part == "vascular":
            out[i] = quantities[f"{s.region}.vascular_volume"]
        elif s.region in (ARTERIAL, VENOUS):
            out[i] = quantities[f"{s.region}.volume"]
    return out


# --- structure


def test_the_reference_model_has_58_states_for_each_label():
    network = REFERENCE.network()
    parts = {r: [s.part for s in network.states if s.region == r] for r in REFERENCE.regions}
    assert len(network.states) == 58
    assert all(set(parts[o]) >= {"vascular", "interstitial", "bound", "internalised"} for o in RECEPTOR_ORGANS)
    assert [o for o in REFERENCE.regions if "intracellular" in parts[o]] == ["kidneys"]
    assert [o for o in REFERENCE.regions if parts[o] == ["pool"]] == [ARTERIAL, VENOUS, SINK]
    assert len(REFERENCE.network(("hot", "cold")).states) == 116


def test_the_order_of_the_states_keeps_elimination_without_pivoting_sparse():
    network, c = single(REFERENCE)
    full = (network.jacobian(c, amounts(network)) != 0) | np.eye(58, dtype=bool)
    for k in range(58):  # symbolic elimination
        below, right = (k + 1 + np.flatnonzero(x) for x in (full[k + 1 :, k], full[k, k + 1 :]))
        full[np.ix_(below, right)] = True
    assert full.sum() <= 170  # dense: 3364


# --- conservation


@every_variant
def test_columns_of_the_rate_matrix_sum_to_zero(model):
    network, c = single(model)
    matrix = network.rate_matrix(c)
    assert np.abs(matrix.sum(axis=0)).max() < 1e-12 * np.abs(matrix).max()


@given(overrides())
@settings(max_examples=25, deadline=None)
def test_ligand_is_conserved_and_stays_between_its_bounds_whatever_is_given(values):
    network, c = single(REFERENCE, values)
    at = {name: i for i, name in enumerate(network.coefficients)}
    y = amounts(network)
    flow = network.derivative(c, y)
    assert abs(flow.sum()) < 1e-12 * np.abs(flow).max()
    for i in range(y.size):  # an empty state does not fall below zero
        assert network.derivative(c, np.where(np.arange(y.size) == i, 0.0, np.minimum(y, 1e-3)))[i] >= 0
    for pool in network.pools:  # full receptors do not fill further
        (member,) = (network.index[m] for m in pool.members)
        full = y.copy()
        full[member] = c[at[pool.capacity]]
        assert network.derivative(c, full)[member] <= 0


@every_variant
def test_blood_of_one_concentration_stays_so_where_nothing_leaves_it(model):
    quantities = model.quantities()
    off = {n: 0.0 for n in quantities if n.endswith((".kPS", ".phi"))} | {"k_on": 0.0}
    network, c = single(model, off)
    y = vessels(model, network, quantities)
    assert np.abs(network.rate_matrix(c) @ y).max() < 1e-13
    inside = np.flatnonzero(y)
    blood = network.rate_matrix(c)[np.ix_(inside, inside)]
    assert np.linalg.matrix_rank(blood, tol=1e-10) == inside.size - 1  # it is the only such state


@every_variant
def test_the_flow_into_each_vascular_space_is_the_flow_out_of_it(model):
    quantities, blood = model.quantities(), [f for f in model.flows if f.blood]
    for space in {f.source for f in blood}:
        into = sum(quantities[f.amount] for f in blood if f.target == space)
        out = sum(quantities[f.amount] for f in blood if f.source == space)
        assert into == pytest.approx(out, rel=1e-12)
    assert {f.source for f in blood} == {f.target for f in blood}


def test_the_jacobian_is_the_complex_step_derivative_of_the_right_hand_side():
    network, c = single(REFERENCE)
    y = amounts(network)
    step = 1e-30
    columns = [network.derivative(c.astype(complex), y + 1j * step * e).imag / step for e in np.eye(y.size)]
    np.testing.assert_allclose(network.jacobian(c, y), np.transpose(columns), rtol=1e-12, atol=1e-15)


# --- scaling and labels


@pytest.mark.parametrize("factor", [1e-3, 3.0, 100.0])
def test_amounts_and_receptors_times_a_factor_and_association_divided_by_it_leave_all_fractions(factor):
    network, c = single(REFERENCE)
    p = REFERENCE.parameters
    scaled = {n: p.value(n) * factor for n in p if n.endswith((".R_density", ".R0"))}
    _, other = single(REFERENCE, scaled | {"k_on": p.value("ligand.k_on") / factor, "k_off": p.value("ligand.k_off")})
    y = amounts(network)
    np.testing.assert_allclose(network.derivative(other, factor * y), factor * network.derivative(c, y), rtol=1e-11, atol=1e-12)


def test_labels_that_compete_sum_to_the_total():
    one, two = REFERENCE.network(), REFERENCE.network(("hot", "cold"))
    values = REFERENCE.coefficients()
    c1, c2 = one.gather(values)[0], two.gather(values)[0]
    y = amounts(two)
    total = one.derivative(c1, y[:58] + y[58:])
    apart = two.derivative(c2, y)
    np.testing.assert_allclose(apart[:58] + apart[58:], total, rtol=1e-11, atol=1e-13)


def test_tracers_follow_the_total_in_proportion_and_do_not_occupy():
    network = REFERENCE.network(("total", "vial:1"), occupying=("total",))
    c = network.gather(REFERENCE.coefficients())[0]
    total = amounts(network)[:58]
    flow = network.derivative(c, np.concatenate([total, 0.1 * total]))
    np.testing.assert_allclose(flow[58:], 0.1 * flow[:58], rtol=1e-12, atol=1e-15)
    alone = single(REFERENCE)
    np.testing.assert_allclose(flow[:58], alone[0].derivative(alone[1], total), rtol=1e-12, atol=1e-15)


def test_the_same_labels_give_the_same_network_object_and_coefficients_do_not_depend_on_labels():
    assert REFERENCE.network(("a", "b")) is REFERENCE.network(("a", "b"))
    assert set(REFERENCE.network(("a", "b")).coefficients) == set(REFERENCE.coefficients())


# --- quantities


def test_giving_any_quantity_its_own_value_changes_nothing():
    base = REFERENCE.quantities()
    for name, value in base.items():
        again = REFERENCE.quantities({name: value})
        for other in base:
            assert float(again[other]) == pytest.approx(float(base[other]), rel=1e-12, abs=1e-15), (name, other)


def test_coefficients_of_a_batch_are_those_of_its_members():
    rng = np.random.default_rng(3)
    batch = {
        "body.weight": rng.uniform(60, 110, 4),
        "TER": rng.uniform(0.1, 0.3, 4),
        "kidneys.R_density": rng.uniform(10, 40, 4),
    }
    network = REFERENCE.network()
    together = network.gather(REFERENCE.coefficients(batch))
    assert together.shape == (4, len(network.coefficients))
    for i in range(4):
        one = network.gather(REFERENCE.coefficients({k: v[i] for k, v in batch.items()}))
        np.testing.assert_allclose(together[i], one[0], rtol=1e-14)


@pytest.mark.parametrize("name", ["body.weight", "TER", "k_on", "blood.hematocrit", "tumour_rest.R0", "kidneys.volume", "BSA"])
def test_complex_steps_pass_through_to_the_coefficients(name):
    network, value = REFERENCE.network(), float(REFERENCE.quantities()[REFERENCE.table.resolve(name)])
    step, h = 1e-30, 1e-5 * value
    derivative = network.gather(REFERENCE.coefficients({name: np.array([value + 1j * step])}))[0].imag / step
    low, high = network.gather(REFERENCE.coefficients({name: np.array([value - h, value + h])}))
    scale = np.abs(low).max(initial=1e-9) / value
    np.testing.assert_allclose(derivative, (high - low) / (2 * h), rtol=1e-6, atol=1e-9 * scale)
    assert np.abs(derivative).max() > 0


def test_receptors_of_the_unsegmented_tumours_set_their_volume_at_unchanged_density_unless_the_volume_is_given():
    more = REFERENCE.quantities({"tumour_rest.R0": 65.0})
    assert float(more["tumour_rest.volume"]) == pytest.approx(65 / 266)
    base = REFERENCE.quantities()
    assert float(more["body.F_tot"] - base["body.F_tot"]) == pytest.approx(0.5 * 52 / 266)
    assert more["rest.flow"] == base["rest.flow"]
    assert more["rest.volume"] == base["rest.volume"]
    given_volume = REFERENCE.quantities({"tumour_rest.volume": 0.1})
    assert float(given_volume["tumour_rest.R0"]) == pytest.approx(26.6)
    both = REFERENCE.quantities({"tumour_rest.volume": 0.1, "tumour_rest.R0": 20.0})
    assert float(both["tumour_rest.R_density"]) == pytest.approx(200.0)


def test_a_dissociation_constant_that_is_given_sets_the_dissociation_rate():
    values = REFERENCE.quantities({"K_D": 1.0, "k_on": 0.09})
    assert float(values["ligand.k_off"]) == pytest.approx(0.09)
    with pytest.raises(ModelError, match=r"ligand\.k_off = -.* which follows from K_D\*k_on.*correct ligand\.K_D"):
        REFERENCE.quantities({"K_D": -1.0})


@pytest.mark.parametrize(
    "name", ["k_on", "k_off", "TER", "phi", "f_exc", "kidneys.R_density", "lambda_int", "liver.kPS", "spleen.flow"]
)
def test_a_process_can_be_switched_off(name):
    _, c = single(REFERENCE, {name: 0.0})
    assert np.isfinite(c).all()


def test_density_times_volume_is_the_receptor_amount_whichever_is_given():
    for given_values in (
        {},
        {"liver.R0": 9.0},
        {"liver.volume": 1.2},
        {"liver.R_density": 5.0},
        {"liver.R0": 9.0, "liver.volume": 1.2},
    ):
        values = REFERENCE.quantities(given_values)
        for organ in RECEPTOR_ORGANS:
            assert float(values[f"{organ}.R0"]) == pytest.approx(
                float(values[f"{organ}.R_density"] * values[f"{organ}.volume"])
            )


def test_every_parameter_has_a_status_and_a_source_and_derived_quantities_are_no_parameters():
    table = REFERENCE.parameters
    assert {"kidneys.TER", "body.weight", "tumour_rest.R0", "ligand.k_on"} <= set(table)
    assert not {"kidneys.GFR", "body.CO", "tumour_rest.volume", "rest.flow"} & set(table)
    assert all(p.source for p in table.values())
    assert table["tumour_1.volume"].status == "assumed"


# --- variants


def test_lesions_become_organs_and_the_circulation_follows():
    model = REFERENCE.with_lesions(LESIONS)
    assert {"lesion/L1", "lesion/2.25.77"} < set(model.regions)
    assert len(model.network().states) == 58 + 8
    before, after = REFERENCE.quantities(), model.quantities()
    assert float(after["body.F_tot"] - before["body.F_tot"]) == pytest.approx(0.5 * 0.042)
    assert float(after["lesion/2.25.77.R0"]) == pytest.approx(2.4)
    assert all(after[n] == before[n] for n in before if n not in ("body.F_tot", "lungs.flow", "lungs.outflow"))
    assert float(model.quantities({"lesion/L1.volume": 0.02})["lesion/L1.flow"]) == pytest.approx(0.01)
    assert model.parameters["lesion/L1.volume"].status == "measured"
    assert model.parameters["lesion/L1.R_density"].distribution == "lognormal"


def test_a_lesion_may_bring_parameters_with_their_own_source():
    p = Parameter("any", 33.0, "nmol/L", "calibrated", "fit of cycle 1", "lognormal", 0.2)
    found = REFERENCE.with_lesions({"L1": {"volume": 0.01, "R_density": p}}).parameters["lesion/L1.R_density"]
    assert (found.value, found.status, found.source, found.sd) == (33.0, "calibrated", "fit of cycle 1", 0.2)


def test_a_tumour_cut_in_two_is_the_tumour():
    whole = REFERENCE.without("tumour_2").with_lesions({"A": {"volume": 0.34, "R_density": 19.0}})
    halves = whole.without("lesion/A").with_lesions({n: {"volume": 0.17, "R_density": 19.0} for n in "AB"})
    (one, c1), (two, c2), (reference, c0) = single(whole), single(halves), single(REFERENCE)
    y = dict(zip((s.name for s in one.states), amounts(one), strict=True))
    split = [y[s.name.replace("lesion/B", "lesion/A")] * (0.5 if "lesion/" in s.name else 1.0) for s in two.states]
    renamed = [y[s.name.replace("tumour_2", "lesion/A")] for s in reference.states]
    flow = dict(zip(y, one.derivative(c1, np.array(list(y.values()))), strict=True))
    found = two.derivative(c2, np.array(split))
    for i, s in enumerate(two.states):
        want = flow[s.name.replace("lesion/B", "lesion/A")] * (0.5 if "lesion/" in s.name else 1.0)
        assert found[i] == pytest.approx(want, rel=1e-10, abs=1e-13), s.name
    found = reference.derivative(c0, np.array(renamed))
    for i, s in enumerate(reference.states):
        assert found[i] == pytest.approx(flow[s.name.replace("tumour_2", "lesion/A")], rel=1e-10, abs=1e-13), s.name


def test_without_a_spleen_the_rest_takes_over_its_volume_serum_and_flow():
    before, after = REFERENCE.quantities(), REFERENCE.without("spleen").quantities()
    for quantity in ("volume", "vascular_volume", "flow"):
        assert float(after[f"rest.{quantity}"]) == pytest.approx(
            float(before[f"rest.{quantity}"] + before[f"spleen.{quantity}"])
        )
    assert float(after["liver.outflow"]) == pytest.approx(float(before["liver.outflow"] - before["spleen.flow"]))
    assert "spleen.volume" not in after


def test_what_other_organs_take_from_one_that_is_left_out_keeps_its_value():
    model = REFERENCE.without("tumour_rest", "prostate")
    assert float(model.quantities()["liver.R_density"]) == pytest.approx(1.33)
    assert "tumour_rest" not in model.regions
    assert not [n for n in model.quantities() if n.startswith(("tumour_rest.v", "tumour_rest.R0", "prostate.v"))]


def test_one_row_adds_an_organ():
    row = {
        "organ": "adrenals",
        "template": "receptor",
        "drains_to": VENOUS,
        "receptor": "PSMA",
        "models": "psma_reference",
        "quantities": "volume=0.014; flow_fraction=0.003; vascular_fraction_of_organ=0.1; interstitial_fraction_of_organ=0.2; "
        "kPS=0.1; R_density=0.5*kidneys.R_density",
        "status": "assumed",
        "source": "test",
    }
    rows = [*packaged_csv("pbrpk_organs.csv"), row]
    model = assemble("psma_reference", rows, [packaged_csv(t) for t in TABLES["psma_reference"]])
    assert len(model.network().states) == 62
    assert float(model.quantities()["adrenals.R0"]) == pytest.approx(7 * 0.014)
    assert model.parameters["adrenals.kPS"].source == "test"
    same = REFERENCE.with_organ(
        "adrenals",
        "receptor",
        {k.strip(): v for k, _, v in (x.partition("=") for x in row["quantities"].split(";"))},
        receptor="PSMA",
    )
    ours, theirs = model.coefficients(), same.coefficients()
    assert set(ours) == set(theirs)
    assert all(float(ours[n]) == pytest.approx(float(theirs[n]), rel=1e-13) for n in ours)


def test_release_is_an_option_of_the_model_and_leads_to_the_sink_or_back():
    def ends(model):
        return {t.target.split("/")[1] for t in model.network().transfers if t.source.endswith("liver/internalised")}

    assert ends(REFERENCE) == {SINK}
    assert ends(REFERENCE.with_options(release="recycled")) == {"liver"}


def test_packaged_models_are_made_once():
    assert pbrpk("psma_reference") is REFERENCE


# --- physiology of the model psma


@pytest.mark.parametrize(
    ("creatinine", "age", "female", "want"),
    [(1.2, 55, 0, 71), (0.9, 40, 0, 111), (0.7, 40, 1, 112), (1.0, 60, 1, 65), (0.5, 30, 1, 129)],
)
def test_estimated_filtration_is_that_of_the_published_equation(creatinine, age, female, want):
    """CKD-EPI 2021: the first as the calculator of the National Kidney Foundation prints it, the others worked out by hand."""
    values = PSMA.quantities({"creatinine": creatinine, "age": age, "female": female})
    assert float(values["body.eGFR"]) == pytest.approx(want, abs=0.6)


def test_filtration_comes_from_creatinine_from_tubular_extraction_or_as_measured():
    values = PSMA.quantities({"body.eGFR": 80.0, "BSA": 2.0})
    assert float(values["kidneys.GFR"]) == pytest.approx(0.080 * 2.0 / 1.73)
    assert float(PSMA.quantities({"TER": 0.2})["kidneys.GFR"]) == pytest.approx(0.08874172185430464)
    assert float(PSMA.quantities({"kidneys.GFR": 0.05})["kidney_left.filtered_flow"]) == pytest.approx(0.05 * 0.66 / 2)


def test_body_surface_is_mostellers():
    assert float(PSMA.quantities({"height": 180.0, "weight": 80.0})["body.BSA"]) == pytest.approx(2.0)


def test_two_kidneys_of_one_concentration_are_one_of_their_volume():
    both = {"kidney_left.volume": 0.1, "kidney_right.volume": 0.2}
    two, c2 = single(PSMA, both)
    one, c1 = single(PSMA.without("kidney_left"), {"kidney_right.volume": 0.3})
    y = dict(zip((s.name for s in one.states), amounts(one), strict=True))

    def part(name):
        return (name.replace("left", "right"), 1 / 3) if "kidney_left" in name else (name, 2 / 3 if "kidney" in name else 1.0)

    shares = [part(s.name) for s in two.states]
    flow = dict(zip(y, one.derivative(c1, np.array(list(y.values()))), strict=True))
    found = two.derivative(c2, np.array([y[n] * w for n, w in shares]))
    np.testing.assert_allclose(found, [flow[n] * w for n, w in shares], rtol=1e-10, atol=1e-13)


def test_a_kidney_volume_given_as_a_total_is_shared_and_one_kidney_filters_all():
    values = PSMA.quantities({"kidneys.volume": 0.25})
    assert float(values["kidney_left.volume"]) == pytest.approx(0.125)
    alone = PSMA.without("kidney_left").quantities()
    assert float(alone["kidney_right.GFR"]) == pytest.approx(float(PSMA.quantities()["kidneys.GFR"]))
    assert float(alone["kidneys.volume"]) == pytest.approx(0.311 / 2)


def test_glands_share_the_receptor_density_and_each_may_have_its_own():
    values = PSMA.quantities({"salivary_glands.R_density": 50.0, "lacrimal_left.R_density": 20.0})
    assert [float(values[f"{g}.R_density"]) for g in ("parotid_left", "submandibular_right", "lacrimal_left")] == [50, 50, 20]


def test_a_woman_has_a_body_that_closes():
    woman = PSMA.without("prostate")
    values = woman.quantities({"female": 1.0, "weight": 60.0, "height": 163.0})
    assert float(values["muscle.volume"]) == pytest.approx(30.078 * 17.5 / 29)
    assert float(values["kidneys.flow"] / values["body.CO"]) == pytest.approx(0.17)
    total = sum(float(values[f"{o.name}.volume"]) for o in woman.organs if o.template not in ("pool", "tumour"))
    assert total == pytest.approx(60.0)
    assert 0.05 < float(values["rest.volume"]) / 60 < 0.25


def test_the_model_psma_of_a_man_of_the_reference_has_his_volumes_and_flows():
    """Where only the split into sides and the kidney function differ, the quantities are the reference's."""
    values, reference = PSMA.quantities({"BSA": 1.9, "TER": 0.2}), REFERENCE.quantities()
    for name in (
        "body.CO",
        "kidneys.GFR",
        "kidneys.volume",
        "kidneys.flow",
        "muscle.volume",
        "liver.outflow",
        "red_marrow.volume",
    ):
        assert float(values[name]) == pytest.approx(float(reference[name]), rel=1e-12), name


# --- errors


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        ({"rest.flow": 0.3}, "model.flow", r"arterial_pool takes in .* L/min .*gives off .*let rest\.flow follow"),
        ({"body.F_tot": 4.0}, "model.flow", r"takes in .*gives off .*balance"),
        ({"liver.outflow": 1.0}, "model.flow", r"liver takes in 1\.00117 L/min .*gives off 1 L/min.*liver\.outflow"),
        ({"kidneys.volume": -0.3}, "model.value", r"kidneys\.volume = -0\.3 L.*above 0.*correct kidneys\.volume"),
        ({"kidneys.volume": 0.0}, "model.value", r"kidneys\.volume = 0 L"),
        ({"body.weight": np.array([75.0, np.inf])}, "model.value", r"body\.weight = inf kg, in member 1"),
        ({"muscle.volume": 50.0}, "model.value", r"rest\.volume = -10\.\d+ L, which follows from .*correct muscle\.volume"),
        ({"muscle.flow_fraction": 0.5}, "model.value", r"rest\.flow = -\d.* L/min.*correct muscle\.flow_fraction"),
        ({"haematocrit": 1.2}, "model.value", r"blood\.hematocrit = 1\.2.*from 0 to 1"),
        ({"kidney.volume": 0.3}, "model.quantity", r"no quantity named 'kidney\.volume'.*kidneys\.volume"),
        ({"R_density": 30.0}, "model.quantity", r"R_density belongs to 9 organs.*kidneys\.R_density"),
    ],
)
def test_bad_quantities_are_refused_with_the_row_the_value_and_the_remedy(values, kind, words):
    with pytest.raises(ModelError, match=words) as caught:
        REFERENCE.coefficients(values)
    assert caught.value.kind == kind


MILLILITRES = Parameter("volume", 9.0, "mL", "measured", "CT")


def organ(name, **changes):
    """The reference model with one organ's row changed."""
    return replace(REFERENCE, organs=tuple(replace(o, **changes) if o.name == name else o for o in REFERENCE.organs))


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: organ("gi", drains_to="portal_vein"), "model.organ", r"organ gi drains to 'portal_vein'.*liver.*row gi"),
        (lambda: organ("gi", drains_to=""), "model.organ", r"organ gi drains to 'nothing'"),
        (lambda: organ("gi", drains_to="lungs"), "model.organ", r"organ gi drains to 'lungs'"),
        (lambda: organ("liver", drains_to="spleen"), "model.cycle", r"outflow <- "),
        (lambda: organ("gi", template="sponge"), "model.organ", r"organ gi has the template 'sponge'.*receptor"),
        (lambda: organ("gi", receptor=""), "model.receptor", r"organ gi of the template receptor has no receptor"),
        (lambda: organ("heart", receptor="PSMA"), "model.receptor", r"organ heart of .* exchange has the receptor PSMA"),
        (lambda: organ("gi", receptor="SSTR2"), "model.receptor", r"organ gi has the receptor SSTR2, to which no.*PSMA"),
        (lambda: REFERENCE.without("liver"), "model.organ", r"drains to 'liver'"),
        (lambda: REFERENCE.without("lungs"), "model.organ", r"no lungs"),
        (lambda: REFERENCE.without("venous_pool"), "model.organ", r"no venous_pool"),
        (lambda: REFERENCE.without("rest"), "model.flow", r"takes in"),
        (lambda: REFERENCE.without("appendix"), "model.organ", r"no organ appendix.*spleen"),
        (lambda: REFERENCE.with_options(release="kept"), "model.option", r"release is 'kept'.*recycled"),
        (lambda: REFERENCE.with_lesions({"L1": {}}), "model.organ", r"lesion/L1 has no volume.*in L"),
        (lambda: REFERENCE.with_lesions({"L1": {"volume": -1.0}}), "model.value", r"lesion/L1\.volume = -1 L"),
        (lambda: REFERENCE.with_lesions({"L1": {"volume": np.nan}}), "model.value", r"lesion/L1\.volume = nan"),
        (lambda: REFERENCE.with_lesions({"L1": {"volume": 0.1, "vol": 1.0}}), "model.quantity", r"quantity 'vol'.*volume"),
        (lambda: REFERENCE.with_lesions(LESIONS).with_lesions(LESIONS), "model.organ", r"lesion/L1 is declared twice"),
        (lambda: REFERENCE.with_lesions({"L1": {"volume": MILLILITRES}}), "model.unit", r"mL.*L"),
        (lambda: REFERENCE.with_organ("a", "exchange", {"volume": 0.1}), "model.quantity", r"a\.flow = .* needs flow_fraction"),
        (lambda: REFERENCE.network(("a",), occupying=("b",)), "model.label", r"occupy binding sites"),
        (lambda: REFERENCE.network(()), "model.label", r"at least one label"),
        (lambda: pbrpk("psma_unheard_of"), "model.name", r"psma_reference"),
    ],
)  # fmt: skip
def test_bad_models_are_refused_with_the_row_and_the_remedy(make, kind, words):
    with pytest.raises(ModelError, match=words) as caught:
        make()
    assert caught.value.kind == kind
