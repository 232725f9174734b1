"""Profiles: how far one parameter or dose can move when all else may give way (Raue et al. 2009, Bioinformatics 25:1923).

    rise(c) = min J(z) over all z with g(z) = c, less min J(z)

The interval is where the rise stays below half the chi-square quantile of one degree of freedom (1.35 nats for 90 %). It needs
no Gaussian: where g is linear and the model too, it is the Laplace interval exactly, elsewhere it says how far off that is.

    posterior    J as the estimators minimise it
    likelihood   the model's parameters' prior made WIDE times as wide, so that the data alone must bound; nuisances keep
                 theirs, which are what is known of the instruments

A side on which the rise stays below the threshold out to REACH prior sd is unbounded: the data do not identify it.

Each point is a warm-started fit with one more residual (c - g) / width. Whatever the width, its solution has the least J of all
z with the same g, so the point (g, J) lies on the profile even where g has not come to c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from tdt_core.assimilation.map_laplace import descend
from tdt_core.assimilation.problem import Prior, Problem, build_problem, settled_sd
from tdt_core.assimilation.target import BOUND, Target
from tdt_core.errors import EstimationError, ModelError
from tdt_core.kinetics import KineticModel
from tdt_core.reproducible import one_blas_thread
from tdt_core.twin import Evidence, Posterior

FloatArray = npt.NDArray[np.float64]
Basis = Literal["posterior", "likelihood"]

WIDE = 10.0
"""Times the parameters' prior sd for a likelihood profile. Assumed."""
REACH = BOUND
STEPS, REFINEMENTS, RESTARTS = 14, 6, 3
NEAR = 0.01
"""Accuracy of a bound on the scale of the root of twice the rise, which is a number of sd."""
LOWER = 1e-2
"""A point that lies this much below the optimum (nats) is another optimum, around which the profile begins again."""
WIDTH = 0.05
"""Width of the pinning residual in Laplace sd."""
DIFFERENCE = 1e-3
"""Step of central differences, in prior sd."""


@dataclass(frozen=True, eq=False)
class Scalar:
    """What is profiled. of: (m, p) theta -> (m,); slope: (p,) theta -> (p,) its gradient there."""

    name: str
    of: Callable[[FloatArray], FloatArray]
    slope: Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, eq=False)
class Profile:
    """Rise of the objective along one scalar.

    Attributes
    ----------
    best : the scalar where the objective is least.
    values, rise : (k,) in rising order of the scalar; rise in nats.
    low, high : ends of the interval; None where nothing bounds it within REACH prior sd.
    laplace : the interval of the curvature at the optimum.
    moved : nats by which the objective at `best` lies below the fit that the profile began from.
    """

    name: str
    basis: Basis
    best: float
    values: FloatArray
    rise: FloatArray
    low: float | None
    high: float | None
    laplace: tuple[float, float]
    moved: float

    @property
    def bounded(self) -> bool:
        """Whether both sides have an end."""
        return self.low is not None and self.high is not None


def parameter(problem: Problem, name: str) -> Scalar:
    """A parameter or nuisance by its name, in unconstrained space."""
    if name not in problem.names:
        raise EstimationError(
            f"no parameter {name!r} in the fit", expected="a name of the posterior", kind="estimation.profile"
        )
    i = problem.names.index(name)
    unit = np.zeros(len(problem.names))
    unit[i] = 1.0
    return Scalar(name, lambda theta: np.atleast_2d(theta)[:, i], lambda theta: unit)


