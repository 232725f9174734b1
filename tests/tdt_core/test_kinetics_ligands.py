"""Ligands as data: every ligand's model stands, closes and says what is assumed; affinity and amounts act as they must."""

from dataclasses import replace

import numpy as np
import pytest

from tdt_core.errors import InputError, ModelError
from tdt_core.kinetics import ligands as ligand_table
from tdt_core.kinetics import model, simulate
from tdt_core.kinetics.ligands import family, ligand_rules, ligands, nmol_of_ug, receptor_of
from tdt_core.kinetics.pbrpk import TABLES
from tdt_core.nuclides import nuclide
from tdt_core.parameters import packaged_csv
from tdt_core.twin import Administration

HOME = {"PSMA": "psma", "SSTR2": "sstr"}
RTOL = 1e-6
every_ligand = pytest.mark.parametrize("ligand", ligands())
LU = float(nuclide("Lu-177").decay_constant_per_h)
ATOMS = {"C": 12.011, "H": 1.008, "N": 14.007, "O": 15.999, "S": 32.06}


def of(ligand):
    return model(HOME[receptor_of(ligand)]).with_ligand(ligand)


def hours(patient, ligand, amount_nmol, given=None):
    """Region -> time-integrated activity per administered activity (h)."""
    vial = Administration(0.0, "test", ligand, "Lu-177", 7400.0, amount_nmol=amount_nmol)
    tia = simulate(patient, given or {}, [vial], [1.0], rtol=RTOL).tia_mbq_h.sel(label="Lu-177")
    return dict(zip(tia.region.values.tolist(), (tia.values / 7400.0).tolist(), strict=True))


def kidneys(found):
    return found["kidney_left"] + found["kidney_right"]


def test_the_ligands_of_the_field_are_there():
    assert {"PSMA-617", "PSMA-I&T", "PSMA-11", "DCFPyL", "DOTATATE", "DOTATOC"} <= set(ligands())


@every_ligand
def test_a_ligands_model_stands_and_its_time_integrated_activity_is_all_decays(ligand):
    patient = of(ligand).with_lesions({"L1": {"volume": 0.012}})
    assert patient.targets == (receptor_of(ligand),)
    assert {o.receptor for o in patient.organs} == {"", receptor_of(ligand)}
    network = patient.network()
    assert np.all(np.isfinite(network.gather(patient.coefficients())))
    found = hours(patient, ligand, 90.0)
    end = 10 * np.log(2) / LU
    assert sum(found.values()) == pytest.approx(-np.expm1(-LU * end) / LU, rel=1e-6)
    assert min(found.values()) >= 0


@every_ligand
def test_the_rows_of_a_ligand_are_the_parameters_of_its_model(ligand):
    parameters = of(ligand).parameters
    numbers = {r.name: r for r in ligand_rules(ligand) if r.name in parameters}
    assert {"ligand.k_on", "ligand.K_D"} <= set(numbers)
    for name, row in numbers.items():
        shown = parameters[name]
        assert (shown.value, shown.status, shown.source) == (float(row.rule), row.status, row.source)
        assert (shown.distribution, shown.sd) == (row.distribution, row.sd)
    values = of(ligand).quantities()
    assert float(values["ligand.k_off"]) == pytest.approx(float(values["ligand.K_D"]) * float(values["ligand.k_on"]))


@every_ligand
def test_affinity_and_association_of_a_ligand_have_a_spread_and_say_where_it_is_from(ligand):
    rows = {r.name: r for r in ligand_rules(ligand)}
    for name in ("ligand.k_on", "ligand.K_D"):
        assert rows[name].distribution == "lognormal"
        assert rows[name].sd >= 0.7
    assert "Begum 2019" in rows["ligand.k_on"].source
    medians = {"PSMA-617": (0.09, 1.0), "DCFPyL": (0.09, 0.49)}
    if ligand in medians:
        assert (float(rows["ligand.k_on"].rule), float(rows["ligand.K_D"].rule)) == medians[ligand]
        assert "spread" in rows["ligand.K_D"].source


