"""The choice between rungs: scores of fits to the same evidence, what each fit identifies, weights, and averaging.

Nuisances (calibration, resolution, recovery, transfer) enter the data linearly, so they are integrated out exactly: a datum's
error is Gaussian with covariance C = diag(sd^2) + D S D', the same for every rung but for a rung's own model error. With
H = dh/dtheta at the MAP theta*, prior N(m, P), L L' = P and r = y - h(theta*):

    ln L          = -1/2 r' C^-1 r - 1/2 ln |C| - d/2 ln 2 pi
    ln evidence   = ln L - 1/2 (theta* - m)' P^-1 (theta* - m) - 1/2 ln |A + I|,  A = L' H' C^-1 H L
                    (Laplace; exact where h is linear)
    k effective   = tr (A + I)^-1 A
    AICc          = -2 ln L + 2 k + 2 k (k + 1) / (n - k - 1)
    ln left out   = sum of ln p(y_i | all other data), closed form in the model linearised at the MAP

A datum that is only known to be below a limit adds ln Phi((ln limit - h) / sd) to ln L and to ln left out.

The evidence is the density that a rung with its own prior gave these data before they were seen: it compares form and prior
together. A prior that is wider by a factor c costs about ln c per parameter that the data determine. The left-out density
hardly depends on the width of a prior, so it compares forms of curves. See docs/ladder.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import linalg

from tdt_core.assimilation.map_laplace import descend
from tdt_core.assimilation.problem import Prior, Problem, build_problem, settled_sd
from tdt_core.assimilation.target import Target, censored
from tdt_core.errors import EstimationError
from tdt_core.kinetics import KineticModel
from tdt_core.parameters import ParameterTable, packaged_table
from tdt_core.reproducible import one_blas_thread
from tdt_core.twin import Evidence, Posterior

FloatArray = npt.NDArray[np.float64]
Basis = Literal["aicc", "evidence", "left_out"]
BASES: tuple[Basis, ...] = ("aicc", "evidence", "left_out")


@dataclass(frozen=True)
class Identified:
    """What a fit learned of one parameter.

    Attributes
    ----------
    cv : coefficient of variation in natural units, 1.
    shrinkage : 1 - posterior sd / prior sd in unconstrained space; 0 means that the data said nothing.
    correlation, partner : largest |correlation| with another parameter, and that parameter.
    passes : cv and |correlation| are below the gates.
    """

    name: str
    cv: float
    shrinkage: float
    correlation: float
    partner: str
    passes: bool


@dataclass(frozen=True)
class Score:
    """How well one rung explains the evidence.

    Attributes
    ----------
    n_data, n_outliers : data, and those whose error was widened; each of these counts as one more parameter in k.
    n_parameters, effective_parameters : of the kinetic model, nuisances not among them.
    aicc, aicc_effective : with the nominal and the effective number of parameters; None where n <= k + 1.
    log_evidence, log_left_out : nats.
    identified : every parameter of the model, the least determined (by shrinkage) first.
    """

    n_data: int
    n_outliers: int
    n_parameters: int
    effective_parameters: float
    minus_two_log_likelihood: float
    aicc: float | None
    aicc_effective: float | None
    log_evidence: float
    log_left_out: float
    identified: tuple[Identified, ...]

    def of(self, basis: Basis) -> float | None:
        """Log score by which rungs are weighed; None where it is not defined."""
        if basis == "aicc":
            return None if self.aicc is None else -0.5 * self.aicc
        return self.log_evidence if basis == "evidence" else self.log_left_out


@one_blas_thread
def score(prior: Prior, evidence: Evidence, model: KineticModel, posterior: Posterior) -> Score:
    """Score a posterior that `assimilate` made from the same prior, evidence and model, at its best point.

    Raises
    ------
    EstimationError : the evidence holds no datum that can be used, or the posterior is of another problem.
    """
    problem = build_problem(prior, evidence, model)
    if problem.below.all():
        raise EstimationError(
            "no datum to score a rung by", expected="at least one that is no limit", kind="estimation.selection"
        )
    sd = settled_sd(problem, posterior, "estimation.selection")
    outliers = sum(row["status"] == "outlier" for row in posterior.fit_report)
    start = np.asarray(np.linalg.solve(problem.factor, posterior.mean - problem.mean))
    target = Target(problem, sd)
    return score_at(problem, target.theta(descend(target, start)[1]), sd, outliers)


def score_at(problem: Problem, theta: FloatArray, sd: FloatArray, outliers: int = 0) -> Score:
    """Score at a (p,) MAP of a problem under (d,) independent errors.

    A limit of quantification adds ln of the probability of a truth below it, the nuisances' spread included, and its curvature.
    """
    n, seen = problem.n_model, ~problem.below
    d = int(seen.sum())
    jacobian = problem.jacobian(theta)
    design, spread = jacobian[:, n:], problem.factor[n:, n:]
    noise = design @ spread
    error = np.diag(sd**2) + noise @ noise.T  # C
    root = linalg.cholesky(error[np.ix_(seen, seen)], lower=True)
    centre = np.concatenate([theta[:n], problem.mean[n:]])
    residual = problem.y - problem.predict(centre)[0]
    white = linalg.solve_triangular(root, residual[seen], lower=True)
    slope = jacobian[:, :n] @ problem.factor[:n, :n]
    h = linalg.solve_triangular(root, slope[seen], lower=True)  # (d, n), data and prior white
    limit_sd = np.sqrt(np.diag(error)[problem.below])
    r, dr = censored(residual[problem.below] / limit_sd)
    limits, limit_h = -0.5 * float(r @ r), (dr / limit_sd)[:, None] * slope[problem.below]
    z = linalg.solve_triangular(problem.factor[:n, :n], theta[:n] - problem.mean[:n], lower=True)
    precision = h.T @ h + limit_h.T @ limit_h + np.eye(n)
    log_likelihood = -0.5 * float(white @ white) - float(np.log(np.diag(root)).sum()) - 0.5 * d * float(np.log(2 * np.pi))
    log_likelihood += limits
    log_det = 2.0 * float(np.log(np.diag(np.linalg.cholesky(precision))).sum())
    effective = float(n - np.trace(np.linalg.inv(precision)))
    return Score(
        n_data=problem.y.size,
        n_outliers=outliers,
        n_parameters=n,
        effective_parameters=effective,
        minus_two_log_likelihood=-2.0 * log_likelihood,
        aicc=aicc(-2.0 * log_likelihood, problem.y.size, n + outliers),
        aicc_effective=aicc(-2.0 * log_likelihood, problem.y.size, effective + outliers),
        log_evidence=log_likelihood - 0.5 * float(z @ z) - 0.5 * log_det,
        log_left_out=_left_out(white + h @ z, h, root) + limits,
        identified=_identified(problem, theta[:n], precision),
    )


def aicc(minus_two_log_likelihood: float, n: int, k: float) -> float | None:
    """Akaike's criterion with the correction for small samples; None where n <= k + 1, where it is not defined."""
    if n <= k + 1:
        return None
    return minus_two_log_likelihood + 2 * k + 2 * k * (k + 1) / (n - k - 1)


