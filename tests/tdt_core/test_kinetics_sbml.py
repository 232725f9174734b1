"""SBML export, judged by libSBML and run by libRoadRunner, and the way back."""

import re
from dataclasses import dataclass, replace

import libsbml
import numpy as np
import pytest
import roadrunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tdt_core.errors import InputError, ModelError
from tdt_core.kinetics import sbml
from tdt_core.kinetics.network import Binding, Network, Pool, State, Transfer
from tdt_core.kinetics.parameter_tables import options_of
from tdt_core.kinetics.pbrpk import TABLES, pbrpk
from tdt_core.kinetics.simulation import simulate
from tdt_core.nuclides import decays_per_parent_decay, nuclide
from tdt_core.twin import Administration

REFERENCE = pbrpk("psma_reference")
LESIONS = REFERENCE.with_lesions({"L1": {"volume": 0.012}, "2.25.77": {"volume": 0.03, "R_density": 80.0}})
FIRST = Administration(0.0, "Pluvicto", "PSMA-617", "Lu-177", 7400.0, 110.0)
LATER = Administration(48.0, "Pluvicto", "PSMA-617", "Lu-177", 3000.0, 60.0, residual_mbq=200.0)
SLOWLY = Administration(6.0, "Pluvicto", "PSMA-617", "Lu-177", 5000.0, 80.0, duration_h=2.0)
TIMES_H = [0.5, 1.0, 4.0, 7.0, 24.0, 50.1, 72.0, 168.0, 400.0]
MODELS = {"lost": REFERENCE, "recycled": REFERENCE.with_options(release="recycled"), "lesions": LESIONS}
SCHEDULES = {
    "bolus": [FIRST],
    "two boluses": [FIRST, LATER],
    "infusion": [replace(SLOWLY, time_h=0.0), replace(LATER, time_h=5.0)],
}


def per_mbq(isotope):
    """nmol of a pure nuclide with an activity of 1 MBq."""
    return 1.0 / nuclide(isotope).mbq_per_nmol


def run(text, times_h, outputs):
    """(times, outputs) by libRoadRunner, an independent reader and solver."""
    runner = roadrunner.RoadRunner(text)
    runner.integrator.relative_tolerance, runner.integrator.absolute_tolerance = 1e-11, 1e-14
    minutes = [0.0, *(60.0 * t for t in times_h)]
    return np.array(runner.simulate(times=minutes, selections=list(outputs)))[1:]


def complaints(text):
    """Everything that libSBML finds, units and practice included."""
    document = libsbml.readSBMLFromString(text)
    document.checkConsistency()
    return [document.getError(i).getMessage() for i in range(document.getNumErrors())]


