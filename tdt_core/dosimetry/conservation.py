"""Run-time laws of a dose calculation: all activity is placed, all energy is deposited or escapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.engines import DoseEngine, StatisticalEngine
from tdt_core.dosimetry.units import JOULE_PER_MBQ_H_KEV, FloatArray
from tdt_core.errors import ConservationError

ACTIVITY_TOLERANCE = 1e-3
ENERGY_TOLERANCE = 5e-3


def energy_balance(
    engine: DoseEngine,
    weights: Sequence[npt.NDArray[Any]],
    tia_mbq_h: FloatArray,
    deposited_j_per_mbq_h: FloatArray,
    absorbing: npt.NDArray[np.bool_],
) -> dict[str, float]:
    """Figures of the balance for (regions,) mean activities; each source region is checked on its own.

    Deposited energy comes from the dose maps, escaping energy from the engine's `escaping_fraction`, found in another way.

    Raises
    ------
    ConservationError : weights do not sum to 1 within 0.1 %, or deposited + escaped differs from emitted by over 0.5 %, to
    which four statistical SD of a Monte Carlo engine are added (its own blocks balance within 1e-6, checked there).
    """
    placed = np.array([float(w.sum(dtype=np.float64)) for w in weights])
    if np.abs(placed - 1.0).max() > ACTIVITY_TOLERANCE:
        raise ConservationError(
            f"a region's voxel weights sum to {placed[np.abs(placed - 1.0).argmax()]:.5f}",
            expected="1",
            remedy="normalise the weights of each region",
            kind="conservation.activity",
        )
    fraction = engine.escaping_fraction(absorbing)
    escaping = np.array([float(np.vdot(w.astype(np.float64), fraction)) for w in weights])
    emitted = placed * engine.emitted_kev * JOULE_PER_MBQ_H_KEV
    difference = (deposited_j_per_mbq_h + escaping * engine.emitted_kev * JOULE_PER_MBQ_H_KEV) / emitted - 1.0
    worst = float(np.abs(difference).max())
    tolerance = ENERGY_TOLERANCE + (4.0 * engine.balance_sd() if isinstance(engine, StatisticalEngine) else 0.0)
    if not worst <= tolerance:
        raise ConservationError(
            f"deposited and escaped energy differ from the emitted energy by {worst:.2%}",
            expected=f"at most {tolerance:.1%}",
            remedy="report this: it is a defect of the dose engine",
            kind="conservation.energy",
        )
    total, kept = float(emitted @ tia_mbq_h), float(deposited_j_per_mbq_h @ tia_mbq_h)
    activity = float(tia_mbq_h.sum())
    return {
        "emitted_j": total,
        "deposited_j": kept,
        "escaped_fraction": 1.0 - kept / total if total > 0 else 0.0,
        "balance_relative_difference": worst,
        "activity_relative_difference": abs(float(placed @ tia_mbq_h) / activity - 1.0) if activity > 0 else 0.0,
    }
