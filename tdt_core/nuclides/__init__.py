"""Radionuclides: half-lives, emissions, spectra, decay chains (ICRP Publication 107)."""

from tdt_core.nuclides.chains import Progeny, decays_per_parent_decay
from tdt_core.nuclides.emitter import AVOGADRO, Emissions, Nuclide, emissions, nuclide
from tdt_core.nuclides.icrp107 import normalise_name
from tdt_core.nuclides.spectra import Spectrum, electron_spectrum, photon_spectrum

__all__ = [
    "AVOGADRO",
    "Emissions",
    "Nuclide",
    "Progeny",
    "Spectrum",
    "decays_per_parent_decay",
    "electron_spectrum",
    "emissions",
    "normalise_name",
    "nuclide",
    "photon_spectrum",
]
