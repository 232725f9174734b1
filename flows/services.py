"""Servers that a command starts, waits for and stops: Prefect's API and UI, MLflow's UI.

Each runs under `flows/guard.py`, so that it ends with this process however this process ends. An address in the settings is
used as it is and nothing is started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from flows import TELEMETRY_OFF
from flows.settings import Settings
from storage.home import open_home
from tdt_core.errors import SettingsError

START_TIMEOUT_S = 180.0
ATTEMPTS = 3
GUARD = Path(__file__).with_name("guard.py")


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """Whether a server answers 200 at `url`, asked directly, never through a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_s) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


class Server:
    """One guarded child process. `command` may hold `{port}`."""

    def __init__(self, name: str, command: list[str], health: str, log: Path, environment: Mapping[str, str], port: int = 0):
        self.name, self.command, self.health, self.log = name, command, health, log
        self.environment = {**os.environ, **environment}
        self.fixed_port = port
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._attempts = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and return at once."""
        self._attempts += 1
        self.port = self.fixed_port or free_port()
        command = [part.replace("{port}", str(self.port)) for part in self.command]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # its own session: Ctrl-C in the terminal reaches us, and we stop it after what still needs it
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(GUARD), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )

    def running(self) -> bool:
        """Whether the process lives; says nothing about health."""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout_s: float = START_TIMEOUT_S) -> str:
        """Block until it is healthy and return its url. Raises SettingsError when it does not come up."""
        deadline = time.monotonic() + timeout_s
        while not answers(self.url + self.health):
            if not self.running():
                # another process may have taken the port between the probe and the start
                if self._attempts < ATTEMPTS and not self.fixed_port:
                    self.start()
                    continue
                raise self._failed("ended while starting")
            if time.monotonic() > deadline:
                raise self._failed(f"did not answer within {timeout_s:.0f} s")
            time.sleep(0.1)
        return self.url

    def _failed(self, what: str) -> SettingsError:
        return SettingsError(
            f"the {self.name} server {what}",
            expected=f"an answer at {self.url}{self.health}",
            remedy=f"read {self.log}; `tdt doctor` checks the versions that must fit together",
            kind="settings.service",
        )

    def stop(self) -> None:
        """Stop it and wait until it is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()  # the guard reads the end of file and ends the server
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()  # and, on Linux, the server with it
            process.wait()


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit inside the block, so that every `finally` runs. Only the main thread can."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous: dict[signal.Signals, Any] = {}
    with contextlib.suppress(ValueError):  # not the main thread: whoever owns the signals keeps them
        for caught in (signal.SIGTERM, signal.SIGHUP):
            previous[caught] = signal.signal(caught, leave)
    try:
        yield
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old


def prefect_environment(settings: Settings, api: str) -> dict[str, str]:
    """What a process needs to talk to the Prefect API: address, and a home inside TDT_HOME instead of the user's own."""
    return {
        **TELEMETRY_OFF,
        "PREFECT_HOME": str(settings.home / "prefect"),
        "PREFECT_API_URL": api,
        # JSON, because a pickled result is code that runs when it is read
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_LOGGING_LEVEL": os.environ.get("PREFECT_LOGGING_LEVEL", "WARNING"),
        "PREFECT_CLI_COLORS": "false",
    }


def _server(settings: Settings, *, ui: bool, port: int) -> Server:
    home = settings.home / "prefect"
    return Server(
        "Prefect",
        [sys.executable, "-P", "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", "{port}"]
        + ([] if ui else ["--no-ui"]),
        "/api/health",
        home / "server.log",
        {
            **prefect_environment(settings, ""),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        },
        port,
    )


class PrefectServer:
    """The Prefect API of a block: `ready()` blocks until it answers and points this process at it."""

    def __init__(self, settings: Settings, server: Server | None, stack: contextlib.ExitStack, api: str):
        self._settings, self._server, self._stack, self.api = settings, server, stack, api
        self._ready = False

    @property
    def embedded(self) -> bool:
        """Whether this process started it."""
        return self._server is not None

    @property
    def ui(self) -> str:
        """Where a browser finds it."""
        return self.api.removesuffix("/api")

    @property
    def waiting(self) -> bool:
        """Whether `ready()` would still wait for a server that is starting."""
        return self.embedded and not self._ready

    def ready(self) -> str:
        """Wait for health, set PREFECT_API_URL for this process and its children, return the API address."""
        if self._ready:
            return self.api
        if self._server is None:
            if not answers(self.api + "/health", timeout_s=10):
                raise SettingsError(
                    f"no Prefect server answers at {self.api}",
                    remedy="start it, or unset prefect_api to use the embedded one",
                    kind="settings.service",
                )
        else:
            self.api = self._server.wait() + "/api"
        values = prefect_environment(self._settings, self.api)
        self._stack.enter_context(environment(values))
        # Prefect reads the environment once, at import; where that has happened, its settings context must be replaced
        if "prefect" in sys.modules:
            self._stack.enter_context(_prefect_context(values))
        self._ready = True
        return self.api


@contextlib.contextmanager
def _prefect_context(values: Mapping[str, str]) -> Iterator[None]:
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_LOGGING_LEVEL, temporary_settings

    chosen = {s: values[s.name] for s in (PREFECT_API_URL, PREFECT_HOME, PREFECT_LOGGING_LEVEL)}
    with temporary_settings(updates=chosen):
        yield


@contextlib.contextmanager
def prefect_server(settings: Settings, *, ui: bool = False, port: int = 0, wait: bool = True) -> Iterator[PrefectServer]:
    """Prefect's API for the block: the configured one, that of a running `tdt serve` of the same home, or an embedded one.

    Starting takes 6-20 s: with `wait=False` do other work first and call `ready()` when a flow is about to run.
    """
    api = settings.prefect_api or served_api(settings)
    with contextlib.ExitStack() as stack:
        stack.enter_context(stopped_by_signals())
        server = None
        if not api:
            open_home(settings.home)
            server = _server(settings, ui=ui, port=port)
            stack.callback(server.stop)
            server.start()
        handle = PrefectServer(settings, server, stack, api)
        if wait:
            handle.ready()
        yield handle


def _served_file(settings: Settings) -> Path:
    return settings.home / "prefect" / "serving.json"


@contextlib.contextmanager
def announced(settings: Settings, api: str) -> Iterator[None]:
    """Tell other commands of the same home where the long-lived server of `tdt serve` is."""
    path = _served_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"api": api, "pid": os.getpid()}), encoding="utf-8")
    part.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def served_api(settings: Settings) -> str:
    """Address of the running `tdt serve` of this home, empty when there is none (a left-over file is ignored)."""
    try:
        api = str(json.loads(_served_file(settings).read_text(encoding="utf-8"))["api"])
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
        return ""
    return api if api and answers(api + "/health") else ""


@contextlib.contextmanager
def mlflow_server(settings: Settings, port: int = 0) -> Iterator[str]:
    """MLflow's UI over this home's index for the block; gives its url."""
    open_home(settings.home)
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "{port}"]
    command += ["--backend-store-uri", settings.tracking_uri, "--workers", "1"]
    command += ["--artifacts-destination", str(settings.artifact_folder)]
    server = Server("MLflow", command, "/health", settings.home / "mlflow-server.log", TELEMETRY_OFF, port)
    with stopped_by_signals():
        try:
            server.start()
            yield server.wait()
        finally:
            server.stop()
