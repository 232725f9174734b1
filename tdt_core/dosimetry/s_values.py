"""Voxel and sphere S values of any nuclide, any edge lengths, from first principles.

S = energy absorbed per decay over the mass of the target, mGy/(MBq s) = 1.602176634e-7 x keV / kg.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import cache as kept
from typing import Any

import numpy as np

from tdt_core.dosimetry.boxes import mirrored, octant_kev
from tdt_core.dosimetry.density import check_spacing, medium_density_g_cm3, medium_electron_k
from tdt_core.dosimetry.radial import RadialKernel, electron_kernel, photon_kernel
from tdt_core.dosimetry.units import DECAYS_PER_MBQ_S, JOULE_PER_KEV, FloatArray
from tdt_core.errors import InputError
from tdt_core.nuclides import Progeny, emissions, normalise_name
from tdt_core.nuclides.spectra import join

_MGY_PER_MBQ_S_KEV_PER_KG = DECAYS_PER_MBQ_S * JOULE_PER_KEV * 1000.0


@dataclass(frozen=True, eq=False)
class PointKernels:
    """Kernels of one nuclide in water of unit density.

    `electrons` holds charged particles, alpha and recoil as its local part; `photons` includes bremsstrahlung.
    `emitted_kev` is everything that leaves the decay except neutrinos.
    """

    electrons: RadialKernel
    photons: RadialKernel
    emitted_kev: float


@kept
def point_kernels(nuclide: str, progeny: Progeny = "equilibrium") -> PointKernels:
    """Radial kernels of a nuclide. Raises InputError when it emits nothing that deposits energy."""
    emitted = emissions(nuclide, progeny)
    if emitted.total_kev <= 0.0:
        raise InputError(
            f"ICRP 107 lists no radiation of {emitted.parent} that could give a dose",
            expected="a nuclide with a spectrum",
            kind="input.nuclide",
        )
    electrons, radiated = electron_kernel(emitted.electrons)
    with_alpha = RadialKernel(electrons.radius_cm, electrons.cumulative_kev, electrons.local_kev + emitted.local_kev)
    return PointKernels(with_alpha, photon_kernel(join([emitted.photons, radiated])), emitted.total_kev)


def media_kernels(
    nuclide: str, progeny: Progeny, medium: str, density_g_cm3: float | None
) -> tuple[RadialKernel, RadialKernel, float]:
    """Electron and photon kernels against distance in a medium, and its density, g/cm3.

    Electrons are scaled by density and the medium's k, photons by density alone.
    """
    density = medium_density_g_cm3(medium) if density_g_cm3 is None else density_g_cm3
    if not (np.isfinite(density) and density > 0):
        raise InputError(f"density {density} g/cm3", expected="> 0", kind="input.density")
    kernels = point_kernels(nuclide, progeny)
    return (
        kernels.electrons.stretched(density * medium_electron_k(medium)),
        kernels.photons.stretched(density),
        density,
    )


def voxel_s_values(
    nuclide: str,
    spacing_mm: tuple[float, float, float],
    half_width: int,
    medium: str = "water",
    progeny: Progeny = "equilibrium",
    *,
    density_g_cm3: float | None = None,
    cache: MutableMapping[str, Any] | None = None,
) -> FloatArray:
    """Voxel S values in an infinite uniform medium, mGy/(MBq s).

    Parameters
    ----------
    nuclide : parent, per decay of which S is given.
    spacing_mm : edge lengths (dz, dy, dx).
    half_width : largest displacement in voxels along each axis.
    medium : a name in `MATERIALS`.
    progeny : "equilibrium", "all" or "none".
    density_g_cm3 : overrides the medium's density.
    cache : mapping that keeps results between calls (`storage.kernel_cache.KernelCache` keeps them on disk).

    Returns
    -------
    (2 half_width + 1,) * 3 array, axes z, y, x, source in the middle.
    """
    check_spacing(spacing_mm)
    if half_width < 0:
        raise InputError(f"half width {half_width}", expected="0 or more voxels", kind="input.kernel")
    dz, dy, dx = spacing_mm
    edges = (dz / 10.0, dy / 10.0, dx / 10.0)
    name = f"voxel_s|{normalise_name(nuclide)}|{progeny}|{edges}|{half_width}|{medium}|{density_g_cm3}"
    if cache is not None and name in cache:
        return np.array(cache[name])
    electrons, photons, density = media_kernels(nuclide, progeny, medium, density_g_cm3)
    width = (half_width, half_width, half_width)
    energy = octant_kev(electrons, edges, width) + octant_kev(photons, edges, width)
    mass_kg = density * edges[0] * edges[1] * edges[2] / 1000.0
    values = mirrored(energy) * (_MGY_PER_MBQ_S_KEV_PER_KG / mass_kg)
    if cache is not None:
        cache[name] = values.copy()
    return values


def sphere_absorbed_kev(kernel: RadialKernel, radius_cm: float) -> float:
    """Energy absorbed, keV per decay, in a sphere that holds a uniform source.

    A point at distance r from a uniform point of the sphere, in a random direction, lies inside with probability
    1 - 3 r / 4 R + r^3 / 16 R^3 (r < 2 R).
    """
    mid = (kernel.radius_cm[1:] + kernel.radius_cm[:-1]) / 2
    x = np.minimum(mid / radius_cm, 2.0)
    inside = 1.0 - 0.75 * x + x**3 / 16.0
    return float(np.diff(kernel.cumulative_kev) @ inside) + kernel.local_kev


def sphere_s_value(
    nuclide: str,
    mass_g: float,
    medium: str = "water",
    progeny: Progeny = "equilibrium",
    *,
    density_g_cm3: float | None = None,
) -> float:
    """Self S value, mGy/(MBq s), of a uniform sphere in the same infinite medium: for lesions and small glands."""
    if not (np.isfinite(mass_g) and mass_g > 0):
        raise InputError(f"sphere of {mass_g} g", expected="a mass > 0", kind="input.mass")
    electrons, photons, density = media_kernels(nuclide, progeny, medium, density_g_cm3)
    radius_cm = (3.0 * mass_g / density / (4.0 * np.pi)) ** (1.0 / 3.0)
    energy = sphere_absorbed_kev(electrons, radius_cm) + sphere_absorbed_kev(photons, radius_cm)
    return energy * _MGY_PER_MBQ_S_KEV_PER_KG / (mass_g / 1000.0)
