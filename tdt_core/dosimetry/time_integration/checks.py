"""What a series of images must be before it is integrated over time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.units import Array32, FloatArray
from tdt_core.errors import GeometryError, InputError, ModelError, TimeError

_ROUNDING = 1e-6  # of the largest activity: negative values below it come from rounding


def checked_times(times_h: npt.ArrayLike, frame_h: npt.ArrayLike | None = None) -> FloatArray:
    """(scans,) times as floats. Raises InputError without a scan, TimeError for times or frames that cannot be meant."""
    times = np.atleast_1d(np.asarray(times_h, dtype=np.float64))
    if times.ndim != 1 or times.size == 0:
        raise InputError("a series without a scan", expected="at least one scan with its time", kind="time_integration.no_scan")
    if not np.isfinite(times).all():
        raise TimeError("a scan time is not finite", expected="hours after the administration", kind="time_integration.times")
    if times[0] <= 0:
        raise TimeError(
            f"a scan {times[0]:g} h after the administration",
            expected="scans after the administration",
            remedy="give times relative to the administration, and leave out scans of an earlier one",
            kind="time_integration.before_injection",
        )
    if (np.diff(times) <= 0).any():
        raise TimeError(
            f"scan times {times.tolist()} h",
            expected="times that rise, no two alike",
            remedy="sort the scans; add the counts of two that are at one time",
            kind="time_integration.times",
        )
    if frame_h is not None:
        _check_frames(times, np.atleast_1d(np.asarray(frame_h, dtype=np.float64)))
    return times


def _check_frames(times: FloatArray, frames: FloatArray) -> None:
    if frames.shape != times.shape or not np.isfinite(frames).all() or (frames <= 0).any():
        raise TimeError(
            f"frame durations {frames.tolist()} h", expected=f"{len(times)} positive durations", kind="time_integration.frame"
        )
    start, end = times - frames / 2, times + frames / 2
    if start[0] < 0 or (start[1:] < end[:-1]).any():
        raise TimeError(
            "frames that begin before the administration or overlap",
            expected="times of the middle of each frame, frames one after the other",
            kind="time_integration.frame",
        )


def checked_scans(scans_mbq: npt.ArrayLike, n: int) -> Array32:
    """(scans, z, y, x) float32 activity. Raises InputError for negative or non-finite values, GeometryError for its shape."""
    scans = np.ascontiguousarray(scans_mbq, dtype=np.float32)
    if scans.ndim != 4 or len(scans) != n or 0 in scans.shape:
        raise GeometryError(f"images of shape {scans.shape}", expected=f"({n}, z, y, x)", kind="time_integration.grid")
    low, high = float(scans.min()), float(scans.max())  # a NaN makes both NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(
            f"{int((~np.isfinite(scans)).sum())} voxels are not finite", expected="finite activity", kind="imaging.nonfinite"
        )
    if low < -_ROUNDING * max(high, 0.0):
        raise InputError(
            f"{int((scans < 0).sum())} voxels are negative, down to {low:g} MBq",
            expected="activity >= 0 in every voxel",
            remedy="export the images without spline interpolation or background subtraction",
            kind="imaging.negative",
        )
    return np.maximum(scans, np.float32(0)) if low < 0 else scans


def checked_sd(sd_mbq: npt.ArrayLike, shape: tuple[int, ...]) -> Array32:
    """(scans, z, y, x) float32 noise SD, broadcast. Raises InputError unless finite and > 0, GeometryError for its shape."""
    given = np.asarray(sd_mbq, dtype=np.float32)
    try:
        sd = np.ascontiguousarray(np.broadcast_to(given, shape))
    except ValueError:
        raise GeometryError(
            f"noise of shape {given.shape}", expected=f"the shape of the images, {shape}", kind="time_integration.grid"
        ) from None
    low, high = float(given.min()), float(given.max())
    if not (low > 0 and np.isfinite(high)):
        raise InputError(
            "a noise SD that is not positive and finite",
            expected="SD > 0 in every voxel and scan",
            remedy="add the noise of the background to voxels without counts",
            kind="time_integration.noise",
        )
    return sd


def checked_labels(labels: npt.NDArray[Any] | None, grid: tuple[int, ...]) -> npt.NDArray[Any]:
    """(z, y, x) integer labels; None is one region, label 1. Raises GeometryError for another grid or values below 0."""
    if labels is None:
        return np.ones(grid, np.int16)
    array = np.asarray(labels)
    if array.shape != grid or not np.issubdtype(array.dtype, np.integer):
        raise GeometryError(
            f"labels of shape {array.shape} and type {array.dtype}",
            expected=f"integers on the grid {grid}",
            kind="geometry.grid",
        )
    if array.min() < 0:
        raise GeometryError("labels below 0", expected="0 for the remainder, 1 and more for regions", kind="input.mask")
    return array


def refuse_unknown(options: dict[str, Any], known: tuple[str, ...], method: str) -> None:
    """Raises ModelError when a method is given an option that it does not have."""
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ModelError(f"options {unknown} for {method}", expected=f"some of {known}", kind="model.option")
