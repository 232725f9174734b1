"""Plans: what names the states of a chain before any work is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.site import Site
from storage.cycles import digests_by_cycle, get_cycle
from storage.identity import state_id as id_of
from storage.identity import state_identity
from storage.intake import CycleIntake
from tdt_core.codec import from_plain, to_plain
from tdt_core.errors import InputError
from tdt_core.kinetics import KineticModel, model
from tdt_core.kinetics.ligands import family
from tdt_core.planning import product_for
from tdt_core.twin import Administration, Decision, Product, Region

DEFAULT_MODEL = "sum_of_exponentials"
DEFAULT_ESTIMATOR = "map"
ENGINE = "kernel"


@dataclass(frozen=True)
class CyclePlan:
    """What names a cycle's state before any work is done; plain data that travels between steps."""

    state_id: str
    identity: dict[str, Any]
    pid: str
    number: int
    bundle: str
    parent: str | None
    decision: dict[str, Any] | None


def plan_chain(site: Site, bundles: Mapping[int, str], first: int, parent: str | None) -> list[CyclePlan]:
    """Plans of cycles `first` and later, each the parent of the next.

    A cycle that is followed by another one in the same intake is history: its decision is retrospective and states what was
    given, unless a decision stands already.
    """
    digests = digests_by_cycle(site.evidence, dict(bundles))
    rung = site.settings.model or DEFAULT_MODEL
    plans: list[CyclePlan] = []
    known: set[str] = set()
    given: list[Administration] = []
    for number in sorted(bundles):
        known |= set(digests[number])
        pid, _, cycle = get_cycle(site.evidence, bundles[number])
        given += cycle.administrations
        if number < first:
            continue
        decision = decision_before(site, pid, parent, cycle)
        product = product_of(site, cycle, given)
        identity = state_identity(
            pid=pid,
            parent=parent,
            evidence_digests=known,
            administrations=given,
            decision=decision,
            prior={"origin": parent or "population"},
            model=rung,
            settings={
                "estimator": site.settings.estimator or DEFAULT_ESTIMATOR,
                "engine": ENGINE,
                "n_draws": site.settings.n_draws,
                "limits": to_plain(site.limits),
                "product": to_plain(product),
            },
            root_seed=site.settings.root_seed,
            cycle=number,
        )
        plan = CyclePlan(
            id_of(identity), identity, pid, number, bundles[number], parent, None if decision is None else to_plain(decision)
        )
        plans.append(plan)
        parent = plan.state_id
    return plans


def decision_before(site: Site, pid: str, parent: str | None, cycle: CycleIntake) -> Decision | None:
    """The decision on the parent's proposal that led to this cycle."""
    if parent is None:
        return None
    if site.store.has(parent) and (standing := site.store.decision(parent)) is not None:
        return standing
    earlier = superseded_decision(site, pid, cycle.number)
    return retrospective(parent, cycle) if earlier is None else carried_over(earlier, parent)


def superseded_decision(site: Site, pid: str, number: int) -> Decision | None:
    """What a person decided for cycle `number` on the current chain, which is about to be derived again."""
    for info in site.store.log(pid):
        if info.cycle == number:
            decided = site.store.load(info.id).identity["decision"]
            return None if decided is None or decided["kind"] == "retrospective" else from_plain(Decision, decided)
    return None


def carried_over(decision: Decision, parent: str) -> Decision:
    """A person's decision beside a state that is derived again: no signature on the new proposal, but what was decided."""
    who = f"{decision.signed_by} ({decision.role})" + (", scripted" if decision.scripted else "")
    reason = f"{decision.kind} by {who} before the chain was derived again: {decision.reason}"
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


def product_of(site: Site, cycle: CycleIntake, given: list[Administration]) -> Product:
    """The therapy product of a cycle; before therapy, the one product whose ligand family the imaging agent belongs to."""
    therapy = [a for a in given if a.intent == "therapy"]
    if therapy:
        return product_for(therapy[-1].ligand, therapy[-1].nuclide, site.products)
    families = {family(a.ligand) for a in cycle.administrations}
    for product in site.products.values():
        if product.ligand in families:
            return product
    raise InputError(
        "the first cycle has neither a therapy nor an imaging administration",
        expected="at least one administration, so that the product is known",
        remedy="add it to administrations.json",
        kind="input.cycle",
    )


def rung_of(plan: CyclePlan, regions: tuple[Region, ...]) -> KineticModel:
    """The kinetic model that a plan names."""
    return model(plan.identity["model"], plan.identity["settings"]["product"]["ligand"], regions)


def seed_of(plan: CyclePlan) -> tuple[int, int]:
    """Root seed and cycle: the entropy of everything random in a state."""
    return int(plan.identity["root_seed"]), plan.number


def decision_of(plan: CyclePlan) -> Decision:
    """The decision that led to the cycle."""
    return from_plain(Decision, plan.decision)
