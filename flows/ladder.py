"""`tdt ladder`: the evidence of a state fitted by every rung, told as plain JSON. Nothing is written; the state stays as it is.

Every rung starts from its own population prior, whatever the state's chain learned before, so that all start alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.steps import therapy_of
from flows.truth import KINDS
from storage.twins import TwinStore
from tdt_core.assimilation.candidates import Candidate, climb
from tdt_core.assimilation.selection import Basis, weigh
from tdt_core.codec import from_plain
from tdt_core.draws import summarised
from tdt_core.errors import InputError, UsageError
from tdt_core.kinetics import KineticModel, covariates_of, rung_for, rungs, shifts
from tdt_core.kinetics.daughters import daughters_of
from tdt_core.kinetics.progeny import FollowsDaughters
from tdt_core.nuclides import decays_per_parent_decay
from tdt_core.twin import Administration, Product, Region, TwinState

LADDER = 17  # stream of random numbers, see tdt_core.planning.forecast
WORST = 3
FloatArray = npt.NDArray[np.float64]


def find(store: TwinStore, name: str) -> str:
    """State id of a state, or of a patient's newest state. Raises UsageError for neither."""
    if name not in store.pids():
        return store.find(name)
    head = store.head(name)
    if head is None:
        raise UsageError(
            "the patient has no state", expected="a patient with one", remedy="`tdt run FOLDER` makes one", kind="store.unknown"
        )
    return head


def asked_for(state: TwinState) -> tuple[Administration, str]:
    """The administration to integrate, and the ligand: the cycle's therapy, before the first one the product's standard."""
    if any(a.intent == "therapy" for a in state.evidence.administrations):
        given = state.evidence.therapy()
        return given, given.ligand
    product = from_plain(Product, state.identity["settings"]["product"])
    return therapy_of(state.evidence, product), product.ligand


def ladder(state: TwinState, names: Sequence[str] = (), basis: Basis = "evidence", n_draws: int = 500) -> dict[str, Any]:
    """The table of `tdt ladder` for a state.

    Parameters
    ----------
    names : rungs to fit; none means every registered one.

    Raises
    ------
    InputError : the state's evidence holds no activity. UsageError : an unknown rung.
    """
    if not state.evidence.activities:
        raise InputError(
            f"cycle {state.cycle} brought no region activity",
            expected="at least one scan",
            remedy="name a state whose cycle has images",
            kind="input.cycle",
        )
    unknown = [n for n in names if n not in rungs()]
    if unknown:
        known = ", ".join(sorted(rungs()))
        raise UsageError(f"no kinetic model named {unknown[0]!r}", expected=f"one of {known}", kind="model.name")
    given, ligand = asked_for(state)
    seed = (int(state.identity.get("root_seed", 0)), state.cycle, LADDER)
    found = climb(names or rungs(), ligand, state.evidence, given, basis=basis, seed=seed, n_draws=n_draws, clock=perf_counter)
    regions = state.evidence.regions
    scores = {name: c.score for name, c in found.candidates.items()}
    defined = {name: s for name, s in scores.items() if s.aicc is not None}
    akaike = weigh(defined, "aicc").by_rung if defined else {}
    patient = covariates_of(state.evidence)
    models = {name: rung_for(name, ligand, regions, patient) for name in found.candidates}
    return {
        "state": state.id,
        "pid": state.pid,
        "cycle": state.cycle,
        "model": state.model,
        "product": given.product,
        "activity_mbq": given.net_activity_mbq,
        "rungs": [
            row(name, c, found.weights.by_rung[name], akaike.get(name), regions)
            | {"follows_daughters": isinstance(models[name], FollowsDaughters)}
            | {"daughter_tia_mbq_h": daughter_tia(models[name], c, given, regions)}
            for name, c in found.candidates.items()
        ],
        "nuclide": given.nuclide,
        "daughters": list(daughters_of(given.nuclide)),
        "refused": [{"rung": name, "reason": reason} for name, reason in found.refused.items()],
        "weights": {"basis": found.weights.basis, "reason": found.weights.reason},
        "average": tia(found.tia_mbq_h, regions),
    }


