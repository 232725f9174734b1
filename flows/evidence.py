"""What a patient's twin rests on, item by item, and how an item is taken back.

`tdt evidence` lists, `tdt retract` takes back. What was delivered is never removed: a retraction is recorded with its reason
and name, and the chain is derived again, as a branch, from the cycle on that rested on the item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flows.chain import Caller, bring_up_to_date, call_directly, pooled, ready
from flows.site import Site
from storage.deliveries import KIND, Pool, ever_stood, pool_of, record_retraction, stated_by
from storage.pool import Item
from storage.pool_findings import calibration_words, in_place_of, minute, why_not_used
from storage.twins import TwinStore, now
from tdt_core.errors import UsageError


def listed(store: TwinStore, pid: str) -> list[dict[str, Any]]:
    """Every item that was ever stated, in order of time: id, kind, hour, since when known, what became of it.

    `status` is standing, replaced or retracted; older for a version that never stood because a newer one did when it came, and
    not used for one that never stood for another reason (the same `issued`, a lower rank of a laboratory result).

    `time_h` is hours after the first therapy, of a scan when its values hold, as everywhere: the middle of a SPECT, the start
    of a PET. CT and regions have the hour of the first scan in their frame of reference, and say which scans those are.
    """
    known = pool_of(store, pid)
    if not known.items:
        raise _nobody(pid)
    scans = [item for item in known.items if item.kind == "scan"]
    never = {item.id: stands for item, stands in _never_stood(store, known)}
    rows = [
        {
            "item": item.id,
            "kind": item.kind,
            "what": in_words(item, scans),
            "time_h": hour_of(item, scans),
            "version": item.version,
            "status": status_of(item, never.get(item.id)),
            "reason": _reason(item, known, never),
        }
        for item in known.items
    ]
    return sorted(rows, key=lambda r: (r["time_h"] is not None, r["time_h"] or 0.0, r["kind"], r["version"], r["item"]))


def _never_stood(store: TwinStore, known: Pool) -> list[tuple[Item, Item]]:
    """Versions that never stood, each with the one that stands in its place; the same value under another record aside."""
    replaced = [i for i in known.items if i.status == "replaced"]
    stood = ever_stood(store, known.pid) if replaced else frozenset()
    pairs = [(i, in_place_of(i, known.items)) for i in replaced if i.id not in stood]
    return [(i, stands) for i, stands in pairs if stands is not None and why_not_used(i, stands, "")]


def status_of(item: Item, stands: Item | None) -> str:
    """What became of an item, in one word or two; `stands`: what stands in place of one that never did."""
    if stands is None:
        return item.status
    return "older" if item.version < stands.version else "not used"


def _reason(item: Item, known: Pool, never: Mapping[str, Item]) -> str:
    if item.id in known.retracted:
        return str(known.retracted[item.id]["reason"])
    return f"never stood: another stands since {minute(never[item.id].version)}" if item.id in never else ""


def findings(store: TwinStore, pid: str) -> list[str]:
    """What a reader must know of the versions that stand, in words."""
    return [f.words for f in pool_of(store, pid).findings()]


def not_used(store: TwinStore, pid: str, delivery: str) -> list[str]:
    """What of a delivery never stood, and why, in words."""
    known, stated = pool_of(store, pid), stated_by(store, delivery)
    scans = [item for item in known.items if item.kind == "scan"]
    words = [why_not_used(i, stands, in_words(i, scans)) for i, stands in _never_stood(store, known) if i.id in stated]
    patient = store.evidence.get_json(delivery, KIND)["patient"]
    if all(bundle["patient"] != patient for bundle in known.cycles().values()):
        words.append(
            "age and size of the patient: another record stands for every cycle; not used; deliver it with a later `issued`"
        )
    return words


LEAST_DIGITS = 4
"""Of an item that a person types; `storage.deliveries.Pool.find` takes no fewer."""


def _found(known: Pool, digits: str) -> Item:
    """The item that begins with the digits. Raises UsageError `retraction.unknown`, which repeats them."""
    remedy = "`tdt evidence PATIENT` lists the items"
    if len(digits) < LEAST_DIGITS:
        raise UsageError(
            f"item {digits!r} has too few digits: {len(digits)}",
            expected=f"{LEAST_DIGITS} digits or more",
            remedy=remedy,
            kind="retraction.unknown",
        )
    try:
        return known.find(digits)
    except UsageError as error:
        raise UsageError(f"{digits!r}: {error.found}", expected=error.expected, remedy=remedy, kind=error.kind) from None


def _nobody(pid: str) -> UsageError:
    return UsageError(
        f"no evidence of {pid!r}",
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
        return ", ".join(filter(None, (x["modality"], x["nuclide"], calibration_words(item))))
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
        raise _nobody(pid)
    chosen = [_found(known, digits) for digits in dict.fromkeys(items)]
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
