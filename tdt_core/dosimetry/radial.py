"""Point kernels of a spectrum: energy deposited within a radius of a decay, in infinite water of 1 g/cm3.

Built from two packaged Monte Carlo tables: electrons (18 energies, fraction F against xi = r / R_CSDA, interpolated in log E)
and photons (24 energies, fraction within r, scatter included, up to 100 cm). Electrons below the first row stop where they
start (range below 3 um), and so do photons below 2 keV. What an electron does not deposit within 1.2 ranges is its
bremsstrahlung: it becomes photons with Kramers' thick-target spectrum, so that the energy balance closes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.interpolate import PchipInterpolator

from tdt_core.dosimetry.units import FloatArray
from tdt_core.nuclides import Spectrum
from tdt_core.parameters import packaged_csv

ELECTRON_RADII = 2001
PHOTON_RADII = 1200
MAX_PHOTON_RADIUS_CM = 100.0
LOCAL_PHOTON_KEV = 2.0
_LINE_GROUPS_PER_DECADE = 120
_XI_FINE = np.linspace(0.0, 1.2, 481)


@dataclass(frozen=True, eq=False)
class RadialKernel:
    """Energy deposited within a radius.

    Attributes
    ----------
    radius_cm : (n,) increasing from 0, for unit density: areal depth in g/cm2.
    cumulative_kev : (n,) energy within the radius per decay, local part excluded; constant beyond the last radius.
    local_kev : energy deposited at the point of decay.
    """

    radius_cm: FloatArray
    cumulative_kev: FloatArray
    local_kev: float = 0.0

    @property
    def total_kev(self) -> float:
        """Energy deposited within the largest radius, local part included."""
        return float(self.cumulative_kev[-1]) + self.local_kev

    def within(self, radius_cm: FloatArray) -> FloatArray:
        """Energy within the given radii, keV per decay."""
        return np.interp(radius_cm, self.radius_cm, self.cumulative_kev) + self.local_kev

    def stretched(self, areal_scale: float) -> RadialKernel:
        """The kernel in a medium where a distance counts `areal_scale` (density times k) times as in water."""
        return RadialKernel(self.radius_cm / areal_scale, self.cumulative_kev, self.local_kev)

    def windowed(self, weight: Callable[[FloatArray], FloatArray]) -> RadialKernel:
        """The kernel with each shell multiplied by a weight of its radius (cm); the local part by the weight at 0."""
        mid = (self.radius_cm[1:] + self.radius_cm[:-1]) / 2
        shells = np.diff(self.cumulative_kev) * weight(mid)
        local = self.local_kev * float(weight(np.zeros(1))[0])
        return RadialKernel(self.radius_cm, np.concatenate([[0.0], np.cumsum(shells)]), local)


def grouped(spectrum: Spectrum) -> Spectrum:
    """Lines gathered into narrow energy groups (2 % wide), each at its mean energy; number and energy are conserved."""
    if spectrum.energies_kev.size == 0:
        return spectrum
    group = np.floor(np.log10(np.maximum(spectrum.energies_kev, 1e-6)) * _LINE_GROUPS_PER_DECADE).astype(int)
    _, index = np.unique(group, return_inverse=True)
    yields: FloatArray = np.bincount(index, spectrum.yields).astype(np.float64)
    energy = np.bincount(index, spectrum.yields * spectrum.energies_kev)
    keep = yields > 0
    return Spectrum(energy[keep] / yields[keep], yields[keep])


@dataclass(frozen=True, eq=False)
class _ElectronTable:
    log_energy: FloatArray
    log_range: PchipInterpolator
    fraction: FloatArray
    """(rows, fine xi)"""

    def range_cm(self, energy_kev: FloatArray) -> FloatArray:
        """CSDA range in water; beyond the last row along the last slope in log-log."""
        x = np.log(energy_kev)
        last = self.log_energy[-1]
        slope = float(self.log_range.derivative()(last))
        inside = self.log_range(np.minimum(x, last))
        return np.asarray(np.exp(inside + slope * np.maximum(x - last, 0.0)))


@cache
def _electron_table() -> _ElectronTable:
    rows = packaged_csv("dpk_electron_water.csv")
    columns = [c for c in rows[0] if c.startswith("xi_")]
    xi = np.array([0.0] + [float(c[3:]) for c in columns])
    energy = np.array([float(r["E_keV"]) for r in rows])
    ranges = np.array([float(r["R_CSDA_g_cm2"]) for r in rows])
    fraction = np.array([[0.0] + [float(r[c]) for c in columns] for r in rows])
    fine = PchipInterpolator(xi, fraction, axis=1)(_XI_FINE)
    return _ElectronTable(np.log(energy), PchipInterpolator(np.log(energy), np.log(ranges)), fine)


def electron_kernel(spectrum: Spectrum) -> tuple[RadialKernel, Spectrum]:
    """Radial kernel of an electron spectrum, and the bremsstrahlung photons that it leaves to the photon kernel."""
    table = _electron_table()
    lines = grouped(spectrum)
    moving = np.log(lines.energies_kev) >= table.log_energy[0]
    local = float((lines.energies_kev * lines.yields)[~moving].sum())
    energies, energy = lines.energies_kev[moving], (lines.energies_kev * lines.yields)[moving]
    if energies.size == 0:
        return RadialKernel(np.array([0.0, 1e-4]), np.zeros(2), local), Spectrum(np.empty(0), np.empty(0))
    ranges = table.range_cm(energies)
    radius = 1.2 * ranges.max() * np.linspace(0.0, 1.0, ELECTRON_RADII) ** 2
    cumulative = np.zeros_like(radius)
    radiated = np.zeros_like(energies)
    position = np.interp(np.log(energies), table.log_energy, np.arange(table.log_energy.size))
    for n, (row, r_csda) in enumerate(zip(position, ranges, strict=True)):
        low = min(int(row), table.log_energy.size - 2)
        fraction = (1 - (row - low)) * table.fraction[low] + (row - low) * table.fraction[low + 1]
        cumulative += energy[n] * np.interp(radius / r_csda, _XI_FINE, fraction)
        radiated[n] = energy[n] * (1.0 - fraction[-1])
    return RadialKernel(radius, cumulative, local), bremsstrahlung(energies, radiated)


def bremsstrahlung(electron_kev: FloatArray, radiated_kev: FloatArray) -> Spectrum:
    """Photons of electrons that stop in the medium and radiate `radiated_kev` per decay each.

    Kramers' thick-target law: the energy radiated in photons above k is (1 - k / E)^2 of the whole. Kramers, Philosophical
    Magazine 46 (1923) 836.
    """
    edges = np.geomspace(0.1, electron_kev.max(), 100)
    edges[0] = 0.0
    ratio = np.minimum(edges[None, :] / electron_kev[:, None], 1.0)
    above = (radiated_kev[:, None] * (1.0 - ratio) ** 2).sum(axis=0)
    energy = above[:-1] - above[1:]
    mid = (edges[1:] + edges[:-1]) / 2
    return Spectrum(mid, energy / mid)


@cache
def _photon_table() -> tuple[FloatArray, PchipInterpolator]:
    """Radii with 0 in front, and log F (energy along axis 0) as a function of log E, continued to 4 MeV along its slope."""
    rows = packaged_csv("ppk_photon_water.csv")
    columns = [c for c in rows[0] if c.startswith("r_")]
    radius = np.array([0.0] + [float(c[2:]) for c in columns])
    log_energy = np.log([float(r["E_keV"]) for r in rows])
    fraction = np.clip([[float(r[c]) for c in columns] for r in rows], 1e-6, 1.0 - 1e-9)
    log_fraction = np.log(np.maximum.accumulate(fraction, axis=1))
    beyond = np.log(4000.0)
    slope = (log_fraction[-1] - log_fraction[-2]) / (log_energy[-1] - log_energy[-2])
    log_fraction = np.vstack([log_fraction, log_fraction[-1] + slope * (beyond - log_energy[-1])])
    return radius, PchipInterpolator(np.append(log_energy, beyond), log_fraction, axis=0)


def photon_kernel(spectrum: Spectrum) -> RadialKernel:
    """Radial kernel of a photon spectrum, scatter and secondary electrons included; nothing beyond 100 cm.

    Between the radii of the table, -ln(1 - F), which is nearly linear in r, is interpolated shape-preservingly.
    """
    table_radius, log_fraction = _photon_table()
    lines = grouped(spectrum)
    moving = lines.energies_kev >= LOCAL_PHOTON_KEV
    local = float((lines.energies_kev * lines.yields)[~moving].sum())
    energies, energy = lines.energies_kev[moving], (lines.energies_kev * lines.yields)[moving]
    radius = np.concatenate([[0.0], np.geomspace(1e-3, MAX_PHOTON_RADIUS_CM, PHOTON_RADII)])
    if energies.size == 0:
        return RadialKernel(radius, np.zeros_like(radius), local)
    fraction = np.minimum(np.exp(log_fraction(np.log(energies))), 1.0 - 1e-9)
    depth = np.hstack([np.zeros((energies.size, 1)), -np.log1p(-fraction)])
    fine = -np.expm1(-PchipInterpolator(table_radius, depth, axis=1)(radius))
    return RadialKernel(radius, energy @ fine, local)
