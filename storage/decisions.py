"""Decisions of persons on proposals: content-addressed records that are never changed, only followed by another.

`twins/<pid>/decisions/<id>.json` is canonical JSON and its SHA-256 is `<id>`. It holds the decision, when it was made, the
seal of the state that the person was shown, and which earlier record it replaces.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from storage.atomic import checkpoint, write_atomic
from storage.audit import utc_text
from storage.state_files import read_json
from tdt_core.codec import canonical_json, from_plain, to_plain
from tdt_core.errors import ConflictError, InputError, StoreError
from tdt_core.twin import Decision, JsonDict, Proposal

SCHEMA_VERSION = 1

KINDS = ("signed", "changed", "refused", "retrospective")
PROPOSED_TOLERANCE_MBQ = 0.5
"""`signed` means the proposed activity as it is shown, to the MBq."""


@dataclass(frozen=True)
class DecisionRecord:
    """A decision at rest. `id` is the SHA-256 of its file."""

    id: str
    pid: str
    decision: Decision
    time: datetime
    state_manifest: str
    replaces: str | None
    replace_reason: str


def check_decision(decision: Decision, proposal: Proposal | None) -> None:
    """Refuse an incomplete or contradictory decision (`decision.incomplete`, `decision.contradiction`).

    Nothing is filled in: an activity is required unless the administration is refused, and a name, a role and a reason
    unless the decision is retrospective, which nobody signs.
    """
    if decision.kind not in KINDS:
        raise InputError(f"a decision of kind {decision.kind!r}", expected=f"one of {KINDS}", kind="decision.incomplete")
    required = ("reason",) if decision.kind == "retrospective" else ("signed_by", "role", "reason")
    empty = [name for name in required if not getattr(decision, name).strip()]
    activity = decision.activity_mbq
    if decision.kind != "refused" and activity is None:
        empty.append("activity_mbq")
    if empty:
        raise InputError(
            f"a decision without {', '.join(empty)}", expected="every required field filled in", kind="decision.incomplete"
        )
    if activity is not None and not (math.isfinite(activity) and activity > 0):
        raise InputError(f"a decision on {activity} MBq", expected="> 0 MBq", kind="decision.contradiction")
    if decision.kind == "refused" and activity is not None:
        raise InputError("a refused administration with an activity", expected="none", kind="decision.contradiction")
    if decision.kind == "retrospective" and decision.signed_by.strip():
        raise InputError("a retrospective decision with a signature", expected="none", kind="decision.contradiction")
    if decision.kind == "signed":
        proposed = None if proposal is None else proposal.activity_mbq
        if proposed is None:
            raise InputError(
                "a signature where the twin makes no recommendation",
                expected="`changed` with an activity of one's own, or `refused`",
                kind="decision.contradiction",
            )
        assert activity is not None
        if abs(activity - proposed) > PROPOSED_TOLERANCE_MBQ:
            raise InputError(
                f"a signature on {activity:g} MBq where {proposed:g} MBq were proposed",
                expected="the proposed activity, or `changed` with a reason",
                kind="decision.contradiction",
            )


def make_record(
    pid: str, decision: Decision, *, time: datetime, state_manifest: str, replaces: str | None, replace_reason: str
) -> tuple[DecisionRecord, bytes]:
    """A record and the bytes of its file."""
    content: JsonDict = {
        "schema_version": SCHEMA_VERSION,
        "pid": pid,
        "decision": to_plain(decision),
        "time": utc_text(time),
        "state_manifest": state_manifest,
        "replaces": replaces,
        "replace_reason": replace_reason,
    }
    data = canonical_json(content).encode()
    return _record(hashlib.sha256(data).hexdigest(), content), data


def _record(name: str, content: JsonDict) -> DecisionRecord:
    if content["schema_version"] != SCHEMA_VERSION:
        raise StoreError(
            f"a decision of schema version {content['schema_version']}",
            expected=f"{SCHEMA_VERSION}",
            remedy="use the newer software that wrote it",
            kind="store.version",
        )
    return DecisionRecord(
        id=name,
        pid=content["pid"],
        decision=from_plain(Decision, content["decision"]),
        time=datetime.fromisoformat(content["time"]),
        state_manifest=content["state_manifest"],
        replaces=content["replaces"],
        replace_reason=content["replace_reason"],
    )


def write_record(folder: Path, record: DecisionRecord, data: bytes) -> None:
    """Put a record on disk, whole or not at all."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    checkpoint("decision-ready")
    write_atomic(folder / f"{record.id}.json", data, label="decision")
    checkpoint("decision-written")


def read_records(folder: Path) -> list[DecisionRecord]:
    """All records of one patient by time, then by id. A file whose name is not its SHA-256 is `store.damaged`."""
    records = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        if hashlib.sha256(path.read_bytes()).hexdigest() != path.stem:
            raise StoreError(
                f"decision {path.stem[:12]} is damaged", remedy="restore its file from a backup", kind="store.damaged"
            )
        records.append(_record(path.stem, read_json(path)))
    return sorted(records, key=lambda r: (r.time, r.id))


def effective(records: Iterable[DecisionRecord], state: str) -> DecisionRecord | None:
    """The record on a state that no other record replaces, or None."""
    on_state = [r for r in records if r.decision.state == state]
    replaced = {r.replaces for r in on_state}
    standing = [r for r in on_state if r.id not in replaced]
    if len(standing) > 1:
        raise ConflictError(
            f"{len(standing)} standing decisions on state {state[:12]}",
            expected="one",
            remedy="run `tdt twin verify`; a decision file was added by hand",
            kind="decision.conflict",
        )
    return standing[0] if standing else None


def record_plain(record: DecisionRecord) -> dict[str, Any]:
    """A record as plain JSON, for listings."""
    return {
        "id": record.id,
        "time": utc_text(record.time),
        "replaces": record.replaces,
        "replace_reason": record.replace_reason,
        **to_plain(record.decision),
    }
