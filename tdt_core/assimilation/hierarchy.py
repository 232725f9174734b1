"""A population's mean and spread from what many patients' data say: a linear mixed model on Gaussian likelihood factors.

Everything is counted in packaged sds from the packaged median of each patient's own parameters (which hold its covariates), so
that patients with other regions and other covariates compare. With x (n,) those of one patient and k the key of each
(`organ.quantity`),

    x = Z (shift + u) + v,   u ~ N(0, common),   v ~ N(0, diag(own[k]))

u is what a patient's regions of an organ have in common (and how organs and quantities go together), v each region's own part.
The packaged prior is shift 0, common diag(share), own 1 - share. What a patient's data say is the factor exp(h'x - x'Lx/2): its
posterior over the prior that it was fitted under, exact where data and posterior are Gaussian, else as good as the Gaussian of
the posterior's moments. Fitted by EM with conjugate penalties that count as `mean` and `spread` patients of the packaged
population (Gelman et al., Bayesian Data Analysis, 3rd ed., 5.4 and 15; Liu and Rubin 1994 for the step of the mean).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from tdt_core.assimilation.problem import Prior, gained
from tdt_core.assimilation.relations import common_share, keys_of
from tdt_core.errors import EstimationError
from tdt_core.kinetics import KineticModel
from tdt_core.reproducible import one_blas_thread

FloatArray = npt.NDArray[np.float64]

INFORMED = 1e-6
"""Information in packaged sd^-2 below which a direction counts as not seen."""

ITERATIONS, TOLERANCE = 400, 1e-5


@dataclass(frozen=True, eq=False)
class Factor:
    """What one patient's data say of its parameters, without any prior: exp(information' x - x' precision x / 2).

    patient : a name that orders patients and nothing else. keys (n,), precision (n, n), information (n,).
    """

    patient: str
    keys: tuple[str, ...]
    precision: FloatArray
    information: FloatArray


@dataclass(frozen=True, eq=False)
class Hyper:
    """A population: keys (K,), shift (K,), common (K, K), own (K,), in packaged sds."""

    keys: tuple[str, ...]
    shift: FloatArray
    common: FloatArray
    own: FloatArray

    @property
    def variance(self) -> FloatArray:
        """(K,) variance between patients, 1 where it is the packaged one."""
        return np.asarray(np.diag(self.common) + self.own)

    def moments(self, keys: Sequence[str]) -> tuple[FloatArray, FloatArray]:
        """Mean (n,) and covariance (n, n) of one patient's parameters of these keys."""
        at = np.array([self.keys.index(k) for k in keys], dtype=int)
        return self.shift[at], self.common[np.ix_(at, at)] + np.diag(self.own[at])


@dataclass(frozen=True)
class Strength:
    """How many patients the packaged population counts as, for the mean and for the spread."""

    mean: float
    spread: float


def packaged(keys: Sequence[str], shares: Sequence[float]) -> Hyper:
    """The packaged population over keys with their common shares of the variance."""
    share = np.asarray(shares, dtype=float)
    return Hyper(tuple(keys), np.zeros(len(keys)), np.diag(share), 1.0 - share)


