"""Density effect by Sternheimer's oscillators, solved numerically as ESTAR does; binding energies of subshells from xraydb.

Sternheimer, Physical Review 88 (1952) 851; Sternheimer, Seltzer and Berger, Physical Review B 26 (1982) 6067.
"""

from __future__ import annotations

import math

import numpy as np
import xraydb
from scipy.optimize import brentq

from tdt_core.dosimetry.montecarlo.composition import Medium
from tdt_core.dosimetry.montecarlo.grid import beta_squared
from tdt_core.dosimetry.units import FloatArray

PLASMA_EV = 28.816
"""Plasma energy of an electron gas of 1 mol/cm3, eV."""

_CAPACITY = {"K": 2, "L1": 2, "L2": 2, "L3": 4, "M1": 2, "M2": 2, "M3": 4, "M4": 4, "M5": 6}


def oscillators(medium: Medium) -> tuple[FloatArray, FloatArray]:
    """(n,) strengths (sum 1) and binding energies in eV of the subshells of all elements."""
    strengths, energies = [], []
    for symbol, z, a, fraction in zip(medium.symbols, medium.z, medium.a, medium.fractions, strict=True):
        left = float(z)
        for shell, edge in xraydb.xray_edges(symbol).items():
            electrons = min(left, _CAPACITY.get(shell, 0))
            left -= electrons
            if electrons:
                strengths.append(fraction / a * electrons)
                energies.append(max(float(edge.energy), 5.0))
    f = np.array(strengths)
    return f / f.sum(), np.array(energies)


def density_effect(medium: Medium, energy_kev: FloatArray) -> FloatArray:
    """Density correction delta of electrons of the given kinetic energies."""
    f, binding = oscillators(medium)
    plasma = PLASMA_EV * math.sqrt(medium.density_g_cm3 * medium.z_over_a)
    target = math.log(medium.excitation_ev / plasma)

    def excess(log_factor: float) -> float:
        nu = binding * math.exp(log_factor) / plasma
        return float((f * 0.5 * np.log(nu**2 + 2.0 / 3.0 * f)).sum()) - target

    nu2 = (binding * math.exp(brentq(excess, -3.0, 3.0)) / plasma) ** 2
    bound2 = nu2 + 2.0 / 3.0 * f
    out = np.zeros_like(energy_kev)
    for i, b2 in enumerate(beta_squared(energy_kev)):
        wanted = 1.0 / b2 - 1.0
        if float((f / nu2).sum()) <= wanted:
            continue  # slower than light in the medium at all frequencies: no correction

        def root(l2: float, wanted: float = wanted) -> float:
            return float((f / (nu2 + l2)).sum()) - wanted

        l2 = brentq(root, 0.0, 1.0 / wanted + 1.0)
        out[i] = float((f * np.log1p(l2 / bound2)).sum()) - l2 * (1.0 - b2)
    return np.maximum(out, 0.0)
