"""Every model of differential equations as SBML, solved by libRoadRunner: the same amounts and time integrals as ours."""

from dataclasses import replace

import numpy as np
import pytest
import roadrunner

from tdt_core.errors import ModelError
from tdt_core.kinetics import sbml
from tdt_core.kinetics.ode_models import forms_by_schedule, ode_models
from tdt_core.kinetics.simulation import simulate
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration

MODELS = ode_models()
BY_SCHEDULE = forms_by_schedule()
OWN = [name for name in MODELS if "," not in name]  # without other options
RELATIVE, FLOOR = 1e-6, 1e-6  # of the injected activity: 1e-4 %
TIMES_H = [0.5, 2.0, 7.0, 24.0, 50.1, 72.0, 168.0, 400.0]
BOLUS = Administration(0.0, "vial", "PSMA-617", "Lu-177", 7400.0, 110.0)
SCHEDULE = [BOLUS, replace(BOLUS, time_h=5.0, activity_mbq=3000.0, amount_nmol=60.0, residual_mbq=200.0, duration_h=1.5)]
RTOL = 1e-9  # of our steps; theirs 1e-11
SHORT = ("psma_reference", "psma_reduced", "compartmental")
"""Models of the default tests; the long ones run over all."""
PARENTS = {"Bi-213": "Ac-225", "Bi-212": "Pb-212"}
MBQ_PER_NMOL = nuclide("Lu-177").mbq_per_nmol


def each(names, short):
    """Parameters of a test: those that are not in `short` belong to the long ones."""
    return [pytest.param(name, marks=() if name in short else pytest.mark.long) for name in names]


def run(text, times_h, outputs):
    """(times, outputs) by libRoadRunner's CVODE at a tight tolerance."""
    runner = roadrunner.RoadRunner(text)
    runner.integrator.relative_tolerance, runner.integrator.absolute_tolerance = 1e-11, 1e-14
    minutes = [0.0, *(60.0 * t for t in times_h)]
    return np.array(runner.simulate(times=minutes, selections=list(outputs)))[1:]


