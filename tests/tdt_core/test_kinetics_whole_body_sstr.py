"""The whole-body rung of SSTR2 ligands: tubules and receptors of kidneys, agents, curves for the rest, and a fitted patient."""

from dataclasses import replace

import numpy as np
import pytest

from tdt_core.assimilation import assimilate_on, population_prior, rungs_of
from tdt_core.errors import ModelError
from tdt_core.kinetics import covariates_of, log_jacobian_by_differences, rung_for, simulate, uptake_parameter
from tdt_core.kinetics.population import population
from tdt_core.kinetics.whole_body import FORMS, MODEL_OF
from tdt_core.parameters import packaged_csv
from tdt_core.phantom import PhantomSettings, reference_patient
from tdt_core.phantom.region_curves import region_curves
from tdt_core.twin import Administration, ErrorBudget, Evidence, LabResult, Region, RegionActivity

KNOWN = {"body.female": 1.0, "body.age": 52.0, "body.height": 165.0, "body.weight": 68.0, "blood.creatinine": 0.8}
GIVEN = Administration(0.0, "Lu-177-DOTATATE", "DOTATATE", "Lu-177", 7400.0, amount_nmol=110.0)
PET = Administration(0.0, "Ga-68-DOTATATE", "DOTATATE", "Ga-68", 160.0, amount_nmol=15.0, intent="imaging")
TIMES = np.array([1.0, 24.0, 72.0, 160.0])


def region(name, organ, volume_ml):
    return Region(name, organ, "", volume_ml=volume_ml, mass_g=volume_ml)


REGIONS = (
    region("kidney_left", "kidneys", 150.0),
    region("kidney_right", "kidneys", 140.0),
    region("liver", "liver", 1500.0),
    region("spleen", "spleen", 170.0),
    region("lesion/L1", "lesions", 12.0),
    region("parotid_left", "parotid_glands", 20.0),
    region("rest", "rest", 50000.0),
)
IN_MODEL = ("kidney_left", "kidney_right", "spleen", "lesion/L1")
ON_CURVES = ("liver", "parotid_left", "rest")


def rung(name="whole_body", regions=REGIONS, known=KNOWN):
    return rung_for(name, "DOTATATE", regions, known)


def median(model):
    return population_prior(model).mean[None]


def by_name(model, values):
    return dict(zip([r.name for r in model.regions], values[0], strict=True))


def hours(model, given=GIVEN):
    return by_name(model, model.time_integrated_activity(median(model), given))


@pytest.mark.parametrize("name", MODEL_OF.values())
def test_every_estimated_quantity_is_one_of_its_model_and_has_a_spread(name):
    rows = [r for r in packaged_csv("kinetics_whole_body.csv") if r["model"] == name]
    quantities = {q.rpartition(".")[2] for q in population(name).model.table}
    assert {r["quantity"] for r in rows} - {"K_D_albumin"} <= quantities  # of the form with albumin
    assert all(float(r["sd"]) > 0 and r["source"] for r in rows)
    assert len({(r["organ"], r["quantity"]) for r in rows}) == len(rows)


def test_kidneys_spleen_and_lesions_are_those_of_the_model_simulated_with_the_same_quantities():
    people = population("sstr")
    lesion = {n.rpartition(".")[2]: v for n, v in people.typical().items() if n.startswith("tumour_rest.")}
    model = people.model.without("tumour_rest").with_lesions({"L1": {**lesion, "volume": 0.012}})
    volumes = {"kidney_left.volume": 0.15, "kidney_right.volume": 0.14, "liver.volume": 1.5, "spleen.volume": 0.17}
    typical = {n: v for n, v in people.typical(given=KNOWN).items() if not n.startswith("tumour_rest.")}
    simulated = simulate(model, {**typical, **KNOWN, **volumes}, [GIVEN], TIMES)["activity_mbq"].sel(label="total").sum("part")
    mine = by_name(rung(), rung().activity(median(rung()), GIVEN, TIMES))
    for name in IN_MODEL:
        np.testing.assert_allclose(mine[name], simulated.sel(region=name), rtol=1e-4)


def test_regions_that_the_model_does_not_describe_keep_their_population_curves():
    outside = tuple(r for r in REGIONS if r.name in ON_CURVES)
    curves = rung_for("sum_of_exponentials", "DOTATATE", outside)
    whole = by_name(rung(), rung().activity(median(rung()), GIVEN, TIMES))
    alone = by_name(curves, curves.activity(median(curves), GIVEN, TIMES))
    for name in ON_CURVES:
        np.testing.assert_allclose(whole[name], alone[name], rtol=1e-12)


def test_gradients_agree_with_central_differences_of_tight_solves():
    tight = replace(rung(), tolerance=1e-9)
    theta = population_prior(tight).draws(1, np.random.default_rng(3))[0]
    for given in (GIVEN, replace(PET, ligand="DOTATOC")):
        exact = tight.log_jacobian(theta, given, TIMES)
        differences = log_jacobian_by_differences(tight, theta, given, TIMES)
        np.testing.assert_allclose(exact, differences, atol=2e-5 * np.abs(differences).max())


def test_kidneys_without_receptors_hold_what_their_tubules_take_up():
    """Uptake is filtered flow x (1 - f_exc) x reuptake: without receptors late activity follows 1 - f_exc."""
    model = rung()
    names = list(model.parameters)
    few, fewer = (median(model).copy() for _ in range(2))
    for theta, excreted in ((few, 0.990), (fewer, 0.995)):
        for side in ("kidney_left", "kidney_right"):
            theta[0, names.index(f"{side}.R_density")] = np.log(1e-6)
            theta[0, names.index(f"{side}.f_exc")] = np.log(excreted / (1 - excreted))
    late = np.array([72.0, 160.0])  # when their blood and lumen hold nothing any more
    more, less = (by_name(model, model.activity(t, GIVEN, late))["kidney_left"] for t in (few, fewer))
    np.testing.assert_allclose(more / less, 2.0, rtol=0.005)


