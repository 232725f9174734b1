"""`tdt design`: which measurements would tell most of a dose, of the next cycle or of one under way, told as plain JSON.

What is believed of the next cycle is the state carried on by its interval; of a cycle under way it is the state itself, so that
what was measured is known and scans share its calibration and recoveries. A scan is offered at each of the given hours, of all
regions, with the error budget that the patient's own images of the region had; samples and a PET err as
`design_candidates.csv` says. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from tdt_core.assimilation import Prior, Worth, designs, evolve, state_model, was_treated
from tdt_core.assimilation.designing import DRAWS
from tdt_core.codec import from_plain
from tdt_core.errors import InputError, UsageError
from tdt_core.kinetics import Sampled
from tdt_core.parameters import packaged_table
from tdt_core.planning.forecast import next_administration
from tdt_core.planning.outlook import ledger_names
from tdt_core.trials.outcome import cycle_dose
from tdt_core.twin import Administration, ErrorBudget, Evidence, Posterior, Product, RegionActivity, Sample, TwinState

FloatArray = npt.NDArray[np.float64]

HOURS = (1.0, 4.0, 8.0, 24.0, 48.0, 72.0, 96.0, 120.0, 144.0, 168.0, 192.0)
BLOOD_HOURS = (0.25, 1.0, 4.0, 24.0, 48.0, 72.0)
READING_HOURS = (1.0, 4.0, 24.0, 48.0, 72.0, 168.0)
NOISE = 2.0 * np.sqrt(2.0 / DRAWS)
"""Two standard deviations of a variance from so many draws, relative: sets closer than that are not told apart. All sets are
judged with the same draws, so that their differences are known better than this."""
DESIGN = 20  # stream of random numbers, see tdt_core.planning.forecast
TABLE = "design_candidates.csv"


@dataclass(frozen=True)
class Wanted:
    """How many measurements of each kind can be had, and the hours after the administration at which each is offered."""

    scans: int = 2
    hours: Sequence[float] = HOURS
    blood: int = 0
    blood_hours: Sequence[float] = BLOOD_HOURS
    readings: int = 0
    reading_hours: Sequence[float] = READING_HOURS
    pet: bool = False

    def __post_init__(self) -> None:
        kinds = (("scans", self.scans, self.hours), ("blood samples", self.blood, self.blood_hours))
        for what, count, offered in (*kinds, ("readings", self.readings, self.reading_hours)):
            times = sorted(set(offered))
            if wrong := [t for t in times if not (np.isfinite(t) and t > 0)]:
                raise UsageError(
                    f"hours of {what} {', '.join(f'{t:g}' for t in times)}: {', '.join(f'{t:g}' for t in wrong)} cannot be",
                    expected="finite hours after the administration, above 0",
                    remedy=f"leave out {', '.join(f'{t:g}' for t in wrong)}",
                    kind="usage.design",
                )
            if not 0 <= count <= len(times):
                raise UsageError(
                    f"{count} {what} out of {len(times)} times {times}",
                    expected=f"at least as many times as {what}",
                    kind="usage.design",
                )
        if not (self.scans or self.blood or self.readings or self.pet):
            raise UsageError("no measurement is wanted", expected="at least one", kind="usage.design")


def designed(
    state: TwinState, wanted: Wanted | None = None, quantity: str = "kidneys", best: int = 10, under_way: bool = False
) -> dict[str, Any]:
    """The table of `tdt design`.

    Parameters
    ----------
    quantity : name of a region or organ of the dose ledger; its absorbed dose of the cycle is what shall be told.
    under_way : measure the state's own cycle further, after its last scan, instead of the next one.

    Raises
    ------
    UsageError : hours, kinds or a quantity without meaning. InputError : a state that has seen no image, no imaging agent
    for a PET, or no therapy that could be under way.
    """
    wanted = wanted or Wanted()
    rung = state_model(state)
    names = ledger_names(rung.regions)
    if quantity not in names:
        raise UsageError(f"no dose of {quantity!r}", expected=f"one of {', '.join(names)}", kind="usage.design")
    if (wanted.blood or wanted.readings) and not isinstance(rung, Sampled):
        raise UsageError(
            f"{rung.name} does not say what blood or a reading of the whole body would show",
            expected="a state that was fitted with a whole-body rung",
            remedy="leave --blood and --readings out, or set `model`",
            kind="usage.design",
        )
    belief, given, calibration = _under_way(state) if under_way else _next_cycle(state)
    offered = _Offered(state, given, calibration, under_way)
    scans = offered.scans(wanted.hours)
    blood = offered.samples("blood", wanted.blood_hours) if wanted.blood else {}
    readings = offered.samples("whole_body", wanted.reading_hours) if wanted.readings else {}
    pet = offered.pet() if wanted.pet else {}
    if len(scans) < wanted.scans:
        raise UsageError(
            f"{wanted.scans} scans out of {len(scans)} times after the last scan of this cycle",
            expected="later times",
            kind="usage.design",
        )
    candidates = ({} if not wanted.scans else scans) | blood | readings | pet
    counts = ((scans, wanted.scans), (blood, wanted.blood), (readings, wanted.readings), (pet, len(pet)))
    sets = [sum(parts, ()) for parts in product(*(combinations(kind, count) for kind, count in counts))]

    def dose(theta: FloatArray) -> FloatArray:
        return cycle_dose(rung, theta, given, {}).of(quantity)

    seed = (int(state.identity.get("root_seed", 0)), state.cycle, DESIGN)
    alone = [(name,) for name in candidates]
    found = designs(belief, candidates, {quantity: dose}, [*sets, *alone], model=rung, seed=seed)[quantity]
    asked, single = set(sets), set(alone)
    ranked = [w for w in dict.fromkeys(found) if w.names in asked]

    least = ranked[0].sd_after

    def equal(sd: float) -> bool:
        return bool(sd**2 <= least**2 * (1.0 + NOISE))

    def told(w: Worth) -> dict[str, Any]:
        return {
            "equal_to_best": equal(w.sd_after),
            "scans": [n for n in w.names if n in scans],
            "samples": [n for n in w.names if n not in scans],
            "sd_after": w.sd_after,
            "variance_removed": w.reduction,
        }

    return {
        "state": state.id,
        "pid": state.pid,
        "cycle": state.cycle + (0 if under_way else 1),
        "under_way": under_way,
        "product": given.product,
        "quantity": quantity,
        "sd_without": ranked[0].sd_before,
        "sd_of": "of ln dose, " + ("the fit of the cycle under way" if under_way else "this state carried to the next cycle"),
        "draws": DRAWS,
        "noise": NOISE,
        "equal_sets": sum(equal(w.sd_after) for w in ranked),
        "sets_compared": len(ranked),
        "sets": [told(w) for w in ranked[:best]],
        "worst": told(ranked[-1]),
        "alone": [
            {"name": w.names[0], "sd_after": w.sd_after, "variance_removed": w.reduction}
            for w in dict.fromkeys(found)
            if w.names in single
        ],
        "offered": list(candidates),
    }


def _next_cycle(state: TwinState) -> tuple[Prior, Administration, str]:
    """What is believed of the next cycle, its standard administration, and a name for its calibration."""
    planned = from_plain(Product, state.identity["settings"]["product"])
    interval = 0.0 if state.cycle == 0 else planned.interval_h
    given = next_administration(planned, state.valid_time_h + interval, None)
    wider = float(state.summary.get("inflation", 1.0))  # as the state's own forecast took it
    return evolve(state, None, interval, wider), given, "next cycle"


def _under_way(state: TwinState) -> tuple[Posterior, Administration, str]:
    """The same of the state's own cycle. Raises InputError where no therapy was given in it."""
    if not was_treated(state):
        raise InputError(
            f"no therapy was given in cycle {state.cycle}, so none is under way",
            expected="a state whose cycle has a therapy",
            remedy="leave --under-way out",
            kind="input.cycle",
        )
    scans = sorted((a for a in state.evidence.activities if a.modality == "SPECT"), key=lambda a: a.time_h)
    return state.posterior, state.evidence.therapy(), scans[-1].calibration_id if scans else "this cycle"


