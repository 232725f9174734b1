"""From the doses of one cycle to the ledger, the forecast, the proposal and the summary of its state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flows import progress, summary
from flows.inflating import inflation_after, inflation_now
from flows.plan import CyclePlan, rung_of, seed_of
from flows.site import Site
from flows.smoothing import against_all_cycles, alarms
from flows.steps import load_posterior, start_of, therapy_of
from storage.cycles import get_cycle
from storage.work import WorkFolder
from tdt_core.assimilation import poorly_fitted, smooth_draws, state_model, transition, was_treated
from tdt_core.assimilation.learned import LearnedPrior, learned_of, outdated
from tdt_core.codec import from_plain, to_plain
from tdt_core.kinetics import KineticModel, kept_in_place, source_activity
from tdt_core.outcome import lab_trends
from tdt_core.planning import objections, propose
from tdt_core.planning.diagnostics import beyond_the_ledger
from tdt_core.planning.forecast import (
    dose_matrix,
    gy_per_mbq,
    mass_factor_draws,
    next_administration,
    next_parameters,
    outlooks_of,
)
from tdt_core.planning.ledger import LedgerRow, latest, ledger_of, ledger_row
from tdt_core.planning.outlook import for_ligand, lea_catcheside_by_region
from tdt_core.twin import DoseLedger, Limit, Posterior, PriorTherapy, Product

LEDGER_FIELDS = ("cycles", "administrations", "kinds", "activities_mbq", "regions", "radiation", "opening_gy")

SMOOTHER, ALL_CYCLES = 16, 19  # streams of random numbers, see tdt_core.planning.forecast


def conclude(site: Site, plan: CyclePlan) -> None:
    """Ledger, forecast, proposal and summary; leaves the record `conclusion`."""
    work = WorkFolder(site.home, plan.state_id)
    _, images = work.load("images")
    arrays, dosed = work.load("dose")
    posterior, evidence = load_posterior(work)
    product = from_plain(Product, plan.identity["settings"]["product"])
    policy = tuple(from_plain(Limit, x) for x in plan.identity["settings"]["limits"])
    tissues = for_ligand(site.tissues, product.ligand)
    rung = rung_of(plan, posterior.model, evidence)
    given = therapy_of(evidence, product)
    treated = any(a.intent == "therapy" for a in evidence.administrations)
    current = ledger_row(plan.number, given, rung, arrays["region_dose"], arrays["g"], site.tissues)
    prior = prior_therapies(site, plan)
    past = past_rows(site, plan, rung, posterior, start_of(evidence))
    ledger = ledger_of([*past, *([current] if treated else [])], current, prior)
    upcoming = next_administration(product, start_of(evidence) + product.interval_h, given.amount_nmol)
    told = plan.identity["settings"]
    wider = inflation_now(site.store, told, plan.parent, posterior, treated)
    theta = next_parameters(rung, posterior, plan.number, product.interval_h, seed_of(plan), wider)
    factors = mass_factor_draws(evidence, posterior, posterior.draws[:, : theta.shape[1]], seed_of(plan))
    forecast = gy_per_mbq(rung, theta, upcoming, arrays["matrix"], factors)
    outlooks = outlooks_of(rung, theta, upcoming, forecast, ledger, policy, site.tissues)
    proposal = propose(
        plan.state_id,
        plan.number + 1,
        outlooks,
        policy,
        product,
        product.planned_cycles - plan.number,
        objections(posterior.diagnostics, posterior.fit_report, rung.regions, {x.organ for x in policy}),
        beyond_the_ledger(ledger, policy),
    )
    labs = [*past_labs(site, plan), *evidence.labs]
    learned = learned_of(plan.identity)
    for words in outdated(learned):
        progress.note(words)
    together = against_all_cycles(site, plan.parent, rung, evidence, posterior, product, (*seed_of(plan), ALL_CYCLES), told)
    text = {
        "ligand": product.ligand,
        "cycle_bundle": plan.bundle,
        "kind": "retrospective" if treated else "prospective",
        "activity_mbq": given.net_activity_mbq,
        "doses": summary.dose_rows(rung, current, arrays["tia"], posterior, tissues),
        "cumulative": summary.cumulative_rows(ledger, policy),
        "curves": summary.curve_rows(rung, posterior.draws[:, : len(rung.parameters)], given, posterior),
        "dvh": dosed["dvh"],
        "labs": lab_trends(labs, max([start_of(evidence), *(x.time_h for x in labs)]) + product.interval_h),
        "forecast": summary.forecast_rows(rung.regions, forecast),
        "acquisitions": images["acquisitions"],
        "conservation": dosed["conservation"],
        "organ_level": dosed["organ_level"],
        "dose_engine": dosed["engine"],
        "assumed": summary.assumed_rows(rung, tissues, product, policy, given.nuclide),
        "prior_therapies": to_plain(prior),
        "warnings": [
            *warnings(posterior, product, treated, ledger, kept_in_place(rung, given.nuclide), learned),
            *alarms(together, rung.regions),
        ],
        "all_cycles": together,
        "diagnostics": posterior.diagnostics,
        "dose_matrix_gy_per_mbq_h": arrays["matrix"].tolist(),
    }
    moving = summary.daughter_rows(rung, posterior.draws[:, : theta.shape[1]], given)
    text |= {"daughters": moving} if moving else {}
    text |= {"inflation": wider} if told.get("adaptive_inflation", False) else {}
    work.save(
        "conclusion",
        {"ledger_dose": ledger.dose_gy, "ledger_bed": ledger.bed_gy},
        {
            "ledger": {k: to_plain(getattr(ledger, k)) for k in LEDGER_FIELDS},
            "proposal": to_plain(proposal),
            "summary": text,
        },
    )


def warnings(
    posterior: Posterior,
    product: Product,
    treated: bool,
    ledger: DoseLedger,
    in_place: Sequence[str] = (),
    learned: Sequence[LearnedPrior] = (),
) -> list[str]:
    """What a reader should know beside the findings of the intake.

    in_place : daughters that leave, and are not followed. learned : the population priors that the twin began with.
    """
    found = outdated(learned)
    if not treated:
        found.append(f"Nothing was given for therapy yet: doses are prospective, for {product.standard_activity_mbq:.0f} MBq.")
    found += [
        f"Fitted with {posterior.model}, not with {row['rung']}: {row['reason']}."
        for row in posterior.diagnostics.get("refused", ())
    ]
    found += [
        f"{name} leaves the ligand that brought its parent, and {posterior.model} does not follow it: all of it is taken to "
        "decay where its parent does (assumed)."
        for name in in_place
    ]
    found += [
        f"The model fits {organ} poorly (chi-square per datum {misfit['two_j'] / misfit['n_obs']:.1f}, about 1 is expected): "
        "read its interval with care."
        for organ, misfit in poorly_fitted(posterior.diagnostics).items()
    ]
    found += [
        f"{name} lies {away:.1f} sd from the mean of its prior, at its bound: data and prior contradict each other."
        for name, away in posterior.diagnostics.get("at_edge", {}).items()
    ]
    found += [
        f"{organ} received {dose_gy:g} Gy in earlier therapies, and this cycle has no such region: it is added to nothing."
        for organ, dose_gy in ledger.opening_gy.items()
        if organ not in ledger.regions
    ]
    return found


def past_rows(site: Site, plan: CyclePlan, rung: KineticModel, posterior: Posterior, start_h: float) -> list[LedgerRow]:
    """Earlier cycles' doses, redrawn given this cycle's draws so that draws are paired over cycles; oldest first."""
    rows: list[LedgerRow] = []
    names, draws, following = tuple(rung.parameters), posterior.draws[:, : len(rung.parameters)], start_h
    ancestor = plan.parent
    while ancestor is not None:
        state = site.store.load(ancestor)
        earlier = state_model(state)
        step = transition(earlier, state.cycle, following - state.valid_time_h, was_treated(state))
        step = step.widened(inflation_after(site.store, plan.identity["settings"], state))
        rng = np.random.default_rng([*seed_of(plan), SMOOTHER, state.cycle])
        draws = smooth_draws(state.posterior, step, names, draws, rng)
        if was_treated(state):
            given = state.evidence.therapy()
            factors = mass_factor_draws(state.evidence, state.posterior, draws, (seed_of(plan)[0], state.cycle))
            dose_gy = ((source_activity(earlier, draws, given) @ dose_matrix(state).T) / factors).T
            g = lea_catcheside_by_region(earlier, draws, given, site.tissues)
            rows.append(ledger_row(state.cycle, given, earlier, dose_gy, g, site.tissues))
        names, following, ancestor = tuple(earlier.parameters), state.valid_time_h, state.parent
    return rows[::-1]


def prior_therapies(site: Site, plan: CyclePlan) -> tuple[PriorTherapy, ...]:
    """Therapies outside this system that are known up to this cycle; what a later cycle says of one replaces."""
    before = () if plan.parent is None else site.store.load(plan.parent).summary.get("prior_therapies", ())
    _, _, cycle = get_cycle(site.evidence, plan.bundle)
    return latest([from_plain(PriorTherapy, x) for x in before], cycle.prior_therapies)


def past_labs(site: Site, plan: CyclePlan) -> list[Any]:
    """Laboratory results of earlier cycles, oldest first."""
    found: list[Any] = []
    ancestor = plan.parent
    while ancestor is not None:
        state = site.store.load(ancestor)
        found = [*state.evidence.labs, *found]
        ancestor = state.parent
    return found
