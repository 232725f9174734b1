"""`tdt design`: sets of scans ranked for a state, more scans tell more, wrong options are refused in words."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from flows.cli import main
from flows.design import designed
from tdt_core.assimilation import assimilate, population_prior
from tdt_core.codec import to_plain
from tdt_core.errors import InputError, SettingsError
from tdt_core.kinetics import rung_for
from tdt_core.planning import product_for
from tdt_core.twin import TwinState


@pytest.fixture
def state(commit) -> TwinState:
    """A state as pages show it, with a real fit of its evidence by the population's curves."""
    shown = commit()
    rung = rung_for("sum_of_exponentials", "PSMA-617", shown.evidence.regions)
    fit = assimilate(population_prior(rung), shown.evidence, rung)
    settings = {"product": to_plain(product_for("PSMA-617", "Lu-177"))}
    return replace(
        shown,
        model=rung.name,
        posterior=fit,
        identity={**shown.identity, "settings": settings},
        summary={**shown.summary, "ligand": "PSMA-617"},
    )


def test_sets_of_scans_are_ranked_and_more_scans_tell_more(state: TwinState) -> None:
    left = {}
    for scans in (1, 2, 3):
        told = designed(state, scans, hours=(4.0, 24.0, 72.0, 168.0), best=20)
        assert told["cycle"] == state.cycle + 1
        sds = [s["sd_after"] for s in told["sets"]]
        assert sds == sorted(sds)
        assert all(len(s["scans"]) == scans and 0 < s["variance_removed"] < 1 for s in told["sets"])
        assert told["worst"]["sd_after"] == sds[-1] < told["sd_without"]
        left[scans] = sds[0]
    assert left[1] > left[2] > left[3]
    assert designed(state, 3, hours=(4.0, 24.0, 72.0, 168.0), best=20) == told


def test_a_dose_of_one_region_may_be_asked_for(state: TwinState) -> None:
    kidney = designed(state, 1, "kidney_left")
    lesion = designed(state, 1, next(r.name for r in state.evidence.regions if r.organ == "lesions"))
    assert kidney["sd_without"] < lesion["sd_without"]  # lesions change more from cycle to cycle


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quantity": "elbow"}, "elbow"),
        ({"hours": (24.0,)}, "2 scans out of 1"),
        ({"hours": (-4.0, 24.0)}, r"\[-4.0, 24.0\]"),
    ],
)
def test_options_without_meaning_are_refused(state: TwinState, options, said) -> None:
    with pytest.raises(SettingsError, match=said):
        designed(state, **options)


def test_a_patient_of_whom_no_image_is_known_gets_no_design(state: TwinState) -> None:
    with pytest.raises(InputError, match="no region activity"):
        designed(replace(state, evidence=replace(state.evidence, activities=())))


def test_hours_that_are_no_numbers_are_refused_on_the_command_line(capsys: pytest.CaptureFixture[str], commit) -> None:
    pid = commit().pid
    capsys.readouterr()
    assert main(["design", pid, "--hours", "soon", "--json"]) != 0
    assert "soon" in json.dumps(json.loads(capsys.readouterr().out)["error"])
