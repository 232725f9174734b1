"""A patient's chain of states from a folder of files: what is new, in which order, and who calls the steps.

`run_chain` calls the steps directly; `flows.loop` hands each to Prefect. Both do the same work and give the same states.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flows import assemble, conclude, progress, steps
from flows.plan import CyclePlan, decision_of, plan_chain
from flows.site import Site
from storage.cycles import digests_by_cycle, get_cycle, put_cycles
from storage.identity import science_digest
from storage.intake import CycleIntake, Intake, read_inbox
from storage.twins import now
from storage.vault import Vault
from tdt_core.codec import from_plain
from tdt_core.errors import StoreError, TwinError
from tdt_core.planning.ledger import latest
from tdt_core.planning.outlook import tissues
from tdt_core.twin import Limit

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


def take_in(site: Site, folder: Path) -> tuple[str, dict[int, str]]:
    """Read a folder into the evidence store; returns the pseudonym and cycle number -> digest.

    Raises InputError when something is refused; the twin is unchanged then.
    """
    vault = Vault.open(site.settings.vault)
    intake = read_inbox(
        folder,
        vault,
        evidence=site.evidence,
        ct_calibration_file=site.settings.ct_calibration,
        quarantine_folder=site.settings.quarantine,
    )
    return intake.pid, known_cycles(site, intake.pid) | put_cycles(
        site.evidence, numbered(site, without_imageless_start(intake))
    )


def without_imageless_start(intake: Intake) -> Intake:
    """What was measured before the first therapy without any imaging (laboratory values) joins the first therapy cycle."""
    first, *rest = intake.cycles
    if first.number != 0 or first.scans or first.administrations or not rest:
        return intake
    return dataclasses.replace(intake, cycles=(joined(rest[0], first), *rest[1:]))


def numbered(site: Site, intake: Intake) -> Intake:
    """Cycle numbers that go on from the therapies that the twin already knows, when the folder holds only later ones.

    What such a folder holds from before its first therapy (laboratory values) joins the cycle that the twin knows.
    """
    known = {info.cycle: site.store.load(info.id) for info in site.store.log(intake.pid)}
    earlier = {a.time_h for s in known.values() for a in s.evidence.administrations if a.intent == "therapy"}
    here = {a.time_h for cycle in intake.cycles for a in cycle.administrations if a.intent == "therapy"}
    offset = len({t for t in earlier if here and t < min(here) - 1e-6})
    if not offset:
        return intake
    cycles = []
    for cycle in intake.cycles:
        moved = dataclasses.replace(cycle, number=cycle.number + offset)
        if cycle.number == 0:
            moved = joined(get_cycle(site.evidence, known[offset].summary["cycle_bundle"])[2], moved)
        cycles.append(moved)
    return dataclasses.replace(intake, cycles=tuple(cycles))


def joined(known: CycleIntake, late: CycleIntake) -> CycleIntake:
    """A cycle with laboratory values, samples and earlier therapies that stood elsewhere; what has the same key is replaced."""
    samples = {(x.kind, x.time_h, x.calibration_id): x for x in (*known.samples, *late.samples)}
    labs = {(x.record, x.analyte, x.time_h): x for x in (*known.labs, *late.labs)}
    return dataclasses.replace(
        known,
        labs=tuple(sorted(labs.values(), key=lambda x: (x.time_h, x.analyte, x.record))),
        digests=tuple(sorted({*known.digests, *late.digests})),
        findings=(*known.findings, *late.findings),
        prior_therapies=latest(known.prior_therapies, late.prior_therapies),
        samples=tuple(sorted(samples.values(), key=lambda x: (x.time_h, x.kind))),
    )


def known_cycles(site: Site, pid: str) -> dict[int, str]:
    """Cycle number -> digest of the bundle that the patient's current chain rests on."""
    return {info.cycle: str(site.store.load(info.id).summary["cycle_bundle"]) for info in site.store.log(pid)}


def run_chain(site: Site, folder: Path, call: Caller = call_directly) -> dict[str, Any]:
    """Take a folder in and bring the patient's chain up to date. See `bring_up_to_date`."""
    pid, bundles = take_in(site, folder)
    return bring_up_to_date(site, pid, bundles, call)


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
    digests = digests_by_cycle(site.evidence, dict(bundles))
    first = min(bundles) if refit_reason else site.store.first_new_cycle(pid, digests)
    new: list[str] = []
    if first is not None:
        parent = next((info.id for info in chain if info.cycle == max((c for c in bundles if c < first), default=-1)), None)
        plans = plan_chain(site, bundles, first, parent)
        for plan in plans:
            decision = decision_of(plan)
            if decision is not None and site.store.decision(decision.state) is None:
                site.store.decide(decision, time=now())
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
        raise StoreError("a refit without a reason", remedy="say why: tdt refit PATIENT --reason ...", kind="store.reason")
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
