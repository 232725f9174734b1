"""Arms: how the activity of each cycle is chosen. Adding one takes a class with a `name` and `choose`, and `register`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tdt_core.assimilation.estimators import assimilate
from tdt_core.assimilation.evolution import next_prior, population_prior, transition
from tdt_core.errors import ModelError
from tdt_core.kinetics import KineticModel
from tdt_core.planning import OrganOutlook, objections, propose
from tdt_core.trials.outcome import CycleDose, cycle_dose, tissues_of
from tdt_core.twin import Administration, Evidence, Limit, Product

FloatArray = npt.NDArray[np.float64]

PREVIEW = {"most_moves": 0}
"""A trial asks for a fit at every cycle of every patient: the Laplace Gaussian, five times as fast as draws moved from it."""


@dataclass(frozen=True, eq=False)
class Course:
    """What an arm may know when it chooses: the plan, the limits, and what past cycles gave and showed."""

    product: Product
    limits: tuple[Limit, ...]
    rung: KineticModel
    given: tuple[Administration, ...]
    evidence: tuple[Evidence, ...]
    seed: tuple[int, ...]
    n_draws: int

    @property
    def next_cycle(self) -> int:
        """Number of the cycle to choose for."""
        return len(self.evidence) + 1


@dataclass(frozen=True)
class Choice:
    """An activity, or None where the arm makes no recommendation and nothing is given; `risk` as the arm sees it."""

    activity_mbq: float | None
    risk: float = float("nan")
    reason: str = ""


class Arm(Protocol):
    """A way to choose."""

    @property
    def name(self) -> str:
        """Name in the register and in results."""

    def choose(self, course: Course) -> Choice:
        """The activity of the next cycle."""


@dataclass(frozen=True)
class Fixed:
    """The product's standard activity in every cycle."""

    name: str = "fixed"

    def choose(self, course: Course) -> Choice:
        """See `Arm.choose`."""
        return Choice(course.product.standard_activity_mbq)


@dataclass(frozen=True)
class Proposed:
    """The twin's proposal: standard activity first, then from what was measured; an abstention gives nothing."""

    name: str = "proposed"

    def choose(self, course: Course) -> Choice:
        """See `Arm.choose`."""
        if not course.evidence:
            return Choice(course.product.standard_activity_mbq, reason="nothing is measured yet")
        past, ahead, against = _learn(course)
        outlooks = {}
        for limit in course.limits:
            i = ahead.names.index(limit.organ)
            outlooks[limit.organ] = OrganOutlook(
                gy_per_mbq=ahead.dose_gy[i],
                lea_catcheside=ahead.g[i],
                cumulative_gy=np.sum([dose.in_quantity(limit) for dose in past], axis=0),
            )
        remaining = course.product.planned_cycles - len(course.evidence)
        answer = propose("virtual", course.next_cycle, outlooks, course.limits, course.product, remaining, against)
        risk = float("nan") if answer.risk is None else answer.risk
        return Choice(answer.activity_mbq, risk, "; ".join(answer.reasons))


def _learn(course: Course) -> tuple[list[CycleDose], CycleDose, tuple[str, ...]]:
    """Assimilate the past cycles one by one; doses of each, the outlook per MBq, and failed diagnostics of the last.

    Draws of different cycles are paired by position only; their sum is used for the remaining allowance.
    """
    rung, tissues = course.rung, tissues_of(course.limits)
    prior, n = population_prior(rung), len(tuple(rung.parameters))
    past: list[CycleDose] = []
    for evidence in course.evidence:
        seed = (*course.seed, evidence.cycle)
        posterior = assimilate(prior, evidence, rung, seed=seed, n_draws=course.n_draws, options=PREVIEW)
        draws = posterior.draws[:, :n]
        past.append(cycle_dose(rung, draws, evidence.therapy(), tissues))
        step = transition(rung, evidence.cycle, course.product.interval_h, treated=True)
        prior = next_prior(posterior, step, "evolved")
    unit = Administration(
        time_h=course.product.interval_h * len(course.evidence),
        product=course.product.name,
        ligand=course.product.ligand,
        nuclide=course.product.nuclide,
        activity_mbq=1.0,
    )
    ahead = cycle_dose(rung, step.draws(draws, np.random.default_rng([*course.seed, course.next_cycle, 1])), unit, tissues)
    limited = {x.organ for x in course.limits}
    return past, ahead, objections(posterior.diagnostics, posterior.fit_report, rung.regions, limited)


_ARMS: dict[str, Arm] = {}


def register(arm: Arm) -> None:
    """Add an arm under its name."""
    _ARMS[arm.name] = arm


def arms(names: Sequence[str]) -> tuple[Arm, ...]:
    """Arms by name. Raises ModelError for an unknown one."""
    unknown = [n for n in names if n not in _ARMS]
    if unknown:
        raise ModelError(f"no arm named {unknown[0]!r}", expected=f"one of {sorted(_ARMS)}", kind="model.name")
    return tuple(_ARMS[n] for n in names)


register(Fixed())
register(Proposed())
