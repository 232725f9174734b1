"""Every model of differential equations as SBML, solved by libRoadRunner: the same amounts and time integrals as ours."""

from dataclasses import replace

import numpy as np
import pytest
import roadrunner

from tdt_core.errors import ModelError
from tdt_core.kinetics import sbml
from tdt_core.kinetics.ode_models import ode_models
from tdt_core.kinetics.simulation import simulate
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration

MODELS = ode_models()
OWN = [name for name in MODELS if "," not in name]  # without other options
RELATIVE, FLOOR = 1e-6, 1e-6  # of the injected activity: 1e-4 %
TIMES_H = [0.5, 2.0, 7.0, 24.0, 50.1, 72.0, 168.0, 400.0]
BOLUS = Administration(0.0, "vial", "PSMA-617", "Lu-177", 7400.0, 110.0)
SCHEDULE = [BOLUS, replace(BOLUS, time_h=5.0, activity_mbq=3000.0, amount_nmol=60.0, residual_mbq=200.0, duration_h=1.5)]
RTOL = 1e-9  # of our steps; theirs 1e-11
MBQ_PER_NMOL = nuclide("Lu-177").mbq_per_nmol


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


@pytest.mark.parametrize("name", MODELS)
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


@pytest.mark.parametrize("name", OWN)
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


@pytest.mark.parametrize("name", MODELS)
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