@every_ligand
def test_what_is_assumed_of_a_ligand_is_wide(ligand):
    assumed = [r for r in ligand_rules(ligand) if r.status == "assumed"]
    assert all(r.distribution != "fixed" and r.sd >= 0.7 for r in assumed)
    borrowed = ligand in ("PSMA-I&T", "PSMA-11", "DOTATATE", "DOTATOC")
    assert bool(assumed) == borrowed
    if borrowed:
        parameters = of(ligand).parameters
        assert {parameters[n].status for n in ("ligand.k_on", "ligand.K_D")} == {"assumed"}


def test_every_assumed_row_of_the_model_sstr_shows_as_assumed():
    parameters = model("sstr").parameters
    rows = [r for r in packaged_csv("pbrpk_sstr.csv") if r["status"] == "assumed" and r["name"] in parameters]
    assert len(rows) > 15
    for row in rows:
        assert parameters[row["name"]].status == "assumed"
        assert parameters[row["name"]].value == float(row["rule"])
    for quantity, sd in (("R_density", 1.0), ("lambda_rel", 1.0), ("kPS", 0.5)):
        unknown = [n for n in parameters if n.endswith(f".{quantity}")]
        assert {parameters[n].status for n in unknown} == {"assumed"}, unknown
        assert all(parameters[n].sd >= sd for n in unknown if parameters[n].value > 0)


def test_nothing_of_a_psma_fit_is_left_as_literature_in_the_model_sstr():
    parameters = model("sstr").parameters
    psma = {"ligand.k_on", "ligand.K_D", "ligand.lambda_int", "kidneys.f_exc", "kidneys.phi", "lungs.kPS"}
    assert {parameters[n].status for n in psma} == {"assumed"}


def test_the_model_sstr_has_the_receptors_of_the_literature_and_none_in_glands():
    sstr = model("sstr")
    assert sstr.ligand == "DOTATATE"
    assert {o.name for o in sstr.organs if o.receptor == "SSTR2"} == {
        "tumour_rest", "spleen", "liver", "gi", "kidney_left", "kidney_right", "adrenals", "pituitary", "thyroid"
    }  # fmt: skip
    values = sstr.quantities()
    for organ, nmol in (("spleen", 4.40), ("liver", 7.80), ("thyroid", 0.0108)):
        assert float(values[f"{organ}.R0"]) == nmol
        assert "abstract" in sstr.parameters[f"{organ}.R0"].source
    assert float(values["rest.flow"]) > 0
    assert float(sstr.quantities({"spleen.R_density": 10.0})["spleen.R0"]) == pytest.approx(10 * 0.183)
    woman = sstr.quantities({"body.female": 1.0, "body.weight": 60.0})
    assert float(woman["adrenals.volume"]) == pytest.approx(0.013)


def test_tighter_binding_keeps_more_in_the_kidneys():
    loose, tight = (hours(of(n), n, 90.0) for n in ("PSMA-617", "DCFPyL"))
    assert kidneys(tight) > 1.05 * kidneys(loose)
    sstr = [kidneys(hours(of(n), n, 90.0)) for n in ("DOTATOC", "DOTATATE")]
    assert sstr[1] > 1.05 * sstr[0]


def test_ligand_saturates_the_spleen():
    spleen = [hours(model("sstr"), "DOTATATE", n)["spleen"] for n in (20.0, 60.0, 180.0)]
    assert spleen[0] > 1.1 * spleen[1] > 1.21 * spleen[2]


def test_amino_acids_lower_the_kidneys():
    found = [kidneys(hours(model("sstr"), "DOTATATE", 110.0, {"ligand.reuptake": r})) for r in (1.0, 0.6, 0.0)]
    assert found[0] > found[1] > found[2]
    assert found[0] == pytest.approx(kidneys(hours(model("sstr"), "DOTATATE", 110.0)), rel=1e-9)


