"""The files of deploy/ say the same as the code, and what can be checked offline is checked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import TELEMETRY_OFF
from flows.services import environment, prefect_environment
from flows.settings import Settings, load_settings

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def test_prefect_yaml_deploys_what_tdt_serve_serves(site: Settings) -> None:
    from flows.serve import deployments

    served = {d.name: d for d in deployments(site)}
    written = {d["name"]: d for d in read("prefect.yaml")["deployments"]}
    assert set(written) == set(served)
    for name, deployment in written.items():
        path, function = deployment["entrypoint"].split(":")
        module = path.removesuffix(".py").replace("/", ".")
        assert served[name].entrypoint == f"{module}.{function}"
        assert set(deployment.get("tags", [])) == set(served[name].tags)
        assert deployment.get("concurrency_limit") == served[name].concurrency_limit
        assert deployment["description"] == served[name].description


def test_the_prefect_version_in_the_file_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert read("prefect.yaml")["prefect-version"] == version("prefect")


def test_telemetry_is_off_wherever_a_process_starts() -> None:
    lines = (DEPLOY / "telemetry.env").read_text().splitlines()
    assert dict(line.split("=") for line in lines if "=" in line) == TELEMETRY_OFF
    for unit in UNITS:
        assert "EnvironmentFile=/opt/tdt/deploy/telemetry.env" in unit.read_text(), unit.name
    for name, service in read("compose.yaml")["services"].items():
        if name != "postgres":
            assert TELEMETRY_OFF.items() <= service["environment"].items(), name
    for deployment in read("prefect.yaml")["deployments"]:
        assert TELEMETRY_OFF.items() <= deployment["work_pool"]["job_variables"]["env"].items()


def test_containers_publish_on_loopback_only_and_hold_no_secret() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    for service in read("compose.yaml")["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
    assert "${POSTGRES_PASSWORD:?" in text
    assert ":latest" not in text


def test_every_setting_that_the_examples_name_exists() -> None:
    known = {f"TDT_{name.upper()}" for name in Settings.model_fields}
    for line in (DEPLOY / "site.env.example").read_text().splitlines():
        name = line.lstrip("# ").split("=")[0]
        if name.startswith("TDT_"):
            assert name in known


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is absent (Debian: systemd)")
    # the program is not installed where the unit expects it; a checkout's own path may hold a space, which a unit cannot
    program = tmp_path / "python"
    program.symlink_to(sys.executable)
    text = unit.read_text().replace("/opt/tdt/.venv/bin/python", str(program))
    copy = tmp_path / unit.name.replace("@", "@1")
    copy.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60)
    said = [line for line in (done.stdout + done.stderr).splitlines() if copy.name in line]
    assert said == []


@pytest.mark.long
@pytest.mark.services
def test_a_real_server_takes_the_deployments_of_prefect_yaml(prefect_settings: Settings, tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", prefect_api=prefect_settings.prefect_api)
    root = DEPLOY.parent
    with environment({**prefect_environment(settings, settings.prefect_api), "TDT_CHECKOUT": str(root)}):
        tool = [sys.executable, "-P", "-m", "prefect"]
        for words in (
            ["work-pool", "create", "twin", "--type", "process"],
            ["--no-prompt", "deploy", "--all", "--prefect-file", "deploy/prefect.yaml"],
        ):
            done = subprocess.run([*tool, *words], cwd=root, env=dict(os.environ), capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stdout + done.stderr
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            found = client.read_deployment_by_name("watch-inbox/inbox")
            assert client.read_deployment_by_name("sign-off/sign-off").tags == ["sign-off"]
    assert found.work_pool_name == "twin"
    assert [s.schedule.interval.total_seconds() for s in found.schedules] == [300.0]
    assert found.pull_steps == [{"prefect.deployments.steps.set_working_directory": {"directory": str(root)}}]