def factor_of_posterior(
    patient: str,
    rung: KineticModel,
    prior: Prior,
    mean: FloatArray,
    covariance: FloatArray,
    packaged_rung: KineticModel,
    least: float = INFORMED,
) -> Factor:
    """The factor of a Gaussian posterior, mean (n,) and covariance (n, n), with the prior divided out that it was fitted under.

    packaged_rung : the same rung with packaged parameters, in whose sds and from whose medians the factor is counted.
    least : information below which a direction carries nothing (`least_gain`).
    """
    names = tuple(rung.parameters)
    if prior.names != names or mean.shape != (len(names),):
        raise EstimationError(
            "a posterior over other parameters than its prior",
            expected=f"the {len(names)} parameters of {rung.name}, in its order, in both",
            kind="estimation.prior",
        )
    table = list(packaged_rung.parameters.values())
    sd, median = np.array([p.sd for p in table]), np.array([p.unconstrained for p in table])
    if not (sd > 0).all():
        raise EstimationError(
            "an estimated parameter without spread in the population",
            expected="an sd above 0 in the table of the rung",
            remedy="give it a spread, or estimate it no longer",
            kind="estimation.prior",
        )
    white, narrow, gain = gained(prior.covariance, covariance, max(least, INFORMED))
    seen = gain > 0
    back = white[seen].T
    precision = back @ (gain[seen, None] * white[seen])
    information = back @ ((white[seen] @ (mean - prior.mean)) / narrow[seen]) + precision @ (prior.mean - median)
    return Factor(patient, keys_of(packaged_rung), sd[:, None] * precision * sd, sd * information)


class _Cohort:
    """Factors stacked to arrays; a patient with fewer parameters is padded with ones that nothing is known of."""

    def __init__(self, factors: Sequence[Factor], keys: Sequence[str]) -> None:
        position = {k: i for i, k in enumerate(keys)}
        ordered = sorted(factors, key=lambda f: f.patient)
        n = max(len(f.keys) for f in ordered)
        self.key = np.full((len(ordered), n), len(keys))
        self.precision = np.zeros((len(ordered), n, n))
        self.information = np.zeros((len(ordered), n))
        for i, f in enumerate(ordered):
            m = len(f.keys)
            self.key[i, :m] = [position[k] for k in f.keys]
            self.precision[i, :m, :m] = f.precision
            self.information[i, :m] = f.information
        self.there = self.key < len(keys)
        self.design = (self.key[:, :, None] == np.arange(len(keys))).astype(float)

    def spread(self, hyper: Hyper) -> tuple[FloatArray, FloatArray]:
        """(N, n) own variances and (N, n, n) covariances; padding has unit variance."""
        own = np.where(self.there, np.append(hyper.own, 1.0)[self.key], 1.0)
        between = self.design @ hyper.common @ self.design.swapaxes(1, 2)
        return own, between + own[:, :, None] * np.eye(own.shape[1])

    def residual(self, shift: FloatArray) -> FloatArray:
        """(N, n) information on what a patient differs by from the population's mean."""
        return np.asarray(self.information - _times(self.precision, self.design @ shift))


def _times(matrices: FloatArray, vectors: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("nij,nj->ni", matrices, vectors))


