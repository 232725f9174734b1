"""A nuclide as dosimetry needs it: half-life, mean energies, spectra, alone or with its progeny."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from tdt_core.nuclides.chains import Progeny, decays_per_parent_decay
from tdt_core.nuclides.icrp107 import half_life_h, lines, normalise_name, record
from tdt_core.nuclides.spectra import Spectrum, electron_spectrum, join, photon_spectrum

AVOGADRO = 6.02214076e23
"""Atoms per mol, exact by the definition of the mole (SI, 2019)."""

SOURCE = "ICRP Publication 107 (Endo and Eckerman 2008), through the Python package icrp107-database"


@dataclass(frozen=True)
class Nuclide:
    """One radionuclide without progeny; energies are per decay, keV.

    Attributes
    ----------
    electron_energy_kev : betas of both signs, conversion and Auger electrons.
    photon_energy_kev : gamma, X and annihilation photons.
    alpha_energy_kev, alpha_recoil_kev : alpha particles, and the nuclei that recoil from them.
    """

    name: str
    half_life_h: float
    electron_energy_kev: float
    photon_energy_kev: float
    alpha_energy_kev: float
    alpha_recoil_kev: float
    source: str = SOURCE

    @property
    def decay_constant_per_h(self) -> float:
        """ln 2 / half-life, 1/h."""
        return math.log(2.0) / self.half_life_h

    @property
    def mbq_per_nmol(self) -> float:
        """Activity of 1 nmol of the pure nuclide, MBq."""
        return AVOGADRO * 1e-9 * self.decay_constant_per_h / 3600.0 / 1e6

    @property
    def local_energy_kev(self) -> float:
        """Alpha and recoil energy: deposited within 0.1 mm."""
        return self.alpha_energy_kev + self.alpha_recoil_kev


@dataclass(frozen=True, eq=False)
class Emissions:
    """What one decay of a parent releases at its site, with the chosen part of its chain.

    `local_kev` is alpha plus recoil energy. `decays` counts each member's decays per decay of the parent.
    """

    parent: str
    progeny: Progeny
    decays: dict[str, float]
    electrons: Spectrum
    photons: Spectrum
    local_kev: float

    @property
    def total_kev(self) -> float:
        """All energy released except neutrinos, keV per decay of the parent."""
        return self.electrons.total_kev + self.photons.total_kev + self.local_kev

    @property
    def charged_kev(self) -> float:
        """Energy of alphas, their recoils and electrons, keV per decay of the parent."""
        return self.electrons.total_kev + self.local_kev


@cache
def nuclide(name: str) -> Nuclide:
    """A nuclide by name (`Lu-177`, `Lu177`, `177Lu`). Raises InputError for an unknown one."""
    canonical = normalise_name(name)
    record(canonical)

    def energy(*kinds: str) -> float:
        table = lines(canonical, *kinds)
        return float(table[:, 0] @ table[:, 1])

    return Nuclide(
        name=canonical,
        half_life_h=half_life_h(canonical),
        electron_energy_kev=energy("beta-", "beta+", "IE", "auger"),
        photon_energy_kev=energy("gamma", "X", "annihilation"),
        alpha_energy_kev=energy("alpha"),
        alpha_recoil_kev=energy("alpha recoil"),
    )


@cache
def emissions(name: str, progeny: Progeny = "equilibrium") -> Emissions:
    """Electron and photon spectra and local energy of a nuclide with or without its progeny at the same site."""
    decays = decays_per_parent_decay(name, progeny)
    return Emissions(
        parent=normalise_name(name),
        progeny=progeny,
        decays=decays,
        electrons=join([electron_spectrum(n).scaled(c) for n, c in decays.items()]),
        photons=join([photon_spectrum(n).scaled(c) for n, c in decays.items()]),
        local_kev=sum(nuclide(n).local_energy_kev * c for n, c in decays.items()),
    )
