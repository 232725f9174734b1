"""Which measurement next: sets of candidate scans and samples ranked by how much they are expected to tell of a quantity.

What is believed is drawn (m draws of parameters and nuisances), each candidate's data are predicted for every draw, and the
variance that a set of candidates leaves in q = ln quantity is that of the best linear estimator,

    var(q | y) = var(q) - c' (S + R)^-1 c,   S = cov(h), c = cov(h, q), R the independent errors,

exact where all is linear and Gaussian. Scans of one cycle share the camera's calibration and the recovery of their region, so
two scans tell less than twice one; samples of one counter share its calibration. S and c are corrected for the number of draws,
as an adjusted coefficient of determination is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice

import numpy as np
import numpy.typing as npt

from tdt_core.assimilation.experiment import as_expected
from tdt_core.assimilation.problem import Prior, Problem, build_problem
from tdt_core.errors import EstimationError
from tdt_core.kinetics import KineticModel, covariates_of, rung_for
from tdt_core.twin import Evidence, Posterior, Sample

FloatArray = npt.NDArray[np.float64]

DRAWS = 4000
"""Draws of what is believed: variances are known to sqrt(2 / 4000), 2 %."""
MOST_SETS = 20_000
"""Sets that are ranked in one call, a small linear solve each."""


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
    model: KineticModel | None = None,
    size: int = 1,
    always: Sequence[str] = (),
    n_draws: int = DRAWS,
    seed: tuple[int, ...] = (0,),
) -> tuple[Worth, ...]:
    """Sets of `size` candidates, the most telling first.

    Parameters
    ----------
    belief : prior of the cycle to be measured, or the posterior of one that is under way (its nuisances are then shared with
        candidates of the same camera, counter and regions).
    candidates : name -> plan of the measurement: its administrations, regions, times and errors; values are ignored. Samples
        before the plan's first administration are of the past and none of the candidate.
    quantity : (m, n) parameters of the model -> (m,) positive quantity, such as an absorbed dose.
    model : kinetic model of the parameters; by default that which a posterior names, for the candidates' patient and regions.
    always : candidates that are measured in any case, part of every set.

    Raises
    ------
    EstimationError : no candidates, more wanted than there are, too many sets, a quantity that is not positive or does not
        vary, a prior without the model that it is of.
    """
    free = [name for name in candidates if name not in always]
    missing = [name for name in always if name not in candidates]
    if missing or not 1 <= size <= len(free):
        raise EstimationError(
            f"sets of {size} out of {len(free)} candidates" + (f", {missing} not among them" if missing else ""),
            expected="at least one candidate, and no more wanted than there are",
            kind="estimation.design",
        )
    sets = [(*always, *chosen) for chosen in combinations(free, size)]
    return designs(belief, candidates, {"": quantity}, sets, model=model, n_draws=n_draws, seed=seed)[""]


def designs(
    belief: Prior | Posterior,
    candidates: Mapping[str, Evidence],
    quantities: Mapping[str, Callable[[FloatArray], FloatArray]],
    sets: Sequence[Sequence[str]],
    *,
    model: KineticModel | None = None,
    n_draws: int = DRAWS,
    seed: tuple[int, ...] = (0,),
) -> dict[str, tuple[Worth, ...]]:
    """By quantity, the given sets of candidates, the most telling first; see `design`."""
    if not sets or len(sets) > MOST_SETS:
        raise EstimationError(
            f"{len(sets)} sets of candidates",
            expected=f"1 to {MOST_SETS}",
            remedy="offer fewer candidates, or choose one after the other",
            kind="estimation.design",
        )
    plan, sizes = _together(candidates)
    model = model or _model_of(belief, plan)
    n = len(tuple(model.parameters))
    prior = Prior(belief.names[:n], belief.mean[:n], belief.covariance[:n, :n], "design")
    problem = build_problem(prior, plan, model)
    plan = as_expected(plan, problem, problem.mean)
    problem = build_problem(prior, plan, model)
    members = _members(problem, plan, sizes)
    rng = np.random.default_rng(list(seed))
    theta = problem.mean + rng.standard_normal((n_draws, problem.mean.size)) @ problem.factor.T
    theta = _with_known(theta, problem.names, belief, rng)
    h = problem.predict(theta)
    told = {}
    for name, quantity in quantities.items():
        values = quantity(theta[:, :n])
        if values.shape != (n_draws,) or not (values > 0).all() or np.ptp(values) == 0.0:
            raise EstimationError(
                "a quantity that is not positive, or the same in all draws",
                expected="one positive value per draw, and a spread that a measurement could lower",
                kind="estimation.design",
            )
        joint = np.cov(np.column_stack([h, np.log(values)]), rowvar=False)
        found = [_worth(tuple(x), [members[m] for m in x], np.atleast_2d(joint), problem.sd, n_draws) for x in sets]
        told[name] = tuple(sorted(found, key=lambda w: w.sd_after))
    return told


def _model_of(belief: Prior | Posterior, plan: Evidence) -> KineticModel:
    """The rung that a posterior names, for the patient of a plan and the ligand of its therapy."""
    ligands = {a.ligand for a in plan.administrations if a.intent == "therapy"}
    if not isinstance(belief, Posterior) or len(ligands) != 1:
        raise EstimationError(
            "neither the belief nor its candidates say which kinetic model the parameters are of",
            expected="`model`, or a posterior and candidates with the administrations of one therapy",
            remedy="pass model=rung_for(...)",
            kind="estimation.design",
        )
    return rung_for(belief.model, ligands.pop(), plan.regions, covariates_of(plan))


def _worth(
    names: tuple[str, ...], members: Sequence[npt.NDArray[np.intp]], joint: FloatArray, sd: FloatArray, n_draws: int
) -> Worth:
    """What the data of `members` leave; joint (d + 1, d + 1) covariance of all data and, last, of ln quantity."""
    before = float(np.sqrt(joint[-1, -1]))
    index = np.concatenate(members)
    total = joint[np.ix_(index, index)] + np.diag(sd[index] ** 2)
    told = float(joint[index, -1] @ np.linalg.solve(total, joint[index, -1])) / before**2
    adjusted = 1.0 - (1.0 - min(told, 1.0)) * (n_draws - 1) / max(n_draws - 1 - index.size, 1)
    return Worth(names, before, before * float(np.sqrt(1.0 - np.clip(adjusted, 0.0, 1.0))))


def _together(candidates: Mapping[str, Evidence]) -> tuple[Evidence, dict[str, tuple[int, int]]]:
    """One plan of all candidates, and how many of its activities and samples each brings, in their order."""
    plans = list(candidates.values())
    administrations = tuple(dict.fromkeys(a for plan in plans for a in plan.administrations))
    # named by their candidate: what two candidates have in common is measured twice, and no duplicate
    activities = tuple(
        replace(d, activity_mbq=1.0, scan=f"{name}/{d.scan}") for name, plan in candidates.items() for d in plan.activities
    )
    own = {name: _to_come(plan) for name, plan in candidates.items()}
    samples = tuple(
        replace(s, value=1.0, below=False, record=f"{name}/{s.record}") for name, planned in own.items() for s in planned
    )
    together = replace(plans[0], administrations=administrations, activities=activities, samples=samples)
    return together, {name: (len(plan.activities), len(own[name])) for name, plan in candidates.items()}


def _to_come(plan: Evidence) -> list[Sample]:
    """Samples of a plan that are part of it: those after its first administration."""
    first = min((a.time_h for a in plan.administrations), default=np.inf)
    return [s for s in plan.samples if s.holds_at_h > first]


def _members(problem: Problem, plan: Evidence, sizes: Mapping[str, tuple[int, int]]) -> dict[str, npt.NDArray[np.intp]]:
    """Candidate -> which data of the problem are its own; what the model cannot predict is none."""
    where = {id(datum.source): i for i, datum in enumerate(problem.data)}
    activities, samples = iter(plan.activities), iter(plan.samples)
    return {
        name: np.array(
            [where[id(x)] for x in (*islice(activities, images), *islice(samples, drawn)) if id(x) in where], dtype=np.intp
        )
        for name, (images, drawn) in sizes.items()
    }


def _with_known(theta: FloatArray, names: tuple[str, ...], belief: Prior | Posterior, rng: np.random.Generator) -> FloatArray:
    """Draws in which the nuisances that a posterior knows take its joint draws, parameters with them."""
    if not isinstance(belief, Posterior):
        return theta
    shared = [(i, belief.names.index(name)) for i, name in enumerate(names) if name in belief.names]
    known = belief.mean + rng.standard_normal((len(theta), len(belief.names))) @ belief.cholesky.T
    here, there = (list(x) for x in zip(*shared, strict=True))
    theta[:, here] = known[:, there]
    return theta
