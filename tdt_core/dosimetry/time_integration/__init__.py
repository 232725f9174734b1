"""Time integration per voxel behind one protocol: images at scan times in, time-integrated activity (TIA) out.

A new method is one module in this package that calls `register_integrator`. Times are hours after the administration, of the
middle of each frame; activity is MBq per voxel, as it was at that time (not corrected for decay to another time).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

import numpy.typing as npt

from tdt_core.dosimetry.time_integration.checks import checked_labels, checked_scans, checked_sd, checked_times
from tdt_core.dosimetry.time_integration.curves import RegionalCurve, check_curves
from tdt_core.dosimetry.time_integration.registry import (
    BeforeFirst,
    IntegrationSetting,
    Outside,
    TimeIntegrated,
    TimeIntegrator,
    build_integrator,
    integrators,
    register_integrator,
)
from tdt_core.errors import ModelError
from tdt_core.nuclides import nuclide as nuclide_of


def time_integrated_activity(
    scans_mbq: npt.NDArray[Any],
    times_h: npt.NDArray[Any],
    nuclide: str,
    *,
    method: str = "regional_shape",
    labels: npt.NDArray[Any] | None = None,
    curves: Mapping[int, RegionalCurve] | None = None,
    sd_mbq: npt.NDArray[Any] | None = None,
    before_first: BeforeFirst | None = None,
    outside: Outside = "region",
    frame_h: npt.NDArray[Any] | None = None,
    **options: Any,
) -> TimeIntegrated:
    """Time-integrated activity per voxel of one administration, MBq h, from time zero to infinity.

    Parameters
    ----------
    scans_mbq : (scans, z, y, x) activity per voxel at the time of each scan, all on one grid.
    times_h : (scans,) middle of each frame in hours after the administration, rising.
    nuclide : what decays; its half-life bounds the decline after the last scan.
    method : one of `integrators()`.
    labels : (z, y, x) integers, one region per label, 0 the remainder; None takes the grid as one region.
    curves : label -> `RegionalCurve` in the unit of the images, if a model of the region was fitted.
    sd_mbq : (scans, z, y, x) noise SD, or a shape that broadcasts to it.
    before_first, outside : see `IntegrationSetting`.
    frame_h : (scans,) duration of each frame, for the check that frames begin after the administration and do not overlap.
    options : settings of the method.

    Raises
    ------
    InputError, TimeError, GeometryError : no scan, wrong times, negative or non-finite activity, grids that differ, a curve
        that declines slower than the nuclide decays. ModelError : unknown method or option.
    """
    times = checked_times(times_h, frame_h)
    scans = checked_scans(scans_mbq, len(times))
    grid = scans.shape[1:]
    for what, given, known in (("before_first", before_first, BeforeFirst), ("outside", outside, Outside)):
        if given is not None and given not in get_args(known):
            raise ModelError(f"{what} {given!r}", expected=f"one of {get_args(known)}", kind="model.name")
    setting = IntegrationSetting(
        times,
        math.log(2.0) / nuclide_of(nuclide).half_life_h,
        checked_labels(labels, grid),
        dict(curves or {}),
        None if sd_mbq is None else checked_sd(sd_mbq, scans.shape),
        before_first,
        outside,
        options,
    )
    check_curves(setting.curves, times, setting.decay_per_h, before_first)
    return build_integrator(method, setting).integrate(scans)


__all__ = [
    "BeforeFirst",
    "IntegrationSetting",
    "RegionalCurve",
    "TimeIntegrated",
    "TimeIntegrator",
    "build_integrator",
    "integrators",
    "register_integrator",
    "time_integrated_activity",
]
