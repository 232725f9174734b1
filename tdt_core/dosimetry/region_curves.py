"""Activity curves of regions through their measured points, with draws over the error budgets, and their values at any time.

A curve is that of plain time integration (`time_integration`): an assumption before the first scan, log-linear where activity
falls between scans and linear where it rises, an exponential tail through the last two scans, never slower than physical decay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tdt_core.dosimetry.time_integration.intervals import EARLY, LOG_LINEAR, integrate_parts
from tdt_core.dosimetry.units import FloatArray
from tdt_core.errors import ModelError
from tdt_core.twin import ErrorBudget, RegionActivity

TAIL_SCANS = 2


@dataclass(frozen=True, eq=False)
class DrawnCurve:
    """Curves of one region; draw 0 is the measured one.

    Attributes
    ----------
    times_h : (scans,) hours after the administration. at_scans : (draws, scans) MBq.
    parts : (3, draws) integrals before, between and after the scans, MBq h.
    decay_per_h : physical decay constant. early : what holds before the first scan, as in `time_integration`.
    """

    times_h: FloatArray
    at_scans: FloatArray
    parts: FloatArray
    decay_per_h: float
    early: str

    @property
    def integral(self) -> FloatArray:
        """(draws,) MBq h, from the administration to infinity."""
        return np.asarray(self.parts.sum(axis=0))

    @property
    def tail_rate(self) -> FloatArray:
        """(draws,) rate of the tail, 1/h; that of physical decay where activity vanishes."""
        last = self.at_scans[:, -1]
        after = self.parts[2]
        return np.where(after > 0, last / np.where(after > 0, after, 1.0), self.decay_per_h)

    def before_first(self, early: str) -> FloatArray:
        """(draws,) MBq h from the administration to the first scan if `early` were what holds there."""
        return np.asarray(self.at_scans[:, 0] * _early_hours(early, float(self.times_h[0]), self._early_rate))

    def values(self, at_h: FloatArray) -> FloatArray:
        """(draws, n) activity at (n,) hours after the administration, >= 0."""
        t, y, at = self.times_h, self.at_scans, np.asarray(at_h, dtype=float)
        out = np.empty((len(y), at.size))
        early = at < t[0]
        out[:, early] = y[:, :1] * self._before(at[early])
        for k in range(len(t) - 1):
            inside = (at >= t[k]) & (at < t[k + 1])
            share = (at[inside] - t[k]) / (t[k + 1] - t[k])
            a, b = y[:, k, None], y[:, k + 1, None]
            falls = (b > 0) & (b < a)
            log = np.where(falls, a, 1.0) * np.where(falls, b, 1.0) ** share / np.where(falls, a, 1.0) ** share
            out[:, inside] = np.where(falls, log, a + (b - a) * share)
        late = at >= t[-1]
        out[:, late] = y[:, -1:] * np.exp(-self.tail_rate[:, None] * (at[late] - t[-1]))
        return out

    def _before(self, at: FloatArray) -> FloatArray:
        """(draws or 1, n) activity over that at the first scan."""
        first = float(self.times_h[0])
        if self.early == "constant":
            return np.ones((1, at.size))
        if self.early == "linear":
            return np.asarray(at / first)[None]
        return np.exp(self._early_rate[:, None] * (first - at))

    @property
    def _early_rate(self) -> FloatArray:
        """(draws,) rate of the decline from the first to the second scan, 1/h; of a single scan that of the tail."""
        if len(self.times_h) == 1:
            return self.tail_rate
        a, b = self.at_scans[:, 0], self.at_scans[:, 1]
        seen = (a > 0) & (b > 0)
        fall = np.log(np.where(seen, a, 1.0) / np.where(seen, b, 1.0)) / (self.times_h[1] - self.times_h[0])
        return np.maximum(fall, self.decay_per_h)


def drawn_curves(
    activities: Sequence[RegionActivity],
    times_h: Mapping[str, float],
    decay_per_h: float,
    draws: int,
    seed: int,
    early: str = "constant",
    half_life_h: Mapping[str, float] | None = None,
) -> dict[str, DrawnCurve]:
    """Region -> its curve and `draws` draws of it over the error budgets.

    Parameters
    ----------
    activities : of all regions at all scans. times_h : scan id -> hours after the administration.
    early : `constant`, `linear` or `exponential` before the first scan.
    half_life_h : region -> effective half-life of a curve through a single scan; without one it is the physical one.

    Errors are log-normal with mean 1: counts and registration independent from scan to scan, partial volume and segmentation
    shared by the scans of a region, calibration and resolution by all regions of a calibration.
    """
    if early not in EARLY:
        raise ModelError(f"before the first scan: {early!r}", expected=f"one of {tuple(EARLY)}", kind="model.name")
    rng = np.random.default_rng(seed)
    calibrations = sorted({a.calibration_id for a in activities})
    common = dict(zip(calibrations, rng.standard_normal((len(calibrations), 2, draws)), strict=True))
    found = {}
    for region in dict.fromkeys(a.region for a in activities):
        rows = sorted((a for a in activities if a.region == region), key=lambda a: times_h[a.scan])
        own = rng.standard_normal(draws)
        measured = np.array([a.activity_mbq for a in rows])
        log = np.stack([_log_error(a.budget, rng.standard_normal(draws), own, common[a.calibration_id]) for a in rows], axis=1)
        at_scans = np.concatenate([measured[None], measured * np.exp(log)])
        times = np.array([times_h[a.scan] for a in rows])
        parts = integrate_parts(at_scans.T, times, decay_per_h, LOG_LINEAR, EARLY[early], min(TAIL_SCANS, len(times)))
        if len(times) == 1 and half_life_h is not None and region in half_life_h:
            rate = max(math.log(2.0) / half_life_h[region], decay_per_h)
            parts = _single(at_scans[:, 0], float(times[0]), rate, early)
        found[region] = DrawnCurve(times, at_scans, np.asarray(parts[:3], float), decay_per_h, early)
    return found


def _single(activity: FloatArray, time_h: float, rate: float, early: str) -> FloatArray:
    """(3, draws) integrals before, between and after one scan of a curve that falls at a known rate."""
    before = _early_hours(early, time_h, np.asarray(rate))
    return np.stack([activity * before, np.zeros_like(activity), activity / rate])


def _early_hours(early: str, first_h: float, rate: FloatArray) -> FloatArray:
    """Integral up to the first scan over the activity there, h; `rate` () or (draws,) 1/h of an exponential."""
    if early == "exponential":
        return np.expm1(rate * first_h) / rate
    return np.asarray({"constant": 1.0, "linear": 0.5}[early] * first_h)


def _log_error(budget: ErrorBudget, scan: FloatArray, region: FloatArray, calibration: FloatArray) -> FloatArray:
    """(draws,) logarithm of a factor of mean 1; the resolution's part keeps its sign."""
    parts = [
        (budget.independent, scan),
        (budget.shared, region),
        (budget.calibration, calibration[0]),
        (budget.resolution, calibration[1]),
    ]
    sd = [float(np.sign(rel) * np.sqrt(np.log1p(rel**2))) for rel, _ in parts]
    return np.asarray(sum(s * z - 0.5 * s**2 for s, (_, z) in zip(sd, parts, strict=True)))
