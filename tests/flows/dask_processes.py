"""A Dask scheduler and workers that somebody else started: processes of their own, known by address alone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from flows.services import free_port


@contextlib.contextmanager
def dask_processes(folder: Path, workers: int) -> Iterator[tuple[str, list[int]]]:
    """The scheduler's address and the workers' process ids; single-threaded, without nannies, so that a death stays one."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-P", "-m"]
    commands = [[*dask, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]]
    commands += [
        [*dask, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny"]
        for _ in range(workers)
    ]
    env = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": "[]", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((folder / "dask.log").open("wb"))
        pids = []
        for command in commands:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=folder)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            pids.append(process.pid)
        yield address, pids[1:]
