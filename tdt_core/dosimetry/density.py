"""Masses of voxels: density or material to kg, and what happens in air.

Air (density below `AIR_BELOW_G_CM3`) takes no dose: the energy that arrives there is counted as escaping, because the dose
to a few milligrams of air says nothing about tissue. Between that and `FLOOR_G_CM3` (the thinnest lung parenchyma) the floor
is used as the mass of the voxel, so that noise in a CT of lung does not blow up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.units import Array32
from tdt_core.errors import GeometryError, InputError
from tdt_core.parameters import packaged_csv

AIR_BELOW_G_CM3 = 0.05
FLOOR_G_CM3 = 0.15

_MEDIA = {row["name"]: row for row in packaged_csv("media.csv")}

MATERIALS: tuple[str, ...] = tuple(_MEDIA)
"""Names of materials; an integer `material` map indexes this tuple."""


def medium_density_g_cm3(name: str) -> float:
    """Density of a named medium. Raises InputError when there is none of that name."""
    return float(_medium(name)["density_g_cm3"])


def medium_electron_k(name: str) -> float:
    """Factor on the areal depth of the water electron kernel, F_medium(t) = F_water(k t)."""
    return float(_medium(name)["electron_k"])


def _medium(name: str) -> dict[str, str]:
    if name not in _MEDIA:
        raise InputError(f"no medium named {name!r}", expected=f"one of {MATERIALS}", kind="input.material")
    return _MEDIA[name]


def check_spacing(spacing_mm: tuple[float, float, float]) -> None:
    """Raises GeometryError unless (dz, dy, dx) are three finite positive lengths."""
    values = np.asarray(spacing_mm, dtype=np.float64)
    if values.shape != (3,) or not np.isfinite(values).all() or (values <= 0).any():
        raise GeometryError(f"voxel spacing {spacing_mm} mm", expected="three positive lengths (dz, dy, dx)")


def density_map(
    shape: tuple[int, int, int],
    density_g_cm3: float | npt.NDArray[np.floating] | None,
    material: npt.NDArray[np.integer] | None,
) -> Array32:
    """Density per voxel, g/cm3: as given, else that of the material, else water.

    Raises GeometryError on another shape, InputError on values that are no density or no material.
    """
    if density_g_cm3 is not None:
        density = np.asarray(density_g_cm3, dtype=np.float32)
        density = np.full(shape, density, np.float32) if density.ndim == 0 else density
        if not np.isfinite(density).all() or (density < 0).any() or not (density > 0).any():
            raise InputError(
                "the density map holds negative or non-finite values, or nothing but zeros",
                expected="g/cm3, >= 0",
                remedy="convert the CT to density before dosimetry",
                kind="input.density",
            )
    elif material is not None:
        density = np.array([medium_density_g_cm3(m) for m in MATERIALS], np.float32)[check_material(material)]
    else:
        density = np.ones(shape, np.float32)
    if density.shape != tuple(shape):
        raise GeometryError(
            f"density or material of shape {density.shape} with activity of shape {tuple(shape)}",
            expected="the same grid",
            remedy="resample the CT to the grid of the activity",
        )
    return density


def check_material(material: npt.NDArray[Any]) -> npt.NDArray[np.integer]:
    """The map itself when it holds indices of `MATERIALS`; else InputError."""
    index = np.asarray(material)
    if not np.issubdtype(index.dtype, np.integer) or index.size == 0 or index.min() < 0 or index.max() >= len(MATERIALS):
        values = f"values {index.min()} to {index.max()}" if index.size else "no value"
        raise InputError(
            f"material map of type {index.dtype}, {values}",
            expected=f"integers 0 to {len(MATERIALS) - 1}, indices of {MATERIALS}",
            kind="input.material",
        )
    return index


def areal_scale(density: Array32, material: npt.NDArray[Any] | None) -> Array32:
    """(z, y, x) factor on a distance before it enters the electron kernel of water: k of the medium times its density.

    Without materials every voxel is water of its density. The floor holds here too, so that what a voxel takes and the mass
    that divides it belong together; air counts as the thinnest lung, and what would be deposited there escapes.
    Raises GeometryError on another shape, InputError on values that are no material.
    """
    scale = np.maximum(density, np.float32(FLOOR_G_CM3))
    if material is None:
        return scale
    index = check_material(material)
    if index.shape != density.shape:
        raise GeometryError(
            f"materials of shape {index.shape} with densities of shape {density.shape}", expected="the same grid"
        )
    k = np.array([medium_electron_k(name) for name in MATERIALS], np.float32)
    return np.asarray(scale * k[index], np.float32)


def mass_kg(density: Array32, spacing_mm: tuple[float, float, float]) -> Array32:
    """Mass per voxel with the floor; 0 marks air."""
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    mass = np.maximum(density, np.float32(FLOOR_G_CM3)) * np.float32(voxel_ml / 1000.0)
    return np.where(density < AIR_BELOW_G_CM3, np.float32(0), mass).astype(np.float32)


def dose_gy(energy_j: Array32, mass: Array32) -> Array32:
    """Energy over mass; 0 in air."""
    out = np.zeros(energy_j.shape, np.float32)
    np.divide(energy_j, mass, out=out, where=mass > 0)
    return out


def mass_ratio(
    mass_g: Sequence[float],
    masks: Iterable[npt.NDArray[np.bool_]],
    density_g_cm3: npt.NDArray[Any],
    spacing_mm: tuple[float, float, float],
) -> npt.NDArray[np.float64]:
    """(regions,) mass of each region over that of its voxels on the dose grid: a small region does not fill its voxels."""
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    on_grid = np.array([float(density_g_cm3[mask].sum(dtype=np.float64)) * voxel_ml for mask in masks])
    return np.asarray(np.asarray(mass_g) / on_grid)
