"""What one decay emits, as tables from which transport samples.

Electrons below 10 keV (range 2.5 um in water) and photons below 2 keV stop in the voxel of the decay and are deposited
with their mean, like alphas and recoil; everything else is sampled, whole numbers of particles per decay.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.montecarlo.grid import energies_kev
from tdt_core.dosimetry.units import FloatArray
from tdt_core.errors import InputError
from tdt_core.nuclides import Emissions, Spectrum

LOCAL_ELECTRON_KEV = 10.0
LOCAL_PHOTON_KEV = 2.0


class Source(NamedTuple):
    """Per decay: local energy, mean numbers, and alias tables (Walker 1977) of the energies.

    Attributes
    ----------
    local_kev, electrons, photons : energy deposited at once; mean numbers of electrons and photons.
    electron_kev, electron_keep, electron_alias : (n,) energies and alias table; `photon_*` likewise.
    """

    local_kev: float
    electrons: float
    photons: float
    electron_kev: FloatArray
    electron_keep: FloatArray
    electron_alias: npt.NDArray[np.int64]
    photon_kev: FloatArray
    photon_keep: FloatArray
    photon_alias: npt.NDArray[np.int64]


def alias_table(weights: FloatArray) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Probability to keep each column and the column taken otherwise."""
    n = weights.size
    keep = weights / weights.sum() * n
    alias = np.arange(n)
    small, large = [i for i in range(n) if keep[i] < 1.0], [i for i in range(n) if keep[i] >= 1.0]
    while small and large:
        low, high = small.pop(), large[-1]
        alias[low] = high
        keep[high] -= 1.0 - keep[low]
        if keep[high] < 1.0:
            small.append(large.pop())
    keep[small + large] = 1.0
    return keep, alias


def _split(spectrum: Spectrum, below_kev: float) -> tuple[float, FloatArray, FloatArray]:
    energies, yields = spectrum.energies_kev, spectrum.yields
    moving = (energies >= below_kev) & (yields > 0)
    return float((energies * yields)[~moving].sum()), energies[moving], yields[moving]


def make_source(
    emitted: Emissions, local_electron_kev: float = LOCAL_ELECTRON_KEV, local_photon_kev: float = LOCAL_PHOTON_KEV
) -> Source:
    """Source of a nuclide. Raises InputError for one that emits nothing, or more energy than the tables hold."""
    return spectra_source(
        emitted.electrons, emitted.photons, emitted.local_kev, emitted.parent, local_electron_kev, local_photon_kev
    )


def spectra_source(
    electrons: Spectrum,
    photons: Spectrum,
    local_kev: float = 0.0,
    name: str = "the source",
    local_electron_kev: float = LOCAL_ELECTRON_KEV,
    local_photon_kev: float = LOCAL_PHOTON_KEV,
) -> Source:
    """Source of given spectra, per decay."""
    electron_local, electron_kev, electron_yield = _split(electrons, local_electron_kev)
    photon_local, photon_kev, photon_yield = _split(photons, local_photon_kev)
    highest = max(electron_kev.max(initial=0.0), photon_kev.max(initial=0.0))
    if highest >= energies_kev()[-1]:
        raise InputError(
            f"{name} emits particles of {highest:.0f} keV",
            expected=f"less than {energies_kev()[-1]:.0f} keV",
            remedy="use the kernel engine",
            kind="input.nuclide",
        )
    local = local_kev + electron_local + photon_local
    if local + electron_yield.sum() + photon_yield.sum() <= 0.0:
        raise InputError(
            f"{name} has no spectrum of electrons, photons or alphas",
            expected="a nuclide that deposits energy",
            kind="input.nuclide",
        )
    electron_keep, electron_alias = alias_table(electron_yield) if electron_yield.size else (np.ones(1), np.zeros(1, np.int64))
    photon_keep, photon_alias = alias_table(photon_yield) if photon_yield.size else (np.ones(1), np.zeros(1, np.int64))
    return Source(
        local_kev=local,
        electrons=float(electron_yield.sum()),
        photons=float(photon_yield.sum()),
        electron_kev=electron_kev if electron_kev.size else np.zeros(1),
        electron_keep=electron_keep,
        electron_alias=electron_alias,
        photon_kev=photon_kev if photon_kev.size else np.zeros(1),
        photon_keep=photon_keep,
        photon_alias=photon_alias,
    )
