"""Receptors that come back at a rate: laws, the limit of fast turnover, and what slow turnover costs."""

import libsbml
import numpy as np
import pytest
import roadrunner
from scipy.integrate import solve_ivp

from tdt_core.errors import ModelError
from tdt_core.kinetics import sbml
from tdt_core.kinetics.network import Network, Production, State, Transfer, labelled
from tdt_core.kinetics.pbrpk import pbrpk
from tdt_core.kinetics.sensitivity import sensitivities
from tdt_core.kinetics.simulation import simulate, simulate_batch
from tdt_core.kinetics.symbolic import pattern
from tdt_core.parameters import packaged_csv
from tdt_core.twin import Administration

REFERENCE = pbrpk("psma_reference")
TURNING = REFERENCE.with_options(turnover="explicit")
RATE = "body.receptor_turnover"
TIMES = [0.5, 4.0, 24.0, 72.0]
BINDING = [o.name for o in REFERENCE.organs if o.binds]
ONE = [Administration(0.0, "vial", "PSMA-617", "Lu-177", 7400.0, 110.0)]
FRESH = [*ONE, Administration(30.0, "vial", "PSMA-617", "Lu-177", 3700.0, 60.0, 0.5)]


def furthest(found, wanted, name="activity_mbq"):
    """Largest difference over the largest value."""
    return float(abs(found[name] - wanted[name]).max() / wanted[name].max())


def test_without_the_option_nothing_changes():
    assert REFERENCE.turnover == "none"
    assert REFERENCE.with_options(turnover="none") == REFERENCE
    assert RATE not in REFERENCE.table
    assert not REFERENCE.network().productions
    assert "receptors_away_nmol" not in simulate(REFERENCE, {}, ONE, TIMES, rtol=1e-4)


@pytest.mark.parametrize("schedule", [ONE, FRESH], ids=["hot fraction", "carried label"])
def test_fast_turnover_is_the_model_without_it(schedule):
    """The difference falls as one over the rate, to nothing."""
    wanted = simulate(REFERENCE, {}, schedule, TIMES, rtol=1e-9)
    off = [furthest(simulate(TURNING, {RATE: k}, schedule, TIMES, rtol=1e-9), wanted) for k in (1e1, 1e3, 1e7)]
    assert off[0] < 1e-5
    assert off[1] == pytest.approx(off[0] / 100, rel=0.1)
    assert off[2] < 1e-9


def test_receptors_away_are_the_ligand_inside_where_both_leave_alike():
    """Each ligand inside took one receptor along: with k_turnover = lambda_rel, away = internalised; with neither, for good."""
    for given in ({f"{o}.k_turnover": 2.9e-4 for o in BINDING} | {f"{o}.lambda_rel": 2.9e-4 for o in BINDING}, None):
        given = given or {f"{o}.{q}": 0.0 for o in BINDING for q in ("k_turnover", "lambda_rel")}
        found = simulate(TURNING, given, FRESH, TIMES, rtol=1e-9)
        inside = found.amount_nmol.sel(label="total", part="internalised", region=BINDING)
        away = found.receptors_away_nmol.sel(region=BINDING)
        assert float(away.max()) > 0.5
        assert float(abs(away - inside).max()) < 1e-8 * float(inside.max())


def test_occupied_and_missing_receptors_never_exceed_what_the_organ_has():
    values = TURNING.quantities()
    found = simulate(TURNING, {RATE: 1e-3}, [Administration(0.0, "vial", "A", "Lu-177", 7400.0, 2000.0)], TIMES, rtol=1e-8)
    for organ in BINDING:
        taken = found.amount_nmol.sel(label="total", region=organ, part="bound") + found.receptors_away_nmol.sel(region=organ)
        assert -1e-7 < float(taken.min()) <= float(taken.max()) < float(values[f"{organ}.R0"]) * (1 + 1e-7)
    assert float(found.receptors_away_nmol.drop_sel(region=BINDING).max()) == 0.0
    np.testing.assert_allclose(found.amount_nmol.sel(label="total").sum(["region", "part"]), 2000.0, rtol=1e-10)


def test_slow_turnover_costs_uptake_of_a_saturating_amount_and_none_of_a_trace():
    def uptake(nmol, rates):
        vial = [Administration(0.0, "vial", "A", "Lu-177", 7400.0, nmol)]
        found = simulate_batch(TURNING, {RATE: np.array(rates)}, vial, [1.0], rtol=1e-8)
        return found.tia_mbq_h.sel(label="Lu-177", region="tumour_rest").values

    much, trace = uptake(500.0, [1e3, 6e-3, 1e-4, 0.0]), uptake(1e-6, [1e3, 6e-3, 1e-4, 0.0])
    assert np.all(np.diff(much) < 0)
    assert much[-1] < 0.8 * much[0]
    np.testing.assert_allclose(trace, trace[0], rtol=1e-6)


def test_scaling_amounts_and_receptors_leaves_fractions_alone():
    larger = {"tumour_rest.R0": 39.0, "tumour_rest.volume": float(REFERENCE.quantities()["tumour_rest.volume"])}
    larger |= {f"{o}.R_density": 3 * float(REFERENCE.quantities()[f"{o}.R_density"]) for o in BINDING if o != "tumour_rest"}
    larger |= {"ligand.k_on": 0.046 / 3}
    base = simulate(TURNING, {}, ONE, TIMES, rtol=1e-8)
    scaled = simulate(TURNING, larger, [Administration(0.0, "vial", "PSMA-617", "Lu-177", 7400.0, 330.0)], TIMES, rtol=1e-8)
    assert furthest(scaled, base) < 1e-10
    np.testing.assert_allclose(scaled.receptors_away_nmol, 3 * base.receptors_away_nmol, rtol=1e-8, atol=1e-12)


