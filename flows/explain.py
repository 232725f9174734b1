"""What a state rests on: inputs, code, prior, parents, decision. Read from the store alone; nothing is computed again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.answered import standing_of
from flows.notes import notes_of
from flows.reasons import reason_of
from storage.decisions import record_plain
from storage.twin_reader import StateInfo
from storage.twins import TwinStore
from tdt_core.assimilation.learned import learned_of
from tdt_core.twin import TwinState


def info_plain(info: StateInfo) -> dict[str, Any]:
    """A state of a listing as plain JSON."""
    return {
        "id": info.id,
        "pid": info.pid,
        "cycle": info.cycle,
        "parent": info.parent,
        "supersedes": info.supersedes,
        "valid_time_h": info.valid_time_h,
        "knowledge_time": info.knowledge_time.isoformat(),
        "model": info.model,
        "evidence_items": len(info.evidence),
        "reason": info.reason,
    }


def proposal_line(state: TwinState) -> str:
    """A state's proposal in one line."""
    proposal = state.proposal
    if proposal is None:
        return "none"
    if proposal.abstains:
        return "no recommendation: " + "; ".join(proposal.reasons)
    return f"{proposal.activity_mbq:.0f} MBq of {proposal.product} in cycle {proposal.cycle} (binding: {proposal.binding})"


def explain(store: TwinStore, state_id: str) -> dict[str, Any]:
    """Everything behind a state, as plain JSON."""
    state, info = store.load(state_id), store.info(state_id)
    identity = state.identity
    record = store.decision_record(state_id)
    return {
        "state": info_plain(info),
        "head": store.head(state.pid) == state_id,
        "reason": reason_of(store, state_id),
        "inputs": [
            {"digest": digest, "kind": store.evidence.kind(digest), "this_cycle": digest in state.evidence.digests}
            for digest in identity["evidence"]
        ],
        "administrations": [
            {
                "time_h": a.time_h,
                "product": a.product,
                "nuclide": a.nuclide,
                "net_activity_mbq": a.net_activity_mbq,
                "intent": a.intent,
            }
            for a in state.evidence.administrations
        ],
        "findings": [*notes_of(store, state_id), *state.evidence.findings],
        "prior": prior_plain(identity),
        "settings": identity.get("settings"),
        "root_seed": identity.get("root_seed", identity.get("seed")),
        "code": {"science": identity.get("science"), **info.provenance},
        "parents": [info_plain(i) for i in store.chain(info.parent)],
        "diagnostics": {k: v for k, v in state.posterior.diagnostics.items() if not isinstance(v, (dict, list))},
        "assumed": state.summary.get("assumed", []),
        "warnings": state.summary.get("warnings", []),
        "proposal": proposal_line(state),
        "superseded_by": store.superseded_by(state_id),
        "standing": standing_of(store, state_id),
        "decision": None if record is None else record_plain(record),
    }


def prior_plain(identity: Mapping[str, Any]) -> Any:
    """The prior that an identity names; of learned populations their version and scope, not their numbers."""
    named = identity.get("prior")
    told = [{"version": x.version, "model": x.model, "ligand": x.ligand, "patients": x.patients} for x in learned_of(identity)]
    return {**named, "learned": told} if told and isinstance(named, Mapping) else named


def show(store: TwinStore, state_id: str) -> dict[str, Any]:
    """The results of a state: doses, limits, forecast, proposal."""
    state = store.load(state_id)
    decision = store.decision(state_id)
    return {
        "state": info_plain(store.info(state_id)),
        "doses": state.summary.get("doses", []),
        "cumulative": state.summary.get("cumulative", []),
        "forecast": state.summary.get("forecast", []),
        "warnings": [*notes_of(store, state_id), *state.summary.get("warnings", [])],
        "proposal": proposal_line(state),
        "proposed_mbq": None if state.proposal is None else state.proposal.activity_mbq,
        "superseded_by": store.superseded_by(state_id),
        "standing": standing_of(store, state_id),
        "decision": None if decision is None else decision.kind,
        "decided_mbq": None if decision is None else decision.activity_mbq,
    }
