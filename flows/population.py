"""What a site's closed patients teach its population prior: the cohort from the store, the prior, its acceptance.

A patient is closed when its newest state is of a treated cycle and either all planned cycles of its product were given or the
decision that stands is to give no more (`refused`). Others can be named, which is said in nothing but their state ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.priors import prior_after
from flows.site import Site
from storage.population_index import index_populations
from storage.registry import Registry
from storage.twins import now
from tdt_core.assimilation import poorly_fitted, population_prior, state_model, transition, was_treated
from tdt_core.assimilation.hierarchy import factor_of_posterior
from tdt_core.assimilation.learned import LearnedPrior, Taught, learn_population, without_learned
from tdt_core.assimilation.problem import least_gain
from tdt_core.assimilation.process_noise import Chain, link_of
from tdt_core.assimilation.relations import keys_of
from tdt_core.errors import EstimationError, UsageError
from tdt_core.kinetics.ligands import family
from tdt_core.twin import TwinState


@dataclass(frozen=True, eq=False)
class Cohort:
    """What closed patients teach, their courses, and why others were left out: (pseudonym, reason) pairs."""

    taught: tuple[Taught, ...]
    chains: tuple[Chain, ...]
    left_out: tuple[tuple[str, str], ...]


def why_open(site: Site, pid: str) -> str | None:
    """Why a patient is not closed, or None when it is."""
    head = site.store.head(pid)
    if head is None:
        return "no state"
    state = site.store.load(head)
    if not was_treated(state):
        return "no therapy yet"
    decision = site.store.decision(head)
    planned = int(state.identity["settings"]["product"]["planned_cycles"])
    if state.cycle >= planned or (decision is not None and decision.kind == "refused"):
        return None
    return f"cycle {state.cycle} of {planned}, and therapy was not ended"


def cohort(site: Site, model: str, ligand: str, patients: Sequence[str] = ()) -> Cohort:
    """What the closed patients, or the named ones, teach of a rung and a ligand family.

    Raises UsageError for a named patient that is not in the store.
    """
    unknown = sorted(set(patients) - set(site.store.pids()))
    if unknown:
        raise UsageError(
            f"{len(unknown)} of the named patients are not in the store",
            expected="pseudonyms of the store",
            remedy="`tdt twin list` shows them",
            kind="store.unknown",
        )
    taught: list[Taught] = []
    chains: list[Chain] = []
    left_out: list[tuple[str, str]] = []
    for pid in sorted(set(patients)) or site.store.pids():
        reason = None if patients else why_open(site, pid)
        found = None
        states = _chain(site, pid) if reason is None else []
        if reason is None:
            found = teaches(states, model, ligand)
            reason = found if isinstance(found, str) else None
        if reason is not None:
            left_out.append((pid, reason))
        elif isinstance(found, Taught):
            taught.append(found)
            course = course_of(site, states)
            chains += [] if course is None else [course]
    return Cohort(tuple(taught), tuple(chains), tuple(left_out))


def teaches(chain: Sequence[TwinState], model: str, ligand: str) -> Taught | str:
    """What a patient's chain, oldest first, teaches by its first treated cycle, or why it teaches nothing."""
    first = next((i for i, s in enumerate(chain) if was_treated(s)), None)
    if first is None:
        return "no therapy yet"
    state = chain[first]
    if family(state.summary["ligand"]) != ligand:
        return f"treated with {state.summary['ligand']}"
    if {s.model for s in chain[: first + 1]} != {model}:
        return f"fitted with {' and '.join(sorted({s.model for s in chain[: first + 1]}))}"
    if wrong := poorly_fitted(state.posterior.diagnostics):
        return f"the model fits {', '.join(sorted(wrong))} poorly"
    rung = state_model(state)
    plain, prior, n = without_learned(rung), population_prior(rung), len(rung.parameters)
    found = state.posterior
    least = least_gain(found.diagnostics)
    factor = factor_of_posterior(state.pid, rung, prior, found.mean[:n], found.covariance[:n, :n], plain, least)
    return Taught(factor, plain, state.id)