def _left_out(innovation: FloatArray, h: FloatArray, root: FloatArray) -> float:
    """Sum over data of ln p(y_i | the others), from whitened innovations (d,) of the linearised model.

    With S = root (h h' + I) root' the covariance of the data: error of a left-out datum [S^-1 e]_i / [S^-1]_ii, variance
    1 / [S^-1]_ii.
    """
    inner = linalg.cholesky(h @ h.T + np.eye(h.shape[0]), lower=True)
    inverse_root = linalg.solve_triangular(inner, linalg.solve_triangular(root, np.eye(h.shape[0]), lower=True), lower=True)
    weighed = inverse_root.T @ linalg.solve_triangular(inner, innovation, lower=True)  # S^-1 e
    precision = np.einsum("ki,ki->i", inverse_root, inverse_root)
    return float(0.5 * np.sum(np.log(precision) - weighed**2 / precision - np.log(2 * np.pi)))


def _identified(problem: Problem, theta: FloatArray, precision: FloatArray) -> tuple[Identified, ...]:
    n = problem.n_model
    gates = packaged_table("selection.csv")
    root = problem.factor[:n, :n] @ np.linalg.inv(np.linalg.cholesky(precision)).T
    covariance = root @ root.T
    sd = np.sqrt(np.diag(covariance))
    prior_sd = np.sqrt(np.einsum("ij,ij->i", problem.factor[:n, :n], problem.factor[:n, :n]))
    names = problem.names[:n]
    correlation = np.abs(covariance / np.outer(sd, sd))
    # the prior ties one quantity of several regions on purpose; that is not a defect of the curve
    quantity = np.array([name.rpartition(".")[2] for name in names])
    correlation[quantity[:, None] == quantity[None, :]] = 0.0
    partner = correlation.argmax(axis=1)
    cv = _variation(problem.model.parameters, theta, sd)
    found = [
        Identified(
            name=name,
            cv=float(cv[i]),
            shrinkage=float(1.0 - sd[i] / prior_sd[i]) if prior_sd[i] > 0 else 0.0,
            correlation=float(correlation[i, partner[i]]),
            partner=names[partner[i]] if correlation[i, partner[i]] > 0 else "",
            passes=bool(cv[i] < gates.value("gate.cv") and correlation[i, partner[i]] < gates.value("gate.correlation")),
        )
        for i, name in enumerate(names)
    ]
    return tuple(sorted(found, key=lambda p: p.shrinkage))


