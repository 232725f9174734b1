"""Which decision led to a cycle, and whether what was given is what was decided."""

from __future__ import annotations

import dataclasses

from storage.intake_types import CycleIntake
from storage.twins import StateInfo, TwinStore
from tdt_core.twin import Decision, TwinState

CARRIED = " before the chain was derived again: "
DEVIATION = 0.05
"""Relative difference between given and decided activity that is worth a finding."""


def decision_before(store: TwinStore, pid: str, parent: str | None, cycle: CycleIntake) -> Decision | None:
    """The decision on the parent's proposal that led to this cycle."""
    if parent is None:
        return None
    standing = store.decision(parent) if store.has(parent) else None
    if standing is not None and _of_a_person(standing):
        return standing
    # what was recorded without a person is told again from today's evidence: what was given may have been corrected since
    earlier = persons_decision(store, pid, cycle.number)
    return retrospective(parent, cycle) if earlier is None else carried_over(earlier, parent)


def persons_decision(store: TwinStore, pid: str, number: int) -> Decision | None:
    """What a person last decided for cycle `number`, also on a state that new evidence has superseded since."""
    for record in reversed(store.decisions(pid)):
        decision = record.decision
        led_here = _of_a_person(decision) and store.info(decision.state).cycle == number - 1
        if led_here and store.decision(decision.state) == decision:
            return decision
    return None


def _of_a_person(decision: Decision) -> bool:
    """Whether a person made the decision on that very state, and not this module from an earlier one or from what was given."""
    return decision.kind != "retrospective" and CARRIED not in decision.reason


def carried_over(decision: Decision, parent: str) -> Decision:
    """A person's decision beside a state that is derived again: no signature on the new proposal, but what was decided."""
    who = f"{decision.signed_by} ({decision.role})" + (", scripted" if decision.scripted else "")
    reason = f"{decision.kind} by {who}{CARRIED}{decision.reason}"
    if decision.kind == "refused":
        return dataclasses.replace(decision, state=parent, reason=reason)
    return Decision(parent, "retrospective", decision.activity_mbq, "", "", reason)


def retrospective(parent: str, cycle: CycleIntake) -> Decision:
    """What was given without the twin having been asked."""
    therapy = [a for a in cycle.administrations if a.intent == "therapy"]
    return Decision(
        state=parent,
        kind="retrospective",
        activity_mbq=therapy[0].activity_mbq if therapy else None,
        signed_by="",
        role="",
        reason="given before the twin was asked; taken in together with its data",
    )


def deviation(decision: Decision | None, cycle: CycleIntake) -> list[str]:
    """A finding when what was given is not what was decided."""
    if decision is None:
        return []
    therapy = [a for a in cycle.administrations if a.intent == "therapy"]
    given, decided = (therapy[0].activity_mbq if therapy else None), decision.activity_mbq
    if given is None:
        return [] if decided is None else [f"{decided:.0f} MBq had been decided on, and no therapy administration is recorded"]
    if decided is None:
        return [f"{given:.0f} MBq were given although the administration had been refused"]
    if abs(given - decided) > DEVIATION * decided:
        return [f"{given:.0f} MBq were given, {decided:.0f} MBq had been decided"]
    return []


def not_given(store: TwinStore, state: TwinState | StateInfo) -> list[str]:
    """A finding when new evidence came after a person had decided on an activity, and no administration of it.

    The state is then derived again for the same cycle, and the decision stands on the one that it superseded. It is read from
    the store and stands in the report, not in the state, whose content follows from its identity alone.
    """
    if store.head(state.pid) != state.id:
        return []
    decision = persons_decision(store, state.pid, state.cycle + 1)
    if decision is None or decision.activity_mbq is None or decision.state == state.id:
        return []
    what = f"{decision.activity_mbq:.0f} MBq were decided on for cycle {state.cycle + 1}"
    return [
        f"{what} (on state {decision.state[:12]}, superseded since), and the data up to now hold no administration of it: "
        "not given yet, not given at all, or not recorded."
    ]
