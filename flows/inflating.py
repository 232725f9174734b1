"""The setting `adaptive_inflation`: how much wider the drift after a state is, by what its chain's data said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.site import Site
from tdt_core.assimilation import was_treated
from tdt_core.assimilation.inflation import inflation, innovation, innovations_of
from tdt_core.twin import Posterior, TwinState


def inflation_after(site: Site, settings: Mapping[str, Any], state: TwinState) -> float:
    """Factor on the variance of the drift after a state; 1 where the setting, part of a state's identity, is off."""
    return inflation(innovations_of(_chain(site, state))) if settings.get("adaptive_inflation", False) else 1.0


def inflation_now(site: Site, settings: Mapping[str, Any], parent: str | None, posterior: Posterior, treated: bool) -> float:
    """The same after the cycle that is being concluded, which has no state yet."""
    if not settings.get("adaptive_inflation", False) or parent is None or not treated:
        return 1.0
    before = site.store.load(parent)
    if not was_treated(before) or before.model != posterior.model:
        return 1.0
    return inflation([*innovations_of(_chain(site, before)), innovation(posterior)])


def _chain(site: Site, state: TwinState) -> list[TwinState]:
    chain = [state]
    while chain[0].parent is not None:
        chain.insert(0, site.store.load(chain[0].parent))
    return chain
