"""What all tests share: one set of servers for the whole run, and no settings from the person who runs it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.settings import Settings, load_settings  # telemetry is off once `flows` is imported

# A test must not read or write the data of the site it runs at
for _name in [n for n in os.environ if n.startswith("TDT_") and n != "TDT_PYTHON"]:
    del os.environ[_name]
for _name in ("PREFECT_API_URL", "PREFECT_API_KEY", "MLFLOW_TRACKING_URI"):
    os.environ.pop(_name, None)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share servers, or a module's costly fixture, run on one xdist worker: it is made once. Long tests go free."""
    for item in items:
        if item.get_closest_marker("services"):
            item.add_marker(pytest.mark.xdist_group("services"))
        elif item.get_closest_marker("shared_run") and not item.get_closest_marker("long"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(autouse=True, scope="session")
def _home_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """TDT_HOME and Prefect's folder of every test lie in the run's temporary folder unless the test sets its own."""
    base = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TDT_HOME", str(base / "home"))
        patch.setenv("PREFECT_HOME", str(base / "prefect"))
        yield


@pytest.fixture(scope="session")
def prefect_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """One embedded Prefect server for the run; the process points at it while the fixture lives."""
    from flows.services import prefect_server

    settings = load_settings(home=tmp_path_factory.mktemp("services") / "home")
    with prefect_server(settings) as server:
        yield load_settings(home=settings.home, prefect_api=server.api)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Fresh settings whose folders are all in the test's own folder."""
    monkeypatch.setenv("TDT_HOME", str(tmp_path / "tdt home"))
    return load_settings()
