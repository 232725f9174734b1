"""What a person is told of versions: retracted scans that come again, records that never stood, factors apart."""

from __future__ import annotations

import dataclasses
import json
import shutil
from datetime import datetime, timedelta

import inbox_builder as b
import pytest
from histories import PIECES, chain_of, new_site, stand_in, write_piece

from flows import run
from flows.chain import run_chain
from flows.cli import main
from flows.evidence import findings, listed, not_used, retract
from flows.notes import notes_of
from flows.reasons import reason_of
from storage.deliveries import pool_of


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_piece(tmp_path_factory.mktemp("pieces") / "base", PIECES["base"])


@pytest.fixture
def site(base, tmp_path):
    made = new_site(tmp_path / "site", tmp_path / "vault")
    run_chain(made, base, stand_in)
    return made


def with_factor(base, folder, share, date=None, later_h=0):
    """The same folder in which only the calibration was edited, issued later: else which version stands follows its id."""
    shutil.copytree(base, folder)
    table = json.loads((folder / "calibration.json").read_text())
    for row in table["calibrations"]:
        row["sensitivity_cps_per_mbq"] *= share
        row["date"] = date or row["date"]
    (folder / "calibration.json").write_text(json.dumps(table))
    record = json.loads((folder / "administrations.json").read_text())
    issued = datetime.fromisoformat(record["issued"]) + timedelta(hours=later_h)
    (folder / "administrations.json").write_text(json.dumps({**record, "issued": issued.isoformat()}))
    return folder


def scans(site):
    (pid,) = site.store.pids()
    return {i.id: i for i in pool_of(site.store, pid).items if i.kind == "scan"}


def later_scan(site, tmp_path):
    """A second scan, so that the first can be retracted; returns the patient and the second one's item."""
    (pid,) = site.store.pids()
    before = set(scans(site))
    run_chain(site, write_piece(tmp_path / "late", PIECES["late scan"]), stand_in)
    (second,) = set(scans(site)) - before
    return pid, second


def test_a_retracted_scan_that_is_delivered_again_stands_and_is_told(site, base, tmp_path):
    pid, second = later_scan(site, tmp_path)
    retract(site, pid, [second], reason="patient moved", by="a physicist", call=stand_in)
    assert findings(site.store, pid) == []
    again = write_piece(tmp_path / "late-again", PIECES["late scan"])
    run_chain(site, with_factor(again, tmp_path / "edited", 1.05), stand_in)
    (words,) = findings(site.store, pid)
    assert "SPECT at 48.2 h was retracted (patient moved) and has been delivered again: the new version stands" in words
    assert "retract it again if the acquisition itself is wrong" in words
    head = site.store.load(chain_of(site)[-1])
    assert words in notes_of(site.store, head.id)
    assert words not in json.dumps(head.summary), "beside the state, whose content follows from its identity"
    (fresh,) = {i for i, item in scans(site).items() if item.status == "standing" and item.time_h > 40}
    retract(site, pid, [fresh], reason="moved in this one, too", by="a physicist", call=stand_in)
    assert findings(site.store, pid) == []


def test_the_finding_is_the_same_in_any_order_of_retraction_and_delivery(site, base, tmp_path):
    pid, second = later_scan(site, tmp_path)
    again = with_factor(write_piece(tmp_path / "late-again", PIECES["late scan"]), tmp_path / "edited", 1.05)
    run_chain(site, again, stand_in)
    retract(site, pid, [second], reason="patient moved", by="a physicist", call=stand_in)
    (one,) = findings(site.store, pid)
    other = new_site(tmp_path / "other", site.settings.vault)
    run_chain(other, base, stand_in)
    later_scan(other, tmp_path / "o")
    retract(other, pid, [second], reason="patient moved", by="a physicist", call=stand_in)
    run_chain(other, again, stand_in)
    assert chain_of(other) == chain_of(site)
    assert findings(other.store, pid) == [one]


def test_a_record_that_is_older_than_the_one_that_stands_is_said_to_be_unused(site, tmp_path, capsys):
    (pid,) = site.store.pids()
    newer = dataclasses.replace(PIECES["activity corrected"], day=40.0, activity={1: 7200.0})
    run_chain(site, write_piece(tmp_path / "newer", newer), stand_in)
    before = chain_of(site)
    taken = run_chain(site, write_piece(tmp_path / "older", PIECES["activity corrected"]), stand_in)
    assert chain_of(site) == before
    (words,) = [w for w in not_used(site.store, pid, taken["delivery"]) if "MBq" in w]
    assert words.startswith("7100 MBq Lu-177-PSMA-617 (therapy): a record issued 2026-03-")
    assert "is older than the one that stands since 2026-04-" in words
    assert "deliver it with a later `issued`" in words
    status = {r["what"].split()[0]: r["status"] for r in listed(site.store, pid) if r["kind"] == "administration"}
    assert status == {"7400": "replaced", "7100": "older", "7200": "standing"}
    assert words in run.outcome_of(site.store, taken)["not_used"]


