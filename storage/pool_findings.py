"""What a reader must know of the versions that a patient's deliveries hold: returned scans, factors apart, records not used.

Pure functions of the judged items of `storage.pool` and of the reasons of retractions: no order of arrival enters. The words
stand beside a state, never in it, so that its content follows from its identity alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.evidence import digest_json
from storage.pool import Item, one_administration, same_value

FACTOR_APART = 0.2
"""Relative difference of two sensitivities of one device and date that is worth a finding (assumed: far beyond their sd)."""


@dataclass(frozen=True)
class Finding:
    """`words` for a reader; `items`: ids of the items that stand and that they speak of."""

    words: str
    items: frozenset[str]


def findings_of(items: Sequence[Item], reasons: Mapping[str, str]) -> tuple[Finding, ...]:
    """All findings on judged items; `reasons` says why an item was retracted."""
    return (*returned_scans(items, reasons), *factors_apart(items))


def returned_scans(items: Sequence[Item], reasons: Mapping[str, str]) -> list[Finding]:
    """Scans that stand although a version of the same acquisition was retracted, in order of time."""
    found = []
    for item in sorted((i for i in items if i.kind == "scan" and i.status == "standing"), key=lambda i: (i.time_h, i.id)):
        gone = [i for i in items if i.kind == "scan" and i.key == item.key and i.status == "retracted"]
        if not gone:
            continue
        last = max(gone, key=lambda i: i.order)
        why = f" ({reasons[last.id]})" if reasons.get(last.id) else ""
        again = last.version <= item.version
        what = (
            "and has been delivered again: the new version stands; retract it again"
            if again
            else "and the version before it stands; retract that one too"
        )
        words = f"The {hour_words(item)} was retracted{why} {what} if the acquisition itself is wrong."
        found.append(Finding(words, frozenset({item.id})))
    return found


def factors_apart(items: Sequence[Item]) -> list[Finding]:
    """Devices whose sensitivity of one date came with factors further apart than `FACTOR_APART`; retracted scans aside."""
    groups: dict[tuple[str, ...], dict[float, list[Item]]] = {}
    for item in items:
        record = counted_with(item)
        if record is not None and item.status != "retracted":
            fields = ("device", "energy_window", "collimator", "reconstruction", "nuclide", "date")
            of_device = groups.setdefault(tuple(str(record[f]) for f in fields), {})
            of_device.setdefault(float(record["sensitivity_cps_per_mbq"]), []).append(item)
    found = []
    for (device, *_, nuclide, date), factors in sorted(groups.items()):
        standing = frozenset(i.id for versions in factors.values() for i in versions if i.status == "standing")
        if max(factors) > min(factors) * (1 + FACTOR_APART) and standing:
            used = sorted(f for f, versions in factors.items() if any(i.status == "standing" for i in versions))
            told = ", ".join(f"{f:g}" for f in sorted(factors))
            words = (
                f"The calibration of device {device} for {nuclide}, dated {date}, came with the factors {told} cps/MBq, more "
                f"than {FACTOR_APART:.0%} apart (an assumed limit); used: {', '.join(f'{f:g}' for f in used)} cps/MBq. "
                "Activities go with one over the factor: find out which is right, retract the scans with the wrong one."
            )
            found.append(Finding(words, standing))
    return found


def counted_with(item: Item) -> Mapping[str, Any] | None:
    """The calibration record whose sensitivity makes activity of a scan's counts; None where none does."""
    record: Mapping[str, Any] | None = item.plain.get("calibration") if item.kind == "scan" else None
    return record if record and item.plain.get("value_branch") == "counts" else None


def calibration_words(item: Item) -> str:
    """Factor, date and id of the calibration behind a scan, empty where the scan has none."""
    record = item.plain.get("calibration")
    if not record:
        return ""
    name = digest_json("calibration", record)[:8]
    if counted_with(item) is None:
        return f"calibration {name} of {record['date']} (resolution only)"
    return f"{record['sensitivity_cps_per_mbq']:g} cps/MBq, calibration {name} of {record['date']}"


def hour_words(item: Item) -> str:
    """A scan by its modality and hour, as everywhere: the middle of a SPECT, the start of a PET."""
    return f"{item.plain['modality']} at {item.plain['time_h']:.1f} h"


def in_place_of(item: Item, items: Sequence[Item]) -> Item | None:
    """The item that stands in place of a replaced one, or None."""
    rivals = [i for i in items if i.kind == item.kind and i.status == "standing"]
    if item.kind == "administration":
        rivals = [i for i in rivals if one_administration(i.plain, item.plain)]
    elif item.kind == "lab":
        sample = (item.plain["analyte"], item.time_h)
        rivals = [i for i in rivals if i.key == item.key or (i.plain["analyte"], i.time_h) == sample]
    else:
        rivals = [i for i in rivals if i.key == item.key]
    return max(rivals, key=lambda i: i.order, default=None)


def why_not_used(item: Item, stands: Item, what: str) -> str:
    """Why a version that never stood is not used; `what` names it. Empty where its value counts under another record."""
    since = f"the one that stands since {minute(stands.version)}"
    if item.kind == "lab" and same_value(item.plain, stands.plain):
        return ""
    if item.version < stands.version:
        return (
            f"{what}: a record issued {minute(item.version)} is older than {since}; not used; deliver it with a later `issued`"
        )
    if item.version == stands.version:
        return f"{what}: a record with the same `issued` as {since}; not used; deliver it with a later `issued`"
    return f"{what}: not used beside {since}, whose status ranks higher; deliver it as corrected"


def minute(version: str) -> str:
    """A version's time to the minute, UTC."""
    return f"{version[:16]}Z" if version else "an unknown time"
