"""Where a state stands with its signature, in one wording for every command and page."""

from __future__ import annotations

from typing import Any

from storage import state_files as files
from storage.twin_reader import TwinReader

WAITS = "waits for `tdt sign`"
ABSTAINS = "no recommendation, so nothing to sign"
NO_PROPOSAL = "nothing proposed, so nothing to sign"
NONE = "none"


def standing_of(store: TwinReader, state_id: str) -> str:
    """The decision on a state, that it is superseded and by which, or whether it waits for one. Reads no arrays."""
    decision, by = store.decision(state_id), store.superseded_by(state_id)
    if by is not None:
        before = "" if decision is None else f"{decision.kind}; "
        return f"{before}superseded by {by[:12]}"
    if decision is not None:
        return decision.kind
    if store.head(store.info(state_id).pid) != state_id:
        return NONE
    proposal: dict[str, Any] | None = files.read_json(store.path(state_id) / files.STATE).get("proposal")
    if proposal is None:
        return NO_PROPOSAL
    return ABSTAINS if proposal["activity_mbq"] is None else WAITS
