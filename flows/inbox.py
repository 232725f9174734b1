"""The inbox: one folder per delivery of a patient's data. Which are complete, and which have been taken in.

A folder counts as complete when it holds an administration record and nothing in it has changed for `settle_minutes`. What
was done with a folder is remembered by the fingerprint of its content, in the vault, because folder names often hold names of
persons. For the same reason flows get a folder under an alias in the vault: a flow's parameters are kept by the server.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.settings import Settings
from storage.atomic import write_atomic
from storage.locks import lock
from storage.vault import Vault
from tdt_core.errors import InputError

RECORD = "administrations.json"
UNFINISHED = (".part", ".tmp", ".crdownload", ".filepart")


@dataclass(frozen=True)
class Delivery:
    """A folder of the inbox. `fingerprint` changes when any file is added, removed or changed."""

    path: Path
    fingerprint: str
    newest_change: float
    complete: bool


def existing(folder: Path, *, named: bool = False) -> Path:
    """The folder, resolved. Writes nothing. Raises InputError when there is no such folder or nothing in it.

    named : repeat the path in the error, for whoever typed it; never where a server keeps the words, as paths often hold names.
    """
    folder = folder.expanduser().resolve()
    what = f"the folder {folder}" if named else "the folder"
    help_ = {"expected": f"a folder with DICOM files and {RECORD}", "remedy": "name the folder that holds the patient's files"}
    if not folder.is_dir():
        raise InputError(f"{what} is {'a file' if folder.exists() else 'not there'}", **help_, kind="input.folder")
    if not any(folder.iterdir()):
        raise InputError(f"{what} is empty", **help_, kind="input.empty")
    return folder


def alias(settings: Settings, folder: Path) -> Path:
    """A path to `folder` that names nobody: a link in the vault. Raises InputError as `existing` does, before it writes."""
    folder = existing(folder)
    vault = Vault.open(settings.vault)
    links = settings.vault.resolve() / "intake"
    links.mkdir(mode=0o700, exist_ok=True)
    link = links / vault.token("folder", str(folder))
    if not (link.is_symlink() and link.resolve() == folder):
        fresh = link.with_name(f"{link.name}.{os.getpid()}.tmp")
        fresh.symlink_to(folder, target_is_directory=True)
        fresh.replace(link)
    return link


def look(settings: Settings, now_s: float) -> tuple[Delivery, ...]:
    """Every folder of the inbox, oldest change first."""
    found = []
    if settings.inbox.is_dir():
        for path in settings.inbox.iterdir():
            if path.is_dir() and not path.name.startswith("."):
                found.append(_delivery(path, now_s - 60 * settings.settle_minutes))
    return tuple(sorted(found, key=lambda d: (d.newest_change, d.fingerprint)))


def _delivery(path: Path, settled_before_s: float) -> Delivery:
    text = hashlib.sha256()
    newest, unfinished, has_record = path.stat().st_mtime, False, False
    for root, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(root) / name
            status = file.stat()
            text.update(f"{file.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
            newest = max(newest, status.st_mtime)
            unfinished |= name.endswith(UNFINISHED)
            has_record |= name == RECORD
    complete = has_record and not unfinished and newest <= settled_before_s
    return Delivery(path, text.hexdigest(), newest, complete)


def _ledger(settings: Settings) -> Path:
    return settings.vault / "inbox.json"


def handled(settings: Settings) -> Mapping[str, str]:
    """Fingerprint -> what came of it, for every folder that need not be looked at again."""
    try:
        return dict(json.loads(_ledger(settings).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def remember(settings: Settings, fingerprint: str, outcome: str) -> None:
    """Keep what came of a folder."""
    with lock(settings.vault / "inbox.lock"):
        ledger = {**handled(settings), fingerprint: outcome}
        write_atomic(_ledger(settings), json.dumps(ledger, indent=1, sort_keys=True).encode(), mode=0o600)


def new_deliveries(settings: Settings, now_s: float) -> tuple[Delivery, ...]:
    """Complete folders that have not been handled as they are now."""
    known = handled(settings)
    return tuple(d for d in look(settings, now_s) if d.complete and d.fingerprint not in known)
