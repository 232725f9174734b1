"""Laws of the solver on the whole-body model: labels, closure, scaling, limits, order, batches, schedules.

Explicit networks of several labels (each nuclide, and cold ligand) are built here and solved as they stand, sinks integrated
with everything else, so that what `simulate` takes for granted (the hot-fraction law, tracers of a total) is tested and not
assumed. scipy (Radau, matrix exponential) on the slow, obvious right-hand side is the independent judge.
"""

import csv
from functools import cache
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from tdt_core.errors import EstimationError, InputError, ModelError, TwinError
from tdt_core.kinetics.network import Network, Transfer
from tdt_core.kinetics.pbrpk import SINK, pbrpk
from tdt_core.kinetics.rosenbrock import FIRST_STEP_MIN, LANES, Course, solve
from tdt_core.kinetics.simulation import simulate, simulate_batch
from tdt_core.kinetics.symbolic import tables
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration

REFERENCE = pbrpk("psma_reference")
RECYCLED = REFERENCE.with_options(release="recycled")
NETWORK = REFERENCE.network()
COEFFICIENTS = NETWORK.gather(REFERENCE.coefficients())
RECEPTORS = {p.name: p.capacity for p in NETWORK.pools}
VEIN = "venous_pool/pool"
DOSE = 110.0  # nmol
DAY = 1440.0  # min
N = len(NETWORK.states)

several = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))


def vial(time_h=0.0, mbq=7400.0, nmol=DOSE, nuclide="Lu-177", duration_h=0.0, residual_mbq=0.0):
    return Administration(time_h, "vial", "PSMA-617", nuclide, mbq, nmol, duration_h, residual_mbq)


def decay_per_h(name):
    return float(nuclide(name).decay_constant_per_h)


def mbq_per_nmol(name):
    return float(nuclide(name).mbq_per_nmol)


# --- explicit solves


@cache
def explicit(model, nuclides):
    """Every nuclide a label that decays to cold ligand in its place; all of them fill receptors. The network and its tables."""
    labels = (*nuclides, "cold")
    base = model.network(labels)
    decays = tuple(
        Transfer(s.name, s.name.replace(s.label, "cold", 1), f"decay/{s.label}") for s in base.states if s.label != "cold"
    )
    network = Network(base.states, base.transfers + decays, base.pools, base.bindings)
    return network, tables(network)


def explicit_values(model, nuclides, overrides=None):
    return {**model.coefficients(overrides), **{f"decay/{n}": decay_per_h(n) / 60.0 for n in nuclides}}


def solved(network, index_tables, coefficients, boluses, output_min, end_min, rtol, grid_min=()):
    """Solve boluses of (min, state, nmol). (members, outputs, n) amounts, (members, n) their integrals, steps."""
    n = len(network.states)
    events = np.array(sorted({t for t, _, _ in boluses} | {end_min} | set(grid_min)))
    bolus = np.zeros((events.size, n))
    for t, name, amount in boluses:
        bolus[np.searchsorted(events, t), index_tables.place[network.index[name]]] += amount
    each = np.arange(n + 1, dtype=np.int32)
    at = index_tables.place.astype(np.int32)
    none = np.zeros(n)
    outputs = np.asarray(output_min, dtype=float)
    course = Course(events, bolus, np.zeros_like(bolus), none, outputs, each, at, each, at, 0.0, 0.0)
    found = solve(index_tables, np.atleast_2d(coefficients), course, rtol, sum(b[2] for b in boluses))
    assert not found.failed.any()
    return found.amounts, found.integrals, found.steps


def explicit_solve(model, schedule, times_h, end_h, rtol):
    """(label, region, time) nmol and (label, region) nmol h of every nuclide and of cold ligand, each label a species."""
    nuclides = tuple(dict.fromkeys(a.nuclide for a in schedule))
    network, index_tables = explicit(model, nuclides)
    boluses = []
    for a in schedule:
        hot = a.activity_mbq / mbq_per_nmol(a.nuclide)
        boluses += [(60 * a.time_h, f"{a.nuclide}/{VEIN}", hot), (60 * a.time_h, f"cold/{VEIN}", a.amount_nmol - hot)]
    c = network.gather(explicit_values(model, nuclides))
    amounts, integrals, _ = solved(network, index_tables, c, boluses, 60 * np.asarray(times_h), 60 * end_h, rtol)
    members = [[network.select(label, region) for region in model.regions] for label in (*nuclides, "cold")]
    by_time = np.array([[amounts[0][:, m].sum(axis=1) for m in row] for row in members])
    return by_time, np.array([[integrals[0, m].sum() / 60 for m in row] for row in members])


@pytest.mark.parametrize("model", [REFERENCE, RECYCLED], ids=["lost", "recycled"])
def test_the_radioactive_share_is_the_injected_one_times_decay_in_every_compartment(model):
    """116 states, hot in every place decays to cold, the sink too. Floor: compartments with over 1e-6 of what was injected."""
    network, index_tables = explicit(model, ("Lu-177",))
    minutes = 60 * np.array([1.0, 4.0, 24.0, 72.0, 168.0, 1595.28])  # the last: ten half-lives
    boluses = [(0.0, f"Lu-177/{VEIN}", 10.0), (0.0, f"cold/{VEIN}", 100.0)]
    c = network.gather(explicit_values(model, ("Lu-177",)))
    amounts, integrals, _ = solved(network, index_tables, c, boluses, minutes, minutes[-1], 1e-10)
    hot, cold = amounts[0][:, :N], amounts[0][:, N:]
    decay = decay_per_h("Lu-177") / 60
    want = np.broadcast_to((10 / DOSE * np.exp(-decay * minutes))[:, None], hot.shape)
    filled = hot + cold > 1e-6 * DOSE
    assert (filled[:3].sum(axis=1) >= 50).all()  # of 58, and later those that hold the ligand
    np.testing.assert_allclose((hot / np.where(filled, hot + cold, 1.0))[filled], want[filled], rtol=1e-8)
    # nothing is lost from the two together, and the hot decays add up with the sink integrated, not left over
    np.testing.assert_allclose(amounts[0].sum(axis=1), DOSE, rtol=1e-12)
    assert integrals[0, :N].sum() == pytest.approx(10 * -np.expm1(-decay * minutes[-1]) / decay, rel=1e-10)


