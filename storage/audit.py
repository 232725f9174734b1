"""The audit trail: one JSON line per event, each carrying the hash of the line before it.

A line is the canonical JSON of its record; `hash` is the SHA-256 of the record without `hash`. Changing, removing or
reordering any line breaks the chain from there on. Lines cut from the end are found by comparing the trail with the states
and decisions on disk (`storage.verify`).
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.atomic import checkpoint, fsync_path
from storage.home import Home
from storage.locks import lock
from tdt_core.codec import canonical_json, digest
from tdt_core.errors import StoreError, TimeError

SCHEMA_VERSION = 1
GENESIS = "0" * 64

Record = dict[str, Any]


def utc_text(when: datetime) -> str:
    """ISO 8601 in UTC with microseconds. Raises TimeError when the time has no zone."""
    if when.tzinfo is None:
        raise TimeError("a time without a zone", expected="a time with its zone", remedy="use datetime.now(UTC)")
    return when.astimezone(UTC).isoformat(timespec="microseconds")


class AuditTrail:
    """Append-only, hash-chained events of one TDT_HOME."""

    def __init__(self, home: Home) -> None:
        self.path: Path = home.audit
        self._lock = home.locks / "audit.lock"

    def append(self, event: str, data: dict[str, Any], *, time: datetime | None = None) -> Record:
        """Append one event, sync it, and return its record. Refuses to go on from a broken chain (`audit.broken`)."""
        with lock(self._lock):
            self._mend_tail()
            last = self._last()
            record: Record = {
                **data,
                "schema_version": SCHEMA_VERSION,
                "sequence": 0 if last is None else last["sequence"] + 1,
                "time": utc_text(datetime.now(UTC) if time is None else time),
                "event": event,
                "previous": GENESIS if last is None else last["hash"],
            }
            record["hash"] = digest(record)
            fresh = not self.path.exists()
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                _write_all(fd, canonical_json(record).encode() + b"\n")
                checkpoint("audit-written")
                os.fsync(fd)
            finally:
                os.close(fd)
            if fresh:
                fsync_path(self.path.parent)
        return record

    def events(self) -> list[Record]:
        """All records, oldest first. A torn last line (death while appending) was never acknowledged and is left out.

        Raises StoreError `audit.broken` naming the first wrong line.
        """
        records, problem = self._read()
        if problem is not None:
            raise StoreError(
                f"audit.jsonl {problem}",
                expected="an unbroken hash chain",
                remedy="restore audit.jsonl from a backup; `tdt twin verify` lists what differs",
                kind="audit.broken",
            )
        return records

    def verify(self) -> list[str]:
        """What is wrong with the trail, in words; empty when the chain is whole."""
        return [w for w in (self.scan()[1],) if w is not None]

    def scan(self) -> tuple[list[Record], str | None]:
        """The records up to the first wrong line, and what is wrong with the trail in words, or None."""
        records, problem = self._read()
        if problem is None and self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            problem = "ends in an unfinished line; the next commit mends it"
        return records, problem

    def _read(self) -> tuple[list[Record], str | None]:
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return [], None
        lines = raw.split(b"\n")
        torn = lines.pop()  # b"" when the last line ended well
        records: list[Record] = []
        previous = GENESIS
        for number, line in enumerate(lines, start=1):
            record = _parse(line)
            if record is None:
                return records, f"line {number} is damaged"
            if record["previous"] != previous or record["sequence"] != number - 1:
                return records, f"line {number} does not follow the line before it"
            previous = record["hash"]
            records.append(record)
        if torn and _parse(torn[:-1]) is not None:
            return records, f"line {len(lines) + 1} has a damaged line end"
        return records, None

    def _mend_tail(self) -> None:
        """Cut a torn last line: it was never acknowledged, and nothing may be written behind it."""
        if not self.path.exists() or self.path.stat().st_size == 0:
            return
        with self.path.open("r+b") as f:
            f.seek(-1, os.SEEK_END)
            if f.read(1) == b"\n":
                return
            f.seek(0)
            raw = f.read()
            keep = raw.rfind(b"\n") + 1
            if _parse(raw[keep:]) is not None:
                f.seek(0, os.SEEK_END)
                f.write(b"\n")
            else:
                f.truncate(keep)
            f.flush()
            os.fsync(f.fileno())

    def _last(self) -> Record | None:
        records = self.events()
        return records[-1] if records else None


def _parse(line: bytes) -> Record | None:
    """The record of a line, or None when the line is not the canonical text of a record with the right hash."""
    try:
        record = json.loads(line)
        if not isinstance(record, dict) or canonical_json(record).encode() != line:
            return None
        body = {k: v for k, v in record.items() if k != "hash"}
        return record if digest(body) == record["hash"] and {"previous", "sequence"} <= body.keys() else None
    except (ValueError, KeyError, StoreError):
        return None


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
