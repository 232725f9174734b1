"""Several ligands of one receptor in one schedule: one body, competition for its receptors, and each ligand's own rates."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from tdt_core.errors import InputError, ModelError
from tdt_core.kinetics import sbml
from tdt_core.kinetics.pbrpk import SINK, pbrpk
from tdt_core.kinetics.sensitivity import sensitivities
from tdt_core.kinetics.simulation import plan, simulate, simulate_batch
from tdt_core.kinetics.together import together
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration

REFERENCE = pbrpk("psma_reference")
TIMES = [0.5, 1.0, 4.0, 24.0, 72.0]
NUCLIDES = ["Lu-177", "Tb-161", "Y-90", "Ac-225", "Ga-68", "F-18", "Cu-64", "Cu-67", "I-131", "In-111", "Tc-99m", "Pb-212"]
TUMOURS = ["tumour_1", "tumour_2", "tumour_rest"]


def vial(ligand, nmol, time_h=0.0, isotope="Lu-177", mbq=7400.0, duration_h=0.0, residual_mbq=0.0):
    return Administration(time_h, "vial", ligand, isotope, mbq, nmol, duration_h, residual_mbq)


def cold(ligand, nmol, time_h=0.0):
    return Administration(time_h, "cold", ligand, "", 0.0, nmol)


PAIR = [vial("PSMA-11", 5.0, 0.0, "Ga-68", 150.0), vial("PSMA-617", 110.0, 3.0, duration_h=0.5)]


def decay_per_h(name):
    return float(nuclide(name).decay_constant_per_h)


@pytest.mark.parametrize(
    "options", [{}, {"release": "recycled"}, {"plasma_binding": "albumin"}, {"turnover": "explicit"}], ids=str
)
def test_two_ligands_of_equal_parameters_are_one_ligand_with_the_sum(options):
    """Names without rows have the model's parameters; at once, later, slowly, with a residual."""
    body = REFERENCE.with_options(**options)
    later = {"time_h": 20.0, "duration_h": 1.0}
    parts = [
        vial("A", 60.0),
        vial("B", 50.0, mbq=3700.0),
        vial("B", 40.0, **later),
        vial("A", 10.0, residual_mbq=200.0, **later),
    ]
    whole = [
        vial("A", a.amount_nmol, a.time_h, mbq=a.activity_mbq, duration_h=a.duration_h, residual_mbq=a.residual_mbq)
        for a in parts
    ]
    two, one = (simulate(body, {}, given, TIMES, rtol=1e-10) for given in (parts, whole))
    for name in ("amount_nmol", "activity_mbq", "tia_mbq_h"):
        for label in ("total", "Lu-177"):
            found, wanted = two[name].sel(label=label), one[name].sel(label=label)
            assert float(abs(found - wanted).max()) <= 1e-9 * float(wanted.max()), (name, label)
    # and each has its share of the sum where the vials were given at once with equal shares
    apart = simulate(body, {}, parts[:2], TIMES, rtol=1e-10)
    share = apart.amount_nmol.sel(label="A") / apart.amount_nmol.sel(label="total").where(lambda a: a > 1e-9 * 110)
    np.testing.assert_allclose(share.values[np.isfinite(share.values)], 60 / 110, rtol=1e-8)


def test_each_ligands_atoms_are_all_there_and_each_nuclides_decays_add_up():
    found = simulate(REFERENCE, {}, PAIR, [*TIMES, 200.0], rtol=1e-9)
    assert found.label.values.tolist() == ["total", "PSMA-11", "PSMA-617", "Ga-68", "Lu-177"]
    ligand = found.amount_nmol.sum(["region", "part"])
    np.testing.assert_allclose(ligand.sel(label="PSMA-11"), 5.0, rtol=1e-10)
    np.testing.assert_allclose(ligand.sel(label="PSMA-617").values[2:], 110.0, rtol=1e-10)
    np.testing.assert_allclose(ligand.sel(label="total"), ligand.sel(label=["PSMA-11", "PSMA-617"]).sum("label"), rtol=1e-12)
    decays = found.tia_mbq_h.sum("region")
    assert float(decays.sel(label="Ga-68")) == pytest.approx(150.0 / decay_per_h("Ga-68"), rel=1e-9)
    # the infusion decays in the syringe, and the integral ends ten half-lives after it
    lu = decay_per_h("Lu-177")
    entered = 7400.0 * -np.expm1(-lu * 0.5) / (lu * 0.5)
    assert float(decays.sel(label="Lu-177")) == pytest.approx(entered / lu, rel=2e-3)
    assert float(found.amount_nmol.min()) > -1e-9 * 115