def _assert_agree(found, wanted, floor):
    """Equal where what is wanted is above the floor; at least a third of it is."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    above = wanted > floor
    assert above.mean() > 1 / 3
    np.testing.assert_allclose(found[above], wanted[above], rtol=RELATIVE)


@pytest.mark.parametrize("name", each(MODELS, SHORT))
def test_the_total_ligand_and_its_time_integrals_are_those_of_libroadrunner(name):
    model = MODELS[name]()
    found = simulate(model, None, [BOLUS], TIMES_H, rtol=RTOL)
    states, ids = [s for s in model.network().states if s.label == "ligand"], sbml.identifiers(model)
    outputs = [*(ids.states[s.name] for s in states), *(ids.integrals["ligand", r] for r in model.regions)]
    ran = run(sbml.export(model, None, [BOLUS], integrals=True), [*TIMES_H, found.end_h], outputs)

    ours = found.amount_nmol.sel(label="total")
    wanted = np.array([ours.sel(region=s.region, part=s.part) for s in states]).T
    decayed = np.exp(-nuclide("Lu-177").decay_constant_per_h * np.array(TIMES_H))[
        :, None
    ]  # what is above the floor is activity
    share = BOLUS.activity_mbq / BOLUS.amount_nmol
    _assert_agree(ran[:-1, : len(states)] * decayed * share, wanted * decayed * share, FLOOR * BOLUS.activity_mbq)
    tia = found.tia_mbq_h.sel(label="Lu-177", region=list(model.regions))
    _assert_agree(ran[-1, len(states) :] * share / 60.0, tia, FLOOR * BOLUS.activity_mbq)


@pytest.mark.parametrize("name", each(OWN, SHORT))
def test_radioactive_and_cold_ligand_of_two_administrations_are_those_of_libroadrunner(name):
    model = MODELS[name]()
    found = simulate(model, None, SCHEDULE, TIMES_H, rtol=RTOL)
    states, ids = model.network(("hot", "cold")).states, sbml.identifiers(model, ("hot", "cold"))
    outputs = [*(ids.states[s.name] for s in states), *(ids.integrals["hot", r] for r in model.regions)]
    ran = run(sbml.export(model, None, SCHEDULE, labels=("hot", "cold"), integrals=True), [*TIMES_H, found.end_h], outputs)

    given_mbq = sum(a.net_activity_mbq for a in SCHEDULE)
    hot = [i for i, s in enumerate(states) if s.label == "hot"]
    cold = [states.index(replace(states[i], label="cold")) for i in hot]
    by_label = [
        np.array([found[what].sel(label=label, region=states[i].region, part=states[i].part) for i in hot]).T
        for what, label in (("activity_mbq", "Lu-177"), ("amount_nmol", "total"))
    ]
    _assert_agree(ran[:-1, hot] * MBQ_PER_NMOL, by_label[0], FLOOR * given_mbq)
    _assert_agree(ran[:-1, hot] + ran[:-1, cold], by_label[1], FLOOR * sum(a.amount_nmol for a in SCHEDULE))
    tia = found.tia_mbq_h.sel(label="Lu-177", region=list(model.regions))
    _assert_agree(ran[-1, len(states) :] * MBQ_PER_NMOL / 60.0, tia, FLOOR * given_mbq)


def vials(named):
    """A bolus of the first vial, cold ligand of the same before, and an infusion of the second with a residual."""
    (ligand, isotope), (other, another) = named
    first = Administration(2.0, "first", ligand, isotope, 50.0, 30.0)
    second = Administration(5.0, "second", other, another, 40.0, 80.0, duration_h=1.5, residual_mbq=5.0)
    return [Administration(0.0, "cold", ligand, "", 0.0, 20.0), first, second]


def told_of(label, isotopes):
    """Label of the output that tells what a species of an export counts; "" for cold ligand, of which only the sum is told."""
    isotope, _, on = label.partition(" on ")
    if label.endswith(" free"):
        return f"{label.removesuffix(' free')}/free"
    return f"{isotope}/on_ligand" if on else next((n for n in isotopes if label.endswith(n)), "")


def places_of(ids, label):
    """(region, part) of every state of a label."""
    return [tuple(s.split("/")[-2:]) for s in ids.states if s.startswith(f"{label}/")]


@pytest.mark.parametrize("name", each(BY_SCHEDULE, tuple(BY_SCHEDULE)[:1]))
def test_nuclides_cold_ligands_and_daughters_counted_apart_are_those_of_libroadrunner(name):
    """Hot and cold ligand that compete are species there; here each ligand has a total, and nuclides ride on it."""
    make, named = BY_SCHEDULE[name]
    model, given = make(), vials(named)
    found = simulate(model, None, given, TIMES_H, rtol=RTOL)
    ids = sbml.identifiers(model, schedule=given)
    told = {label: told_of(label, [a.nuclide for a in given if a.nuclide]) for label, _ in ids.integrals}
    hot = [label for label in told if told[label]]
    integrals = {(label, r): ids.integrals[label, r] for label in hot for r in model.regions}
    outputs = [*ids.states.values(), *integrals.values()]
    ran = run(sbml.export(model, None, given, integrals=True), [*TIMES_H, found.end_h], outputs)
    amounts = dict(zip(ids.states, ran[:-1, : len(ids.states)].T, strict=True))
    ends = dict(zip(integrals, ran[-1, len(ids.states) :], strict=True))
    assert {n for n in found.label.values if "/" in n} < set(told.values())

    for wanted in dict.fromkeys(told[label] for label in hot):
        isotope = wanted.partition("/")[0]
        mbq, own = nuclide(isotope).mbq_per_nmol, [label for label in hot if told[label] == wanted]
        activity, places = found.activity_mbq.sel(label=wanted), places_of(ids, own[0])
        theirs = np.array([sum(amounts[f"{label}/{r}/{p}"] for label in own) for r, p in places]) * mbq
        tia = found.tia_mbq_h.sel(label=wanted, region=list(model.regions)).values
        ended = np.array([sum(ends[label, r] for label in own) for r in model.regions]) * mbq / 60.0
        floor = FLOOR * sum(a.net_activity_mbq for a in given if a.nuclide in (isotope, PARENTS.get(isotope)))
        _assert_agree_if_any(theirs, np.array([activity.sel(region=r, part=p) for r, p in places]), floor)
        _assert_agree_if_any(ended, tia, floor)
    for ligand in dict.fromkeys(a.ligand for a in given):
        several = ligand in found.label.values
        carrying = [n for n in told if "/" not in told[n] and (not several or n.startswith(f"{ligand} "))]
        ours, places = found.amount_nmol.sel(label=ligand if several else "total"), places_of(ids, carrying[0])
        theirs = [sum(amounts[f"{label}/{r}/{p}"] for label in carrying) for r, p in places]
        _assert_agree(theirs, [ours.sel(region=r, part=p) for r, p in places], FLOOR * sum(a.amount_nmol for a in given))
    if "receptors_away_nmol" in found:
        away = [s for s in ids.states if s.endswith("/away")]
        ours = [found.receptors_away_nmol.sel(region=s.split("/")[1]) for s in away]
        _assert_agree([amounts[s] for s in away], ours, 1e-9)


def _assert_agree_if_any(found, wanted, floor):
    """As `_assert_agree`, also where a short half-life leaves little above the floor; all below it where there is none."""
    above = wanted > floor
    assert above.any() or not wanted.any()
    np.testing.assert_allclose(found[above], wanted[above], rtol=RELATIVE)
    assert np.all(np.abs(found[~above] - wanted[~above]) < floor)


@pytest.mark.parametrize("name", each(MODELS, SHORT))
def test_an_export_reads_back_to_the_same_simulation(name):
    model = MODELS[name]()
    text = sbml.export(model)
    if model.network().productions:  # what is made without being used up is outside the subset
        with pytest.raises(ModelError, match="does not use up"):
            sbml.read(text)
        return
    again = sbml.read(text)
    wanted, found = (simulate(m, None, SCHEDULE, [2.0, 24.0]) for m in (model, again))
    for what in ("amount_nmol", "tia_mbq_h"):
        np.testing.assert_allclose(found[what].reindex_like(wanted[what]), wanted[what], rtol=1e-10, atol=1e-10)
