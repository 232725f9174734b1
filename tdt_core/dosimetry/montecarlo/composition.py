"""Media as the transport sees them: mass fractions of elements, mean excitation energy, nominal density."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import xraydb

from tdt_core.dosimetry.density import MATERIALS, medium_density_g_cm3
from tdt_core.dosimetry.montecarlo.grid import AVOGADRO
from tdt_core.dosimetry.units import FloatArray
from tdt_core.parameters import packaged_csv


@dataclass(frozen=True, eq=False)
class Medium:
    """One medium.

    Attributes
    ----------
    symbols : elements.
    z, a : (elements,) atomic numbers and masses (g/mol).
    fractions : (elements,) mass fractions, sum 1.
    excitation_ev : mean excitation energy.
    density_g_cm3 : nominal density, used only by the density effect.
    """

    name: str
    symbols: tuple[str, ...]
    z: FloatArray
    a: FloatArray
    fractions: FloatArray
    excitation_ev: float
    density_g_cm3: float

    @property
    def z_over_a(self) -> float:
        """Electrons per gram, mol/g."""
        return float((self.fractions * self.z / self.a).sum())

    @property
    def atoms_per_g(self) -> FloatArray:
        """(elements,) atoms of each element in one gram."""
        return np.asarray(AVOGADRO * self.fractions / self.a)

    @property
    def pair_weights(self) -> FloatArray:
        """(elements,) mol/g times Z (Z + 1): nuclei and atomic electrons in scattering and bremsstrahlung."""
        return np.asarray(self.fractions / self.a * self.z * (self.z + 1.0))


@cache
def medium(name: str) -> Medium:
    """A medium by its name in `MATERIALS`."""
    rows = [row for row in packaged_csv("material_composition.csv") if row["material"] == name]
    elements = {row["name"]: float(row["value"]) for row in rows if row["unit"] == "1"}
    (excitation,) = (float(row["value"]) for row in rows if row["name"] == "mean_excitation_energy")
    return Medium(
        name=name,
        symbols=tuple(elements),
        z=np.array([float(xraydb.atomic_number(e)) for e in elements]),
        a=np.array([float(xraydb.atomic_mass(e)) for e in elements]),
        fractions=np.array(list(elements.values())),
        excitation_ev=excitation,
        density_g_cm3=medium_density_g_cm3(name),
    )


def media() -> tuple[Medium, ...]:
    """All media in the order of `MATERIALS`."""
    return tuple(medium(name) for name in MATERIALS)
