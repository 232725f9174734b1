"""Curve of a region: its activity at the scan times and its integral, each with draws.

The integral is kept in three parts, since each rests on something else: before the first scan on an assumption or a model,
between the scans on data, after the last scan on the tail's rate, which physical decay bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tdt_core.dosimetry.time_integration.intervals import EXPONENTIAL, LOG_LINEAR, integrate_parts
from tdt_core.dosimetry.units import FloatArray
from tdt_core.errors import InputError

_SLACK = 1e-6  # relative; curves come from quadratures in double precision


@dataclass(frozen=True, eq=False)
class RegionalCurve:
    """Draws of one region's activity curve, in the unit of the images (or any one unit: methods use its shape and total).

    Attributes
    ----------
    at_scans : (draws, scans) activity, > 0.
    before_first, between, after_last : (draws,) integrals from time zero to the first scan, to the last scan, to infinity.
    """

    at_scans: FloatArray
    before_first: FloatArray
    between: FloatArray
    after_last: FloatArray

    def __post_init__(self) -> None:
        values = np.atleast_2d(np.asarray(self.at_scans, dtype=np.float64))
        object.__setattr__(self, "at_scans", values)
        for name in ("before_first", "between", "after_last"):
            part = np.atleast_1d(np.asarray(getattr(self, name), dtype=np.float64))
            object.__setattr__(self, name, part)
            if part.shape != (len(values),) or not np.isfinite(part).all() or (part < 0).any():
                raise InputError(
                    f"integral {name} of shape {part.shape}",
                    expected=f"({len(values)},) finite values >= 0, one per draw",
                    kind="time_integration.curve",
                )
        if values.ndim != 2 or values.size == 0 or not np.isfinite(values).all() or (values <= 0).any():
            raise InputError(
                "a regional curve that is not positive and finite at the scan times",
                expected="(draws, scans) activity > 0",
                kind="time_integration.curve",
            )

    @property
    def integral(self) -> FloatArray:
        """(draws,) from time zero to infinity."""
        return self.before_first + self.between + self.after_last

    @property
    def mean(self) -> RegionalCurve:
        """The curve of the mean over draws, as one draw."""
        return RegionalCurve(
            self.at_scans.mean(axis=0, keepdims=True),
            self.before_first.mean(keepdims=True),
            self.between.mean(keepdims=True),
            self.after_last.mean(keepdims=True),
        )

    @classmethod
    def from_integral(
        cls, at_scans: FloatArray, integral: FloatArray, times_h: FloatArray, decay_per_h: float
    ) -> RegionalCurve:
        """A curve whose integral is known as one number per draw.

        Between scans it is taken as log-linear, after the last scan as going on at the rate of the last two scans, not slower
        than physical decay; the rest is what came before the first scan. Where there is no rest, all parts are scaled to the
        integral.
        """
        values = np.atleast_2d(np.asarray(at_scans, dtype=np.float64))
        total = np.broadcast_to(np.asarray(integral, dtype=np.float64), (len(values),))
        parts = integrate_parts(values.T, times_h, decay_per_h, LOG_LINEAR, EXPONENTIAL, min(2, len(times_h)))
        late = parts[1] + parts[2]
        scale = np.minimum(1.0, np.where(late > 0, total / np.maximum(late, 1e-300), 1.0))
        return cls(values, np.maximum(total - late, 0.0), parts[1] * scale, parts[2] * scale)


def measured_curve(
    activity: FloatArray, times_h: FloatArray, decay_per_h: float, before_first: int, tail_scans: int
) -> RegionalCurve:
    """The curve that a region's own activity (scans,) shows: log-linear decline, linear rise, exponential tail; one draw."""
    values = np.maximum(activity, 1e-12 * max(float(activity.max()), 1e-300))
    parts = integrate_parts(values[:, None], times_h, decay_per_h, LOG_LINEAR, before_first, tail_scans)
    return RegionalCurve(values[None], parts[0], parts[1], parts[2])


def check_curves(
    curves: Mapping[int, RegionalCurve], times_h: FloatArray, decay_per_h: float, before_first: str | None
) -> None:
    """Refuse curves for other scans, and curves that decline slower after the last scan than the nuclide decays.

    A curve that still rises at the last scan may hold more than physical decay from there on, and passes. One scan does not
    show whether it rises, so nothing is refused then.
    """
    for label, curve in curves.items():
        values = curve.at_scans
        if values.shape[1] != len(times_h):
            raise InputError(
                f"the curve of label {label} has {values.shape[1]} values",
                expected=f"one per scan, {len(times_h)}",
                kind="time_integration.curve",
            )
        if len(times_h) > 1:
            falling = values[:, -1] < values[:, -2]
            slow = falling & (curve.after_last * decay_per_h > values[:, -1] * (1 + _SLACK))
            if slow.any():
                raise InputError(
                    f"the curve of label {label} falls but holds more after the last scan than physical decay leaves, "
                    f"in {int(slow.sum())} of {len(values)} draws",
                    expected="a decline at least as fast as physical decay",
                    remedy="check the nuclide, whether activities were decay-corrected, and the bound of the fit",
                    kind="time_integration.physical_decay",
                )
    if before_first == "curve" and not curves:
        raise InputError(
            "before_first='curve' without a regional curve",
            expected="curves, or another assumption before the first scan",
            kind="time_integration.curve",
        )
