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
    emitters: Sequence[DoseEngine],
    weights: Sequence[npt.NDArray[Any]],
    tia_mbq_h: FloatArray,
    deposited_j_per_mbq_h: FloatArray,
    absorbing: npt.NDArray[np.bool_],
) -> dict[str, float]:
    """Figures of the balance for (sources,) mean activities; each source is checked on its own.

    emitters : the engine of the parent with its progeny, then those of daughters whose activities are shifts: sums below zero
        are decays that moved out of all regions, and carry their energy there.

    Deposited energy comes from the dose maps, escaping energy from the engine's `escaping_fraction`, found in another way.

    Raises
    ------
    ConservationError : weights do not sum to 1 within 0.1 %, or deposited + escaped differs from emitted by over 0.5 %, to
    which four statistical SD of a Monte Carlo engine are added (its own blocks balance within 1e-6, checked there).
    """
    fractions = [e.escaping_fraction(absorbing) for e in emitters]
    placed, escaped = np.empty(len(weights)), np.empty((len(emitters), len(weights)))
    for i, w in enumerate(weights):  # once each: they may be made anew every time
        exact = np.asarray(w, np.float64)
        placed[i] = exact.sum()
        escaped[:, i] = [float(np.vdot(exact, f)) for f in fractions]
    if np.abs(placed - 1.0).max() > ACTIVITY_TOLERANCE:
        raise ConservationError(
            f"a region's voxel weights sum to {placed[np.abs(placed - 1.0).argmax()]:.5f}",
            expected="1",
            remedy="normalise the weights of each region",
            kind="conservation.activity",
        )
    kev = np.repeat([e.emitted_kev for e in emitters], len(weights))
    escaping = escaped.ravel()
    emitted = np.tile(placed, len(emitters)) * kev * JOULE_PER_MBQ_H_KEV
    difference = (deposited_j_per_mbq_h + escaping * kev * JOULE_PER_MBQ_H_KEV) / emitted - 1.0
    worst = float(np.abs(difference).max())
    tolerance = ENERGY_TOLERANCE + max(4.0 * e.balance_sd() if isinstance(e, StatisticalEngine) else 0.0 for e in emitters)
    if not worst <= tolerance:
        raise ConservationError(
            f"deposited and escaped energy differ from the emitted energy by {worst:.2%}",
            expected=f"at most {tolerance:.1%}",
            remedy="report this: it is a defect of the dose engine",
            kind="conservation.energy",
        )
    n = len(weights)
    parent, moved = tia_mbq_h[:n], tia_mbq_h[n:]
    total, kept = float(emitted[:n] @ parent), float(deposited_j_per_mbq_h @ tia_mbq_h)
    activity = float(parent.sum())
    figures = {
        "emitted_j": total,
        "deposited_j": kept,
        "escaped_fraction": 1.0 - kept / total if total > 0 else 0.0,
        "balance_relative_difference": worst,
        "activity_relative_difference": abs(float(placed @ parent) / activity - 1.0) if activity > 0 else 0.0,
    }
    return figures | ({"carried_out_j": -float(emitted[n:] @ moved)} if moved.size else {})
