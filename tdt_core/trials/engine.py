"""One virtual patient through every arm of a trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tdt_core.planning import limits as packaged_limits
from tdt_core.planning import products as packaged_products
from tdt_core.trials.arms import Arm, Course, arms
from tdt_core.trials.endpoints import ENDPOINTS, Cycle
from tdt_core.trials.outcome import cycle_dose, tissues_of
from tdt_core.trials.population import VirtualPatient, administer, draw_patient, measure
from tdt_core.twin import Administration, Evidence, Limit, Product

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """A trial: which arms, how many cycles, from which root seed. Plain data, so that it can be stored and sent.

    `limits` and `plan` are the site's; empty and None mean the packaged ones of `product`.
    """

    root_seed: int
    patients: int = 200
    arms: tuple[str, ...] = ("fixed", "proposed")
    cycles: int = 2
    product: str = "Lu-177-PSMA-617"
    rung: str = "sum_of_exponentials"
    n_draws: int = 300
    limits: tuple[Limit, ...] = ()
    plan: Product | None = None

    def policy(self) -> tuple[Product, tuple[Limit, ...]]:
        """Product and limits in force."""
        return self.plan or packaged_products()[self.product], self.limits or packaged_limits()


def simulate_patient(design: Design, number: int) -> FloatArray:
    """(arms, cycles, endpoints) results of virtual patient `number`; depends on nothing but its arguments."""
    product, limits = design.policy()
    virtual = draw_patient(design.root_seed, number, design.cycles, product, design.rung)
    results = [_follow(design, virtual, arm, product, limits) for arm in arms(design.arms)]
    return np.array([[[e.value(cycle) for e in ENDPOINTS] for cycle in cycles] for cycles in results])


def simulate_block(design: Design, numbers: Sequence[int]) -> FloatArray:
    """(patients, arms, cycles, endpoints) of several patients: one piece of work of a few seconds."""
    return np.array([simulate_patient(design, n) for n in numbers])


def _follow(design: Design, virtual: VirtualPatient, arm: Arm, product: Product, limits: tuple[Limit, ...]) -> list[Cycle]:
    given: list[Administration] = []
    evidence: list[Evidence] = []
    tissues, found = tissues_of(limits), []
    cumulative = {limit.organ: 0.0 for limit in limits}
    for k in range(design.cycles):
        course = Course(
            product, limits, virtual.rung, tuple(given), tuple(evidence), (design.root_seed, virtual.number), design.n_draws
        )
        choice = arm.choose(course)
        allowance = {x.organ: max(x.value_gy - cumulative[x.organ], 0.0) / (product.planned_cycles - k) for x in limits}
        if choice.activity_mbq is None:
            found.append(Cycle(choice, None, allowance, {x.organ: 0.0 for x in limits}))
            break
        therapy = administer(product, k + 1, choice.activity_mbq)
        dose = cycle_dose(virtual.rung, virtual.theta[k : k + 1], therapy, tissues)
        used = {x.organ: float(dose.in_quantity(x)[0]) for x in limits}
        for organ, value in used.items():
            cumulative[organ] += value
        found.append(Cycle(choice, dose, allowance, used))
        given.append(therapy)
        evidence.append(measure(virtual, k + 1, therapy))
    # a course that ends early has no further doses, and its remaining cycles say that nothing was given
    while len(found) < design.cycles:
        found.append(Cycle(choice, None, allowance, {x.organ: 0.0 for x in limits}))
    return found
