"""Plans: what names the states of a chain before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.decided import decision_before
from flows.settings import Settings
from flows.site import Site
from storage.cycles import digests_by_cycle, get_cycle
from storage.identity import state_id as id_of
from storage.identity import state_identity
from storage.intake import CycleIntake
from tdt_core.assimilation import LADDER_NAME, estimators
from tdt_core.assimilation.learned import LearnedPrior, check_base, learned_of, with_learned
from tdt_core.codec import from_plain, to_plain
from tdt_core.dosimetry.engines import engines
from tdt_core.errors import InputError, SettingsError
from tdt_core.kinetics import KineticModel, covariates_of, rung_for
from tdt_core.kinetics.ligands import family
from tdt_core.planning import product_for
from tdt_core.twin import Administration, Decision, Evidence, Product

DEFAULT_ESTIMATOR = "map"
DEFAULT_ENGINE = "kernel"


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


def first_of_chain(site: Site, pid: str) -> str | None:
    """The first state of a patient's current chain, None for a new patient."""
    return next((info.id for info in reversed(site.store.log(pid))), None)


def plan_chain(site: Site, bundles: Mapping[int, str], first: int, parent: str | None, afresh: bool = False) -> list[CyclePlan]:
    """Plans of cycles `first` and later, each the parent of the next.

    A cycle that is followed by another one in the same intake is history: its decision is retrospective and states what was
    given, unless a decision stands already. `afresh` (a refit) starts from the population prior in use, else a twin keeps its
    own.
    """
    digests = digests_by_cycle(site.evidence, dict(bundles))
    model = site.settings.model or LADDER_NAME
    plans: list[CyclePlan] = []
    known: set[str] = set()
    given: list[Administration] = []
    for number in sorted(bundles):
        known |= set(digests[number])
        pid, _, cycle = get_cycle(site.evidence, bundles[number])
        given += cycle.administrations
        if number < first:
            continue
        decision = decision_before(site.store, pid, parent, cycle)
        product = product_of(site, cycle, given)
        identity = state_identity(
            pid=pid,
            parent=parent,
            evidence_digests=known,
            administrations=given,
            decision=decision,
            prior=prior_named(site, parent, plans, product.ligand, None if afresh else first_of_chain(site, pid)),
            model=model,
            settings={
                "estimator": estimator_of(site),
                "engine": engine_of(site),
                "n_draws": site.settings.n_draws,
                **time_integration_of(site.settings),
                **({"adaptive_inflation": True} if site.settings.adaptive_inflation else {}),
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


def prior_named(
    site: Site, parent: str | None, plans: Sequence[CyclePlan], ligand: str, before: str | None = None
) -> dict[str, Any]:
    """What a state's identity says of its prior: where it comes from and the learned populations, which a chain keeps.

    A new chain takes what the site has accepted for the ligand's family; without any the packaged population, unnamed.

    Parameters
    ----------
    before : the first state of the patient's chain that late evidence derives again, whose populations are kept.
    """
    kept = parent or before
    if kept is None:
        learned = [x.plain() for x in site.populations.accepted() if x.ligand == family(ligand)]
        for x in learned:
            check_base(LearnedPrior.of(x))
    else:
        named = (plans[-1].identity if plans else site.store.load(kept).identity).get("prior")
        learned = list(named.get("learned", ())) if isinstance(named, Mapping) else []
    return {"origin": parent or "population"} | ({"learned": learned} if learned else {})


def estimator_of(site: Site) -> str:
    """Name of the estimator that the settings ask for. Raises SettingsError when there is none of that name."""
    name = site.settings.estimator or DEFAULT_ESTIMATOR
    if name not in estimators():
        raise SettingsError(
            f"no estimator named {name!r}",
            expected=f"one of {', '.join(estimators())}; network is an optional extra (docs/assimilation.md)",
            remedy="correct `estimator` in tdt.toml or TDT_ESTIMATOR",
            kind="settings.estimator",
        )
    return name


def engine_of(site: Site) -> str:
    """Name of the dose engine that the settings ask for. Raises SettingsError when there is none of that name."""
    name = site.settings.engine or DEFAULT_ENGINE
    if name not in engines():
        raise SettingsError(
            f"no dose engine named {name!r}",
            expected=f"one of {', '.join(engines())}",
            remedy="correct `engine` in tdt.toml or TDT_ENGINE",
            kind="settings.engine",
        )
    return name


def time_integration_of(settings: Settings) -> dict[str, str]:
    """The setting as a state's identity holds it: only where it is not the default, so that ids of older states stay."""
    default = type(settings).model_fields["time_integration"].default
    return {} if settings.time_integration == default else {"time_integration": settings.time_integration}


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


def rung_of(plan: CyclePlan, model: str, evidence: Evidence) -> KineticModel:
    """The kinetic model that a plan's fit used."""
    rung = rung_for(model, plan.identity["settings"]["product"]["ligand"], evidence.regions, covariates_of(evidence))
    return with_learned(rung, learned_of(plan.identity))


def seed_of(plan: CyclePlan) -> tuple[int, int]:
    """Root seed and cycle: the entropy of everything random in a state."""
    return int(plan.identity["root_seed"]), plan.number


def decision_of(plan: CyclePlan) -> Decision | None:
    """The decision that led to the cycle; None in the first one."""
    return None if plan.decision is None else from_plain(Decision, plan.decision)
