"""Methods for one scan at the time t, with the activity A: TIA = A h, the factor h in hours.

    hanscheid_2018    h = 2 t / ln 2              no half-life enters; holds for 0.75 to 2.5 effective half-lives T
    hanscheid_2017    h = 2^(t/T) T / ln 2        T of the tissue; scan one to three days after the administration
    madsen            h = exp(k t) / k            k = ln 2 / T of a population; the same, with another window
    population_shape  h = integral of the curve / its value at t, geometric mean over draws of the population's curve
    twin_shape        the same over the posterior draws of the region's curve in the patient's twin

The first three take the decline as one exponential from time zero; `before_first` replaces that part except in hanscheid_2018,
whose form has no such part. Options: `half_life_h` (one, or by label), the effective half-life expected;
`half_life_log_sd` (likewise); `outside_window` (`refuse` | `report`).

The SD is what the spread of half-lives (log-normal, cut at physical decay), or of the curves, makes of the factor, plus noise.
Windows: hanscheid in the unit named above; madsen, where a half-life one SD longer or shorter changes the TIA by more than
`window.largest_error`; shapes, where the factor's relative SD is above it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import special

from tdt_core.dosimetry.time_integration.checks import refuse_unknown
from tdt_core.dosimetry.time_integration.regional_shape import curve_of
from tdt_core.dosimetry.time_integration.registry import (
    IntegrationSetting,
    TimeIntegrated,
    TimeIntegrator,
    register_integrator,
)
from tdt_core.dosimetry.units import Array32
from tdt_core.errors import InputError, ModelError
from tdt_core.nuclides import nuclide as nuclide_of
from tdt_core.parameters import packaged_csv, packaged_table

LN2 = math.log(2.0)
_QUANTILES = special.ndtri((np.arange(200) + 0.5) / 200)
_LARGEST_REL_SD = 10.0
"""A half-life far below the scan's time makes any factor: beyond this relative SD the scan says nothing."""
_TABLE = "time_integration.csv"


def _p(name: str) -> float:
    return packaged_table(_TABLE).value(name)


def exponential_factor(time_h: float, half_life_h: float) -> float:
    """h of one exponential from time zero: 2^(t/T) T / ln 2, hours."""
    return 2.0 ** (time_h / half_life_h) * half_life_h / LN2


def hanscheid_2018_factor(time_h: float) -> float:
    """h = 2 t / ln 2, hours."""
    return 2.0 * time_h / LN2


def hanscheid_2017_dose(concentration_mbq_g: float, time_h: float, half_life_h: float) -> float:
    """Absorbed dose (Gy) of a tissue by Lu-177 from its activity concentration at one late scan: 0.125 C 2^(t/T) T.

    Raises InputError `time_integration.window` outside one to three days.
    """
    fault = _outside_2017(time_h)
    if fault:
        raise _window(fault)
    if not (concentration_mbq_g >= 0 and half_life_h > 0):
        raise InputError(
            f"concentration {concentration_mbq_g:g} MBq/g, half-life {half_life_h:g} h",
            expected="concentration >= 0, half-life > 0",
            kind="time_integration.half_life",
        )
    return _p("hanscheid_2017.dose_constant") * concentration_mbq_g * 2.0 ** (time_h / half_life_h) * half_life_h


def population_half_life(ligand: str, organ: str, nuclide: str) -> tuple[float, float]:
    """Effective half-life (h) of a population and its SD in ln, from the slow phase of the kinetic priors.

    Raises ModelError for a ligand without rows; an organ without rows is taken as `other`.
    """
    rows = {r["organ"]: r for r in packaged_csv("kinetics_sum_of_exponentials.csv") if r["ligand"] == ligand}
    slow = {
        r["organ"]: r
        for r in packaged_csv("kinetics_sum_of_exponentials.csv")
        if r["ligand"] == ligand and r["quantity"] == "slow_half_time"
    }
    if not rows or not (organ in slow or "other" in slow):
        known = sorted({r["ligand"] for r in packaged_csv("kinetics_sum_of_exponentials.csv")})
        raise ModelError(f"no half-life of {ligand} in {organ}", expected=f"a ligand of {known}", kind="model.name")
    row = slow.get(organ, slow.get("other"))
    assert row is not None
    biological, physical = float(row["value"]), nuclide_of(nuclide).half_life_h
    effective = biological * physical / (biological + physical)
    return effective, float(row["sd"]) * effective / biological