def _conditional(covariance: FloatArray, precision: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(covariance^-1 + precision)^-1 and ln det(1 + covariance precision) of each patient."""
    inner = np.eye(covariance.shape[1]) + covariance @ precision
    found = np.linalg.solve(inner, covariance)
    return 0.5 * (found + found.swapaxes(1, 2)), np.asarray(np.linalg.slogdet(inner)[1])


@one_blas_thread
def learn(factors: Sequence[Factor], start: Hyper, strength: Strength, keys: Sequence[str] | None = None) -> Hyper:
    """The population that the factors and the packaged one, `start`, together make most probable.

    Only `keys` are learned (all when None); the others stay as they were, as do keys that no patient has. The order of the
    patients does not matter; without patients it is `start`.
    """
    taught = np.array([keys is None or k in set(keys) for k in start.keys])
    if not factors or not taught.any():
        return start
    cohort = _Cohort(factors, start.keys)
    z, precision, there = cohort.design, cohort.precision, cohort.there
    count = np.bincount(cohort.key[there], minlength=len(start.keys))
    stays = ~taught | (np.diag(start.common) <= 0.0)
    hyper = start
    for _ in range(ITERATIONS):
        own, covariance = cohort.spread(hyper)
        posterior, _ = _conditional(covariance, precision)
        marginal = precision - precision @ posterior @ precision
        told = cohort.information - _times(precision, _times(posterior, cohort.information))
        normal = np.einsum("nik,nij,njl->kl", z, marginal, z) + strength.mean * np.eye(len(start.keys))
        shift = start.shift.copy()
        told_of = np.einsum("nik,ni->k", z, told) - normal @ np.where(taught, 0.0, shift)
        shift[taught] = np.linalg.solve(normal[np.ix_(taught, taught)], told_of[taught])
        mean = _times(posterior, cohort.residual(shift))
        square = posterior + mean[:, :, None] * mean[:, None, :]
        inverse = np.linalg.inv(covariance)
        gain = hyper.common @ z.swapaxes(1, 2) @ inverse
        shared = len(square) * hyper.common + (gain @ square @ gain.swapaxes(1, 2) - gain @ z @ hyper.common).sum(axis=0)
        common = (strength.spread * start.common + 0.5 * (shared + shared.T)) / (strength.spread + len(square))
        common[stays, :] = start.common[stays, :]
        common[:, stays] = start.common[:, stays]
        alone = own - own**2 * np.einsum("nii->ni", inverse)
        alone = alone + own**2 * np.einsum("nij,njk,nki->ni", inverse, square, inverse)
        sums = np.bincount(cohort.key[there], weights=alone[there], minlength=len(start.keys))
        rest = np.where(taught, (strength.spread * start.own + sums) / (strength.spread + count), start.own)
        new = Hyper(start.keys, shift, common, rest)
        moved = max(np.abs(getattr(new, x) - getattr(hyper, x)).max() for x in ("shift", "common", "own"))
        hyper = new
        if moved < TOLERANCE:
            break
    return hyper


def seen_keys(factors: Sequence[Factor], population: Hyper, reduction: float, share: float) -> tuple[str, ...]:
    """Keys of which at least `share` of the patients' data remove `reduction` of the population's variance.

    The others cannot be learned from Gaussian factors: patients tell of them only where they are far out (slow uptake is seen,
    fast is not), and the Gaussian of such a posterior leans to one side in every patient alike.
    """
    told: dict[str, list[float]] = {}
    for factor in factors:
        covariance = population.moments(factor.keys)[1]
        left = np.linalg.solve(np.eye(len(factor.keys)) + covariance @ factor.precision, covariance)
        for key, before, after in zip(factor.keys, np.diag(covariance), np.diag(left), strict=True):
            told.setdefault(key, []).append(float(1.0 - after / before))
    return tuple(k for k in population.keys if k in told and np.mean(np.array(told[k]) >= reduction) >= share)


@one_blas_thread
def log_density(factors: Sequence[Factor], hyper: Hyper) -> FloatArray:
    """(N,) ln predictive density of each patient in order of names, but for a constant that no population changes."""
    cohort = _Cohort(factors, hyper.keys)
    posterior, determinant = _conditional(cohort.spread(hyper)[1], cohort.precision)
    at = cohort.design @ hyper.shift
    residual = cohort.residual(hyper.shift)
    at_mean = np.einsum("ni,ni->n", cohort.information - 0.5 * _times(cohort.precision, at), at)
    return np.asarray(at_mean - 0.5 * determinant + 0.5 * np.einsum("ni,ni->n", residual, _times(posterior, residual)))


def predictive_p(factor: Factor, hyper: Hyper) -> float:
    """How probable it is that a patient of the population lies farther out than this one, in the directions that were seen."""
    mean, covariance = hyper.moments(factor.keys)
    values, vectors = np.linalg.eigh(factor.precision)
    seen = values > INFORMED
    if not seen.any():
        return 1.0
    at, v = values[seen], vectors[:, seen]
    off = (v.T @ factor.information) / at - v.T @ mean
    spread = v.T @ covariance @ v + np.diag(1.0 / at)
    return float(stats.chi2.sf(off @ np.linalg.solve(spread, off), int(seen.sum())))


@dataclass(frozen=True)
class Gate:
    """Whether a learned population may replace the one before, by held-out patients.

    gain_mean, gain_median : of ln predictive density per held-out patient, learned from the others over the standing prior.
    fell : share of held-out patients whose density fell. beyond : share beyond the 99.9 % point of the learned population.
    """

    accepted: bool
    reason: str
    held_out: int
    gain_mean: float
    gain_median: float
    fell: float
    beyond: float


def cross_validated(
    factors: Sequence[Factor],
    start: Hyper,
    strength: Strength,
    folds: int,
    standing: Callable[[Sequence[Factor]], Hyper] | None = None,
    trusted: Sequence[Factor] = (),
    allowed_beyond: float = 0.1,
    keys: Callable[[Sequence[Factor]], Sequence[str]] | None = None,
) -> Gate:
    """The verdict on what these patients teach: each fold is predicted by what the others teach.

    Both the mean and the median gain must not be below zero: the mean alone is bought by a few patients far out, whose own
    density is better under a prior that they themselves have widened for everybody.

    Parameters
    ----------
    standing : held-out patients -> the population that would be replaced, as it is without them; None: the packaged one.
    keys : patients -> what is learned of them, so that held-out ones have no say in that either; None: all.
    trusted : patients that are held out of every fit and must not fall either.
    """
    ordered = sorted(factors, key=lambda f: f.patient)
    gains, beyond = [], []

    def better(taught: Sequence[Factor], held: Sequence[Factor]) -> tuple[Hyper, FloatArray]:
        found = learn(taught, start, strength, None if keys is None else keys(taught))
        before = start if standing is None else standing(held)
        return found, log_density(held, found) - log_density(held, before)

    for fold in range(folds):
        held = ordered[fold::folds]
        if not held:
            continue
        found, of_held = better([f for i, f in enumerate(ordered) if i % folds != fold], held)
        gains += of_held.tolist()
        beyond += [predictive_p(f, found) < 1e-3 for f in held]
    reasons = _falls(np.array(gains), "held-out patients")
    if trusted:
        reasons += _falls(better(ordered, trusted)[1], "patients kept apart")
    share = float(np.mean(beyond))
    if share > allowed_beyond:
        reasons.append(
            f"{share:.0%} of held-out patients lie beyond the 99.9 % point of what the others teach: not one population"
        )
    return Gate(
        accepted=not reasons,
        reason="; ".join(reasons) or "the held-out log predictive density does not fall",
        held_out=len(gains) + len(trusted),
        gain_mean=float(np.mean(gains)),
        gain_median=float(np.median(gains)),
        fell=float(np.mean(np.array(gains) < 0)),
        beyond=share,
    )


def _falls(gains: FloatArray, whose: str) -> list[str]:
    found = {"mean": float(np.mean(gains)), "median": float(np.median(gains))}
    return [f"the {what} log predictive density of {whose} falls by {-g:.2f}" for what, g in found.items() if g < 0]


def extended(hyper: Hyper, keys: Sequence[str], shares: Sequence[float]) -> Hyper:
    """The population over further keys, which stand as packaged."""
    known_keys = set(hyper.keys)
    new = {k: float(s) for k, s in zip(keys, shares, strict=True) if k not in known_keys}
    if not new:
        return hyper
    more = packaged(tuple(new), tuple(new.values()))
    known = len(hyper.keys)
    common = np.zeros((known + len(new),) * 2)
    common[:known, :known], common[known:, known:] = hyper.common, more.common
    joined = (np.concatenate(pair) for pair in ((hyper.shift, more.shift), (hyper.own, more.own)))
    shift, own = joined
    return replace(hyper, keys=hyper.keys + more.keys, shift=shift, common=common, own=own)


def shares_of(rungs: Sequence[KineticModel]) -> dict[str, float]:
    """Key -> common share, of all parameters of rungs with packaged parameters; sorted by key."""
    found = {k: float(s) for rung in rungs for k, s in zip(keys_of(rung), common_share(rung), strict=True)}
    return dict(sorted(found.items()))
