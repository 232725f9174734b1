"""Wider drift for a patient whose data surprise its twin cycle after cycle.

A cycle's innovation is what its data differ by from their prediction; for a right model its chi-square over the number of data
is 1. Where it lies above its 97.5 % point in two cycles running, the variance of the drift to the next cycle is multiplied by
the mean of the two, at most `inflation.most` (`population_learning.csv`). One surprising cycle does nothing: it may be an
image. Cycles that were predicted from the population alone say nothing of drift and do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy import stats

from tdt_core.assimilation.evolution import was_treated
from tdt_core.parameters import packaged_table
from tdt_core.twin import Posterior, TwinState

RUNNING = 2
"""Surprising cycles in a row that it takes. Assumed, as is POINT: together by chance once in 1600 pairs of cycles."""
POINT = 0.975
"""Share of a right model's cycles that surprise less."""


def inflation(innovations: Sequence[tuple[float, int]]) -> float:
    """Factor >= 1 on the variance of the drift after the last of the cycles.

    innovations : chi-square per datum and number of data of each cycle that an earlier treated cycle predicted, oldest first.
    """
    last = [(x, n) for x, n in innovations[-RUNNING:] if n > 0]
    if len(last) < RUNNING or any(x <= stats.chi2.ppf(POINT, n) / n for x, n in last):
        return 1.0
    most = packaged_table("population_learning.csv").value("inflation.most")
    return float(np.clip(np.mean([x for x, _ in last]), 1.0, most))


def innovations_of(chain: Sequence[TwinState]) -> list[tuple[float, int]]:
    """What `inflation` takes, of a patient's states, oldest first: the newest run of cycles whose parent is a treated state of
    the same model."""
    found: list[tuple[float, int]] = []
    for before, state in pairwise(chain):
        if was_treated(before) and was_treated(state) and before.model == state.model:
            found.append(innovation(state.posterior))
        else:
            found.clear()  # what follows no longer adjoins
    return found


def innovation(posterior: Posterior) -> tuple[float, int]:
    """Chi-square per datum of one fit, and number of data that were compared: those below a limit are not."""
    said = posterior.diagnostics
    return float(said["innovation_chi2_per_n"]), int(said.get("innovation_n", said["n_obs"]))  # older states lack the second