def _window(fault: str) -> InputError:
    return InputError(
        fault,
        expected="a scan inside the window of the method",
        remedy="take another method, add a scan, or accept it with outside_window='report'",
        kind="time_integration.window",
    )


def _outside_2017(time_h: float) -> str:
    first, last = _p("hanscheid_2017.first_h"), _p("hanscheid_2017.last_h")
    if first <= time_h <= last:
        return ""
    return f"hanscheid_2017 at {time_h:g} h, outside {first:g} to {last:g} h"


class _SingleTime:
    """Common parts: a factor and its relative SD per region, a window, activity times factor."""

    name = ""
    scans = (1, 1)
    known: tuple[str, ...] = ("outside_window",)

    def __init__(self, setting: IntegrationSetting) -> None:
        refuse_unknown(setting.options, self.known, self.name)
        self._setting = setting
        self._report = setting.options.get("outside_window", "refuse")
        if self._report not in ("refuse", "report"):
            raise ModelError(f"outside_window {self._report!r}", expected="refuse or report", kind="model.option")

    def factor(self, label: int) -> tuple[float, float, str]:
        """Hours, relative SD, and what is outside the window (empty when inside)."""
        raise NotImplementedError

    def integrate(self, scans_mbq: Array32) -> TimeIntegrated:
        """Raises InputError `time_integration.window` outside the window, unless that is to be reported."""
        s = self._setting
        flat = scans_mbq.reshape(-1)
        tia, variance = np.zeros(flat.size, np.float32), np.zeros(flat.size, np.float32)
        regions: dict[int, dict[str, float]] = {}
        findings: list[str] = []
        for label, voxels in s.regions().items():
            if not flat[voxels].max() > 0:
                continue
            hours, rel_sd, fault = self.factor(label)
            if fault and self._report == "refuse":
                raise _window(f"label {label}: {fault}")
            findings += [f"label {label}: {fault}"] if fault else []
            tia[voxels] = flat[voxels] * np.float32(hours)
            variance[voxels] = (tia[voxels] * np.float32(rel_sd)) ** 2
            if s.sd_mbq is not None:
                variance[voxels] += (s.sd_mbq.reshape(-1)[voxels] * np.float32(hours)) ** 2
            regions[label] = {
                "tia_mbq_h": float(tia[voxels].sum(dtype=np.float64)),
                "hours": hours,
                "factor_rel_sd": rel_sd,
            }
        grid = scans_mbq.shape[1:]
        sd = np.sqrt(variance, out=variance)
        return TimeIntegrated(tia.reshape(grid), sd.reshape(grid), self.name, regions, tuple(findings))


class _HalfLife(_SingleTime):
    """Methods that take one exponential; subclasses give the estimate and the window."""

    known = ("half_life_h", "half_life_log_sd", "outside_window")

    def __init__(self, setting: IntegrationSetting) -> None:
        super().__init__(setting)
        self._time = float(setting.times_h[0])

    def log_sd(self, label: int) -> float:
        """SD of ln half-life of a region. Raises ModelError for a negative one."""
        given: Any = self._setting.options.get("half_life_log_sd")
        value = given.get(label) if isinstance(given, Mapping) else given
        value = _p("half_life.log_sd") if value is None else float(value)
        if not value >= 0:
            raise ModelError(f"half_life_log_sd {value:g}", expected=">= 0", kind="model.option")
        return value

    def half_life(self, label: int) -> float:
        """Effective half-life expected of a region, h. Raises InputError without one, or above physical decay."""
        given: Any = self._setting.options.get("half_life_h")
        value = given.get(label) if isinstance(given, Mapping) else given
        if value is None:
            raise InputError(
                f"{self.name} without an effective half-life for label {label}",
                expected="half_life_h, one number or one per label",
                remedy="take that of the patient's earlier cycle, or population_half_life",
                kind="time_integration.half_life",
            )
        physical = LN2 / self._setting.decay_per_h
        if not 0 < value <= physical * (1 + 1e-6):
            raise InputError(
                f"an effective half-life of {value:g} h for label {label}",
                expected=f"above 0, at most the physical one, {physical:.4g} h",
                kind="time_integration.physical_decay",
            )
        return float(value)

    def hours(self, half_life_h: float) -> float:
        """Factor of one exponential under the assumption before the scan."""
        t, early = self._time, self._setting.before_first or "exponential"
        late = half_life_h / LN2
        if early == "exponential":
            return exponential_factor(t, half_life_h)
        if early == "curve":
            raise ModelError(
                f"before_first='curve' in {self.name}", expected="a number of the form itself", kind="model.option"
            )
        return late + (t if early == "constant" else 0.5 * t)

    def spread(self, estimate: float, half_life_h: float, log_sd: float) -> float:
        """Root mean square of (true - estimate) / estimate over half-lives that are log-normal, cut at physical decay.

        At most `_LARGEST_REL_SD`; over 200 quantiles, since the moment itself belongs to half-lives that nobody has.
        """
        physical = LN2 / self._setting.decay_per_h
        lives = np.clip(half_life_h * np.exp(log_sd * _QUANTILES), 1e-2 * self._time, physical)
        errors = np.array([self.hours(float(x)) / estimate - 1.0 for x in lives])
        return min(float(np.sqrt(np.mean(errors**2))), _LARGEST_REL_SD)


