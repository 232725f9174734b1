"""From the doses of one cycle to the ledger, the forecast, the proposal and the summary of its state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from flows import summary
from flows.forecast import dose_matrix, gy_per_mbq, mass_factor_draws, next_administration, next_parameters
from flows.plan import CyclePlan, rung_of, seed_of
from flows.site import Site
from flows.steps import load_posterior, start_of, therapy_of
from storage.work import WorkFolder
from tdt_core.assimilation import smooth_draws, transition
from tdt_core.codec import from_plain, to_plain
from tdt_core.kinetics import KineticModel, model
from tdt_core.outcome import lab_trends
from tdt_core.planning import OrganOutlook, objections, propose
from tdt_core.planning.diagnostics import MISFIT_PROBABILITY
from tdt_core.planning.outlook import bed_by_region, effective_g, lea_catcheside_by_region, ledger_names, with_organs
from tdt_core.twin import Administration, DoseLedger, Limit, Posterior, Product

LEDGER_FIELDS = ("cycles", "administrations", "kinds", "activities_mbq", "regions", "radiation", "opening_gy")


def conclude(site: Site, plan: CyclePlan) -> None:
    """Ledger, forecast, proposal and summary; leaves the record `conclusion`."""
    work = WorkFolder(site.home, plan.state_id)
    _, images = work.load("images")
    arrays, dosed = work.load("dose")
    posterior, evidence = load_posterior(work)
    product = from_plain(Product, plan.identity["settings"]["product"])
    policy = tuple(from_plain(Limit, x) for x in plan.identity["settings"]["limits"])
    rung = rung_of(plan, evidence.regions)
    given = therapy_of(evidence, product)
    treated = any(a.intent == "therapy" for a in evidence.administrations)
    bed = bed_by_region(rung.regions, arrays["region_dose"], arrays["g"], site.tissues)
    organ_dose, organ_bed = (with_organs(rung.regions, x) for x in (arrays["region_dose"], bed))
    current = LedgerRow(plan.number, given, ledger_names(rung.regions), organ_dose, organ_bed)
    ledger = ledger_of([*past_rows(site, plan, rung, posterior, start_of(evidence)), *([current] if treated else [])], current)
    upcoming = next_administration(product, start_of(evidence) + product.interval_h, given.amount_nmol)
    theta = next_parameters(rung, posterior, plan.number, product.interval_h, seed_of(plan))
    factors = mass_factor_draws(evidence, len(theta), seed_of(plan))
    forecast = gy_per_mbq(rung, theta, upcoming, arrays["matrix"], factors)
    outlooks = outlooks_of(site, rung, theta, upcoming, forecast, ledger, policy)
    seen = {d["region"] for d in posterior.fit_report if d["status"] != "missing"}
    limited = {x.organ for x in policy}
    with_data = {r.organ for r in rung.regions if r.name in seen}
    proposal = propose(
        plan.state_id,
        plan.number + 1,
        outlooks,
        policy,
        product,
        product.planned_cycles - plan.number,
        objections(decisive(posterior, rung, limited), with_data, limited),
    )
    labs = [*past_labs(site, plan), *evidence.labs]
    text = {
        "ligand": product.ligand,
        "cycle_bundle": plan.bundle,
        "kind": "retrospective" if treated else "prospective",
        "activity_mbq": given.net_activity_mbq,
        "doses": summary.dose_rows(rung, organ_dose, organ_bed, arrays["tia"], given.net_activity_mbq, posterior, site.tissues),
        "cumulative": summary.cumulative_rows(ledger, policy),
        "curves": summary.curve_rows(rung, posterior.draws[:, : len(rung.parameters)], given, posterior),
        "dvh": dosed["dvh"],
        "labs": lab_trends(labs, max([start_of(evidence), *(x.time_h for x in labs)]) + product.interval_h),
        "forecast": summary.forecast_rows(rung.regions, forecast),
        "acquisitions": images["acquisitions"],
        "conservation": dosed["conservation"],
        "assumed": summary.assumed_rows(rung, site.tissues, product, policy),
        "warnings": warnings(posterior, product, treated),
        "diagnostics": posterior.diagnostics,
        "dose_matrix_gy_per_mbq_h": arrays["matrix"].tolist(),
    }
    work.save(
        "conclusion",
        {"ledger_dose": ledger.dose_gy, "ledger_bed": ledger.bed_gy},
        {
            "ledger": {k: to_plain(getattr(ledger, k)) for k in LEDGER_FIELDS},
            "proposal": to_plain(proposal),
            "summary": text,
        },
    )


def warnings(posterior: Posterior, product: Product, treated: bool) -> list[str]:
    """What a reader should know beside the findings of the intake."""
    found = []
    if not treated:
        found.append(f"Nothing was given for therapy yet: doses are prospective, for {product.standard_activity_mbq:.0f} MBq.")
    found += [
        f"The model fits {organ} poorly (2J/n = {misfit['two_j'] / misfit['n_obs']:.1f}): read its interval with care."
        for organ, misfit in posterior.diagnostics["misfit_by_organ"].items()
        if misfit["two_j"] > stats.chi2.ppf(1 - MISFIT_PROBABILITY, misfit["n_obs"])
    ]
    return found


def decisive(posterior: Posterior, rung: KineticModel, limited: set[str]) -> dict[str, Any]:
    """Diagnostics that decide on a proposal: the Laplace check counts for organs with a limit only."""
    shift = posterior.diagnostics["linearity_shift_by_region"]
    worst = max((shift.get(r.name, 0.0) for r in rung.regions if r.organ in limited), default=0.0)
    return {**posterior.diagnostics, "linearity_shift_sd": worst}


@dataclass(frozen=True, eq=False)
class LedgerRow:
    """One cycle in the ledger: (names, draws) dose and BED."""

    cycle: int
    given: Administration
    names: tuple[str, ...]
    dose: Any
    bed: Any


def past_rows(site: Site, plan: CyclePlan, rung: KineticModel, posterior: Posterior, start_h: float) -> list[LedgerRow]:
    """Earlier cycles' doses, redrawn given this cycle's draws so that draws are paired over cycles; oldest first."""
    rows: list[LedgerRow] = []
    names, draws, following = tuple(rung.parameters), posterior.draws[:, : len(rung.parameters)], start_h
    treated_decision = plan.decision is None or plan.decision["kind"] != "refused"
    ancestor = plan.parent
    while ancestor is not None:
        state = site.store.load(ancestor)
        earlier = model(state.model, state.summary["ligand"], state.evidence.regions)
        step = transition(earlier, state.cycle, following - state.valid_time_h, treated_decision)
        rng = np.random.default_rng([*seed_of(plan), 4, state.cycle])
        draws = smooth_draws(state.posterior, step, names, draws, rng)
        therapy = [a for a in state.evidence.administrations if a.intent == "therapy"]
        if therapy:
            factors = mass_factor_draws(state.evidence, len(draws), (seed_of(plan)[0], state.cycle))
            tia = earlier.time_integrated_activity(draws, therapy[0])
            dose_gy = ((tia @ dose_matrix(state).T) / factors).T
            g = lea_catcheside_by_region(earlier, draws, therapy[0], site.tissues)
            bed = bed_by_region(earlier.regions, dose_gy, g, site.tissues)
            rows.append(
                LedgerRow(
                    state.cycle,
                    therapy[0],
                    ledger_names(earlier.regions),
                    with_organs(earlier.regions, dose_gy),
                    with_organs(earlier.regions, bed),
                )
            )
        names, following, ancestor = tuple(earlier.parameters), state.valid_time_h, state.parent
        decision = state.identity["decision"]
        treated_decision = decision is None or decision["kind"] != "refused"
    return rows[::-1]


def ledger_of(rows: list[LedgerRow], current: LedgerRow) -> DoseLedger:
    """Rows over the union of their names; a region that a cycle did not have got no dose in it."""
    names = list(current.names)
    for row in rows:
        names += [n for n in row.names if n not in names]
    draws = current.dose.shape[1]
    dose_gy, bed_gy = np.zeros((len(rows), len(names), draws)), np.zeros((len(rows), len(names), draws))
    for k, row in enumerate(rows):
        at = [names.index(n) for n in row.names]
        dose_gy[k, at], bed_gy[k, at] = row.dose, row.bed
    return DoseLedger(
        cycles=tuple(row.cycle for row in rows),
        administrations=tuple(row.given.time_h for row in rows),
        kinds=("retrospective",) * len(rows),
        activities_mbq=tuple(row.given.net_activity_mbq for row in rows),
        regions=tuple(names),
        dose_gy=dose_gy,
        bed_gy=bed_gy,
    )


def outlooks_of(
    site: Site,
    rung: KineticModel,
    theta: Any,
    upcoming: Administration,
    forecast: Any,
    ledger: DoseLedger,
    policy: tuple[Limit, ...],
) -> dict[str, OrganOutlook]:
    """What the next cycle would do to every organ with a limit, paired with what past cycles did."""
    names = ledger_names(rung.regions)
    g = lea_catcheside_by_region(rung, theta, upcoming, site.tissues)
    organ_g = np.nan_to_num(effective_g(rung.regions, forecast[: len(rung.regions)], g))
    return {
        limit.organ: OrganOutlook(
            forecast[names.index(limit.organ)],
            organ_g[names.index(limit.organ)],
            ledger.cumulative(limit.organ, limit.quantity),
        )
        for limit in policy
        if limit.organ in names
    }


def past_labs(site: Site, plan: CyclePlan) -> list[Any]:
    """Laboratory results of earlier cycles, oldest first."""
    found: list[Any] = []
    ancestor = plan.parent
    while ancestor is not None:
        state = site.store.load(ancestor)
        found = [*state.evidence.labs, *found]
        ancestor = state.parent
    return found