def test_k_off_and_K_D_follow_from_what_is_given():
    patient = of("DCFPyL")
    assert float(patient.quantities({"k_off": 0.9})["ligand.K_D"]) == pytest.approx(10.0)
    assert float(patient.quantities({"K_D": 3.0})["ligand.k_off"]) == pytest.approx(0.27)


def test_a_ligand_replaces_the_one_before_it_and_leaves_the_rest():
    plain = model("psma")
    assert plain.with_ligand("DCFPyL").with_ligand("PSMA-617") == plain.with_ligand("PSMA-617") != plain
    changed = plain.with_ligand("DCFPyL").parameters
    same = [n for n, p in plain.parameters.items() if n in changed and changed[n] == p]
    assert len(same) == len(plain.parameters) - 2  # k_on, and k_off gives way to K_D
    recycled = plain.with_options(release="recycled").without("prostate").with_ligand("PSMA-11")
    assert recycled.release == "recycled"
    assert "prostate" not in recycled.regions
    assert hash(recycled) != hash(recycled.with_ligand("DCFPyL"))


@pytest.mark.parametrize(("wrong", "near"), [("dcfpyl", "DCFPyL"), ("PSMA617", "PSMA-617"), ("DOTATAT", "DOTATATE")])
def test_an_unknown_ligand_is_told_with_near_names(wrong, near):
    for use in (model("psma").with_ligand, family, receptor_of):
        with pytest.raises(ModelError) as caught:
            use(wrong)
        assert caught.value.kind == "model.ligand"
        assert wrong in caught.value.found
        assert near in caught.value.expected.partition("near it")[2]


@pytest.mark.parametrize(("name", "ligand"), [("psma", "DOTATATE"), ("sstr", "PSMA-617")])
def test_a_ligand_of_another_receptor_is_refused(name, ligand):
    with pytest.raises(ModelError, match=f"{ligand} binds to {receptor_of(ligand)}") as caught:
        model(name).with_ligand(ligand)
    assert caught.value.kind == "model.ligand"


@pytest.mark.parametrize(
    ("ligand", "atoms"),
    [
        ("DOTATATE", {"C": 65, "H": 90, "N": 14, "O": 19, "S": 2}),
        ("DOTATOC", {"C": 65, "H": 92, "N": 14, "O": 18, "S": 2}),
    ],
)
def test_micrograms_become_nanomoles_by_the_formula(ligand, atoms):
    molar = sum(ATOMS[a] * n for a, n in atoms.items())
    assert nmol_of_ug(ligand, molar) == pytest.approx(1000.0, rel=1e-6)
    assert nmol_of_ug("DOTATATE", 12.3) == pytest.approx(8.568, abs=1e-3)


def test_a_mass_that_is_none_and_a_ligand_without_molar_mass_are_refused():
    with pytest.raises(ModelError, match="molar mass of DCFPyL") as caught:
        nmol_of_ug("DCFPyL", 1.0)
    assert "DOTATATE" in caught.value.expected
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="mass"):
            nmol_of_ug("DOTATATE", wrong)


def test_a_row_that_no_model_has_is_refused(monkeypatch):
    typo = (replace(ligand_rules("DCFPyL")[0], name="ligand.k_onn"),)
    monkeypatch.setattr(ligand_table, "ligand_rules", lambda ligand: typo)
    with pytest.raises(ModelError, match=r"ligand\.k_onn") as caught:
        model("psma").with_ligand("DCFPyL")
    assert caught.value.kind == "model.quantity"


def test_every_row_of_a_ligand_is_one_that_its_model_has():
    assert set(TABLES) >= set(HOME.values())
    for ligand in ligands():
        table = of(ligand).table
        assert all(r.name in table for r in ligand_rules(ligand))
