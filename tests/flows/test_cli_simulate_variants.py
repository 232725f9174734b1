"""`tdt simulate` with the variants of the whole-body model: fewer organs, explicit albumin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main

VIAL = ("--product", "Lu-177-PSMA-617", "--lesion", "L1=12.5")
KIDNEYS = ("kidney_left", "kidney_right")


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