def _variation(table: ParameterTable, theta: FloatArray, sd: FloatArray) -> FloatArray:
    """(n,) coefficient of variation in natural units of parameters known to `sd` in unconstrained space."""
    out = np.empty(theta.size)
    for i, p in enumerate(table.values()):
        if p.distribution == "lognormal":
            out[i] = np.sqrt(np.expm1(min(sd[i] ** 2, 700.0)))
        elif p.distribution == "logitnormal":
            out[i] = sd[i] / (1.0 + np.exp(theta[i]))  # d ln p / d logit p = 1 - p
        else:
            out[i] = sd[i] / max(abs(theta[i]), 1e-300)
    return out


@dataclass(frozen=True)
class Weights:
    """Weights of rungs that sum to one, what they rest on, and why if it is not what was asked for."""

    by_rung: Mapping[str, float]
    basis: Basis
    reason: str = ""


def weigh(scores: Mapping[str, Score], basis: Basis = "evidence") -> Weights:
    """Weights proportional to exp(log score): Akaike weights, or posterior probabilities under equal prior ones.

    Asked for AICc, the evidence is used where AICc is not defined for every rung, and `reason` says which lack it.

    Raises
    ------
    EstimationError : no scores, an unknown basis, or scores of different data.
    """
    if not scores:
        raise EstimationError(
            "no rung was fitted, so there is nothing to weigh",
            expected="the score of at least one",
            kind="estimation.selection",
        )
    if basis not in BASES:
        raise EstimationError(f"weights by {basis!r}", expected=f"one of {', '.join(BASES)}", kind="estimation.selection")
    if len({s.n_data for s in scores.values()}) > 1:
        raise EstimationError(
            "the rungs used different data: " + ", ".join(f"{n} {s.n_data}" for n, s in scores.items()),
            expected="the same data for every rung",
            remedy="compare rungs that hold the same regions",
            kind="estimation.selection",
        )
    reason = ""
    lacking = [f"{n} (n = {s.n_data}, k = {s.n_parameters + s.n_outliers})" for n, s in scores.items() if s.of(basis) is None]
    if lacking:
        reason = f"AICc is not defined where n <= k + 1: {', '.join(lacking)}; the evidence is used"
        basis = "evidence"
    values = np.array([float(s.of(basis) or 0.0) for s in scores.values()])
    relative = np.exp(values - values.max())
    relative /= relative.sum()
    return Weights(dict(zip(scores, relative.tolist(), strict=True)), basis, reason)


def average(
    draws: Mapping[str, FloatArray], weights: Mapping[str, float], count: int, seed: tuple[int, ...] = (0,)
) -> FloatArray:
    """(count, r) draws of the mixture of rungs by weight: rows of each rung's (m, r) draws, so that columns stay joint.

    The share of each rung is its weight rounded to whole draws (largest remainders first); rows are drawn without repeat
    while there are enough. The same seed gives the same draws.

    Raises
    ------
    EstimationError : a rung without weight, weights that are none, or draws of different width.
    """
    names = [n for n in weights if weights[n] > 0]
    if set(weights) != set(draws) or not names or not np.isfinite(list(weights.values())).all() or min(weights.values()) < 0:
        raise EstimationError(
            f"weights of {sorted(weights)} for draws of {sorted(draws)}",
            expected="one finite weight >= 0 for each, not all zero",
            kind="estimation.selection",
        )
    if len({draws[n].shape[1:] for n in names}) > 1:
        raise EstimationError(
            "the rungs' draws hold different columns", expected="the same regions for every rung", kind="estimation.selection"
        )
    share = np.array([weights[n] for n in names])
    share = count * share / share.sum()
    counts = np.floor(share).astype(int)
    late = np.argsort(counts - share, kind="stable")[: count - int(counts.sum())]
    counts[late] += 1
    rng = np.random.default_rng(seed)
    rows = []
    for name, k in zip(names, counts.tolist(), strict=True):
        m = len(draws[name])
        full, rest = divmod(k, m)
        picked = np.concatenate([np.tile(np.arange(m), full), rng.permutation(m)[:rest]])
        rows.append(draws[name][picked])
    return np.asarray(rng.permutation(np.concatenate(rows)))
