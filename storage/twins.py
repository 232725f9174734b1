"""The twin store: immutable states of each patient, one HEAD per patient, and the decisions on them.

A state is committed in this order; every step may be the last one of a dying process:

1. stage the whole folder under `staging/`, COMMITTED included, and sync it;
2. under the patient's lock, check HEAD, leave a note that the index has to hear of the state, rename the folder to
   `states/<id>` and sync the parent;
3. append the commit to the audit trail: from here on HEAD's new value is known;
4. replace HEAD by rename.

Whoever takes the lock next finishes what a dead process left: a state without its audit line, a HEAD behind the trail. The
index (`storage.registry`) is told afterwards and takes the note away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage import state_files as files
from storage.atomic import checkpoint, disk_errors, fsync_path, publish_folder, write_atomic
from storage.audit import utc_text
from storage.decisions import DecisionRecord, check_decision, make_record, write_record
from storage.home import FAILURE_NOTE
from storage.locks import lock
from storage.state_files import Problem
from storage.twin_reader import StateInfo, TwinInfo, TwinReader
from storage.verify import verify_store
from tdt_core.codec import to_plain
from tdt_core.errors import ConflictError, InputError, StoreError, TimeError
from tdt_core.twin import Decision, JsonDict, TwinState

if TYPE_CHECKING:
    import xarray

__all__ = ["StateInfo", "TwinInfo", "TwinStore", "now"]


class TwinStore(TwinReader):
    """All twins of one TDT_HOME, and the only way to change them."""

    def verify(self, pid: str | None = None) -> tuple[Problem, ...]:
        """Everything that is wrong with one patient's twin, or with the whole store; each problem names its file."""
        return verify_store(self, pid)

    def commit(
        self,
        state: TwinState,
        dose: xarray.Dataset,
        *,
        expected_head: str | None,
        provenance: Mapping[str, Any],
        knowledge_time: datetime,
        refit_reason: str = "",
    ) -> Path:
        """Commit a state and make it HEAD; returns its folder. Committing a state that is there already changes nothing.

        Parameters
        ----------
        expected_head : HEAD of the patient when the run began.
        provenance : who ran which code; plain data beside the identity, without names of persons or paths.
        knowledge_time : when this became known, with zone.
        refit_reason : required to replace a state of the current chain that rests on the same evidence.

        Raises
        ------
        ConflictError `store.conflict` when HEAD moved meanwhile; nothing is left behind.
        StoreError `store.assimilated` without a reason for a refit, `store.evidence` when evidence or the parent is not in
        the store, `store.identity`, `store.nonfinite`, `store.dose`, `store.full`, `store.readonly`, `store.damaged`.
        TimeError when the knowledge time has no zone or lies before that of HEAD.
        """
        known = utc_text(knowledge_time)
        files.check_state(state)
        self._require_inputs(state)
        target = self.home.states(state.pid) / state.id
        with disk_errors("committing a twin state"):
            self.home.clear_staging()
            with self._locked(state.pid):
                if self._adopt(state, target, expected_head, known):
                    return target
                supersedes = self._superseded(state, expected_head, known, refit_reason)
            beside: JsonDict = {
                "schema_version": state.schema_version,
                "state": state.id,
                "knowledge_time": known,
                "expected_head": expected_head,
                "supersedes": supersedes,
                "reason": refit_reason,
                "provenance": to_plain(provenance),
            }
            with self.home.stage(state.id) as staged:
                checkpoint("staging-made")
                files.write_state_folder(staged, state, dose, beside)
                with self._locked(state.pid):
                    if self._adopt(state, target, expected_head, known):
                        return target  # another process committed the same state meanwhile
                    self._require_head(state.pid, expected_head)
                    self._note(state.id)
                    publish_folder(staged, target, label="state")
                    checkpoint("state-published")
                    self._finish(state.pid)
        return target

    def decide(
        self,
        decision: Decision,
        *,
        time: datetime,
        replaces: str | None = None,
        replace_reason: str = "",
    ) -> DecisionRecord:
        """Record a decision on a state's proposal. The same decision again changes nothing.

        Parameters
        ----------
        time : when the person decided, with zone.
        replaces, replace_reason : id of the record that stands now, and why it no longer holds.

        Raises
        ------
        InputError `decision.incomplete`, `decision.contradiction`. ConflictError `decision.superseded` when the state is not
        HEAD (retrospective: not in the current chain), `decision.second` when another decision stands, `decision.replaces`
        when `replaces` is not the one that stands.
        """
        folder = self.path(decision.state)
        pid = folder.parents[1].name
        state = self.load(decision.state)
        check_decision(decision, state.proposal)
        with disk_errors("recording a decision"), self._locked(pid):
            standing = self.decision_record(decision.state)
            if standing is not None and standing.decision == decision and replaces in (None, standing.replaces):
                return standing
            self._require_current(decision, pid)
            if standing is not None and replaces is None:
                raise ConflictError(
                    f"a decision already stands on state {decision.state[:12]}",
                    remedy="name the record that the new decision replaces, and why (`tdt sign STATE --correct WHY`)",
                    kind="decision.second",
                )
            if replaces != (None if standing is None else standing.id):
                raise ConflictError("the decision to be replaced is not the one that stands", kind="decision.replaces")
            if replaces is not None and not replace_reason.strip():
                raise InputError("a replaced decision without a reason", kind="decision.incomplete")
            manifest = files.seals(folder)["manifest"]
            record, data = make_record(
                pid, decision, time=time, state_manifest=manifest, replaces=replaces, replace_reason=replace_reason
            )
            self._note(decision.state)
            write_record(self.home.decisions(pid), record, data)
            self._finish(pid)
        return record

    def retreat(self, pid: str, state_id: str, *, expected_head: str, time: datetime) -> None:
        """Make an ancestor HEAD again, because nothing holds any longer that the states after it rested on. They stay readable.

        Raises ConflictError when HEAD moved meanwhile, StoreError `store.identity` for a state that is no ancestor of HEAD.
        """
        with disk_errors("moving HEAD back"), self._locked(pid):
            self._require_head(pid, expected_head)
            if state_id not in {i.id for i in self.log(pid)[1:]}:
                raise StoreError(f"state {state_id[:12]} is no ancestor of HEAD", kind="store.identity")
            known = utc_text(time)
            self._note(state_id)
            self.audit.append("head", {"pid": pid, "state": state_id, "from": expected_head, "knowledge_time": known})
            self._catch_up_head(pid)

    def record_failure(self, pid: str, cycle: int, error: Mapping[str, str], *, time: datetime) -> None:
        """Record an assimilation that gave no state; `error` as from `TwinError.as_dict`."""
        self.home.twin(pid)
        self._note(FAILURE_NOTE + pid)
        self.audit.append("failure", {"pid": pid, "cycle": cycle, "error": to_plain(error)}, time=time)

    def recover(self) -> tuple[str, ...]:
        """Finish or clear what dead processes left; returns what was done, in words."""
        done = [f"removed unfinished {name.split('.')[0][:12]} from staging" for name in self.home.clear_staging()]
        for pid in self.pids():
            with lock(self._lock_path(pid)):
                done += self._finish(pid)
        return tuple(done)

    # -- the protocol ----------------------------------------------------------------------------------------------------

    def _lock_path(self, pid: str) -> Path:
        return self.home.locks / f"twin-{pid}.lock"

    @contextmanager
    def _locked(self, pid: str) -> Iterator[None]:
        """Hold the patient's lock; what a dead process left is finished first."""
        with lock(self._lock_path(pid)):
            self.home.states(pid).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._finish(pid)
            yield

    def _finish(self, pid: str) -> tuple[str, ...]:
        """Bring audit trail and HEAD up to what is on disk; the caller holds the patient's lock."""
        done = []
        for folder in (self.home.twin(pid), self.home.decisions(pid)):
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink()
                done.append(f"removed an unfinished file of {pid}")
        events = [e for e in self.audit.events() if e.get("pid") == pid]
        logged = {e["state"] for e in events if e["event"] == "commit"}
        head = self.head(pid)
        if head is not None and head not in logged:
            raise StoreError(
                f"HEAD {head[:12]} is not in the audit trail",
                expected="the trail is written before HEAD moves",
                remedy="audit.jsonl has lost lines: restore it from a backup",
                kind="audit.broken",
            )
        for state_id in self.state_ids(pid):
            # A dead process leaves at most one state behind the trail, made from the present HEAD. Any other unlogged
            # folder was put there by hand; `verify` says so.
            if state_id not in logged and self._provenance(pid, state_id)["expected_head"] == head:
                self._log_commit(pid, state_id)
                done.append(f"logged state {state_id[:12]}")
                break
        told = {e["decision"] for e in events if e["event"] == "decision"}
        for record in self.decisions(pid):
            if record.id not in told:
                self.audit.append(
                    "decision",
                    {"pid": pid, "decision": record.id, "state": record.decision.state, "kind": record.decision.kind},
                )
                checkpoint("decision-audited")
                done.append(f"logged decision {record.id[:12]}")
        if self._catch_up_head(pid):
            done.append(f"moved HEAD of {pid}")
        return tuple(done)

    def _provenance(self, pid: str, state_id: str) -> JsonDict:
        return files.read_json(self.home.states(pid) / state_id / files.PROVENANCE)

    def _log_commit(self, pid: str, state_id: str) -> None:
        folder = self.home.states(pid) / state_id
        beside = self._provenance(pid, state_id)
        state = files.read_json(folder / files.STATE)
        self.audit.append(
            "commit",
            {
                "pid": pid,
                "state": state_id,
                "cycle": state["cycle"],
                "parent": state["parent"],
                "from": beside["expected_head"],
                "knowledge_time": beside["knowledge_time"],
                **files.seals(folder),
            },
        )
        checkpoint("audited")

    def _catch_up_head(self, pid: str) -> bool:
        moves = self.heads(pid)
        head = self.head(pid)
        if not moves or moves[-1]["state"] == head:
            return False
        if head != moves[-1]["from"]:
            raise StoreError(
                "HEAD contradicts the audit trail",
                expected=f"{moves[-1]['state'][:12]}",
                remedy="restore HEAD or audit.jsonl from a backup; `tdt twin verify` lists what differs",
                kind="store.damaged",
            )
        write_atomic(self.home.twin(pid) / "HEAD", f"{moves[-1]['state']}\n".encode(), label="head")
        checkpoint("head-moved")
        return True

    def _note(self, name: str) -> None:
        """Leave word that the index has to hear of a state or a failure; it holds across a death."""
        (self.home.notes / name).touch(mode=0o600)
        fsync_path(self.home.notes)

    def _adopt(self, state: TwinState, target: Path, expected_head: str | None, known: str) -> bool:
        """Whether the state is in the store already; if so it is in HEAD's chain, or becomes HEAD."""
        if not target.exists():
            return False
        if problems := files.damage(target, self.home.root):
            raise StoreError(
                f"state {state.id[:12]} is damaged: {problems[0]}",
                remedy="restore its folder from a backup",
                kind="store.damaged",
            )
        if state.id in {i.id for i in self.log(state.pid)}:
            return True
        self._require_head(state.pid, expected_head)
        self._note(state.id)
        self.audit.append("head", {"pid": state.pid, "state": state.id, "from": expected_head, "knowledge_time": known})
        self._catch_up_head(state.pid)
        return True

    def _require_head(self, pid: str, expected: str | None) -> None:
        head = self.head(pid)
        if head != expected:
            raise ConflictError(
                f"the twin has moved to {'no state' if head is None else head[:12]}",
                expected="no state" if expected is None else expected[:12],
                remedy="run again from the new state",
            )

    def _require_inputs(self, state: TwinState) -> None:
        absent = [d for d in state.identity["evidence"] if not self.evidence.has(d)]
        if absent:
            raise StoreError(
                f"{len(absent)} evidence items of the state are not in the store, first {absent[0][:12]}",
                expected="evidence is stored before the state that rests on it",
                kind="store.evidence",
            )
        if state.parent is not None and not (self.home.states(state.pid) / state.parent / files.COMMITTED).is_file():
            raise StoreError(f"no parent {state.parent[:12]}", remedy="commit the cycles in order", kind="store.evidence")
        if state.parent is not None and self.info(state.parent).cycle >= state.cycle:
            raise StoreError(f"cycle {state.cycle} does not follow its parent's", kind="store.identity")

    def _superseded(self, state: TwinState, expected_head: str | None, known: str, refit_reason: str) -> str | None:
        """Id of the state of the same cycle in the chain that the new one leaves, or None."""
        self._require_head(state.pid, expected_head)
        chain = self.chain(expected_head)
        moves = self.heads(state.pid)
        if moves and known < moves[-1]["knowledge_time"]:
            raise TimeError(
                "a knowledge time before that of HEAD",
                expected="knowledge grows with time",
                remedy="check the clock of this machine",
                kind="store.clock",
            )
        if chain and state.parent != chain[0].id and state.parent not in {i.parent for i in chain}:
            raise StoreError(
                f"a state whose parent {(state.parent or 'none')[:12]} is not in the current chain",
                expected="HEAD or one of its ancestors",
                kind="store.identity",
            )
        replaced = next((i for i in chain if i.cycle == state.cycle), None)
        if replaced is not None and replaced.evidence == tuple(state.identity["evidence"]) and not refit_reason.strip():
            raise StoreError(
                f"cycle {state.cycle} is already assimilated from the same evidence in state {replaced.id[:12]}",
                expected="no new version, also after a change of code or settings",
                remedy="`tdt refit --reason` makes one on purpose",
                kind="store.assimilated",
            )
        return None if replaced is None else replaced.id

    def _require_current(self, decision: Decision, pid: str) -> None:
        chain = [i.id for i in self.log(pid)]
        allowed = chain if decision.kind == "retrospective" else chain[:1]
        if decision.state not in allowed:
            raise ConflictError(
                f"a decision on state {decision.state[:12]}, which is superseded",
                expected=f"the newest state {chain[0][:12]}" if chain else "the newest state",
                remedy="look at the newest proposal and decide on that",
                kind="decision.superseded",
            )


def now() -> datetime:
    """The time of day in UTC, for knowledge times."""
    return datetime.now(UTC)
