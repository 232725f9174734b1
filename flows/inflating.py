"""The setting `adaptive_inflation`: how much wider the drift after a state is, by what its chain's data said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from storage.twins import TwinStore
from tdt_core.assimilation import was_treated
from tdt_core.assimilation.inflation import inflation, innovation, innovations_of
from tdt_core.twin import Posterior, TwinState


def inflation_after(store: TwinStore, settings: Mapping[str, Any], state: TwinState) -> float:
    """Factor on the variance of the drift after a state; 1 where the setting, part of a state's identity, is off."""
    return inflation(innovations_of(_chain(store, state))) if settings.get("adaptive_inflation", False) else 1.0


def inflation_now(
    store: TwinStore, settings: Mapping[str, Any], parent: str | None, posterior: Posterior, treated: bool
) -> float:
    """What `inflation_after` will say of the cycle that is being concluded, which has no state yet."""
    if not settings.get("adaptive_inflation", False) or parent is None:
        return 1.0
    before = store.load(parent)
    known = innovations_of(_chain(store, before))
    counts = treated and was_treated(before) and before.model == posterior.model
    return inflation([*known, innovation(posterior)]) if counts else 1.0


def _chain(store: TwinStore, state: TwinState) -> list[TwinState]:
    chain = [state]
    while chain[0].parent is not None:
        chain.insert(0, store.load(chain[0].parent))
    return chain
