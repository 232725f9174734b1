"""Work by patients, each in a process of its own, kept as it is done: an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any


def by_patient(
    one: Callable[..., dict[str, Any]],
    arguments: Mapping[str, tuple[Any, ...]],
    processes: int,
    folder: str | None = None,
    tasks_per_process: int | None = None,
) -> list[dict[str, Any]]:
    """Results of `one(*arguments, work)` for every entry, in the order of the entries.

    Parameters
    ----------
    arguments : by the name under which the result is kept; it holds every option that changes the result.
    processes : 0 works in this process.
    folder : where results are kept, also for a later call; None: a temporary folder. After a change of code use another one.
    tasks_per_process : patients that a process sees before it is replaced; 1 makes peak memory that of one patient.
    """
    work = Path(folder) if folder else Path(tempfile.mkdtemp(prefix="tdt-bench-"))
    work.mkdir(parents=True, exist_ok=True)
    kept = {name: work / f"{name}.json" for name in arguments}
    todo = {name: given for name, given in arguments.items() if not kept[name].exists()}
    if processes == 0:
        for name, given in todo.items():
            _keep(one(*given, work), kept[name])
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            processes, context, initializer=_end_with, initargs=(os.getpid(),), max_tasks_per_child=tasks_per_process
        ) as pool:
            jobs = {pool.submit(one, *given, work): name for name, given in todo.items()}
            for job in as_completed(jobs):
                _keep(job.result(), kept[jobs[job]])
    results = [json.loads(path.read_text()) for path in kept.values()]
    if folder is None:
        shutil.rmtree(work, ignore_errors=True)
    return results


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: a killed one cannot tell its workers, and they would work on for hours."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _keep(result: dict[str, Any], path: Path) -> None:
    """A result whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result))
    part.replace(path)
