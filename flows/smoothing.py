"""A cycle's fit beside the fit of all cycles at once: how far the filter has drifted from the smoother."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.inflating import inflation_after
from flows.priors import prior_of
from flows.site import Site
from flows.steps import start_of, therapy_of
from tdt_core.assimilation import Cycle, smooth, state_model, transition, was_treated
from tdt_core.assimilation.joint import Smoothed
from tdt_core.assimilation.target import UNSOLVED, by_halves
from tdt_core.errors import EstimationError, ModelError
from tdt_core.kinetics import KineticModel
from tdt_core.parameters import packaged_table
from tdt_core.twin import Administration, Evidence, Posterior, Product, Region, TwinState

FloatArray = npt.NDArray[np.float64]

DRAWS, MEMBERS = 400, 200
"""Draws of the filter and of the Laplace fit that are compared, and members of the moved one: 0.07 sd is near enough."""


def against_all_cycles(
    site: Site,
    parent: str | None,
    rung: KineticModel,
    evidence: Evidence,
    posterior: Posterior,
    product: Product,
    seed: tuple[int, ...],
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """By region, the shift of ln time-integrated activity (filter minus all cycles) in sd, and the ratio of their sds.

    The course goes back as far as the same kinetic model was fitted. Without such an earlier cycle, or without a solution, the
    result says why.
    """
    states = _course(site, parent, rung.name)
    if not states:
        return {"reason": f"no earlier cycle was fitted with {rung.name}"}
    first = states[0]
    prior = prior_of(site.store, first, state_model(first))
    starts = [start_of(s.evidence) for s in states[1:]] + [start_of(evidence)]
    cycles = [
        Cycle(
            m := state_model(s),
            s.evidence,
            transition(m, s.cycle, start - s.valid_time_h, was_treated(s)).widened(
                inflation_after(site.store, settings or {}, s)
            ),
        )
        for s, start in zip(states, starts, strict=True)
    ]
    given, n = therapy_of(evidence, product), len(rung.parameters)
    filtered = [*(s.posterior for s in states), posterior]
    try:
        by_filter = log_activity(rung, posterior.draws[:DRAWS, :n], given)
        found = smooth(prior, [*cycles, Cycle(rung, evidence)], filtered)

        def compared(found: Smoothed) -> tuple[FloatArray, FloatArray, int]:
            by_all = log_activity(rung, found.draws(DRAWS, np.random.default_rng(list(seed)))[-1], given)
            return _compared(by_filter, by_all, rung.name)

        shift, ratio, lost = compared(found)
        if np.abs(shift).max() > shift_limit():  # moved draws take several times as long: only where it would be an alarm
            shift, ratio, lost = compared(found.moved((*seed, 1), MEMBERS))
    except (EstimationError, ModelError, np.linalg.LinAlgError) as error:
        return {"reason": f"all cycles at once could not be fitted: {error}"}
    names = [r.name for r in rung.regions]
    return {
        "cycles": len(cycles) + 1,
        "shift_sd_by_region": dict(zip(names, shift.tolist(), strict=True)),
        "sd_ratio_by_region": dict(zip(names, ratio.tolist(), strict=True)),
        "draws_without_solution": lost,
    }


def _compared(by_filter: FloatArray, by_all: FloatArray, rung: str) -> tuple[FloatArray, FloatArray, int]:
    """(regions,) shift of the mean in sd and ratio of sds of (draws, regions) ln activities; draws without a solution."""
    solved = [np.isfinite(x).all(axis=1) for x in (by_all, by_filter)]
    lost = int(sum((~x).sum() for x in solved))
    if any((~x).mean() > UNSOLVED for x in solved):
        raise EstimationError(
            f"{rung} has no solution in {lost} of {sum(x.size for x in solved)} draws",
            expected=f"in less than {UNSOLVED:.0%} of either fit",
            remedy="use a simpler rung",
            kind="estimation.unsolved",
        )
    by_all, by_filter = by_all[solved[0]], by_filter[solved[1]]
    sd = np.maximum(by_all.std(axis=0), 1e-12)
    return (by_filter.mean(axis=0) - by_all.mean(axis=0)) / sd, by_filter.std(axis=0) / sd, lost


def shift_limit() -> float:
    """Shift of a dose, in sd, beyond which filter and fit of all cycles disagree."""
    return packaged_table("assimilation.csv").value("smoother.shift_sd")


def log_activity(rung: KineticModel, theta: FloatArray, given: Administration) -> FloatArray:
    """(m, n) draws -> (m, regions) ln time-integrated activity, NaN where there is no solution."""
    return by_halves(lambda some: np.asarray(np.log(rung.time_integrated_activity(some, given))), theta, len(rung.regions))


def _course(site: Site, newest: str | None, model: str) -> list[TwinState]:
    """States from the earliest to `newest`, as far back as the same model was fitted."""
    found: list[TwinState] = []
    while newest is not None and (state := site.store.load(newest)).model == model:
        found.insert(0, state)
        newest = state.parent
    return found


def alarms(told: Mapping[str, Any], regions: Sequence[Region]) -> list[str]:
    """Where the filter and the fit of all cycles disagree, in words."""
    organ_of = {r.name: r.organ for r in regions}
    far = {r: s for r, s in told.get("shift_sd_by_region", {}).items() if abs(s) > shift_limit()}
    if "reason" in told and told["reason"].startswith("all cycles"):
        return [told["reason"]]
    return [
        f"{region} ({organ_of.get(region, region)}): fitting all cycles at once moves its dose by {abs(s):.1f} sd "
        f"{'down' if s > 0 else 'up'} against this state; its interval may be in the wrong place"
        for region, s in sorted(far.items(), key=lambda x: -abs(x[1]))
    ]
