"""`tdt design`: sets of scans ranked for a state, more scans tell more, wrong options are refused in words."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from flows.cli import main
from flows.design import Wanted, designed
from tdt_core.assimilation import assimilate, population_prior
from tdt_core.codec import to_plain
from tdt_core.errors import InputError, UsageError
from tdt_core.kinetics import rung_for
from tdt_core.planning import product_for
from tdt_core.twin import Administration, TwinState


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
        told = designed(state, Wanted(scans, (4.0, 24.0, 72.0, 168.0)), best=20)
        assert told["cycle"] == state.cycle + 1
        sds = [s["sd_after"] for s in told["sets"]]
        assert sds == sorted(sds)
        assert all(len(s["scans"]) == scans and 0 < s["variance_removed"] < 1 for s in told["sets"])
        assert told["worst"]["sd_after"] == sds[-1] < told["sd_without"]
        left[scans] = sds[0]
    assert left[1] > left[2] > left[3]
    assert designed(state, Wanted(3, (4.0, 24.0, 72.0, 168.0)), best=20) == told


def test_sets_within_the_noise_of_the_draws_are_told_as_equal(state: TwinState) -> None:
    """Neighbouring hours cannot be told apart, an early one and a late one can; the border is two sd of a variance."""
    near = designed(state, Wanted(1, (95.0, 96.0, 97.0)), best=20)
    assert near["equal_sets"] == near["sets_compared"] == 3
    assert all(s["equal_to_best"] for s in near["sets"])
    apart = designed(state, Wanted(1, (1.0, 96.0)), best=20)
    assert [s["equal_to_best"] for s in apart["sets"]] == [True, False]
    assert apart["noise"] == pytest.approx(2 * (2 / apart["draws"]) ** 0.5)
    assert apart["sets"][1]["sd_after"] ** 2 > apart["sets"][0]["sd_after"] ** 2 * (1 + apart["noise"])


def test_a_dose_of_one_region_may_be_asked_for(state: TwinState) -> None:
    kidney = designed(state, Wanted(1), "kidney_left")
    lesion = designed(state, Wanted(1), next(r.name for r in state.evidence.regions if r.organ == "lesions"))
    assert kidney["sd_without"] < lesion["sd_without"]  # lesions change more from cycle to cycle


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hours": (24.0,)}, "2 scans out of 1"),
        ({"hours": (-4.0, 24.0)}, "hours of scans -4, 24: -4 cannot be"),
        ({"hours": (4.0, float("nan"))}, "nan cannot be"),
        ({"blood": 3, "blood_hours": (1.0, 4.0)}, "3 blood samples out of 2"),
        ({"scans": 0}, "no measurement"),
    ],
)
def test_wishes_without_meaning_are_refused(options, said) -> None:
    with pytest.raises(UsageError, match=said):
        Wanted(**options)


def test_a_quantity_or_a_sample_that_the_rung_does_not_know_is_refused(state: TwinState) -> None:
    with pytest.raises(UsageError, match="elbow"):
        designed(state, quantity="elbow")
    with pytest.raises(UsageError, match="does not say what blood"):
        designed(state, Wanted(1, blood=1))


def test_of_a_cycle_under_way_only_later_scans_are_offered_and_they_tell_less_than_before_it(state: TwinState) -> None:
    """The state has scans at 4, 24, 72 and 168 h; one more of its cycle tells less than the first of the next one."""
    wanted = Wanted(1, (24.0, 168.0, 192.0, 240.0))
    told, coming = designed(state, wanted, under_way=True), designed(state, wanted)
    assert told["cycle"] == state.cycle
    assert told["offered"] == ["192 h", "240 h"]
    assert told["sd_without"] < coming["sd_without"]
    assert told["alone"][0]["variance_removed"] < coming["alone"][0]["variance_removed"]
    with pytest.raises(UsageError, match="after the last scan"):
        designed(state, Wanted(1, (24.0,)), under_way=True)
    imaging = tuple(replace(a, intent="imaging") for a in state.evidence.administrations)
    with pytest.raises(InputError, match="none is under way"):
        designed(replace(state, evidence=replace(state.evidence, administrations=imaging)), under_way=True)


def test_a_pet_needs_an_imaging_agent_and_counts_as_one_measurement(state: TwinState) -> None:
    without = {**state.identity, "administrations": []}
    with pytest.raises(InputError, match="imaging agent"):
        designed(replace(state, identity=without), Wanted(1, pet=True))
    agent = Administration(-168.0, "Ga-68-PSMA-11", "PSMA-11", "Ga-68", 160.0, 3.0, intent="imaging")
    given = {**without, "administrations": [to_plain(agent)]}
    told = designed(replace(state, identity=given), Wanted(1, (24.0, 72.0), pet=True), "kidney_left")
    assert all(s["samples"] == ["PET 1 h"] and len(s["scans"]) == 1 for s in told["sets"])
    alone = {row["name"]: row["sd_after"] for row in told["alone"]}
    assert set(alone) == {"24 h", "72 h", "PET 1 h"}
    assert told["sets"][0]["sd_after"] <= min(alone.values()) * 1.01
    with pytest.raises(InputError, match="under way"):
        designed(replace(state, identity=given), Wanted(1, (192.0,), pet=True), under_way=True)


@pytest.mark.long
def test_blood_and_readings_are_offered_beside_scans_by_the_whole_body_rung(state: TwinState) -> None:
    kidneys = tuple(r for r in state.evidence.regions if r.organ == "kidneys")
    seen = tuple(a for a in state.evidence.activities if a.region in {r.name for r in kidneys})
    evidence = replace(state.evidence, regions=kidneys, activities=seen)
    rung = rung_for("whole_body", "PSMA-617", kidneys)
    fit = assimilate(population_prior(rung), evidence, rung, n_draws=50, options={"starts": 1})
    whole = replace(state, model=rung.name, posterior=fit, evidence=evidence)
    wanted = Wanted(1, (24.0, 72.0), blood=1, blood_hours=(1.0, 24.0), readings=1, reading_hours=(48.0,))
    told = designed(whole, wanted, "kidneys")
    assert told["offered"] == ["24 h", "72 h", "blood 1 h", "blood 24 h", "whole body 48 h"]
    assert len(told["sets"]) == 4
    assert all(len(s["samples"]) == 2 for s in told["sets"])
    alone = {row["name"]: row["variance_removed"] for row in told["alone"]}
    assert max(alone["24 h"], alone["72 h"]) > max(alone["blood 1 h"], alone["whole body 48 h"])
    assert told["sets"][0]["variance_removed"] > max(alone.values()) - 0.01


def test_a_patient_of_whom_no_image_is_known_gets_no_design(state: TwinState) -> None:
    with pytest.raises(InputError, match="no region activity"):
        designed(replace(state, evidence=replace(state.evidence, activities=())))


def test_a_person_reads_the_sets_and_what_each_measurement_tells_alone(
    state: TwinState, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Store:
        def load(self, state_id: str) -> TwinState:
            return state

    monkeypatch.setattr("flows.cli_design.settings_and_store", lambda: (None, Store()))
    monkeypatch.setattr("flows.ladder.find", lambda store, name: state.id)
    assert main(["design", state.pid, "--scans", "1", "--hours", "192,240", "--under-way"]) == 0
    shown = capsys.readouterr().out
    assert f"Cycle {state.cycle} of {state.pid}" in shown
    assert "One alone" in shown
    assert "the fit of the cycle under way" in " ".join(shown.split())
    counts = [shown.count(f"{hours} h") for hours in (192, 240)]
    assert sorted(counts) == [2, 3]  # as a set, alone, and one of them as the least telling
    for option, expected in ((("--blood", "1"), "whole-body rung"), (("--quantity", "hearts"), "one of")):
        assert main(["design", state.pid, *option, "--json"]) == 2
        error = json.loads(capsys.readouterr().out)["error"]
        assert expected in error["expected"]
        assert error["remedy"]


def test_hours_that_are_no_numbers_are_refused_on_the_command_line(capsys: pytest.CaptureFixture[str], commit) -> None:
    pid = commit().pid
    capsys.readouterr()
    assert main(["design", pid, "--hours", "soon", "--json"]) != 0
    assert "soon" in json.dumps(json.loads(capsys.readouterr().out)["error"])
