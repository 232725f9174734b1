"""`tdt design`: which scans of the next cycle would tell most of a dose, told as plain JSON. Nothing is written.

What is believed of the next cycle is the state carried on by its interval; a scan is offered at each of the given hours, of all
regions, with the error budget that the patient's own images of the region had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.assimilation import design, evolve, state_model
from tdt_core.codec import from_plain
from tdt_core.errors import InputError, SettingsError
from tdt_core.planning.forecast import next_administration
from tdt_core.planning.outlook import ledger_names
from tdt_core.trials.outcome import cycle_dose
from tdt_core.twin import ErrorBudget, Evidence, Product, RegionActivity, TwinState

FloatArray = npt.NDArray[np.float64]

HOURS = (1.0, 4.0, 8.0, 24.0, 48.0, 72.0, 96.0, 120.0, 144.0, 168.0, 192.0)
DESIGN = 20  # stream of random numbers, see tdt_core.planning.forecast


def designed(
    state: TwinState, scans: int = 2, quantity: str = "kidneys", hours: Sequence[float] = HOURS, best: int = 10
) -> dict[str, Any]:
    """The table of `tdt design` for the cycle after a state.

    Parameters
    ----------
    quantity : name of a region or organ of the dose ledger; its absorbed dose of the next cycle is what the scans shall tell.
    hours : after the administration at which a scan can be had.

    Raises
    ------
    SettingsError : hours or a quantity without meaning. InputError : a state that has seen no image.
    """
    rung = state_model(state)
    names = ledger_names(rung.regions)
    if quantity not in names:
        raise SettingsError(f"no dose of {quantity!r}", expected=f"one of {', '.join(names)}", kind="settings.design")
    times = sorted(set(hours))
    if len(times) < scans or not all(np.isfinite(t) and t > 0 for t in times):
        raise SettingsError(
            f"{scans} scans out of {len(times)} times {times}",
            expected="times above 0 h, at least as many as scans",
            kind="settings.design",
        )
    product = from_plain(Product, state.identity["settings"]["product"])
    budgets = _budgets(state)
    interval = 0.0 if state.cycle == 0 else product.interval_h
    prior = evolve(state, None, interval)
    given = next_administration(product, state.valid_time_h + interval, None)

    def dose(theta: FloatArray) -> FloatArray:
        return cycle_dose(rung, theta, given, {}).of(quantity)

    def plan(hour: float) -> Evidence:
        scan = f"{hour:g} h"
        return replace(
            state.evidence,
            cycle=state.cycle + 1,
            administrations=(given,),
            labs=(),
            activities=tuple(
                RegionActivity(name, given.time_h + hour, 1.0, 1.0, 1.0, budget, scan, "SPECT", given.nuclide, "next cycle")
                for name, budget in budgets.items()
            ),
        )

    seed = (int(state.identity.get("root_seed", 0)), state.cycle, DESIGN)
    ranked = design(prior, {f"{t:g} h": plan(t) for t in times}, dose, model=rung, size=scans, seed=seed)
    return {
        "state": state.id,
        "pid": state.pid,
        "cycle": state.cycle + 1,
        "product": product.name,
        "quantity": quantity,
        "sd_without": ranked[0].sd_before,
        "sets": [{"scans": list(w.names), "sd_after": w.sd_after, "variance_removed": w.reduction} for w in ranked[:best]],
        "worst": {"scans": list(ranked[-1].names), "sd_after": ranked[-1].sd_after, "variance_removed": ranked[-1].reduction},
        "offered": [f"{t:g} h" for t in times],
    }


def _budgets(state: TwinState) -> dict[str, ErrorBudget]:
    """Region -> error budget of its newest SPECT, or of its newest image where there was no SPECT."""
    found: dict[str, ErrorBudget] = {}
    for datum in sorted(state.evidence.activities, key=lambda d: (d.modality == "SPECT", d.time_h)):
        found[datum.region] = datum.budget
    if not found:
        raise InputError(
            f"cycle {state.cycle} brought no region activity, so how well a scan measures this patient is not known",
            expected="at least one image",
            remedy="name a state whose cycle has images",
            kind="input.cycle",
        )
    return found
