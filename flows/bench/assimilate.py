"""`tdt bench assimilate`: are the intervals right? Virtual patients of the fitting rung itself, over a PET and four cycles.

A patient's parameters are drawn from the population prior and drift by the rung's own transition; its images err as the
estimator believes. So 90 % intervals must cover 90 %, and ranks of the truth among posterior draws must be uniform; what is
left is the error of the estimator (Laplace, local optima, a Gaussian handed from cycle to cycle). `misfit` breaks one
assumption:

    rung         parameters and curves of another rung (`truth_rung`)
    calibration  every therapy scan 20 % high, four times what the camera's record says
    shifted      the second scan of every cycle was done 12 h later than its record says
    trend        uptake of kidneys and glands falls by 20 % per cycle, which the transition does not know

Quantities are absorbed doses: of the cycle's therapy, at the PET of the standard activity to come.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from flows.bench.resumable import by_patient
from flows.bench.virtual import QUANTITIES, drawn, told_of
from tdt_core.assimilation import Cycle, Prior, assimilate, next_prior, population_prior, smooth, transition
from tdt_core.assimilation.experiment import ranks, simulated
from tdt_core.assimilation.inflation import inflation, innovation
from tdt_core.assimilation.predictive import unexpected
from tdt_core.errors import EstimationError, TwinError, UsageError
from tdt_core.kinetics import UPTAKE, KineticModel
from tdt_core.parameters import packaged_table
from tdt_core.planning import limits, objections
from tdt_core.twin import Evidence, Posterior

FloatArray = npt.NDArray[np.float64]

SHORT = {"reduced_body": "reduced"}
RANKS, BINS = 99, 20
EXPECTED_IN_BIN = 5
"""Least expected number per bin of a chi-square test."""
ABOUT = {
    "coverage90": "share of 90 % intervals of absorbed dose that hold the truth",
    "halfwidth90_median": "half of the 90 % interval of absorbed dose over its median, median",
    "crps": "mean CRPS of forecasts of the next cycle's absorbed dose, over the truth",
    "ranks": f"chi-square test of ranks of the truth among draws in {BINS} bins, from {EXPECTED_IN_BIN * BINS} patients on",
}
MISFITS = ("none", "rung", "calibration", "shifted", "trend")
FILTER_SHIFT_SD, FILTER_SD = 0.2, 0.15
"""How near the filter must be to the fit of all cycles: shift of the mean in sd, relative difference of the sd."""
TRUTH, ERRORS, FIT = 31, 32, 33  # streams of random numbers


def run(
    n: int = 8,
    seed: int = 1,
    rungs: str = "reduced_body,whole_body",
    cycles: int = 4,
    draws: int = 500,
    estimator: str = "map",
    misfit: str = "none",
    truth_rung: str = "",
    smoothed: int = 100,
    processes: int = 1,
    folder: str | None = None,
    adaptive: int = 0,
) -> dict[str, Any]:
    """Named figures of `n` virtual patients with seeds `seed * 100000 + i`, by rung; those of the last one without prefix.

    The first `smoothed` of them are also fitted over all cycles at once, with the default estimator: that takes as long as all
    else together. With `adaptive` 1 the drift widens after two surprising cycles, as with the setting `adaptive_inflation`.
    """
    names = tuple(x.strip() for x in rungs.split(",") if x.strip())
    if n < 1 or cycles < 1 or draws < RANKS or not names or adaptive not in (0, 1):
        raise UsageError(
            f"{n} patients, {cycles} cycles, {draws} draws, rungs {rungs!r}, adaptive {adaptive}",
            expected=f"at least one patient, cycle and rung, {RANKS} draws, adaptive 0 or 1",
            kind="usage.bench",
        )
    if misfit not in MISFITS or (misfit == "rung") != bool(truth_rung):
        raise UsageError(
            f"misfit {misfit!r} with truth rung {truth_rung!r}",
            expected=f"one of {', '.join(MISFITS)}; a truth rung with, and only with, misfit rung",
            kind="usage.bench",
        )
    told: dict[str, Any] = {"update_seconds": {}}
    about = f"{estimator}-adaptive" if adaptive else estimator
    for name in names:
        arguments = {
            f"{name}-{truth_rung or name}-{misfit}-{about}-{cycles}-{draws}-{i < smoothed:d}-{seed * 100_000 + i}": (
                seed * 100_000 + i,
                name,
                truth_rung or name,
                misfit,
                estimator,
                cycles,
                draws,
                i < smoothed,
                bool(adaptive),
            )
            for i in range(n)
        }
        found = figures(by_patient(one_patient, arguments, processes, folder))
        told["update_seconds"][SHORT.get(name, name)] = found.pop("update_seconds")
        told |= found if name == names[-1] else {SHORT.get(name, name): found}
    return told | {"about": ABOUT, "n": n, "seed": seed, "misfit": misfit, "estimator": estimator, "rungs": names}


def one_patient(*arguments: Any) -> dict[str, Any]:
    """`course` of one virtual patient, or the reason why a fit was refused."""
    try:
        return course(*arguments)
    except (TwinError, np.linalg.LinAlgError) as error:
        return {"seed": arguments[0], "failed": str(error)}


def course(
    seed: int,
    name: str,
    truth_rung: str,
    misfit: str,
    estimator: str,
    cycles: int,
    draws: int,
    smoothed: bool,
    adaptive: bool,
    work: Path,
) -> dict[str, Any]:
    """The course of one virtual patient: rows by cycle and quantity, ranks of a first cycle without a PET, seconds."""
    rng, errors = np.random.default_rng([seed, TRUTH]), np.random.default_rng([seed, ERRORS])
    virtual = drawn(seed, rng)
    rung, true_rung = virtual.rung(name), virtual.rung(truth_rung)
    theta = population_prior(true_rung).draws(1, rng)[0]

    def fitted(prior: Prior, evidence: Evidence) -> tuple[Posterior, dict[str, FloatArray], float]:
        started = time.perf_counter()
        posterior = assimilate(prior, evidence, rung, estimator, seed=(seed, FIT, evidence.cycle), n_draws=draws)
        seconds = time.perf_counter() - started
        return posterior, virtual.dose(rung, posterior.draws[:, : len(prior.names)], evidence.cycle), seconds

    limited = {x.organ for x in limits()}
    population = population_prior(rung)
    unknowing = virtual.dose(rung, population.draws(draws, np.random.default_rng([seed, FIT, 300])), 1)
    rows: list[dict[str, Any]] = []
    out: dict[str, Any] = {"seed": seed, "seconds": [], "alarms": [], "surprised": [], "refused": []}
    prior, found = population, unknowing
    past: list[Cycle] = []
    filtered: list[Posterior] = []
    innovations: list[tuple[float, int]] = []  # of cycles that a treated one predicted
    for cycle in range(cycles + 1):
        evidence = _broken(simulated(virtual.plan(cycle), true_rung, theta, errors), misfit)
        if cycle == 1:
            posterior, doses, _ = fitted(population, evidence)
            out["ranks"] = _ranks(rung, posterior, doses, theta, virtual.dose(true_rung, theta, 1), name == truth_rung)
        truth = {q: float(d[0]) for q, d in virtual.dose(true_rung, theta, cycle).items()}
        if cycle > 1:
            ahead = virtual.dose(rung, prior.draws(draws, np.random.default_rng([seed, FIT, 100 + cycle])), cycle)
            for what, predicted in (("forecast", ahead), ("carry_forward", found), ("population", unknowing)):
                rows += [told_of(q, truth[q], predicted[q]) | {"cycle": cycle, "what": what} for q in QUANTITIES]
        posterior, found, seconds = fitted(prior, evidence)
        rows += [told_of(q, truth[q], found[q]) | {"cycle": cycle, "what": "posterior"} for q in QUANTITIES]
        said = posterior.diagnostics
        out["alarms"].append(unexpected(said))
        if cycle > 1:
            innovations.append(innovation(posterior))
        out["surprised"].append(bool(said["predictive"]["extreme"]))
        out["refused"].append(bool(objections(said, posterior.fit_report, rung.regions, limited)))
        if cycle:
            out["seconds"].append(seconds)
        interval = virtual.product.interval_h if cycle else 0.0
        step = transition(rung, cycle, interval, treated=cycle > 0).widened(inflation(innovations) if adaptive else 1.0)
        prior = next_prior(posterior, step, f"cycle {cycle}")
        past.append(Cycle(rung, evidence, step))
        filtered.append(posterior)
        theta = transition(true_rung, cycle, interval, treated=cycle > 0).draws(theta[None], rng)[0]
        if misfit == "trend" and cycle:
            theta = theta + _trend(true_rung)
    if estimator == "map" and smoothed:
        # parameters of the last cycle by all cycles at once, against the filter's
        started = time.perf_counter()
        together = smooth(population, past, filtered).moved((seed, FIT, 201))
        out["smoother_seconds"] = time.perf_counter() - started
        theta_joint = together.draws(draws, np.random.default_rng([seed, FIT, 200]))[-1]
        joint = virtual.dose(rung, theta_joint, cycles)
        rows += [told_of(q, truth[q], joint[q]) | {"cycle": cycles, "what": "smoother"} for q in QUANTITIES]
        out["filter_shift_sd"], out["filter_sd_ratio"] = {}, {}
        for q in QUANTITIES:
            by_filter, by_all = np.log(found[q]), np.log(joint[q])
            out["filter_shift_sd"][q] = float((by_filter.mean() - by_all.mean()) / by_all.std())
            out["filter_sd_ratio"][q] = float(by_filter.std() / by_all.std())
    return out | {"rows": rows}


def _broken(evidence: Evidence, misfit: str) -> Evidence:
    """The evidence of a therapy cycle with one assumption broken."""
    if not evidence.cycle or misfit in ("none", "rung", "trend"):
        return evidence
    table = packaged_table("misfit.csv")
    if misfit == "calibration":
        factor = 1.0 + table.value("calibration")
        return replace(
            evidence, activities=tuple(replace(a, activity_mbq=a.activity_mbq * factor) for a in evidence.activities)
        )
    second = sorted({a.time_h for a in evidence.activities})[1]
    early = table.value("shift")
    return replace(
        evidence,
        activities=tuple(replace(a, time_h=a.time_h - early) if a.time_h == second else a for a in evidence.activities),
    )


def _trend(rung: KineticModel) -> FloatArray:
    """ln change of parameters per cycle that no transition knows."""
    fall = np.log(1.0 - packaged_table("misfit.csv").value("trend"))
    organ = {r.name: r.organ for r in rung.regions}
    falling = [
        quantity in UPTAKE and organ.get(region, "") in ("kidneys", "parotid_glands", "submandibular_glands")
        for region, _, quantity in (name.rpartition(".") for name in rung.parameters)
    ]
    return np.where(falling, fall, 0.0)


def _ranks(
    rung: KineticModel,
    posterior: Posterior,
    found: Mapping[str, FloatArray],
    theta: FloatArray,
    true: Mapping[str, FloatArray],
    same: bool,
) -> dict[str, int]:
    """Ranks of parameters, where both rungs have the same, and of doses."""
    names = list(rung.parameters) if same else []
    truth = {n: float(t) for n, t in zip(names, theta, strict=False)} | {f"dose.{q}": float(d[0]) for q, d in true.items()}
    drawn_ = {n: posterior.draws[:, i] for i, n in enumerate(names)} | {f"dose.{q}": d for q, d in found.items()}
    return ranks(truth, drawn_, RANKS)


def figures(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Coverage, half-widths, scores of forecasts, uniformity of ranks, alarms, refusals and seconds of one rung."""
    failed = [r["failed"] for r in results if "failed" in r]
    results = [r for r in results if "failed" not in r]
    if not results:
        raise EstimationError(f"none of {len(failed)} courses could be fitted: {failed[0]}", kind="estimation.diverged")
    rows = [row for r in results for row in r["rows"]]
    cycles = sorted({row["cycle"] for row in rows})

    def of(key: str, **wanted: Any) -> FloatArray:
        return np.array([row[key] for row in rows if all(row[k] == v for k, v in wanted.items())], dtype=float)

    told: dict[str, Any] = {"update_seconds": float(np.median([s for r in results for s in r["seconds"]]))}
    told["coverage90"] = {
        q: {f"c{c}": float(of("covered", quantity=q, cycle=c, what="posterior").mean()) for c in cycles} for q in QUANTITIES
    }
    told["coverage90"]["pooled"] = float(of("covered", what="posterior").mean())
    told["halfwidth90_median"] = {
        q: {f"c{c}": float(np.median(of("half_width", quantity=q, cycle=c, what="posterior"))) for c in cycles}
        for q in QUANTITIES
    }
    scored = {"twin": "forecast", "population": "population", "carry_forward": "carry_forward"}
    told["crps"] = (
        {
            who: {q: float(of("crps", quantity=q, what=what).mean()) for q in ("kidneys", "tumours")}
            for who, what in scored.items()
        }
        if max(cycles) > 1
        else {}
    )
    told["forecast_coverage90"] = (
        {q: float(of("covered", quantity=q, what="forecast").mean()) for q in QUANTITIES} if max(cycles) > 1 else {}
    )
    if compared := [r for r in results if "filter_shift_sd" in r]:
        shift, ratio = ([r[key][q] for r in compared for q in QUANTITIES] for key in ("filter_shift_sd", "filter_sd_ratio"))
        near = (np.abs(shift) < FILTER_SHIFT_SD) & (np.abs(np.array(ratio) - 1.0) < FILTER_SD)
        told["smoother"] = {
            "coverage90": {q: float(of("covered", quantity=q, what="smoother").mean()) for q in QUANTITIES},
            "filter_within": float(near.mean()),
            "shift_sd_95": float(np.quantile(np.abs(shift), 0.95)),
            "sd_ratio_05_95": np.quantile(ratio, (0.05, 0.95)).tolist(),
            "seconds": float(np.median([r["smoother_seconds"] for r in compared])),
        }
    told["failed"], told["failures"] = len(failed), sorted(set(failed))[:5]
    told["alarm_share"] = [float(x) for x in np.mean([r["alarms"] for r in results], axis=0)]
    if looked := [r["surprised"] for r in results if "surprised" in r]:
        told["surprised_share"] = [float(x) for x in np.mean(looked, axis=0)]
    told["refused_share"] = [float(x) for x in np.mean([r["refused"] for r in results], axis=0)]
    told["ranks"] = uniformity([r["ranks"] for r in results])
    return told


