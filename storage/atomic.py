"""Writes that are either whole or absent, also when the process dies in between.

A file is written beside its place, synced, renamed over it, and the folder is synced: rename alone protects against the
death of a process, the two syncs against the loss of power. Rename needs one file system; network file systems are not
supported.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tdt_core.errors import StoreError

KILL_VARIABLE = "TDT_TEST_KILL_AT"
"""Environment variable of the durability tests: the process kills itself at the checkpoint of that name."""

_hook: Callable[[str], None] | None = None


def checkpoint(name: str) -> None:
    """Mark a boundary at which a process may die. Does nothing unless a test asked for the death or set a hook."""
    if _hook is not None:
        _hook(name)
    if os.environ.get(KILL_VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)


def set_checkpoint_hook(hook: Callable[[str], None] | None) -> None:
    """Call `hook(name)` at every checkpoint of this process; None takes it away."""
    global _hook
    _hook = hook


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk into a StoreError that says what to do."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(
                f"no space left on the disk while {doing}",
                remedy="free space and run again; nothing half-written is left",
                kind="store.full",
            ) from e
        if e.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StoreError(
                f"no permission to write while {doing}",
                expected="a folder that this user may write to",
                remedy="check owner, mode and mount options of TDT_HOME, then run again",
                kind="store.readonly",
            ) from e
        raise


def fsync_path(path: Path) -> None:
    """Sync one file or folder to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_tree(folder: Path) -> None:
    """Sync every file below `folder`, then the folders from the bottom up, `folder` last."""
    for root, _, files in os.walk(folder, topdown=False):
        for name in sorted(files):
            fsync_path(Path(root) / name)
        fsync_path(Path(root))


def write_atomic(path: Path, data: bytes | Callable[[BinaryIO], None], *, mode: int = 0o600, label: str = "") -> None:
    """Put `data`, or what it writes, at `path` by temporary file, sync and rename.

    Passes the checkpoint `<label>-staged` when labelled.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(fd, "wb") as f:
            f.write(data) if isinstance(data, bytes) else data(f)
            f.flush()
            os.fsync(f.fileno())
        if label:
            checkpoint(f"{label}-staged")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def publish_folder(staged: Path, target: Path, *, label: str = "") -> bool:
    """Sync a finished staging folder and rename it to `target`. Returns False when `target` was there already.

    `staged` is removed in that case: content-addressed folders of one name hold the same content.
    """
    fsync_tree(staged)
    if label:
        checkpoint(f"{label}-synced")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(staged, target)
    except OSError as e:
        if e.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        shutil.rmtree(staged, ignore_errors=True)
        return False
    if label:
        checkpoint(f"{label}-renamed")
    fsync_path(target.parent)
    return True


def sha256_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
