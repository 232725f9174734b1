"""Cortex and medulla of a kidney: a shell of cortex about a concentric medulla of the same shape.

The pelvis holds no tissue at risk and is left out. Electrons cross the border between the two, so both have a cross S value for
charged particles too.
"""

from __future__ import annotations

import numpy as np

from tdt_core.dosimetry.organ.bodies import Ellipsoid
from tdt_core.dosimetry.organ.geometry import exchange_kev, self_kev
from tdt_core.dosimetry.organ.s_values import MGY_G_PER_KEV, OrganSValues
from tdt_core.dosimetry.s_values import point_kernels
from tdt_core.dosimetry.units import FloatArray
from tdt_core.errors import InputError
from tdt_core.nuclides import Progeny
from tdt_core.parameters import packaged_table

CORTEX, MEDULLA = "cortex", "medulla"


def kidney_s_values(
    nuclide: str, kidney: Ellipsoid, medulla_fraction: float | None = None, progeny: Progeny = "equilibrium"
) -> OrganSValues:
    """S values of cortex and medulla on each other, mGy/(MBq s).

    medulla_fraction : its share of the kidney's mass; the packaged value by default (`organ_level.csv`).
    """
    table = packaged_table("organ_level.csv")
    share = table.value("kidney.medulla_mass_fraction") if medulla_fraction is None else medulla_fraction
    if not 0 < share < 1:
        raise InputError(f"the medulla is {share} of the kidney", expected="more than 0, less than 1", kind="input.mass")
    inner = kidney.scaled(share, MEDULLA)
    kernels = point_kernels(nuclide, progeny)
    density = kidney.density_g_cm3
    electrons, photons = (
        _shell(
            self_kev(kernel, kidney) / kidney.mass_g,
            exchange_kev(kernel, inner, kidney) / kidney.mass_g,
            self_kev(kernel, inner) / inner.mass_g,
            share,
        )
        for kernel in (kernels.electrons.stretched(density), kernels.photons.stretched(density))
    )
    masses = np.array([kidney.mass_g * (1 - share), inner.mass_g])
    return OrganSValues((CORTEX, MEDULLA), masses, electrons * MGY_G_PER_KEV, photons * MGY_G_PER_KEV)


def _shell(whole: float, both: float, inner: float, share: float) -> FloatArray:
    """(2, 2) S of shell and core from S of the whole on itself, of core and whole on each other, of the core on itself."""
    cross = (both - share * inner) / (1 - share)
    shell = (whole - 2 * share * both + share**2 * inner) / (1 - share) ** 2
    return np.array([[shell, cross], [cross, inner]])


def activity_shares(medulla_fraction: float | None = None, concentration_ratio: float | None = None) -> FloatArray:
    """(2,) shares of a kidney's activity in cortex and medulla.

    concentration_ratio : activity per mass of medulla over that of cortex; 1 is even. Packaged values by default.
    """
    table = packaged_table("organ_level.csv")
    share = table.value("kidney.medulla_mass_fraction") if medulla_fraction is None else medulla_fraction
    ratio = table.value("kidney.medulla_concentration_ratio") if concentration_ratio is None else concentration_ratio
    if not (0 < share < 1 and np.isfinite(ratio) and ratio >= 0):
        raise InputError(
            f"medulla share {share}, concentration ratio {ratio}", expected="0 to 1, and >= 0", kind="input.kidney"
        )
    held = np.array([1 - share, share * ratio])
    return np.asarray(held / held.sum())
