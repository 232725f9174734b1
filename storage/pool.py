"""What is known of a patient: all deliveries together, whatever the order in which they came.

A delivery (one accepted folder) states items: administrations, scans, CTs, regions, laboratory results, samples, earlier
therapies. The same content twice is one item. Contents that speak of the same thing (their `key`) are versions of each other,
and the newest one stands; a retracted one does not. Which one is newest is told by `issued` of `administrations.json`, or of
the deliveries without it by the first arrival of the content, so that an old folder sent again changes nothing. Cycles are
cut from what stands, by the therapies that stand.

Everything here is a pure function of a set of deliveries and retractions: no order of arrival enters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from storage.administrations import LEAST_INTERVAL_H
from storage.evidence import digest_json
from storage.samples import HourLine, scaled
from tdt_core.codec import from_plain, to_plain
from tdt_core.errors import InputError
from tdt_core.twin import Administration, JsonDict

Status = Literal["standing", "replaced", "retracted"]
Describe = Callable[[str], Mapping[str, Any]]

SAME_IMAGING_H = 1.0
"""Two imaging administrations of one nuclide closer than this are versions of one (assumed, as INJECTION_TOLERANCE_H)."""
LAB_RANK = {"final": 0, "amended": 1, "corrected": 2}
SAME_LAB = 0.01
"""Two values of one analyte at one time that agree within this fraction are one result under two record numbers."""


@dataclass(frozen=True)
class Statement:
    """One delivery in the pool.

    Attributes
    ----------
    digest : its name in the evidence store.
    known : UTC text of its first arrival.
    content : what `content_of` made.
    """

    digest: str
    known: str
    content: JsonDict


@dataclass(frozen=True)
class Item:
    """One stated thing. `id` is the SHA-256 of its content, `version` the UTC text that orders it among those of one key."""

    id: str
    kind: str
    key: tuple[Any, ...]
    version: str
    plain: Any
    time_h: float
    status: Status = "standing"

    @property
    def order(self) -> tuple[int, str, str]:
        """Sorts versions of one key, the one that stands last."""
        rank = LAB_RANK.get(self.plain["status"], 0) if self.kind == "lab" else 0
        return (rank, self.version, self.id)


def items_of(statements: Iterable[Statement], describe: Describe) -> tuple[Item, ...]:
    """Every item that was ever stated, once; `describe` gives the stored meta data of a scan by its digest."""
    stated: dict[str, str] = {}
    arrived: dict[str, str] = {}
    found: dict[str, Item] = {}
    for statement in statements:
        issued = statement.content["issued"]
        for item in _items(statement.content, describe):
            found[item.id] = _with_remarks(item, found.get(item.id, item))
            if issued:
                stated[item.id] = max(issued, stated.get(item.id, issued))
            arrived[item.id] = min(statement.known, arrived.get(item.id, statement.known))
    return tuple(replace(item, version=stated.get(i, arrived[i])) for i, item in sorted(found.items()))


def _with_remarks(item: Item, other: Item) -> Item:
    """The item with what every delivery remarked on it, in no order of theirs."""
    if item.plain == other.plain:
        return item
    return replace(item, plain={**item.plain, "remarks": sorted({*item.plain["remarks"], *other.plain["remarks"]})})


def _items(content: Mapping[str, Any], describe: Describe) -> Iterable[Item]:
    for a in content["administrations"]:
        yield Item(digest_json("administration", a), "administration", (), "", a, a["time_h"])
    for digest in content["scans"]:
        about = describe(digest)
        key: tuple[Any, ...] = (about["modality"], about["nuclide"], about["frame_of_reference"], about["time_h"])
        start = about["time_h"] - (about["duration_s"] / 7200 if about["modality"] != "PET" else 0.0)
        yield Item(digest, "scan", key, "", {**about, "remarks": content["remarks"].get(digest, [])}, start)
    for kind in ("ct", "labels"):
        for frame, digest in content[kind]:
            plain = {"frame_of_reference": frame, "remarks": content["remarks"].get(digest, [])}
            yield Item(digest, kind, (frame,), "", plain, math.nan)
    for lab in content["labs"]:
        yield Item(digest_json("lab", lab), "lab", (lab["record"],), "", lab, lab["time_h"])
    for line in content["samples"]:
        key = (line["kind"], "" if line["rate"] else line["nuclide"], line["start_h"], line["counter"])
        held = line["start_h"] if line["end_h"] is None else line["end_h"]
        yield Item(digest_json("sample", line), "sample", key, "", line, held)
    for prior in content["prior_therapies"]:
        key = (prior["region"], prior["radiation"], prior["time_h"])
        yield Item(digest_json("prior_therapy", prior), "prior_therapy", key, "", prior, prior["time_h"])


def judged(items: Sequence[Item], statements: Iterable[Statement], retracted: Collection[str]) -> tuple[Item, ...]:
    """The items with what became of each: standing, replaced by a newer version, or retracted."""
    withdrawn = {record for s in statements for record in s.content["withdrawn_labs"]}
    gone = {i.id for i in items if i.id in retracted or (i.kind == "lab" and i.key[0] in withdrawn)}
    held: list[Item] = []
    groups: dict[tuple[Any, ...], list[Item]] = {}
    for item in items:
        if item.id not in gone:
            groups.setdefault((item.kind, *item.key), []).append(item)
    for (kind, *_), versions in groups.items():
        held += _apart(versions) if kind == "administration" else [max(versions, key=lambda v: v.order)]
    held = _one_lab_per_sample(held)
    standing = {i.id for i in held}
    status: dict[bool, Status] = {True: "retracted", False: "replaced"}
    return tuple(i if i.id in standing else replace(i, status=status[i.id in gone]) for i in items)


def _apart(versions: Sequence[Item]) -> list[Item]:
    """Administrations, the newest first, without those that are versions of one taken already."""
    taken: list[Item] = []
    for item in sorted(versions, key=lambda v: v.order, reverse=True):
        if not any(one_administration(item.plain, other.plain) for other in taken):
            taken.append(item)
    return taken


def one_administration(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two records are versions of one administration."""
    apart_h = abs(a["time_h"] - b["time_h"])
    if a["intent"] != b["intent"]:
        return False
    if a["intent"] == "therapy":
        return apart_h < LEAST_INTERVAL_H
    return bool(a["nuclide"] == b["nuclide"] and apart_h < SAME_IMAGING_H)


