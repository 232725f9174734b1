"""When the twin must not recommend: failed diagnostics in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scipy import stats

MISFIT_PROBABILITY = 1e-3
MAX_LINEARITY_SHIFT_SD = 0.5
MIN_DATA_PER_ORGAN = 1


def objections(diagnostics: Mapping[str, Any], organs_with_data: set[str], limited_organs: set[str]) -> tuple[str, ...]:
    """Reasons to abstain, empty when the fit may be used.

    Parameters
    ----------
    diagnostics : of a posterior; a misfit counts for organs that have a limit.
    organs_with_data : organs with at least one usable activity in this cycle.
    """
    found = []
    if int(diagnostics["n_obs"]) == 0:
        found.append("no usable region activity in this cycle")
    for organ, misfit in diagnostics["misfit_by_organ"].items():
        n, two_j = int(misfit["n_obs"]), float(misfit["two_j"])
        if organ in limited_organs and two_j > stats.chi2.ppf(1 - MISFIT_PROBABILITY, n):
            found.append(
                f"the model does not fit the data of {organ}: 2J/n = {two_j / n:.2f} with {n} data "
                f"(expected about 1; this or more happens once in {1 / MISFIT_PROBABILITY:.0f} correct fits)"
            )
    if float(diagnostics["linearity_shift_sd"]) > MAX_LINEARITY_SHIFT_SD:
        found.append(f"the Laplace approximation is poor: draws shift the dose by {diagnostics['linearity_shift_sd']:.2f} sd")
    found += [
        f"{organ} has a limit but no usable activity in this cycle: its dose is assumed, not learned"
        for organ in sorted(limited_organs - organs_with_data)
    ]
    return tuple(found)
