"""The kinetics of one patient from cycle to cycle, without voxels: injection, course of every pool, self dose, drift."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tdt_core.errors import ModelError
from tdt_core.phantom.anatomy import tissues
from tdt_core.phantom.draws import rows, stream
from tdt_core.phantom.kinetics import FAST, MARROW, PLASMA, SLOW, Course, SystemParameters, simulate
from tdt_core.phantom.physiology import BODY, DRIFT, Body, Physiology, draw_physiology, next_cycle, system, tissue_class
from tdt_core.phantom.types import PRODUCTS, PhantomSettings
from tdt_core.twin import Administration

HORIZON_HALF_LIVES = 12.0
MEV_TO_GY_G_PER_MBQ_H = 1.602176634e-13 * 1e6 * 3600 * 1e3
"""Gy per (MBq.h / g) and MeV per decay."""


def half_life_h(nuclide: str) -> float:
    """Physical half-life from the generator's own table."""
    return rows(DRIFT)[f"half_life.{nuclide}"].parameter.value


@dataclass(frozen=True, eq=False)
class CycleKinetics:
    """One administration and what it does. `self_dose_gy` is electron self dose to kidneys, tissues and red marrow."""

    number: int
    administration: Administration
    physiology: Physiology
    parameters: SystemParameters
    course: Course
    self_dose_gy: Mapping[str, float]


def integral(course: Course, amount: npt.NDArray[np.float64], activity_mbq: float, half_life: float) -> float:
    """Time-integrated activity (MBq.h) of a decay-free amount given on the course's times (trapezoid on a fine grid)."""
    decayed = amount * np.exp(-np.log(2) / half_life * course.times_h)
    return float(np.trapezoid(decayed, course.times_h)) * activity_mbq / course.amount_nmol


def self_doses(p: SystemParameters, course: Course, body: Body, activity_mbq: float, nuclide: str) -> dict[str, float]:
    """Mean electron self dose (Gy) of kidneys, receptor tissues and red marrow: energy of all electrons over the mass."""
    per_mev = rows(DRIFT)["energy.electron_lu177"].parameter.value / 1000 * MEV_TO_GY_G_PER_MBQ_H
    half_life = half_life_h(nuclide)
    density, out = tissues(), {}
    for i, name in enumerate(p.kidneys):
        held = sum(course.amounts[:, p.kidney_state(i, pool)] for pool in range(4))
        mass = p.lumen_l[i] / p.values["kidney.lumen_fraction"] * 1000 * density["kidney"].density_g_cm3
        out[name] = per_mev * integral(course, np.asarray(held), activity_mbq, half_life) / mass
    for i, name in enumerate(p.tissues):
        held = sum(course.amounts[:, p.tissue_state(i, pool)] for pool in range(3))
        fraction = p.values[f"{tissue_class(name)}.interstitial_fraction"]
        out[name] = (
            per_mev
            * integral(course, np.asarray(held), activity_mbq, half_life)
            / (p.interstitial_l[i] / fraction * 1000 * 1.04)
        )
    marrow, water = density["marrow"], rows(BODY)["interstitial.per_weight"].parameter.value * body.patient.weight_kg * 1000
    per_ml = (
        marrow.blood_share * course.amounts[:, PLASMA] / (body.blood_l * 1000)
        + (marrow.fast_share * course.amounts[:, FAST] + marrow.slow_share * course.amounts[:, SLOW]) / water
        + course.amounts[:, MARROW] / body.marrow_total_ml
    )
    out["red_marrow"] = per_mev * integral(course, per_ml, activity_mbq, half_life) / marrow.density_g_cm3
    return out


