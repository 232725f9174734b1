"""All cycles in one fit: the smoother without the filter's habit of handing a Gaussian from cycle to cycle.

The parameters of all cycles are one vector with one Gaussian prior, built from the first cycle's prior and the transitions:

    theta[k+1] = A[k] theta[k] + b[k] + w[k],   w[k] ~ N(0, N[k])

where A carries the regions that both cycles share and w also holds the population's spread of regions that are new. Nuisances
are each cycle's own. The result has the form of a `Problem`, so every estimator solves it. Linear and Gaussian, its last cycle
is the Kalman filter's and its earlier ones the Rauch-Tung-Striebel smoother's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tdt_core.assimilation.evolution import births
from tdt_core.assimilation.map_laplace import MEMBERS, ROUND, descend, moved
from tdt_core.assimilation.problem import Prior, Problem, build_problem, factor_of, settled_sd
from tdt_core.assimilation.target import Fit, Target, draws_of, laplace
from tdt_core.assimilation.transitions import Transition
from tdt_core.errors import EstimationError
from tdt_core.kinetics import KineticModel
from tdt_core.reproducible import one_blas_thread
from tdt_core.twin import Evidence, Posterior

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cycle:
    """One cycle of a course: its kinetic model, its evidence, and how parameters move on from it (unused for the last)."""

    rung: KineticModel
    evidence: Evidence
    onward: Transition | None = None


@dataclass(frozen=True, eq=False)
class JointProblem:
    """As `Problem`, over the parameters of all cycles one after the other, then their nuisances in the same order.

    Attributes
    ----------
    parts : each cycle's problem. own : its parameters' positions, then its nuisances', in the joint vector.
    """

    parts: tuple[Problem, ...]
    own: tuple[npt.NDArray[np.intp], ...]
    names: tuple[str, ...]
    mean: FloatArray
    factor: FloatArray
    n_model: int
    y: FloatArray
    sd: FloatArray
    below: npt.NDArray[np.bool_]

    def predict(self, theta: FloatArray) -> FloatArray:
        """(m, p) -> (m, d) predicted data of all cycles, one after the other."""
        theta = np.atleast_2d(theta)
        return np.concatenate([part.predict(theta[:, own]) for part, own in zip(self.parts, self.own, strict=True)], axis=1)

    def jacobian(self, theta: FloatArray) -> FloatArray:
        """(..., p) -> (..., d, p) d predicted / d theta."""
        out = np.zeros((*theta.shape[:-1], self.y.size, self.mean.size))
        row = 0
        for part, own in zip(self.parts, self.own, strict=True):
            out[..., row : row + part.y.size, own] = part.jacobian(theta[..., own])
            row += part.y.size
        return out

    def of(self, cycle: int) -> npt.NDArray[np.intp]:
        """Positions of a cycle's model parameters (0 is the first of the course)."""
        return self.own[cycle][: self.parts[cycle].n_model]


def build_joint(prior: Prior, cycles: Sequence[Cycle]) -> JointProblem:
    """Bring a course together. Raises EstimationError for no cycles, or a cycle that does not say how it goes on."""
    if not cycles or any(c.onward is None for c in cycles[:-1]):
        raise EstimationError(
            f"a course of {len(cycles)} cycles, not all of which say how they go on",
            expected="at least one cycle, a transition for all but the last",
            kind="estimation.joint",
        )
    mean, covariance = prior.mean, prior.covariance
    means, blocks = [mean], [[covariance]]
    for before, after in pairwise(cycles):
        carry, offset, noise = _step(before, after)
        mean = carry @ mean + offset
        cross = [carry @ block for block in blocks[-1]]  # with each earlier cycle
        blocks.append([*cross, carry @ blocks[-1][-1] @ carry.T + noise])
        means.append(mean)
    sizes = [m.size for m in means]
    parts = tuple(
        build_problem(Prior(tuple(c.rung.parameters), m, row[-1], prior.origin), c.evidence, c.rung)
        for c, m, row in zip(cycles, means, blocks, strict=True)
    )
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    n = int(starts[-1])
    nuisances = [p.mean.size - p.n_model for p in parts]
    beyond = n + np.concatenate([[0], np.cumsum(nuisances)]).astype(int)
    whole = np.zeros((beyond[-1], beyond[-1]))
    for k, row in enumerate(blocks):
        for j, block in enumerate(row):
            whole[starts[k] : starts[k + 1], starts[j] : starts[j + 1]] = block
            whole[starts[j] : starts[j + 1], starts[k] : starts[k + 1]] = block.T
    own = []
    for k, part in enumerate(parts):
        there = np.arange(beyond[k], beyond[k + 1])
        whole[there, there] = np.diag(part.factor)[part.n_model :] ** 2
        own.append(np.concatenate([np.arange(starts[k], starts[k + 1]), there]))
    return JointProblem(
        parts=parts,
        own=tuple(own),
        names=tuple(f"cycle {c.evidence.cycle}/{name}" for c in cycles for name in c.rung.parameters)
        + tuple(f"cycle {c.evidence.cycle}/{x}" for c, p in zip(cycles, parts, strict=True) for x in p.names[p.n_model :]),
        mean=np.concatenate([*means, *(p.mean[p.n_model :] for p in parts)]),
        factor=factor_of(whole),
        n_model=n,
        y=np.concatenate([p.y for p in parts]),
        sd=np.concatenate([p.sd for p in parts]),
        below=np.concatenate([p.below for p in parts]),
    )


