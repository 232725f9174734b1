"""`assimilate`: one call from prior, evidence and model to a posterior with its diagnostics, for any registered estimator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.assimilation.cluster import cluster_gauss_newton
from tdt_core.assimilation.conventional import differential_evolution, least_squares, simulated_annealing
from tdt_core.assimilation.ensemble import es_mda, ies
from tdt_core.assimilation.map_laplace import STARTS, fit_map, map_posterior
from tdt_core.assimilation.markov import mcmc
from tdt_core.assimilation.network import available, couplings, network
from tdt_core.assimilation.predictive import predictive_checks, surprise
from tdt_core.assimilation.problem import Prior, Problem, build_problem
from tdt_core.assimilation.target import Fit, Target, check_solved, draws_of
from tdt_core.assimilation.tempered import smc
from tdt_core.errors import EstimationError
from tdt_core.kinetics import KineticModel
from tdt_core.parameters import packaged_table
from tdt_core.reproducible import one_blas_thread
from tdt_core.twin import Evidence, Posterior

FloatArray = npt.NDArray[np.float64]
Estimator = Callable[..., Fit]
"""`estimator(target, rng, **options)`."""

PRIOR = 61  # stream of random numbers, after those of the fit
OUTLIER_PASSES = 3
"""Refits with one more outlier a region; more would fit a wrong model by calling its data wrong. Assumed."""
ROUNDING = 1e-9
"""A spread of ln activity below this is none: what is left of it is rounding, and no shift is measured by it."""

_ESTIMATORS: dict[str, Estimator] = {
    "map": map_posterior,
    "es_mda": es_mda,
    "ies": ies,
    "smc": smc,
    "mcmc": mcmc,
    "cluster_gauss_newton": cluster_gauss_newton,
    "least_squares": least_squares,
    "differential_evolution": differential_evolution,
    "simulated_annealing": simulated_annealing,
}
if available():  # an optional extra
    _ESTIMATORS["network"] = network


def register(name: str, estimator: Estimator) -> None:
    """Add an estimator under a name."""
    _ESTIMATORS[name] = estimator


def estimators() -> tuple[str, ...]:
    """Names of the registered estimators."""
    return tuple(_ESTIMATORS)


@one_blas_thread
def assimilate(
    prior: Prior,
    evidence: Evidence,
    model: KineticModel,
    estimator: str = "map",
    *,
    seed: tuple[int, ...] = (0,),
    n_draws: int = 500,
    options: Mapping[str, Any] | None = None,
) -> Posterior:
    """Update the prior with one cycle's evidence.

    Parameters
    ----------
    prior : over the parameters of `model`, in its order.
    evidence : administrations, region activities and samples of one cycle.
    estimator : one of `estimators()`.
    seed : entropy of the random generator, `(root, cycle)`.
    n_draws : draws of the posterior.
    options : settings of the estimator by name, such as `members`; `starts` of the search for the optimum.

    Returns
    -------
    Posterior over model parameters and nuisances (`names` beyond the model's are nuisances, reset in every cycle).

    Raises
    ------
    EstimationError : no such estimator, a prior over other parameters, no start with a finite objective, or no solution of the
        model in too many draws.
    ModelError : the model has no solution at the prior mean.
    InputError : a datum before any administration of its nuclide.

    Notes
    -----
    A datum whose standardised residual at the MAP exceeds `outlier.sigma` is marked, its error widened by that residual, and
    the fit repeated: never dropped silently. Every estimator then works with these errors. Evidence without usable activities
    leaves the prior.
    """
    if estimator == "network":
        couplings()  # says what to install, before anything is computed
    if estimator not in _ESTIMATORS:
        raise EstimationError(f"no estimator named {estimator!r}", expected=f"one of {sorted(_ESTIMATORS)}")
    problem = build_problem(prior, evidence, model)
    rng = np.random.default_rng(list(seed))
    given = dict(options or {})
    best, target, outlier = _fit_robustly(problem, rng, given.pop("starts", STARTS))
    target = replace(target, best=best, draws=n_draws)
    fit = _ESTIMATORS[estimator](target, rng, **given)
    draws, predicted, lost = solved_draws(target, fit, n_draws, rng)
    expected = problem.predict(problem.mean)[0], problem.jacobian(problem.mean) @ problem.factor
    checks, by_datum = predictive_checks(problem, fit, target.sd, predicted)
    return Posterior(
        names=problem.names,
        mean=fit.theta,
        cholesky=fit.cholesky,
        draws=draws,
        model=model.name,
        diagnostics={
            **_diagnostics(problem, fit, draws, model, evidence, int(outlier.sum()), expected),
            "predictive": checks,
            "innovation_p": surprise(Target(problem, problem.sd), np.random.default_rng([*seed, PRIOR])),
            "estimator": {"draws_without_solution": lost, **fit.notes, "solves": target.solves[0]},
        },
        fit_report=_fit_report(problem, fit, predicted, target.sd, outlier, expected, by_datum),
    )


def _fit_robustly(problem: Problem, rng: np.random.Generator, starts: int) -> tuple[Fit, Target, npt.NDArray[np.bool_]]:
    """The optimum: fit, widen each region's worst outlier by its residual, refit: one a region and pass, since a gross error
    drags the curve away from its neighbours and makes them look wrong too."""
    threshold = packaged_table("assimilation.csv").value("outlier.sigma")
    regions = np.array([d.name for d in problem.data])
    target = Target(problem, problem.sd)
    outlier = np.zeros(problem.y.size, dtype=np.bool_)
    fit = fit_map(target, rng, starts)
    for _ in range(OUTLIER_PASSES):
        residual = np.abs(fit.residual * target.sd / problem.sd)
        suspect = (residual > threshold) & ~outlier
        if not suspect.any():
            break
        for region in np.unique(regions[suspect]):
            members = np.flatnonzero(suspect & (regions == region))
            outlier[members[np.argmax(residual[members])]] = True
        wider = np.where(outlier, problem.sd * np.maximum(residual, threshold), problem.sd)
        target = Target(problem, wider, target.solves)
        fit = fit_map(target, rng, starts)
    return fit, target, outlier


def solved_draws(target: Target, fit: Fit, count: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, int]:
    """Draws in which the model has a solution, their predicted data, and how many had none and were drawn again.

    Raises EstimationError when more than `UNSOLVED` of them have none: then the posterior says little about the model.
    """
    draws, lost = draws_of(fit, count, rng), 0
    predicted = target.predicted(draws)
    while (bad := np.isnan(predicted).any(axis=1)).any():
        lost += int(bad.sum())
        check_solved(lost, count)
        draws[bad] = draws_of(fit, int(bad.sum()), rng)
        predicted[bad] = target.predicted(draws[bad])
    return draws, predicted, lost


def _diagnostics(
    problem: Problem,
    fit: Fit,
    draws: FloatArray,
    model: KineticModel,
    evidence: Evidence,
    outliers: int,
    expected: tuple[FloatArray, FloatArray],
) -> dict[str, Any]:
    """Plain numbers of the fit; `expected` is the data (d,) at the prior mean and its white gradient (d, p) there."""
    d = problem.y.size
    two_j = float(fit.residual @ fit.residual + fit.z @ fit.z)
    information = np.linalg.eigvalsh(fit.whitened_jacobian.T @ fit.whitened_jacobian) if d else np.zeros(1)
    information = np.maximum(information, 0.0)
    prior_variance = np.einsum("ij,ij->i", problem.factor, problem.factor)
    posterior_variance = np.einsum("ij,ij->i", fit.cholesky, fit.cholesky)
    reduction = 1.0 - posterior_variance / prior_variance
    shift = _linearity_shift(problem, fit, draws, model, evidence)
    seen = ~problem.below  # a limit is no value that a prediction could be compared with
    innovation, spread = (problem.y - expected[0])[seen], expected[1][seen]
    covariance = spread @ spread.T + np.diag(problem.sd[seen] ** 2)
    innovation_chi2 = float(innovation @ np.linalg.solve(covariance, innovation)) if seen.any() else 0.0
    return {
        "n_obs": d,
        "n_left_out": len(problem.left_out),
        "n_outliers": outliers,
        "two_j": two_j,
        "two_j_per_n": two_j / d if d else 0.0,
        "innovation_chi2_per_n": innovation_chi2 / max(int(seen.sum()), 1),
        "innovation_n": int(seen.sum()),
        "misfit_by_organ": _misfit_by_organ(problem, fit, model),
        "effective_parameters": float((information / (1.0 + information)).sum()),
        "distinct_optima": fit.distinct_optima,
        "objectives": list(fit.objectives),
        "at_edge": _at_edge(problem, fit, prior_variance),
        "linearity_shift_sd": max(shift.values(), default=0.0),
        "linearity_shift_by_region": shift,
        "variance_reduction": dict(zip(problem.names, reduction.tolist(), strict=True)),
    }


def _at_edge(problem: Problem, fit: Fit, prior_variance: FloatArray) -> dict[str, float]:
    """Parameters of the model, nuisances not among them, that the fit took to the edge of their prior -> distance in prior sd.

    There the prior and the data contradict each other, and bounded searches (`BOUND`) end.
    """
    edge = packaged_table("assimilation.csv").value("edge.sigma")
    n = problem.n_model
    away = np.abs(problem.factor @ fit.z)[:n] / np.sqrt(prior_variance[:n])
    return {name: float(x) for name, x in zip(problem.names[:n], away, strict=True) if x >= edge}


def _misfit_by_organ(problem: Problem, fit: Fit, model: KineticModel) -> dict[str, dict[str, float]]:
    """Organ -> 2J over its own data and parameters, with its number of data: about n for a right model.

    The prior part is that of the organ's block alone; calibration, which all organs share, stays out.
    """
    covariance = problem.factor @ problem.factor.T
    deviation = problem.factor @ fit.z
    out = {}
    for organ in dict.fromkeys(r.organ for r in model.regions):
        names = {r.name for r in model.regions if r.organ == organ}
        block = [i for i, n in enumerate(problem.names) if n.rpartition(".")[0] in names]
        data = [i for i, d in enumerate(problem.data) if d.name in names]
        if block and data:
            prior = deviation[block] @ np.linalg.solve(covariance[np.ix_(block, block)], deviation[block])
            out[organ] = {"two_j": float(prior + fit.residual[data] @ fit.residual[data]), "n_obs": len(data)}
    return out


def _linearity_shift(
    problem: Problem, fit: Fit, draws: FloatArray, model: KineticModel, evidence: Evidence
) -> dict[str, float]:
    """Region -> shift of the mean ln time-integrated activity of the draws against the MAP, in sd: the Laplace check."""
    therapy = [a for a in evidence.administrations if a.intent == "therapy"]
    if not therapy or not problem.y.size:
        return {}
    n = problem.n_model
    sampled = np.log(model.time_integrated_activity(draws[:, :n], therapy[0]))
    best = problem.mean + problem.factor @ fit.z
    at_map = np.log(model.time_integrated_activity(best[None, :n], therapy[0]))[0]
    shift = np.abs(sampled.mean(axis=0) - at_map) / np.maximum(sampled.std(axis=0), ROUNDING)
    return {region.name: float(s) for region, s in zip(model.regions, shift, strict=True)}


def _fit_report(
    problem: Problem,
    fit: Fit,
    predicted: FloatArray,
    sd: FloatArray,
    outlier: npt.NDArray[np.bool_],
    expected: tuple[FloatArray, FloatArray],
    checks: Sequence[Mapping[str, float]],
) -> tuple[Mapping[str, Any], ...]:
    """One record per datum: what the update did with it, and why; `predicted` (draws, d) ln MBq, `expected` as above, `checks`
    by datum."""
    prior_mean, prior_sd = expected[0], np.linalg.norm(expected[1], axis=1)
    report: list[Mapping[str, Any]] = [
        {
            "region": datum.name,
            "time_h": datum.time_h,
            "modality": datum.modality,
            "unit": datum.unit,
            "observed_mbq": datum.value,
            "sd_log": float(sd[i]),
            "total_sd_log": datum.total_sd,
            "prior_mbq": float(np.exp(prior_mean[i])),
            "prior_sd_log": float(prior_sd[i]),
            "posterior_mbq": float(np.exp(np.median(predicted[:, i]))),
            "posterior_sd_log": float(predicted[:, i].std()),
            "z": float(fit.residual[i]),
            "status": "outlier" if outlier[i] else "below_limit" if datum.below else "active",
            **checks[i],
        }
        for i, datum in enumerate(problem.data)
    ]
    report += [
        {
            "region": datum.name,
            "time_h": datum.time_h,
            "modality": datum.modality,
            "unit": datum.unit,
            "observed_mbq": datum.value,
            "status": "missing",
            "reason": reason,
        }
        for datum, reason in problem.left_out
    ]
    return tuple(report)
