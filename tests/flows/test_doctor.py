"""`tdt doctor` finds what is wrong and stays calm where nothing is."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from flows import doctor
from flows.settings import Settings, load_settings, make_folders
from storage.twins import TwinStore


def level(findings: list[doctor.Finding], name: str) -> str:
    return next(f.level for f in findings if f.name == name)


def test_this_installation_is_fit_for_work(site: Settings) -> None:
    make_folders(site)
    findings = doctor.examine(site)
    assert [f for f in findings if f.level == "error"] == []
    assert {f.area for f in findings} >= {"python", "pins", "telemetry", "tools", "settings", "folders", "services", "store"}


def test_the_installed_versions_are_those_of_the_lock_file() -> None:
    assert [f for f in doctor._pins() if f.level != "ok"] == []


@pytest.mark.parametrize(
    ("version", "bounds", "fits"),
    [
        ("0.139.2", ">=0.139,<0.140", True),
        ("0.154.0", ">=0.139,<0.140", False),
        ("1.27.0", ">=3.10", False),
        ("3.1.6", "", True),
    ],
)
def test_a_version_outside_its_bounds_is_told(version: str, bounds: str, fits: bool) -> None:
    assert doctor.within(version, bounds) is fits


def test_a_broken_pin_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.165.0" if name == "fastapi" else real(name))
    (finding,) = [f for f in doctor._pins() if f.name == "fastapi"]
    assert finding.level == "error"
    assert "./tdt" in finding.remedy


def test_a_telemetry_switch_that_somebody_turned_on_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "1")  # MLflow accepts the word only
    assert level(list(doctor._telemetry()), "DO_NOT_TRACK") == "error"


def test_a_vault_that_others_can_read_is_an_error(site: Settings) -> None:
    make_folders(site)
    site.vault.chmod(0o755)
    findings = doctor.examine(site)
    assert level(findings, "vault") == "error"
    assert not doctor.healthy(findings)


def test_an_address_where_nothing_answers_is_an_error_and_its_password_is_not_shown(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = load_settings(
        home=tmp_path / "h",
        prefect_api=f"http://127.0.0.1:{port}/api",
        mlflow_uri=f"postgresql://twin:secret@127.0.0.1:{port}/mlflow",
        dask_scheduler=f"tcp://127.0.0.1:{port}",
    )
    findings = list(doctor._services(settings))
    assert [f.level for f in findings[:3]] == ["error"] * 3
    assert "secret" not in str(findings)


def test_wrong_settings_are_one_finding_among_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TDT_WORKERS", "none")
    findings = doctor.examine()
    assert findings[-1].level == "error"
    assert "workers" in findings[-1].found
    assert level(findings, "version") == "ok"


def test_a_store_with_a_broken_audit_trail_is_told(site: Settings, store: TwinStore, commit) -> None:
    commit()
    trail = store.home.audit
    trail.write_text(trail.read_text().replace('"cycle":1', '"cycle":2', 1))
    assert level(doctor.examine(site), "audit trail") == "error"


def test_an_absent_tool_is_a_warning_that_says_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    for finding in doctor._tools():
        assert finding.level == "warning"
        assert "Debian" in finding.remedy
