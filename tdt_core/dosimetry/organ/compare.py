"""Organ level beside voxel level for one patient: the same activity and masses, two ways to dose, and why they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tdt_core.dosimetry.organ.bodies import Ellipsoid
from tdt_core.dosimetry.organ.kidney import CORTEX, MEDULLA, activity_shares, kidney_s_values
from tdt_core.dosimetry.organ.marrow import METHODS, MarrowDose
from tdt_core.dosimetry.organ.s_values import GY_PER_MBQ_H, OrganSValues
from tdt_core.dosimetry.units import FloatArray
from tdt_core.draws import summarised
from tdt_core.errors import ModelError
from tdt_core.nuclides import Progeny

METHOD = (
    "MIRD schema: time-integrated activity times S values of ellipsoids of each region's mass, volume, place and proportions "
    "in one medium; charged particles stay in their region, photons by point kernel; remainder of the body by difference"
)
AGREE = 0.02
"""Relative difference below which two ways of calculating agree; what good codes differ by for one sphere of Lu-177."""
COMPACT = 0.7
"""Share of its ellipsoid that a region fills, below which it counts as scattered or curved."""
THIN_G_CM3 = 0.7
"""Mean density below which the voxel level's one-medium kernel is known to overestimate photons."""
UNEVEN = 0.1
"""Relative sd of density inside a region from which a mean over voxels is not a mean over mass."""


def compared(
    s: OrganSValues,
    bodies: Sequence[Ellipsoid],
    tia_mbq_h: FloatArray,
    mass_factors: FloatArray,
    voxel_dose_gy: FloatArray,
    voxel_matrix: FloatArray,
    leave_out: Sequence[str] = ("rest",),
) -> list[dict[str, Any]]:
    """One row per region: `region, organ_gy, voxel_gy` (summarised), `ratio` of means, `self_ratio`, parts and `why`.

    Parameters
    ----------
    s, bodies : S values and ellipsoids of all regions, in one order.
    tia_mbq_h, mass_factors, voxel_dose_gy : (draws, n); a region's dose is divided by its mass factor on both levels.
    voxel_matrix : (target, source) Gy per MBq h of the voxel engine at the measured masses.
    leave_out : regions without a row.

    Raises ModelError when the arrays do not belong together.
    """
    n = len(s.names)
    shapes = [np.shape(x) for x in (tia_mbq_h, mass_factors, voxel_dose_gy, voxel_matrix)]
    if shapes != [(len(tia_mbq_h), n)] * 3 + [(n, n)]:
        raise ModelError(
            f"activities, mass factors, doses and matrix of shapes {shapes}",
            expected=f"(draws, {n}) three times and ({n}, {n})",
        )
    dose = s.dose_gy(tia_mbq_h) / mass_factors
    mean_tia = tia_mbq_h.mean(axis=0)
    organ_parts, voxel_parts = s.total * GY_PER_MBQ_H * mean_tia, voxel_matrix * mean_tia
    rows = []
    for i, name in enumerate(s.names):
        if name in leave_out:
            continue
        here, there = ((float(parts[i, i]), float(parts[i].sum() - parts[i, i])) for parts in (organ_parts, voxel_parts))
        organ, voxel = summarised(dose[:, i]), summarised(voxel_dose_gy[:, i])
        rows.append(
            {
                "region": name,
                "organ_gy": organ,
                "voxel_gy": voxel,
                "ratio": organ["mean"] / voxel["mean"] if voxel["mean"] > 0 else None,
                "self_ratio": here[0] / there[0] if there[0] > 0 else None,
                "cross_organ_gy": here[1],
                "cross_voxel_gy": there[1],
                "why": reason(bodies[i], here, there),
            }
        )
    return rows


def reason(body: Ellipsoid, organ: tuple[float, float], voxel: tuple[float, float]) -> str:
    """Why the two levels differ, in words; each of `organ` and `voxel` is (self, cross) in Gy."""
    total = sum(voxel)
    if total <= 0 or abs(sum(organ) / total - 1) <= AGREE:
        return f"agree within {100 * AGREE:.0f} %"
    by_self, by_cross = organ[0] - voxel[0], organ[1] - voxel[1]
    if body.density_g_cm3 < THIN_G_CM3:
        return (
            f"density {body.density_g_cm3:.2g} g/cm3: the voxel kernel knows one medium and gives thin tissue too much photon "
            "dose; the organ level takes the dose to the medium around it"
        )
    if abs(by_cross) > abs(by_self):
        return (
            f"cross-dose {organ[1]:.2g} Gy between whole ellipsoids, {voxel[1]:.2g} Gy between voxels: neighbours lie closer "
            "or farther than their centres say, and electrons cross where they touch"
        )
    if body.compactness < COMPACT and by_self > 0:
        return (
            f"self-dose: the region fills {100 * body.compactness:.0f} % of its ellipsoid; one compact body keeps what "
            "scattered or thin parts lose"
        )
    if by_self > 0:
        return "self-dose: voxels at the surface lose electrons that a smooth surface of the same volume keeps"
    if body.density_spread > UNEVEN:
        return (
            f"density varies by {100 * body.density_spread:.0f} % (1 sd) in the region: the voxel level is a mean over "
            "voxels, of which thin ones receive more, the organ level energy over mass"
        )
    return "self-dose: activity inside the region is uneven, and its voxels keep more than an even source does"


def kidney_rows(
    nuclide: str,
    kidneys: Sequence[Ellipsoid],
    tia_mbq_h: Sequence[FloatArray],
    cross_gy: Sequence[FloatArray],
    mass_factors: Sequence[FloatArray],
    progeny: Progeny = "equilibrium",
) -> list[dict[str, Any]]:
    """Cortex and medulla of each kidney: `region, part, mass_g, activity_share, dose_gy`.

    Per kidney (draws,): its own time-integrated activity, the dose that other regions give to it (taken as even over the
    kidney), true over measured mass. The shares of activity are packaged and assumed, not seen in this patient's image.
    """
    shares = activity_shares()
    rows = []
    for kidney, own, cross, factor in zip(kidneys, tia_mbq_h, cross_gy, mass_factors, strict=True):
        s = kidney_s_values(nuclide, kidney, progeny=progeny)
        dose = s.dose_gy(np.outer(own, shares)) / factor[:, None] + cross[:, None]
        rows += [
            {
                "region": kidney.name,
                "part": part,
                "mass_g": float(s.masses_g[k]),
                "activity_share": float(shares[k]),
                "dose_gy": summarised(dose[:, k]),
            }
            for k, part in enumerate((CORTEX, MEDULLA))
        ]
    return rows


def marrow_row(found: MarrowDose, factor: FloatArray, voxel_gy: FloatArray) -> dict[str, Any]:
    """Plain data of a marrow dose: `method, words, ratio, dose_gy, self_gy, cross_gy, cross_by_source_gy, voxel_gy`.

    factor : (draws,) true over measured mass; it does not touch the blood method's self-dose, in which the mass cancels.
    """
    own = found.self_gy / factor if found.method == "image" else found.self_gy
    by_source = {name: float(np.mean(d)) for name, d in found.cross_gy.items()}
    cross = np.asarray(sum(found.cross_gy.values(), np.zeros_like(own)))
    return {
        "method": found.method,
        "words": METHODS[found.method],
        "ratio": found.ratio,
        "dose_gy": summarised(own + cross),
        "self_gy": summarised(own),
        "cross_gy": summarised(cross),
        "cross_by_source_gy": by_source,
        "voxel_gy": summarised(voxel_gy),
    }
