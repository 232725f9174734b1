"""A state that another one has replaced says so everywhere, and asks for no signature; neither does an abstention."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from flows import derived
from flows.answered import ABSTAINS, NONE, WAITS, standing_of
from flows.cli import main
from flows.dashboard.alarms import state_alarms
from flows.explain import explain, show
from flows.reasons import reason_of
from flows.report.render import render_report
from storage.twins import now
from tdt_core.twin import Decision


def said(capsys, settings, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["--home", str(settings.home), *arguments]) == 0
    return capsys.readouterr().out


def report_of(site, state) -> str:
    return (site.home.derived / state.id / "report.html").read_text(encoding="utf-8")


def test_only_the_newest_state_waits_and_one_that_was_replaced_names_its_successor(site, store, commit, capsys) -> None:
    first = commit(1)
    assert standing_of(store, first.id) == WAITS
    again = commit(1, late="scan")
    assert standing_of(store, again.id) == WAITS
    words = f"superseded by {again.id[:12]}"
    assert standing_of(store, first.id) == words
    assert show(store, first.id)["superseded_by"] == explain(store, first.id)["superseded_by"] == again.id
    for command in (("twin", "show"), ("explain",)):
        assert f"decision: {words}" in said(capsys, site, *command, first.id)
        assert f"decision: {WAITS}" in said(capsys, site, *command, again.id)
    second = commit(2, parent=again.id)
    assert standing_of(store, again.id) == NONE, "it led to the next cycle, and nobody decided"
    assert standing_of(store, second.id) == WAITS


def test_a_decision_on_a_state_that_was_replaced_is_told_with_its_successor(store, commit) -> None:
    first = commit(1)
    store.decide(Decision(first.id, "changed", 5000.0, "N. N.", "physician", "as discussed"), time=now())
    assert standing_of(store, first.id) == "changed"
    again = commit(1, late="scan")
    assert standing_of(store, first.id) == f"changed; superseded by {again.id[:12]}"


def test_an_abstention_waits_for_no_signature(site, store, commit, capsys) -> None:
    state = commit(1, abstain=True)
    assert standing_of(store, state.id) == ABSTAINS
    for command in (("twin", "show", state.id), ("explain", state.id), ("twin", "list")):
        out = said(capsys, site, *command)
        assert "waits for" not in out
    page = render_report(state, store.open_dose(state.id))
    assert "Waiting for a signature" not in page
    assert '<span class="chip">No recommendation</span>' in page
    assert "give as proposed" not in page
    assert not [a for a in state_alarms(state, None, newest=True) if "waits for a signature" in a.words]


@pytest.mark.parametrize(("abstain", "answered"), [(True, False), (False, True)])
def test_a_run_asks_for_an_answer_only_where_something_is_proposed(site, store, commit, capsys, monkeypatch, abstain, answered):
    from flows import inbox, run

    state = commit(1, abstain=abstain)
    monkeypatch.setattr(inbox, "existing", lambda folder, **_: folder)
    taken = {"pid": state.pid, "new": [], "delivery": ""}
    monkeypatch.setattr(run, "take_in", lambda *_: taken)
    monkeypatch.setattr(run, "orchestrated", lambda _: __import__("contextlib").nullcontext())
    monkeypatch.setattr("flows.evidence.not_used", lambda *_: [])
    monkeypatch.setattr("storage.deliveries.pool_of", lambda *_: SimpleNamespace(cycles=dict, findings=tuple))
    out = said(capsys, site, "run", str(site.home))
    assert ("answer it:" in out) == answered
    assert (ABSTAINS in out) == abstain


def test_the_report_of_a_superseded_state_is_written_again_and_its_state_untouched(site, store, commit) -> None:
    from flows.site import open_site

    opened = open_site(site)
    first = commit(1)
    derived.report(opened, first.id)
    assert "Waiting for a signature" in report_of(opened, first)
    assert derived.outdated(opened, first.pid) == []
    before = {p: p.read_bytes() for p in store.path(first.id).rglob("*") if p.is_file()}
    again = commit(1, late="scan")
    assert derived.outdated(opened, first.pid) == [first.id]
    derived.report(opened, again.id)
    derived.renew(opened, first.pid)
    page = report_of(opened, first)
    assert "Waiting for a signature" not in page
    assert '<span class="chip">Superseded</span>' in page
    assert f"Superseded by state {again.id[:12]}" in page
    assert 'class="sign"' not in page
    assert "Waiting for a signature" in report_of(opened, again)
    assert f'Made because of</dt><dd class="mono">{reason_of(store, again.id)}' in report_of(opened, again)
    assert derived.outdated(opened, first.pid) == []
    assert {p: p.read_bytes() for p in store.path(first.id).rglob("*") if p.is_file()} == before
    assert store.verify() == ()


def test_the_log_says_why_a_state_took_the_place_of_another(site, store, commit, capsys) -> None:
    first = commit(1)
    assert reason_of(store, first.id) == ""
    again = commit(1, late="scan")
    second = commit(2, parent=again.id)
    assert reason_of(store, second.id) == ""
    assert reason_of(store, again.id) == "items of evidence: 1 added, 1 removed"
    chain = json.loads(said(capsys, site, "twin", "log", first.pid, "--json"))["chain"]
    assert [i["reason"] for i in chain] == ["", "items of evidence: 1 added, 1 removed"]
    assert "because: items of evidence" in said(capsys, site, "explain", again.id)
