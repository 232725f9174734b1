"""The prior of a cycle: the population's for a patient's first one, else the state before it carried on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.inflating import inflation_after
from storage.twins import TwinStore
from tdt_core.assimilation import Prior, adapt, evolve, population_prior
from tdt_core.kinetics import KineticModel
from tdt_core.twin import Decision, TwinState


def prior_after(
    store: TwinStore,
    settings: Mapping[str, Any],
    before: TwinState | None,
    rung: KineticModel,
    start_h: float,
    decision: Decision | None = None,
) -> Prior:
    """The prior over `rung` of a cycle that starts at `start_h`, after the state `before`; `settings`: those of the loop."""
    if before is None:
        return population_prior(rung)
    wider = inflation_after(store, settings, before)
    return adapt(evolve(before, decision, start_h - before.valid_time_h, wider), rung)


def prior_of(store: TwinStore, state: TwinState, rung: KineticModel) -> Prior:
    """The prior that a state was fitted with, over its rung."""
    before = None if state.parent is None else store.load(state.parent)
    return prior_after(store, state.identity["settings"], before, rung, state.valid_time_h)
