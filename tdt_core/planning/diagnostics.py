"""When the twin must not recommend: failed diagnostics in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tdt_core.assimilation.descent import MISFIT_PROBABILITY, poorly_fitted
from tdt_core.twin import DoseLedger, Limit, Region

MAX_LINEARITY_SHIFT_SD = 0.5


def objections(
    diagnostics: Mapping[str, Any],
    fit_report: Iterable[Mapping[str, Any]],
    regions: Iterable[Region],
    limited_organs: set[str],
) -> tuple[str, ...]:
    """Reasons to abstain, empty when the fit may be used. Misfit and Laplace check count for organs that have a limit.

    Parameters
    ----------
    diagnostics, fit_report : of a posterior. regions : of the kinetic model.
    """
    organ_of = {r.name: r.organ for r in regions}
    found = []
    if int(diagnostics["n_obs"]) == 0:
        found.append("no usable region activity in this cycle")
    found += [
        f"the model does not fit the data of {organ}: chi-square per datum (2J/n) = {misfit['two_j'] / misfit['n_obs']:.2f} "
        f"with {misfit['n_obs']} data (about 1 is expected; this or more in one of {1 / MISFIT_PROBABILITY:.0f} correct fits)"
        for organ, misfit in poorly_fitted(diagnostics).items()
        if organ in limited_organs
    ]
    found += [
        f"{name} ({organ_of[region]}) lies {away:.1f} sd from its prior mean, at its bound: data and prior disagree"
        for name, away in diagnostics.get("at_edge", {}).items()
        if organ_of.get(region := name.rpartition(".")[0], "") in limited_organs
    ]
    shift = diagnostics["linearity_shift_by_region"]
    worst = max((float(shift[name]) for name in shift if organ_of[name] in limited_organs), default=0.0)
    mixed = diagnostics.get("estimator", {}).get("mixed", False)  # else draws are the Gaussian's, or on their way from there
    if worst > MAX_LINEARITY_SHIFT_SD and not mixed:
        found.append(f"the Laplace approximation is poor: draws shift the dose by {worst:.2f} sd")
    seen = {organ_of.get(row["region"], "") for row in fit_report if row["status"] != "missing"}  # samples are of no region
    found += [
        f"{organ} has a limit but no usable activity in this cycle: its dose is assumed, not learned"
        for organ in sorted(limited_organs - seen)
    ]
    return tuple(found)


def beyond_the_ledger(ledger: DoseLedger, limits: Iterable[Limit]) -> dict[str, str]:
    """Organ -> why its dose so far cannot be compared with its limit."""
    return {
        x.organ: f"{x.organ} received {ledger.opening_gy[x.organ]:g} Gy in earlier therapies, whose BED is not known, and its "
        "limit is a BED: set a limit in absorbed dose"
        for x in limits
        if not ledger.knows(x.organ, x.quantity)
    }