def _step(before: Cycle, after: Cycle) -> tuple[FloatArray, FloatArray, FloatArray]:
    """A, b, N from one cycle to the next: shared parameters move on, those of new regions are born from the population."""
    step = before.onward
    assert step is not None  # checked by the caller
    carry, offset, noise = births(after.rung, step.names)
    return carry * step.phi, carry @ step.offset + offset, carry @ step.noise @ carry.T + noise


@dataclass(frozen=True, eq=False)
class Smoothed:
    """The fit of a course: its problem, the errors (d,) of its data, the fit, and by cycle the posterior of its parameters."""

    problem: JointProblem
    sd: FloatArray
    fit: Fit

    @one_blas_thread
    def moved(self, seed: tuple[int, ...], members: int = MEMBERS) -> Smoothed:
        """The same fit with draws moved from the Laplace Gaussian to the posterior; moves cost by the cycle, so that no round
        begins after the first `ROUND` of them."""
        target, rng = Target(self.problem, self.sd), np.random.default_rng(list(seed))
        return replace(self, fit=moved(target, self.fit, rng, members, most_moves=ROUND))

    def moments(self, cycle: int) -> tuple[FloatArray, FloatArray]:
        """Mean (n,) and covariance (n, n) of a cycle's parameters, 0 the first of the course."""
        position = self.problem.of(cycle)
        covariance = self.fit.cholesky @ self.fit.cholesky.T
        return self.fit.theta[position], covariance[np.ix_(position, position)]

    def draws(self, count: int, rng: np.random.Generator) -> tuple[FloatArray, ...]:
        """By cycle (count, n) draws of its parameters, joint over the cycles."""
        drawn = draws_of(self.fit, count, rng)
        return tuple(drawn[:, self.problem.of(k)] for k in range(len(self.problem.parts)))


@one_blas_thread
def smooth(prior: Prior, cycles: Sequence[Cycle], filtered: Sequence[Posterior]) -> Smoothed:
    """The Laplace fit of all cycles at once, from where the filter ended and with the errors that its fits settled.

    Parameters
    ----------
    prior : of the first cycle. filtered : each cycle's posterior by the filter, in the same order.

    Raises
    ------
    EstimationError : a posterior of other data or parameters than its cycle's, or no solution from there.
    """
    problem = build_joint(prior, cycles)
    theta = problem.mean.copy()
    sd: list[FloatArray] = []
    for posterior, part, own in zip(filtered, problem.parts, problem.own, strict=True):
        sd.append(settled_sd(part, posterior, "estimation.joint"))
        theta[own] = posterior.mean
    target = Target(problem, np.concatenate(sd))
    start = np.asarray(np.linalg.solve(problem.factor, theta - problem.mean), dtype=np.float64)
    value, z = descend(target, start)
    if not np.isfinite(value):
        raise EstimationError(
            "the fit of all cycles has no solution where the filter ended",
            expected="a finite objective there",
            remedy="use a simpler rung for the course",
            kind="estimation.diverged",
        )
    return Smoothed(problem, target.sd, laplace(target, z, objectives=(value,)))
