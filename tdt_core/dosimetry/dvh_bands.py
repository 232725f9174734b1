"""Dose-volume histograms of a region with bands over draws, in absorbed dose and in BED, and equivalent uniform doses."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.dvh import CURVE_POINTS, metrics, volume_curves
from tdt_core.dosimetry.units import Array32, FloatArray
from tdt_core.dosimetry.voxel_bands import Response
from tdt_core.draws import LEVELS, summarised
from tdt_core.radiobiology import dose_of_bed, generalised_eud, survival_eubed
from tdt_core.reproducible import one_blas_thread

DVH_DRAWS = 200
DVH_VOXELS = 10_000


@one_blas_thread
def dvh_bands(name: str, basis: Array32, tia: FloatArray, factor: FloatArray, response: Response | None) -> dict[str, Any]:
    """One region's histograms from (sources, voxels) basis maps, up to `DVH_DRAWS` draws; `thinned` limits the voxels.

    BED rises with dose in every draw, so its histogram is that of dose with another axis.

    Returns
    -------
    `{region, dose_gy, q05, q50, q95, metrics, bed}`: volume fractions over draws at the doses `dose_gy`; metrics D98 to D2, V20
    and `eud` where the response has an exponent. `bed`: None, or `{bed_gy, q05, q50, q95, metrics}` of BED, with `eubed` and
    `eud_survival` (the absorbed dose of that BED at the draw's G) where the response has an alpha.
    """
    chosen = np.unique(np.linspace(0, len(tia) - 1, min(len(tia), DVH_DRAWS)).round().astype(int))
    draws = (tia[chosen] / factor[chosen, None]).astype(np.float32)
    ordered = np.sort(basis.T @ draws.T, axis=0)
    found = {"region": name, **_curve(ordered, "dose_gy"), "bed": None}
    if response is None:
        return found
    if response.eud_a is not None:
        found["metrics"]["eud"] = summarised(generalised_eud(ordered, response.eud_a))
    g = response.g[chosen]
    bed = ordered * (1.0 + (g / response.alpha_beta_gy) * ordered)
    found["bed"] = _curve(bed, "bed_gy")
    if response.alpha_per_gy is not None:
        uniform = survival_eubed(bed, response.alpha_per_gy)
        found["bed"]["metrics"] |= {
            "eubed": summarised(uniform),
            "eud_survival": summarised(dose_of_bed(uniform, g, response.alpha_beta_gy)),
        }
    return found


def thinned(flat: Array32, voxels: npt.NDArray[np.integer], average_mbq_h: FloatArray) -> Array32:
    """(sources, up to `DVH_VOXELS`) of the basis (sources, all voxels) at the given voxels of a region.

    Voxels are taken evenly from the order of their mean dose, so that the thinned histogram keeps its shape.
    average_mbq_h : (sources,) mean activity over mass factor.
    """
    if voxels.size > DVH_VOXELS:
        mean = np.zeros(voxels.size, np.float32)
        for level, source in zip(average_mbq_h.astype(np.float32), flat, strict=True):
            mean += level * source[voxels]
        order = np.argsort(mean, kind="stable")
        voxels = voxels[order[np.linspace(0, voxels.size - 1, DVH_VOXELS).round().astype(int)]]
    return np.asarray(flat[:, voxels])


def _curve(ordered: npt.NDArray[np.floating], axis: str) -> dict[str, Any]:
    """Curve and metrics of (voxels, draws) doses that ascend along the voxels."""
    grid = np.linspace(0.0, float(np.quantile(ordered[-1], 0.95)) * 1.02 or 1.0, CURVE_POINTS)
    low, mid, high = np.quantile(volume_curves(ordered, grid), LEVELS, axis=1)
    return {
        axis: grid.tolist(),
        "q05": low.tolist(),
        "q50": mid.tolist(),
        "q95": high.tolist(),
        "metrics": {k: summarised(v) for k, v in metrics(ordered).items()},
    }
