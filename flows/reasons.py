"""Why a state took the place of another, in words: what differs between the evidence of the two.

Computed when it is shown, from the store alone. A state's id is a function of its evidence, so that the same state may have
followed different ones in different homes: the words belong to the history of a home and are no part of any state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from storage import state_files as files
from storage.cycles import KIND as CYCLE
from storage.evidence import digest_json
from storage.twin_reader import StateInfo, TwinReader

MOST_NAMED = 3
"""More changes of one kind are counted, not named."""
PLURALS = {"lab": "laboratory results", "sample": "samples", "scan": "scans"}

Thing = tuple[str, tuple[Any, ...], str, str]
"""Kind, what makes two of them versions of one thing, id, words."""


def reason_of(store: TwinReader, state_id: str) -> str:
    """Why the state took the place of the one before it, also the reason of a refit; empty for one that replaced none."""
    info = store.info(state_id)
    found = _replaced_by(store, info)
    told = [info.reason] if info.reason else []
    return "; ".join(told if found is None else [*told, *differences(store, found[0], info, found[1])])


def _replaced_by(store: TwinReader, info: StateInfo) -> tuple[StateInfo, str] | None:
    """The state of the same cycle that stood before this one last joined the patient's chain, and when it joined; or None."""
    moves = store.heads(info.pid)
    known = cache(store.info)

    def of_cycle(tip: str | None) -> StateInfo | None:
        while tip is not None:
            one = known(tip)
            if one.cycle == info.cycle:
                return one
            tip = one.parent
        return None

    for n in reversed([n for n, move in enumerate(moves) if move["state"] == info.id]):
        before = next((found for m in reversed(moves[:n]) if (found := of_cycle(m["state"])) is not None), None)
        if before is None:
            return None
        if before.id != info.id:
            return before, str(moves[n]["knowledge_time"])
    return None


def differences(store: TwinReader, before: StateInfo, after: StateInfo, when: str) -> list[str]:
    """What evidence, decision, settings and software of two states differ in, in words.

    when : UTC text of the time at which the later one came; retractions up to then are told as such.
    """
    old, new = _bundles(store, before), _bundles(store, after)
    gone = _retracted(store, after.pid, when)
    found = []
    for number in sorted(old.keys() | new.keys()):
        changes = changes_of(store.evidence.about, old.get(number, {}), new.get(number, {}), gone)
        found += [words if number == after.cycle else f"cycle {number}: {words}" for words in changes]
    if not found and set(before.evidence) != set(after.evidence):
        more, less = len(set(after.evidence) - set(before.evidence)), len(set(before.evidence) - set(after.evidence))
        found.append(f"items of evidence: {more} added, {less} removed")
    one, other = (files.read_json(store.path(i.id) / files.STATE)["identity"] for i in (before, after))
    if not found and _told(one.get("decision")) != _told(other.get("decision")):
        found.append("another decision led to this cycle")
    for key, words in (("settings", "other settings"), ("science", "other software")):
        found += [words] if one.get(key) != other.get(key) else []
    return found


def _told(decision: Any) -> Any:
    """A decision without the state that it names, which differs in every branch."""
    return {k: v for k, v in decision.items() if k != "state"} if isinstance(decision, Mapping) else decision


def _retracted(store: TwinReader, pid: str, when: str) -> dict[str, str]:
    """Item -> reason of what was retracted at a time."""
    gone: dict[str, str] = {}
    for e in store.audit.events():
        if e["event"] == "retraction" and e["pid"] == pid and e["knowledge_time"] <= when:
            gone.pop(e["item"], None)
            gone |= {} if e["undone"] else {e["item"]: str(e["reason"])}
    return gone


def _bundles(store: TwinReader, info: StateInfo) -> dict[int, Mapping[str, Any]]:
    """Cycle -> bundle (`storage.pool`) of a state and its ancestors, as far as they name theirs."""
    found = {}
    for one in store.chain(info.id):
        digest = files.read_json(store.path(one.id) / files.STATE)["summary"].get("cycle_bundle")
        if digest is not None and store.evidence.has(digest):
            found[one.cycle] = store.evidence.get_json(digest, CYCLE)
    return found


