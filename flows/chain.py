"""A patient's chain of states from a folder of files: what is new, in which order, and who calls the steps.

`run_chain` calls the steps directly; `flows.loop` hands each to Prefect. Both do the same work and give the same states.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flows import assemble, conclude, progress, steps
from flows.plan import CyclePlan, decision_of, plan_chain
from flows.site import Site
from storage.cycles import digests_by_cycle
from storage.deliveries import Pool, content_of, pool_of, put_bundles, record_delivery
from storage.identity import science_digest
from storage.intake import read_inbox
from storage.pool import set_aside, waiting
from storage.twins import StateInfo, now
from storage.vault import Vault
from tdt_core.codec import from_plain
from tdt_core.errors import InputError, TwinError, UsageError
from tdt_core.planning.outlook import tissues
from tdt_core.twin import Decision, JsonDict, Limit

Step = Callable[..., Any]
Caller = Callable[[str, Step, Site, CyclePlan], None]
STEPS: tuple[tuple[str, Step], ...] = (
    ("quantify", steps.quantify),
    ("assimilate", steps.fit),
    ("dose", steps.dose),
    ("conclude", conclude.conclude),
)


def call_directly(name: str, step: Step, site: Site, plan: CyclePlan) -> None:
    """Run a step in this process."""
    step(site, plan)


def take_in(site: Site, folder: Path) -> tuple[str, dict[int, str], str]:
    """Read a folder into the evidence store and the patient's pool.

    Returns the pseudonym, cycle number -> digest of its bundle, and the digest of the delivery.

    The folder may hold a part: what other deliveries told stays (`storage.pool`). Raises InputError when something is refused
    or when no cycle can be assimilated; the twin is unchanged then.
    """
    intake = read_inbox(
        folder,
        Vault.open(site.settings.vault),
        evidence=site.evidence,
        ct_calibration_file=site.settings.ct_calibration,
        quarantine_folder=site.settings.quarantine,
        amends=True,
    )
    for finding in intake.findings:
        progress.note(finding)
    content = content_of(intake)
    ready(pool_of(site.store, intake.pid, more=content))
    delivery = record_delivery(site.store, content, time=now())
    return intake.pid, pooled(site, intake.pid), delivery


def pooled(site: Site, pid: str) -> dict[int, str]:
    """Cycle number -> digest of the bundle of everything that stands for a patient, as far as it can be assimilated."""
    return put_bundles(site.evidence, ready(pool_of(site.store, pid)))


def ready(known: Pool) -> dict[int, JsonDict]:
    """Bundles of the cycles that can be assimilated; the first that lacks scans or regions, and later ones, wait.

    Raises InputError `input.cycle` when none is left.
    """
    cycles = known.cycles()
    late = waiting(cycles)
    if len(late) == len(cycles):
        number, lacks = next(iter(late.items()))
        raise InputError(
            f"cycle {number} lacks {lacks}",
            expected="at least one quantitative scan with its CT and a segmentation",
            remedy="send what is missing, regions with the scan and CT that they lie on; what came before stays known",
            kind="input.cycle",
        )
    for number, lacks in late.items():
        progress.note(f"cycle {number} waits for {lacks}")
    for told in set_aside(known.items, cycles):
        progress.note(told)
    return {k: v for k, v in cycles.items() if k not in late}


def known_cycles(site: Site, pid: str) -> dict[int, str]:
    """Cycle number -> digest of the bundle that the patient's current chain rests on."""
    return {info.cycle: str(site.store.load(info.id).summary["cycle_bundle"]) for info in site.store.log(pid)}


def run_chain(site: Site, folder: Path, call: Caller = call_directly) -> dict[str, Any]:
    """Take a folder in and bring the patient's chain up to date.

    Returns what `bring_up_to_date` does, and `delivery`: the digest of what the folder stated.

    What was taken in stays known where a step then refuses it, and would be refused in every later run: the error says how to
    take it back.
    """
    pid, bundles, delivery = take_in(site, folder)
    try:
        return bring_up_to_date(site, pid, bundles, call) | {"delivery": delivery}
    except InputError as error:
        back = f"or take back what this folder brought: tdt evidence {pid} lists it, tdt retract {pid} ITEM takes it back"
        remedy = f"{error.remedy}; {back}" if error.remedy else back.removeprefix("or ")
        raise type(error)(error.found, expected=error.expected, remedy=remedy, kind=error.kind) from error