class Hanscheid2018(_HalfLife):
    """TIA = 2 A t / ln 2."""

    name = "hanscheid_2018"

    def __init__(self, setting: IntegrationSetting) -> None:
        super().__init__(setting)
        if setting.before_first not in (None, "exponential"):
            raise ModelError(
                f"before_first={setting.before_first!r} in {self.name}",
                expected="None; the form holds all from time zero",
                kind="model.option",
            )

    def factor(self, label: int) -> tuple[float, float, str]:
        """See `_SingleTime.factor`."""
        life, hours = self.half_life(label), hanscheid_2018_factor(self._time)
        x, first, last = self._time / life, _p("hanscheid_2018.first"), _p("hanscheid_2018.last")
        fault = "" if first <= x <= last else f"scan at {x:.2f} effective half-lives, outside {first:g} to {last:g}"
        return hours, self.spread(hours, life, self.log_sd(label)), fault


class Hanscheid2017(_HalfLife):
    """One exponential with the tissue's half-life."""

    name = "hanscheid_2017"

    def factor(self, label: int) -> tuple[float, float, str]:
        """See `_SingleTime.factor`."""
        life = self.half_life(label)
        hours = self.hours(life)
        return hours, self.spread(hours, life, self.log_sd(label)), _outside_2017(self._time)


class Madsen(_HalfLife):
    """One exponential with the population's half-life."""

    name = "madsen"

    def factor(self, label: int) -> tuple[float, float, str]:
        """See `_SingleTime.factor`."""
        life = self.half_life(label)
        hours, physical = self.hours(life), LN2 / self._setting.decay_per_h
        off = [self.hours(min(life * math.exp(s * self.log_sd(label)), physical)) for s in (-1, 1)]
        worst, most = max(abs(hours / h - 1.0) for h in off), _p("window.largest_error")
        fault = f"a half-life one SD off makes an error of {worst:.0%}, above {most:.0%}" if worst > most else ""
        return hours, self.spread(hours, life, self.log_sd(label)), fault


class Shape(_SingleTime):
    """The factor of a curve that is known otherwise, over its draws."""

    def factor(self, label: int) -> tuple[float, float, str]:
        """See `_SingleTime.factor`. Raises InputError for a region without a curve."""
        s = self._setting
        curve = curve_of(s, label, np.ones(1)) if label in s.curves else None
        if curve is None:
            raise InputError(
                f"{self.name} without a curve for label {label}",
                expected="a curve for every region with activity",
                remedy="add the curve, or leave label 0 out with outside='zero'",
                kind="time_integration.curve",
            )
        # a curve that has all but gone by the scan has a factor without bound: the mean of such draws is theirs alone
        logs = np.log(curve.integral) - np.log(np.maximum(curve.at_scans[:, 0], np.finfo(np.float64).tiny))
        hours = float(np.exp(logs.mean()))
        rel = float(logs.std(ddof=1)) if len(logs) > 1 else 0.0
        most = _p("window.largest_error")
        return hours, rel, f"the curve leaves the factor uncertain by {rel:.0%}, above {most:.0%}" if rel > most else ""


def _shape(name: str) -> type[Shape]:
    return type(name, (Shape,), {"name": name, "__doc__": Shape.__doc__})


def _build(kind: type[_SingleTime]) -> None:
    def make(setting: IntegrationSetting) -> TimeIntegrator:
        return kind(setting)

    register_integrator(kind.name, make)


for _kind in (Hanscheid2018, Hanscheid2017, Madsen, _shape("population_shape"), _shape("twin_shape")):
    _build(_kind)
