"""The audit trail: chained, append-only, whole after a death, and broken by any change."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage.audit import GENESIS, AuditTrail, utc_text
from storage.home import open_home
from tdt_core.codec import canonical_json, digest
from tdt_core.errors import StoreError, TimeError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def trail(tmp_path: Path) -> AuditTrail:
    trail = AuditTrail(open_home(tmp_path / "home"))
    for n in range(4):
        trail.append("event", {"n": n, "text": "µ"})
    return trail


def test_each_line_carries_the_hash_of_the_line_before(trail: AuditTrail) -> None:
    records = [json.loads(line) for line in trail.path.read_text().splitlines()]
    assert [r["n"] for r in records] == [0, 1, 2, 3]
    assert [r["previous"] for r in records] == [GENESIS, *(r["hash"] for r in records[:-1])]
    for r in records:
        assert r["hash"] == digest({k: v for k, v in r.items() if k != "hash"})
    assert trail.events() == records
    assert trail.verify() == []


def test_a_trail_that_was_never_written_is_empty_and_whole(tmp_path: Path) -> None:
    trail = AuditTrail(open_home(tmp_path / "home"))
    assert trail.events() == []
    assert trail.verify() == []


def test_every_single_flipped_byte_is_found(trail: AuditTrail) -> None:
    whole = trail.path.read_bytes()
    missed = []
    for position in range(0, len(whole)):
        trail.path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        if not trail.verify():
            missed.append(position)
    assert missed == []
    trail.path.write_bytes(whole)
    assert trail.verify() == []


@pytest.mark.parametrize("change", ["remove", "swap", "repeat", "rewrite"])
def test_removing_swapping_repeating_or_rewriting_a_line_is_found_and_stops_the_next_one(
    trail: AuditTrail, change: str
) -> None:
    lines = trail.path.read_text().splitlines()
    if change == "remove":
        del lines[1]
    elif change == "swap":
        lines[1], lines[2] = lines[2], lines[1]
    elif change == "repeat":
        lines.insert(1, lines[1])
    else:
        record = json.loads(lines[1]) | {"n": 9}
        record["hash"] = digest({k: v for k, v in record.items() if k != "hash"})
        lines[1] = canonical_json(record)
    trail.path.write_text("\n".join(lines) + "\n")
    (problem,) = trail.verify()
    assert "line 3" in problem if change in ("rewrite", "repeat") else "line 2" in problem
    with pytest.raises(StoreError) as e:
        trail.append("event", {})
    assert e.value.kind == "audit.broken"


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_line_torn_by_death_was_never_acknowledged_and_is_mended_by_the_next_one(trail: AuditTrail, cut: int) -> None:
    whole = trail.path.read_bytes()
    trail.append("event", {"n": 4})
    torn = trail.path.read_bytes()[: len(whole) + cut]
    trail.path.write_bytes(torn)
    assert len(trail.events()) == 4
    assert "unfinished" in trail.verify()[0]
    trail.append("event", {"n": 5})
    assert [e["n"] for e in trail.events()] == [0, 1, 2, 3, 5]
    assert trail.path.read_bytes().startswith(whole)
    assert trail.verify() == []


def test_a_whole_line_that_only_lost_its_line_end_is_kept(trail: AuditTrail) -> None:
    trail.path.write_bytes(trail.path.read_bytes()[:-1])
    trail.append("event", {"n": 4})
    assert [e["n"] for e in trail.events()] == [0, 1, 2, 3, 4]


def test_lines_of_several_processes_form_one_chain(tmp_path: Path) -> None:
    home = tmp_path / "home"
    trail = AuditTrail(open_home(home))
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from storage.audit import AuditTrail; from storage.home import open_home\n"
        "trail = AuditTrail(open_home(sys.argv[1]))\n"
        "for n in range(15): trail.append('event', {'n': n})\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", script, str(home), str(ROOT)]) for _ in range(2)]
    assert [w.wait(60) for w in workers] == [0, 0]
    assert len(trail.events()) == 30
    assert trail.verify() == []


def test_times_are_kept_in_utc_and_need_a_zone() -> None:
    assert utc_text(datetime(2026, 3, 1, 9, tzinfo=UTC)) == "2026-03-01T09:00:00.000000+00:00"
    assert utc_text(datetime.fromisoformat("2026-03-01T10:00:00+01:00")) == "2026-03-01T09:00:00.000000+00:00"
    with pytest.raises(TimeError):
        utc_text(datetime(2026, 3, 1, 9))
