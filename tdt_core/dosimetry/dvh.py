"""Dose-volume histograms: one dose map, or draws of it.

D_x is the dose that the hottest x % of the volume receives at least; V_x the volume fraction that receives at least x Gy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.units import FloatArray
from tdt_core.errors import GeometryError, InputError
from tdt_core.radiobiology import generalised_eud

D_LEVELS = (98, 95, 90, 50, 2)
V_LEVELS_GY = (20.0,)
CURVE_POINTS = 101


@dataclass(frozen=True, eq=False)
class DoseVolume:
    """Cumulative histogram of one region.

    Attributes
    ----------
    dose_gy : (n,) ascending from 0. volume_fraction : (n,) fraction of the volume with at least that dose.
    mean_gy : mean over the voxels. metrics : `d98`, `d95`, `d90`, `d50`, `d2` in Gy, `v20` as a fraction.
    """

    dose_gy: FloatArray
    volume_fraction: FloatArray
    mean_gy: float
    metrics: Mapping[str, float]


def dvh(
    dose: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_],
    d_levels: Sequence[float] = D_LEVELS,
    v_levels_gy: Sequence[float] = V_LEVELS_GY,
) -> DoseVolume:
    """Histogram of a dose map, Gy, inside a mask of equal voxels.

    Raises
    ------
    GeometryError : another shape or an empty mask. InputError : doses that are negative or not finite.
    """
    values = doses_inside(dose, mask)
    ordered = np.sort(values)[:, None]
    grid = np.linspace(0.0, float(ordered[-1, 0]) * 1.02 or 1.0, CURVE_POINTS)
    return DoseVolume(
        dose_gy=grid,
        volume_fraction=volume_curves(ordered, grid)[:, 0],
        mean_gy=float(values.mean()),
        metrics={k: float(v[0]) for k, v in metrics(ordered, d_levels, v_levels_gy).items()},
    )


def equivalent_uniform_dose(dose: npt.NDArray[Any], mask: npt.NDArray[np.bool_], a: float) -> float:
    """Generalised EUD (Niemierko): (mean of D^a)^(1/a), Gy; a = 1 is the mean, large a the maximum, negative a a tumour's."""
    values = doses_inside(dose, mask)
    return float(generalised_eud(values, a))


def doses_inside(dose: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> FloatArray:
    """(voxels,) doses of a mask as float64, checked."""
    if np.shape(dose) != np.shape(mask):
        raise GeometryError(
            f"mask of shape {np.shape(mask)} on a dose map of shape {np.shape(dose)}",
            expected="the same grid",
            remedy="resample the mask to the grid of the dose",
        )
    values = np.asarray(dose)[np.asarray(mask, dtype=bool)].astype(np.float64)
    if values.size == 0:
        raise GeometryError("the mask holds no voxel", expected="at least one", kind="input.empty_mask")
    if not np.isfinite(values).all() or (values < 0).any():
        raise InputError("the dose map holds negative or non-finite values", expected="Gy, >= 0", kind="input.dose")
    return values


def metrics(
    ordered: npt.NDArray[Any], d_levels: Sequence[float] = D_LEVELS, v_levels_gy: Sequence[float] = V_LEVELS_GY
) -> dict[str, FloatArray]:
    """(draws,) metrics of (voxels, draws) doses that ascend along the voxels."""
    last = len(ordered) - 1
    found: dict[str, FloatArray] = {}
    for level in d_levels:
        at = (1.0 - level / 100.0) * last
        low = min(int(at), max(last - 1, 0))
        high = min(low + 1, last)
        found[f"d{level:g}"] = ordered[low] + (at - low) * (ordered[high] - ordered[low])
    for level in v_levels_gy:
        found[f"v{level:g}"] = (ordered >= level).mean(axis=0)
    return found


def volume_curves(ordered: npt.NDArray[Any], grid: FloatArray) -> FloatArray:
    """(grid, draws) volume fraction with at least each dose, of (voxels, draws) doses that ascend along the voxels."""
    n = len(ordered)
    below = np.stack([np.searchsorted(ordered[:, d], grid, side="left") for d in range(ordered.shape[1])], axis=1)
    return 1.0 - below / n
