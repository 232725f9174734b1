"""Ac-225 through the loop: a pre-therapy PET, a site's own product, daughters followed, and kept in place on the lower rung."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from loop_case import new_site, only_cycle, write_patient

from flows.chain import run_chain
from flows.report.daughters import daughters
from flows.report.render import render_report
from tdt_core.assimilation import state_model
from tdt_core.nuclides import decays_per_parent_decay
from tdt_core.planning.forecast import dose_matrix
from tdt_core.twin import TwinState

COLUMNS = "name,ligand,nuclide,planned_cycles,activity_min_mbq,activity_max_mbq,standard_activity_mbq,interval_h,amount_nmol"
PRODUCTS = f"""{COLUMNS},status,source
Ac-225-PSMA-617,PSMA-617,Ac-225,3,4,9,8,1344,90,assumed,for this test
"""


@pytest.fixture(scope="module")
def before_therapy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patient with the images of the pre-therapy PET, whose first therapy, of Ac-225, is on record."""
    folder = tmp_path_factory.mktemp("patient")
    inbox = only_cycle(write_patient(folder / "all"), folder / "pet", (0,), 2)
    record = json.loads((inbox / "administrations.json").read_text())
    record["administrations"][1] |= {"product": "Ac-225-PSMA-617", "nuclide": "Ac-225"}
    (inbox / "administrations.json").write_text(json.dumps(record))
    return inbox


def run(folder: Path, inbox: Path, **settings: object) -> tuple[object, TwinState]:
    """The state before a therapy with a site's product of Ac-225; the therapy's cycle waits for its images."""
    table = folder / "products.csv"
    table.write_text(PRODUCTS)
    site = new_site(folder, products=table, **settings)
    (state,) = run_chain(site, inbox)["states"]
    return site, site.store.load(state)


@pytest.mark.long
def test_bismuth_is_dosed_in_the_kidneys_and_the_forecast_knows(tmp_path: Path, before_therapy: Path) -> None:
    site, state = run(tmp_path, before_therapy)
    rung, given = state_model(state), state.summary
    assert state.model == "whole_body"
    (row,) = given["daughters"]
    assert (row["parent"], row["daughter"], row["followed"], row["leaving"]) == ("Ac-225", "Bi-213", True, 1.0)
    assert 0 < row["excreted_share"]["mean"] < 1
    names = [r.name for r in rung.regions]
    matrix, n = dose_matrix(state), len(names)
    assert matrix.shape == (n, 2 * n)
    parent = {r["region"]: r["tia_mbq_h"]["mean"] for r in given["doses"]}
    born = decays_per_parent_decay("Ac-225")["Bi-213"]
    kidney, gland = "kidney_left", "parotid_left"
    assert row["tia_mbq_h"][kidney]["mean"] > 1.2 * born * parent[kidney]
    assert row["tia_mbq_h"][gland]["mean"] < 0.95 * born * parent[gland]
    # the map, the region's draws and the forecast of the next cycle, from which nothing has drifted, hold the same bismuth
    doses = {r["region"]: r["dose_gy"]["mean"] for r in given["doses"]}
    dose = site.store.open_dose(state.id)
    inside = dose.label.values == names.index(kidney) + 1
    assert float(dose.dose_mean_gy.values[inside].mean(dtype=float)) == pytest.approx(doses[kidney], rel=2e-3)
    ahead = {r["region"]: r["gy_per_gbq"]["mean"] for r in given["forecast"]}
    assert ahead[kidney] * 8.0 / 1e3 == pytest.approx(doses[kidney], rel=1e-6)
    i, in_place = names.index(kidney), (parent[name] for name in names)
    assert doses[kidney] > 1.05 * float(matrix[i, :n] @ np.array(list(in_place)))
    # energy, and what a reader sees
    figures = given["conservation"]
    assert 0 < figures["carried_out_j"] < figures["emitted_j"] - figures["deposited_j"]
    assert figures["balance_relative_difference"] < 0.005
    assert {"Bi.retained", "Bi.kidney_extraction"} <= {r["name"] for r in given["assumed"]}
    assert not [w for w in given["warnings"] if "Bi-213" in w]
    (words,) = daughters(state)
    assert "100 % leaves the ligand where Ac-225 decays (literature)" in words
    assert words in render_report(state, dose).replace("&#39;", "'")


def test_curves_keep_bismuth_in_place_and_say_so(tmp_path: Path, before_therapy: Path) -> None:
    _, state = run(tmp_path, before_therapy, model="sum_of_exponentials")
    (row,) = state.summary["daughters"]
    assert (row["daughter"], row["followed"]) == ("Bi-213", False)
    assert [w for w in state.summary["warnings"] if w.startswith("Bi-213") and "sum_of_exponentials does not follow it" in w]
    assert "carried_out_j" not in state.summary["conservation"]
    rung = state_model(state)
    assert dose_matrix(state).shape == (len(rung.regions),) * 2
    assert "does not follow it" in daughters(state)[0]
