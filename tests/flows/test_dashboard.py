"""The dashboard without a browser: alarms, the patient's states, damage shown as damage."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from state_builder import build_dose, build_state, commit_course

from flows.dashboard.alarms import state_alarms, store_alarms
from storage.home import open_home
from storage.twins import TwinStore
from tdt_core.errors import StoreError
from tdt_core.twin import Decision, TwinState

pytest.importorskip("panel")


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[TwinState]]:
    home = tmp_path_factory.mktemp("store") / "home"
    return home, commit_course(home, 2)


@pytest.fixture
def home(course: tuple[Path, list[TwinState]], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(course[0], tmp_path / "home"))


def levels(state: TwinState, decision: Decision | None, *, newest: bool = True) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"stop": [], "wait": [], "note": []}
    for alarm in state_alarms(state, decision, newest=newest):
        found[alarm.level].append(alarm.words)
    return found


def test_only_the_newest_undecided_state_waits_for_a_signature() -> None:
    state = build_state(2)
    signed = Decision(state.id, "signed", 7000.0, "A. Person", "physician", "as proposed")
    assert len(levels(state, None)["wait"]) == 1
    assert levels(state, None, newest=False)["wait"] == []
    assert levels(state, signed)["wait"] == []


def test_an_abstention_is_an_alarm_with_its_reason_and_still_waits_for_a_person() -> None:
    found = levels(build_state(2, abstain=True), None)
    assert any("abstains" in words and "does not fit" in words for words in found["stop"])
    assert len(found["wait"]) == 1


def test_suspicious_data_warnings_and_findings_are_named() -> None:
    state = build_state(2)
    notes = levels(state, None)["note"]
    assert any("spleen at 72 h" in words for words in notes)
    assert any("Spleen at 72 h lies 3.8 sd" in words for words in notes)
    assert set(state.evidence.findings) <= set(notes)


def test_a_scripted_signature_is_never_passed_off_as_a_persons() -> None:
    state = build_state(2)
    scripted = Decision(state.id, "signed", 7000.0, "demo", "script", "demo", scripted=True)
    assert any("no person did" in words for words in levels(state, scripted)["note"])


def test_a_store_that_cannot_be_checked_is_an_alarm_too() -> None:
    def broken() -> Any:
        raise StoreError("the audit trail cannot be read")

    assert [a.level for a in store_alarms(broken)] == ["stop"]


def test_a_whole_store_raises_no_alarm_and_a_flipped_byte_raises_one(home: Path, course: Any) -> None:
    store = TwinStore(open_home(home, create=False))
    pid = course[1][0].pid
    assert store_alarms(lambda: store.verify(pid)) == []
    chunk = max((home / "twins" / pid).glob("states/*/dose.zarr/**/*"), key=lambda p: p.is_file() and p.stat().st_size)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(bytes(data))
    assert any(a.level == "stop" for a in store_alarms(lambda: store.verify(pid)))


def words_on(dashboard: Any) -> str:
    import panel as pn

    panes = [dashboard.main, *dashboard.main.select(pn.pane.HTML)]
    return " ".join(str(p.object) for p in panes if hasattr(p, "object"))


def test_the_page_shows_the_newest_state_and_every_cycle_can_be_chosen(home: Path, course: Any) -> None:
    from flows.dashboard.app import Dashboard

    dashboard = Dashboard(TwinStore(open_home(home, create=False)))
    first, second = course[1]
    assert dashboard.patients.value == first.pid
    assert dashboard.states.value == second.id
    assert second.id[:16] in words_on(dashboard)
    assert "Waiting for a signature" in words_on(dashboard)
    dashboard.states.value = first.id
    assert first.id[:16] in words_on(dashboard)
    assert "Retrospective" in words_on(dashboard)
    assert f"derived/{first.id}/report.html" in words_on(dashboard)


def test_the_page_follows_a_new_state_and_a_new_decision(home: Path, course: Any) -> None:
    from flows.dashboard.app import Dashboard

    store = TwinStore(open_home(home, create=False))
    dashboard = Dashboard(store)
    newest = course[1][-1]
    proposed = newest.proposal.activity_mbq
    store.decide(Decision(newest.id, "signed", proposed, "A. Person", "physician", "as proposed"), time=datetime.now(UTC))
    dashboard.refresh()
    assert "Signed as proposed" in words_on(dashboard)
    digests = (*newest.identity["evidence"], store.evidence.put_json("cycle", {"cycle": 3}))
    third = build_state(3, parent=newest.id, digests=digests)
    dose = build_dose(third, (30, 14, 18), 23.0)
    store.commit(third, dose, expected_head=newest.id, provenance={}, knowledge_time=datetime.now(UTC))
    dashboard.refresh()
    assert dashboard.states.value == third.id
    assert "No report of this state" in words_on(dashboard)


def test_a_damaged_state_is_shown_as_damaged_and_not_as_a_page(home: Path, course: Any) -> None:
    from flows.dashboard.app import Dashboard

    newest = course[1][-1]
    path = home / "twins" / newest.pid / "states" / newest.id / "state.json"
    path.write_bytes(path.read_bytes().replace(b'"age_y":71', b'"age_y":17'))
    shown = words_on(Dashboard(TwinStore(open_home(home, create=False))))
    assert "damaged" in shown
    assert "Proposed for" not in shown


def test_an_empty_store_says_that_it_is_empty(tmp_path: Path) -> None:
    from flows.dashboard.app import Dashboard

    assert "No twin is in this store yet" in words_on(Dashboard(TwinStore(open_home(tmp_path / "home"))))


def test_slices_show_unit_state_and_the_dose_under_the_pointer(course: Any) -> None:
    from flows.dashboard.slices import SliceViewer

    state = course[1][-1]
    viewer = SliceViewer(state, build_dose(state, (60, 28, 36), 11.5), "")
    assert "Unit: Gy" in viewer.caption.object
    assert state.id[:12] in viewer.caption.object
    shown = viewer.values.data["dose"][0]
    index = viewer.focus[1]
    assert shown[::-1] == pytest.approx(viewer.view.dose[::-1][:, index], rel=1e-6)
    viewer.plane.value = "axial"
    assert viewer.slider.end == viewer.view.dose.shape[0]
    viewer.quantity.value = "relative SD"
    assert "% of the voxel mean" in viewer.caption.object
    assert all(colour == "#6fd3ff" for colour in viewer.lines.data["colour"]), "no isodose line on an uncertainty map"


def test_words_of_the_data_are_escaped_on_the_page() -> None:
    from flows.dashboard import panes

    state = build_state(1)
    hostile = "<script>alert(1)</script>"
    bad = replace(state, summary={**state.summary, "warnings": [hostile]})
    assert "<script" not in panes.alarm_list(state_alarms(bad, None, newest=True))
    assert "<script" not in panes.error_box(hostile)
