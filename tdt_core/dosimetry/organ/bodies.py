"""Ellipsoids that stand for regions at organ level: equal mass, equal volume, the region's place and proportions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.density import check_spacing
from tdt_core.dosimetry.units import FloatArray
from tdt_core.errors import GeometryError, InputError


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """A uniform ellipsoid.

    Attributes
    ----------
    name : of the region that it stands for.
    mass_g : mass of the region.
    centre_cm : (3,).
    half_axes_cm : (3, 3) matrix that maps the unit ball onto the ellipsoid about its centre.
    compactness : volume of the region over that of the ellipsoid with its second moments; 1 for an ellipsoid, small for a
        region of scattered or curved parts, which an ellipsoid of equal volume draws together.
    density_spread : relative sd of the density of its voxels.
    """

    name: str
    mass_g: float
    centre_cm: FloatArray
    half_axes_cm: FloatArray
    compactness: float = 1.0
    density_spread: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mass_g) and self.mass_g > 0):
            raise InputError(f"{self.name} of {self.mass_g} g", expected="a mass > 0", kind="input.mass")
        volume = np.linalg.det(self.half_axes_cm) if np.shape(self.half_axes_cm) == (3, 3) else np.nan
        if not (np.isfinite(volume) and abs(volume) > 0 and np.shape(self.centre_cm) == (3,)):
            raise GeometryError(f"{self.name} is no ellipsoid", expected="a centre and three half axes > 0, cm")

    @property
    def volume_ml(self) -> float:
        """Volume, mL."""
        return float(4.0 / 3.0 * np.pi * abs(np.linalg.det(self.half_axes_cm)))

    @property
    def density_g_cm3(self) -> float:
        """Mass over volume."""
        return self.mass_g / self.volume_ml

    def scaled(self, mass_fraction: float, name: str) -> Ellipsoid:
        """The concentric ellipsoid of the same shape that holds this share of the mass."""
        if not 0 < mass_fraction <= 1:
            raise InputError(f"{name} holds {mass_fraction} of {self.name}", expected="a share of 0 to 1", kind="input.mass")
        axes = self.half_axes_cm * mass_fraction ** (1.0 / 3.0)
        return Ellipsoid(name, self.mass_g * mass_fraction, self.centre_cm, axes)


def ellipsoid(
    name: str,
    mass_g: float,
    axis_ratio: tuple[float, float, float] = (1.0, 1.0, 1.0),
    density_g_cm3: float = 1.0,
    centre_cm: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Ellipsoid:
    """The ellipsoid of a mass whose half axes along z, y, x stand in the given ratio; a sphere by default."""
    if not mass_g > 0:
        raise InputError(f"{name} of {mass_g} g", expected="a mass > 0", kind="input.mass")
    ratio = np.asarray(axis_ratio, dtype=np.float64)
    if not (np.isfinite(ratio).all() and (ratio > 0).all() and np.isfinite(density_g_cm3) and density_g_cm3 > 0):
        raise InputError(f"{name}: axes {axis_ratio}, density {density_g_cm3} g/cm3", expected="> 0", kind="input.geometry")
    size = (3.0 * mass_g / density_g_cm3 / (4.0 * np.pi * ratio.prod())) ** (1.0 / 3.0)
    return Ellipsoid(name, mass_g, np.asarray(centre_cm, dtype=np.float64), np.diag(ratio * size))


def ellipsoids_of_labels(
    labels: npt.NDArray[np.integer],
    names: Sequence[str],
    mass_g: Sequence[float],
    density_g_cm3: npt.NDArray[np.floating],
    spacing_mm: tuple[float, float, float],
) -> tuple[list[Ellipsoid], Ellipsoid]:
    """One ellipsoid per region, label n is names[n - 1], and one for all labelled voxels together.

    Volume from the given mass and the region's mean density on the grid; proportions and direction from the second moments of
    its voxels (a uniform ellipsoid has covariance A A' / 5), so that a kidney stays longer than it is wide.

    Parameters
    ----------
    labels, density_g_cm3 : (z, y, x). spacing_mm : (dz, dy, dx). mass_g : per name.

    Raises
    ------
    GeometryError : other shapes, or a name without a voxel. InputError : a mass or density that is not > 0.
    """
    check_spacing(spacing_mm)
    if labels.shape != density_g_cm3.shape or labels.ndim != 3:
        raise GeometryError(f"labels of shape {labels.shape}, density of {density_g_cm3.shape}", expected="one (z, y, x) grid")
    spacing_cm = np.asarray(spacing_mm) / 10.0
    inside = np.flatnonzero((labels.ravel() > 0) & (labels.ravel() <= len(names)))
    owner = labels.ravel()[inside] - 1
    place = np.stack(np.unravel_index(inside, labels.shape)) * spacing_cm[:, None]
    count = _sums(owner, np.ones(owner.size), len(names))
    if (count == 0).any():
        lacking = [n for n, c in zip(names, count, strict=True) if c == 0]
        raise GeometryError(f"no voxel of {', '.join(lacking)}", expected="one at least", kind="input.empty_mask")
    density = np.asarray(density_g_cm3, dtype=np.float64).ravel()[inside]
    grams = _sums(owner, density, len(names))
    squares = _sums(owner, density**2, len(names))
    first = np.stack([_sums(owner, p, len(names)) for p in place])
    second = np.stack([[_sums(owner, p * q, len(names)) for q in place] for p in place])
    parts = []
    for i, (name, mass) in enumerate(zip(names, mass_g, strict=True)):
        part = _of_moments(name, float(mass), count[i], grams[i], first[:, i], second[:, :, i], spacing_cm)
        variance = squares[i] / count[i] - (grams[i] / count[i]) ** 2
        parts.append(replace(part, density_spread=float(np.sqrt(max(variance, 0.0)) * count[i] / grams[i])))
    total = sum(p.mass_g for p in parts)
    mean_density = total / sum(p.volume_ml for p in parts)  # so that what organs leave of the whole is the last part's volume
    whole = _of_moments(
        "body", total, count.sum(), mean_density * count.sum(), first.sum(axis=1), second.sum(axis=2), spacing_cm
    )
    return parts, whole


def _sums(owner: npt.NDArray[np.integer], values: FloatArray, n: int) -> FloatArray:
    """(n,) sum of the values of each owner."""
    return np.asarray(np.bincount(owner, values, n), dtype=np.float64)


def _of_moments(
    name: str, mass_g: float, count: float, grams: float, first: FloatArray, second: FloatArray, spacing_cm: FloatArray
) -> Ellipsoid:
    """The ellipsoid of equal volume with the proportions of voxels whose sums of places and products are given."""
    centre = first / count
    covariance = second / count - np.outer(centre, centre) + np.diag(spacing_cm**2 / 12.0)
    values, vectors = np.linalg.eigh(covariance)
    axes = vectors * np.sqrt(5.0 * np.maximum(values, spacing_cm.min() ** 2 / 12.0))
    free = 4.0 / 3.0 * np.pi * abs(np.linalg.det(axes))
    if not grams > 0:
        raise InputError(f"{name} has no mass on the grid", expected="a density > 0", kind="input.density")
    volume = mass_g / (grams / count)
    return Ellipsoid(name, mass_g, centre, axes * (volume / free) ** (1.0 / 3.0), float(volume / free))
