"""Reading twins: chains, branches, what was known when, decisions. Nothing here writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage import state_files as files
from storage.audit import AuditTrail, Record, utc_text
from storage.decisions import DecisionRecord, effective, read_records
from storage.evidence import EvidenceStore
from storage.home import Home
from storage.posterior_files import open_dose
from tdt_core.errors import StoreError, UsageError
from tdt_core.twin import Decision, TwinState

if TYPE_CHECKING:
    import xarray

MIN_PREFIX = 4


@dataclass(frozen=True)
class StateInfo:
    """What listings show of a state, without its arrays."""

    id: str
    pid: str
    cycle: int
    parent: str | None
    supersedes: str | None
    valid_time_h: float
    knowledge_time: datetime
    model: str
    evidence: tuple[str, ...]
    cycle_evidence: tuple[str, ...]
    reason: str
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class TwinInfo:
    """What listings show of a patient's twin."""

    pid: str
    head: StateInfo | None
    states: int
    branches: int
    decision: Decision | None


class TwinReader:
    """The twins of one TDT_HOME, read only. `state_id`s are full SHA-256 hex; `find` expands abbreviations."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.audit = AuditTrail(home)
        self.evidence = EvidenceStore(home)

    def pids(self) -> tuple[str, ...]:
        """Pseudonyms with a twin, sorted."""
        return tuple(sorted(p.name for p in self.home.twins.iterdir() if p.is_dir()))

    def list(self) -> tuple[TwinInfo, ...]:
        """One entry per patient."""
        entries = []
        for pid in self.pids():
            head = self.head(pid)
            entries.append(
                TwinInfo(
                    pid=pid,
                    head=None if head is None else self.info(head),
                    states=len(self.state_ids(pid)),
                    branches=len(self.branches(pid)),
                    decision=None if head is None else self.decision(head),
                )
            )
        return tuple(entries)

    def state_ids(self, pid: str) -> tuple[str, ...]:
        """Ids of all committed states of a patient, on any branch, sorted."""
        folder = self.home.states(pid)
        if not folder.is_dir():
            return ()
        return tuple(sorted(p.name for p in folder.iterdir() if (p / files.COMMITTED).is_file()))

    def find(self, prefix: str) -> str:
        """The one state id that starts with `prefix` (4 digits or more). Raises UsageError `store.unknown|ambiguous`."""
        if len(prefix) < MIN_PREFIX:
            raise UsageError(f"a state id of {len(prefix)} digits", expected=f"{MIN_PREFIX} or more", kind="store.ambiguous")
        found = sorted({i for pid in self.pids() for i in self.state_ids(pid) if i.startswith(prefix.lower())})
        if not found:
            raise UsageError(
                f"no state {prefix!r}",
                expected="the first digits of a state",
                remedy="`tdt twin log PATIENT` lists the states",
                kind="store.unknown",
            )
        if len(found) > 1:
            raise UsageError(
                f"{len(found)} states begin with {prefix!r}: {', '.join(i[:12] for i in found)}",
                expected="one",
                remedy="give more digits",
                kind="store.ambiguous",
            )
        return found[0]

    def path(self, state_id: str) -> Path:
        """Folder of a committed state. Raises StoreError `store.unknown`."""
        for pid in self.pids():
            folder = self.home.states(pid) / state_id
            if (folder / files.COMMITTED).is_file():
                return folder
        raise StoreError(f"no state {state_id[:12]}", remedy="`tdt twin log PATIENT` lists the states", kind="store.unknown")

    def has(self, state_id: str) -> bool:
        """Whether the state is committed and every file of it is whole."""
        try:
            folder = self.path(state_id)
        except StoreError:
            return False
        return not files.damage(folder, self.home.root)

    def load(self, state_id: str) -> TwinState:
        """The state, exactly as it was committed; its files are checked on the way (`store.damaged`)."""
        return files.read_state(self.path(state_id))

    def open_dose(self, state_id: str) -> xarray.Dataset:
        """The voxel maps of the state's cycle, lazily; their files are checked first (`store.damaged`)."""
        folder = self.path(state_id)
        files.require_whole_dose(folder)
        return open_dose(folder / files.DOSE)

    def info(self, state_id: str) -> StateInfo:
        """A state without its arrays."""
        folder = self.path(state_id)
        state, beside = files.read_json(folder / files.STATE), files.read_json(folder / files.PROVENANCE)
        try:
            return _info(state_id, state, beside)
        except (KeyError, TypeError, ValueError) as e:
            raise StoreError(
                f"state.json or provenance.json of state {state_id[:12]} is damaged",
                remedy="restore the folder from a backup; `tdt twin verify` names the file",
                kind="store.damaged",
            ) from e

    def head(self, pid: str) -> str | None:
        """Id of the patient's newest state on the branch that holds now, or None."""
        path = self.home.twin(pid) / "HEAD"
        if not path.exists():
            return None
        text = path.read_text(encoding="ascii", errors="replace").removesuffix("\n")
        if len(text) != 64 or set(text) - set("0123456789abcdef"):
            raise StoreError("a HEAD that is no state id", remedy="restore it from a backup", kind="store.damaged")
        return text

    def chain(self, state_id: str | None) -> tuple[StateInfo, ...]:
        """A state and its ancestors, newest first."""
        found = []
        while state_id is not None:
            found.append(self.info(state_id))
            state_id = found[-1].parent
        return tuple(found)

    def log(self, pid: str) -> tuple[StateInfo, ...]:
        """The current chain of a patient, newest first."""
        return self.chain(self.head(pid))

    def superseded_by(self, state_id: str) -> str | None:
        """What stands in place of a state that the current chain has left: that of its cycle, else the newest; else None."""
        info = self.info(state_id)
        chain = self.log(info.pid)
        if not chain or state_id in {i.id for i in chain}:
            return None
        return next((i.id for i in chain if i.cycle == info.cycle), chain[0].id)

    def branches(self, pid: str) -> tuple[str, ...]:
        """Ids of the newest state of every branch; the current one first, the others in order of id."""
        infos = [self.info(i) for i in self.state_ids(pid)]
        parents = {i.parent for i in infos}
        head = self.head(pid)
        tips = [i.id for i in infos if i.id not in parents and i.id != head]
        return ((head,) if head is not None else ()) + tuple(tips)

    def heads(self, pid: str) -> tuple[Record, ...]:
        """Every move of HEAD in order, from the audit trail: `state`, `from`, `knowledge_time`."""
        return tuple(e for e in self.audit.events() if e["event"] in ("commit", "head") and e["pid"] == pid)

    def as_of(self, pid: str, when: datetime) -> tuple[StateInfo, ...]:
        """The chain as it was known at `when`, newest first; empty when nothing was known yet."""
        text = utc_text(when)
        known = [e["state"] for e in self.heads(pid) if e["knowledge_time"] <= text]
        return self.chain(known[-1]) if known else ()

    def assimilated(self, pid: str) -> set[str]:
        """Digests of all evidence in the current chain."""
        head = self.head(pid)
        return set() if head is None else set(self.info(head).evidence)

    def first_new_cycle(self, pid: str, evidence: Mapping[int, Iterable[str]]) -> int | None:
        """The first cycle whose evidence differs from that of the current chain, or None when nothing is new.

        `evidence` maps every cycle to the digests that it brought, all cycles from the first on. What code or settings the
        chain was computed with plays no part: evidence already assimilated makes no new version.
        """
        known = {i.cycle: set(i.cycle_evidence) for i in self.log(pid)}
        differing = [c for c in set(known) | set(evidence) if known.get(c) != (set(evidence[c]) if c in evidence else None)]
        return min(differing, default=None)

    def decisions(self, pid: str) -> tuple[DecisionRecord, ...]:
        """All decision records of a patient by time, replaced ones too."""
        return tuple(read_records(self.home.decisions(pid)))

    def decision(self, state_id: str) -> Decision | None:
        """The decision that stands on a state, or None."""
        record = self.decision_record(state_id)
        return None if record is None else record.decision

    def decision_record(self, state_id: str) -> DecisionRecord | None:
        """The record of the decision that stands on a state, or None."""
        return effective(self.decisions(self.path(state_id).parents[1].name), state_id)


def _info(state_id: str, state: Mapping[str, Any], beside: Mapping[str, Any]) -> StateInfo:
    return StateInfo(
        id=state_id,
        pid=state["pid"],
        cycle=state["cycle"],
        parent=state["parent"],
        supersedes=beside["supersedes"],
        valid_time_h=float(state["valid_time_h"]),
        knowledge_time=datetime.fromisoformat(beside["knowledge_time"]),
        model=state["model"],
        evidence=tuple(state["identity"]["evidence"]),
        cycle_evidence=tuple(state["evidence"]["digests"]),
        reason=beside["reason"],
        provenance=beside["provenance"],
    )
