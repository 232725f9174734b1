"""Which measurement next: sets of candidate scans ranked by how much they are expected to tell of a decision quantity.

What is believed is drawn (m draws of parameters and nuisances), each candidate's data are predicted for every draw, and the
variance that a set of candidates leaves in q = ln quantity is that of the best linear estimator,

    var(q | y) = var(q) - c' (S + R)^-1 c,   S = cov(h), c = cov(h, q), R the independent errors,

exact where all is linear and Gaussian. Scans of one cycle share the camera's calibration and the recovery of their region, so
two scans tell less than twice one. S and c are corrected for the number of draws, as an adjusted coefficient of determination
is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice

import numpy as np
import numpy.typing as npt

from tdt_core.assimilation.problem import Prior, Problem, build_problem
from tdt_core.errors import EstimationError
from tdt_core.kinetics import KineticModel
from tdt_core.twin import Evidence, Posterior

FloatArray = npt.NDArray[np.float64]

DRAWS = 4000
MOST_SETS = 20_000


@dataclass(frozen=True)
class Worth:
    """A set of candidates: what it is expected to leave of the sd of ln quantity, and the share of variance it removes."""

    names: tuple[str, ...]
    sd_before: float
    sd_after: float

    @property
    def reduction(self) -> float:
        """Share of the variance removed, 0 to 1."""
        return 1.0 - (self.sd_after / self.sd_before) ** 2


def design(
    belief: Prior | Posterior,
    candidates: Mapping[str, Evidence],
    quantity: Callable[[FloatArray], FloatArray],
    *,
    model: KineticModel,
    size: int = 1,
    always: Sequence[str] = (),
    n_draws: int = DRAWS,
    seed: tuple[int, ...] = (0,),
) -> tuple[Worth, ...]:
    """Sets of `size` candidates, the most telling first.

    Parameters
    ----------
    belief : prior of the cycle to be measured, or the posterior of one that is under way (its nuisances are then shared with
        candidates of the same camera and regions).
    candidates : name -> plan of the measurement: its administrations, regions, times and error budgets; values are ignored.
    quantity : (m, n) parameters of the model -> (m,) positive quantity, such as an absorbed dose.
    always : candidates that are measured in any case, part of every set.

    Raises
    ------
    EstimationError : no candidates, more wanted than there are, too many sets, a quantity that is not positive.
    """
    free = [name for name in candidates if name not in always]
    missing = [name for name in always if name not in candidates]
    if missing or not 1 <= size <= len(free):
        raise EstimationError(
            f"sets of {size} out of {len(free)} candidates" + (f", {missing} not among them" if missing else ""),
            expected="at least one candidate, and no more wanted than there are",
            kind="estimation.design",
        )
    sets = list(combinations(free, size))
    if len(sets) > MOST_SETS:
        raise EstimationError(
            f"{len(sets)} sets of {size} candidates",
            expected=f"at most {MOST_SETS}",
            remedy="offer fewer candidates, or choose one after the other",
            kind="estimation.design",
        )
    n = len(tuple(model.parameters))
    plan, sizes = _together(candidates)
    problem = build_problem(Prior(belief.names[:n], belief.mean[:n], belief.covariance[:n, :n], "design"), plan, model)
    members = _members(problem, plan, sizes)
    rng = np.random.default_rng(list(seed))
    theta = problem.mean + rng.standard_normal((n_draws, problem.mean.size)) @ problem.factor.T
    theta = _with_known(theta, problem.names, belief, rng)
    values = quantity(theta[:, :n])
    if values.shape != (n_draws,) or not (values > 0).all():
        raise EstimationError(
            "a quantity that is not positive", expected="one positive value per draw", kind="estimation.design"
        )
    q = np.log(values)
    h = problem.predict(theta)
    joint = np.cov(np.column_stack([h, q]), rowvar=False)
    before = float(np.sqrt(joint[-1, -1]))

    def worth(names: Iterable[str]) -> Worth:
        chosen = tuple(names)
        index = np.concatenate([members[name] for name in chosen])
        total = joint[np.ix_(index, index)] + np.diag(problem.sd[index] ** 2)
        told = float(joint[index, -1] @ np.linalg.solve(total, joint[index, -1])) / before**2
        adjusted = 1.0 - (1.0 - min(told, 1.0)) * (n_draws - 1) / max(n_draws - 1 - index.size, 1)
        return Worth(chosen, before, before * float(np.sqrt(1.0 - np.clip(adjusted, 0.0, 1.0))))

    return tuple(sorted((worth((*always, *chosen)) for chosen in sets), key=lambda w: w.sd_after))


def _together(candidates: Mapping[str, Evidence]) -> tuple[Evidence, dict[str, int]]:
    """One plan of all candidates, and how many of its activities each brings, in their order. Samples are no candidates."""
    plans = list(candidates.values())
    administrations = tuple(dict.fromkeys(a for plan in plans for a in plan.administrations))
    activities = tuple(replace(d, activity_mbq=1.0) for plan in plans for d in plan.activities)
    together = replace(plans[0], administrations=administrations, activities=activities, samples=())
    return together, {name: len(plan.activities) for name, plan in candidates.items()}


def _members(problem: Problem, plan: Evidence, sizes: Mapping[str, int]) -> dict[str, npt.NDArray[np.intp]]:
    """Candidate -> which data of the problem are its own; activities that the model has no region for are none."""
    where = {id(datum.source): i for i, datum in enumerate(problem.data)}
    planned = iter(plan.activities)
    return {
        name: np.array([where[id(a)] for a in islice(planned, size) if id(a) in where], dtype=np.intp)
        for name, size in sizes.items()
    }


def _with_known(theta: FloatArray, names: tuple[str, ...], belief: Prior | Posterior, rng: np.random.Generator) -> FloatArray:
    """Draws in which the nuisances that a posterior knows take its joint draws, parameters with them."""
    shared = [(i, belief.names.index(name)) for i, name in enumerate(names) if name in belief.names]
    if not isinstance(belief, Posterior):
        return theta
    known = belief.mean + rng.standard_normal((len(theta), len(belief.names))) @ belief.cholesky.T
    here, there = (list(x) for x in zip(*shared, strict=True))
    theta[:, here] = known[:, there]
    return theta