@dataclass(frozen=True)
class _Offered:
    """Plans of measurements by name, `24 h` for a scan, `blood 4 h`, `whole body 24 h`, `PET 1 h`."""

    state: TwinState
    given: Administration
    calibration: str
    under_way: bool

    def _plan(self, **what: Any) -> Evidence:
        cycle = self.state.cycle + (0 if self.under_way else 1)
        nothing: dict[str, Any] = {"labs": (), "activities": (), "samples": (), "administrations": (self.given,)}
        return replace(self.state.evidence, cycle=cycle, **{**nothing, **what})

    def _later(self, hours: Sequence[float], seen_h: Sequence[float]) -> list[float]:
        """Hours in order; of a cycle under way those after what was seen of the kind."""
        last = max(seen_h, default=-np.inf) - self.given.time_h if self.under_way else -np.inf
        return [t for t in sorted(set(hours)) if t > last]

    def scans(self, hours: Sequence[float]) -> dict[str, Evidence]:
        """A SPECT of all regions at each hour."""
        seen = [a.time_h for a in self.state.evidence.activities if a.modality == "SPECT"]
        budgets = _budgets(self.state, "SPECT")
        return {
            f"{t:g} h": self._plan(activities=self._image(budgets, t, self.given, "SPECT", self.calibration))
            for t in self._later(hours, seen)
        }

    def samples(self, kind: Literal["blood", "whole_body"], hours: Sequence[float]) -> dict[str, Evidence]:
        """A sample of a kind at each hour, counted by what counted the patient's earlier ones of this cycle."""
        table = packaged_table(TABLE)
        relative, absolute, shared = (table.value(f"{kind}.{x}_sd") for x in ("relative", "absolute", "calibration"))
        seen = [s for s in self.state.evidence.samples if s.kind == kind]
        counter = seen[-1].calibration_id if seen and self.under_way else "counter"
        return {
            f"{kind.replace('_', ' ')} {t:g} h": self._plan(
                samples=(Sample(kind, self.given.time_h + t, 1.0, self.given.nuclide, relative, absolute, shared, counter),)
            )
            for t in self._later(hours, [s.time_h for s in seen])
        }

    def pet(self) -> dict[str, Evidence]:
        """A PET with the imaging agent that the patient had before. Raises InputError where he had none."""
        table = packaged_table(TABLE)
        earlier = [from_plain(Administration, a) for a in self.state.identity.get("administrations", ())]
        agents = [a for a in earlier if a.intent == "imaging" and a.nuclide]
        if not agents or self.under_way:
            raise InputError(
                "a PET before the therapy, which is under way" if self.under_way else "no imaging agent was given before",
                expected="an imaging agent among the patient's administrations, and a therapy still to come",
                remedy="leave --pet out",
                kind="input.cycle",
            )
        agent = replace(agents[-1], time_h=self.given.time_h - table.value("pet.before"))
        assumed = ErrorBudget(
            *(table.value(f"pet.{x}") for x in ("counts", "calibration", "partial_volume", "segmentation", "registration"))
        )
        own = _budgets(self.state, "PET")
        seen = {a.region for a in self.state.evidence.activities if a.modality == "PET"}
        budgets = {name: budget if name in seen else assumed for name, budget in own.items()}
        hours = table.value("pet.hours")
        images = self._image(budgets, hours, agent, "PET", "next PET")
        return {f"PET {hours:g} h": self._plan(activities=images, administrations=(agent, self.given))}

    @staticmethod
    def _image(
        budgets: dict[str, ErrorBudget], hours: float, given: Administration, modality: str, calibration: str
    ) -> tuple[RegionActivity, ...]:
        kind = cast(Literal["SPECT", "PET"], modality)
        scan = f"{modality} {hours:g} h"
        return tuple(
            RegionActivity(name, given.time_h + hours, 1.0, 1.0, 1.0, budget, scan, kind, given.nuclide, calibration)
            for name, budget in budgets.items()
        )


def _budgets(state: TwinState, modality: str) -> dict[str, ErrorBudget]:
    """Region -> error budget of its newest image of a modality, or of its newest image where there was none of that."""
    found: dict[str, ErrorBudget] = {}
    for datum in sorted(state.evidence.activities, key=lambda d: (d.modality == modality, d.time_h)):
        found[datum.region] = datum.budget
    if not found:
        raise InputError(
            f"cycle {state.cycle} brought no region activity, so how well a scan measures this patient is not known",
            expected="at least one image",
            remedy="name a state whose cycle has images",
            kind="input.cycle",
        )
    return found
