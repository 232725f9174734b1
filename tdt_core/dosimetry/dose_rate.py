"""Absorbed dose by integrating dose rates: every scan becomes a dose-rate image, which is integrated over time.

For an engine and a time integration that are both linear it is the dose of the integrated activity, to rounding. With fitted
tails and per-voxel rates it is another estimate: the dose rate of a voxel mixes the declines of all voxels that reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.density import check_spacing, density_map, dose_gy, mass_kg
from tdt_core.dosimetry.engines import EngineSetting, build_engine
from tdt_core.dosimetry.time_integration import time_integrated_activity
from tdt_core.dosimetry.time_integration.checks import checked_scans, checked_times
from tdt_core.dosimetry.units import Array32
from tdt_core.nuclides import Progeny


@dataclass(frozen=True, eq=False)
class DoseByRates:
    """Absorbed dose from dose-rate images.

    Attributes
    ----------
    dose_gy : (z, y, x) float32.
    rates_gy_h : (scans, z, y, x) float32 dose rate at each scan.
    findings : remarks of the time integration.
    """

    dose_gy: Array32
    rates_gy_h: Array32
    findings: tuple[str, ...]


def absorbed_dose_by_rates(
    scans_mbq: npt.NDArray[Any],
    times_h: npt.NDArray[Any],
    spacing_mm: tuple[float, float, float],
    nuclide: str,
    density_g_cm3: float | npt.NDArray[Any] | None = None,
    material: npt.NDArray[Any] | None = None,
    engine: str = "kernel",
    *,
    progeny: Progeny = "equilibrium",
    cache: MutableMapping[str, Any] | None = None,
    map: Callable[..., Iterable[Any]] = map,
    **integration: Any,
) -> DoseByRates:
    """Dose of a series of images.

    Parameters
    ----------
    scans_mbq, times_h : as for `time_integrated_activity`.
    spacing_mm, nuclide, density_g_cm3, material, engine, progeny, cache : as for `absorbed_dose`.
    map : runs the scans through the engine.
    integration : `method` and everything else that `time_integrated_activity` takes; curves and noise then of dose rate.

    Raises
    ------
    As those two functions.
    """
    check_spacing(spacing_mm)
    scans = checked_scans(scans_mbq, len(checked_times(times_h)))
    density = density_map(scans.shape[1:], density_g_cm3, material)
    mass = mass_kg(density, spacing_mm)
    built = build_engine(engine, EngineSetting(nuclide, spacing_mm, density, material, progeny, cache))
    # the energy of A MBq h is the energy per hour of A MBq
    rates = np.stack([dose_gy(energy, mass) for energy in map(built.energy, list(scans))])
    out = time_integrated_activity(np.maximum(rates, np.float32(0)), times_h, nuclide, **{"method": "trapezoid", **integration})
    return DoseByRates(out.tia_mbq_h, rates, out.findings)
