"""The layout of TDT_HOME and of the folders that must lie outside it.

    TDT_HOME/
      schema                      version of this layout
      staging/                    half-made folders; never read
      evidence/<sha>/             meta.json, array.npy
      twins/<pid>/                HEAD, states/<id>/, decisions/<id>.json
      derived/<id>/               reports and exports; can be remade
      derived/kernels/            dose kernels by content; can be remade
      trials/<id>/                trial.json, results.zarr, manifest.json
      notes/to_index/<id>         states, or failure.<pid>, that the MLflow index has not heard of
      locks/                      lock files
      mlflow.db, mlartifacts/     the index
      audit.jsonl                 hash-chained, append-only

Inbox, quarantine and vault hold identities and lie beside it, readable by the owner only.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage.atomic import disk_errors, fsync_path, write_atomic
from storage.locks import lock, try_lock
from tdt_core.errors import StoreError

LAYOUT_VERSION = 1

Migration = Callable[[Path], None]

MIGRATIONS: Mapping[int, Migration] = {}
"""Steps of the layout: entry n takes a home of version n to n + 1. One-way; each has a test and a kept fixture."""

FAILURE_NOTE = "failure."
"""Beginning of the name of a note that tells of a patient's failed attempts."""

FOLDERS = ("staging", "evidence", "twins", "derived", "trials", "notes", "notes/to_index", "locks", "mlartifacts")


@dataclass(frozen=True)
class Home:
    """Paths inside one TDT_HOME. Make it with `open_home`."""

    root: Path

    @property
    def staging(self) -> Path:
        return self.root / "staging"

    @property
    def evidence(self) -> Path:
        return self.root / "evidence"

    @property
    def twins(self) -> Path:
        return self.root / "twins"

    @property
    def derived(self) -> Path:
        return self.root / "derived"

    @property
    def kernels(self) -> Path:
        return self.derived / "kernels"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    @property
    def notes(self) -> Path:
        return self.root / "notes" / "to_index"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def audit(self) -> Path:
        return self.root / "audit.jsonl"

    @property
    def mlflow_db(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def mlartifacts(self) -> Path:
        return self.root / "mlartifacts"

    def twin(self, pid: str) -> Path:
        """Folder of one patient. A pseudonym that is no plain file name is a StoreError."""
        if not pid or pid in (".", "..") or pid.startswith(".") or "/" in pid or "\0" in pid:
            raise StoreError("a pseudonym that cannot name a folder", expected="letters, digits, - and _", kind="store.pid")
        return self.twins / pid

    def states(self, pid: str) -> Path:
        return self.twin(pid) / "states"

    def decisions(self, pid: str) -> Path:
        return self.twin(pid) / "decisions"

    @contextmanager
    def stage(self, name: str) -> Iterator[Path]:
        """A fresh folder in staging, locked while this process lives, removed on the way out unless it was renamed."""
        folder = self.staging / f"{name}.{uuid.uuid4().hex}"
        with lock(self.locks / "staging.lock"):
            folder.mkdir(mode=0o700)
            held = try_lock(folder)
        try:
            yield folder
        finally:
            if held is not None:
                os.close(held)
            shutil.rmtree(folder, ignore_errors=True)

    def clear_staging(self) -> list[str]:
        """Remove what dead processes left in staging; folders of living processes stay. Returns the removed names."""
        removed = []
        with lock(self.locks / "staging.lock"):
            for path in sorted(self.staging.iterdir()):
                held = try_lock(path)
                if held is None:
                    continue
                try:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                finally:
                    os.close(held)
                removed.append(path.name)
        return removed


def open_home(
    root: Path | str,
    *,
    create: bool = True,
    migrations: Mapping[int, Migration] = MIGRATIONS,
    version: int = LAYOUT_VERSION,
) -> Home:
    """Open a TDT_HOME, make it (owner-only) when absent, and bring an older layout forward.

    Raises StoreError `store.missing`, `store.version` (newer than this software, or no way forward), `store.schema`,
    `store.full`, `store.readonly`.
    """
    home = Home(Path(root).expanduser().resolve())
    schema = home.root / "schema"
    if not create and not schema.exists():
        raise StoreError(
            "there is no twin store in this folder",
            remedy="name the folder with `--home FOLDER` before the command (`tdt demo` prints its own), or take a patient in",
            kind="store.missing",
        )
    with disk_errors("opening TDT_HOME"):
        if not schema.exists() or any(not (home.root / f).is_dir() for f in FOLDERS):
            home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in FOLDERS:
                (home.root / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        if not schema.exists():
            if any(home.twins.iterdir()):
                raise StoreError(
                    "a twin store without its schema file",
                    remedy="restore the file `schema` from a backup",
                    kind="store.schema",
                )
            write_atomic(schema, _schema_text(version))
            fsync_path(home.root)
        if _read_version(schema) != version:
            _migrate(home, schema, migrations, version)
    return home


def _schema_text(version: int) -> bytes:
    return (json.dumps({"layout_version": version}) + "\n").encode()


def _read_version(schema: Path) -> int:
    try:
        version = json.loads(schema.read_text(encoding="utf-8"))["layout_version"]
    except (ValueError, KeyError, TypeError) as e:
        raise StoreError("the file `schema` cannot be read", remedy="restore it from a backup", kind="store.schema") from e
    if not isinstance(version, int):
        raise StoreError(f"layout version {version!r}", expected="a whole number", kind="store.schema")
    return version


def _migrate(home: Home, schema: Path, migrations: Mapping[int, Migration], version: int) -> None:
    with lock(home.locks / "schema.lock"):
        while (found := _read_version(schema)) != version:
            if found > version:
                raise StoreError(
                    f"a store of layout version {found}",
                    expected=f"{version} or older",
                    remedy="use the newer software that wrote it",
                    kind="store.version",
                )
            if found not in migrations:
                raise StoreError(f"no migration from layout version {found}", kind="store.version")
            migrations[found](home.root)
            write_atomic(schema, _schema_text(found + 1))


@dataclass(frozen=True)
class Outside:
    """Folders that hold identities: outside TDT_HOME, owner-only."""

    inbox: Path
    quarantine: Path
    vault: Path


def outside_paths(
    root: Path | str, *, inbox: Path | str | None = None, quarantine: Path | str | None = None, vault: Path | str | None = None
) -> Outside:
    """Where inbox, quarantine and vault lie: as given, else beside TDT_HOME as `<home>-inbox` and so on.

    Raises StoreError `store.inside` when one of them lies in TDT_HOME.
    """
    base = Path(root).expanduser().resolve()
    given = {"inbox": inbox, "quarantine": quarantine, "vault": vault}
    paths = {
        name: base.with_name(f"{base.name}-{name}") if path is None else Path(path).expanduser().resolve()
        for name, path in given.items()
    }
    for name, path in paths.items():
        if path.is_relative_to(base):
            raise StoreError(
                f"the {name} lies inside TDT_HOME",
                expected="a folder outside, since it holds identities",
                remedy=f"set another folder for the {name}",
                kind="store.inside",
            )
    return Outside(**paths)


def make_outside(outside: Outside) -> None:
    """Make the three folders, owner-only."""
    with disk_errors("making inbox, quarantine and vault"):
        for path in (outside.inbox, outside.quarantine, outside.vault):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)


def loose_permissions(*folders: Path) -> list[Path]:
    """Those of the folders that somebody other than the owner may read, write or enter."""
    return [f for f in folders if f.exists() and stat.S_IMODE(f.stat().st_mode) & 0o077]
