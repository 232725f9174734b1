"""What is wrong in a store: every file of evidence, states, decisions, HEAD, trials and audit trail is read and checked.

Which file is wrong is told by what covers it: the manifest covers a state's files, COMMITTED and the audit trail cover the
manifest, a decision's and an evidence item's name is their digest, the trail's lines chain.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from storage import state_files as files
from storage.atomic import sha256_file
from storage.audit import Record
from storage.populations import PopulationStore
from storage.state_files import Problem
from storage.trials import TrialStore
from tdt_core.errors import StoreError

if TYPE_CHECKING:
    from storage.twin_reader import TwinReader


def verify_store(store: TwinReader, pid: str | None = None) -> tuple[Problem, ...]:
    """Problems of one patient's twin and the evidence below it, or of the whole store. The trail is always checked."""
    events, broken = store.audit.scan()
    problems = [Problem(store.home.audit.name, broken)] if broken else []
    pids = store.pids() if pid is None else (pid,)
    used: set[str] = set()
    for one in pids:
        own = [e for e in events if e.get("pid") == one]
        problems += _twin_problems(store, one, own, trail_whole=broken is None)
        used |= _evidence_of(store, one) | {e["delivery"] for e in own if e["event"] == "delivery"}
    for digest in sorted(used if pid is not None else used | set(store.evidence.digests())):
        problems += _evidence_problems(store, digest)
    if pid is None:
        trials = TrialStore(store.home)
        for trial in trials.list():
            problems += trials.verify(trial)
        populations = PopulationStore(store.home)
        problems += populations.verify() if broken is None else ()
        problems += _leftovers(store)
    return tuple(problems)


def _relative(store: TwinReader, path: Path) -> str:
    return path.relative_to(store.home.root).as_posix()


def _twin_problems(store: TwinReader, pid: str, events: list[Record], *, trail_whole: bool) -> Iterator[Problem]:
    commits = {e["state"]: e for e in events if e["event"] == "commit"}
    present = set(store.state_ids(pid))
    folder = store.home.states(pid)
    on_disk = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    damaged = [p for i in sorted(on_disk) for p in files.damage(folder / i, store.home.root, commits.get(i))]
    yield from damaged
    if not trail_whole:
        yield from _decision_problems(store, pid, None)
        return
    for state_id in sorted(commits.keys() - on_disk):
        yield Problem(_relative(store, folder / state_id), "is in the audit trail but not on disk")
    for state_id in sorted(present - commits.keys()):
        yield Problem(_relative(store, folder / state_id), "is not in the audit trail")
    yield from _head_problems(store, pid, events, readable=not damaged)
    yield from _decision_problems(store, pid, {e["decision"] for e in events if e["event"] == "decision"})


def _head_problems(store: TwinReader, pid: str, events: list[Record], *, readable: bool) -> Iterator[Problem]:
    path = _relative(store, store.home.twin(pid) / "HEAD")
    moves = [e["state"] for e in events if e["event"] in ("commit", "head")]
    try:
        head = store.head(pid)
    except StoreError as e:
        yield Problem(path, e.found)
        return
    if head != (moves[-1] if moves else None):
        yield Problem(path, "is not the last state of the audit trail")
        return
    if not readable:
        return  # the damaged files are named; what they say of their parents means nothing
    try:
        chain = store.chain(head)
    except StoreError as e:
        yield Problem(path, f"has a broken chain: {e.found}")
        return
    cycles = [i.cycle for i in chain]
    if cycles != sorted(cycles, reverse=True) or len(set(cycles)) != len(cycles):
        yield Problem(path, "has a chain whose cycles do not increase")


def _decision_problems(store: TwinReader, pid: str, told: set[str] | None) -> Iterator[Problem]:
    folder = store.home.decisions(pid)
    present = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in present:
        if path.name.startswith(".") and path.suffix == ".tmp":
            yield Problem(_relative(store, path), "is unfinished; the next commit clears it")
        elif path.suffix != ".json":
            yield Problem(_relative(store, path), "does not belong here")
        elif sha256_file(path) != path.stem:
            yield Problem(_relative(store, path), "is damaged")
        elif told is not None and path.stem not in told:
            yield Problem(_relative(store, path), "is not in the audit trail")
    for name in sorted((told or set()) - {p.stem for p in present}):
        yield Problem(_relative(store, folder / f"{name}.json"), "is in the audit trail but not on disk")


def _evidence_of(store: TwinReader, pid: str) -> set[str]:
    found: set[str] = set()
    for state_id in store.state_ids(pid):
        try:
            found |= set(store.info(state_id).evidence)
        except StoreError:
            continue  # the damaged state.json is named by its manifest; its evidence cannot be read from it
    return found


def _evidence_problems(store: TwinReader, digest: str) -> Iterator[Problem]:
    if not store.evidence.path(digest).is_dir():
        yield Problem(_relative(store, store.evidence.path(digest)), "is missing, and a state rests on it")
        return
    for path in store.evidence.verify(digest):
        yield Problem(_relative(store, path), "is damaged, missing or does not belong here")


def _leftovers(store: TwinReader) -> Iterator[Problem]:
    for path in sorted(store.home.staging.iterdir()):
        yield Problem(_relative(store, path), "is unfinished; the next commit clears it")
