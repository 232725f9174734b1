"""The whole-body rung: the patient's regions in the place of organs, covariates, agents, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from tdt_core.assimilation import population_prior
from tdt_core.errors import ModelError
from tdt_core.kinetics import covariates_of, log_jacobian_by_differences, rung_for, simulate
from tdt_core.kinetics.population import population
from tdt_core.nuclides.chains import decays_per_parent_decay
from tdt_core.twin import Administration, Evidence, LabResult, Patient, Region

MAN = Patient("P", "male", 68.0, 178.0, 82.0, 0.38)
KNOWN = {"body.female": 0.0, "body.age": 68.0, "body.height": 178.0, "body.weight": 82.0, "blood.creatinine": 1.0}
GIVEN = Administration(0.0, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7400.0, amount_nmol=90.0)
PET = Administration(0.0, "Ga-68-PSMA-11", "PSMA-11", "Ga-68", 160.0, amount_nmol=3.0, intent="imaging")
TIMES = np.array([1.0, 24.0, 72.0, 160.0])


def region(name, organ, volume_ml):
    return Region(name, organ, "", volume_ml=volume_ml, mass_g=volume_ml)


KIDNEYS = (region("kidney_left", "kidneys", 160.0), region("kidney_right", "kidneys", 150.0))
REGIONS = (
    *KIDNEYS,
    region("parotid_left", "parotid_glands", 22.0),
    region("liver", "liver", 1600.0),
    region("lesion/L1", "lesions", 12.0),
    region("red_marrow", "red_marrow", 60.0),
    region("rest", "rest", 60000.0),
)


def whole_body(regions=REGIONS, known=None):
    return rung_for("whole_body", "PSMA-617", regions, KNOWN if known is None else known)


def median(rung):
    return population_prior(rung).mean[None]


def by_name(rung, values):
    return dict(zip([r.name for r in rung.regions], values[0], strict=True))


def test_kidneys_and_glands_are_those_of_the_model_simulated_with_the_same_quantities():
    people = population("psma")
    lesion = {n.rpartition(".")[2]: v for n, v in people.typical().items() if n.startswith("tumour_rest.")}
    model = people.model.without("tumour_rest").with_lesions({"L1": {**lesion, "volume": 0.012}})
    volumes = {"kidney_left.volume": 0.16, "kidney_right.volume": 0.15, "parotid_left.volume": 0.022, "liver.volume": 1.6}
    typical = {n: v for n, v in people.typical(given=KNOWN).items() if not n.startswith("tumour_rest.")}
    simulated = simulate(model, {**typical, **KNOWN, **volumes}, [GIVEN], TIMES)["activity_mbq"].sel(label="total").sum("part")
    rung = whole_body()
    mine = by_name(rung, rung.activity(median(rung), GIVEN, TIMES))
    for name in ("kidney_left", "kidney_right", "parotid_left", "lesion/L1"):
        np.testing.assert_allclose(mine[name], simulated.sel(region=name), rtol=1e-4)


def test_gradients_agree_with_central_differences_of_tight_solves():
    rung = whole_body()
    theta = population_prior(rung).draws(1, np.random.default_rng(3))[0]
    tight = replace(rung, tolerance=1e-9)
    for given in (GIVEN, PET):
        exact = tight.log_jacobian(theta, given, TIMES)
        differences = log_jacobian_by_differences(tight, theta, given, TIMES)
        np.testing.assert_allclose(exact, differences, atol=2e-5 * np.abs(differences).max())


def test_a_lesion_takes_ligand_from_the_kidneys():
    small, large = (
        by_name(r, r.time_integrated_activity(median(r), GIVEN))
        for r in (whole_body((*REGIONS, region("lesion/L2", "lesions", v))) for v in (1.0, 500.0))
    )
    assert large["kidney_left"] < 0.9 * small["kidney_left"]
    assert large["parotid_left"] < 0.9 * small["parotid_left"]


def test_less_ligand_leaves_more_of_the_activity_in_the_glands():
    rung = whole_body()
    less = replace(GIVEN, amount_nmol=20.0)
    full, part = (by_name(rung, rung.time_integrated_activity(median(rung), g)) for g in (GIVEN, less))
    assert part["parotid_left"] > 1.2 * full["parotid_left"]


def test_poorer_kidneys_leave_more_ligand_to_the_organs():
    good, poor = (whole_body(known={**KNOWN, "blood.creatinine": c}) for c in (0.8, 2.0))
    assert poor.parameters["body.eGFR"].value < 0.5 * good.parameters["body.eGFR"].value
    high, low = (by_name(r, r.time_integrated_activity(median(r), GIVEN))["parotid_left"] for r in (poor, good))
    assert high > 1.2 * low


def test_one_segmented_kidney_is_the_only_one():
    two, one = whole_body(), whole_body(REGIONS[1:])
    assert "kidney_left.R_density" not in one.parameters
    after, before = (by_name(r, r.time_integrated_activity(median(r), GIVEN)) for r in (one, two))
    assert after["kidney_right"] > before["kidney_right"]  # it takes all of the filtrate; its receptors set what it keeps
    np.testing.assert_allclose(after["parotid_left"], before["parotid_left"], rtol=0.05)  # the eGFR is the patient's


def test_an_image_without_an_amount_is_taken_as_a_tracer_and_a_therapy_without_one_is_refused():
    rung = whole_body()
    unknown = rung.activity(median(rung), replace(PET, amount_nmol=None), TIMES)
    np.testing.assert_allclose(unknown, rung.activity(median(rung), replace(PET, amount_nmol=3.0), TIMES), rtol=1e-12)
    with pytest.raises(ModelError, match="no ligand amount"):
        rung.activity(median(rung), replace(GIVEN, amount_nmol=None), TIMES)


def test_the_imaging_agent_has_its_own_affinity():
    rung = whole_body()
    as_therapy = replace(PET, ligand="PSMA-617")
    other = replace(PET, ligand="DCFPyL")
    weak, strong = (by_name(rung, rung.activity(median(rung), g, TIMES))["kidney_left"][1] for g in (as_therapy, other))
    assert strong > 1.05 * weak  # K_D 0.49 against 1 nmol/L


def test_regions_without_receptors_keep_their_population_curves():
    rung, curves = whole_body(), rung_for("sum_of_exponentials", "PSMA-617", REGIONS[-2:])
    mine = rung.activity(median(rung), GIVEN, TIMES)[0, -2:]
    np.testing.assert_allclose(mine, curves.activity(median(curves), GIVEN, TIMES)[0], rtol=1e-12)


def test_covariates_take_the_newest_result_that_stands():
    labs = (
        LabResult("creatinine", -400.0, 0.9, "mg/dL"),
        LabResult("creatinine", -20.0, 1.4, "mg/dL"),
        LabResult("creatinine", -10.0, 9.9, "mg/dL", status="entered-in-error"),
        LabResult("creatinine", -5.0, 0.2, "mg/dL", comparator="<"),
        LabResult("egfr", -1.0, 50.0, "mL/min/{1.73_m2}"),
    )
    known = covariates_of(Evidence(1, MAN, (), labs=labs))
    assert known["blood.creatinine"] == 1.4
    assert "body.eGFR" not in known
    assert known["blood.hematocrit"] == 0.38
    only = covariates_of(Evidence(1, MAN, (), labs=labs[-1:]))
    assert only["body.eGFR"] == 50.0


def test_a_region_without_volume_and_a_ligand_of_another_receptor_are_refused():
    with pytest.raises(ModelError, match="volume"):
        whole_body((region("kidney_left", "kidneys", 0.0),)).parameters  # noqa: B018
    rung = whole_body()
    with pytest.raises(ModelError, match="SSTR2"):
        rung.activity(median(rung), replace(PET, ligand="DOTATATE"), TIMES)


def test_a_woman_has_no_prostate_and_her_own_volumes():
    man, woman = whole_body(), whole_body(known={**KNOWN, "body.female": 1.0, "body.weight": 60.0, "body.height": 163.0})
    assert "prostate.kPS" in man.background
    assert "prostate.kPS" not in woman.background
    muscle = [r.background["muscle.male_reference_volume"].value for r in (man, woman)]
    assert muscle[0] == muscle[1]  # what differs follows from the sex
    assert woman.parameters["body.eGFR"].value < man.parameters["body.eGFR"].value


def test_daughters_that_leave_their_ligand_gather_in_the_kidneys():
    rung = whole_body()
    theta = population_prior(rung).draws(3, np.random.default_rng(1))
    actinium = Administration(0.0, "Ac-225-PSMA-617", "PSMA-617", "Ac-225", 8.0, amount_nmol=90.0)
    parent = rung.time_integrated_activity(theta, actinium)
    (name, daughter), *others = rung.daughter_time_integrated_activity(theta, actinium).items()
    assert (name, others) == ("Bi-213", [])
    kidneys, glands = [0, 1], [2]
    assert (daughter[:, kidneys] > 1.05 * parent[:, kidneys]).all()  # more than their own parents make
    assert (daughter[:, glands] < parent[:, glands]).all()  # and less where they leave
    per_parent = decays_per_parent_decay("Ac-225")["Bi-213"]  # a little below 1: astatine has another branch
    np.testing.assert_allclose(daughter[:, 5], per_parent * parent[:, 5], rtol=1e-12)  # marrow has no model: equilibrium
    assert (daughter[:, -1] < parent[:, -1]).all()  # `rest` bears what leaves blood and muscle
    assert rung.daughter_time_integrated_activity(theta, GIVEN) == {}


def test_organs_that_are_one_in_the_model_have_one_rate_and_their_own_densities():
    glands = (*REGIONS, region("submandibular_left", "submandibular_glands", 8.0))
    rung, whole = (rung_for(name, "PSMA-617", glands, KNOWN) for name in ("reduced_body", "whole_body"))
    rates = {"kidney_left.lambda_int", "parotid_left.lambda_int", "lesion/L1.lambda_int"}
    assert {n for n in rung.parameters if n.endswith("lambda_int")} == rates
    assert {n for n in whole.parameters if n.endswith("lambda_int")} > rates
    densities = [{n for n in r.parameters if n.endswith("R_density")} for r in (rung, whole)]
    assert densities[0] == densities[1]
    assert "kidney_left, kidney_right, which are one organ here" in rung.parameters["kidney_left.lambda_int"].source
    assert "one organ" not in whole.parameters["kidney_left.lambda_int"].source

    theta = population_prior(rung).draws(5, np.random.default_rng(3))
    acting = rung._system("PSMA-617").quantities(theta[:, : rung._own])
    for organ, first in (("both_kidneys", "kidney_left"), ("all_salivary_glands", "parotid_left")):
        own = np.exp(theta[:, list(rung.parameters).index(f"{first}.lambda_int")])
        # what is not estimated keeps its typical rate: the glands that were not segmented
        share = acting[f"{organ}.lambda_int"] / own
        if organ == "both_kidneys":
            np.testing.assert_allclose(share, 1.0, rtol=1e-12)
        else:
            np.testing.assert_allclose(acting["submandibular_left.lambda_int"], own, rtol=1e-12)
            assert np.ptp(share) > 0
