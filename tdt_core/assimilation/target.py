"""What an estimator minimises or samples, and what it hands back.

    J(z) = 1/2 |(y - h(m + L z)) / sd|^2 + 1/2 |z|^2,   theta = m + L z

z is white under the prior, so steps, bounds and distances mean the same in every direction. Every estimator is a function of a
`Target` and a random generator, and returns a `Fit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import linalg, special

from tdt_core.errors import EstimationError, ModelError

FloatArray = npt.NDArray[np.float64]

BOUND = 5.0
"""Prior sd within which estimators keep their members, searches and fits without a prior. Assumed."""

UNSOLVED = 0.2
"""Share of draws without a solution that is drawn again; with more, the fit is refused. Assumed."""


class Solvable(Protocol):
    """What an estimator needs of a problem: `Problem` of one cycle, or the joint one of several."""

    @property
    def mean(self) -> FloatArray:
        """(p,) prior mean."""

    @property
    def factor(self) -> FloatArray:
        """(p, p) lower Cholesky factor of the prior covariance."""

    @property
    def y(self) -> FloatArray:
        """(d,) ln of the data."""

    @property
    def below(self) -> npt.NDArray[np.bool_]:
        """(d,) which data are limits of quantification."""

    def predict(self, theta: FloatArray) -> FloatArray:
        """(m, p) -> (m, d) ln of the data."""

    def jacobian(self, theta: FloatArray) -> FloatArray:
        """(..., p) -> (..., d, p)."""


@dataclass(frozen=True, eq=False)
class Target:
    """One problem with the errors that its data are given: sd (d,), outliers widened.

    `solves` holds the number of solves of the model so far, a Jacobian counting one per parameter; `best` is the optimum with
    these errors where that is known, `draws` the number of draws that will be asked for.
    """

    problem: Solvable
    sd: FloatArray
    solves: list[int] = field(default_factory=lambda: [0])
    best: Fit | None = None
    draws: int = 500

    @property
    def size(self) -> int:
        """Number of parameters, nuisances included."""
        return int(self.problem.mean.size)

    def theta(self, z: FloatArray) -> FloatArray:
        """(..., p) white -> parameters in unconstrained space."""
        return np.asarray(self.problem.mean + z @ self.problem.factor.T)

    def white(self, theta: FloatArray) -> FloatArray:
        """(..., p) parameters -> white."""
        return np.asarray(linalg.solve_triangular(self.problem.factor, (theta - self.problem.mean).T, lower=True).T)

    def residuals(self, z: FloatArray) -> FloatArray:
        """(m, p) -> (m, d) residuals in units of their error; infinite where the model has no solution."""
        z = np.atleast_2d(z)
        self.solves[0] += len(z)
        with np.errstate(over="ignore", invalid="ignore"):
            r = np.asarray((self.problem.y - self.predicted(self.theta(z))) / self.sd)
            if (below := self.problem.below).any():
                r[:, below] = censored(r[:, below])[0]
        return np.where(np.isfinite(r).all(axis=1, keepdims=True), r, np.inf)

    def predicted(self, theta: FloatArray) -> FloatArray:
        """(m, p) theta -> (m, d) ln MBq, NaN without a solution."""
        return by_halves(self.problem.predict, theta, self.problem.y.size)

    def objective(self, z: FloatArray) -> FloatArray:
        """(m, p) -> (m,) J, nats; infinite where the model has no solution."""
        z = np.atleast_2d(z)
        r = self.residuals(z)
        with np.errstate(over="ignore"):
            return np.asarray(0.5 * (np.square(r).sum(axis=1) + np.square(z).sum(axis=1)))

    def jacobian(self, z: FloatArray) -> FloatArray:
        """(..., p) -> (..., d, p) d predicted / d z in units of the data's error."""
        self.solves[0] += z.size
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # far out, where the objective is infinite
            h = np.asarray((self.problem.jacobian(self.theta(z)) @ self.problem.factor) / self.sd[:, None])
        if (below := self.problem.below).any():
            predicted = self.problem.predict(self.theta(z).reshape(-1, z.shape[-1]))
            r = (self.problem.y - predicted.reshape(h.shape[:-1])) / self.sd
            h[..., below, :] *= censored(r[..., below])[1][..., None]
        return h


def by_halves(work: Callable[[FloatArray], FloatArray], theta: FloatArray, *shape: int) -> FloatArray:
    """(m, p) theta -> (m, *shape) of `work`, NaN without a solution: one batch, and by halves where it fails."""
    if not len(theta):
        return np.empty((0, *shape))
    try:
        return work(theta)
    except (EstimationError, ModelError):
        if len(theta) == 1:
            return np.full((1, *shape), np.nan)
        half = len(theta) // 2
        return np.concatenate([by_halves(work, part, *shape) for part in (theta[:half], theta[half:])])


