"""Photon cross sections per gram: photoelectric, incoherent and coherent from xraydb (Elam), pair production by Born's formula.

Elam's tables end at 800 keV: above, photoelectric and coherent continue with their last slope, incoherent with Klein and
Nishina's. Incoherent scattering is sampled from Klein-Nishina times 1 - exp(-(x / x0)^p), one (x0, p) per medium fitted to the
ratio of the tabled cross section to Klein-Nishina's; x = sin(angle / 2) / wavelength.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import xraydb
from scipy.optimize import least_squares

from tdt_core.dosimetry.montecarlo.composition import Medium, medium
from tdt_core.dosimetry.montecarlo.grid import (
    AVOGADRO,
    CLASSICAL_RADIUS_CM,
    ELECTRON_REST_KEV,
    FINE_STRUCTURE,
    energies_kev,
)
from tdt_core.dosimetry.units import FloatArray

HC_KEV_ANGSTROM = 12.398420
FORM_FACTOR_POINTS = 256
_HIGHEST_TABLED_KEV = 700.0
_LAST_SLOPE_FROM_KEV = 500.0
_FORM_FACTOR_TO = 6.0


@dataclass(frozen=True, eq=False)
class PhotonTable:
    """Cross sections of one medium on the energy grid, cm2/g, and what is needed to sample angles.

    Attributes
    ----------
    photo, incoherent, coherent, pair : (n,).
    x2, form : (FORM_FACTOR_POINTS,) squares of x in 1/Angstrom^2, and the integral of F^2 over x^2 up to them.
    x0, power : of the incoherent scattering function.
    """

    photo: FloatArray
    incoherent: FloatArray
    coherent: FloatArray
    pair: FloatArray
    x2: FloatArray
    form: FloatArray
    x0: float
    power: float


def klein_nishina_cm2(energy_kev: FloatArray) -> FloatArray:
    """Cross section per free electron."""
    k = energy_kev / ELECTRON_REST_KEV
    log = np.log1p(2.0 * k)
    first = (1.0 + k) / k**2 * (2.0 * (1.0 + k) / (1.0 + 2.0 * k) - log / k)
    full = 2.0 * np.pi * CLASSICAL_RADIUS_CM**2 * (first + log / (2.0 * k) - (1.0 + 3.0 * k) / (1.0 + 2.0 * k) ** 2)
    return np.asarray(full)


def pair_cm2(energy_kev: FloatArray) -> FloatArray:
    """Pair production over Z^2 in Born's approximation (Maximon's series, as in Hubbell, Gimm and Overbo 1980)."""
    k = np.maximum(energy_kev / ELECTRON_REST_KEV, 2.0)
    eps = (2.0 * k - 4.0) / (2.0 + k + 2.0 * np.sqrt(2.0 * k))
    low = 2.0 * np.pi / 3.0 * ((k - 2.0) / k) ** 3
    low = low * (1.0 + eps / 2.0 + 23.0 * eps**2 / 40.0 + 11.0 * eps**3 / 60.0 + 29.0 * eps**4 / 960.0)
    log = np.log(2.0 * k)
    zeta3 = 1.2020569
    high = 28.0 / 9.0 * log - 218.0 / 27.0
    high = high + (2.0 / k) ** 2 * (
        6.0 * log - 3.5 + 2.0 / 3.0 * log**3 - log**2 - np.pi**2 / 3.0 * log + 2.0 * zeta3 + np.pi**2 / 6.0
    )
    high = high - (2.0 / k) ** 4 * (3.0 / 16.0 * log + 0.125)
    high = high - (2.0 / k) ** 6 * (29.0 / 2304.0 * log - 77.0 / 13824.0)
    return np.asarray(FINE_STRUCTURE * CLASSICAL_RADIUS_CM**2 * np.where(k < 4.0, low, high))


def _elam(medium_: Medium, energy_kev: FloatArray, kind: str) -> FloatArray:
    ev = energy_kev * 1000.0
    total = np.zeros_like(ev)
    for symbol, fraction in zip(medium_.symbols, medium_.fractions, strict=True):
        total += fraction * np.asarray(xraydb.mu_elam(symbol, ev, kind=kind))
    return total


def _continued(medium_: Medium, energy_kev: FloatArray, kind: str) -> FloatArray:
    """Elam's cross section, beyond its end along the slope of its last part."""
    inside = _elam(medium_, np.minimum(energy_kev, _HIGHEST_TABLED_KEV), kind)
    ends = _elam(medium_, np.array([_LAST_SLOPE_FROM_KEV, _HIGHEST_TABLED_KEV]), kind)
    slope = np.log(ends[1] / ends[0]) / np.log(_HIGHEST_TABLED_KEV / _LAST_SLOPE_FROM_KEV)
    return np.asarray(inside * np.maximum(energy_kev / _HIGHEST_TABLED_KEV, 1.0) ** slope)