def test_labels_of_ligands_hold_their_nuclides_and_a_nuclide_all_its_ligands():
    given = [vial("PSMA-617", 80.0), vial("PSMA-I&T", 60.0, mbq=3000.0), vial("PSMA-617", 10.0, 2.0, "Ga-68", 100.0)]
    found = simulate(REFERENCE, {}, given, TIMES)
    assert found.label.values.tolist() == ["total", "PSMA-617", "PSMA-I&T", "Lu-177", "Ga-68"]
    for name in ("activity_mbq", "tia_mbq_h"):
        by = found[name]
        np.testing.assert_allclose(by.sel(label=["PSMA-617", "PSMA-I&T"]).sum("label"), by.sel(label="total"), rtol=1e-12)
        np.testing.assert_allclose(by.sel(label=["Lu-177", "Ga-68"]).sum("label"), by.sel(label="total"), rtol=1e-12)
    # two ligands of equal parameters: shares of Lu-177 as given
    lu_617 = found.tia_mbq_h.sel(label="PSMA-617").sum() - found.tia_mbq_h.sel(label="Ga-68").sum()
    assert float(lu_617 / found.tia_mbq_h.sel(label="Lu-177").sum()) == pytest.approx(7400 / 10400, rel=1e-9)


def test_ligands_far_apart_in_time_do_not_disturb_each_other():
    early, late = vial("PSMA-11", 5.0, 0.0, "Ga-68", 150.0), vial("PSMA-617", 110.0, 60 * 24.0)
    both = simulate(REFERENCE, {}, [early, late], [60 * 24.0 + t for t in TIMES], rtol=1e-9)
    alone = simulate(REFERENCE.with_ligand("PSMA-617"), {}, [late], [60 * 24.0 + t for t in TIMES], rtol=1e-9)
    first = simulate(REFERENCE.with_ligand("PSMA-11"), {}, [early], [1.0], end_h=200.0, rtol=1e-9)  # to no activity
    for label, wanted in (("Lu-177", alone), ("Ga-68", first)):
        np.testing.assert_allclose(both.tia_mbq_h.sel(label=label), wanted.tia_mbq_h.sel(label=label), rtol=1e-7, atol=1e-9)
    close = simulate(REFERENCE, {}, [cold("PSMA-11", 400.0), vial("PSMA-617", 110.0, 1.0)], [1.0], rtol=1e-9)
    changed = (
        close.tia_mbq_h.sel(label="Lu-177", region=TUMOURS).sum() / alone.tia_mbq_h.sel(label="Lu-177", region=TUMOURS).sum()
    )
    assert float(changed) < 0.9


def test_an_excess_of_one_ligand_displaces_the_other():
    """Uptake of a trace falls with cold ligand of another name, to what it is without receptors."""
    trace = vial("PSMA-11", 0.01, 0.0, "Ga-68", 100.0)
    at = {"region": TUMOURS, "label": "Ga-68"}
    alone = float(simulate(REFERENCE.with_ligand("PSMA-11"), {}, [trace], TIMES).tia_mbq_h.sel(at).sum())
    found = [
        float(simulate(REFERENCE, {}, [trace, cold("PSMA-617", n)], TIMES).tia_mbq_h.sel(at).sum())
        for n in (1.0, 1e2, 1e4, 1e7)
    ]
    assert alone > found[0] > found[1] > found[2] > found[3]
    nothing = simulate(REFERENCE, {"ligand.k_on": 0.0}, [trace], TIMES)
    assert found[3] == pytest.approx(float(nothing.tia_mbq_h.sel(at).sum()), rel=2e-3)


