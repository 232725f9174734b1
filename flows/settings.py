"""Settings: `tdt.toml` and `TDT_*`, read once, frozen.

Order: argument of `load_settings`, then environment, then file, then default. The file is `TDT_CONFIG`, else `tdt.toml` in
the current folder. A relative path in the file is relative to the file, one in the environment to the current folder.

Where data lie, unless set: TDT_HOME is `~/tdt-home`; beside it `~/tdt-home-inbox`, `~/tdt-home-quarantine` and
`~/tdt-home-vault`, readable by their owner only. They follow `home`, so that two homes never share a vault, and must lie
outside it, because TDT_HOME may be copied and backed up as data without identity.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from storage.home import Home, Outside, make_outside, open_home
from tdt_core.errors import SettingsError

CONFIG_NAME = "tdt.toml"
PATHS = ("home", "vault", "inbox", "quarantine", "ct_calibration", "limits", "products")
SIBLINGS = ("vault", "inbox", "quarantine")


class Settings(BaseSettings):
    """All settings of a site. Empty addresses mean: embedded, started and stopped by the command itself."""

    model_config = SettingsConfigDict(env_prefix="TDT_", frozen=True, extra="forbid")

    home: Path = Field(default=Path("~/tdt-home"), description="states, reports, trials, MLflow index, audit trail")
    vault: Path = Field(default=Path(), description="pseudonym key, identity, time origins; default <home>-vault")
    inbox: Path = Field(default=Path(), description="folders of new data; default <home>-inbox")
    quarantine: Path = Field(default=Path(), description="refused data with reasons; default <home>-quarantine")
    prefect_api: str = Field(default="", description="Prefect API address, e.g. http://127.0.0.1:4200/api")
    mlflow_uri: str = Field(default="", description="MLflow tracking URI, e.g. http://127.0.0.1:5000 or postgresql://...")
    dask_scheduler: str = Field(default="", description="Dask scheduler address, e.g. tcp://127.0.0.1:8786")
    workers: int = Field(default=2, ge=1, le=1024, description="single-threaded Dask workers of the embedded cluster")
    memory_gb: float = Field(
        default=4.0, gt=0, description="memory for the voxel maps of a cycle, GB; larger sets lie in a scratch file"
    )
    n_draws: int = Field(default=500, ge=20, le=100_000, description="posterior draws of a state")
    root_seed: int = Field(default=20_261_120, ge=0, lt=2**32, description="root of all random numbers of a state")
    model: str = Field(default="", description="kinetic model (rung); empty: the ladder, from whole_body down")
    estimator: str = Field(default="", description="estimator; empty: map, with draws moved to the posterior")
    engine: str = Field(default="", description="dose engine: local, kernel, multimedium, mc; empty: kernel")
    ct_calibration: Path | None = Field(default=None, description="CT calibration by scanner (CSV); empty: the folder's")
    adaptive_inflation: bool = Field(
        False, description="widen the drift of a patient whose data surprised its twin two cycles running; kept in the state"
    )
    time_integration: Literal["regional_shape", "hierarchical"] = Field(
        default="regional_shape", description="voxels over time: regional_shape, or hierarchical (each voxel its own rate)"
    )
    limits: Path | None = Field(default=None, description="dose limits (CSV); empty: the packaged ones")
    products: Path | None = Field(default=None, description="products, ranges, planned cycles (CSV); empty: packaged")
    watch_minutes: float = Field(default=5.0, gt=0, description="how often `tdt serve` looks into the inbox")
    settle_minutes: float = Field(default=2.0, ge=0, description="a folder is complete when unchanged for this long")
    sign_off_days: float = Field(default=30.0, gt=0, description="how long a suspended sign-off waits")

    @field_validator(*PATHS, mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        return None if value is None or value == "" else Path(value).expanduser()

    @field_validator("prefect_api", "mlflow_uri", "dask_scheduler")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and "://" not in value:
            raise ValueError(f"{value!r} is no address; expected scheme://...")
        return value.rstrip("/")

    @model_validator(mode="before")
    @classmethod
    def _siblings(cls, data: Any) -> Any:
        data = dict(data)
        home = Path(data.get("home") or "~/tdt-home").expanduser()
        home = data["home"] = Path(os.path.abspath(home))
        for name in SIBLINGS:
            given = data.get(name)
            data[name] = Path(os.path.abspath(Path(given).expanduser())) if given else home.with_name(f"{home.name}-{name}")
        return data

    @model_validator(mode="after")
    def _outside(self) -> Self:
        for name in SIBLINGS:
            folder = getattr(self, name)
            if folder == self.home or self.home in folder.parents or folder in self.home.parents:
                raise ValueError(f"{name} and home lie inside each other; {name} holds identities and must lie beside home")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, file; neither `.env` nor secret folders."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, read_config(config_file()))

    @property
    def basis_bytes(self) -> float:
        """Up to so many bytes the dose maps of all sources of a cycle stay in memory: a quarter of `memory_gb`."""
        return self.memory_gb * 1e9 / 4

    @property
    def held_bytes(self) -> float:
        """Inputs on their way to Dask workers, at most: an eighth of `memory_gb`."""
        return self.memory_gb * 1e9 / 8

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking URI; sqlite in home when none is set (MLflow's own default is the working folder)."""
        return self.mlflow_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def artifact_folder(self) -> Path:
        """Where the embedded MLflow keeps artifacts."""
        return self.home / "mlartifacts"


def config_file() -> Path | None:
    """The settings file in use. Raises SettingsError when TDT_CONFIG names none."""
    named = os.environ.get("TDT_CONFIG", "")
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise SettingsError(
                "TDT_CONFIG names no file", expected=str(path), remedy="correct it or unset it", kind="settings.file"
            )
        return path
    here = Path(CONFIG_NAME)
    return here.absolute() if here.is_file() else None


def read_config(path: Path | None) -> dict[str, Any]:
    """The file's settings, relative paths made absolute. Raises SettingsError when it is no TOML."""
    if path is None:
        return {}
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{path} cannot be read: {error}", expected="a TOML file", kind="settings.file") from error
    for name in PATHS:
        if data.get(name):
            data[name] = str(path.parent / Path(str(data[name])).expanduser())
    return data


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; `overrides` win. Raises SettingsError naming every wrong one."""
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(str(p) for p in e['loc']) or 'paths'}: {e['msg']}" for e in error.errors())
        raise SettingsError(
            f"wrong settings: {wrong}",
            expected=f"one of {', '.join(sorted(Settings.model_fields))}, each of its type",
            remedy=f"correct {CONFIG_NAME} or the TDT_* variable; `tdt doctor` shows what is in use",
            kind="settings.value",
        ) from None


def make_folders(settings: Settings) -> Home:
    """Open the store and make the folders beside it, all owner-only. Raises StoreError."""
    make_outside(Outside(inbox=settings.inbox, quarantine=settings.quarantine, vault=settings.vault))
    return open_home(settings.home)


def redacted(address: str) -> str:
    """An address without its password, for pages and logs."""
    parts = urlsplit(address)
    if parts.password is None:
        return address
    host = parts.netloc.rsplit("@", 1)[1]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))


def as_environment(settings: Settings) -> Mapping[str, str]:
    """The settings as TDT_* variables, for a child process that must see the same."""
    return {
        f"TDT_{name.upper()}": str(value)
        for name in type(settings).model_fields
        if (value := getattr(settings, name)) not in (None, "")
    }
