"""Locks between processes, held by the kernel: a process that dies lets go, so no stale lock is ever left.

Advisory `flock` on local file systems; network file systems are not supported.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tdt_core.errors import ConflictError


def try_lock(path: Path) -> int | None:
    """Lock an existing file or folder without waiting: its descriptor, or None when another holds it or it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


@contextmanager
def lock(path: Path, *, timeout_s: float = 60.0) -> Iterator[None]:
    """Hold the lock file at `path` (made when absent, never removed).

    Raises ConflictError `store.locked` when another process holds it for longer than `timeout_s`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise ConflictError(
                        f"another process has held {path.name} for {timeout_s:g} s",
                        remedy="wait for it to end, then run again",
                        kind="store.locked",
                    ) from None
                time.sleep(0.01)
        yield
    finally:
        os.close(fd)