class Chain:
    """Cycles of one patient in order. `given` says what activity a cycle got (None: the standard one)."""

    def __init__(self, settings: PhantomSettings, body: Body, given: Callable[[int], float | None]) -> None:
        self.settings, self.body, self._given = settings, body, given
        self._done: dict[int, CycleKinetics] = {}
        self._states: dict[int, Physiology] = {1: draw_physiology(settings.seed, settings.ligand, body)}

    def forget_from(self, number: int) -> None:
        """Drop what follows from the activity of cycle `number` on."""
        self._done = {k: v for k, v in self._done.items() if k < number}
        self._states = {k: v for k, v in self._states.items() if k <= number}

    def start_h(self, number: int) -> float:
        """Start of therapy `number`, hours from the first one: planned interval with up to a day of scheduling."""
        rng = stream(self.settings.seed, "schedule", 0)
        jitter = np.clip(12 * rng.standard_normal(8), -24, 24)
        return round((number - 1) * self.settings.interval_h + (float(jitter[number - 1]) if number > 1 else 0.0), 2)

    def state(self, number: int) -> Physiology:
        """The body's kinetic parameters in a cycle; follows from the doses of the cycles before."""
        if number not in self._states:
            before = self.cycle(number - 1)
            gap = self.start_h(number) - self.start_h(number - 1)
            self._states[number] = next_cycle(self.settings.seed, before.physiology, before.self_dose_gy, gap, self.body)
        return self._states[number]

    def administration(self, number: int, specific_activity: float) -> Administration:
        """The therapy as recorded: calibrated activity, residual, ligand amount of the whole vial."""
        rng = stream(self.settings.seed, "schedule", 1, number)
        scatter, left = 1 + 0.01 * float(np.clip(rng.standard_normal(), -2.5, 2.5)), float(rng.uniform(0.003, 0.008))
        asked = self._given(number)
        activity = self.settings.standard_activity_mbq * scatter if asked is None else asked
        if not activity > 0:
            raise ModelError(f"cycle {number} got {activity} MBq", expected="> 0 MBq", kind="model.phantom")
        ligand, nuclide = PRODUCTS[self.settings.product][:2]
        return Administration(
            time_h=self.start_h(number),
            product=self.settings.product,
            ligand=ligand,
            nuclide=nuclide,
            activity_mbq=round(activity, 1),
            amount_nmol=round(activity / specific_activity, 2),
            duration_h=0.1,
            residual_mbq=round(activity * left, 1),
        )

    def cycle(self, number: int) -> CycleKinetics:
        """Kinetics of therapy `number`."""
        if number not in self._done:
            state = self.state(number)
            given = self.administration(number, state.values["ligand.specific_activity"])
            self._done[number] = self._run(number, given, state, first_void_h=2.0)
        return self._done[number]

    def pet(self) -> CycleKinetics:
        """The pre-therapy tracer, two weeks before therapy: cycle 1, with uptake that differs by organ as another ligand's."""
        state = self._pet_state()
        rng = stream(self.settings.seed, "schedule", 2)
        _, _, product, ligand, nuclide = PRODUCTS[self.settings.product]
        activity = state.values["ligand.pet_activity"]
        given = Administration(
            time_h=round(-336.0 + 24.0 * float(rng.uniform(-1, 1)), 2),
            product=product,
            ligand=ligand,
            nuclide=nuclide,
            activity_mbq=round(activity, 2),
            amount_nmol=round(state.values["ligand.pet_amount"], 3),
            duration_h=0.01,
            residual_mbq=round(activity * float(rng.uniform(0.01, 0.03)), 2),
            intent="imaging",
        )
        return self._run(0, given, state, first_void_h=0.8)

    def _pet_state(self) -> Physiology:
        state = self.state(1)
        rng, sd = stream(self.settings.seed, "schedule", 3), rows(DRIFT)["pet.agent_difference"].parameter.value
        organs = sorted({name.split(".")[0] for name in state.values})
        factor = {organ: float(np.exp(sd * rng.standard_normal())) for organ in organs}
        uptake = ("transport", "unspecific", "reabsorption", "receptor_density")
        values = {n: v * (factor[n.split(".")[0]] if n.endswith(uptake) else 1.0) for n, v in state.values.items()}
        return replace(state, values=values)

    def _run(self, number: int, given: Administration, state: Physiology, first_void_h: float) -> CycleKinetics:
        p = system(state, self.body)
        amount = (given.amount_nmol or 0.0) * given.net_activity_mbq / given.activity_mbq
        course = simulate(p, amount, HORIZON_HALF_LIVES * half_life_h(given.nuclide), first_void_h)
        doses = self_doses(p, course, self.body, given.net_activity_mbq, given.nuclide) if number else {}
        return CycleKinetics(number, given, state, p, course, doses)
