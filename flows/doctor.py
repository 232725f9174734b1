"""`tdt doctor`: whether this installation can do its work. Each finding says what was found and what to do."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from flows import TELEMETRY_OFF
from flows.services import answers
from flows.settings import SIBLINGS, Settings, config_file, load_settings, redacted
from storage.home import loose_permissions
from tdt_core.errors import SettingsError

Level = Literal["ok", "warning", "error"]
ROOT = Path(__file__).resolve().parents[1]

PINNED = ("prefect", "fastapi", "mlflow", "zarr", "dask", "distributed", "numpy", "scipy", "numba", "pydicom", "xarray")
"""Packages whose versions must fit together; a set that imports can still break at the first flow."""

REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)(?:\[[^\]]*\])?(?P<bounds>.*)$")
TOOLS = {
    "dciodvfy": "validates DICOM files (Debian: dicom3tools); its tests are skipped without it",
    "chromium": "runs the browser tests (Debian: chromium); they are skipped without it",
    "plastimatch": "reads our RTDOSE independently (Debian: plastimatch); its test is skipped without it",
}
MIN_FREE_GB = 5.0


@dataclass(frozen=True)
class Finding:
    """One checked thing."""

    area: str
    name: str
    level: Level
    found: str
    remedy: str = ""


def examine(settings: Settings | None = None) -> list[Finding]:
    """All findings. With wrong settings, those that do not need them and the error."""
    found = [*_python(), *_pins(), *_telemetry(), *_tools()]
    if settings is None:
        try:
            settings = load_settings()
        except SettingsError as error:
            return [*found, Finding("settings", error.kind, "error", error.found, error.remedy)]
    file = config_file()
    found.append(Finding("settings", "file", "ok", "none; defaults and TDT_*" if file is None else str(file)))
    return [*found, *_folders(settings), *_services(settings), *_store(settings)]


def healthy(findings: list[Finding]) -> bool:
    """Whether nothing is an error."""
    return all(f.level != "error" for f in findings)


def as_plain(findings: list[Finding]) -> dict[str, Any]:
    """The findings as one JSON object."""
    return {"healthy": healthy(findings), "findings": [asdict(f) for f in findings]}


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding(
        "python", "version", "ok" if good else "error", platform.python_version(), "" if good else "use 3.11 or newer"
    )
    venv = Path(sys.prefix).resolve()
    own = venv == (ROOT / ".venv").resolve()
    yield Finding(
        "python",
        "environment",
        "ok" if own else "warning",
        "the checkout's own" if own else f"{venv}",
        "" if own else "start commands with ./tdt, which keeps its own environment",
    )


def locked_versions(lock: Path) -> dict[str, set[str]]:
    """Package -> versions in `uv.lock` (several where they differ by Python version)."""
    versions: dict[str, set[str]] = {}
    for package in tomllib.loads(lock.read_text(encoding="utf-8"))["package"]:
        if "version" in package:
            versions.setdefault(package["name"], set()).add(package["version"])
    return versions


def _pins() -> Iterator[Finding]:
    lock = ROOT / "uv.lock"
    locked = locked_versions(lock) if lock.is_file() else {}
    bounds = _declared_bounds()
    for name in PINNED:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding("pins", name, "error", "not installed", "run ./tdt once more; it completes the environment")
            continue
        bound = bounds.get(name, "")
        if bound and not within(version, bound):
            yield Finding("pins", name, "error", f"{version}, not {bound}", "run ./tdt, which installs the locked versions")
        elif locked and version not in locked.get(name, set()):
            expected = ", ".join(sorted(locked.get(name, {"none"})))
            yield Finding("pins", name, "warning", f"{version}, the lock has {expected}", "run ./tdt for the locked versions")
        else:
            yield Finding("pins", name, "ok", version)


def _declared_bounds() -> dict[str, str]:
    try:
        requirements = metadata.requires("theranostic-digital-twin") or []
    except metadata.PackageNotFoundError:
        requirements = []
    found = {}
    for line in requirements:
        match = REQUIREMENT.match(line.split(";")[0].strip())
        if match:
            found[match["name"].lower()] = match["bounds"].strip()
    return found


def within(version: str, bounds: str) -> bool:
    """Whether a version meets comma-separated bounds such as `>=0.139,<0.140`."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(bounds).contains(version, prereleases=True)