def row(name: str, candidate: Candidate, weight: float, akaike: float | None, regions: Sequence[Region]) -> dict[str, Any]:
    """One rung of the table."""
    score = candidate.score
    return {
        "rung": name,
        "parameters": score.n_parameters,
        "effective_parameters": score.effective_parameters,
        "data": score.n_data,
        "outliers": score.n_outliers,
        "seconds": candidate.seconds,
        "gradients": candidate.gradients,
        "minus_two_log_likelihood": score.minus_two_log_likelihood,
        "two_j_per_n": candidate.posterior.diagnostics["two_j_per_n"],
        "aicc": score.aicc,
        "aicc_effective": score.aicc_effective,
        "akaike_weight": akaike,
        "log_evidence": score.log_evidence,
        "log_left_out": score.log_left_out,
        "weight": weight,
        "passing_parameters": sum(p.passes for p in score.identified),
        "worst_identified": [
            {
                "name": p.name,
                "cv": p.cv,
                "shrinkage": p.shrinkage,
                "correlation": p.correlation,
                "with": p.partner,
            }
            for p in score.identified[:WORST]
        ],
        "tia_mbq_h": tia(candidate.tia_mbq_h, regions),
    }


def daughter_tia(
    rung: KineticModel, candidate: Candidate, given: Administration, regions: Sequence[Region]
) -> dict[str, dict[str, dict[str, float]]]:
    """Followed daughter -> its time-integrated activity (MBq h) by kind of organ and by region, summarised."""
    theta = candidate.posterior.draws[:, : len(rung.parameters)]
    born = decays_per_parent_decay(given.nuclide)
    return {s.daughter: tia(born[s.daughter] * candidate.tia_mbq_h + s.tia_mbq_h, regions) for s in shifts(rung, theta, given)}


def about_daughters(told: Mapping[str, Any]) -> list[str]:
    """Which rungs are the step `+ daughters` of the ladder. Data see the parent, so it changes dose and no score."""
    follow = [r["rung"] for r in told["rungs"] if r["follows_daughters"]]
    if not follow:
        return []
    what = ", ".join(told["daughters"])
    means = f" of {told['nuclide']}: {what}" if what else f"; {told['nuclide']} has none that leave, so dose is the same"
    return [f"+ daughters: {', '.join(follow)} also follow daughters off the ligand{means}; scores are the same"]


def tia(draws: FloatArray, regions: Sequence[Region]) -> dict[str, dict[str, float]]:
    """Time-integrated activity (MBq h) of (draws, regions) by kind of organ and by region, summarised."""
    return {name: summarised(values) for name, values in grouped(draws, regions).items()}


def grouped(draws: FloatArray, regions: Sequence[Region]) -> Mapping[str, FloatArray]:
    """kidneys, glands and lesions as sums over their regions, then every region: (draws,) each."""
    out: dict[str, FloatArray] = {}
    for kind, organs in KINDS.items():
        members = [i for i, r in enumerate(regions) if r.organ in organs]
        if members:
            out[kind] = np.asarray(draws[:, members].sum(axis=1))
    return out | {r.name: draws[:, i] for i, r in enumerate(regions)}


def lines(told: Mapping[str, Any]) -> tuple[list[Sequence[str]], list[Sequence[str]], list[str]]:
    """Rows of the two tables for a person, scores and time-integrated activity, and the remarks under them."""
    scores: list[Sequence[str]] = [
        (
            r["rung"],
            f"{r['parameters']} ({r['effective_parameters']:.1f})",
            f"{r['data']}" + (f", {r['outliers']} out" if r["outliers"] else ""),
            f"{r['seconds']:.2f}",
            f"{r['minus_two_log_likelihood']:.1f}",
            _number(r["aicc"]),
            _share(r["akaike_weight"]),
            f"{r['log_evidence']:.1f}",
            f"{r['log_left_out']:.1f}",
            _share(r["weight"]),
            f"{r['passing_parameters']} of {r['parameters']}",
            ", ".join(f"{p['name']} ({p['shrinkage']:.0%})" for p in r["worst_identified"]),
        )
        for r in told["rungs"]
    ]
    kinds = [k for k in KINDS if k in told["average"]]
    amounts: list[Sequence[str]] = [
        (name, *(_interval(values[k]) for k in kinds))
        for name, values in [*((r["rung"], r["tia_mbq_h"]) for r in told["rungs"]), ("average", told["average"])]
    ]
    basis = {"aicc": "AICc", "evidence": "the evidence", "left_out": "the left-out density"}[told["weights"]["basis"]]
    remarks = [f"weights by {basis}" + (f": {told['weights']['reason']}" if told["weights"]["reason"] else "")]
    remarks += about_daughters(told)
    remarks += [f"{r['rung']} refused: {r['reason']}" for r in told["refused"]]
    return scores, amounts, remarks


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.1f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(s: Mapping[str, float]) -> str:
    return f"{s['q50']:.0f} ({s['q05']:.0f} to {s['q95']:.0f})"