def _assert_agree(found, wanted, floor):
    """Within 1e-6 relative where what is wanted is above the floor, which some of it is."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    above = wanted > floor
    assert above.any()
    np.testing.assert_allclose(found[above], wanted[above], rtol=1e-6)


# --- export


@pytest.mark.parametrize("labels", [("ligand",), ("hot", "cold")])
@pytest.mark.parametrize("schedule", [None, *SCHEDULES.values()], ids=["no schedule", *SCHEDULES])
def test_libsbml_has_nothing_to_say_about_an_export(schedule, labels):
    text = sbml.export(LESIONS, None, schedule, labels=labels, nuclide="Lu-177", integrals=True)
    assert complaints(text) == []


PAIR = [
    Administration(0.0, "cold", "PSMA-11", "", 0.0, 20.0),
    Administration(1.0, "scan", "PSMA-11", "Ga-68", 150.0, 5.0),
    Administration(4.0, "vial", "PSMA-617", "Ac-225", 8.0, 110.0, duration_h=0.5),
]


def test_libsbml_has_nothing_to_say_about_species_counted_apart():
    body = LESIONS.with_options(daughters="followed", turnover="explicit", release="recycled")
    assert complaints(sbml.export(body, {"PSMA-11/ligand.K_D": 3.0}, PAIR, integrals=True)) == []


def test_ligands_and_daughters_counted_apart_have_their_own_numbers():
    body = REFERENCE.with_options(daughters="followed")
    given = {"PSMA-11/ligand.K_D": 3.0, "Ac-225/Bi-213.leaving": 0.7, "Bi.retained": 0.4}
    ids = sbml.identifiers(body, schedule=PAIR)
    document = libsbml.readSBMLFromString(sbml.export(body, given, PAIR))
    model = document.getModel()

    def value(name):
        return model.getParameter(ids.coefficients[name]).getValue()

    assert value("PSMA-11/ligand.k_off") == pytest.approx(3.0 * 0.09)
    assert value("PSMA-617/ligand.k_off") == pytest.approx(1.0 * 0.09)
    assert "PSMA-11" in model.getParameter(ids.coefficients["PSMA-11/ligand.k_off"]).getName()
    assert "K_D*k_on" in model.getParameter(ids.coefficients["PSMA-11/ligand.k_off"]).getNotesString()
    yields = {
        p.getName().removeprefix("yield of "): p.getValue() for p in model.getListOfParameters() if "yield" in p.getName()
    }
    branching = decays_per_parent_decay("Ac-225")["Bi-213"]
    shares = {"on ligand": 0.3, "free": 0.7, "kept": 0.28, "let out": 0.42}
    assert yields == pytest.approx({f"Ac-225/Bi-213 {where}": branching * share for where, share in shares.items()})
    units = {p.getUnits() for p in model.getListOfParameters() if "yield" in p.getName()}
    assert units == {"dimensionless"}


def test_atoms_that_decayed_are_daughters_there_or_decayed_when_libroadrunner_runs_the_export():
    """In the closed body: what parents lose to decay, times the branching, is the daughters and what they lost to decay."""
    body = REFERENCE.with_options(daughters="followed")
    ids = sbml.identifiers(body, schedule=[PAIR[-1]])
    text = sbml.export(body, None, [PAIR[-1]], integrals=True)
    labels = ("Ac-225", "Bi-213 on ligand", "Bi-213 free")
    present = [[i for s, i in ids.states.items() if s.startswith(f"{label}/")] for label in labels]
    integrals = [[ids.integrals[label, r] for r in body.regions] for label in labels]
    columns = [*present, *integrals]
    ran = run(text, [30.0, 100.0], [i for ids_of in columns for i in ids_of])
    sums = [part.sum(axis=1) for part in np.split(ran, np.cumsum([len(c) for c in columns])[:-1], axis=1)]
    decays = [nuclide(n).decay_constant_per_h / 60.0 for n in ("Ac-225", "Bi-213", "Bi-213")]
    born = decays_per_parent_decay("Ac-225")["Bi-213"] * decays[0] * sums[3]
    assert born.min() > 0
    np.testing.assert_allclose(sums[1] + sums[2] + decays[1] * sums[4] + decays[2] * sums[5], born, rtol=1e-6)


def test_an_export_of_cold_ligand_and_one_vial_is_a_total_that_reads_back():
    given = [replace(PAIR[0], ligand="PSMA-617"), FIRST]
    found = simulate(REFERENCE, None, given, [0.5, 24.0])
    states = [s for s in REFERENCE.network().states if s.part == "bound"]
    ids = sbml.identifiers(REFERENCE)
    text = sbml.export(REFERENCE, None, given)
    ran = run(text, [0.5, 24.0], [ids.states[s.name] for s in states])
    wanted = found.amount_nmol.sel(label="total", part="bound", region=[s.region for s in states])
    np.testing.assert_allclose(ran.T, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "schedule"),
    [("lost", "bolus"), ("recycled", "two boluses"), ("lesions", "infusion")],
)
def test_libroadrunner_runs_the_export_to_what_simulate_finds(model, schedule):
    body, given = MODELS[model], SCHEDULES[schedule]
    found = simulate(body, {"TER": 0.15}, given, TIMES_H)
    states = body.network(("hot", "cold")).states
    ids = sbml.identifiers(body, ("hot", "cold"))
    text = sbml.export(body, {"TER": 0.15}, given, labels=("hot", "cold"), integrals=True)
    outputs = [*(ids.states[s.name] for s in states), *(ids.integrals["hot", r] for r in body.regions)]
    ran = run(text, [*TIMES_H, found.end_h], outputs)
    amounts = {s.name: ran[:-1, i] for i, s in enumerate(states)}

    floor = 1e-6 * sum(a.net_activity_mbq for a in given)  # 1e-4 % of the injected activity
    cells = [(s.region, s.part) for s in states if s.label == "hot"]
    by_cell = found.sel(label="Lu-177").activity_mbq
    hot = np.array([amounts[f"hot/{r}/{p}"] for r, p in cells]) / per_mbq("Lu-177")
    _assert_agree(hot, [by_cell.sel(region=r, part=p) for r, p in cells], floor)
    total = np.array([amounts[f"hot/{r}/{p}"] + amounts[f"cold/{r}/{p}"] for r, p in cells])
    nmol = found.sel(label="total").amount_nmol
    _assert_agree(total, [nmol.sel(region=r, part=p) for r, p in cells], 1e-6 * sum(a.amount_nmol for a in given))
    integrals = ran[-1, len(states) :] / per_mbq("Lu-177") / 60.0
    _assert_agree(integrals, found.sel(label="Lu-177").tia_mbq_h, floor)


def test_weighted_integrals_of_the_total_are_the_time_integrated_activities():
    found = simulate(REFERENCE, None, [FIRST], TIMES_H)
    ids = sbml.identifiers(REFERENCE)
    text = sbml.export(REFERENCE, None, [FIRST], integrals=True)
    ran = run(text, [found.end_h], [ids.integrals["ligand", r] for r in REFERENCE.regions])
    share = FIRST.net_activity_mbq / FIRST.amount_nmol / 60.0
    np.testing.assert_allclose(ran[-1] * share, found.sel(label="Lu-177").tia_mbq_h, rtol=1e-6)


def test_two_nuclides_are_two_radioactive_labels():
    given = [FIRST, Administration(0.0, "experimental", "PSMA-617", "Tb-161", 500.0, 10.0)]
    labels = ("Lu-177", "Tb-161", "cold")
    found = simulate(REFERENCE, None, given, [24.0])
    ids = sbml.identifiers(REFERENCE, labels)
    text = sbml.export(REFERENCE, None, given, labels=labels)
    ran = run(text, [24.0], [ids.states[f"{n}/kidneys/internalised"] for n in labels[:2]])
    wanted = found.activity_mbq.sel(region="kidneys", part="internalised", time_h=24.0, label=list(labels[:2]))
    np.testing.assert_allclose(ran[-1] / [per_mbq(n) for n in labels[:2]], wanted, rtol=1e-6)


@pytest.mark.parametrize("shift_h", [-30.0, 1000.0])
def test_time_0_is_the_first_administration(shift_h):
    def without_notes(schedule):
        return re.sub(r"<notes>.*?</notes>", "", sbml.export(REFERENCE, None, schedule, labels=("hot", "cold")), flags=re.S)

    given = [FIRST, SLOWLY, LATER]
    assert without_notes([replace(a, time_h=a.time_h + shift_h) for a in reversed(given)]) == without_notes(given)


def test_boluses_at_one_time_add_up():
    def entry(schedule):
        text = sbml.export(REFERENCE, None, schedule)
        return run(text, [2.0, 3.0], sbml.identifiers(REFERENCE).states.values()).sum(axis=1)

    half = replace(FIRST, amount_nmol=55.0, activity_mbq=3700.0)
    for start in (0.0, 1.0):
        later = replace(FIRST, time_h=1.0, amount_nmol=30.0)
        given = [replace(half, time_h=start)] * 2 + [later]
        np.testing.assert_allclose(entry(given), [140.0, 140.0], rtol=1e-9)


def test_every_coefficient_is_a_parameter_that_says_what_it_is():
    text = sbml.export(LESIONS, {"kidneys.R_density": 30.0}, [FIRST])
    network, values = LESIONS.network(), LESIONS.coefficients({"kidneys.R_density": 30.0})
    document = libsbml.readSBMLFromString(text)
    model, ids = document.getModel(), sbml.identifiers(LESIONS)
    for coefficient in network.coefficients:
        one = model.getParameter(ids.coefficients[coefficient])
        assert (one.getName(), one.getConstant()) == (coefficient, True)
        assert one.getValue() == pytest.approx(float(values[coefficient]), rel=1e-14)
    kidney = model.getParameter("kidneys_R0")
    assert (kidney.getUnits(), "R_density*volume" in kidney.getNotesString()) == ("nmol", True)
    assert model.getParameter("lesion_L1_PS_per_lesion_L1_vascular_volume").getUnits() == "per_min"
    assert model.getCompartment("lesion_2_25_77").getSize() == 0.03
    assert len(model.getListOfReactions()) == len(network.transfers) + len(network.bindings)
    assert all(word in model.getNotesString() for word in ("Research use only", "lost", "kidneys.R_density = 30", "Lu-177"))


def test_identifiers_differ_even_where_names_do_not_in_letters():
    twins = REFERENCE.with_lesions({"a.b": {"volume": 0.01}, "a_b": {"volume": 0.02}})
    assert complaints(sbml.export(twins)) == []
    ids = sbml.identifiers(twins)
    everything = [i for table in ids for i in table.values()]
    assert len(everything) == len(set(everything))
    assert sbml.read(sbml.export(twins)).regions == twins.regions


@pytest.mark.parametrize(
    ("make", "error", "kind", "words"),
    [
        (lambda: sbml.export("psma_reference"), ModelError, "model.sbml", r"str is no system.*psma_reference"),
        (lambda: sbml.export(REFERENCE, {"TER": np.array([0.1, 0.2])}), ModelError, "model.batch", r"2 sets of parameters"),
        (lambda: sbml.export(REFERENCE, {"TER": -0.1}), ModelError, "model.value", r"TER = -0\.1"),
        (lambda: sbml.export(REFERENCE, None, []), InputError, "input.schedule", r"without an administration"),
        (
            lambda: sbml.export(REFERENCE, None, [replace(FIRST, amount_nmol=None)]),
            InputError, "model.amount", r"at 0 h has no ligand amount",
        ),
        (
            lambda: sbml.export(REFERENCE, None, [FIRST, replace(LATER, ligand="PSMA-11")], labels=("hot", "cold")),
            ModelError, "model.sbml", r"PSMA-617, PSMA-11",
        ),
        (
            lambda: sbml.export(sbml.read(sbml.export(REFERENCE)), None, [FIRST, replace(LATER, ligand="PSMA-11")]),
            InputError, "input.schedule", r"PSMA-11, PSMA-617",
        ),
        (
            lambda: sbml.export(REFERENCE, None, [replace(FIRST, amount_nmol=5.0)], labels=("hot", "cold")),
            ModelError, "model.amount", r"are 10\.18\d* nmol, of 5 nmol",
        ),
        (lambda: sbml.export(REFERENCE, labels=("hot", "cold")), ModelError, "model.sbml", r"label hot has no nuclide"),
        (lambda: sbml.export(REFERENCE, integrals=True), ModelError, "model.sbml", r"ligand has no nuclide.*pass nuclide"),
        (
            lambda: sbml.export(REFERENCE, None, [FIRST], labels=("hot", "cold"), nuclide="Tb-161"),
            ModelError, "model.sbml", r"gives Lu-177, which no label counts",
        ),
        (lambda: sbml.export(REFERENCE, labels=("a", "a")), ModelError, "model.label", r"different names"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_refused(make, error, kind, words):
    with pytest.raises(error, match=words) as caught:
        make()
    assert caught.value.kind == kind


# --- round trip


@pytest.mark.parametrize("labels", [None, ("hot", "cold")])
def test_an_export_reads_back_to_the_same_numbers(labels):
    given, parameters = [FIRST, replace(SLOWLY, time_h=48.0)], {"K_D": 4.0, "kidneys.R_density": 30.0}
    text = sbml.export(LESIONS, parameters, labels=labels or ("ligand",), nuclide="Lu-177")
    again = sbml.read(text.encode(), labels=labels)
    assert (again.regions, again.entry, again.initial_nmol) == (LESIONS.regions, LESIONS.entry, 0.0)
    assert set(again.network().coefficients) == set(LESIONS.network().coefficients)
    wanted, found = (simulate(m, p, given, TIMES_H) for m, p in ((LESIONS, parameters), (again, None)))
    for what in ("amount_nmol", "tia_mbq_h"):
        np.testing.assert_allclose(found[what].reindex_like(wanted[what]), wanted[what], rtol=1e-11, atol=1e-11)


def test_a_model_that_was_read_takes_parameters_labels_and_another_export():
    again = sbml.read(sbml.export(REFERENCE))
    coefficients = REFERENCE.coefficients({"kidneys.R_density": 40.0})
    given = {"kidneys.R0": float(coefficients["kidneys.R0"])}
    wanted = simulate(REFERENCE, {"kidneys.R_density": 40.0}, [FIRST], [24.0])
    found = simulate(again, given, [FIRST], [24.0])
    np.testing.assert_allclose(found.tia_mbq_h, wanted.tia_mbq_h, rtol=1e-11)
    twice = simulate(sbml.read(sbml.export(again, given)), None, [FIRST], [24.0])
    np.testing.assert_allclose(twice.tia_mbq_h, wanted.tia_mbq_h, rtol=1e-11)
    vials = [FIRST, replace(FIRST, time_h=24.0)]  # labels of their own, carried by the total
    np.testing.assert_allclose(
        simulate(again, None, vials, [48.0]).tia_mbq_h, simulate(REFERENCE, None, vials, [48.0]).tia_mbq_h, rtol=1e-11
    )


@pytest.mark.parametrize("release", ["lost", "recycled"])
@pytest.mark.parametrize("binding", ["none", "free_fraction", "albumin"])
def test_an_export_tells_the_options_and_the_parameters_that_it_was_made_with(release, binding):
    options = {"release": release, "plasma_binding": binding}
    body, given = pbrpk("psma").with_options(**options).with_ligand("PSMA-11"), {"TER": 0.1 + 0.2, "liver.R_density": 2.0}
    text = sbml.export(body, given)
    notes = libsbml.readSBMLFromString(text).getModel().getNotesString()
    for words in (f"Option release: {release}.", f"Option plasma binding: {binding}.", "Option ligand: PSMA-11."):
        assert words in notes
    again = sbml.read(text)
    assert again.options == options_of(body)
    assert again.options.items() >= {**options, "ligand": "PSMA-11"}.items()
    assert again.given == given
    rebuilt = pbrpk("psma").with_options(**options).with_ligand(again.options["ligand"])
    wanted, found = (simulate(m, p, [FIRST], [24.0]) for m, p in ((rebuilt, again.given), (again, None)))
    np.testing.assert_allclose(found.tia_mbq_h.reindex_like(wanted.tia_mbq_h), wanted.tia_mbq_h, rtol=1e-11)
    assert sbml.read(sbml.export(again)).options == again.options


def test_what_an_export_with_a_single_bolus_puts_into_the_entry_is_told():
    assert sbml.read(sbml.export(REFERENCE, None, [FIRST])).initial_nmol == pytest.approx(110.0)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A random network as a model."""

    base: Network
    values: dict

    regions = ("a", "b", "c")
    entry = ("a", "0")

    def network(self, labels=("ligand",), occupying=None):
        return self.base

    def coefficients(self, overrides=None):
        return self.values


