"""One cycle's doses at organ level as plain data, from what the voxel level used: labels, masses, activities, draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from tdt_core.dosimetry.organ.bodies import ellipsoids_of_labels
from tdt_core.dosimetry.organ.compare import METHOD, compared, kidney_rows, marrow_row
from tdt_core.dosimetry.organ.marrow import MARROW, marrow_dose
from tdt_core.dosimetry.organ.s_values import GY_PER_MBQ_H, organ_s_values
from tdt_core.dosimetry.units import FloatArray
from tdt_core.nuclides import Progeny
from tdt_core.twin import Region

KIDNEYS = "kidneys"


def organ_level(
    labels: npt.NDArray[Any],
    regions: Sequence[Region],
    density_g_cm3: npt.NDArray[Any],
    spacing_mm: tuple[float, float, float],
    nuclide: str,
    tia_mbq_h: FloatArray,
    mass_factors: FloatArray,
    voxel_dose_gy: FloatArray,
    voxel_matrix: FloatArray,
    *,
    blood_mbq_h_per_ml: FloatArray | float | None = None,
    marrow_ratio: float | None = None,
    progeny: Progeny = "equilibrium",
) -> dict[str, Any]:
    """`method`, `rows` (`compared`), `kidney_parts` (`kidney_rows`) and `marrow` (`marrow_row`, None without that region).

    Parameters
    ----------
    labels : (z, y, x), n stands for regions[n - 1]; all labels together are the body.
    tia_mbq_h, mass_factors, voxel_dose_gy : (draws, regions). voxel_matrix : (target, source) Gy per MBq h at measured masses.
    blood_mbq_h_per_ml, marrow_ratio : where blood was sampled; else marrow dose is that of its region.
    """
    names = [r.name for r in regions]
    bodies, whole = ellipsoids_of_labels(labels, names, [r.mass_g for r in regions], density_g_cm3, spacing_mm)
    s = organ_s_values(nuclide, bodies, whole, progeny)
    kidneys = [i for i, r in enumerate(regions) if r.organ == KIDNEYS]
    cross = s.dose_gy(tia_mbq_h) - tia_mbq_h * s.total.diagonal() * GY_PER_MBQ_H
    marrow = None
    if MARROW in names:
        i = names.index(MARROW)
        found = marrow_dose(s, tia_mbq_h, nuclide, blood_mbq_h_per_ml=blood_mbq_h_per_ml, ratio=marrow_ratio, progeny=progeny)
        marrow = marrow_row(found, mass_factors[:, i], voxel_dose_gy[:, i])
    return {
        "method": METHOD,
        "rows": compared(s, bodies, tia_mbq_h, mass_factors, voxel_dose_gy, voxel_matrix),
        "kidney_parts": kidney_rows(
            nuclide,
            [bodies[i] for i in kidneys],
            [tia_mbq_h[:, i] for i in kidneys],
            [cross[:, i] / mass_factors[:, i] for i in kidneys],
            [mass_factors[:, i] for i in kidneys],
            progeny,
        ),
        "marrow": marrow,
    }
