"""Mass density from CT numbers."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from tdt_core.errors import UnitError
from tdt_core.imaging.volume import Volume
from tdt_core.parameters import packaged_csv


@cache
def _curve() -> tuple[tuple[float, ...], tuple[float, ...]]:
    rows = packaged_csv("hu_density.csv")
    return tuple(float(r["hu"]) for r in rows), tuple(float(r["density_g_cm3"]) for r in rows)


def density(ct: Volume, body: npt.NDArray[np.bool_] | None = None) -> Volume:
    """Density (g/cm3, float32) of a CT by the packaged piecewise linear curve (`hu_density.csv`).

    Values beyond the curve take its ends: air is never lighter than air, metal never heavier than dense bone. Outside `body`
    (same grid) everything is air, so that the couch takes no dose.

    Raises UnitError when the volume is not in HU.
    """
    if ct.unit != "HU":
        raise UnitError(f"density from a volume in {ct.unit}", expected="HU")
    hu, rho = _curve()
    out = np.interp(ct.array, hu, rho).astype(np.float32)
    if body is not None:
        out[~body] = np.float32(rho[0])
    return ct.replace(out, "g/cm3")