def _telemetry() -> Iterator[Finding]:
    for name, off in TELEMETRY_OFF.items():
        value = os.environ.get(name, "")
        good = value.lower() == off
        remedy = "" if good else f"something set it after start; unset it, or set {name}={off}"
        yield Finding("telemetry", name, "ok" if good else "error", value or "unset", remedy)


def _tools() -> Iterator[Finding]:
    for name, use in TOOLS.items():
        path = shutil.which(name)
        yield Finding("tools", name, "ok" if path else "warning", path or "absent", "" if path else use)


def _folders(settings: Settings) -> Iterator[Finding]:
    for name in ("home", *SIBLINGS):
        folder: Path = getattr(settings, name)
        yield _folder(name, folder)
    free_gb = shutil.disk_usage(_existing(settings.home)).free / 1e9
    good = free_gb >= MIN_FREE_GB
    remedy = "" if good else f"a patient of several cycles needs about {MIN_FREE_GB:.0f} GB"
    yield Finding("folders", "free space", "ok" if good else "warning", f"{free_gb:.1f} GB", remedy)


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _folder(name: str, folder: Path) -> Finding:
    if not folder.exists():
        good = os.access(_existing(folder), os.W_OK)
        remedy = "" if good else "choose another folder, or let its owner make it"
        found = f"{folder} (made when first needed)" if good else f"{folder} cannot be made"
        return Finding("folders", name, "ok" if good else "error", found, remedy)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return Finding("folders", name, "error", f"{folder} cannot be written", "give this user the folder")
    if loose_permissions(folder):
        level: Level = "warning" if name == "home" else "error"
        return Finding("folders", name, level, f"{folder} can be read by others", f"chmod 700 '{folder}'")
    return Finding("folders", name, "ok", str(folder))


def port_open(address: str, timeout_s: float = 3.0) -> bool:
    """Whether something listens where an address points."""
    parts = urlsplit(address)
    port = parts.port or {"http": 80, "https": 443, "postgresql": 5432, "tcp": 8786}.get(parts.scheme.split("+")[0], 0)
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", port), timeout_s):
            return True
    except OSError:
        return False


def _services(settings: Settings) -> Iterator[Finding]:
    checks: list[tuple[str, str, Callable[[], bool]]] = [
        ("prefect_api", settings.prefect_api, lambda: answers(f"{settings.prefect_api}/health", 5)),
        ("mlflow_uri", settings.mlflow_uri, lambda: _mlflow_answers(settings.mlflow_uri)),
        ("dask_scheduler", settings.dask_scheduler, lambda: port_open(settings.dask_scheduler)),
    ]
    for name, address, reachable in checks:
        if not address:
            yield Finding("services", name, "ok", "embedded")
        elif reachable():
            yield Finding("services", name, "ok", redacted(address))
        else:
            yield Finding("services", name, "error", f"nothing answers at {redacted(address)}", "start it, or unset it")
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
        yield Finding("services", "loopback port", "ok", "a free one can be had")
    except OSError as error:
        yield Finding("services", "loopback port", "error", str(error), "let this user listen on 127.0.0.1")


def _mlflow_answers(uri: str) -> bool:
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        return answers(f"{uri}/health", 5)
    if scheme == "sqlite":
        return _existing(Path(urlsplit(uri).path)).is_dir() or Path(urlsplit(uri).path).is_file()
    return port_open(uri)


def _store(settings: Settings) -> Iterator[Finding]:
    from storage.home import open_home
    from storage.twins import TwinStore
    from tdt_core.errors import StoreError

    if not (settings.home / "schema").exists():
        yield Finding("store", "twins", "ok", "no store yet")
        return
    try:
        store = TwinStore(open_home(settings.home, create=False))
        pids = store.pids()
        _, broken = store.audit.scan()
    except StoreError as error:
        yield Finding("store", "twins", "error", error.found, error.remedy)
        return
    yield Finding("store", "twins", "ok", f"{len(pids)} patients; `tdt twin verify` reads every file")
    yield Finding("store", "audit trail", "error" if broken else "ok", broken or "whole", "restore it" if broken else "")
    notes = len(list(store.home.notes.iterdir()))
    remedy = "the next run tells the index; it is no loss" if notes else ""
    yield Finding("store", "index", "warning" if notes else "ok", f"{notes} states to be told to MLflow", remedy)
