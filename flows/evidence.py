"""What a patient's twin rests on, item by item, and how an item is taken back.

`tdt evidence` lists, `tdt retract` takes back. What was delivered is never removed: a retraction is recorded with its reason
and name, and the chain is derived again, as a branch, from the cycle on that rested on the item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flows.chain import Caller, bring_up_to_date, call_directly, pooled, ready
from flows.site import Site
from storage.deliveries import pool_of, record_retraction
from storage.pool import Item
from storage.twins import TwinStore, now
from tdt_core.errors import UsageError


def listed(store: TwinStore, pid: str) -> list[dict[str, Any]]:
    """Every item that was ever stated, in order of time: id, kind, hour, since when known, what became of it.

    `time_h` is hours after the first therapy, of a scan when its values hold, as everywhere: the middle of a SPECT, the start
    of a PET. CT and regions have the hour of the first scan in their frame of reference, and say which scans those are.
    """
    known = pool_of(store, pid)
    if not known.items:
        raise _nobody()
    scans = [item for item in known.items if item.kind == "scan"]
    rows = [
        {
            "item": item.id,
            "kind": item.kind,
            "what": in_words(item, scans),
            "time_h": hour_of(item, scans),
            "version": item.version,
            "status": item.status,
            "reason": known.retracted[item.id]["reason"] if item.id in known.retracted else "",
        }
        for item in known.items
    ]
    return sorted(rows, key=lambda r: (r["time_h"] is not None, r["time_h"] or 0.0, r["kind"], r["version"], r["item"]))


def _nobody() -> UsageError:
    return UsageError(
        "no evidence of that pseudonym",
        expected="a pseudonym of the store",
        remedy="`tdt twin list` shows them",
        kind="store.unknown",
    )


def scans_of(item: Item, scans: Sequence[Item]) -> list[Mapping[str, Any]]:
    """The scans in the frame of reference of a CT or of regions, in order of time, versions of one scan once."""
    found = {s.plain["time_h"]: s.plain for s in scans if s.plain["frame_of_reference"] == item.plain["frame_of_reference"]}
    return [found[t] for t in sorted(found)]


def hour_of(item: Item, scans: Sequence[Item]) -> float | None:
    """Hours after the first therapy at which an item holds; None where no scan says when that is."""
    if item.kind in ("ct", "labels"):
        return next((s["time_h"] for s in scans_of(item, scans)), None)
    return float(item.plain["time_h"] if item.kind == "scan" else item.time_h)


def in_words(item: Item, scans: Sequence[Item]) -> str:
    """What an item says, without identity."""
    x = item.plain
    if item.kind == "administration":
        return f"{x['activity_mbq']:.0f} MBq {x['product']} ({x['intent']})"
    if item.kind == "scan":
        return f"{x['modality']}, {x['nuclide']}"
    if item.kind == "lab":
        return f"{x['analyte']} {x['comparator']}{x['value']:g} {x['unit']} ({x['status']})"
    if item.kind == "sample":
        return f"{x['kind']}, {x['nuclide']}"
    if item.kind == "prior_therapy":
        return f"{x['region']} {x['dose_gy']:g} Gy ({x['radiation']})"
    shown = " and ".join(f"the {s['modality']} at {s['time_h']:.1f} h" for s in scans_of(item, scans))
    return f"of {shown}" if shown else f"of no scan that is known, in frame {x['frame_of_reference'][-8:]}"


def retract(
    site: Site,
    pid: str,
    items: Sequence[str],
    *,
    reason: str,
    by: str,
    undo: bool = False,
    call: Caller = call_directly,
) -> dict[str, Any]:
    """Take items back (`undo`: put them in force again) and derive the chain again; returns what `bring_up_to_date` does.

    Of several versions of one thing the one before stands again; retract that one too where it is wrong as well. A cycle left
    without scans or regions waits with all later ones, and the twin goes back to the cycle before.

    Raises
    ------
    UsageError `store.unknown`, `retraction.unknown`, `retraction.incomplete` without reason or name, `retraction.state` for an
    item that is retracted (or not) already; InputError as `flows.chain.ready` when no cycle would be left. Nothing is recorded
    then.
    """
    if not reason.strip() or not by.strip():
        raise UsageError(
            "a retraction without a reason or a name",
            expected="both: they stay in the record",
            remedy='tdt retract PATIENT ITEM --reason "..." --name "..."',
            kind="retraction.incomplete",
        )
    known = pool_of(site.store, pid)
    if not known.items:
        raise _nobody()
    chosen = [known.find(prefix) for prefix in dict.fromkeys(items)]
    for item in chosen:
        if (item.id in known.retracted) != undo:
            raise UsageError(
                f"item {item.id[:12]} is {'not retracted' if undo else 'retracted already'}",
                expected=f"an item that is {'retracted' if undo else 'in force'}",
                remedy="`tdt evidence PATIENT` shows what became of each; "
                + ("leave --undo out to take it back" if undo else "--undo puts it in force again"),
                kind="retraction.state",
            )
    ready(pool_of(site.store, pid, retract={item.id: not undo for item in chosen}))
    for item in chosen:
        record_retraction(site.store, pid, item.id, undone=undo, reason=reason.strip(), by=by.strip(), time=now())
    return bring_up_to_date(site, pid, pooled(site, pid), call)