def log_quantity(problem: Problem, name: str, quantity: Callable[[FloatArray], FloatArray]) -> Scalar:
    """ln of a positive quantity of the model's parameters, (m, n) -> (m,), such as an absorbed dose."""
    n = problem.n_model
    steps = DIFFERENCE * np.linalg.norm(problem.factor[:n], axis=1)

    def of(theta: FloatArray) -> FloatArray:
        return np.asarray(np.log(quantity(np.atleast_2d(theta)[:, :n])))

    def slope(theta: FloatArray) -> FloatArray:
        around = np.concatenate([theta[:n] + np.diag(steps), theta[:n] - np.diag(steps)])
        up, down = np.split(np.log(quantity(around)), 2)
        out = np.zeros(theta.size)
        out[:n] = (up - down) / (2.0 * steps)
        return out

    return Scalar(name, of, slope)


@one_blas_thread
def profiles(
    prior: Prior,
    evidence: Evidence,
    model: KineticModel,
    posterior: Posterior,
    scalars: Callable[[Problem], tuple[Scalar, ...]],
    *,
    bases: tuple[Basis, ...] = ("posterior", "likelihood"),
    level: float = 0.9,
) -> tuple[Profile, ...]:
    """Profiles of what `scalars` makes of the problem, by basis, around a posterior of the same prior, evidence and model.

    Raises EstimationError for a posterior of another problem or evidence without a datum.
    """
    problem = build_problem(prior, evidence, model)
    sd = settled_sd(problem, posterior, "estimation.profile")
    if not sd.size:
        raise EstimationError(
            "no datum that could bound a profile",
            expected="at least one that the fit used",
            remedy="name a state whose cycle has data",
            kind="estimation.profile",
        )
    wanted = scalars(problem)
    return tuple(profile(problem, sd, posterior.mean, s, b, level) for b in bases for s in wanted)


def profile(
    problem: Problem, sd: FloatArray, theta: FloatArray, scalar: Scalar, basis: Basis = "posterior", level: float = 0.9
) -> Profile:
    """The profile of one scalar.

    Parameters
    ----------
    sd : (d,) errors of the data, outliers widened. theta : (p,) where the search for the optimum begins.

    Raises
    ------
    EstimationError : no solution at theta, or a scalar that nothing moves.
    """
    n = problem.n_model
    reach = REACH * float(np.linalg.norm(scalar.slope(theta) @ problem.factor))
    if basis == "likelihood":
        wider = problem.factor.copy()
        wider[:n, :n] *= WIDE
        problem = replace(problem, factor=wider)
    target = Target(problem, sd)
    start, z = descend(target, np.asarray(np.linalg.solve(problem.factor, theta - problem.mean)))
    if not np.isfinite(start) or reach == 0.0:
        raise EstimationError(
            f"no profile of {scalar.name} from here",
            expected="a model with a solution at the fit, and a quantity that its parameters move",
            kind="estimation.profile",
        )
    least, threshold = start, float(np.sqrt(stats.chi2.ppf(level, 1)))
    for last in range(RESTARTS, -1, -1):
        walk = _Walk(target, scalar, z, least, reach, threshold)
        low, high = walk.side(-1), walk.side(1)
        if walk.lowest >= least - LOWER or not last:
            break
        least, z = descend(target, walk.z_lowest)
    order = np.argsort(walk.values, kind="stable")
    values, objectives = np.array(walk.values)[order], np.array(walk.objectives)[order]
    return Profile(
        scalar.name,
        basis,
        walk.g,
        values,
        np.maximum(objectives - least, 0.0),
        low,
        high,
        (walk.g - threshold * walk.sd, walk.g + threshold * walk.sd),
        start - least,
    )


@dataclass(frozen=True, eq=False)
class _Pinned(Target):
    """A target with one more residual, (at - g) / width."""

    scalar: Scalar | None = None
    at: float = 0.0
    width: float = 1.0

    def residuals(self, z: FloatArray) -> FloatArray:
        assert self.scalar is not None
        z = np.atleast_2d(z)
        own = Target.residuals(self, z)
        try:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                pinned = (self.at - self.scalar.of(self.theta(z))) / self.width
        except (EstimationError, ModelError):
            pinned = np.full(len(z), np.inf)
        return np.column_stack([own, np.where(np.isfinite(pinned), pinned, np.inf)])

    def jacobian(self, z: FloatArray) -> FloatArray:
        assert self.scalar is not None
        own = Target.jacobian(self, z)
        slope = np.reshape([self.scalar.slope(self.theta(at)) for at in np.atleast_2d(z)], z.shape) @ self.problem.factor
        return np.concatenate([own, slope[..., None, :] / self.width], axis=-2)