def course_of(site: Site, states: Sequence[TwinState]) -> Chain | None:
    """A patient's treated cycles, oldest first, as a chain over the parameters that all have; None for fewer than two.

    The first cycle's rung tells which others count: a course goes on as long as it was fitted with the same one.
    """
    treated = [i for i, s in enumerate(states) if was_treated(s)]
    treated = [i for i in treated if states[i].model == states[treated[0]].model]
    if len(treated) < 2 or treated != list(range(treated[0], treated[-1] + 1)):
        return None
    rungs = [state_model(states[i]) for i in treated]
    names = [n for n in rungs[0].parameters if all(n in r.parameters for r in rungs)]
    links, first = [], None
    for k, i in enumerate(treated):
        state, own = states[i], list(rungs[k].parameters)
        before = states[i - 1] if i else None
        prior = prior_after(site.store, state.identity["settings"], before, rungs[k], state.valid_time_h)
        keep, n = [own.index(x) for x in names], len(own)
        first = first or (prior.mean[keep], prior.covariance[np.ix_(keep, keep)])
        onward = None
        if k + 1 < len(treated):
            onward = transition(
                without_learned(rungs[k]), state.cycle, states[i + 1].valid_time_h - state.valid_time_h, treated=True
            )
        found = state.posterior
        links.append(link_of(prior, found.mean[:n], found.covariance[:n, :n], keep, onward, least_gain(found.diagnostics)))
    if first is None:
        return None
    keys = dict(zip(rungs[0].parameters, keys_of(rungs[0]), strict=True))
    return Chain(states[0].pid, tuple(keys[x] for x in names), *first, tuple(links))


def learn_from(
    site: Site, by: str, model: str, ligand: str, patients: Sequence[str] = (), kept_apart: Sequence[str] = ()
) -> tuple[LearnedPrior, Cohort]:
    """Learn a prior from closed (or the named) patients and keep it with its verdict; it is not used before it is accepted.

    kept_apart : pseudonyms of patients that nothing is learned from and that must not be predicted worse.
    """
    if both := set(patients) & set(kept_apart):
        raise EstimationError(f"{len(both)} patients both to learn from and kept apart", kind="estimation.cohort")
    found = cohort(site, model, ligand, patients)
    trusted = cohort(site, model, ligand, kept_apart).taught if kept_apart else ()
    names = {t.factor.patient for t in trusted}
    used = tuple(t for t in found.taught if t.factor.patient not in names)
    courses = tuple(c for c in found.chains if c.patient not in names)
    standing = next((x for x in site.populations.accepted() if (x.model, x.ligand) == (model, ligand)), None)
    prior = learn_population(used, standing=standing, trusted=trusted, chains=courses)
    site.populations.put(prior, by=by, time=now())
    index(site)
    return prior, Cohort(used, courses, found.left_out)


def accept(site: Site, version: str, by: str, reason: str) -> LearnedPrior:
    """Use a version for new patients."""
    prior = site.populations.accept(version, by=by, reason=reason, time=now())
    index(site)
    return prior


def withdraw(site: Site, by: str, reason: str) -> tuple[str, ...]:
    """Go back to the packaged prior for new patients."""
    gone = site.populations.withdraw(by=by, reason=reason, time=now())
    index(site)
    return gone


def index(site: Site) -> None:
    """Tell MLflow what the store says of population priors."""
    index_populations(site.populations, Registry(site.home, site.settings.mlflow_uri or None))


def told(site: Site, prior: LearnedPrior) -> dict[str, Any]:
    """A version as plain JSON: its scope, verdict, what became of it, and by key the shift in packaged sds and the spread."""
    hyper = prior.hyper
    return {
        "version": prior.version,
        "model": prior.model,
        "ligand": prior.ligand,
        "parent": prior.parent,
        "patients": prior.patients,
        "accepted": prior.version in {x.version for x in site.populations.accepted()},
        "gate": prior.plain()["gate"],
        "strength": prior.plain()["strength"],
        "learned": [
            {"key": k, "shift_sd": float(m), "spread_ratio": float(v**0.5), "packaged_sd": prior.sd[k]}
            for k, m, v in zip(hyper.keys, hyper.shift, hyper.variance, strict=True)
        ],
        "noise": dict(prior.noise),
        "noise_reason": prior.noise_reason,
        "events": [
            {k: e[k] for k in ("event", "time", "by", "reason") if k in e} for e in site.populations.events(prior.version)
        ],
    }


def _chain(site: Site, pid: str) -> list[TwinState]:
    return [site.store.load(info.id) for info in reversed(site.store.log(pid))]
