"""What a twin rests on, and taking it back: the chain follows as a branch, and what was believed before stays."""

from __future__ import annotations

import json

import pytest
from histories import PIECES, chain_of, in_order, new_site, play, stand_in, write_piece

from flows.chain import run_chain
from flows.cli import main
from flows.evidence import listed, retract
from storage.deliveries import pool_of
from storage.twins import now
from tdt_core.errors import GeometryError, InputError, UsageError

CHOSEN = ("base", "late scan", "second cycle", "second activity corrected")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("pieces")
    return {name: write_piece(base / name.replace(" ", "-"), PIECES[name]) for name in CHOSEN}


@pytest.fixture(scope="module")
def told(folders, tmp_path_factory):
    site = new_site(tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("vaults") / "vault")
    run_chain(site, folders["base"], stand_in)
    first = (now(), chain_of(site))
    play(site, folders, in_order([("deliver", name) for name in CHOSEN[1:]]))
    return site, site.store.pids()[0], first


def the(site, pid, kind, **values):
    items = (i for i in pool_of(site.store, pid).items if i.kind == kind)
    return next(i for i in items if all(i.plain.get(k) == v for k, v in values.items()))


def test_scans_have_the_hour_of_their_values_and_ct_and_regions_say_whose_they_are(told):
    site, pid, _ = told
    known = {i.id: i.plain for i in pool_of(site.store, pid).items}
    rows = listed(site.store, pid)
    scans = [r for r in rows if r["kind"] == "scan"]
    assert scans
    assert all(r["time_h"] == known[r["item"]]["time_h"] for r in scans)
    for row in (r for r in rows if r["kind"] in ("ct", "labels")):
        frame = known[row["item"]]["frame_of_reference"]
        times = {known[r["item"]]["time_h"] for r in scans if known[r["item"]]["frame_of_reference"] == frame}
        assert row["time_h"] == min(times)
        assert all(f"at {t:.1f} h" in row["what"] for t in times)


def test_what_was_corrected_is_listed_beside_what_stands_and_the_decision_follows_what_was_given(told):
    site, pid, _ = told
    rows = [
        r for r in listed(site.store, pid) if r["what"].endswith("MBq Lu-177-PSMA-617 (therapy)") or "(therapy)" in r["what"]
    ]
    assert {(r["what"].split()[0], r["status"]) for r in rows} == {
        ("7400", "replaced"), ("7100", "standing"), ("7000", "standing"),
    }  # fmt: skip
    first = chain_of(site)[0]
    assert site.store.decision(first).activity_mbq == pytest.approx(7000.0)
    assert len(site.store.decisions(pid)) > 1, "what had been told before stays in the record"


def test_a_scan_taken_back_and_put_in_force_again_leads_back_to_the_same_state(told):
    site, pid, (when, believed) = told
    before = chain_of(site)
    scan = next(i for i in pool_of(site.store, pid).items if i.kind == "scan" and 47 < i.time_h < 49)
    retract(site, pid, [scan.id[:10]], reason="patient moved", by="a physicist", call=stand_in)
    without = chain_of(site)
    assert not set(before) & set(without)
    assert [r["reason"] for r in listed(site.store, pid) if r["status"] == "retracted"] == ["patient moved"]
    assert [i.id for i in reversed(site.store.as_of(pid, when))] == believed
    with pytest.raises(UsageError) as twice:
        retract(site, pid, [scan.id], reason="again", by="a physicist", call=stand_in)
    assert twice.value.kind == "retraction.state"
    assert "retracted already" in twice.value.found
    assert "in force" in twice.value.expected
    assert "--undo" in twice.value.remedy
    retract(site, pid, [scan.id], reason="it was another scan", by="a physicist", undo=True, call=stand_in)
    assert chain_of(site) == before
    assert all(site.store.has(s) for s in without)
    assert site.store.verify() == ()


def test_a_newest_cycle_without_its_only_scan_waits_and_the_twin_goes_back_to_the_cycle_before(told):
    site, pid, _ = told
    before = chain_of(site)
    scan = next(i for i in pool_of(site.store, pid).items if i.kind == "scan" and i.time_h > 1000)
    outcome = retract(site, pid, [scan.id], reason="another patient's", by="a physicist", call=stand_in)
    assert chain_of(site) == before[:1] == outcome["states"]
    assert site.store.load(before[1]).cycle == 2
    retract(site, pid, [scan.id], reason="no: it is this one's", by="a physicist", undo=True, call=stand_in)
    assert chain_of(site) == before


@pytest.mark.parametrize(("reason", "name"), [("", "N. N."), ("wrong", " ")])
def test_a_retraction_needs_a_reason_and_a_name(told, reason, name):
    site, pid, _ = told
    events = len(site.store.audit.events())
    with pytest.raises(UsageError) as found:
        retract(site, pid, ["0000"], reason=reason, by=name, call=stand_in)
    assert found.value.kind == "retraction.incomplete"
    assert len(site.store.audit.events()) == events


def test_what_was_never_told_and_the_last_scan_of_all_cannot_be_taken_back(told):
    site, pid, _ = told
    before, events = chain_of(site), len(site.store.audit.events())
    with pytest.raises(UsageError) as unknown:
        retract(site, pid, ["ffff0000ffff"], reason="wrong", by="N. N.", call=stand_in)
    assert unknown.value.kind == "retraction.unknown"
    regions = next(i for i in pool_of(site.store, pid).items if i.kind == "labels" and i.plain["frame_of_reference"] in {
        s.plain["frame_of_reference"] for s in pool_of(site.store, pid).items if s.kind == "scan" and s.time_h < 10
    })  # fmt: skip
    with pytest.raises(InputError) as last:
        retract(site, pid, [regions.id], reason="wrong", by="N. N.", call=stand_in)
    assert last.value.kind == "input.cycle"
    assert chain_of(site) == before
    assert len(site.store.audit.events()) == events, "nothing is recorded of what is refused"


def test_the_command_line_lists_and_refuses(told, capsys):
    site, pid, _ = told
    assert main(["--home", str(site.settings.home), "evidence", pid, "--json"]) == 0
    assert {r["kind"] for r in json.loads(capsys.readouterr().out)["items"]} >= {
        "scan",
        "ct",
        "labels",
        "lab",
        "administration",
    }
    assert main(["--home", str(site.settings.home), "evidence", pid]) == 0
    assert "standing" in capsys.readouterr().out
    assert main(["--home", str(site.settings.home), "retract", pid, "ffff0000", "--reason", "wrong", "--name", "N. N."]) == 2
    assert "retraction.unknown" in capsys.readouterr().err


def test_what_a_step_refuses_stays_known_and_the_error_says_how_to_take_it_back(folders, tmp_path):
    site = new_site(tmp_path, tmp_path / "vault")

    def refuse(name, step, site, plan):
        raise GeometryError("a scan without a body", expected="a body", remedy="send another")

    with pytest.raises(GeometryError, match=r"send another; or take back .* tdt retract") as caught:
        run_chain(site, folders["base"], refuse)
    (state,) = run_chain(site, folders["base"], stand_in)["states"]
    pid = site.store.load(state).pid
    assert f"tdt evidence {pid}" in caught.value.remedy
    assert [i.status for i in pool_of(site.store, pid).items if i.kind == "scan"] == ["standing"]