def test_the_equations_are_solved_as_an_independent_solver_does():
    network = TURNING.network()
    c = network.gather(TURNING.coefficients())[0]
    y = np.zeros(len(network.states))
    y[network.select("ligand", *TURNING.entry)] = 110.0
    slow = solve_ivp(
        lambda _, y: network.derivative(c, y),
        (0, 1440),
        y,
        "Radau",
        jac=lambda _, y: network.jacobian(c, y),
        rtol=1e-8,
        atol=1e-10,
    )
    found = simulate(TURNING, {}, ONE, [24.0], rtol=1e-9)
    for region in BINDING:
        wanted = slow.y[network.select("ligand", region), -1].sum()
        assert float(found.amount_nmol.sel(label="total", region=region).sum()) == pytest.approx(wanted, rel=1e-6)
        away = slow.y[network.select("receptors", region), -1].sum()
        assert float(found.receptors_away_nmol.sel(region=region)[0]) == pytest.approx(away, rel=1e-6)


@pytest.mark.parametrize("schedule", [ONE, FRESH], ids=["hot fraction", "carried label"])
def test_derivatives_agree_with_central_differences(schedule):
    names = [RATE, "tumour_2.R_density", "ligand.lambda_int"]
    got = sensitivities(TURNING, {}, names, schedule, [4.0, 72.0], rtol=1e-9)
    for name in names:
        base = float(TURNING.quantities()[name])
        pair = simulate_batch(TURNING, {name: base * np.exp(1e-4 * np.array([1.0, -1.0]))}, schedule, [4.0, 72.0], rtol=1e-11)
        for value, slope in (
            ("activity_mbq", "activity_slope"),
            ("tia_mbq_h", "tia_slope"),
            ("receptors_away_nmol", "receptors_away_slope"),
        ):
            difference = (pair[value][0] - pair[value][1]) / 2e-4
            scale = np.abs(difference) + 0.01 * np.abs(pair[value][0]) + 0.01
            assert float((np.abs(got[slope].sel(parameter=name) - difference) / scale).max()) < 1e-5, (name, value)


def test_the_export_runs_to_the_same_amounts():
    runner = roadrunner.RoadRunner(sbml.export(TURNING, {RATE: 1e-3}, ONE))
    runner.integrator.relative_tolerance, runner.integrator.absolute_tolerance = 1e-11, 1e-14
    names = sbml.identifiers(TURNING).states
    outputs = [names[f"ligand/{o}/bound"] for o in BINDING] + [names[f"receptors/{o}/away"] for o in BINDING]
    there = np.array(runner.simulate(times=[0.0, 240.0, 1440.0], selections=outputs))[1:]
    found = simulate(TURNING, {RATE: 1e-3}, ONE, [4.0, 24.0], rtol=1e-9)
    bound = found.amount_nmol.sel(label="total", part="bound", region=BINDING).values
    np.testing.assert_allclose(
        there.T, np.concatenate([bound, found.receptors_away_nmol.sel(region=BINDING).values]), rtol=1e-6
    )


@pytest.mark.parametrize("labels", [("ligand",), ("hot", "cold")])
def test_libsbml_has_nothing_to_say_about_the_export_and_our_reader_says_what_it_cannot_take(labels):
    text = sbml.export(TURNING, None, ONE, labels=labels, nuclide="Lu-177")
    document = libsbml.readSBMLFromString(text)
    document.checkConsistency()
    assert [document.getError(i).getMessage() for i in range(document.getNumErrors())] == []
    with pytest.raises(ModelError, match="does not use up"):
        sbml.read(text)


def test_numbers_of_turnover_say_that_they_are_assumed():
    numbers = [row for row in packaged_csv("pbrpk_turnover.csv") if row["name"] == RATE]
    assert [(row["status"], row["distribution"]) for row in numbers] == [("assumed", "lognormal")]
    assert TURNING.parameters[RATE].status == "assumed"


def test_a_production_gives_its_target_and_leaves_its_source():
    a, b = State("x", "r", "a"), State("x", "r", "b")
    network = Network((a, b), (Transfer(b.name, None, "out"),), productions=(Production(a.name, b.name, "made"),))
    np.testing.assert_array_equal(network.derivative(np.array([0.5, 2.0]), np.array([3.0, 4.0])), [0.0, 2.0 * 3.0 - 0.5 * 4.0])
    assert network.coefficients == ("out", "made")
    assert pattern(network).tolist() == [[True, False], [True, True]]
    with pytest.raises(ModelError, match="declared states"):
        Network((a,), (), productions=(Production(a.name, b.name, "made"),))


def test_an_unknown_choice_is_refused():
    with pytest.raises(ModelError, match="one of none, explicit"):
        REFERENCE.with_options(turnover="slow")


def test_a_network_under_another_label_keeps_what_a_flow_leaves_behind():
    base = pbrpk("psma_reference").with_options(turnover="explicit").network()
    values = pbrpk("psma_reference").with_options(turnover="explicit").coefficients()
    named = labelled(base, ("hot",))
    y = np.random.default_rng(1).uniform(0.0, 0.1, len(base.states))
    wanted = base.derivative(base.gather(values)[0], y)
    np.testing.assert_array_equal(named.derivative(named.gather(values)[0], y), wanted)
    assert base.productions
    assert labelled(base, ["hot"]) is named
