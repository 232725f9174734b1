"""Settings: order of sources, paths, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from flows.plan import time_integration_of
from flows.settings import Settings, as_environment, load_settings, make_folders, redacted
from flows.site import open_site
from tdt_core.errors import SettingsError
from tdt_core.imaging.weights import TimeIntegration


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [n for n in os.environ if n.startswith("TDT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_nothing_set_means_embedded_services_and_a_home_outside_any_checkout() -> None:
    s = load_settings()
    assert (s.prefect_api, s.mlflow_uri, s.dask_scheduler) == ("", "", "")
    assert s.home == Path("~/tdt-home").expanduser()
    assert s.tracking_uri == f"sqlite:///{s.home}/mlflow.db"


def test_argument_beats_environment_beats_file_beats_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("tdt.toml").write_text("workers = 3\nn_draws = 100\nroot_seed = 5\n")
    monkeypatch.setenv("TDT_N_DRAWS", "200")
    monkeypatch.setenv("TDT_ROOT_SEED", "6")
    s = load_settings(root_seed=7)
    assert (s.workers, s.n_draws, s.root_seed, s.watch_minutes) == (3, 200, 7, 5.0)


def test_a_relative_path_in_the_file_is_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "a site"
    site.mkdir()
    (site / "x.toml").write_text('home = "data"\nlimits = "limits.csv"\n')
    monkeypatch.setenv("TDT_CONFIG", str(site / "x.toml"))
    s = load_settings()
    assert s.home == site / "data"
    assert s.limits == site / "limits.csv"


def test_vault_inbox_and_quarantine_follow_home_and_lie_beside_it(tmp_path: Path) -> None:
    s = load_settings(home=tmp_path / "h")
    assert {s.vault, s.inbox, s.quarantine} == {tmp_path / "h-vault", tmp_path / "h-inbox", tmp_path / "h-quarantine"}


@pytest.mark.parametrize("name", ["vault", "inbox", "quarantine"])
def test_a_folder_with_identities_inside_home_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        load_settings(home=tmp_path / "h", **{name: tmp_path / "h" / "in"})
    with pytest.raises(SettingsError, match=name):
        load_settings(home=tmp_path / "h", **{name: tmp_path})


def test_an_unknown_name_in_the_file_is_refused_and_the_known_ones_are_listed() -> None:
    Path("tdt.toml").write_text('dask = "tcp://x:1"\n')
    with pytest.raises(SettingsError, match="dask_scheduler") as e:
        load_settings()
    assert e.value.kind == "settings.value"


@pytest.mark.parametrize(
    ("name", "value"), [("workers", 0), ("n_draws", "many"), ("prefect_api", "localhost:4200"), ("root_seed", -1)]
)
def test_a_wrong_value_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=name):
        load_settings(**{name: value})


def test_a_file_that_is_no_toml_and_a_missing_named_file_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("tdt.toml").write_text("home = \n")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings()
    monkeypatch.setenv("TDT_CONFIG", "nowhere.toml")
    with pytest.raises(SettingsError, match="names no file"):
        load_settings()


def test_settings_do_not_change_after_they_are_read() -> None:
    with pytest.raises(ValidationError):
        load_settings().workers = 5  # type: ignore[misc]


def test_a_child_process_given_the_environment_reads_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s = load_settings(home=tmp_path / "h", workers=5, dask_scheduler="tcp://127.0.0.1:1")
    for name, value in as_environment(s).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == s


def test_the_folders_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    s = load_settings(home=tmp_path / "h")
    make_folders(s)
    for folder in (s.home, s.vault, s.inbox, s.quarantine):
        assert folder.stat().st_mode & 0o077 == 0


def test_a_password_in_an_address_is_not_shown() -> None:
    assert redacted("postgresql://u:secret@h:5432/db") == "postgresql://u:***@h:5432/db"
    assert redacted("http://h:5000") == "http://h:5000"


def test_a_policy_file_that_is_not_there_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="policy file"):
        open_site(load_settings(home=tmp_path / "h", limits=tmp_path / "none.csv"))


def test_time_integration_is_part_of_a_state_only_where_it_is_not_the_default() -> None:
    assert get_args(Settings.model_fields["time_integration"].annotation) == get_args(TimeIntegration)
    assert time_integration_of(load_settings()) == {}
    assert time_integration_of(load_settings(time_integration="hierarchical")) == {"time_integration": "hierarchical"}
    with pytest.raises(SettingsError):
        load_settings(time_integration="guess")
