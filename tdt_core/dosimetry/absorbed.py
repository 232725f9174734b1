"""Absorbed dose of a map of time-integrated activity, by any registered engine."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.density import check_spacing, density_map, dose_gy, mass_kg
from tdt_core.dosimetry.engines import EngineSetting, build_engine
from tdt_core.dosimetry.units import Array32
from tdt_core.errors import GeometryError, InputError
from tdt_core.nuclides import Progeny


def absorbed_dose(
    tia_mbq_h: npt.NDArray[Any],
    spacing_mm: tuple[float, float, float],
    nuclide: str,
    density_g_cm3: float | npt.NDArray[Any] | None = None,
    material: npt.NDArray[Any] | None = None,
    engine: str = "local",
    *,
    progeny: Progeny = "equilibrium",
    cache: MutableMapping[str, Any] | None = None,
    **options: Any,
) -> Array32:
    """Absorbed dose per voxel, Gy.

    Parameters
    ----------
    tia_mbq_h : (z, y, x) time-integrated activity of the parent nuclide in each voxel, MBq h (not per mL), >= 0.
    spacing_mm : (dz, dy, dx).
    nuclide : name of the parent.
    density_g_cm3 : one density or a (z, y, x) map; default that of `material`, else water (1).
    material : (z, y, x) integers that index `MATERIALS`; for engines that follow materials, and for the density.
    engine : a name from `engines()`.
    progeny : "equilibrium" (all shorter-lived progeny decay at the same site), "all" (longer-lived ones too) or "none".
    cache : mapping that keeps kernels between calls.
    options : settings of the engine.

    Returns
    -------
    (z, y, x) float32, Gy: energy deposited in a voxel over that voxel's own mass; 0 in air.

    Raises
    ------
    GeometryError, InputError, ModelError
        Grids that do not match, spacing or density without meaning, negative or non-finite activity, unknown names.
    """
    check_spacing(spacing_mm)
    tia = check_tia(tia_mbq_h)
    density = density_map(tia.shape, density_g_cm3, material)
    setting = EngineSetting(nuclide, spacing_mm, density, material, progeny, cache, dict(options))
    return dose_gy(build_engine(engine, setting).energy(tia), mass_kg(density, spacing_mm))


def check_tia(tia_mbq_h: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The map itself when it is a finite, non-negative (z, y, x) array; else GeometryError or InputError."""
    tia = np.asarray(tia_mbq_h)
    if tia.ndim != 3 or 0 in tia.shape:
        raise GeometryError(f"time-integrated activity of shape {tia.shape}", expected="three non-empty axes z, y, x")
    if not np.isfinite(tia).all() or (tia < 0).any():
        raise InputError(
            "the map of time-integrated activity holds negative or non-finite values",
            expected="MBq h per voxel, >= 0",
            remedy="clip or refit the voxels before dosimetry",
            kind="input.activity",
        )
    return tia