def test_at_equilibrium_both_see_the_same_free_receptors():
    """With nothing excreted or internalised, in each organ B_1 K_1 / I_1 = B_2 K_2 / I_2 = free receptors over volume."""
    given = {"PSMA-11/ligand.K_D": 3.0, "PSMA-617/ligand.K_D": 0.7, "ligand.lambda_int": 0.0, "kidneys.f_exc": 0.0}
    found = simulate(REFERENCE, given, [vial("PSMA-11", 30.0, isotope="Ga-68"), vial("PSMA-617", 60.0)], [1500.0], rtol=1e-9)
    values = together(REFERENCE, ("PSMA-11", "PSMA-617")).quantities(given)
    for organ in (o.name for o in REFERENCE.organs if o.binds):
        there = found.amount_nmol.isel(time_h=0).sel(region=organ)
        bound, outside = there.sel(part="bound"), there.sel(part="interstitial")
        free = float(values[f"{organ}.R0"]) - float(bound.sel(label="total"))
        for ligand, k_d in (("PSMA-11", 3.0), ("PSMA-617", 0.7)):
            seen = (
                float(bound.sel(label=ligand) / outside.sel(label=ligand)) * k_d * float(values[f"{organ}.interstitial_volume"])
            )
            assert seen == pytest.approx(free, rel=1e-6), (organ, ligand)


def test_the_equations_of_two_ligands_are_solved_as_an_independent_solver_does():
    both = together(REFERENCE, ("PSMA-11", "PSMA-617"))
    given = {"PSMA-11/ligand.K_D": 3.0, "PSMA-11/ligand.lambda_int": 2e-3}
    network = both.network()
    c = network.gather(both.coefficients(given))[0]
    y = np.zeros(len(network.states))
    for ligand, nmol in (("PSMA-11", 20.0), ("PSMA-617", 60.0)):
        y[network.select(ligand, *both.entry)] = nmol
    slow = solve_ivp(
        lambda _, y: network.derivative(c, y),
        (0, 240),
        y,
        "Radau",
        jac=lambda _, y: network.jacobian(c, y),
        rtol=1e-8,
        atol=1e-10,
    )
    found = simulate(REFERENCE, given, [vial("PSMA-11", 20.0, isotope="Ga-68"), vial("PSMA-617", 60.0)], [4.0], rtol=1e-9)
    for ligand in both.ligands:
        for region in REFERENCE.regions:
            wanted = slow.y[network.select(ligand, region), -1].sum()
            assert float(found.amount_nmol.sel(label=ligand, region=region).sum()) == pytest.approx(wanted, rel=1e-6, abs=1e-8)


def test_ligands_that_exchange_their_parameters_and_vials_exchange_their_results():
    """Every rate that a ligand can have for itself, so that none is another's."""
    quick = {
        "ligand.k_on": 0.3,
        "ligand.k_off": 0.05,
        "ligand.lambda_int": 4e-3,
        "tumour_2.lambda_rel": 1e-3,
        "tumour_2.kPS": 0.1,
    }
    slow = {
        "ligand.k_on": 0.02,
        "ligand.k_off": 0.5,
        "ligand.lambda_int": 3e-4,
        "tumour_2.lambda_rel": 1e-5,
        "tumour_2.kPS": 2.0,
    }

    def run(first, second):
        given = {f"A/{n}": v for n, v in first[0].items()} | {f"B/{n}": v for n, v in second[0].items()}
        return simulate(REFERENCE, given, [vial("A", first[1]), vial("B", second[1])], TIMES, rtol=1e-9)

    one, other = run((quick, 40.0), (slow, 90.0)), run((slow, 90.0), (quick, 40.0))
    for a, b in (("A", "B"), ("B", "A"), ("total", "total")):
        for name in ("amount_nmol", "tia_mbq_h"):
            found, wanted = other[name].sel(label=b), one[name].sel(label=a)
            assert float(abs(found - wanted).max()) < 1e-8 * float(wanted.max()), (a, name)
    assert float(one.tia_mbq_h.sel(label="A", region="tumour_2") / one.tia_mbq_h.sel(label="B", region="tumour_2")) > 3


