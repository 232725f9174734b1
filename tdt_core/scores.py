"""Scores of probabilistic predictions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def crps(draws: FloatArray, truth: float) -> float:
    """E|X - y| - 1/2 E|X - X'| of equally weighted draws (Gneiting and Raftery 2007), in the unit of the draws.

    A single draw gives the absolute error.
    """
    x = np.sort(np.asarray(draws, dtype=float).ravel())
    n = x.size
    spread = 2.0 * float((np.arange(1, n + 1) * x).sum()) / n**2 - (n + 1) / n * float(x.mean())
    return float(np.abs(x - truth).mean() - spread)