def test_a_record_with_the_same_issued_as_the_one_that_stands_stands_or_is_said_to_be_unused(site, tmp_path):
    (pid,) = site.store.pids()
    for n, activity in enumerate((7100.0, 7300.0, 7250.0)):
        piece = dataclasses.replace(PIECES["activity corrected"], activity={1: activity})
        taken = run_chain(site, write_piece(tmp_path / f"n{n}", piece), stand_in)
        rows = {r["what"].split()[0]: r["status"] for r in listed(site.store, pid) if r["kind"] == "administration"}
        told = [w for w in not_used(site.store, pid, taken["delivery"]) if "MBq" in w]
        assert (rows[f"{activity:.0f}"] == "not used") == bool(told)
        assert all("the same `issued`" in w for w in told)
        assert list(rows.values()).count("standing") == 1


def test_what_was_replaced_after_it_stood_is_not_said_to_be_older_and_an_old_folder_again_says_nothing(site, base, tmp_path):
    (pid,) = site.store.pids()
    run_chain(site, write_piece(tmp_path / "corrected", PIECES["activity corrected"]), stand_in)
    taken = run_chain(site, base, stand_in)
    assert not_used(site.store, pid, taken["delivery"]) == []
    assert {r["status"] for r in listed(site.store, pid)} == {"standing", "replaced"}


def test_the_evidence_lists_the_calibration_of_each_scan_and_says_where_factors_lie_apart(site, base, tmp_path, capsys):
    (pid,) = site.store.pids()
    run_chain(site, with_factor(base, tmp_path / "near", 1.15, later_h=1), stand_in)
    assert findings(site.store, pid) == []
    run_chain(site, with_factor(base, tmp_path / "half", 0.5, date="2026-02-01", later_h=2), stand_in)
    assert findings(site.store, pid) == [], "another date is another calibration"
    run_chain(site, with_factor(base, tmp_path / "far", 0.5, later_h=3), stand_in)
    rows = [r["what"] for r in listed(site.store, pid) if r["kind"] == "scan"]
    assert len(set(rows)) == len(rows) == 4
    assert all(f"{b.CALIBRATION['date']}" in r or "2026-02-01" in r for r in rows)
    assert all("cps/MBq, calibration " in r for r in rows)
    (words,) = findings(site.store, pid)
    low, high = 0.5 * b.SENSITIVITY, 1.15 * b.SENSITIVITY
    assert f"factors {low:g}, {b.SENSITIVITY:g}, {high:g} cps/MBq" in words
    assert "assumed" in words
    assert main(["--home", str(site.settings.home), "evidence", pid]) == 0
    assert "note: The calibration of device" in capsys.readouterr().out


def test_a_branch_says_what_was_retracted_replaced_and_added_and_its_id_does_not_depend_on_it(site, base, tmp_path, capsys):
    pid, second = later_scan(site, tmp_path)
    begun = site.store.info(chain_of(site)[-1]).supersedes
    scan = f"the SPECT at 48.2 h, {b.SENSITIVITY:g} cps/MBq"
    assert [reason_of(site.store, s) for s in (begun, chain_of(site)[-1])] == ["", f"added {scan}"]
    retract(site, pid, [second], reason="patient moved", by="a physicist", call=stand_in)
    assert chain_of(site) == [begun], "what it rested on before is what it rests on again"
    assert reason_of(site.store, begun) == f"retracted {scan} (patient moved)"
    run_chain(site, write_piece(tmp_path / "corrected", PIECES["activity corrected"]), stand_in)
    corrected = "replaced 7400 MBq Lu-177-PSMA-617 (therapy) by 7100 MBq Lu-177-PSMA-617 (therapy)"
    (head,) = chain_of(site)
    assert reason_of(site.store, head) == corrected
    assert main(["--home", str(site.settings.home), "explain", head]) == 0
    assert f"because: {corrected}" in capsys.readouterr().out
    later = write_piece(tmp_path / "later", dataclasses.replace(PIECES["base"], day=60.0, activity={1: 7100.0}))
    run_chain(site, with_factor(later, tmp_path / "half", 0.5), stand_in)
    words = reason_of(site.store, chain_of(site)[-1])
    assert words == f"replaced the SPECT at 4.2 h, {b.SENSITIVITY:g} cps/MBq by {b.SENSITIVITY / 2:g} cps/MBq"