SCHEDULES = {
    "one vial": [vial()],
    "fresh vials": [vial(), vial(48.0, 6000.0, 80.0), vial(300.0, 7400.0, 150.0)],
    "imaging, then therapy": [vial(0.0, 150.0, 10.0, "Ga-68"), vial(24.0)],
    "two nuclides at once": [vial(0.0, 3700.0, 60.0), vial(0.0, 4000.0, 50.0, "Tb-161")],
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_activity_is_that_of_an_explicit_solve_of_every_label_and_cold(schedule):
    """The hot-fraction law for one vial, tracers of the total otherwise; floor 1e-6 of the injected activity."""
    times, end = np.array([1.0, 4.0, 24.5, 72.0, 168.0, 310.0]), 1600.0
    amounts, integrals = explicit_solve(REFERENCE, schedule, times, end, 1e-9)
    found = simulate(REFERENCE, None, schedule, times, end_h=end, rtol=1e-9).sum("part")
    names = dict.fromkeys(a.nuclide for a in schedule)
    for k, name in enumerate(names):
        mbq = mbq_per_nmol(name)
        floor = 1e-6 * sum(a.activity_mbq for a in schedule if a.nuclide == name)
        np.testing.assert_allclose(found.activity_mbq.sel(label=name), amounts[k] * mbq, rtol=1e-7, atol=1e-2 * floor)
        np.testing.assert_allclose(found.tia_mbq_h.sel(label=name), integrals[k] * mbq, rtol=1e-7, atol=1e-3 * floor)
        np.testing.assert_allclose(found.amount_nmol.sel(label=name), found.activity_mbq.sel(label=name) / mbq, rtol=1e-12)
    np.testing.assert_allclose(found.amount_nmol.sel(label="total"), amounts.sum(axis=0), rtol=1e-7, atol=1e-8 * DOSE)
    summed = found.activity_mbq.sel(label=list(names)).sum("label")
    np.testing.assert_allclose(found.activity_mbq.sel(label="total"), summed, rtol=1e-12)


def test_another_nuclide_of_the_same_vial_is_weighed_by_its_own_decay():
    times, end = [2.0, 30.0, 200.0], 1200.0
    lutetium, terbium = (
        simulate(REFERENCE, None, [vial(nuclide=n)], times, end_h=end, rtol=1e-9).sum("part") for n in ("Lu-177", "Tb-161")
    )
    same = [x.amount_nmol.sel(label="total") for x in (terbium, lutetium)]
    np.testing.assert_allclose(*same, rtol=1e-7, atol=1e-9 * DOSE)
    _, integrals = explicit_solve(REFERENCE, [vial(nuclide="Tb-161")], times, end, 1e-9)
    mbq = mbq_per_nmol("Tb-161")
    np.testing.assert_allclose(terbium.tia_mbq_h.sel(label="Tb-161"), integrals[0] * mbq, rtol=1e-8, atol=1e-6)
    ratio = np.exp(-(decay_per_h("Tb-161") - decay_per_h("Lu-177")) * np.array(times))
    want = lutetium.activity_mbq.sel(label="Lu-177").values * ratio
    np.testing.assert_allclose(terbium.activity_mbq.sel(label="Tb-161"), want, rtol=1e-7, atol=1e-9 * 7400)


# --- closure


def decays_mbq_h(a, end_h):
    """Decays of an administration until the end; an infusion enters evenly and what waits decays outside the patient."""
    decay, length = decay_per_h(a.nuclide), a.duration_h
    after = (np.exp(-decay * length) - np.exp(-decay * (end_h - a.time_h))) / decay
    if not length:
        return a.net_activity_mbq * after
    entering = (-np.expm1(-decay * length) / decay - length * np.exp(-decay * length)) / (decay * length)
    return a.net_activity_mbq * (entering + after)


@pytest.mark.parametrize("rtol", [1e-5, 1e-8])  # the defaults of a batch and of one patient
@pytest.mark.parametrize(
    "schedule",
    {
        **SCHEDULES,
        "infusion": [vial(duration_h=4.0)],
        "a residual": [vial(residual_mbq=900.0)],
        "infusions that overlap": [vial(duration_h=6.0), vial(2.0, 3000.0, 20.0, duration_h=10.0)],
        "a bolus into an infusion, later another nuclide": [vial(duration_h=3.0), vial(1.0), vial(50.0, 8.0, 90.0, "Ac-225")],
    }.items(),
    ids=lambda s: s[0],
)  # fmt: skip
def test_time_integrated_activity_of_all_regions_with_the_sink_is_that_of_all_decays(schedule, rtol):
    end = 1600.0
    for model in (REFERENCE, RECYCLED):
        found = simulate(model, None, schedule[1], [10.0], end_h=end, rtol=rtol).tia_mbq_h
        want = sum(decays_mbq_h(a, end) for a in schedule[1])
        assert float(found.sel(label="total").sum()) == pytest.approx(want, rel=0.1 * rtol)
        for name in found.label.values[1:]:
            own = sum(decays_mbq_h(a, end) for a in schedule[1] if a.nuclide == name)
            assert float(found.sel(label=name).sum()) == pytest.approx(own, rel=0.1 * rtol)
        assert float(found.sel(label="total", region=SINK)) > 0.5 * want


def test_ligand_that_was_given_is_in_the_body_or_in_the_sink():
    schedule = [vial(duration_h=4.0), vial(48.0, nmol=60.0, residual_mbq=740.0)]
    found = simulate(REFERENCE, None, schedule, [1.0, 4.0, 20.0, 48.0, 500.0], rtol=1e-6).amount_nmol.sel(label="total")
    np.testing.assert_allclose(found.sum(("region", "part")), [DOSE / 4, DOSE, DOSE, DOSE + 54.0, DOSE + 54.0], rtol=1e-10)


# --- scaling


def scaled(factor):
    """Receptors times a factor, association divided by it; dissociation stays."""
    p = REFERENCE.parameters
    receptors = {n: p.value(n) * factor for n in p if n.endswith((".R_density", ".R0"))}
    return receptors | {"k_on": p.value("ligand.k_on") / factor, "k_off": p.value("ligand.k_off")}


@pytest.mark.parametrize("factor", [2.0, 1 / 1024])
def test_amounts_and_receptors_times_a_power_of_two_give_the_very_same_fractions(factor):
    """A power of two only moves exponents, and the absolute tolerance follows the amount: the same steps, bit by bit."""
    times = [0.5, 24.0, 168.0, 2000.0]
    base = simulate(REFERENCE, None, [vial()], times, rtol=1e-6)
    other = simulate(REFERENCE, scaled(factor), [vial(mbq=7400 * factor, nmol=DOSE * factor)], times, rtol=1e-6)
    assert base.attrs["steps"] == other.attrs["steps"]
    for name in base:
        np.testing.assert_array_equal(other[name], base[name] * factor)


@pytest.mark.parametrize("factor", [3.0, 0.01])
def test_amounts_and_receptors_times_any_factor_give_the_same_fractions_but_for_rounding(factor):
    """Steps differ in their last digits. Floor: 1e-10 of the injected amount; far below, rounding of exponents shows."""
    times = [0.5, 24.0, 168.0]
    base = simulate(REFERENCE, None, [vial()], times, rtol=1e-8)
    other = simulate(REFERENCE, scaled(factor), [vial(mbq=7400 * factor, nmol=DOSE * factor)], times, rtol=1e-8)
    for name, floor in (("amount_nmol", DOSE), ("activity_mbq", 7400.0), ("tia_mbq_h", 7400.0)):
        np.testing.assert_allclose(other[name] / factor, base[name], rtol=1e-10, atol=1e-20 * floor)


# --- the linear limit


def by_state(found, network, label="total"):
    """(n, times) amounts in the order of the network's states."""
    return np.array([found.amount_nmol.sel(label=label, region=s.region, part=s.part).values for s in network.states])


def test_as_the_amount_goes_to_zero_the_solution_is_the_matrix_exponential():
    """Its deviation is proportional to the amount: what is bound no longer hinders. Floor 1e-6 of the dose."""
    linear = NETWORK.jacobian(COEFFICIENTS[0], np.zeros(N))
    injected = np.zeros(N)
    injected[NETWORK.index[f"ligand/{VEIN}"]] = 1.0
    want = expm(linear * DAY) @ injected
    seen = want > 1e-6
    deviation = {}
    for nmol in (1e-2, 1e-4, 1e-6, 1e-9):
        found = by_state(simulate(REFERENCE, None, [vial(0.0, 1.0, nmol)], [24.0], rtol=1e-9), NETWORK)[:, 0] / nmol
        deviation[nmol] = np.abs(found[seen] / want[seen] - 1).max()
    assert deviation[1e-2] == pytest.approx(3.2e-5, rel=0.02)
    assert deviation[1e-4] == pytest.approx(0.01 * deviation[1e-2], rel=0.01)
    assert deviation[1e-6] == pytest.approx(1e-4 * deviation[1e-2], rel=0.2)
    assert deviation[1e-9] < 2e-9  # what is left is the solver's
    # integrals: (M - lambda)^-1 (e^((M - lambda) T) - 1) y0
    decay, end = decay_per_h("Lu-177") / 60, 60 * 500.0
    shifted = linear - decay * np.eye(N)
    integral = np.linalg.solve(shifted, expm(shifted * end) @ injected - injected) / 60
    found = simulate(REFERENCE, None, [vial(0.0, 1.0, 1e-9)], [24.0], end_h=500.0, rtol=1e-9).tia_mbq_h.sel(label="total")
    by_region = [integral[NETWORK.select(region=r)].sum() for r in REFERENCE.regions]
    np.testing.assert_allclose(found, by_region, rtol=1e-8)


TRACE = 1e-9  # nmol: nothing is hindered


def test_traces_superpose_and_a_delay_only_delays():
    times = np.array([1.0, 6.0, 31.0, 100.0])
    starts, amounts = (0.0, 5.0, 30.0), (1.0, 3.0, 0.5)

    def total(schedule, at):
        return simulate(REFERENCE, None, schedule, at, end_h=400.0, rtol=1e-9).amount_nmol.sel(label="total").sum("part")

    together = total([vial(t, 1.0, w * TRACE) for t, w in zip(starts, amounts, strict=True)], times)
    alone = sum(w * total([vial(0.0, 1.0, TRACE)], times - t).values for t, w in zip(starts, amounts, strict=True))
    np.testing.assert_allclose(together, alone, rtol=1e-7, atol=1e-10 * TRACE)


def test_an_infusion_of_a_trace_is_the_mean_of_its_boluses():
    """Midpoint rule over the infusion: the error of n boluses falls as 1/n^2 towards it."""
    length, times = 4.0, [4.0, 10.0, 48.0]
    infused = simulate(REFERENCE, None, [vial(0.0, 1.0, TRACE, duration_h=length)], times, end_h=100.0, rtol=1e-9)
    want = infused.amount_nmol.sel(label="total").sum("part").values
    off = []
    for n in (8, 16):
        starts = (np.arange(n) + 0.5) * length / n
        many = simulate(REFERENCE, None, [vial(t, 1.0, TRACE / n) for t in starts], times, end_h=100.0, rtol=1e-9)
        off.append(np.abs(many.amount_nmol.sel(label="total").sum("part").values / want - 1)[:, 1:].max())
    assert off[1] < 1e-3
    assert np.log2(off[0] / off[1]) == pytest.approx(2.0, abs=0.1)


def test_an_infusion_that_saturates_is_the_limit_of_many_boluses_of_one_vial():
    """One vial in parts: activity decays in the syringe, so a part drawn later is weaker."""
    decay, length, times = decay_per_h("Lu-177"), 10.0, [20.0, 100.0]
    infused = simulate(REFERENCE, None, [vial(duration_h=length)], times, end_h=900.0, rtol=1e-8)
    off = []
    for n in (20, 80):
        starts = (np.arange(n) + 0.5) * length / n
        parts = [vial(t, 7400.0 / n * np.exp(-decay * t), DOSE / n) for t in starts]
        many = simulate(REFERENCE, None, parts, times, end_h=900.0, rtol=1e-8)
        off.append([np.abs(many[k] / infused[k] - 1).max().item() for k in ("activity_mbq", "tia_mbq_h")])
    assert np.max(off[1]) < 1e-4
    assert np.min(np.divide(*off)) > 12  # 16 for an error of second order


@pytest.mark.parametrize("parts", [[(3700.0, 55.0), (3700.0, 55.0)], [(1850.0, 27.5)] * 4])
def test_a_bolus_cut_in_equal_parts_at_one_time_is_the_bolus_bit_by_bit(parts):
    times = [0.0, 1.0, 24.0]
    whole = simulate(REFERENCE, None, [vial()], times, rtol=1e-6)
    cut = simulate(REFERENCE, None, [vial(0.0, *p) for p in parts], times, rtol=1e-6)
    for name in whole:
        np.testing.assert_array_equal(cut[name], whole[name])


def test_a_bolus_cut_in_parts_of_unequal_share_is_the_bolus():
    """Now the nuclide is carried as a tracer: another way to the same activity."""
    times = [0.0, 1.0, 24.0, 200.0]
    whole = simulate(REFERENCE, None, [vial()], times, rtol=1e-9)
    cut = simulate(REFERENCE, None, [vial(0.0, 7000.0, 30.0), vial(0.0, 400.0, 80.0)], times, rtol=1e-9)
    for name, scale in (("amount_nmol", DOSE), ("activity_mbq", 7400.0), ("tia_mbq_h", 7400.0)):
        np.testing.assert_allclose(cut[name], whole[name], rtol=1e-8, atol=1e-9 * scale)


# --- bounds


@given(
    st.floats(-3, 5),
    st.floats(-2, 2),
    st.floats(-2, 3),
    st.sampled_from([1e-5, 1e-8]),
    st.sampled_from(["lost", "recycled"]),
)
@several
def test_no_amount_is_negative_and_no_more_is_bound_than_there_are_receptors(log_nmol, log_density, log_k_on, rtol, release):
    """At the default tolerances, whatever the ligand, the receptors and the association, over five to eight decades."""
    model = REFERENCE if release == "lost" else RECYCLED
    values = {n: v * 10**log_density for n, v in densities().items()} | {"k_on": 0.046 * 10**log_k_on, "k_off": 0.368}
    nmol = 10**log_nmol
    times = np.geomspace(1e-3, 1500.0, 60)
    found = simulate(model, values, [vial(nmol=nmol)], times, rtol=rtol).amount_nmol.sel(label="total")
    assert float(found.min()) >= -rtol * nmol
    quantities = model.quantities(values)
    for organ, capacity in RECEPTORS.items():
        bound = found.sel(region=organ, part="bound")
        assert float(bound.max()) <= float(quantities[capacity]) * (1 + rtol)


def densities():
    p = REFERENCE.parameters
    return {n: p.value(n) for n in p if n.endswith((".R_density", ".R0"))}


# --- accuracy


REFERENCE_CASES = Path(__file__).parents[1] / "oracle" / "data" / "pbrpk_reference_cases.csv"


@pytest.mark.parametrize("case", ["base", "ligand_40", "tumour_rest_65", "release_recycled"])
def test_the_reference_cases_come_out_of_the_solver_at_its_default_tolerance(case):
    """Time-integrated activity to ten half-lives and percent of the injected activity, of every region."""
    lines = [x for x in REFERENCE_CASES.read_text().splitlines() if not x.startswith("#")]
    rows = {r["organ"]: r for r in csv.DictReader(lines) if r["case"] == case}
    hours = [1.0, 4.0, 24.0, 72.0, 168.0]
    model = RECYCLED if case == "release_recycled" else REFERENCE
    values = {"tumour_rest.R0": 65.0} if case == "tumour_rest_65" else None
    schedule = [vial(mbq=100.0, nmol=40.0 if case == "ligand_40" else DOSE)]
    found = simulate(model, values, schedule, hours, end_h=10 * 6.647 * 24).sum("part").sel(label="Lu-177")
    assert list(rows) == found.region.values.tolist()
    np.testing.assert_allclose(found.tia_mbq_h / 100, [float(r["tiac_h"]) for r in rows.values()], rtol=1e-7)
    want = [[float(r[f"pct_ia_{h:.0f}h"]) for h in hours] for r in rows.values()]
    np.testing.assert_allclose(found.activity_mbq, want, rtol=1e-5, atol=1e-8)


def radau(coefficients, nmol, output_min, rtol):
    """(n, outputs) amounts and (regions,) integrals to the last output with the weight of Lu-177's decay, nmol min."""
    at, c = {name: i for i, name in enumerate(NETWORK.coefficients)}, coefficients
    matrix = NETWORK.rate_matrix(c)
    regions = np.array([[s.region == r for s in NETWORK.states] for r in REFERENCE.regions], dtype=float)
    capacity = np.array([c[at[p.capacity]] for p in NETWORK.pools])  # of one label: a pool is filled by one state
    rate = np.array([c[at[b.rate]] for b in NETWORK.bindings])
    source, target = (np.array([NETWORK.index[getattr(b, end)] for b in NETWORK.bindings]) for end in ("source", "target"))
    decay = decay_per_h("Lu-177") / 60

    def derivative(t, y):
        flow = rate * y[source] * (capacity - y[target])
        out = matrix @ y[:N]
        out[source] -= flow
        out[target] += flow
        return np.concatenate([out, np.exp(-decay * t) * (regions @ y[:N])])

    def jacobian(t, y):
        out = np.zeros((y.size, y.size))
        out[:N, :N] = NETWORK.jacobian(c, y[:N])
        out[N:, :N] = np.exp(-decay * t) * regions
        return out

    start = np.zeros(N + len(regions))
    start[NETWORK.index[f"ligand/{VEIN}"]] = nmol
    atol = np.repeat([rtol * 1e-4 * nmol, rtol * 1e-2 * nmol], [N, len(regions)])
    end = output_min[-1]
    found = solve_ivp(derivative, (0, end), start, "Radau", output_min, jac=jacobian, rtol=rtol, atol=atol)
    assert found.success
    return found.y[:N], found.y[N:, -1]


@cache
def reference_day():
    """Amounts at the mesh's midpoints and at one day, to 1e-11."""
    middle = DAY * graded(0.5 + np.arange(100), 100)
    amounts, _ = radau(COEFFICIENTS[0], DOSE, np.append(middle, DAY), 1e-11)
    return amounts[:, :-1], amounts[:, -1]


def graded(i, n):
    """Points from 0 to 1 that resolve the first mixing; halving all steps keeps their ratios."""
    return np.expm1(12 * np.asarray(i) / n) / np.expm1(12)


def fixed_steps(n, middle=False):
    """One day in n given steps. (n states,) amounts, or (n states, 100) within the steps of the mesh of 100.

    Each step lies between two events and is shorter than the solver's first one once rates are multiplied and times divided
    by one factor, which changes nothing; a tolerance that all errors pass lets every step through.
    """
    mesh = DAY * graded(np.arange(n + 1), n)
    squeeze = 1.01 * np.diff(mesh).max() / FIRST_STEP_MIN
    c = COEFFICIENTS * squeeze
    keep = [NETWORK.coefficients.index(name) for name in RECEPTORS.values()]
    c[:, keep] = COEFFICIENTS[:, keep]
    outputs = DAY * graded(0.5 + np.arange(100), 100) if middle else [DAY]
    amounts, _, steps = solved(
        NETWORK, tables(NETWORK), c, [(0.0, f"ligand/{VEIN}", DOSE)],
        np.asarray(outputs) / squeeze, DAY / squeeze, 1e200, mesh / squeeze,
    )  # fmt: skip
    assert steps[0] == n
    return amounts[0].T if middle else amounts[0, 0]


def test_the_method_has_order_four_on_the_whole_model():
    """Halving 100 graded steps thrice; relative error of amounts over 1e-6 of the dose after a day, 1e-5 to 1e-8.

    Below 1e-8 a term of the stiff binding shows that is proportional to the step (order reduction, far under any tolerance
    that is used).
    """
    want = reference_day()[1]
    seen = want > 1e-6 * DOSE
    error = [np.abs(fixed_steps(n)[seen] / want[seen] - 1).max() for n in (100, 200, 400, 800)]
    assert error[0] < 1e-4
    assert min(np.log2(np.divide(error[:-1], error[1:]))) >= 3.8


def test_values_between_steps_have_the_order_of_the_dense_output():
    """Of order 3, so that its own error within a step is h^4 where steps resolve what happens (the first 12 minutes here).

    Later, steps are long beside the binding: about h^3 (order reduction), at 1e-8 of the dose. Steps cut in 1, 3 and 9, so
    that a midpoint stays a midpoint.
    """
    want = reference_day()[0]
    error = [np.abs(fixed_steps(n, middle=True) - want).max(axis=0) for n in (100, 300, 900)]
    orders = [np.log(a.max() / b.max()) / np.log(3) for a, b in ((error[1][:60], error[2][:60]), (error[1], error[2]))]
    assert error[0].max() < 1e-5 * DOSE
    assert orders[0] >= 3.6
    assert orders[1] >= 2.5


def test_the_error_of_an_adaptive_run_stays_below_its_tolerance_and_falls_with_the_fourth_power_of_the_steps():
    want = reference_day()[1]
    seen = want > 1e-6 * DOSE
    error, steps = [], []
    for rtol in (1e-4, 1e-5, 1e-6, 1e-7):
        amounts, _, taken = solved(NETWORK, tables(NETWORK), COEFFICIENTS, [(0.0, f"ligand/{VEIN}", DOSE)], [DAY], DAY, rtol)
        error.append(np.abs(amounts[0, 0][seen] / want[seen] - 1).max())
        steps.append(taken[0])
        assert error[-1] < rtol
    assert np.log(error[0] / error[-1]) / np.log(steps[-1] / steps[0]) >= 3.8
    assert steps[0] < 80


@given(
    st.lists(st.sampled_from(sorted(REFERENCE.parameters)), min_size=3, max_size=8, unique=True),
    st.data(),
    st.floats(-1, 2.5),
)
@settings(several, max_examples=4)
def test_amounts_and_integrals_agree_with_radau_at_any_parameters(names, data, log_nmol):
    table = REFERENCE.parameters
    values = {
        n: min(table.value(n) * data.draw(st.floats(0.6, 1.03), label=n), 1.0 if table[n].unit == "1" else np.inf)
        for n in names
    }
    try:
        coefficients = NETWORK.gather(REFERENCE.coefficients(values))[0]
    except ModelError:
        reject()  # organs that do not fit into the body
    nmol, hours = 10**log_nmol, np.array([0.2, 4.0, 72.0, 700.0])
    amounts, integrals = radau(coefficients, nmol, 60 * hours, 1e-9)
    found = simulate(REFERENCE, values, [vial(nmol=nmol)], hours, end_h=700.0, rtol=1e-9)
    np.testing.assert_allclose(by_state(found, NETWORK), amounts, rtol=1e-6, atol=1e-9 * nmol)
    tia = integrals / 60 / nmol * 7400.0
    np.testing.assert_allclose(found.tia_mbq_h.sel(label="total"), tia, rtol=1e-8, atol=1e-6)


# --- batches


def population(m, seed=5):
    rng = np.random.default_rng(seed)
    spread = {n: v * np.exp(0.5 * rng.standard_normal(m)) for n, v in densities().items()}
    return spread | {"TER": rng.uniform(0.08, 0.3, m), "body.weight": rng.uniform(65, 110, m)}


def of(values, members):
    return {n: v[members] for n, v in values.items()}


TIMES = [1.0, 24.0, 168.0]
VARIABLES = ("amount_nmol", "activity_mbq", "tia_mbq_h")


def batch(values, rtol=1e-7, schedule=None, **options):
    return simulate_batch(REFERENCE, values, schedule or [vial()], TIMES, end_h=1000.0, rtol=rtol, **options)


@pytest.mark.parametrize("schedule", [[vial()], SCHEDULES["imaging, then therapy"]], ids=["one vial", "two nuclides"])
def test_every_member_of_a_batch_is_as_if_alone(schedule):
    """Members side by side share their steps, the smallest that any of them needs: so to the tolerance, not to the bit."""
    m = 2 * LANES + 5
    values = population(m)
    together = batch(values, schedule=schedule)
    assert not together.failed.any()
    for i in (0, 1, LANES - 1, LANES, 2 * LANES, m - 1):
        alone = simulate(REFERENCE, {n: float(v[i]) for n, v in values.items()}, schedule, TIMES, end_h=1000.0, rtol=1e-7)
        one = alone.sum("part")
        for name, scale in zip(VARIABLES, (DOSE, 7400.0, 7400.0), strict=True):
            np.testing.assert_allclose(together[name][i], one[name], rtol=1e-6, atol=1e-9 * scale)


def test_equal_members_are_equal_bit_by_bit_and_as_if_alone():
    values = of(population(1), np.zeros(LANES + 3, dtype=int))
    together, alone = batch(values), batch(of(values, [0]))
    for name in VARIABLES:
        for i in range(LANES + 3):
            np.testing.assert_array_equal(together[name][i], alone[name][0])


def test_the_order_of_members_that_share_their_steps_does_not_matter_to_the_bit_and_elsewhere_to_the_tolerance():
    values, rng = population(2 * LANES), np.random.default_rng(0)
    inside = np.concatenate([rng.permutation(LANES), LANES + rng.permutation(LANES)])
    across = rng.permutation(2 * LANES)
    base = batch(values)
    for name, scale in zip(VARIABLES, (DOSE, 7400.0, 7400.0), strict=True):
        np.testing.assert_array_equal(batch(of(values, inside))[name], base[name][inside])
        np.testing.assert_allclose(batch(of(values, across))[name], base[name][across], rtol=1e-6, atol=1e-9 * scale)


def test_the_number_of_threads_does_not_matter_to_the_bit():
    values, before = population(3 * LANES + 1), numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        one = batch(values)
        numba.set_num_threads(min(2, numba.config.NUMBA_NUM_THREADS))
        two = batch(values)
    finally:
        numba.set_num_threads(before)
    for name in VARIABLES:
        np.testing.assert_array_equal(two[name], one[name])


# each finite, but what leaves the kidneys' receptors is their sum, and that is infinite
BROKEN = {"ligand.k_off": 1.5e308, "kidneys.lambda_int": 1.5e308}


@pytest.mark.parametrize("places", [[0], [LANES - 1], [3, LANES + 2], [LANES + 4]])
def test_a_member_whose_numbers_stop_being_finite_is_reported_and_its_neighbours_are_unharmed(places):
    m = LANES + 5
    values = population(m) | {n: np.full(m, float(REFERENCE.quantities()[n])) for n in BROKEN}
    want = batch(values)
    for name, value in BROKEN.items():
        values[name][places] = value
    found = batch(values)
    assert np.flatnonzero(found.failed).tolist() == places
    well = ~found.failed.values
    for name, scale in zip(VARIABLES, (DOSE, 7400.0, 7400.0), strict=True):
        assert np.isnan(found[name][~well]).all()
        np.testing.assert_allclose(found[name][well], want[name][well], rtol=1e-6, atol=1e-9 * scale)


def test_a_batch_in_which_all_members_fail_says_so_of_each():
    values = population(LANES + 1) | {n: np.full(LANES + 1, v) for n, v in BROKEN.items()}
    found = batch(values)
    assert found.failed.all()
    assert np.isnan(found.tia_mbq_h).all()


def test_one_patient_whose_numbers_stop_being_finite_is_an_error():
    with pytest.raises(EstimationError, match=r"could not follow.*extreme parameters"):
        simulate(REFERENCE, BROKEN, [vial()], TIMES)


# --- schedules


def test_before_the_first_administration_there_is_nothing_and_at_a_bolus_it_is_in():
    schedule = [vial(10.0), vial(58.0, nmol=50.0)]
    found = simulate(REFERENCE, None, schedule, [-5.0, 0.0, 9.999, 10.0, 57.999, 58.0], rtol=1e-6)
    for name in ("amount_nmol", "activity_mbq"):
        assert (found[name].isel(time_h=slice(0, 3)) == 0).all()
    body = found.sel(label="total").sum(("region", "part"))
    np.testing.assert_allclose(body.amount_nmol[3:], [DOSE, DOSE, DOSE + 50], rtol=1e-10)
    kept = 7400 * np.exp(-decay_per_h("Lu-177") * 48.0)
    np.testing.assert_allclose(body.activity_mbq[3:], [7400, kept, kept + 7400], rtol=1e-5)
    vein = found.amount_nmol.sel(label="total", region="venous_pool", part="pool")
    assert float(vein[5] - vein[4]) == pytest.approx(50.0, rel=1e-3)


def test_a_bolus_at_the_very_end_of_the_integrals_is_in():
    schedule = [vial(), vial(24.0, nmol=50.0)]
    found = simulate(REFERENCE, None, schedule, [23.999, 24.0], end_h=24.0, rtol=1e-6)
    later = simulate(REFERENCE, None, schedule, [24.0], end_h=48.0, rtol=1e-6)
    body = found.amount_nmol.sel(label="total").sum(("region", "part"))
    np.testing.assert_allclose(body, [DOSE, DOSE + 50.0], rtol=1e-10)
    np.testing.assert_allclose(found.activity_mbq[..., 1], later.activity_mbq[..., 0], rtol=1e-6, atol=1e-9)


def test_a_shift_of_schedule_and_times_shifts_the_result():
    now = simulate(REFERENCE, None, SCHEDULES["fresh vials"], [1.0, 50.0, 400.0], end_h=900.0, rtol=1e-8)
    schedule = [vial(a.time_h - 700.0, a.activity_mbq, a.amount_nmol) for a in SCHEDULES["fresh vials"]]
    then = simulate(REFERENCE, None, schedule, [-699.0, -650.0, -300.0], end_h=200.0, rtol=1e-8)
    for name, scale in zip(VARIABLES, (DOSE, 7400.0, 7400.0), strict=True):
        np.testing.assert_allclose(then[name], now[name], rtol=1e-7, atol=1e-9 * scale)


def test_two_spellings_of_a_nuclide_are_one_label():
    plain = simulate(REFERENCE, None, SCHEDULES["fresh vials"], [30.0], rtol=1e-6)
    spelled = [
        vial(a.time_h, a.activity_mbq, a.amount_nmol, n)
        for a, n in zip(SCHEDULES["fresh vials"], ("177Lu", "lu 177", "Lu177"), strict=True)
    ]
    found = simulate(REFERENCE, None, spelled, [30.0], rtol=1e-6)
    assert list(found.label.values) == ["total", "Lu-177"]
    for name in VARIABLES:
        np.testing.assert_array_equal(found[name], plain[name])


def test_times_may_come_in_any_order_and_twice():
    given_times = [24.0, 1.0, 168.0, 1.0]
    found = simulate(REFERENCE, None, [vial()], given_times, rtol=1e-6)
    rising = simulate(REFERENCE, None, [vial()], [1.0, 24.0, 168.0], rtol=1e-6)
    np.testing.assert_array_equal(found.time_h, given_times)
    np.testing.assert_array_equal(found.activity_mbq, rising.activity_mbq.values[..., [1, 0, 2, 0]])


def test_output_times_do_not_change_the_steps():
    few, many = (simulate(REFERENCE, None, [vial()], t, rtol=1e-6) for t in ([24.0], np.linspace(0, 168, 200)))
    np.testing.assert_array_equal(few.tia_mbq_h, many.tia_mbq_h)
    assert few.attrs["steps"] == many.attrs["steps"]


def test_integrals_end_where_they_are_told_to_and_else_after_ten_half_lives():
    tail = decay_per_h("Lu-177")
    for options, end in (({}, 10 * np.log(2) / tail), ({"end_h": 30.0}, 30.0)):
        found = simulate(REFERENCE, None, [vial()], [24.0], rtol=1e-6, **options)
        assert found.attrs["end_h"] == pytest.approx(end)
        assert float(found.tia_mbq_h.sel(label="total").sum()) == pytest.approx(7400 * -np.expm1(-tail * end) / tail, rel=1e-6)
    assert simulate(REFERENCE, None, [vial()], [5000.0], rtol=1e-6).attrs["end_h"] == 5000.0


def test_long_after_ten_half_lives_activity_still_decays():
    """From the hot-fraction law, so to full relative precision; an integrated tracer would have drowned in its tolerance."""
    found = simulate(REFERENCE, None, [vial(0.0, 150.0, nuclide="Ga-68")], [1.0, 24.0, 72.0], rtol=1e-8)
    activity = found.activity_mbq.sel(label="Ga-68").sum(("region", "part"))
    np.testing.assert_allclose(activity, 150.0 * np.exp(-decay_per_h("Ga-68") * np.array([1.0, 24.0, 72.0])), rtol=1e-9)


@pytest.mark.parametrize(
    ("schedule", "times", "options", "kind", "words"),
    [
        ([], [1.0], {}, "input.schedule", r"without an administration.*at least one"),
        ([vial(nmol=None)], [1.0], {}, "model.amount", r"at 0 h has no ligand amount.*record the ligand amount"),
        ([vial(duration_h=-1.0)], [1.0], {}, "input.schedule", r"at 0 h lasts -1 h.*infusion"),
        ([vial(duration_h=np.nan)], [1.0], {}, "input.schedule", r"lasts nan h"),
        ([vial(nuclide="Lu-999")], [1.0], {}, None, r"Lu-999"),
        ([vial()], [1.0, np.nan], {}, "input.time", r"times that are not finite"),
        ([vial()], [[1.0]], {}, "input.time", r"not a list"),
        ([vial(5.0)], [1.0], {"end_h": 5.0}, "input.time", r"end is 5 h, the first administration 5 h"),
        ([vial()], [1.0], {"end_h": np.inf}, "input.time", r"end is inf h"),
        ([vial()], [1.0, 48.0], {"end_h": 24.0}, "input.time", r"times up to 48 h.*end at 24 h.*leave these"),
        ([vial()], [1.0], {"rtol": 0.0}, "input.tolerance", r"tolerance of 0"),
        ([vial()], [1.0], {"rtol": np.nan}, "input.tolerance", r"tolerance of nan"),
    ],
)
def test_schedules_and_times_that_cannot_be_meant_are_refused(schedule, times, options, kind, words):
    for run in (simulate, lambda *a, **o: simulate_batch(a[0], {"TER": np.array([0.1, 0.2])}, *a[2:], **o)):
        with pytest.raises(TwinError, match=words) as caught:
            run(REFERENCE, None, schedule, times, **options)
        assert kind is None or caught.value.kind == kind
        assert isinstance(caught.value, InputError) or kind in (None, "model.amount")


def test_one_patient_has_one_set_of_parameters():
    with pytest.raises(ModelError, match=r"2 sets of parameters.*use simulate_batch"):
        simulate(REFERENCE, {"TER": np.array([0.1, 0.2])}, [vial()], [1.0])


def test_a_member_that_needs_endless_steps_is_given_up_alone():
    stiff = np.where(np.arange(LANES + 4) == 5, 1e20, float(REFERENCE.quantities()["muscle.kPS"]))
    found = simulate_batch(REFERENCE, {"muscle.kPS": stiff}, [vial()], [24.0], rtol=1e-4)
    assert np.flatnonzero(found.failed).tolist() == [5]
    alone = simulate_batch(REFERENCE, {}, [vial()], [24.0], rtol=1e-4)
    others = found.tia_mbq_h.isel(member=~found.failed.values)
    np.testing.assert_allclose(others, np.broadcast_to(alone.tia_mbq_h, others.shape), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(("amount", "density", "k_on", "rtol"), [(1e3, 1.0, 2.75, 1e-3), (5.9e4, 1.59, 2.8, 1e-4)])
def test_fast_saturated_binding_never_fills_more_than_its_receptors(amount, density, k_on, rtol):
    """A step that overshoots the receptors would leave the physical branch for good."""
    given = {n: p.value * 10**density for n, p in REFERENCE.parameters.items() if n.endswith((".R_density", ".R0"))}
    given |= {"k_on": 0.046 * 10**k_on, "k_off": 0.368}
    found = simulate(REFERENCE, given, [vial(nmol=amount)], np.geomspace(1e-3, 1500.0, 60), rtol=rtol)
    amounts, values = found.amount_nmol.sel(label="total"), REFERENCE.quantities(given)
    for organ in (o.name for o in REFERENCE.organs if o.binds):
        assert float(amounts.sel(region=organ, part="bound").max()) <= 1.01 * float(values[f"{organ}.R0"])
    assert float(amounts.min()) > -1e-3 * amount
