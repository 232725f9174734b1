"""Energies of all tables: every octave from 1 keV to 8192 keV in 32 equal steps, so that an index is a matter of bits."""

from __future__ import annotations

import numpy as np

from tdt_core.dosimetry.units import FloatArray

STEPS_PER_OCTAVE = 32
OCTAVES = 13
LOWEST_KEV = 1.0
"""Cut-off of electrons and photons: below this they stop where they are."""

ELECTRON_REST_KEV = 510.99895
FINE_STRUCTURE = 1.0 / 137.035999
MOLLER_KEV_CM2_PER_MOL = 153.53746
"""2 pi r_e^2 m c^2 N_A."""

CLASSICAL_RADIUS_CM = 2.8179403e-13
AVOGADRO = 6.02214076e23


def energies_kev() -> FloatArray:
    """(n,) energies, exact in binary; piecewise linear interpolation between them errs by less than 1e-3 for E^-3."""
    octave, step = np.divmod(np.arange(OCTAVES * STEPS_PER_OCTAVE + 1), STEPS_PER_OCTAVE)
    return np.asarray(2.0**octave * (1.0 + step / STEPS_PER_OCTAVE))


def beta_squared(energy_kev: FloatArray) -> FloatArray:
    """(v/c)^2 of an electron of the given kinetic energy."""
    tau = energy_kev / ELECTRON_REST_KEV
    return np.asarray(tau * (tau + 2.0) / (tau + 1.0) ** 2)


def cumulative(integrand: FloatArray, energy_kev: FloatArray) -> FloatArray:
    """Trapezoidal integral from the lowest energy, 0 there."""
    steps = np.diff(energy_kev) * (integrand[1:] + integrand[:-1]) / 2
    return np.concatenate([[0.0], np.cumsum(steps)])