@pytest.mark.parametrize("options", [{}, {"turnover": "explicit", "daughters": "followed"}], ids=str)
def test_amounts_stay_physical_over_decades_of_rates_and_amounts(options):
    """k_on over 5 decades, ligand over 8, receptors over 3, turnover over 8, at the default tolerance: no member fails."""
    body, rng, members = REFERENCE.with_options(**options), np.random.default_rng(5), 48
    for _ in range(4):
        first, second = 10.0 ** rng.uniform(-5, 3, 2)
        given = {f"{n}/ligand.k_on": 10.0 ** rng.uniform(-4, 1, members) for n in "AB"}
        given |= {
            "A/ligand.k_off": 10.0 ** rng.uniform(-4, 1, members),
            "tumour_2.R_density": 10.0 ** rng.uniform(0, 3, members),
        }
        if options:
            given["body.receptor_turnover"] = 10.0 ** rng.uniform(-5, 3, members)
        schedule = [
            vial("A", first, isotope="Ac-225", mbq=8.0),
            vial("B", second, rng.uniform(0, 5), duration_h=rng.uniform(0, 2)),
        ]
        found = simulate_batch(body, given, schedule, [0.1, 6.0, 100.0])
        assert not found.failed.any()
        assert float(found.amount_nmol.sel(label=["A", "B"]).min()) >= -1e-5 * (first + second)
        np.testing.assert_allclose(found.amount_nmol.sel(label="A").sum("region"), first, rtol=1e-8)


def test_a_parameter_goes_to_the_ligand_in_front_of_it_before_one_for_all():
    both = together(REFERENCE, ("PSMA-11", "PSMA-617"))
    base, own = (
        both.coefficients(),
        both.coefficients({"PSMA-11/ligand.K_D": 5.0, "ligand.K_D": 2.0, "kidneys.R_density": 20.0}),
    )
    k_on = 0.09
    assert float(own["PSMA-11/ligand.k_off"]) == pytest.approx(5.0 * k_on)
    assert float(own["PSMA-617/ligand.k_off"]) == pytest.approx(2.0 * k_on)
    assert float(own["kidneys.R0"]) == pytest.approx(20 / 14 * float(base["kidneys.R0"]))
    values = both.quantities({"PSMA-11/K_D": 5.0})
    assert "ligand.K_D" not in values
    assert (float(values["PSMA-11/ligand.K_D"]), float(values["PSMA-617/ligand.K_D"])) == (5.0, 1.0)
    assert both.resolve("PSMA-11/K_D") == "PSMA-11/ligand.K_D"


def test_rows_of_the_table_are_each_ligands_own():
    both = together(pbrpk("sstr"), ("DOTATATE", "DOTATOC"))
    assert [float(both.quantities()[f"{n}/ligand.K_D"]) for n in both.ligands] == [2.0, 11.0]
    found = simulate(pbrpk("sstr"), {}, [vial("DOTATATE", 100.0), vial("DOTATOC", 100.0, isotope="Y-90")], [24.0], rtol=1e-6)
    bound = found.amount_nmol.sel(part=["bound", "internalised"]).sum(["part", "region"]).isel(time_h=0)
    assert float(bound.sel(label="DOTATATE")) > float(bound.sel(label="DOTATOC"))


def test_derivatives_of_a_pair_agree_with_central_differences():
    names = [
        "PSMA-11/ligand.K_D",
        "PSMA-617/ligand.k_on",
        "ligand.lambda_int",
        "kidneys.R_density",
        "PSMA-617/kidneys.lambda_rel",
    ]
    got = sensitivities(REFERENCE, {"PSMA-11/ligand.K_D": 3.0}, names, PAIR, [4.0, 24.0], rtol=1e-9)
    values = together(REFERENCE, ("PSMA-11", "PSMA-617")).quantities({"PSMA-11/ligand.K_D": 3.0})
    for name in names:
        at = {"PSMA-11/ligand.K_D": 3.0, name: float(values[name]) * np.exp(1e-4 * np.array([1.0, -1.0]))}
        pair = simulate_batch(REFERENCE, at, PAIR, [4.0, 24.0], rtol=1e-11)
        for quantity, slope in (("activity_mbq", "activity_slope"), ("tia_mbq_h", "tia_slope")):
            difference = (pair[quantity][0] - pair[quantity][1]) / 2e-4
            scale = np.abs(difference) + 0.01 * np.abs(pair[quantity][0]) + 0.01
            assert float((np.abs(got[slope].sel(parameter=name) - difference) / scale).max()) < 1e-5, (name, quantity)


def test_a_members_result_is_that_of_the_patient_alone():
    spread = {"PSMA-11/ligand.K_D": np.array([0.5, 3.0]), "tumour_2.R_density": np.array([10.0, 40.0])}
    batch = simulate_batch(REFERENCE, spread, PAIR, [4.0], rtol=1e-8)
    for i in range(2):
        alone = simulate(REFERENCE, {name: float(v[i]) for name, v in spread.items()}, PAIR, [4.0], rtol=1e-8)
        np.testing.assert_allclose(batch.tia_mbq_h.isel(member=i), alone.tia_mbq_h, rtol=1e-6, atol=1e-6)


