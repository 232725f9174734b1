"""What is said beside a state, read from the store when it is shown: its own content follows from its identity alone."""

from __future__ import annotations

from flows.decided import not_given
from storage.deliveries import pool_of
from storage.twins import TwinStore


def notes_of(store: TwinStore, state_id: str) -> list[str]:
    """Findings that the state does not hold: decided and not given, retracted scans that came again, factors apart."""
    info = store.info(state_id)
    versions = [f.words for f in pool_of(store, info.pid).findings() if f.items & set(info.evidence)]
    return [*not_given(store, info), *versions]
