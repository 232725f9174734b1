"""What is said beside a state, read from the store when it is shown: its own content follows from its identity alone."""

from __future__ import annotations

from flows.decided import not_given
from storage.deliveries import pool_of
from storage.twins import TwinStore
from tdt_core.twin import TwinState


def notes_of(store: TwinStore, state: TwinState) -> list[str]:
    """Findings that the state does not hold: decided and not given, retracted scans that came again, factors apart."""
    digests = set(state.identity["evidence"])
    versions = [f.words for f in pool_of(store, state.pid).findings() if f.items & digests]
    return [*not_given(store, state), *versions]