def test_amino_acids_spare_the_kidneys_and_nothing_else():
    with_them, without = hours(rung()), hours(rung(known={**KNOWN, "ligand.reuptake": 1.0}))
    assert with_them["kidney_left"] < 0.7 * without["kidney_left"]
    for name in ("spleen", "lesion/L1"):
        np.testing.assert_allclose(with_them[name], without[name], rtol=0.02)


def test_another_agent_binds_by_its_own_affinity_and_is_taken_up_by_the_same_tubules():
    model = rung()
    own, weaker = (
        by_name(model, model.activity(median(model), replace(PET, ligand=ligand), TIMES)) for ligand in ("DOTATATE", "DOTATOC")
    )
    assert weaker["spleen"][0] < 0.97 * own["spleen"][0]  # K_D 11 against 2 nmol/L
    np.testing.assert_allclose(weaker["kidney_left"][2:], own["kidney_left"][2:], rtol=0.3)


def test_a_lesion_takes_ligand_from_spleen_and_kidneys_and_more_ligand_saturates_the_spleen():
    large = rung(regions=(*REGIONS, region("lesion/L2", "lesions", 700.0)))
    small, loaded = hours(rung()), hours(large)
    assert loaded["spleen"] < 0.85 * small["spleen"]
    assert loaded["kidney_left"] < 0.85 * small["kidney_left"]
    assert hours(rung(), replace(GIVEN, amount_nmol=330.0))["spleen"] < 0.9 * small["spleen"]


def test_what_decides_on_uptake_is_the_share_excreted_in_kidneys_and_receptors_elsewhere():
    named = {r.name: uptake_parameter(rung(), r.name) for r in REGIONS}
    assert named["kidney_left"] == "kidney_left.f_exc"
    assert named["spleen"] == "spleen.R_density"
    assert named["liver"] == "liver.uptake_per_ml"


@pytest.mark.parametrize("name", FORMS)
def test_every_form_describes_the_same_patient(name):
    found, whole = hours(rung(name)), hours(rung())
    near = {"lumped_body": 0.01, "reduced_body": 0.05, "whole_body": 1e-12, "whole_body_albumin": 0.3}[name]
    for region_name in IN_MODEL:
        np.testing.assert_allclose(found[region_name], whole[region_name], rtol=near)


def scans_of(truth, times, person, egfr):
    """A camera without error, with a budget of a few per cent."""
    budget = ErrorBudget(counts=0.02, calibration=0.02, partial_volume=0.02, segmentation=0.02, registration=0.0)
    data = tuple(
        RegionActivity(r.name, float(t), float(a), float(a), 1.0, budget, f"S{j}", "SPECT", "Lu-177", "cal")
        for r, row in zip(truth.regions, truth.activity(times), strict=True)
        for j, (t, a) in enumerate(zip(times, row, strict=True))
    )
    lab = LabResult("egfr", -1.0, egfr, "mL/min/{1.73_m2}")
    return Evidence(1, person, (truth.administration,), truth.regions, data, (lab,))


@pytest.fixture(scope="module")
def patient():
    """A reference patient, whose kinetics are another system's, and three scans of the first cycle."""
    found = reference_patient(PhantomSettings(seed=503, cycles=2, matrix=64, product="Lu-177-DOTATATE"))
    truth = region_curves(found)
    return truth, scans_of(truth, np.array([6.0, 48.0, 120.0]), found.patient, found.covariates["egfr"])


def descend(evidence):
    return assimilate_on(rungs_of("ladder"), "DOTATATE", evidence, population_prior, n_draws=100)


def test_a_patient_is_fitted_by_the_whole_body(patient):
    truth, evidence = patient
    posterior = descend(evidence)
    assert (posterior.model, posterior.diagnostics["refused"]) == ("whole_body", [])
    model = rung_for("whole_body", "DOTATATE", truth.regions, covariates_of(evidence))
    found = model.time_integrated_activity(posterior.mean[None, : len(model.parameters)], truth.administration)[0]
    organs = np.array([r.organ for r in truth.regions])
    inside = np.isin(organs, ("kidneys", "spleen", "lesions", "liver"))
    np.testing.assert_allclose(found[inside], truth.time_integrated_activity()[inside], rtol=0.06)


def test_a_therapy_without_a_ligand_amount_falls_to_the_curves_and_says_why(patient):
    truth, evidence = patient
    unknown = replace(evidence, administrations=(replace(truth.administration, amount_nmol=None),))
    posterior = descend(unknown)
    assert posterior.model == "sum_of_exponentials"
    (refused,) = posterior.diagnostics["refused"]
    assert "no ligand amount" in refused["reason"]


def test_a_receptor_for_which_nothing_is_estimated_falls_to_the_curves_and_says_why(patient, monkeypatch):
    monkeypatch.delitem(MODEL_OF, "SSTR2")
    older = replace(patient[1].patient, age_y=81.0)  # rungs that were built before are kept
    posterior = descend(replace(patient[1], patient=older))
    assert posterior.model == "sum_of_exponentials"
    assert "estimates nothing for SSTR2" in posterior.diagnostics["refused"][0]["reason"]


def test_a_ligand_of_another_receptor_is_refused():
    with pytest.raises(ModelError, match="PSMA"):
        rung().activity(median(rung()), replace(PET, ligand="PSMA-617"), TIMES)
