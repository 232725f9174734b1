"""Trends of laboratory values: a statement about the data, not a mechanistic forecast.

ln value follows a level with a random walk and a slope, both Gaussian; the filter is exact (Kalman). Censored values give
their bound as an observation with doubled error, and are counted in the note.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.parameters import packaged_table
from tdt_core.twin import LabResult

FloatArray = npt.NDArray[np.float64]

SIX_WEEKS_H = 6 * 7 * 24.0
Z95 = 1.6448536269514722
NOTE = "trend of the data, not a mechanistic forecast"


def _setting(kind: str, analyte: str) -> float:
    table = packaged_table("lab_trends.csv")
    name = f"{kind}.{analyte}"
    return table.value(name if name in table else f"{kind}.default")


def trend(analyte: str, times_h: FloatArray, values: FloatArray, at_h: FloatArray, noise_scale: FloatArray) -> FloatArray:
    """(3, len(at_h)) 5 %, 50 % and 95 % of the analyte at later times, from positive values at `times_h` (ascending).

    The state is (ln level, ln slope per six weeks); a diffuse level and the packaged slope prior start it.
    """
    noise, slope, walk = (_setting(k, analyte) for k in ("noise", "slope", "walk"))
    mean = np.array([np.log(values[0]), 0.0])
    covariance = np.diag([(noise * noise_scale[0]) ** 2, slope**2])
    now = times_h[0]
    for t, value, scale in zip(times_h[1:], values[1:], noise_scale[1:], strict=True):
        mean, covariance = _advance(mean, covariance, (t - now) / SIX_WEEKS_H, walk)
        now = t
        variance = covariance[0, 0] + (noise * scale) ** 2
        gain = covariance[:, 0] / variance
        mean = mean + gain * (np.log(value) - mean[0])
        covariance = covariance - np.outer(gain, covariance[0])
    out = np.empty((3, len(at_h)))
    for i, t in enumerate(at_h):
        m, c = _advance(mean, covariance, max(t - now, 0.0) / SIX_WEEKS_H, walk)
        sd = np.sqrt(c[0, 0] + noise**2)
        out[:, i] = np.exp(m[0] + sd * np.array([-Z95, 0.0, Z95]))
    return out


def _advance(mean: FloatArray, covariance: FloatArray, dt: float, walk: float) -> tuple[FloatArray, FloatArray]:
    f = np.array([[1.0, dt], [0.0, 1.0]])
    return f @ mean, f @ covariance @ f.T + np.diag([walk**2 * dt, 0.0])


def lab_trends(labs: Sequence[LabResult], until_h: float) -> list[dict[str, Any]]:
    """Every analyte's points and, from two values on, its trend to `until_h` (see docs/design/002, key `labs`)."""
    by_analyte: dict[str, list[LabResult]] = defaultdict(list)
    for lab in labs:
        if lab.status != "entered-in-error":
            by_analyte[lab.analyte].append(lab)
    rows = []
    for analyte, results in sorted(by_analyte.items()):
        results.sort(key=lambda x: (x.time_h, x.record))
        positive = [x for x in results if x.value > 0]
        row: dict[str, Any] = {
            "analyte": analyte,
            "unit": results[0].unit,
            "points": [{"time_h": x.time_h, "value": x.value, "comparator": x.comparator} for x in results],
            "trend": None,
            "note": NOTE,
        }
        censored = sum(1 for x in results if x.comparator)
        if censored:
            row["note"] += f"; {censored} censored value(s) used at their bound with doubled error"
        if len(positive) < 2:
            row["note"] = "fewer than two values: no trend"
        else:
            times = np.array([x.time_h for x in positive])
            at = np.linspace(times[-1], max(until_h, times[-1] + 24.0), 25)
            scale = np.array([2.0 if x.comparator else 1.0 for x in positive])
            low, mid, high = trend(analyte, times, np.array([x.value for x in positive]), at, scale)
            row["trend"] = {"times_h": at.tolist(), "q05": low.tolist(), "q50": mid.tolist(), "q95": high.tolist()}
        rows.append(row)
    return rows
