"""`tdt simulate`: what it writes follows from the model, what it cannot mean is refused, nothing is half-written."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from flows import simulate_page
from flows.cli import main
from tdt_core.kinetics import simulate
from tdt_core.kinetics.pbrpk import pbrpk
from tdt_core.kinetics.population import population
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration

LUTETIUM = ("--ligand", "PSMA-617", "--nuclide", "Lu-177", "--activity-mbq", "7400", "--amount-nmol", "110")
DECAY = float(nuclide("Lu-177").decay_constant_per_h)
END = 10 * math.log(2) / DECAY


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["simulate", *arguments])
    return code, capsys.readouterr().out


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out = called(capsys, *arguments, "--json")
    assert code == 0, out
    return dict(json.loads(out))


def hours(run: dict[str, Any], nuclide: str = "Lu-177") -> dict[str, float]:
    """Region -> h per administered activity."""
    return {r["region"]: r["hours"] for r in run["tia"] if r["nuclide"] == nuclide}


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(line for line in path.read_text().splitlines() if not line.startswith("#")))


# --- what it tells


def test_the_reference_case_has_the_time_integrated_activity_of_the_reference_page(capsys: pytest.CaptureFixture[str]) -> None:
    found = hours(told(capsys, "psma_reference", *LUTETIUM))
    for region, want in (("kidneys", 0.48725), ("tumour_rest", 1.91661), ("liver", 0.42324), ("salivary_glands", 0.27284)):
        assert found[region] == pytest.approx(want, abs=6e-6)
    assert sum(found.values()) == pytest.approx(-math.expm1(-DECAY * END) / DECAY, rel=1e-8)


def test_quantities_lesions_organs_and_release_reach_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    run = told(
        capsys, *LUTETIUM, "--set", "kidney_left.volume=150 mL", "--set", "TER=0.25", "--set", "creatinine = 1.1mg/dL",
        "--lesion", "L1=12.5", "--lesion", "lesion/2.25.7=0.003L,R_density=80,flow_density=300 mL/min/L", "--without", "spleen",
        "--release", "recycled", "--plasma-binding", "free_fraction", "--until", "24", "--patient", "reference",
    )  # fmt: skip
    model = pbrpk("psma").with_ligand("PSMA-617").without("spleen")
    model = model.with_options(release="recycled", plasma_binding="free_fraction")
    model = model.with_lesions({"L1": {"volume": 0.0125}, "2.25.7": {"volume": 0.003}})
    given = {"kidney_left.volume": 0.15, "TER": 0.25, "creatinine": 1.1}
    given |= {"lesion/2.25.7.R_density": 80.0, "lesion/2.25.7.flow_density": 0.3}
    want = simulate(model, given, [Administration(0.0, "x", "PSMA-617", "Lu-177", 7400.0, 110.0)], [24.0])
    tia = want.tia_mbq_h.sel(label="Lu-177") / 7400
    found = hours(run)
    assert list(found) == want.region.values.tolist()
    np.testing.assert_allclose(list(found.values()), tia, rtol=1e-6)
    assert run["lesions_ml"] == pytest.approx({"L1": 12.5, "2.25.7": 3.0})
    assert run["parameters"]["given"] == 5
    assert run["given"]["kidneys.TER"] == 0.25
    assert (run["release"], run["plasma_binding"]) == ("recycled", "free_fraction")
    assert (run["patient"], run["ligand"]) == ("reference", "PSMA-617")


def test_daughters_and_turnover_reach_the_model_and_daughters_are_told_beside_their_parent(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    actinium = ("--ligand", "PSMA-617", "--nuclide", "225Ac", "--activity-mbq", "8", "--amount-nmol", "90", "--times", "24")
    out = tmp_path / "run"
    run = told(capsys, *actinium, "--daughters", "followed", "--turnover", "explicit", "--out", str(out))
    people = population("psma")
    model = people.model.with_ligand("PSMA-617").with_options(daughters="followed", turnover="explicit")
    own = {n: v for n, v in people.typical().items() if not n.startswith("ligand.")}
    want = simulate(model, own, [Administration(0.0, "", "PSMA-617", "Ac-225", 8.0, 90.0)], [24.0])
    for name in ("Ac-225", "Bi-213"):
        np.testing.assert_allclose(list(hours(run, name).values()), want.tia_mbq_h.sel(label=name) / 8.0, rtol=1e-5, atol=1e-9)
    assert (run["daughters"], run["turnover"]) == ("followed", "explicit")
    assert "not what the population was calibrated for: turnover explicit, daughters followed" in run["notes"]
    assert {row["nuclide"] for row in table(out / "activity.csv")} == {"Ac-225", "Bi-213", "Bi-213/on_ligand", "Bi-213/free"}
    assert "Bi-213: every region" in (out / "curves.html").read_text()
    again = told(capsys, *actinium, "--parameters", str(out / "parameters.json"))
    assert again["tia"] == run["tia"]
    assert "Bi-213" not in {row["nuclide"] for row in told(capsys, *actinium)["tia"]}


@pytest.mark.parametrize(("name", "ligand"), [("psma", "PSMA-617"), ("sstr", "DOTATATE")])
def test_the_patient_is_the_typical_one_of_the_calibrated_population(
    capsys: pytest.CaptureFixture[str], name: str, ligand: str
) -> None:
    people = population(name)
    given = people.administration()
    vial = ("--nuclide", "Lu-177", "--activity-mbq", f"{given.activity_mbq:.12g}", "--amount-nmol", f"{given.amount_nmol:.12g}")
    run = told(capsys, name, "--ligand", ligand, *vial)
    want = simulate(people.model, people.typical(), [given], [24.0]).tia_mbq_h.sel(label="Lu-177") / given.activity_mbq
    np.testing.assert_allclose(list(hours(run).values()), want, rtol=1e-6, atol=1e-9)
    assert (run["patient"], run["plasma_binding"], run["given"]) == ("typical", "free_fraction", {})
    assert run["parameters"]["calibrated"] >= len([n for n in people.calibrated if n in people.typical()])
    assert all(n in run["notes"][0] for n in people.calibrated if n in people.typical())
    reference = told(capsys, name, "--ligand", ligand, *vial, "--patient", "reference")
    assert hours(reference)["liver"] != pytest.approx(hours(run)["liver"], rel=0.05)
    assert not any("typical" in n for n in reference["notes"])


def test_what_is_given_of_the_typical_patient_holds_and_what_follows_from_it_follows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def values(*arguments: str) -> dict[str, dict[str, Any]]:
        return {r["name"]: r for r in told(capsys, "--show-parameters", *arguments)["parameters"]}

    plain, lean = values(), values("--set", "kidneys.volume=0.2", "--set", "creatinine=2", "--set", "weight=60")
    assert plain["kidneys.volume"]["value"] == pytest.approx(0.31)
    assert lean["kidney_left.volume"]["value"] == pytest.approx(0.1)
    assert lean["body.eGFR"]["value"] < 0.5 * plain["body.eGFR"]["value"]
    assert lean["kidneys.R_density"] == plain["kidneys.R_density"]
    assert plain["kidneys.R_density"]["status"] == "calibrated"
    assert (lean["body.weight"]["value"], lean["body.weight"]["status"]) == (60.0, "given")
    woman, man = values("sstr", "--set", "female=1"), values("sstr")
    assert woman["liver.volume"]["value"] / man["liver.volume"]["value"] == pytest.approx(1.4 / 1.8)
    assert woman["liver.R_density"] == man["liver.R_density"]
    glands = values("--set", "salivary_glands.R_density=10")
    ratio = plain["lacrimal_left.R_density"]["value"] / plain["salivary_glands.R_density"]["value"]
    assert glands["lacrimal_left.R_density"]["value"] == pytest.approx(10 * ratio)


def test_lesions_of_the_typical_patient_are_like_its_tumours_and_the_others_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("--lesion", "L1=12", "--lesion", "L2=3,R_density=80", "--lesion", "L3=3,R0=0.3")
    rows = {r["name"]: r for r in told(capsys, "--show-parameters", *arguments)["parameters"]}
    for quantity in ("R_density", "flow_density", "lambda_rel"):
        assert rows[f"lesion/L1.{quantity}"]["value"] == rows[f"tumour_rest.{quantity}"]["value"]
    assert rows["lesion/L1.volume"]["value"] == 0.012
    assert rows["lesion/L2.R_density"]["value"] == 80.0
    assert rows["lesion/L3.R_density"]["value"] == pytest.approx(100.0)
    notes = told(capsys, *LUTETIUM, *arguments)["notes"]
    assert any("413 mL of other tumours stay beside the lesions" in n for n in notes)
    notes = told(capsys, *LUTETIUM, *arguments, "--without", "tumour_rest", "--release", "recycled")["notes"]
    assert not any("other tumours" in n for n in notes)
    assert any(n == "not what the population was calibrated for: release recycled" for n in notes)


def test_the_table_for_a_person_counts_the_parameters_and_says_research_use(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = called(capsys, "--product", "Lu-177-PSMA-617", "--set", "TER=0.2", "--patient", "reference")
    assert code == 0
    model = pbrpk("psma").with_ligand("PSMA-617")
    counted = [
        sum(p.status == s and p.name != "kidneys.TER" for p in model.parameters.values()) for s in ("literature", "assumed")
    ]
    assert f"{counted[0]} literature" in out
    assert f"{counted[1]} assumed, 1 given" in out
    assert "Research use only" in out
    assert "7400 MBq Lu-177 PSMA-617 with 90 nmol at 0 h" in out
    found = hours(told(capsys, "--product", "Lu-177-PSMA-617", "--set", "TER=0.2", "--patient", "reference"))["kidney_left"]
    row = next(line for line in out.splitlines() if line.startswith("Left kidney"))
    assert f" {found:.4f} " in row


def test_a_schedule_file_gives_what_the_options_give_and_takes_several(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "schedule.csv"
    path.write_text("# one\ntime_h, product,activity_mbq\n2,Lu-177-PSMA-617,6000\n")
    alone = told(capsys, "--schedule", str(path))
    options = told(capsys, "--product", "Lu-177-PSMA-617", "--activity-mbq", "6000", "--at", "2")
    assert alone["schedule"] == options["schedule"]
    assert alone["tia"] == options["tia"]
    path.write_text(
        "time_h,ligand,nuclide,activity_mbq,amount_nmol,duration_h,residual_mbq\n"
        "0,PSMA-617,Ga-68,150,5,,\n24,PSMA-617,Lu-177,7400,90,0.5,100\n"
    )
    both = told(capsys, "--schedule", str(path))
    gallium = float(nuclide("Ga-68").decay_constant_per_h)
    assert sum(hours(both, "Ga-68").values()) == pytest.approx(1 / gallium, rel=1e-8)
    length = -math.expm1(-DECAY * 0.5) / (DECAY * 0.5)  # of what waits in the syringe, that share decays in the patient
    assert sum(hours(both).values()) == pytest.approx(length / DECAY, rel=2e-3)
    assert both["schedule"][1]["residual_mbq"] == 100


def test_a_model_takes_the_ligand_that_is_given_and_says_what_is_assumed(capsys: pytest.CaptureFixture[str]) -> None:
    vial = ("--nuclide", "Lu-177", "--activity-mbq", "7400", "--amount-nmol", "110")
    runs = {n: told(capsys, "sstr", "--patient", "reference", "--ligand", n, *vial) for n in ("DOTATATE", "DOTATOC")}
    for ligand, run in runs.items():
        want = simulate(
            pbrpk("sstr").with_ligand(ligand), {}, [Administration(0.0, "x", ligand, "Lu-177", 7400.0, 110.0)], [24.0]
        ).tia_mbq_h.sel(label="Lu-177", region="spleen")
        assert hours(run)["spleen"] == pytest.approx(float(want) / 7400, rel=1e-6)
        assert any("assumed" in n and "ligand.K_D" in n for n in run["notes"])
    assert hours(runs["DOTATATE"])["spleen"] > hours(runs["DOTATOC"])["spleen"]
    capsys.readouterr()
    assert main(["simulate", "sstr", *LUTETIUM]) != 0
    assert "PSMA-617 binds to PSMA" in capsys.readouterr().err
    other = ("--nuclide", "F-18", "--activity-mbq", "300", "--amount-nmol", "7", "--show-parameters")
    for patient in ("typical", "reference"):
        rows = {n: told(capsys, "--patient", patient, "--ligand", n, *other)["parameters"] for n in ("DCFPyL", "PSMA-617")}
        values = {n: {r["name"]: r["value"] for r in found} for n, found in rows.items()}
        assert (values["DCFPyL"]["ligand.K_D"], values["PSMA-617"]["ligand.K_D"]) == (0.49, 1.0)
    notes = told(capsys, "--ligand", "DCFPyL", *other[:-1])["notes"]
    assert "not what the population was calibrated for: the ligand DCFPyL" in notes


def test_a_borrowed_ligand_and_a_vial_that_no_chemistry_makes_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    notes = told(capsys, "--ligand", "PSMA-11", "--nuclide", "Ga-68", "--activity-mbq", "150", "--amount-nmol", "5")["notes"]
    assert "assumed, nothing was found for it: ligand.k_on, ligand.K_D; see the status of each parameter" in notes
    notes = told(capsys, "psma_reference", "--ligand", "PSMA-11", *LUTETIUM[2:])["notes"]
    assert "PSMA-11 has no parameters of its own: those of PSMA-617 are used (assumed)" in notes
    notes = told(capsys, *LUTETIUM[:-1], "1", "psma_reference")["notes"]
    assert any("7400 MBq of Lu-177 are 10.2 nmol of it, more than the 1 nmol" in n for n in notes)
    assert any("numerical reference case" in n for n in notes)


def test_a_patient_whom_the_population_does_not_hold_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    notes = " ".join(told(capsys, *LUTETIUM, "--set", "female=1", "--without", "kidney_right")["notes"])
    for words in ("a woman, whose height and weight", "kidney_left alone", "--without prostate"):
        assert words in notes
    notes = " ".join(told(capsys, *LUTETIUM, "--set", "female=1", "--without", "prostate")["notes"])
    assert "a woman, whose height" in notes
    assert "--without prostate" not in notes
    for name in ("psma", "psma_reduced"):
        notes = " ".join(told(capsys, name, *LUTETIUM)["notes"])
        assert "woman" not in notes
        assert "kidney" not in notes.replace("kidneys.R_density", "")


def test_a_nuclide_has_one_name_however_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    run = told(capsys, *LUTETIUM[:2], "--nuclide", "177Lu", *LUTETIUM[4:])
    assert {row["nuclide"] for row in run["tia"]} == {"Lu-177"}
    assert hours(run) == hours(told(capsys, *LUTETIUM))
    assert hours(told(capsys, "--product", "Lu-177-PSMA-617", "--nuclide", "lu177"))["liver"] > 0


def test_parameters_are_printed_with_value_unit_status_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = called(
        capsys, "psma_reference", "--show-parameters", "--set", "kidneys.R_density=20", "--set", "kidneys.GFR=0.1"
    )
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert lines["kidneys.R_density"].split()[1:] == ["20.000", "nmol/L", "given", "given", "by", "hand"]
    assert "given by hand" in lines["kidneys.GFR"]
    assert "literature" in lines["liver.kPS"]
    assert "kidneys.filtered_flow" not in lines  # derived
    rows = told(capsys, "psma_reference", "--show-parameters")["parameters"]
    assert {r["status"] for r in rows} <= {"measured", "literature", "calibrated", "assumed"}
    assert all(r["source"] for r in rows)


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_exported_parameters_are_the_models_to_the_last_bit(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, ending: str
) -> None:
    path = tmp_path / "new folder" / f"parameters.{ending}"
    code, out = called(
        capsys, "--patient", "reference", "--lesion", "L1=4", "--set", "weight=80", "--export-parameters", str(path)
    )
    assert code == 0
    assert str(path) in out
    rows: list[dict[str, Any]] = table(path) if ending == "csv" else json.loads(path.read_text())["quantities"]
    model = pbrpk("psma").with_lesions({"L1": {"volume": 0.004}})
    want = model.quantities({"weight": 80.0})
    assert {r["name"]: float(r["value"]) for r in rows} == {n: float(v) for n, v in want.items()}
    # what is no rule, given back by name, makes the same model
    again = (
        pbrpk("psma")
        .with_lesions({"L1": {"volume": 0.004}})
        .quantities({r["name"]: float(r["value"]) for r in rows if not r["rule"]})
    )
    for name, value in want.items():
        assert float(again[name]) == pytest.approx(float(value), rel=1e-12, abs=1e-15), name
    assert {r["status"] for r in rows if r["name"] == "body.weight"} == {"given"}


PATIENT = (
    "--lesion", "L1=12.5,R_density=80", "--set", "TER=0.21", "--set", "kidneys.volume=250 mL", "--without", "spleen",
    "--release", "recycled", "--set", "weight=80",
)  # fmt: skip


@pytest.mark.parametrize("ending", ["csv", "json"])
@pytest.mark.parametrize("model", [("psma",), ("psma", "--patient", "reference"), ("psma_reference",)])
def test_the_parameters_beside_a_result_make_the_same_result_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, ending: str, model: tuple[str, ...]
) -> None:
    first = told(capsys, *model, *LUTETIUM, *PATIENT, "--out", str(tmp_path / "run"))
    again = told(capsys, model[0], *LUTETIUM, "--parameters", str(tmp_path / "run" / f"parameters.{ending}"))
    for key in ("model", "patient", "release", "plasma_binding", "given", "lesions_ml", "parameters", "notes", "tia"):
        assert again[key] == first[key], key


def test_set_goes_before_a_table_and_a_value_keeps_the_source_that_the_table_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "patient.csv"
    path.write_text(
        "name,value,unit,status,source\nliver.volume,1500,mL,measured,CT of today\nTER,200,mL/min,measured,MAG3\n"
        "lesion/L1.volume,3,mL,measured,CT of today\n"
    )
    run = ("psma", "--parameters", str(path), "--set", "TER=0.25")
    code, out = called(capsys, *run, "--show-parameters")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert lines["liver.volume"].split()[1:] == ["1.5000", "L", "given", "CT", "of", "today"]
    assert lines["kidneys.TER"].split()[1:] == ["0.25000", "L/min", "given", "given", "by", "hand"]
    found = told(capsys, *LUTETIUM, *run)
    assert found["lesions_ml"] == pytest.approx({"L1": 3.0})
    assert found["given"] == pytest.approx({"liver.volume": 1.5, "kidneys.TER": 0.25})


def test_a_table_of_a_patient_lets_what_is_set_beside_it_act(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "typical.json"
    assert main(["simulate", "--export-parameters", str(path)]) == 0
    by_hand = told(capsys, *LUTETIUM, "--set", "creatinine=2", "--set", "weight=60")
    beside = told(capsys, *LUTETIUM, "--set", "creatinine=2", "--set", "weight=60", "--parameters", str(path))
    assert (beside["given"], beside["tia"]) == (by_hand["given"], by_hand["tia"])


def test_a_table_of_another_model_or_of_other_options_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "parameters.json"
    assert main(["simulate", "sstr", "--export-parameters", str(path)]) == 0
    vial = ("--nuclide", "Lu-177", "--activity-mbq", "7400", "--amount-nmol", "110")
    for arguments, words in (
        (("psma",), "made with the model sstr; psma is asked for"),
        (("sstr", "--release", "recycled"), "made with the release lost; recycled is asked for"),
        (("sstr", "--patient", "reference"), "made with the patient typical; reference is asked for"),
        (("sstr", "--ligand", "DOTATOC", *vial), "made with the ligand DOTATATE; DOTATOC is asked for"),
    ):
        code, out = called(capsys, *arguments, "--show-parameters", "--parameters", str(path), "--json")
        error = json.loads(out)["error"]
        assert (code, error["kind"]) == (3, "input.parameters")
        assert words in error["found"]
    assert told(capsys, "sstr", "--show-parameters", "--parameters", str(path))["parameters"]


HEADER = "name,value,unit,status,source\n"


@pytest.mark.parametrize(
    ("name", "text", "kind", "words"),
    [
        ("none.csv", None, "input.parameters", "none.csv"),
        ("table.xlsx", "x", "input.parameters", ".csv or .json"),
        ("table.csv", "name,value\nliver.volume,1\n", "input.parameters", "columns name, value"),
        ("table.csv", f"{HEADER}liver.volum,1,L,assumed,x\n", "model.quantity", "liver.volume"),
        ("table.csv", f"{HEADER}liver.volume,1,kg,assumed,x\n", "input.unit", "liver.volume is given in kg"),
        ("table.csv", f"{HEADER}liver.volume,nan,L,assumed,x\n", "input.value", "liver.volume = 'nan'"),
        ("table.csv", f"{HEADER}lesion/L1.volume,-1,mL,assumed,x\n", "model.value", "lesion/L1.volume"),
        ("table.csv", f"{HEADER}lesion/L1.R_density,9,nmol/L,assumed,x\n", "model.quantity", "L1"),
        ("table.csv", f"# release: kept\n{HEADER}liver.volume,1,L,assumed,x\n", "model.option", "kept"),
        ("table.json", "{}", "input.parameters", "without a list of parameters"),
        ("table.json", '{"without": "appendix", "quantities": []}', "model.organ", "appendix"),
        ("table.json", '{"turnover": "fast", "quantities": []}', "model.option", "fast"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, text: str | None, kind: str, words: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    code, out = called(capsys, "--parameters", str(tmp_path / name), "--show-parameters", "--json")
    error = json.loads(out)["error"]
    assert (code, error["kind"]) == (3, kind)
    assert words in " ".join(error.values())


# --- files


def test_the_files_of_a_run_hold_the_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run 1"
    run = told(capsys, *LUTETIUM, "--times", "24,1,4", "--lesion", "L1=5", "--patient", "reference", "--out", str(out))
    names = ["activity.csv", "tia.csv", "parameters.csv", "parameters.json", "run.json", "curves.html", "curves.svg"]
    assert [Path(f).name for f in run["files"]] == names
    assert {p.name for p in out.iterdir()} == set(names)
    model = pbrpk("psma").with_ligand("PSMA-617").with_lesions({"L1": {"volume": 0.005}})
    schedule = [Administration(0.0, "x", "PSMA-617", "Lu-177", 7400.0, 110.0)]
    want = simulate(model, None, schedule, [1.0, 4.0, 24.0]).activity_mbq.sel(label="Lu-177").sum("part")
    rows = table(out / "activity.csv")
    assert [(r["time_h"], r["nuclide"]) for r in rows] == [("1", "Lu-177"), ("4", "Lu-177"), ("24", "Lu-177")]
    found = [[float(r[f"{region}_mbq"]) for r in rows] for region in model.regions]
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    assert sum(float(v) for v in list(rows[2].values())[2:]) == pytest.approx(7400 * math.exp(-DECAY * 24), rel=1e-6)
    tia = {r["region"]: float(r["tia_per_administered_activity_h"]) for r in table(out / "tia.csv")}
    assert tia == pytest.approx(hours(run), rel=1e-7)
    kept = json.loads((out / "run.json").read_text())
    assert kept["tia"] == run["tia"]
    assert "Research use only" in kept["research_use_only"]


def test_the_page_is_one_file_with_curves_of_every_region_and_no_outside_request(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    called(capsys, *LUTETIUM, "--lesion", "L1=5", "--set", "TER=0.2", "--out", str(tmp_path / "run"))
    page = (tmp_path / "run" / "curves.html").read_text()
    assert page.count("<svg") == 1 + len(pbrpk("psma").regions) + 1
    assert "Research use only" in page
    assert "Lesion L1" in page
    assert "given by hand" in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page


def test_the_page_and_the_picture_say_whose_numbers_they_show(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    called(capsys, *LUTETIUM, "--out", str(tmp_path / "typical"))
    called(capsys, *LUTETIUM, "--patient", "reference", "--out", str(tmp_path / "reference"))
    pages = {p: (tmp_path / p / "curves.html").read_text() for p in ("typical", "reference")}
    assert "medians of a population" in pages["typical"]
    assert "not fitted to cohorts here" in pages["reference"]
    rows = [line for line in pages["typical"].split("<tr>") if ">calibrated<" in line]
    assert {"kidneys.R_density", "blood.free_fraction"} <= {line.split("</td>")[0].rpartition(">")[2] for line in rows}
    for patient in pages:
        picture = (tmp_path / patient / "curves.svg").read_text()
        root = ElementTree.fromstring(picture)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        words = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
        assert f"Simulated activity: psma, {patient} patient" in words
        assert {"Left kidney", "Tumour rest", "MBq", "hours"} <= set(words)
        assert any("calibrated" in str(w) for w in words) == (patient == "typical")
        assert any("Research use only" in str(w) for w in words)
        assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == simulate_page.OVERVIEW
        assert "href" not in picture


def test_no_curve_is_drawn_between_two_cycles_where_there_is_less_than_the_axis_shows() -> None:
    hours = np.array([0.0, 10.0, 20.0, 500.0, 990.0, 1000.0, 1010.0])
    activity = np.array([[0.0, 1e3, 1e2, 1e-9, 1e-12, 1e3, 1e2], [1e2, 1e2, 1e2, 1e2, 1e2, 1e2, 1e2]])
    chart = ElementTree.fromstring(str(simulate_page.overview(hours, activity, ["liver", "spleen"], "of a test")))
    lines = [line.get("points") or "" for line in chart.iter() if line.tag.endswith("polyline")]
    points = [[tuple(map(float, p.split(","))) for p in line.split()] for line in lines]
    first, second, whole = points
    width = whole[-1][0] - whole[0][0]
    assert first[-1][0] - whole[0][0] < 0.2 * width
    assert second[0][0] - whole[0][0] > 0.95 * width
    bottom = first[0][1]
    assert [first[-1][1], second[0][1]] == [bottom, bottom]
    assert all(y < bottom for _, y in [*first[1:-1], *second[1:], *whole])


def test_times_before_the_administration_hold_nothing_and_the_grid_ends_where_it_is_told_to(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told(capsys, *LUTETIUM, "--at", "10", "--times", "0,9.9,10,12", "--out", str(tmp_path / "a"))
    sums = [sum(float(v) for v in list(r.values())[2:]) for r in table(tmp_path / "a" / "activity.csv")]
    assert sums[:2] == [0, 0]
    assert sums[2] == pytest.approx(7400)
    told(capsys, *LUTETIUM, "--until", "48", "--out", str(tmp_path / "b"))
    times = [float(r["time_h"]) for r in table(tmp_path / "b" / "activity.csv")]
    assert times[0] == 0
    assert times[-1] == 48
    assert times == sorted(set(times))


def test_a_run_that_fails_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def broken(_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(simulate_page, "render", broken)
    with pytest.raises(OSError, match="No space"):
        main(["simulate", *LUTETIUM, "--out", str(out)])
    monkeypatch.undo()
    written: list[str] = []
    keep = Path.write_text

    def full(self: Path, *arguments: Any, **options: Any) -> int:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(self.name)
        return keep(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["simulate", *LUTETIUM, "--out", str(out)]) == 1
    monkeypatch.undo()
    assert "no space left" in capsys.readouterr().err
    assert len(written) == 2
    assert list(tmp_path.iterdir()) == []
    assert main(["simulate", *LUTETIUM, "--set", "muscle.volume=50", "--out", str(out)]) == 3
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled_and_one_that_holds_something_is_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert main(["simulate", *LUTETIUM, "--out", str(out)]) == 0
    before = {p: p.read_bytes() for p in out.iterdir()}
    capsys.readouterr()
    assert main(["simulate", *LUTETIUM, "--out", str(out)]) == 2
    assert "output.exists" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in out.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_same_command_writes_the_same_bytes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in "ab":
        assert main(["simulate", *LUTETIUM, "--lesion", "L1=5", "--out", str(tmp_path / name)]) == 0
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


# --- refusals


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ((), "input.schedule", ["no administration", "--product"]),
        (("psma_unheard", *LUTETIUM), "model.name", ["psma_unheard", "psma_reference"]),
        ((*LUTETIUM, "--set", "kidneys.volum=0.3"), "model.quantity", ["kidneys.volum", "kidneys.volume"]),
        ((*LUTETIUM, "--set", "R_density=30"), "model.quantity", ["belongs to", "liver.R_density"]),
        ((*LUTETIUM, "--set", "kidneys.volume"), "input.quantity", ["'kidneys.volume'", "organ.quantity=number"]),
        ((*LUTETIUM, "--set", "kidneys.volume=big"), "input.quantity", ["kidneys.volume=big"]),
        ((*LUTETIUM, "--set", "kidneys.volume=nan"), "input.quantity", ["kidneys.volume=nan"]),
        ((*LUTETIUM, "--set", "kidneys.volume=1e999"), "input.quantity", ["kidneys.volume=1e999"]),
        ((*LUTETIUM, "--set", "kidneys.volume=-0.3"), "model.value", ["kidneys.volume = -0.3 L", "above 0"]),
        ((*LUTETIUM, "--set", "kidneys.volume=300 kg"), "input.unit", ["given in kg", "L, or a unit that converts"]),
        ((*LUTETIUM, "--set", "kidneys.volume=300 ml"), "input.unit", ["kidneys.volume", "'ml'", "mL"]),
        ((*LUTETIUM, "--set", "TER=0.2", "--set", "kidneys.TER=0.3"), "input.quantity", ["kidneys.TER is given twice"]),
        ((*LUTETIUM, "--set", "muscle.volume=50"), "model.value", ["rest.volume", "muscle.volume"]),
        ((*LUTETIUM, "--set", "rest.flow=0.3"), "model.flow", ["arterial_pool takes in", "rest.flow"]),
        ((*LUTETIUM, "--lesion", "L1"), "input.quantity", ["--lesion 'L1'"]),
        ((*LUTETIUM, "--lesion", "L 1/x=3"), "input.lesion", ["'L 1/x'", "letters"]),
        ((*LUTETIUM, "--lesion", "L1=-3"), "input.lesion", ["L1 has -3 mL", "above 0"]),
        ((*LUTETIUM, "--lesion", "L1=12.5,volume=3"), "input.quantity", ["lesion/L1.volume is given twice", "L1=12.5mL"]),
        ((*LUTETIUM, "--set", "kidneys.volume=300"), "model.value", ["rest.volume", "correct kidneys.volume = 300 L (usually"]),
        ((*LUTETIUM, "--set", "hematocrit=37%"), "input.unit", ["'%'", "a number without a unit"]),
        ((*LUTETIUM, "--lesion", "L1=3 g"), "input.unit", ["lesion L1", "given in g"]),
        ((*LUTETIUM, "--lesion", "L1=3,density=4"), "model.quantity", ["lesion/L1.density", "lesion/L1.R_density"]),
        ((*LUTETIUM, "--lesion", "L1=3", "--lesion", "L1=4"), "input.lesion", ["L1 is given twice"]),
        ((*LUTETIUM, "--without", "appendix"), "model.organ", ["no organ appendix", "spleen"]),
        ((*LUTETIUM, "--patient", "mine"), "input.patient", ["'mine'", "typical or reference"]),
        (
            ("psma_reference", *LUTETIUM, "--patient", "typical"),
            "model.name",
            ["no population of 'psma_reference'", "psma, sstr"],
        ),
        ((*LUTETIUM, "--release", "kept"), "model.option", ["'kept'", "recycled"]),
        ((*LUTETIUM, "--plasma-binding", "all"), "model.option", ["'all'", "albumin"]),
        (("--product", "Lu-177-PSMA"), "input.product", ["'Lu-177-PSMA'", "Lu-177-PSMA-617"]),
        (("--product", "Lu-177-PSMA-617", "--nuclide", "Y-90"), "input.product", ["nuclide Y-90", "Lu-177"]),
        (("--product", "Lu-177-DOTATATE"), "model.ligand", ["DOTATATE binds to SSTR2", "PSMA", "take the model sstr"]),
        (("--ligand", "PSMA-617", "--nuclide", "Lu-177"), "input.schedule", ["without activity_mbq, amount_nmol"]),
        ((*LUTETIUM[:2], "--nuclide", "Lu-999", *LUTETIUM[4:]), "input.nuclide", ["Lu-999"]),
        (("--ligand", "water", *LUTETIUM[2:]), "model.ligand", ["'water'", "PSMA-617"]),
        ((*LUTETIUM[:5], "-7400", *LUTETIUM[6:]), "input.activity", ["-7400.0 MBq", "> 0"]),
        ((*LUTETIUM[:7], "0"), "input.activity", ["0.0 nmol"]),
        ((*LUTETIUM, "--residual-mbq", "8000"), "input.activity", ["residual is 8000.0"]),
        ((*LUTETIUM, "--duration-h", "-1"), "input.schedule", ["lasts -1 h"]),
        ((*LUTETIUM, "--at", "nan"), "input.time", ["nan"]),
        ((*LUTETIUM, "--times", "1,two"), "input.time", ["1,two", "commas"]),
        ((*LUTETIUM, "--times", "1,inf"), "input.time", ["1,inf"]),
        ((*LUTETIUM, "--at", "24", "--times", "1,4"), "input.time", ["last of the times is 4 h", "administration 24 h"]),
        ((*LUTETIUM, "--at", "24", "--until", "20"), "input.time", ["end is 20 h", "24 h"]),
        ((*LUTETIUM, "--times", "1", "--until", "20"), "input.time", ["both --times and --until"]),
        ((*LUTETIUM, "--export-parameters", "p.xlsx"), "output.format", ["p.xlsx", ".csv or .json"]),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_was_found_and_what_to_do(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    kind: str,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out = called(capsys, *arguments, "--out", "run", "--json")
    error = json.loads(out)["error"]
    assert (code, error["kind"]) == (2 if kind.startswith("output.") else 3, kind), error
    whole = " ".join(error.values())
    for word in words:
        assert word in whole
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["columns none", "time_h"]),
        ("time,product\n0,Lu-177-PSMA-617\n", ["columns time, product", "time_h"]),
        ("time_h,product,dose\n0,Lu-177-PSMA-617,3\n", ["dose", "activity_mbq"]),
        ("time_h,product\n,Lu-177-PSMA-617\n", ["administration 1", "no time_h"]),
        ("time_h,product\n0,Lu-177-PSMA-617,9\n", ["administration 1", "more cells"]),
        ("time_h,product\n0,Lu-177-PSMA-617\nsoon,Lu-177-PSMA-617\n", ["administration 2", "time_h = 'soon'"]),
        ("time_h,product,activity_mbq\n0,Lu-177-PSMA-617,7.4 GBq\n", ["activity_mbq = '7.4 GBq'", "without a unit"]),
        ("time_h,product,activity_mbq\n0,Lu-177-PSMA-617,-5\n", ["administration 1", "-5.0 MBq"]),
        ("time_h,ligand,nuclide\n0,PSMA-617,Lu-177\n", ["administration 1", "without activity_mbq, amount_nmol"]),
        ("time_h,product\n", ["no administration"]),
    ],
)
def test_a_schedule_that_cannot_be_read_is_refused_with_the_row(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, words: list[str]
) -> None:
    path = tmp_path / "schedule.csv"
    path.write_text(text)
    code, out = called(capsys, "--schedule", str(path), "--json")
    error = json.loads(out)["error"]
    assert code == 3
    assert error["kind"] in ("input.schedule", "input.activity")
    for word in words:
        assert word in " ".join(error.values())


def test_a_schedule_beside_options_or_without_a_file_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "schedule.csv"
    for extra, word in (((), "no schedule"), (LUTETIUM, "--schedule and an administration in options")):
        code, out = called(capsys, "--schedule", str(path), *extra, "--json")
        assert code == 3
        assert word in json.loads(out)["error"]["found"]


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = called(capsys, "--help")
    assert code == 0
    for option in (
        "--patient",
        "--product",
        "--set",
        "--lesion",
        "--release",
        "--turnover",
        "--daughters",
        "--times",
        "--until",
        "--out",
        "--parameters",
        "--show-parameters",
    ):
        assert option in out
