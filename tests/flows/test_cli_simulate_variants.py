"""`tdt simulate` with forms of the whole-body model: fewer organs, albumin, turnover, daughters, several ligands."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.cli import main
from tdt_core.kinetics import simulate
from tdt_core.kinetics.pbrpk import pbrpk
from tdt_core.kinetics.population import population
from tdt_core.twin import Administration

VIAL = ("--product", "Lu-177-PSMA-617", "--lesion", "L1=12.5")
KIDNEYS = ("kidney_left", "kidney_right")


ACTINIUM = ("--ligand", "PSMA-617", "--nuclide", "Ac-225", "--activity-mbq", "8", "--amount-nmol", "110")
PAIR = """time_h,ligand,nuclide,activity_mbq,amount_nmol,duration_h
0,PSMA-11,Ga-68,150,5,
2,PSMA-11,,0,40,
3,PSMA-617,Lu-177,7400,110,0.5
"""
PAIR_GIVEN = [
    Administration(0.0, "", "PSMA-11", "Ga-68", 150.0, 5.0),
    Administration(2.0, "", "PSMA-11", "", 0.0, 40.0),
    Administration(3.0, "", "PSMA-617", "Lu-177", 7400.0, 110.0, 0.5),
]


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    code = main(["simulate", *arguments, "--json"])
    out = capsys.readouterr().out
    assert code == 0, out
    return dict(json.loads(out))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    code = main(["simulate", *arguments, "--json"])
    assert code == 3
    return capsys.readouterr().out


def tia(run: dict[str, Any], label: str) -> dict[str, float]:
    return {r["region"]: r["tia_mbq_h"] for r in run["tia"] if r["nuclide"] == label}


@pytest.fixture
def pair(tmp_path: Path) -> str:
    path = tmp_path / "pair.csv"
    path.write_text(PAIR)
    return str(path)


def hours(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, float]:
    """Region -> h per administered activity."""
    capsys.readouterr()
    code = main(["simulate", *arguments, "--json"])
    out = capsys.readouterr().out
    assert code == 0, out
    told: dict[str, Any] = json.loads(out)
    return {r["region"]: r["hours"] for r in told["tia"]}


def test_merged_models_tell_the_whole_bodys_typical_patient(capsys: pytest.CaptureFixture[str]) -> None:
    whole = hours(capsys, "psma", *VIAL)
    lumped, reduced = hours(capsys, "psma_lumped", *VIAL), hours(capsys, "psma_reduced", *VIAL)
    kidneys = sum(whole[k] for k in KIDNEYS)
    assert sum(lumped[k] for k in KIDNEYS) == pytest.approx(kidneys, rel=1e-3)
    assert reduced["both_kidneys"] == pytest.approx(kidneys, rel=1e-2)
    for region in ("lesion/L1", "tumour_rest"):
        assert lumped[region] == pytest.approx(whole[region], rel=1e-3)
        assert reduced[region] == pytest.approx(whole[region], rel=5e-3)
    assert sum(reduced.values()) == pytest.approx(sum(whole.values()), rel=1e-7)


def test_quantities_of_organs_that_are_merged_can_be_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    usual = hours(capsys, "psma_reduced", *VIAL)
    more = hours(capsys, "psma_reduced", *VIAL, "--set", "kidney_left.R_density=30", "--out", str(tmp_path / "run"))
    assert more["both_kidneys"] > 1.2 * usual["both_kidneys"]
    assert (tmp_path / "run" / "tia.csv").is_file()


def test_albumin_keeps_ligand_in_blood(capsys: pytest.CaptureFixture[str]) -> None:
    without, with_ = (hours(capsys, m, *VIAL, "--patient", "reference") for m in ("psma", "psma_albumin"))
    assert with_["venous_pool"] > 2 * without["venous_pool"]


# --- turnover and daughters


def test_followed_daughters_are_listed_by_region_on_the_ligand_and_free(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run = told(
        capsys, *ACTINIUM, "--patient", "reference", "--daughters", "followed", "--turnover", "explicit", "--times", "4,24",
        "--set", "Ac-225/Bi-213.leaving=0.7", "--out", str(out),
    )  # fmt: skip
    model = pbrpk("psma").with_ligand("PSMA-617").with_options(daughters="followed", turnover="explicit")
    vial = Administration(0.0, "", "PSMA-617", "Ac-225", 8.0, 110.0)
    want = simulate(model, {"Ac-225/Bi-213.leaving": 0.7}, [vial], [4.0, 24.0])
    for label in ("Ac-225", "Bi-213", "Bi-213/on_ligand", "Bi-213/free"):
        np.testing.assert_allclose(list(tia(run, label).values()), want.tia_mbq_h.sel(label=label), rtol=1e-6)
    assert (run["turnover"], run["daughters"]) == ("explicit", "followed")
    assert list(dict.fromkeys(r["nuclide"] for r in run["tia"])) == ["Ac-225", "Bi-213", "Bi-213/on_ligand", "Bi-213/free"]
    kidney = next(r for r in run["tia"] if (r["nuclide"], r["region"]) == ("Bi-213/free", "kidney_left"))
    assert kidney["hours"] == pytest.approx(kidney["tia_mbq_h"] / 8.0)
    assert kidney["share"] == pytest.approx(kidney["tia_mbq_h"] / sum(tia(run, "Bi-213").values()))

    rows = list(csv.DictReader((out / "activity.csv").read_text().splitlines()))
    assert len(rows) == 2 * 4
    at = {(float(r["time_h"]), r["nuclide"]): float(r["liver_mbq"]) for r in rows}
    liver = want.activity_mbq.sel(region="liver").sum("part")
    for (time_h, label), value in at.items():
        assert value == pytest.approx(float(liver.sel(label=label, time_h=time_h)), rel=1e-5)
    assert at[24.0, "Bi-213"] == pytest.approx(at[24.0, "Bi-213/on_ligand"] + at[24.0, "Bi-213/free"], rel=1e-6)
    assert {r["nuclide"] for r in csv.DictReader((out / "tia.csv").read_text().splitlines())} >= {"Bi-213/free"}
    page = (out / "curves.html").read_text()
    assert "Bi-213: time-integrated activity" in page
    assert "on ligand, MBq h" in page
    assert "<dt>Daughters</dt><dd>followed</dd>" in page

    capsys.readouterr()
    assert main(["simulate", *ACTINIUM, "--daughters", "followed"]) == 0
    words = capsys.readouterr().out
    assert "free, MBq h" in words
    assert "of a daughter, of its parent's" in words


def test_notes_say_what_of_daughters_is_followed_assumed_or_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert any("Bi-213 of Ac-225 is counted where its parent decays" in n for n in told(capsys, *ACTINIUM)["notes"])
    notes = told(capsys, *ACTINIUM, "--daughters", "followed", "--turnover", "explicit")["notes"]
    assert any("assumed: Bi.retained, Bi.kidney_extraction, Bi.urine_extraction" in n for n in notes)
    assert any("turnover explicit, daughters followed" in n for n in notes)
    notes = told(capsys, *VIAL, "--daughters", "followed")["notes"]
    assert any("none of Lu-177" in n for n in notes)
    assert "daughters is 'yes'" in refused(capsys, *ACTINIUM, "--daughters", "yes")


def test_options_of_a_table_of_parameters_make_the_same_run_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = (
        "--daughters",
        "followed",
        "--turnover",
        "explicit",
        "--set",
        "receptor_turnover=0.001",
        "--set",
        "Bi.retained=0.5",
    )
    first = told(capsys, *ACTINIUM, *options, "--out", str(tmp_path / "run"))
    again = told(capsys, *ACTINIUM, "--parameters", str(tmp_path / "run" / "parameters.json"))
    assert tia(again, "Bi-213/free") == pytest.approx(tia(first, "Bi-213/free"), rel=1e-12)
    assert (again["turnover"], again["daughters"], again["given"]) == ("explicit", "followed", first["given"])
    asked = (*ACTINIUM, "--parameters", str(tmp_path / "run" / "parameters.json"), "--turnover", "none")
    assert "made with the turnover explicit; none is asked for" in refused(capsys, *asked)


# --- several ligands


@pytest.mark.parametrize("patient", ["reference", "typical"])
def test_each_ligand_of_a_schedule_moves_by_its_own_rows(capsys: pytest.CaptureFixture[str], pair: str, patient: str) -> None:
    given = ("--set", "PSMA-11/ligand.K_D=30", "--set", "lambda_int=0.002 1/min")
    run = told(capsys, "--schedule", pair, "--patient", patient, *given)
    own = {"PSMA-11/ligand.K_D": 30.0, "ligand.lambda_int": 0.002}
    model, values = pbrpk("psma"), dict[str, float]()
    if patient == "typical":
        people = population("psma")
        model, values = people.model, people.typical()
        values = {n: v for n, v in values.items() if n not in ("ligand.k_on", "ligand.K_D", "ligand.k_off")}
    want = simulate(model, values | own, PAIR_GIVEN, [24.0])
    for label in ("Ga-68", "Lu-177"):
        np.testing.assert_allclose(list(tia(run, label).values()), want.tia_mbq_h.sel(label=label), rtol=1e-6)
    assert run["ligands"] == ["PSMA-11", "PSMA-617"]
    # rows of the first ligand for all would be another result
    alike = simulate(model, values | {"ligand.K_D": 30.0, "ligand.lambda_int": 0.002}, PAIR_GIVEN, [24.0])
    kidneys = [float(d.tia_mbq_h.sel(label="Lu-177", region="kidney_left")) for d in (want, alike)]
    assert kidneys[0] > 1.5 * kidneys[1]


def test_parameters_of_several_ligands_are_told_apart_and_read_back(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, pair: str
) -> None:
    first = told(capsys, "--schedule", pair, "--set", "PSMA-11/ligand.K_D=3", "--out", str(tmp_path / "run"))
    for ending in ("csv", "json"):
        file = str(tmp_path / "run" / f"parameters.{ending}")
        again = told(capsys, "--schedule", pair, "--parameters", file)
        assert again["given"] == first["given"] == {"PSMA-11/ligand.K_D": 3.0}
        assert again["parameters"] == first["parameters"]
        assert again["tia"] == first["tia"]
        assert "made with the ligand PSMA-11 PSMA-617; PSMA-617 is asked for" in refused(capsys, *VIAL, "--parameters", file)
    rows = {r["name"]: r for r in told(capsys, "--schedule", pair, "--show-parameters")["parameters"]}
    assert (rows["PSMA-11/ligand.k_on"]["status"], rows["PSMA-617/ligand.k_on"]["status"]) == ("assumed", "literature")
    assert "ligand.K_D" not in rows
    assert "ligand.lambda_int" in rows
    page = (tmp_path / "run" / "curves.html").read_text()
    assert "PSMA-11/ligand.K_D" in page
    assert "40 nmol PSMA-11 without activity at 2 h" in page


def test_what_cannot_be_meant_of_several_ligands_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, pair: str
) -> None:
    assert "ligand that the schedule does not give" in refused(capsys, *VIAL, "--set", "PSMA-11/ligand.K_D=3")
    assert "ligand that the schedule does not give" in refused(capsys, "--schedule", pair, "--set", "DCFPyL/ligand.K_D=3")
    assert "ligand.K_D" in refused(capsys, "--schedule", pair, "--set", "PSMA-11/ligand.K_d=3")
    assert "belong to the patient" in refused(capsys, "--schedule", pair, "--set", "PSMA-11/liver.volume=2")
    lines = "name,value,unit,status,source\nDCFPyL/ligand.K_D,1,nmol/L,given,here\n"
    (tmp_path / "table.csv").write_text(lines)
    assert "is of DCFPyL" in refused(capsys, "--schedule", pair, "--parameters", str(tmp_path / "table.csv"))
    (tmp_path / "cold.csv").write_text("time_h,ligand,nuclide,activity_mbq,amount_nmol\n0,PSMA-11,,0,40\n")
    assert "without activity" in refused(capsys, "--schedule", str(tmp_path / "cold.csv"))


def test_a_quantity_of_the_one_ligand_may_name_it(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [told(capsys, *VIAL, "--set", f"{front}ligand.K_D=3") for front in ("", "PSMA-617/")]
    assert runs[0]["tia"] == runs[1]["tia"]
    assert runs[0]["given"] == runs[1]["given"] == {"ligand.K_D": 3.0}