def censored(u: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Residual r of a truth below a limit u sd above the prediction, and dr/du: r^2 / 2 = -ln Phi(u) (the M3 method).

    So the limit far above the prediction costs nothing, and at the prediction it costs ln 2.
    """
    log_share = special.log_ndtr(u)
    r = np.sqrt(-2.0 * log_share)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        slope = -np.exp(-0.5 * u**2 - log_share) / (np.sqrt(2.0 * np.pi) * r)
    return r, np.where(r > 1e-8, slope, 0.0)


@dataclass(frozen=True, eq=False)
class Fit:
    """What an estimator found.

    Attributes
    ----------
    theta : (p,) mean, and cholesky : (p, p) lower factor of the covariance, of the parameters.
    z : (p,) white, where the data are compared: the best point, or the mean of a sample.
    whitened_jacobian, residual : (d, p), (d,) there.
    sample : (m, p) draws of theta of estimators that sample; None stands for N(theta, cholesky cholesky').
    objectives, distinct_optima : J of every start, and in how many optima starts ended (1 for estimators without starts).
    notes : what else the estimator says of its run, by name.
    """

    theta: FloatArray
    z: FloatArray
    cholesky: FloatArray
    whitened_jacobian: FloatArray
    residual: FloatArray
    sample: FloatArray | None = None
    objectives: tuple[float, ...] = ()
    distinct_optima: int = 1
    notes: Mapping[str, Any] = field(default_factory=dict)


def laplace(target: Target, z: FloatArray, **rest: Any) -> Fit:
    """The Gaussian of the curvature at z: C = L (H' H + I)^-1 L'."""
    h = target.jacobian(z)
    precision = h.T @ h + np.eye(target.size)
    inverse_factor = np.linalg.inv(np.linalg.cholesky(precision))
    return gaussian(target, z, inverse_factor.T @ inverse_factor, h, **rest)


def gaussian(target: Target, z: FloatArray, covariance: FloatArray, h: FloatArray | None = None, **rest: Any) -> Fit:
    """A Gaussian of white `covariance` (p, p) around z; `h` is the Jacobian there if it is known."""
    factor = target.problem.factor
    return Fit(
        theta=target.theta(z),
        z=z,
        cholesky=_lower(factor @ covariance @ factor.T),
        whitened_jacobian=target.jacobian(z) if h is None else h,
        residual=target.residuals(z)[0],
        **rest,
    )


def with_sample(target: Target, fit: Fit, z: FloatArray, mean: FloatArray, covariance: FloatArray, **rest: Any) -> Fit:
    """A fit with a sample (m, p) of white parameters and its white moments (p,), (p, p); data are compared where they were."""
    check_members(len(z))
    factor = target.problem.factor
    cholesky = _lower(factor @ covariance @ factor.T)
    return replace(fit, theta=target.theta(mean), cholesky=cholesky, sample=target.theta(z), **rest)


def draws_of(fit: Fit, count: int, rng: np.random.Generator) -> FloatArray:
    """(count, p) draws of theta: of the fit's sample where it has one, in random order, else of its Gaussian."""
    if fit.sample is None:
        return np.asarray(fit.theta + rng.standard_normal((count, fit.theta.size)) @ fit.cholesky.T)
    return fit.sample[rng.permutation(len(fit.sample))[np.arange(count) % len(fit.sample)]]


def check_solved(lost: int, count: int) -> None:
    """Raise EstimationError when more than `UNSOLVED` of the draws have no solution: they say little about the model."""
    if lost > UNSOLVED * count:
        raise EstimationError(
            f"the model has no solution in {lost} of {count} draws of the posterior",
            expected=f"in less than {UNSOLVED:.0%}",
            remedy="use a simpler rung, or narrow the prior",
            kind="estimation.unsolved",
        )


def check_members(count: int) -> None:
    """Raise EstimationError when fewer than two members of an ensemble have a solution: they say nothing of a spread."""
    if count < 2:
        raise EstimationError(
            f"{count} members of the ensemble have a solution",
            expected="at least two",
            remedy="use the estimator map, or narrow the prior",
            kind="estimation.diverged",
        )


def sampled(target: Target, z: FloatArray, **rest: Any) -> Fit:
    """A sample (m, p) of white parameters, with its mean as the centre. Raises EstimationError with fewer than two members."""
    check_members(len(z))
    centre = z.mean(axis=0)
    return gaussian(target, centre, np.atleast_2d(np.cov(z, rowvar=False)), sample=target.theta(z), **rest)


def _lower(covariance: FloatArray) -> FloatArray:
    """Cholesky factor; a jitter admits a sample that spans fewer directions than there are."""
    n = len(covariance)
    jitter = 1e-14
    while True:
        try:
            return np.asarray(np.linalg.cholesky(covariance + jitter * np.eye(n)))
        except np.linalg.LinAlgError:
            if jitter > 1e-6:
                raise
            jitter *= 100.0