def _incoherent(medium_: Medium, energy_kev: FloatArray) -> FloatArray:
    capped = np.minimum(energy_kev, _HIGHEST_TABLED_KEV)
    return np.asarray(_elam(medium_, capped, "incoh") * klein_nishina_cm2(energy_kev) / klein_nishina_cm2(capped))


def _bound_ratio(energy_kev: FloatArray, x0: float, power: float) -> FloatArray:
    """Klein-Nishina times the scattering function, integrated over angles, over Klein-Nishina."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    k = energy_kev[:, None] / ELECTRON_REST_KEV
    x = np.sqrt((1.0 - nodes) / 2.0) * energy_kev[:, None] / HC_KEV_ANGSTROM
    ratio = 1.0 / (1.0 + k * (1.0 - nodes))
    kn = ratio**2 * (ratio + 1.0 / ratio - 1.0 + nodes**2)
    bound = kn * -np.expm1(-((x / x0) ** power))
    return np.asarray((bound * weights).sum(axis=1) / (kn * weights).sum(axis=1))


def _scattering_function(medium_: Medium) -> tuple[float, float]:
    energy = np.geomspace(4.0, 100.0, 25)
    wanted = _incoherent(medium_, energy) / (AVOGADRO * medium_.z_over_a * klein_nishina_cm2(energy))
    fit = least_squares(lambda p: _bound_ratio(energy, p[0], p[1]) - np.minimum(wanted, 1.0), (0.3, 1.2), bounds=(0.01, 10.0))
    return float(fit.x[0]), float(fit.x[1])


def _form_factor(medium_: Medium) -> tuple[FloatArray, FloatArray]:
    highest = float(energies_kev()[-1]) / HC_KEV_ANGSTROM
    x2 = np.concatenate([[0.0], np.geomspace(1e-5, highest**2, FORM_FACTOR_POINTS - 1)])
    x = np.sqrt(x2)
    f2 = np.zeros_like(x)
    for symbol, atoms in zip(medium_.symbols, medium_.atoms_per_g, strict=True):
        f = np.asarray(xraydb.f0(symbol, np.minimum(x, _FORM_FACTOR_TO)))
        f2 += atoms / AVOGADRO * (f * np.where(x > _FORM_FACTOR_TO, (_FORM_FACTOR_TO / np.maximum(x, 1e-9)) ** 2, 1.0)) ** 2
    return x2, np.concatenate([[0.0], np.cumsum(np.diff(x2) * (f2[1:] + f2[:-1]) / 2.0)])


@cache
def photon_table(name: str) -> PhotonTable:
    """Cross sections of a medium by its name."""
    m = medium(name)
    energy = energies_kev()
    x2, form = _form_factor(m)
    x0, power = _scattering_function(m)
    return PhotonTable(
        photo=_continued(m, energy, "photo"),
        incoherent=_incoherent(m, energy),
        coherent=_continued(m, energy, "coh"),
        pair=pair_cm2(energy) * (AVOGADRO * m.fractions / m.a * m.z**2).sum(),
        x2=x2,
        form=form,
        x0=x0,
        power=power,
    )