def uniformity(found: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    """Chi-square test of every quantity's ranks in `BINS` bins: the least p, and that times the number of quantities.

    With fewer than `EXPECTED_IN_BIN` expected in a bin there is no p, and the reason instead.
    """
    if len(found) < EXPECTED_IN_BIN * BINS:
        reason = f"{len(found)} patients: {BINS} bins need {EXPECTED_IN_BIN * BINS}, {EXPECTED_IN_BIN} expected in each"
        return {"quantities": len(found[0]), "least_p": None, "least_p_bonferroni": None, "reason": reason}
    p = {}
    for name in found[0]:
        counts = np.bincount([r[name] * BINS // (RANKS + 1) for r in found], minlength=BINS)
        p[name] = float(stats.chisquare(counts).pvalue)
    worst = sorted(p, key=lambda n: p[n])[:5]
    return {
        "quantities": len(p),
        "least_p": p[worst[0]],
        "least_p_bonferroni": min(1.0, p[worst[0]] * len(p)),
        "worst": {n: p[n] for n in worst},
        "doses": {n: p[n] for n in p if n.startswith("dose.")},
    }


def describe(told: Mapping[str, Any]) -> str:
    """The table for the terminal."""
    lines = [f"{told['n']} virtual patients, seed {told['seed']}, estimator {told['estimator']}, misfit {told['misfit']}"]
    if told["failed"]:
        lines.append(f"{told['failed']} courses failed and are in no figure: {'; '.join(told['failures'])}")
    lines.append(f"covered: {ABOUT['coverage90']}; half-width: {ABOUT['halfwidth90_median']}; CRPS: {ABOUT['crps']}")
    for name in told["rungs"]:
        short = SHORT.get(name, name)
        mine = told.get(short, told)
        lines.append(
            f"{name}: {told['update_seconds'][short]:.2f} s per update; pooled coverage {mine['coverage90']['pooled']:.3f}"
        )
        for q in QUANTITIES:
            cells = [
                f"{c} {mine['coverage90'][q][c]:.3f} ±{mine['halfwidth90_median'][q][c]:.0%}" for c in mine["coverage90"][q]
            ]
            lines.append(f"  {q:<9} covered, half-width: " + "   ".join(cells))
        for who, by in mine["crps"].items():
            lines.append(f"  CRPS of the next cycle's dose, {who}: " + ", ".join(f"{q} {v:.4f}" for q, v in by.items()))
        if "smoother" in mine:
            s = mine["smoother"]
            lines.append(
                f"  filter within {FILTER_SHIFT_SD} sd and {FILTER_SD:.0%} of the fit of all cycles in {s['filter_within']:.1%}"
                f" of doses; it takes {s['seconds']:.2f} s"
            )
        ranks_ = mine["ranks"]
        test = (
            f"no test ({ranks_['reason']})"
            if ranks_["least_p"] is None
            else f"least p {ranks_['least_p']:.3g}, times their number {ranks_['least_p_bonferroni']:.3g}"
        )
        lines.append(f"  ranks of {ranks_['quantities']} quantities: {test}")
        lines.append(
            "  alarms by cycle "
            + ", ".join(f"{x:.2f}" for x in mine["alarm_share"])
            + "; extreme predictive checks "
            + ", ".join(f"{x:.2f}" for x in mine.get("surprised_share", []))
            + "; abstentions "
            + ", ".join(f"{x:.2f}" for x in mine["refused_share"])
        )
    return "\n".join(lines)
