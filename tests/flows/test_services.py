"""Servers of a command: they come up, they are used as configured, and nothing outlives its owner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from flows.services import Server, announced, answers, environment, free_port, prefect_server, served_api, stopped_by_signals
from flows.settings import Settings, load_settings
from tdt_core.errors import SettingsError


def web_server(folder: Path, command: list[str] | None = None) -> Server:
    """A real, small server in place of the heavy ones."""
    command = command or [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "{port}", "-d", str(folder)]
    return Server("web", command, "/", folder / "log", {})


def gone(url: str, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not answers(url):
            return True
        time.sleep(0.05)
    return False


def test_a_server_answers_after_wait_and_is_gone_after_stop(tmp_path: Path) -> None:
    server = web_server(tmp_path)
    server.start()
    url = server.wait(20)
    assert answers(url)
    server.stop()
    assert not answers(url)


def test_a_server_that_ends_while_starting_names_its_log_after_trying_other_ports(tmp_path: Path) -> None:
    server = web_server(tmp_path, [sys.executable, "-c", "print('broken {port}'); raise SystemExit(3)"])
    server.start()
    with pytest.raises(SettingsError, match="ended while starting") as e:
        server.wait(30)
    assert e.value.kind == "settings.service"
    assert str(tmp_path / "log") in e.value.remedy
    assert (tmp_path / "log").read_text().count("broken") == 3
    server.stop()


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    server = web_server(tmp_path, [sys.executable, "-c", "import time; time.sleep(60)"])
    server.start()
    with pytest.raises(SettingsError, match="did not answer"):
        server.wait(0.5)
    server.stop()


OWNER = """
    import signal, sys, time
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell hands its children SIGINT ignored
    from pathlib import Path
    from flows.services import Server, stopped_by_signals
    folder = Path(sys.argv[1])
    command = [sys.executable, "-c", GRANDCHILD, "{port}", str(folder)]
    server = Server("web", command, "/", folder / "log", {})
    with stopped_by_signals():
        try:
            server.start()
            print(server.wait(30), flush=True)
            time.sleep(60)
        finally:
            server.stop()
            print("cleaned", flush=True)
"""
# a server that does its work in a child of its own, as some do
GRANDCHILD = """
import subprocess, sys
subprocess.run([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", sys.argv[1], "-d", sys.argv[2]])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_no_server_is_orphaned_however_its_owner_ends(tmp_path: Path, number: signal.Signals) -> None:
    program = f"GRANDCHILD = {GRANDCHILD!r}\n" + textwrap.dedent(OWNER)
    owner = subprocess.Popen([sys.executable, "-P", "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    url = owner.stdout.readline().strip()
    assert answers(url)
    owner.send_signal(number)
    # the pipe closes too: a parent that reads a killed owner's output must not hang on a left-over server
    rest = owner.communicate(timeout=20)[0]
    assert ("cleaned" in rest) == (number != signal.SIGKILL)
    assert gone(url)


def test_a_server_dies_with_its_guard(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("the kernel call is Linux's")
    server = web_server(tmp_path)
    server.start()
    url = server.wait(20)
    assert server._process is not None
    server._process.kill()
    assert gone(url)
    server.stop()


def test_signals_are_given_back_after_the_block() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def wait_for_the_signal() -> None:
        with stopped_by_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(SystemExit) as e:
        wait_for_the_signal()
    assert e.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_environment_is_restored_also_after_an_error() -> None:

    def fail_inside() -> None:
        with environment({"TDT_TEST_KEPT": "new", "TDT_TEST_NEW": "1"}):
            assert os.environ["TDT_TEST_KEPT"] == "new"
            raise ValueError("x")

    os.environ["TDT_TEST_KEPT"] = "old"
    try:
        with pytest.raises(ValueError, match="x"):
            fail_inside()
        assert os.environ["TDT_TEST_KEPT"] == "old"
        assert "TDT_TEST_NEW" not in os.environ
    finally:
        del os.environ["TDT_TEST_KEPT"]


def test_an_address_in_the_settings_is_used_and_a_dead_one_is_named(tmp_path: Path) -> None:
    api = f"http://127.0.0.1:{free_port()}/api"
    settings = load_settings(home=tmp_path / "h", prefect_api=api)
    with pytest.raises(SettingsError, match="no Prefect server answers") as e, prefect_server(settings):
        pass
    assert api in str(e.value)
    assert not (tmp_path / "h").exists()


def test_an_announced_server_is_found_only_while_it_answers(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "h")
    assert served_api(settings) == ""
    (tmp_path / "web" / "api").mkdir(parents=True)
    (tmp_path / "web" / "api" / "health").write_text("ok")
    server = web_server(tmp_path / "web")
    server.start()
    api = server.wait(20) + "/api"
    try:
        with announced(settings, api):
            assert json.loads((tmp_path / "h" / "prefect" / "serving.json").read_text())["api"] == api
            assert served_api(settings) == api
            server.stop()
            assert served_api(settings) == ""
    finally:
        server.stop()
    assert not (tmp_path / "h" / "prefect" / "serving.json").exists()


@pytest.mark.services
def test_a_flow_runs_against_the_embedded_server_and_leaves_its_runs_there(prefect_settings: Settings) -> None:
    from prefect import flow, task
    from prefect.client.orchestration import get_client

    @task
    def add(n: int) -> int:
        return n + 1

    @flow(name="counts-to-three")
    def count() -> int:
        n = 0
        for _ in range(3):
            n = add(n)
        return n

    assert os.environ["PREFECT_API_URL"].startswith("http://127.0.0.1:")
    assert count() == 3
    with get_client(sync_client=True) as client:
        assert str(client.api_url).startswith(os.environ["PREFECT_API_URL"])
        runs = client.read_flow_runs()
    assert runs
    assert all(run.state is not None and run.state.is_completed() for run in runs if run.name)


def test_processes_that_a_block_leaves_behind_are_ended_and_earlier_ones_are_kept() -> None:
    from flows.serving import new_children_ended

    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    earlier = subprocess.Popen(sleep)
    try:
        with new_children_ended(grace_s=2):
            left = subprocess.Popen(sleep)
        assert not psutil.pid_exists(left.pid)
        assert earlier.poll() is None
    finally:
        earlier.kill()
        earlier.wait()
