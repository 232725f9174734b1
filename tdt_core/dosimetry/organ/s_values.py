"""S values at organ level: electrons stay where they start, photons reach every organ. mGy/(MBq s).

The S values of two organs for photons are the same both ways (the point kernel depends on distance alone), and additive over
the volumes of source and target. So what is a difference of bodies (the remainder of the body, the cortex of a kidney) has the
S values that follow from those of the bodies; nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tdt_core.dosimetry.organ.bodies import Ellipsoid
from tdt_core.dosimetry.organ.geometry import exchange_kev, self_kev
from tdt_core.dosimetry.s_values import point_kernels
from tdt_core.dosimetry.units import DECAYS_PER_MBQ_S, JOULE_PER_KEV, FloatArray
from tdt_core.errors import GeometryError, InputError
from tdt_core.nuclides import Progeny

MGY_G_PER_KEV = DECAYS_PER_MBQ_S * JOULE_PER_KEV * 1e6
"""mGy/(MBq s) of 1 keV per decay in 1 g."""

GY_PER_MBQ_H = 3.6
"""Gy/(MBq h) of 1 mGy/(MBq s)."""


@dataclass(frozen=True, eq=False)
class OrganSValues:
    """S values of some organs.

    Attributes
    ----------
    names : in the order of both axes. masses_g : (n,).
    electrons : (target, source) charged particles; diagonal but for parts of one organ.
    photons : (target, source), symmetric.
    """

    names: tuple[str, ...]
    masses_g: FloatArray
    electrons: FloatArray
    photons: FloatArray

    @property
    def total(self) -> FloatArray:
        """(target, source) mGy/(MBq s)."""
        return self.electrons + self.photons

    def dose_gy(self, tia_mbq_h: FloatArray) -> FloatArray:
        """(..., n) absorbed dose of (..., n) time-integrated activity: the sum over sources of activity times S."""
        return np.asarray(tia_mbq_h @ self.total.T) * GY_PER_MBQ_H


def self_s_value(
    nuclide: str, body: Ellipsoid, progeny: Progeny = "equilibrium", *, medium_density_g_cm3: float | None = None
) -> tuple[float, float]:
    """Self S of an ellipsoid by charged particles and by photons, mGy/(MBq s); both in a medium of its density by default.

    Another density of the surroundings counts for photons: they are scattered and stopped there as well.
    """
    kernels = point_kernels(nuclide, progeny)
    medium = body.density_g_cm3 if medium_density_g_cm3 is None else medium_density_g_cm3
    electrons = self_kev(kernels.electrons.stretched(body.density_g_cm3), body) / body.mass_g
    photons = self_kev(kernels.photons.stretched(medium), body) / (body.volume_ml * medium)
    return electrons * MGY_G_PER_KEV, photons * MGY_G_PER_KEV


def organ_s_values(
    nuclide: str,
    bodies: Sequence[Ellipsoid],
    whole: Ellipsoid | None = None,
    progeny: Progeny = "equilibrium",
    *,
    remainder: str = "rest",
) -> OrganSValues:
    """S values of all organs on each other.

    Parameters
    ----------
    bodies : the organs, each with its place. With `whole`, a body named `remainder` is replaced by what is left of the whole
        when all others are taken out (its mass is kept); where none has that name, nothing is left over.
    whole : ellipsoid of the body; its density is that of the medium between organs, else that of all organs together.

    Raises
    ------
    InputError : no body, or a name twice. GeometryError : the organs fill the whole.
    """
    names = tuple(b.name for b in bodies)
    if not bodies or len(set(names)) != len(names):
        raise InputError(f"organs {names}", expected="at least one, each named once", kind="input.organs")
    left_over = whole is not None and remainder in names
    solid = [whole if whole is not None and b.name == remainder else b for b in bodies]
    around = [whole] if whole is not None else bodies
    density = sum(b.mass_g for b in around) / sum(b.volume_ml for b in around)
    photons = _photon_matrix(nuclide, solid, density, progeny)
    kernels = point_kernels(nuclide, progeny)
    electrons = [self_kev(kernels.electrons.stretched(b.density_g_cm3), b) / b.mass_g for b in bodies]
    if left_over:
        i = names.index(remainder)
        photons = without(photons, [b.volume_ml for b in solid], i)
        electrons[i] = kernels.electrons.total_kev / bodies[i].mass_g
    masses = np.array([b.mass_g for b in bodies])
    return OrganSValues(names, masses, np.diag(electrons) * MGY_G_PER_KEV, photons * MGY_G_PER_KEV)


def _photon_matrix(nuclide: str, bodies: Sequence[Ellipsoid], density_g_cm3: float, progeny: Progeny) -> FloatArray:
    """(n, n) symmetric photon energy per decay over mass, keV/g; the larger body of a pair is the target of the rays."""
    kernel = point_kernels(nuclide, progeny).photons.stretched(density_g_cm3)
    out = np.empty((len(bodies), len(bodies)))
    for i, a in enumerate(bodies):
        out[i, i] = self_kev(kernel, a) / (a.volume_ml * density_g_cm3)
        for j, b in enumerate(bodies[:i]):
            small, large = sorted((a, b), key=lambda x: x.volume_ml)
            out[i, j] = out[j, i] = exchange_kev(kernel, small, large) / (large.volume_ml * density_g_cm3)
    return out


def without(values: FloatArray, volumes_ml: Sequence[float], whole: int) -> FloatArray:
    """S values when body `whole` loses the volumes of all others, which lie in it; the others keep theirs.

    values : (n, n) symmetric, of bodies as they are. With V S V' additive over volumes, the part that is left has
    (V_w S[t, w] - sum_h V_h S[t, h]) / (V_w - sum_h V_h) on target t: Stabin's correction of the remainder of the body
    (J Nucl Med 2001;42:492), which takes the target's own volume out of the source.

    Raises GeometryError when nothing is left.
    """
    volumes = np.asarray(volumes_ml, dtype=np.float64)
    left = 2 * volumes[whole] - volumes.sum()
    if not left > 0:
        raise GeometryError("the organs fill the whole body", expected="a remainder of more than 0 mL")
    change = np.eye(len(volumes))
    change[whole] = -volumes / left
    change[whole, whole] = volumes[whole] / left
    return np.asarray(np.maximum(change @ values @ change.T, 0.0))


def remainder_s_value(
    whole: tuple[float, float], whole_mass_g: float, organs: Sequence[tuple[float, float]], masses_g: Sequence[float]
) -> float:
    """S of the remainder of the body on a target, mGy/(MBq s), from printed S values: the form for reference phantoms.

    whole : S of the whole body as source by (charged particles, photons); organs : the same for every source organ, the target
    itself among them. The charged particles of the remainder do not reach the target: their part is left out, not corrected
    (Stabin 2001: else a remainder that holds much activity overestimates marrow dose).

    Raises InputError when the organs weigh as much as the whole.
    """
    rest = whole_mass_g - sum(masses_g)
    if not rest > 0 or len(organs) != len(masses_g):
        raise InputError(
            f"{len(organs)} organs of {sum(masses_g):.0f} g in a body of {whole_mass_g:.0f} g",
            expected="less than the body, one mass per organ",
            kind="input.mass",
        )
    photons = whole[1] * whole_mass_g - sum(s[1] * m for s, m in zip(organs, masses_g, strict=True))
    return max(photons, 0.0) / rest


def scaled_s_value(electrons: float, photons: float, reference_g: float, mass_g: float) -> float:
    """Self S of another mass: charged particles as 1/m, photons as m^(-2/3).

    Charged particles leave all their energy; the mean path of photons through an organ, and with it the absorbed share, grows
    as the cube root of the mass. Cross S values do not scale.
    """
    if not (reference_g > 0 and mass_g > 0):
        raise InputError(f"masses {reference_g} and {mass_g} g", expected="> 0", kind="input.mass")
    ratio = reference_g / mass_g
    return electrons * ratio + photons * ratio ** (2.0 / 3.0)
