"""Energy loss of electrons in collisions: Bethe with density effect, Moller collisions above a cut, straggling below it.

Positrons are treated as electrons. No shell correction: it is below 0.5 % in these media above 10 keV.
"""

from __future__ import annotations

import math

import numpy as np

from tdt_core.dosimetry.montecarlo.composition import Medium
from tdt_core.dosimetry.montecarlo.density_effect import density_effect
from tdt_core.dosimetry.montecarlo.grid import ELECTRON_REST_KEV, MOLLER_KEV_CM2_PER_MOL, beta_squared
from tdt_core.dosimetry.units import FloatArray


def collision_kev_cm2_g(medium: Medium, energy_kev: FloatArray, cut_kev: float = math.inf) -> FloatArray:
    """Mass stopping power by collisions that lose less than `cut_kev`; all collisions by default. keV cm2/g."""
    tau = energy_kev / ELECTRON_REST_KEV
    b2 = beta_squared(energy_kev)
    d = np.minimum(cut_kev / ELECTRON_REST_KEV, tau / 2.0)
    f = -1.0 - b2 + np.log(4.0 * d * (tau - d) / tau**2) + tau / (tau - d)
    f = f + (d**2 / 2.0 + (2.0 * tau + 1.0) * np.log1p(-d / tau)) / (tau + 1.0) ** 2
    excitation = medium.excitation_ev / 1000.0 / ELECTRON_REST_KEV
    number = np.log(tau**2 * (tau + 2.0) / (2.0 * excitation**2)) + f - density_effect(medium, energy_kev)
    return np.asarray(MOLLER_KEV_CM2_PER_MOL * medium.z_over_a / b2 * number)


def _moller_terms(energy_kev: FloatArray) -> tuple[FloatArray, FloatArray]:
    tau = energy_kev / ELECTRON_REST_KEV
    return (tau / (tau + 1.0)) ** 2, (2.0 * tau + 1.0) / (tau + 1.0) ** 2


def moller_cm2_g(medium: Medium, energy_kev: FloatArray, cut_kev: float) -> FloatArray:
    """Cross section per gram of collisions that free an electron of more than `cut_kev` (the slower one counts)."""
    e, w0 = energy_kev, np.minimum(cut_kev, energy_kev / 2.0)
    c2, c3 = _moller_terms(e)
    inside = 1.0 / w0 - 1.0 / (e - w0) + (e / 2.0 - w0) * c2 / e**2 + c3 / e * np.log(w0 / (e - w0))
    return np.asarray(MOLLER_KEV_CM2_PER_MOL * medium.z_over_a / beta_squared(e) * inside)


def straggling_kev2_cm2_g(medium: Medium, energy_kev: FloatArray, cut_kev: float, least_kev: float) -> FloatArray:
    """Growth of the variance of the energy loss by collisions that lose `least_kev` to `cut_kev`, keV2 cm2/g."""
    nodes, weights = np.polynomial.legendre.leggauss(32)
    span = np.maximum(np.minimum(cut_kev, energy_kev / 2.0) - least_kev, 0.0)[:, None]
    w = least_kev + span * (nodes + 1.0) / 2.0
    e = np.maximum(energy_kev[:, None], 2.0 * least_kev)
    c2, c3 = _moller_terms(e)
    integrand = 1.0 + w**2 / (e - w) ** 2 + c2 * w**2 / e**2 - c3 * w / (e - w)
    inside = (integrand * weights).sum(axis=1) * span[:, 0] / 2.0
    return np.asarray(MOLLER_KEV_CM2_PER_MOL * medium.z_over_a / beta_squared(energy_kev) * inside)


def moller_transport_cm2_g(medium: Medium, energy_kev: FloatArray, cut_kev: float, least_kev: float) -> FloatArray:
    """First transport cross section per gram of the primary in collisions that free an electron of `least_kev` to `cut_kev`."""
    nodes, weights = np.polynomial.legendre.leggauss(32)
    top = np.minimum(cut_kev, energy_kev / 2.0)
    span = np.log(np.maximum(top / least_kev, 1.0))[:, None]
    w = least_kev * np.exp(span * (nodes + 1.0) / 2.0)
    e = np.maximum(energy_kev[:, None], 2.0 * least_kev)
    c2, c3 = _moller_terms(e)
    cosine = np.sqrt((e - w) * (e + 2.0 * ELECTRON_REST_KEV) / (e * (e - w + 2.0 * ELECTRON_REST_KEV)))
    per_w = (1.0 / w**2 + 1.0 / (e - w) ** 2 + c2 / e**2 - c3 / (w * (e - w))) * (1.0 - cosine)
    inside = (per_w * w * weights).sum(axis=1) * span[:, 0] / 2.0
    return np.asarray(MOLLER_KEV_CM2_PER_MOL * medium.z_over_a / beta_squared(energy_kev) * inside)
