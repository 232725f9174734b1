"""The loop against a Prefect server, an MLflow server and a Dask scheduler that somebody else started: only settings differ."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dask_processes import dask_processes

from flows.doctor import port_open
from flows.services import Server, environment, prefect_environment
from flows.settings import Settings, load_settings, make_folders
from storage.phantom_files import write_reference_patient
from storage.twins import TwinStore
from tdt_core.phantom import PhantomSettings, reference_patient

pytestmark = [pytest.mark.services, pytest.mark.long]


@pytest.fixture
def mlflow_address(tmp_path: Path) -> Iterator[str]:
    """An MLflow server with a database of its own."""
    folder = tmp_path / "mlflow"
    folder.mkdir()
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/index.db", "--artifacts-destination", str(folder / "artifacts")]
    server = Server("MLflow", command, "/health", tmp_path / "mlflow.log", {})
    server.start()
    try:
        yield server.wait()
    finally:
        server.stop()


@pytest.fixture
def dask_address(tmp_path: Path) -> Iterator[str]:
    """A Dask scheduler with one single-threaded worker, both processes of their own."""
    with dask_processes(tmp_path, 1) as (address, _):
        yield address


def test_one_folder_through_servers_given_only_by_settings(
    prefect_settings: Settings, mlflow_address: str, dask_address: str, tmp_path: Path
) -> None:
    inbox = write_reference_patient(
        tmp_path / "patient", reference_patient(PhantomSettings(seed=3, matrix=32, time_points=3)), through_cycle=1
    )
    config = tmp_path / "tdt.toml"
    config.write_text(
        f'home = "site/home"\nprefect_api = "{prefect_settings.prefect_api}"\nmlflow_uri = "{mlflow_address}"\n'
        f'dask_scheduler = "{dask_address}"\nn_draws = 50\n'
    )
    assert port_open(dask_address)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TDT_", "PREFECT_"))}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "flows", "--config", str(config), "run", str(inbox), "--json"],
        env=clean,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    settings = load_settings(home=tmp_path / "site" / "home", prefect_api=prefect_settings.prefect_api)
    assert not (settings.home / "prefect" / "prefect.db").exists()
    assert not (settings.home / "mlflow.db").exists()
    store = TwinStore(make_folders(settings))
    (twin,) = store.list()
    assert twin.head is not None
    _prefect_knows_the_run(settings)
    _mlflow_knows_the_state(mlflow_address, twin.head.id, twin.pid)
    _dask_did_work(dask_address)


def _prefect_knows_the_run(settings: Settings) -> None:
    with environment(prefect_environment(settings, settings.prefect_api)):
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            runs = [r for r in client.read_flow_runs() if r.name == "take in"]
    assert runs
    assert all(r.state is not None and r.state.is_completed() for r in runs)


def _mlflow_knows_the_state(address: str, state_id: str, pid: str) -> None:
    from mlflow import MlflowClient

    version = MlflowClient(tracking_uri=address, registry_uri=address).get_model_version_by_alias(f"twin-{pid}", "candidate")
    assert version.tags["state_sha256"] == state_id


def _dask_did_work(address: str) -> None:
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        # names of the tasks that it has ever seen
        assert client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