def changes_of(
    about: Callable[[str], Mapping[str, Any]], old: Mapping[str, Any], new: Mapping[str, Any], gone: Mapping[str, str]
) -> list[str]:
    """What was retracted, replaced, added or left out between two bundles of a cycle; `gone`: item -> why it was retracted."""
    before, after = _things(about, old), _things(about, new)
    kept = {t[2] for t in before} & {t[2] for t in after}
    before, after = [t for t in before if t[2] not in kept], [t for t in after if t[2] not in kept]
    told: dict[tuple[str, str], list[str]] = {}
    for kind, key, name, words in before:
        version = next((t for t in after if t[:2] == (kind, key)), None)
        if name in gone:
            told.setdefault(("retracted", kind), []).append(f"{words} ({gone[name]})")
        if version is not None:
            told.setdefault(("replaced", kind), []).append(_replaced(words, version[3]))
        elif name not in gone and kind != "CT":  # a CT comes and goes with its scan, which is told
            told.setdefault(("no longer", kind), []).append(words)
    for kind, key, _, words in after:
        if kind != "CT" and not any(t[:2] == (kind, key) for t in before):
            told.setdefault(("added", kind), []).append(words)
    return [f"{verb} {_counted(kind, words)}" for (verb, kind), words in told.items()]


def _replaced(words: str, by: str) -> str:
    """Both versions in words; what they share up to a comma is said once."""
    shared = by.rpartition(", ")[0]
    detail = by.removeprefix(f"{shared}, ") if shared and words.startswith(f"{shared}, ") else by
    return words if by == words else f"{words} by {detail}"


def _counted(kind: str, words: Sequence[str]) -> str:
    return ", ".join(words) if len(words) <= MOST_NAMED else f"{len(words)} {PLURALS.get(kind, kind)}"


def _things(about: Callable[[str], Mapping[str, Any]], bundle: Mapping[str, Any]) -> list[Thing]:
    """What a bundle holds, each thing once."""
    if not bundle:
        return []
    found: list[Thing] = [_scan(digest, about(digest)) for digest in bundle["scans"]]
    found += [("CT", (frame,), digest, "the CT of a scan") for frame, digest in bundle["cts"].items()]
    found += [("regions", (), bundle["labels"], "the regions")] if bundle["labels"] else []
    for x in bundle["administrations"]:
        agent = () if x["intent"] == "therapy" else (x["nuclide"],)
        found.append(
            _plain("administration", x, (x["intent"], *agent), f"{x['activity_mbq']:.0f} MBq {x['product']} ({x['intent']})")
        )
    for x in bundle["labs"]:
        found.append(
            _plain("lab", x, (x["analyte"], x["time_h"]), f"{x['analyte']} {x['comparator']}{x['value']:g} {x['unit']}")
        )
    for x in bundle.get("samples", ()):
        found.append(_plain("sample", x, (x["kind"], x["time_h"], x["nuclide"]), f"{x['kind']} sample at {x['time_h']:.1f} h"))
    for x in bundle.get("prior_therapies", ()):
        of = (x["region"], x["radiation"], x["time_h"])
        found.append(_plain("prior_therapy", x, of, f"earlier therapy of {x['region']}, {x['dose_gy']:g} Gy"))
    return [*found, _plain("patient", bundle["patient"], (), "age or size of the patient")]


def _scan(digest: str, x: Mapping[str, Any]) -> Thing:
    factor = f", {x['calibration']['sensitivity_cps_per_mbq']:g} cps/MBq" if x["value_branch"] == "counts" else ""
    key = (x["modality"], x["nuclide"], x["frame_of_reference"], x["time_h"])
    return ("scan", key, digest, f"the {x['modality']} at {x['time_h']:.1f} h{factor}")


def _plain(kind: str, x: Mapping[str, Any], key: tuple[Any, ...], words: str) -> Thing:
    return (kind, key, digest_json(kind, x), words)