def bring_up_to_date(
    site: Site, pid: str, bundles: Mapping[int, str], call: Caller = call_directly, refit_reason: str = ""
) -> dict[str, Any]:
    """Make every state that the evidence asks for; evidence already assimilated makes none, also after a change of code.

    Returns
    -------
    dict with `pid`, `states` (ids of the whole current chain), `new` (ids made now), `proposal` (of the newest state).
    """
    site.store.recover()
    chain = list(site.store.log(pid))
    head = site.store.head(pid)
    digests = comparable(site, chain, digests_by_cycle(site.evidence, dict(bundles)))
    first = min(bundles) if refit_reason else site.store.first_new_cycle(pid, digests)
    new: list[str] = []
    if first is not None:
        parent = next((info.id for info in chain if info.cycle == max((c for c in bundles if c < first), default=-1)), None)
        if not any(c >= first for c in bundles) and head is not None and parent is not None:
            site.store.retreat(pid, parent, expected_head=head, time=now())
        for plan in plan_chain(site, bundles, first, parent, afresh=bool(refit_reason)):
            keep_decision(site, decision_of(plan))
            if not site.store.has(plan.state_id):
                new.append(plan.state_id)
            try:
                make_state(site, plan, call, head, refit_reason)
            except TwinError as error:
                site.store.record_failure(pid, plan.number, error.as_dict(), time=now())
                raise
            head = plan.state_id
    log = sorted(site.store.log(pid), key=lambda info: info.cycle)
    newest = site.store.load(log[-1].id) if log else None
    return {
        "pid": pid,
        "states": [info.id for info in log],
        "new": new,
        "proposal": None if newest is None or newest.proposal is None else newest.proposal.activity_mbq,
    }


def keep_decision(site: Site, decision: Decision | None) -> None:
    """Record the decision that led to a cycle, where the store does not hold it; what no person told is corrected."""
    if decision is None:
        return
    standing = site.store.decision_record(decision.state)
    if standing is None:
        site.store.decide(decision, time=now())
    elif standing.decision != decision:
        why = "what was given, or what had been decided, is told otherwise since"
        site.store.decide(decision, time=now(), replaces=standing.id, replace_reason=why)


def comparable(site: Site, chain: Sequence[StateInfo], digests: Mapping[int, tuple[str, ...]]) -> Mapping[int, tuple[str, ...]]:
    """Digests by cycle without the patient's record where the state was made before that counted as evidence."""
    before = {i.cycle for i in chain if not any(site.evidence.kind(d) == "patient" for d in i.cycle_evidence)}
    return {k: tuple(d for d in found if k not in before or site.evidence.kind(d) != "patient") for k, found in digests.items()}


def make_state(site: Site, plan: CyclePlan, call: Caller, head: str | None, refit_reason: str = "") -> None:
    """Run the steps of one cycle and commit its state; a state that is there already is only committed again (no change).

    head : HEAD as this run knows it; ConflictError when another process has moved it meanwhile.
    """
    if not site.store.has(plan.state_id):
        for name, step in STEPS:
            with progress.step(f"cycle {plan.number}: {name}"):
                call(name, step, site, plan)
    call("commit", partial(assemble.commit, expected_head=head, refit_reason=refit_reason), site, plan)


def refit(site: Site, pid: str, reason: str, call: Caller = call_directly) -> dict[str, Any]:
    """Compute a patient's chain again under the present code and settings, as a new branch; `states` are the new ids."""
    if not reason.strip():
        raise UsageError(
            "a refit without a reason",
            expected="why the chain is computed again",
            remedy="say why: tdt refit PATIENT --reason ...",
            kind="store.reason",
        )
    before = {info.id for info in site.store.log(pid)}
    result = bring_up_to_date(site, pid, known_cycles(site, pid), call, reason)
    return {"pid": pid, "states": [s for s in result["states"] if s not in before]}


def replay(site: Site, state_id: str) -> list[str]:
    """Compute a committed state again from its evidence, seed and limits; returns what differs, in words."""
    stored = site.store.load(state_id)
    policy = tuple(from_plain(Limit, x) for x in stored.identity["settings"]["limits"])
    site = dataclasses.replace(site, limits=policy, tissues=tissues(policy))
    plan = CyclePlan(
        state_id=state_id,
        identity=stored.identity,
        pid=stored.pid,
        number=stored.cycle,
        bundle=stored.summary["cycle_bundle"],
        parent=stored.parent,
        decision=stored.identity["decision"],
    )
    for name, step in STEPS:
        call_directly(name, step, site, plan)
    again, dose = assemble.result(site, plan)
    assemble.clear(site, plan)
    differences = []
    if stored.identity["science"] != science_digest():
        differences.append("the science (sources and data of tdt_core, numeric libraries) is not the one of the state")
    for name in ("mean", "cholesky", "draws"):
        if not np.array_equal(getattr(stored.posterior, name), getattr(again.posterior, name)):
            differences.append(f"posterior {name} differs")
    for name in ("dose_gy", "bed_gy"):
        if not np.array_equal(getattr(stored.ledger, name), getattr(again.ledger, name), equal_nan=True):
            differences.append(f"ledger {name} differs")
    if stored.summary != again.summary:
        keys = sorted(k for k in stored.summary if stored.summary[k] != again.summary.get(k))
        differences.append(f"summary differs in {', '.join(keys)}")
    if stored.proposal != again.proposal:
        differences.append("the proposal differs")
    kept = site.store.open_dose(state_id)
    for variable in dose.data_vars:
        if not np.array_equal(kept[variable].values, dose[variable].values, equal_nan=True):
            differences.append(f"dose map {variable} differs")
    return differences


def pending(site: Site) -> list[str]:
    """Newest states whose proposal waits for a person."""
    waiting = []
    for twin in site.store.list():
        head = site.store.head(twin.pid)
        if head is not None and site.store.decision(head) is None and site.store.load(head).proposal is not None:
            waiting.append(head)
    return waiting


__all__ = ["bring_up_to_date", "pending", "refit", "replay", "run_chain", "take_in"]
