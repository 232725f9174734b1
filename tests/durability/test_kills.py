"""Killing a process at any point loses nothing committed, shows nothing half-written, and running again ends the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_builder import PID, open_store
from store_worker import die_at, run_history, start

from storage import atomic
from storage.twins import TwinStore

COMMIT_POINTS = (
    "evidence-synced",
    "evidence-renamed",
    "staging-made",
    "posterior-written",
    "shard-written",
    "dose-written",
    "state-written",
    "manifest-written",
    "staged",
    "state-synced",
    "state-renamed",
    "state-published",
    "audit-written",
    "audited",
    "head-staged",
    "head-moved",
)
OFTEN = ("evidence-renamed", "shard-written", "manifest-written", "state-renamed", "audited", "head-staged")
DECISION_POINTS = ("decision-ready", "decision-staged", "decision-written", "decision-audited")
UNFINISHED = ("is unfinished", "is not in the audit trail", "is not the last state", "ends in an unfinished line")


def contents(store: TwinStore) -> dict[str, Any]:
    """Bytes of all truth in a home; the trail without clock and hashes."""
    root = store.home.root
    found: dict[str, Any] = {
        p.relative_to(root).as_posix(): p.read_bytes()
        for folder in (store.home.evidence, store.home.twins, store.home.notes, store.home.staging)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
    events = [{k: v for k, v in e.items() if k not in ("time", "hash", "previous")} for e in store.audit.events()]
    return found | {"audit": json.dumps(events, sort_keys=True)}


@pytest.fixture(scope="module")
def memory_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where there is one: a killed process loses nothing that it wrote, synced or not, and a sync to a disk
    is what these tests would wait for most."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path_factory.mktemp("homes")
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


@pytest.fixture
def root(memory_folder: Path) -> Iterator[Path]:
    """A home that is not there yet."""
    path = memory_folder / uuid.uuid4().hex
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def reference(memory_folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Ids and contents of a home whose process lived."""
    return run_history(memory_folder / "reference"), contents(open_store(memory_folder / "reference"))


def assert_nothing_half_written(root: Path) -> None:
    """What a reader sees right after the death, before anything is mended."""
    store = open_store(root)
    head = store.head(PID) if (store.home.twins / PID).is_dir() else None
    if head is not None:
        assert [store.load(i.id).id for i in store.log(PID)][:1] == [head]
    for pid in store.pids():
        for state in store.state_ids(pid):
            assert store.has(state)
            store.open_dose(state).close()
    for digest in store.evidence.digests():
        assert store.evidence.verify(digest) == []
    for problem in store.verify():
        assert problem.what.startswith(UNFINISHED), str(problem)


def assert_running_again_ends_the_same(root: Path, reference: tuple[list[str], dict[str, Any]]) -> None:
    ids, expected = reference
    assert run_history(root) == ids
    store = open_store(root)
    found = contents(store)
    assert found.keys() == expected.keys()
    assert [k for k in found if found[k] != expected[k]] == []
    assert store.verify() == ()
    assert list(store.home.staging.iterdir()) == []


def killed(root: Path, point: str, occurrence: int) -> bool:
    process = start(die_at, root, point, occurrence)
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("cycle", [pytest.param(1, marks=pytest.mark.long), 2])
@pytest.mark.parametrize("point", [p if p in OFTEN else pytest.param(p, marks=pytest.mark.long) for p in COMMIT_POINTS])
def test_a_commit_killed_at_any_point_is_whole_or_absent_and_comes_out_the_same(
    point: str, cycle: int, root: Path, reference: tuple[list[str], dict[str, Any]]
) -> None:
    items = 2 if point.startswith("evidence") else 1
    assert killed(root, point, items * (cycle - 1) + 1)
    assert_nothing_half_written(root)
    assert_running_again_ends_the_same(root, reference)


@pytest.mark.parametrize("point", DECISION_POINTS)
def test_a_decision_killed_at_any_point_is_whole_or_absent_and_comes_out_the_same(
    point: str, root: Path, reference: tuple[list[str], dict[str, Any]]
) -> None:
    assert killed(root, point, 1)
    assert_nothing_half_written(root)
    assert_running_again_ends_the_same(root, reference)


@pytest.mark.parametrize("point", ["state-published", "audit-written", "audited", "head-staged"])
def test_recovery_alone_finishes_what_was_published_without_running_again(
    point: str, root: Path, reference: tuple[list[str], dict[str, Any]]
) -> None:
    assert killed(root, point, 2)
    store = open_store(root)
    assert store.recover()
    assert store.head(PID) == reference[0][1]
    assert store.verify() == ()
    assert store.recover() == ()


@pytest.mark.long
def test_dying_again_and_again_at_every_point_in_one_home_ends_the_same(
    root: Path, reference: tuple[list[str], dict[str, Any]]
) -> None:
    for point in (*COMMIT_POINTS, *DECISION_POINTS):
        killed(root, point, 1)
        assert_nothing_half_written(root)
    assert_running_again_ends_the_same(root, reference)


def test_the_points_are_those_that_the_work_passes_in_that_order(root: Path) -> None:
    passed: list[str] = []
    atomic.set_checkpoint_hook(passed.append)
    try:
        run_history(root)
    finally:
        atomic.set_checkpoint_hook(None)
    first_seen = list(dict.fromkeys(passed))
    assert first_seen == [*COMMIT_POINTS, *DECISION_POINTS]


@pytest.mark.long
def test_killing_at_random_moments_never_leaves_half_a_state(
    memory_folder: Path, reference: tuple[list[str], dict[str, Any]]
) -> None:
    rng = random.Random(11)
    began = time.monotonic()
    run_history(memory_folder / "timing")
    whole_s = time.monotonic() - began
    for n in range(40):
        root = memory_folder / f"home {n}"
        process = start(die_at, root, "never", 1)
        time.sleep(rng.uniform(0.02, whole_s + 0.1))
        process.kill()
        process.join()
        assert_nothing_half_written(root)
        assert_running_again_ends_the_same(root, reference)