class _Walk:
    """Points of a profile, walked outwards from the optimum on either side."""

    def __init__(self, target: Target, scalar: Scalar, z: FloatArray, least: float, reach: float, threshold: float) -> None:
        self.target, self.scalar, self.z, self.least = target, scalar, z, least
        self.reach, self.threshold = reach, threshold
        h = target.jacobian(z)
        slope = scalar.slope(target.theta(z)) @ target.problem.factor
        along = np.linalg.solve(h.T @ h + np.eye(z.size), slope)
        self.sd = float(np.sqrt(slope @ along))
        self.along = along / self.sd**2  # dz per unit of g in the Gaussian of the curvature
        self.g = float(scalar.of(target.theta(z)[None])[0])
        self.values, self.objectives = [self.g], [least]
        self.lowest, self.z_lowest = least, z

    def point(self, at: float, z: FloatArray, g: float) -> tuple[float, float, FloatArray]:
        """A point near `at`, from z where the scalar is g: the scalar, the root of twice its rise, and its place."""
        pinned = _Pinned(
            self.target.problem, self.target.sd, self.target.solves, scalar=self.scalar, at=at, width=WIDTH * self.sd
        )
        value, found = descend(pinned, z + (at - g) * self.along)
        if not np.isfinite(value):  # the straight way leads out of where the model has solutions
            value, found = descend(pinned, z)
        objective = float(self.target.objective(found)[0])
        reached = float(self.scalar.of(self.target.theta(found)[None])[0])
        self.values.append(reached)
        self.objectives.append(objective)
        if objective < self.lowest:
            self.lowest, self.z_lowest = objective, found
        return reached, float(np.sqrt(2.0 * max(objective - self.least, 0.0))), found

    def side(self, sign: int) -> float | None:
        """The end of the interval below (-1) or above (1), None where there is none within reach."""
        g, root, z, step = self.g, 0.0, self.z, 0.8 * self.sd
        for _ in range(STEPS):
            g1, root1, z1 = self.point(g + sign * min(step, self.reach), z, g)
            moved = sign * (g1 - g)
            if moved < 1e-3 * step:  # the model has no solutions further out
                return None
            if root1 >= self.threshold:
                return self._refined(sign, (g, root, z), (g1, root1, z1))
            if sign * (g1 - self.g) > self.reach:
                return None
            pace = max((root1 - root) / moved, 1e-12)
            step = float(np.clip(1.1 * (self.threshold - root1) / pace, 0.2 * self.sd, 2.0 * step))
            g, root, z = g1, root1, z1
        return None

    def _refined(self, sign: int, inside: tuple[float, float, FloatArray], outside: tuple[float, float, FloatArray]) -> float:
        """Where the rise meets the threshold, between a point inside and one outside: regula falsi with bisection."""
        for step in range(REFINEMENTS):
            if outside[1] - self.threshold < NEAR or self.threshold - inside[1] < NEAR:
                break
            share = (self.threshold - inside[1]) / (outside[1] - inside[1]) if step % 3 < 2 else 0.5
            middle = self.point(inside[0] + share * (outside[0] - inside[0]), inside[2], inside[0])
            if not inside[0] * sign < middle[0] * sign < outside[0] * sign:
                break
            inside, outside = (middle, outside) if middle[1] < self.threshold else (inside, middle)
        share = (self.threshold - inside[1]) / max(outside[1] - inside[1], 1e-12)
        return float(inside[0] + share * (outside[0] - inside[0]))
