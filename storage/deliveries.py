"""Deliveries and retractions of a patient at rest: one evidence item and one line of the audit trail each.

The trail says when each became known; `storage.pool` says what stands. Nothing is ever removed: a retraction is one more line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from storage import pool
from storage.audit import Record, utc_text
from storage.cycles import KIND as CYCLE
from storage.evidence import EvidenceStore, digest_json, digest_labels
from storage.intake_types import Intake
from storage.pool_findings import Finding, findings_of
from storage.twins import TwinStore
from tdt_core.codec import to_plain
from tdt_core.errors import UsageError
from tdt_core.twin import JsonDict

KIND = "delivery"


@dataclass(frozen=True)
class Pool:
    """Everything that was delivered for a patient, judged."""

    pid: str
    statements: tuple[pool.Statement, ...]
    items: tuple[pool.Item, ...]
    retracted: Mapping[str, Record]

    def cycles(self) -> dict[int, JsonDict]:
        """Cycle number -> bundle of what stands. Raises InputError as `pool.cycles_of_pool`."""
        return pool.cycles_of_pool(self.pid, self.items, self.statements)

    def findings(self) -> tuple[Finding, ...]:
        """What a reader must know of the versions that stand (`storage.pool_findings`)."""
        return findings_of(self.items, {i: str(e["reason"]) for i, e in self.retracted.items()})

    def find(self, prefix: str) -> pool.Item:
        """The one item whose id starts with `prefix`. Raises UsageError `retraction.unknown`."""
        found = [i for i in self.items if i.id.startswith(prefix.lower())]
        if len(prefix) < 4 or len(found) != 1:
            raise UsageError(
                f"{len(found) if len(prefix) >= 4 else 'no'} items of evidence begin with these digits",
                expected="4 digits or more of one item",
                remedy="`tdt evidence PATIENT` lists the items",
                kind="retraction.unknown",
            )
        return found[0]


def content_of(intake: Intake) -> JsonDict:
    """What a folder states, as plain data; scans and regions by their digests."""
    cycles = intake.cycles
    labels = [v for c in cycles for v in (*(() if c.labels is None else (c.labels,)), *c.further_labels)]
    remarks = {k: list(v) for c in cycles for k, v in c.remarks.items() if v}
    return {
        "pid": intake.pid,
        "patient": to_plain(intake.patient),
        "issued": "" if intake.issued is None else utc_text(intake.issued),
        "midnight_h": intake.midnight_h,
        "administrations": [to_plain(a) for c in cycles for a in c.administrations],
        "scans": sorted(s.id for c in cycles for s in c.scans),
        "ct": sorted([frame, s.id] for c in cycles for frame, s in c.cts.items()),
        "labels": sorted([v.frame_of_reference, digest_labels(v)] for v in labels),
        "labs": [to_plain(x) for c in cycles for x in c.labs],
        "withdrawn_labs": list(intake.withdrawn_labs),
        "samples": [to_plain(x) for x in intake.lines],
        "prior_therapies": [to_plain(x) for c in cycles for x in c.prior_therapies],
        "remarks": remarks,
    }


def pool_of(store: TwinStore, pid: str, *, more: JsonDict | None = None, retract: Mapping[str, bool] | None = None) -> Pool:
    """What is known of a patient, with a delivery or retractions (item id -> whether it is retracted) to be tried out."""
    events = [e for e in store.audit.events() if e.get("pid") == pid]
    known = _statements(store, pid, events)
    if more is not None:
        name = digest_json(KIND, more)
        known.setdefault(name, pool.Statement(name, utc_text(datetime.now(UTC)), more))
    retracted: dict[str, Record] = {}
    for e in events:
        if e["event"] == "retraction":
            retracted[e["item"]] = e
    gone = {i for i, e in retracted.items() if not e["undone"]}
    gone = (gone | {i for i, yes in (retract or {}).items() if yes}) - {i for i, yes in (retract or {}).items() if not yes}
    statements = tuple(known.values())
    items = pool.judged(pool.items_of(statements, store.evidence.about), statements, gone)
    return Pool(pid, statements, items, {i: retracted[i] for i in gone if i in retracted})


def _statements(store: TwinStore, pid: str, events: Iterable[Record]) -> dict[str, pool.Statement]:
    """Every delivery of a patient by its digest, in order of first arrival."""
    events = list(events)
    known: dict[str, pool.Statement] = {}
    for e in events:
        if e["event"] == KIND and e["delivery"] not in known:
            known[e["delivery"]] = pool.Statement(
                e["delivery"], e["knowledge_time"], store.evidence.get_json(e["delivery"], KIND)
            )
    for one in () if _chain_kept(events) else _from_chain(store, pid):
        known.setdefault(one.digest, one)
    return known


def ever_stood(store: TwinStore, pid: str) -> frozenset[str]:
    """Ids of the items that stood after any delivery or retraction, in the order in which these arrived here."""
    events = [e for e in store.audit.events() if e.get("pid") == pid]
    known = _statements(store, pid, events)
    told = {e["delivery"] for e in events if e["event"] == KIND}
    describe = cache(store.evidence.about)
    statements = [s for s in known.values() if s.digest not in told]
    gone: set[str] = set()
    stood: set[str] = set()
    for e in events:
        if e["event"] == KIND and known[e["delivery"]] not in statements:
            statements.append(known[e["delivery"]])
        elif e["event"] == "retraction":
            gone = gone - {e["item"]} if e["undone"] else gone | {e["item"]}
        else:
            continue
        judged = pool.judged(pool.items_of(statements, describe), statements, gone)
        stood |= {i.id for i in judged if i.status == "standing"}
    return frozenset(stood)


def stated_by(store: TwinStore, delivery: str) -> frozenset[str]:
    """Ids of the items that one delivery states."""
    content = store.evidence.get_json(delivery, KIND)
    return frozenset(i.id for i in pool.items_of([pool.Statement(delivery, "", content)], store.evidence.about))


def record_delivery(store: TwinStore, content: JsonDict, *, time: datetime) -> str:
    """Keep a delivery; returns its digest. One that is there already is known since it first came."""
    pid = content["pid"]
    _keep_chain(store, pid)
    name = store.evidence.put_json(KIND, content)
    if name not in {e["delivery"] for e in store.audit.events() if e.get("pid") == pid and e["event"] == KIND}:
        store.audit.append(KIND, {"pid": pid, "delivery": name, "knowledge_time": utc_text(time)})
    return name


def _keep_chain(store: TwinStore, pid: str) -> None:
    """Keep the chain of a home without deliveries as deliveries, before anything makes another chain.

    `to_come` tells how many of them follow, so that a death in between is seen and the rest is kept by the next run.
    """
    if _chain_kept([e for e in store.audit.events() if e.get("pid") == pid]):
        return
    chain = _from_chain(store, pid)
    for n, one in enumerate(chain, start=1):
        name = store.evidence.put_json(KIND, one.content)
        told = {"pid": pid, "delivery": name, "knowledge_time": one.known, "to_come": len(chain) - n}
        store.audit.append(KIND, told)


def _chain_kept(events: Iterable[Record]) -> bool:
    return any(e["event"] == KIND and e.get("to_come", 0) == 0 for e in events)


def record_retraction(store: TwinStore, pid: str, item: str, *, undone: bool, reason: str, by: str, time: datetime) -> Record:
    """Keep that an item does not hold (or, `undone`, holds after all), why and who says so."""
    _keep_chain(store, pid)
    data = {"pid": pid, "item": item, "undone": undone, "reason": reason, "by": by, "knowledge_time": utc_text(time)}
    return store.audit.append("retraction", data)


def put_bundles(evidence: EvidenceStore, bundles: Mapping[int, JsonDict]) -> dict[int, str]:
    """Store bundles with the tables that their digests name; returns cycle number -> digest of the bundle."""
    for bundle in bundles.values():
        evidence.put_json("patient", bundle["patient"])
        for kind in ("administrations", "labs", "prior_therapies", "samples"):
            if bundle.get(kind):
                evidence.put_json(kind, bundle[kind])
    return {number: evidence.put_json(CYCLE, bundle) for number, bundle in sorted(bundles.items())}


def _from_chain(store: TwinStore, pid: str) -> tuple[pool.Statement, ...]:
    """The current chain of a home that was written before deliveries were kept, each cycle as one delivery."""
    found = []
    for info in store.log(pid):
        bundle = store.load(info.id).summary.get("cycle_bundle")
        if bundle is not None:
            content = _content_of_bundle(store.evidence.get_json(bundle, CYCLE))
            found.append(pool.Statement(digest_json(KIND, content), utc_text(info.knowledge_time), content))
    return tuple(found)


def _content_of_bundle(bundle: Mapping[str, Any]) -> JsonDict:
    scans = list(bundle["scans"])
    return {
        "pid": bundle["pid"],
        "patient": bundle["patient"],
        "issued": "",
        "midnight_h": 0.0,
        "administrations": bundle["administrations"],
        "scans": scans,
        "ct": sorted([frame, name] for frame, name in bundle["cts"].items()),
        "labels": [[bundle["labels_for"], bundle["labels"]]] if bundle["labels"] else [],
        "labs": bundle["labs"],
        "withdrawn_labs": [],
        "samples": [_line_of(x) for x in bundle.get("samples", ())],
        "prior_therapies": bundle.get("prior_therapies", []),
        "remarks": {scans[0]: list(bundle["findings"])} if scans and bundle["findings"] else {},
    }


def _line_of(sample: Mapping[str, Any]) -> JsonDict:
    """A stored sample as a row. A dose rate stays the activity that it was made, until the folder with its row comes again."""
    return {
        "kind": sample["kind"],
        "start_h": sample["time_h"],
        "end_h": sample["until_h"],
        "value": sample["value"],
        "below": sample["below"],
        "nuclide": sample["nuclide"],
        "relative_sd": sample["relative_sd"],
        "counter": sample["calibration_id"].split(" after ")[0],
        "counter_sd": sample["calibration_sd"],
        "rate": False,
    }