def _one_lab_per_sample(held: Sequence[Item]) -> list[Item]:
    """One result for each analyte and time: the newest value, under the record number that a single folder would keep."""
    kept = [i for i in held if i.kind != "lab"]
    groups: dict[tuple[str, float], list[Item]] = {}
    for item in held:
        if item.kind == "lab":
            groups.setdefault((item.plain["analyte"], item.time_h), []).append(item)
    for versions in groups.values():
        newest = max(versions, key=lambda v: v.order)
        same = [v for v in versions if same_value(v.plain, newest.plain)]
        kept.append(min(same, key=lambda v: (-v.order[0], v.plain["record"])))
    return kept


def same_value(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two laboratory results say the same."""
    return bool(math.isclose(a["value"], b["value"], rel_tol=SAME_LAB) and a["comparator"] == b["comparator"])


def cycles_of_pool(pid: str, items: Sequence[Item], statements: Sequence[Statement]) -> dict[int, JsonDict]:
    """Cycle number -> bundle (see `storage.cycles`) of what stands.

    Without imaging before the first therapy that can be used, laboratory results and earlier therapies join the first therapy
    cycle; samples wait with the imaging whose administration they belong to (`set_aside`).

    Raises
    ------
    InputError
        `administration.no_therapy` when no therapy stands, `sample.first_reading` when a meter's first reading does not.
    """
    standing = [i for i in items if i.status == "standing"]
    therapies = sorted(i.time_h for i in standing if i.kind == "administration" and i.plain["intent"] == "therapy")
    if not therapies:
        raise InputError(
            "no therapy administration is left",
            expected="at least one: cycles are cut by therapies",
            remedy="take the corrected administration record in first",
            kind="administration.no_therapy",
        )
    midnight_h = max(float(s.content["midnight_h"]) for s in statements)  # one for all, 0 where a delivery does not tell

    def number(item: Item) -> int:
        if item.kind == "prior_therapy":  # known to the day
            return sum(24.0 * math.floor((t + midnight_h) / 24) <= item.time_h for t in therapies)
        return sum(t <= item.time_h + 1e-9 for t in therapies)

    per_frame = {k: {i.key[0]: i for i in standing if i.kind == k} for k in ("ct", "labels")}
    taken = {i.key: i.version for i in standing if i.kind == "scan"}
    together = [i.key for i in items if i.kind == "scan" and i.status != "retracted" and taken.get(i.key) == i.version]
    rivals = {key: together.count(key) for key in set(together)}
    grouped: dict[int, list[Item]] = {}
    for item in standing:
        if item.kind not in per_frame:
            grouped.setdefault(number(item), []).append(item)
    if 0 in grouped and not _usable(grouped[0], per_frame["labels"]):
        grouped[1] += [i for i in grouped.pop(0) if i.kind in ("lab", "prior_therapy")]
    return {k: _bundle(pid, k, grouped[k], per_frame, _patient(statements, therapies, k), rivals) for k in sorted(grouped)}


def set_aside(items: Sequence[Item], bundles: Mapping[int, JsonDict]) -> list[str]:
    """What stands and is in no bundle, in words: scans and samples of a cycle 0 that has no regions."""
    first_h = min((a["time_h"] for a in bundles[1]["administrations"] if a["intent"] == "therapy"), default=-math.inf)
    if 0 in bundles:
        return []
    early = [i.kind for i in items if i.status == "standing" and i.kind in ("scan", "sample") and i.time_h + 1e-9 < first_h]
    told = [f"{n} {kind}{'s' * (n > 1)}" for kind in ("scan", "sample") if (n := early.count(kind))]
    return [f"{' and '.join(told)} from before the first therapy not used: no regions on a scan before it"] if told else []


def _usable(items: Sequence[Item], labels: Mapping[str, Item]) -> bool:
    """Whether a scan has regions on the images of one scan of its cycle."""
    return any(i.kind == "scan" and i.plain["frame_of_reference"] in labels for i in items)


def _patient(statements: Sequence[Statement], therapies: Sequence[float], number: int) -> JsonDict:
    """Body size and age for a cycle: the newest of the records whose last therapy is that of the cycle, else the next later."""

    def last(statement: Statement) -> int:
        times = [a["time_h"] for a in statement.content["administrations"] if a["intent"] == "therapy"]
        latest = max(times, default=-math.inf)  # cycle 0 of a home without deliveries tells of no therapy
        return sum(t <= latest + LEAST_INTERVAL_H / 2 for t in therapies)

    def nearness(statement: Statement) -> tuple[bool, int, str, str]:
        at = last(statement)
        issued = statement.content["issued"] or _first_known(statements, statement)
        return (at >= number, -abs(at - number), issued, statement.digest)

    best = max(statements, key=nearness)
    return dict(best.content["patient"])


def _first_known(statements: Sequence[Statement], one: Statement) -> str:
    """When the patient record of an unissued delivery was first stated: sending an old one again does not renew it."""
    return min(s.known for s in statements if s.content["patient"] == one.content["patient"])


def _bundle(
    pid: str,
    number: int,
    items: Sequence[Item],
    per_frame: Mapping[str, Mapping[str, Item]],
    patient: JsonDict,
    rivals: Mapping[tuple[Any, ...], int],
) -> JsonDict:
    scans = sorted((i for i in items if i.kind == "scan"), key=lambda i: (i.plain["time_h"], i.id))
    frames = list(dict.fromkeys(s.plain["frame_of_reference"] for s in scans))
    with_labels = [f for f in frames if f in per_frame["labels"]]
    labels = per_frame["labels"][with_labels[0]] if with_labels else None
    cts = {f: per_frame["ct"][f] for f in sorted(frames) if f in per_frame["ct"]}
    administrations = [i.plain for i in _by_time(items, "administration")]
    given = tuple(from_plain(Administration, a) for a in administrations)
    labs = [i.plain for i in sorted((i for i in items if i.kind == "lab"), key=lambda i: (i.time_h, i.plain["analyte"], i.id))]
    prior = [i.plain for i in sorted(_by_time(items, "prior_therapy"), key=lambda i: (i.time_h, i.key))]
    lines = sorted((from_plain(HourLine, i.plain) for i in items if i.kind == "sample"), key=lambda x: x.order)
    samples = to_plain(scaled(lines, given))
    tables = {"administrations": administrations, "labs": labs, "prior_therapies": prior, "samples": samples}
    findings = [
        f"{n} reconstructions of one {s.plain['modality']} acquisition came together; one of them is used"
        for s in scans
        if (n := rivals.get(s.key, 1)) > 1
    ]
    findings += [r for i in (*scans, *cts.values(), *([labels] if labels else ())) for r in i.plain["remarks"]]
    if not scans:
        findings.append(f"cycle {number} has no scans")
    if len(with_labels) > 1:
        findings.append(f"{len(with_labels)} scans of the cycle have regions; those of the first are used")
    digests = {*(s.id for s in scans), *(c.id for c in cts.values()), digest_json("patient", patient)}
    digests |= {digest_json(kind, rows) for kind, rows in tables.items() if rows}
    return {
        "pid": pid,
        "patient": patient,
        "number": number,
        "administrations": administrations,
        "scans": [s.id for s in scans],
        "cts": {frame: c.id for frame, c in cts.items()},
        "labels": None if labels is None else labels.id,
        "labels_for": "" if labels is None else with_labels[0],
        "labs": labs,
        "prior_therapies": prior,
        **({"samples": samples} if samples else {}),
        "digests": sorted(digests | ({labels.id} if labels else set())),
        "findings": list(dict.fromkeys(findings)),
    }


def _by_time(items: Sequence[Item], kind: str) -> list[Item]:
    return sorted((i for i in items if i.kind == kind), key=lambda i: (i.time_h, i.id))


def waiting(bundles: Mapping[int, JsonDict]) -> dict[int, str]:
    """Cycles that cannot be assimilated yet, and what each waits for: the first without scans or regions, and all after it."""
    found: dict[int, str] = {}
    for number in sorted(bundles):
        bundle = bundles[number]
        if not bundle["scans"]:
            found[number] = "scans"
        elif not bundle["labels"]:
            found[number] = "regions on one of its scans"
        elif found:
            found[number] = f"cycle {min(found)}"
    return found
