"""A full disk, a disk one may not write to, and two processes that want the same twin."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_builder import PID, item, make_state, open_store
from store_worker import CONTEXT, commit_one, commit_under, run_history, start

from storage.twins import TwinStore
from tdt_core.errors import StoreError


def answer(results: Any) -> str:
    return str(results.get(timeout=60))


def assert_clean_and_still_usable(root: Path) -> None:
    store = open_store(root)
    store.recover()
    assert store.verify() == ()
    assert list(store.home.staging.iterdir()) == []
    assert run_history(root) == [i.id for i in reversed(store.log(PID))]
    assert store.verify() == ()


def test_a_file_that_cannot_grow_is_reported_as_no_space_and_leaves_nothing(tmp_path: Path) -> None:
    results = CONTEXT.Queue()
    process = start(commit_under, tmp_path / "home", "full", results)
    assert answer(results) == "store.full"
    process.join(60)
    assert open_store(tmp_path / "home").state_ids(PID) == ()
    assert_clean_and_still_usable(tmp_path / "home")


def fill_up(ballast: Path) -> None:
    """Write until the disk takes no more byte."""
    fd = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (4096, 512, 1):
            with contextlib.suppress(OSError):
                while os.write(fd, b"x" * size):
                    pass
    finally:
        os.close(fd)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 kB. Needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True).returncode
    ):
        pytest.skip("no right to mount a small file system here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_really_full_disk_is_reported_and_after_space_is_freed_the_work_goes_on(small_disk: Path) -> None:
    store = open_store(small_disk / "home")
    evidence = [item(store, "scan", 1)]
    state, dose = make_state(cycle=1, parent=None, evidence=evidence)
    ballast = small_disk / "ballast"
    fill_up(ballast)
    with pytest.raises(StoreError) as e:
        store.commit(state, dose, expected_head=None, provenance={}, knowledge_time=_now())
    assert e.value.kind == "store.full"
    assert store.head(PID) is None
    ballast.unlink()
    store.commit(state, dose, expected_head=None, provenance={}, knowledge_time=_now())
    assert store.verify() == ()


@pytest.mark.parametrize("full_after", ["state-synced", "state-published", "audited"])
def test_a_disk_that_fills_up_late_in_a_commit_loses_nothing_committed(small_disk: Path, full_after: str) -> None:
    from storage import atomic

    store = open_store(small_disk / "home")
    state, dose = make_state(cycle=1, parent=None, evidence=[item(store, "scan", 1)])
    ballast = small_disk / "ballast"

    def fill(passed: str) -> None:
        if passed == full_after and not ballast.exists():
            fill_up(ballast)

    atomic.set_checkpoint_hook(fill)
    kinds = {"store.full"}
    try:
        store.commit(state, dose, expected_head=None, provenance={}, knowledge_time=_now())
    except StoreError as e:
        kinds.add(e.kind)
    finally:
        atomic.set_checkpoint_hook(None)
    assert kinds == {"store.full"}, "it is through, or says what is wrong"
    ballast.unlink()
    store.commit(state, dose, expected_head=None, provenance={}, knowledge_time=_now())
    assert store.head(PID) == state.id
    assert store.verify() == ()
    assert list(store.home.staging.iterdir()) == []


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, unlike the run's own."""
    path = Path(tempfile.gettempdir()) / f"tdt-{uuid.uuid4().hex}"
    path.mkdir(mode=0o755)
    yield path
    for folder, _, _ in os.walk(path):
        os.chmod(folder, 0o700)
    shutil.rmtree(path)


def test_a_store_that_one_may_read_but_not_write_is_reported_and_unchanged(open_folder: Path) -> None:
    store = open_store(open_folder / "home")
    paths = (store.home.root, *store.home.root.rglob("*"))
    if os.geteuid() == 0:  # root may write everywhere, so the work is done as somebody else
        for path in paths:
            path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o555)
        results = CONTEXT.Queue()
        process = start(commit_under, open_folder / "home", "forbidden", results)
        assert answer(results) == "store.readonly"
        process.join(60)
    else:
        for path in paths:
            path.chmod(0o500)
        with pytest.raises(StoreError) as e:
            run_history(open_folder / "home")
        assert e.value.kind == "store.readonly"
        for path in paths:
            path.chmod(0o700)
    assert store.state_ids(PID) == ()
    assert_clean_and_still_usable(open_folder / "home")


def test_of_several_processes_with_one_twin_one_wins_and_the_others_report_a_conflict(tmp_path: Path) -> None:
    open_store(tmp_path / "home")
    results, barrier = CONTEXT.Queue(), CONTEXT.Barrier(3)
    processes = [start(commit_one, tmp_path / "home", f"scan {n}", results, barrier) for n in range(3)]
    outcome = sorted(answer(results) for _ in processes)
    for process in processes:
        process.join(60)
    with pytest.raises(queue.Empty):
        results.get_nowait()
    assert outcome == ["store.conflict", "store.conflict", "won"]
    store = open_store(tmp_path / "home")
    assert len(store.state_ids(PID)) == 1
    assert store.verify() == ()


def test_several_processes_with_the_same_state_all_succeed_and_there_is_one_version(tmp_path: Path) -> None:
    open_store(tmp_path / "home")
    results, barrier = CONTEXT.Queue(), CONTEXT.Barrier(3)
    processes = [start(commit_one, tmp_path / "home", "scan", results, barrier) for n in range(3)]
    assert [answer(results) for _ in processes] == ["won"] * 3
    for process in processes:
        process.join(60)
    store = open_store(tmp_path / "home")
    assert len(store.heads(PID)) == 1
    assert store.verify() == ()
    assert list(store.home.staging.iterdir()) == []


def test_a_lock_held_by_another_process_is_waited_for_and_then_reported(tmp_path: Path) -> None:
    from storage.locks import lock
    from tdt_core.errors import ConflictError

    store = TwinStore(open_store(tmp_path / "home").home)
    path = store.home.locks / "twin-x.lock"
    with lock(path), pytest.raises(ConflictError) as e, lock(path, timeout_s=0.1):
        pass
    assert e.value.kind == "store.locked"
    with lock(path, timeout_s=0.1):
        pass


def _now() -> Any:
    from storage.twins import now

    return now()
