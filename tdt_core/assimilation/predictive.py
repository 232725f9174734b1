"""Would the model give data like these? Two checks of every datum, region and scan against the fit, in closed form, and one of
all data against the prior (`surprise`).

left out     the data of a group against what the prior and all other data say of them, in the model linearised at the fit. With
             e = y - h(theta*) + H (theta* - m), S = H P H' + R and K = S^-1, the group's chi-square is
             (K e)_G' (K_GG)^-1 (K e)_G, which for a right linear model is that of as many degrees of freedom as it has data:
             its p-values are uniform.
replicated   posterior predictive p-values (Gelman, Meng and Stern 1996, Statistica Sinica 6:733): the share of data replicated
             from the posterior draws, nuisances with them, that lie further out. Given a draw a replicate's chi-square and its
             largest residual have known distributions, so no random number is needed. They use the data twice and crowd about
             0.5 for a right model: only small values say anything.

Errors are those before outliers were widened. Limits of quantification are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg, special, stats

from tdt_core.assimilation.problem import Problem
from tdt_core.assimilation.target import Fit, Target
from tdt_core.twin import RegionActivity

FloatArray = npt.NDArray[np.float64]

PRIOR_DRAWS, REPLICATES = 400, 5
"""Draws of the prior for `surprise`, at the least, and replicates of each of one half: p-values from 1 / 1001."""
EXTREME = 0.01
"""A check is extreme where its p-value times the number of checks of its kind is below this. Assumed."""


def predictive_checks(
    problem: Problem, fit: Fit, sd: FloatArray, predicted: FloatArray
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Checks by group as plain data, and by datum (empty for limits). No solve of the model.

    Parameters
    ----------
    fit : under the (d,) errors `sd`, outliers widened. predicted : (draws, d) ln data of the posterior's draws.

    Returns
    -------
    `groups`: rows of `what` (region, scan, all), `name`, `time_h` of scans, `n`, `p_left_out`, `p_replicated` (chi-square),
    `p_largest` (largest residual); `extreme`: those that stand out. By datum `p_left_out` and `p_replicated`, two-sided.
    """
    seen = np.flatnonzero(~problem.below)
    wider = sd[seen] / problem.sd[seen]
    white = fit.whitened_jacobian[seen] * wider[:, None]
    e = fit.residual[seen] * wider + white @ fit.z
    precision = np.asarray(np.linalg.inv(np.eye(seen.size) + white @ white.T), dtype=np.float64)
    told = np.asarray(precision @ e, dtype=np.float64)
    residuals = (problem.y - predicted)[:, seen] / problem.sd[seen]  # (draws, seen)
    left_out = 2.0 * special.ndtr(-np.abs(told) / np.sqrt(np.diag(precision)))
    share = special.ndtr(residuals).mean(axis=0)
    by_datum: list[dict[str, float]] = [{} for _ in problem.data]
    for k, i in enumerate(seen.tolist()):
        by_datum[i] = {"p_left_out": float(left_out[k]), "p_replicated": float(2.0 * min(share[k], 1.0 - share[k]))}
    groups = [
        {
            **about,
            "n": members.size,
            "p_left_out": _left_out(told[members], precision[np.ix_(members, members)]),
            "p_replicated": float(stats.chi2.sf(np.square(residuals[:, members]).sum(axis=1), members.size).mean()),
            "p_largest": float(-np.expm1(members.size * _log_within(np.abs(residuals[:, members]).max(axis=1))).mean()),
        }
        for about, members in _groups(problem, seen)
    ]
    return {"groups": groups, "extreme": extreme(groups)}, by_datum


def surprise(target: Target, rng: np.random.Generator) -> float | None:
    """p-value of the data under the prior: the share of data predicted from it that lie further out; None without data.

    Data are predicted for draws of the prior. One half gives the moments that distances are measured by, the other half is
    replicated with errors and measured like the data, so that the p-value is uniform for a right model, however bent. In the
    model linearised at the prior mean, a PET's prior for the first cycle surprises a right twin ten times too often.
    """
    problem = target.problem
    seen = ~problem.below
    if not seen.any():
        return None
    z = rng.standard_normal((max(PRIOR_DRAWS, 4 * int(seen.sum())), target.size))
    predicted = target.predicted(target.theta(z))[:, seen]
    predicted = predicted[np.isfinite(predicted).all(axis=1)]
    half = len(predicted) // 2
    if half <= seen.sum():
        return None
    sd = target.sd[seen]
    centre = predicted[:half].mean(axis=0)
    root = np.linalg.cholesky(np.cov(predicted[:half], rowvar=False) + np.diag(sd**2))

    def distance(y: FloatArray) -> FloatArray:
        return np.asarray(np.square(linalg.solve_triangular(root, (y - centre).T, lower=True)).sum(axis=0))

    others = np.repeat(predicted[half:], REPLICATES, axis=0)
    replicated = distance(others + rng.standard_normal(others.shape) * sd)
    further = int((replicated >= distance(problem.y[None, seen])[0]).sum())
    return (1 + further) / (1 + len(others))


def unexpected(diagnostics: Mapping[str, Any]) -> bool:
    """Whether a fit's data were hardly expected; not where nothing says so, as in states from before `surprise`."""
    p = diagnostics.get("innovation_p")
    return p is not None and p < EXTREME


def extreme(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose smallest p-value, times the number of rows and of checks, is below EXTREME; the most extreme first."""
    checks = ("p_left_out", "p_replicated", "p_largest")
    least = [(min(row[c] for c in checks), row) for row in groups]
    return [row for p, row in sorted(least, key=lambda x: x[0]) if p * len(groups) * len(checks) < EXTREME]


def _left_out(told: FloatArray, precision: FloatArray) -> float:
    """p-value of a group given all others: (K e)_G and K_GG."""
    return float(stats.chi2.sf(told @ np.linalg.solve(precision, told), told.size))


def _log_within(largest: FloatArray) -> FloatArray:
    """ln of the probability that one standard normal lies within +-largest."""
    return np.asarray(np.log1p(-2.0 * special.ndtr(-largest)))


def _groups(problem: Problem, seen: npt.NDArray[np.intp]) -> list[tuple[dict[str, Any], npt.NDArray[np.intp]]]:
    """What is said of each group, and which of the seen data it holds; all of them last."""
    data = [problem.data[i] for i in seen]
    found: dict[tuple[str, str], list[int]] = {}
    about: dict[tuple[str, str], dict[str, Any]] = {}
    for k, d in enumerate(data):
        keys = [("region", d.name)] + ([("scan", d.source.scan)] if isinstance(d.source, RegionActivity) else [])
        for key in keys:
            found.setdefault(key, []).append(k)
            about[key] = {"what": key[0], "name": key[1]} | (
                {"time_h": d.time_h, "modality": d.modality} if key[0] == "scan" else {}
            )
    if data:
        found["all", ""] = list(range(len(data)))
        about["all", ""] = {"what": "all", "name": "all data"}
    return [(about[key], np.array(members, dtype=np.intp)) for key, members in found.items()]
