"""What an operator must look at: abstentions, waiting signatures, failed checks, damage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from flows.report import sections
from flows.report.style import activity, in_sentence, percent
from storage.state_files import Problem
from tdt_core.errors import TwinError
from tdt_core.twin import Decision, TwinState

Level = Literal["stop", "wait", "note"]


@dataclass(frozen=True)
class Alarm:
    """One thing to look at. level: stop (something is wrong), wait (a person must act), note (read it)."""

    level: Level
    words: str


def state_alarms(state: TwinState, decision: Decision | None, *, newest: bool) -> list[Alarm]:
    """Alarms of one state; only the newest one of a patient can wait for a signature."""
    found = []
    proposal = state.proposal
    if proposal is not None and proposal.abstains:
        found += [Alarm("stop", f"The twin abstains for cycle {proposal.cycle}: {reason}") for reason in proposal.reasons]
    if newest and proposal is not None and decision is None:
        what = f"{activity(proposal.activity_mbq or 0)} MBq, risk {percent(proposal.risk)},"
        what += f" for cycle {proposal.cycle} waits for a signature."
        if proposal.abstains:
            what = (
                f"No recommendation for cycle {proposal.cycle}, so nothing to sign: what is given is a person's own decision."
            )
        found.append(Alarm("wait", what))
    if decision is not None and decision.kind == "refused":
        found.append(Alarm("note", f"The proposal was refused: {decision.reason}"))
    if decision is not None and decision.scripted:
        found.append(Alarm("note", "A program signed this state for a demonstration; no person did."))
    start = sections.start_h(state)
    outliers = [r for r in state.posterior.fit_report if r["status"] == "outlier"]
    if outliers:
        places = ", ".join(f"{in_sentence(r['region'])} at {r['time_h'] - start:.0f} h" for r in outliers[:4])
        more = f" and {len(outliers) - 4} more" if len(outliers) > 4 else ""
        found.append(Alarm("note", f"Down-weighted or suspicious data: {places}{more}."))
    found += [Alarm("note", words) for words in sections.warnings(state)]
    return found


def store_alarms(verify: Callable[[], Sequence[Problem]]) -> list[Alarm]:
    """What `TwinStore.verify` finds, or the reason why it could not look."""
    try:
        return [Alarm("stop", f"Store: {problem}") for problem in verify()]
    except TwinError as error:
        return [Alarm("stop", f"Store: {error}")]