@st.composite
def networks(draw):
    states = [State("ligand", "abc"[i % 3], str(i // 3)) for i in range(draw(st.integers(3, 7)))]
    names = [s.name for s in states]
    pairs = st.tuples(st.sampled_from(names), st.sampled_from(names)).filter(lambda p: p[0] != p[1])
    # each state gives off something, so that all of them are states of the file
    transfers = [
        Transfer(n, draw(st.sampled_from([None, *(m for m in names if m != n)])), f"k {i}") for i, n in enumerate(names)
    ]
    transfers += [Transfer(*pair, f"k {i}") for i, pair in enumerate(draw(st.lists(pairs, max_size=4)))]
    bindings = [Binding(*pair, f"on {i}", f"pool {i % 2}") for i, pair in enumerate(draw(st.lists(pairs, max_size=3)))]
    members = [tuple(draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))) for _ in range(2)]
    used = sorted({b.pool for b in bindings})
    pools = [Pool(p, f"sites of {p}", members[int(p[-1])]) for p in used]
    network = Network(tuple(states), tuple(transfers), tuple(pools), tuple(bindings))
    number = st.floats(1e-3, 1e3)
    return Drawn(network, {c: np.asarray(draw(number)) for c in network.coefficients})


@pytest.mark.parametrize("name", TABLES)
def test_every_whole_body_model_survives_export_and_import(name):
    _assert_survives(pbrpk(name), 0)


@given(networks(), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_any_network_survives_export_and_import(model, seed):
    _assert_survives(model, seed)


def _assert_survives(model, seed):
    """The file has the same rates of change as the model, at random amounts."""
    text = sbml.export(model)
    assert complaints(text) == []
    again = sbml.read(text)
    network, other = model.network(), again.network()
    y = np.random.default_rng(seed).uniform(0, 1, len(network.states))
    wanted = network.derivative(network.gather(model.coefficients())[0], y)
    order = [network.index[s.name] for s in other.states]
    assert sorted(order) == list(range(y.size))
    found = other.derivative(other.gather(again.coefficients())[0], y[order])
    np.testing.assert_allclose(found, wanted[order], rtol=1e-11, atol=1e-11 * np.abs(wanted).max())
