"""Setting, result, protocol and registry of the methods of time integration."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.time_integration.curves import RegionalCurve
from tdt_core.dosimetry.units import Array32, FloatArray
from tdt_core.errors import InputError, ModelError

BeforeFirst = Literal["linear", "constant", "exponential", "curve"]
Outside = Literal["region", "zero"]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class IntegrationSetting:
    """All that a method may need beside the images.

    Attributes
    ----------
    times_h : (scans,) rising, after the administration.
    decay_per_h : physical decay constant.
    labels : (z, y, x) integers; voxels of one label are one region. Label 0 is the remainder.
    curves : label -> curve of the region; a label without one takes the curve that its own activity shows.
    sd_mbq : (scans, z, y, x) noise SD per voxel and scan, or None.
    before_first : what is assumed between the administration and the first scan:
        `linear` from zero; `constant` at the first scan's activity; `exponential`, the fitted decline drawn back to time zero;
        `curve`, the regional curve's own early part. None: `curve` where a curve was given, else `constant`.
    outside : `region` integrates label 0 as one more region, `zero` leaves it without activity.
    options : settings of one method, by name.
    """

    times_h: FloatArray
    decay_per_h: float
    labels: npt.NDArray[Any]
    curves: Mapping[int, RegionalCurve] = field(default_factory=dict)
    sd_mbq: Array32 | None = None
    before_first: BeforeFirst | None = None
    outside: Outside = "region"
    options: dict[str, Any] = field(default_factory=dict)

    def early(self, label: int) -> BeforeFirst:
        """What a region assumes before the first scan."""
        if self.before_first is not None:
            return self.before_first
        return "curve" if label in self.curves else "constant"

    def regions(self) -> dict[int, IntArray]:
        """Label -> flat indices of its voxels, rising."""
        flat = self.labels.ravel()
        order = np.argsort(flat, kind="stable")
        values, starts = np.unique(flat[order], return_index=True)
        parts = np.split(order, starts[1:])
        return {int(v): p for v, p in zip(values, parts, strict=True) if v != 0 or self.outside == "region"}


@dataclass(frozen=True, eq=False)
class TimeIntegrated:
    """Time-integrated activity of every voxel.

    Attributes
    ----------
    tia_mbq_h : (z, y, x) float32.
    sd_mbq_h : (z, y, x) float32 SD, or None where the method or the input gives none.
    method : its name.
    regions : per label what was fitted: plain numbers by name.
    findings : remarks in words; assumptions that moved the result stand here.
    """

    tia_mbq_h: Array32
    sd_mbq_h: Array32 | None
    method: str
    regions: dict[int, dict[str, float]] = field(default_factory=dict)
    findings: tuple[str, ...] = ()

    def interval(self, level: float = 0.9) -> tuple[Array32, Array32]:
        """(z, y, x) bounds of the central `level` of a log-normal law with this mean and SD. Raises ModelError without SD."""
        if self.sd_mbq_h is None:
            raise ModelError(
                f"{self.method} gave no SD", expected="a result with sd_mbq_h", remedy="hand in the noise, or use draws"
            )
        mean = np.maximum(self.tia_mbq_h, np.float32(1e-30))
        variance = np.log1p((self.sd_mbq_h / mean) ** 2)
        half = np.float32(NormalDist().inv_cdf(0.5 + level / 2)) * np.sqrt(variance)
        middle = self.tia_mbq_h * np.exp(-variance / 2)
        return middle * np.exp(-half), middle * np.exp(half)


class TimeIntegrator(Protocol):
    """Turns a series of images on one grid into time-integrated activity."""

    name: str
    scans: tuple[int, int]
    """Least and largest number of scans that the method takes."""

    def integrate(self, scans_mbq: Array32) -> TimeIntegrated:
        """(scans, z, y, x) activity, MBq per voxel."""
        ...


Factory = Callable[[IntegrationSetting], TimeIntegrator]
_FACTORIES: dict[str, Factory] = {}


def register_integrator(name: str, factory: Factory) -> None:
    """Make a method known by name. Raises ModelError when the name is taken by another."""
    if _FACTORIES.get(name, factory) is not factory:
        raise ModelError(f"time integration {name!r} is registered twice", expected="one name per method")
    _FACTORIES[name] = factory


def integrators() -> tuple[str, ...]:
    """Names of all methods."""
    _discover()
    return tuple(sorted(_FACTORIES))


def build_integrator(name: str, setting: IntegrationSetting) -> TimeIntegrator:
    """A method by name, prepared for one series. Raises ModelError for an unknown name, InputError for its number of scans."""
    _discover()
    if name not in _FACTORIES:
        raise ModelError(f"no time integration named {name!r}", expected=f"one of {integrators()}", kind="model.name")
    built = _FACTORIES[name](setting)
    least, most = built.scans
    if not least <= len(setting.times_h) <= most:
        raise InputError(
            f"{len(setting.times_h)} scan(s) for the method {name}",
            expected=f"{least} scans" if least == most else f"at least {least} scans",
            remedy="take another method" if len(setting.times_h) < least else "hand in the one scan that is meant",
            kind="time_integration.scans",
        )
    return built


def _discover() -> None:
    package = importlib.import_module("tdt_core.dosimetry.time_integration")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
