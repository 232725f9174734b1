"""What a process does to a store until it is killed. Processes come from one fork server that has imported everything, so
that each costs a fork and not an import, and are killed by SIGKILL: no handler, no clean-up, no flush."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from store_builder import PID, commit_cycles, day, item, make_state, open_store

from storage import atomic
from tdt_core.errors import TwinError
from tdt_core.twin import Decision

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["store_worker", "zarr", "zarr.codecs", "xarray", "dask.array"])  # xarray looks for dask itself


def run_history(root: Path) -> list[str]:
    """Two cycles and a decision on each; the same work however often it is repeated. Returns the state ids."""
    store = open_store(root)
    ids = commit_cycles(store, 2, names=("scan", "labs"))
    for n, state in enumerate(ids):
        store.decide(Decision(state, "retrospective", 7400.0, "", "", "taken in together"), time=day(10 + n))
    return ids


def die_at(root: Path, name: str, occurrence: int) -> None:
    """Do the work and die at the n-th passage of a checkpoint."""
    left = occurrence

    def hook(passed: str) -> None:
        nonlocal left
        left -= passed == name
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    atomic.set_checkpoint_hook(hook)
    run_history(root)


def commit_one(root: Path, name: str, results: Any, start: Any) -> None:
    """Commit a first cycle from evidence of its own; report `won` or the kind of the error."""
    store = open_store(root)
    state, dose = make_state(cycle=1, parent=None, evidence=[item(store, name, 1)])
    start.wait()
    try:
        store.commit(state, dose, expected_head=None, provenance={}, knowledge_time=day(1))
        results.put("won")
    except TwinError as e:
        results.put(e.kind)


def commit_under(root: Path, hardship: str, results: Any) -> None:
    """Commit the history with a limit on file sizes (`full`) or as somebody without permission (`forbidden`)."""
    if hardship == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
    else:
        os.seteuid(65534)
    try:
        run_history(root)
        results.put("won")
    except TwinError as e:
        results.put(e.kind)


def start(target: Callable[..., None], *args: Any) -> ForkServerProcess:
    """Start a process."""
    process = CONTEXT.Process(target=target, args=args)
    process.start()
    return process


__all__ = ["CONTEXT", "PID", "commit_one", "commit_under", "die_at", "run_history", "start"]