def test_cold_ligand_in_the_vial_or_beside_it_is_the_same():
    beside = simulate(REFERENCE, {}, [vial("A", 30.0), cold("A", 80.0)], TIMES, rtol=1e-10)
    inside = simulate(REFERENCE, {}, [vial("A", 110.0)], TIMES, rtol=1e-10)
    assert beside.label.values.tolist() == ["total", "Lu-177"]
    np.testing.assert_allclose(beside.tia_mbq_h, inside.tia_mbq_h, rtol=1e-9)
    np.testing.assert_allclose(
        beside.amount_nmol.sel(label="total"), inside.amount_nmol.sel(label="total"), rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("isotope", NUCLIDES)
def test_every_nuclide_of_the_field_simulates_and_its_decays_add_up(isotope):
    found = simulate(REFERENCE, {}, [vial("PSMA-617", 90.0, isotope=isotope, mbq=100.0)], [1.0], rtol=1e-6)
    wanted = 100.0 / decay_per_h(isotope) * (1 - 2.0**-10)
    assert float(found.tia_mbq_h.sel(label=isotope).sum()) == pytest.approx(wanted, rel=1e-6)
    assert 0 < float(found.tia_mbq_h.sel(label=isotope, region=SINK)) < wanted


def test_one_ligand_is_run_as_before():
    """The model itself, one decay-free solve where one curve tells all shares, a label for each nuclide elsewhere."""
    one = plan(REFERENCE, [vial("PSMA-617", 90.0)], TIMES, None, 1e-6, by_part=True)
    assert (one.model, one.counted, one.labels) == (REFERENCE, (), ())
    own = REFERENCE.network()  # an equal model that was compiled before may have given the object
    assert (one.network.states, one.network.transfers, one.network.pools) == (own.states, own.transfers, own.pools)
    assert one.network.bindings == own.bindings
    fresh = plan(REFERENCE, [vial("PSMA-617", 90.0), vial("PSMA-617", 90.0, 48.0)], TIMES, None, 1e-6, by_part=True)
    assert [c.label for c in fresh.counted] == ["total", "Lu-177"]
    assert fresh.network.states == REFERENCE.network(("total", "Lu-177"), ("total",)).states


@pytest.mark.parametrize(
    ("act", "error", "kind", "words"),
    [
        (
            lambda: simulate(REFERENCE, {"PSMA-11/kidneys.R_density": 20.0}, PAIR, [1.0]),
            ModelError,
            "model.value",
            "kidneys.R0",
        ),
        (
            lambda: simulate(REFERENCE, {"PSMA-11/body.weight": 50.0}, PAIR, [1.0]),
            ModelError,
            "model.value",
            "belong to the patient",
        ),
        (lambda: simulate(REFERENCE, {"DCFPyL/ligand.K_D": 2.0}, PAIR, [1.0]), ModelError, "model.quantity", "schedule"),
        (lambda: simulate(REFERENCE, {"PSMA-11/ligand.K_d": 2.0}, PAIR, [1.0]), ModelError, "model.quantity", "ligand.K_D"),
        (lambda: simulate(REFERENCE, {}, [*PAIR, vial("DOTATATE", 9.0)], [1.0]), ModelError, "model.ligand", "SSTR2"),
        (lambda: simulate(REFERENCE, {}, [cold("A", 9.0)], [1.0]), InputError, "input.schedule", "without activity"),
        (lambda: sbml.export(REFERENCE, {}, PAIR, labels=("ligand",)), ModelError, "model.sbml", "no labels"),
        (lambda: sbml.read(sbml.export(REFERENCE, {}, PAIR)), ModelError, "model.sbml", "PSMA-617 cold"),
        (
            lambda: sensitivities(REFERENCE, {"PSMA-11/ligand.K_D": 3.0}, ["ligand.K_D"], PAIR, [1.0]),
            ModelError,
            "model.sensitivity",
            "PSMA-11/ligand.K_D",
        ),
        (lambda: together(REFERENCE, ("A", "B")).network(("C",)), ModelError, "model.label", "one of A, B"),
    ],
)
def test_what_cannot_be_meant_is_refused(act, error, kind, words):
    with pytest.raises(error) as caught:
        act()
    assert caught.value.kind == kind
    assert words in str(caught.value)
