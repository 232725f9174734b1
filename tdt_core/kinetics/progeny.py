"""Where progeny decay: with their parent, or where a rung says that a daughter goes.

What a daughter does on its own is told as a shift: its activity beyond what its parent makes in place. It is positive where
daughters gather and negative where they leave, and over all regions, excretion and what has no region it sums to nothing, for
no decay is made or lost. A nuclide without followed daughters, and a rung that follows none, has no shifts: all as in place.

Everything that is linear in activity takes sources: the parent's regions with all progeny in place, then for each followed
daughter its shifts by region, which carry the energy of the daughter and of what follows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from tdt_core.kinetics.daughters import daughters_of, drawn
from tdt_core.kinetics.ladder import KineticModel
from tdt_core.nuclides import emissions
from tdt_core.twin import Administration

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Shift:
    """What one daughter does beyond decaying where its parent does, draw by draw.

    Attributes
    ----------
    tia_mbq_h : (m, regions) time-integrated activity, nowhere below minus what the parent makes in place.
    activity_mbq : (m, regions, t) at the times that were asked for.
    excreted_mbq_h, unplaced_mbq_h : (m,) what leaves the body, and what decays in it where the patient has no region.
    """

    daughter: str
    tia_mbq_h: FloatArray
    activity_mbq: FloatArray
    excreted_mbq_h: FloatArray
    unplaced_mbq_h: FloatArray


@runtime_checkable
class FollowsDaughters(Protocol):
    """A rung that follows daughters off their ligand."""

    def daughter_shifts(
        self, theta: FloatArray, administration: Administration, times_h: FloatArray, quantities: Mapping[str, Any]
    ) -> tuple[Shift, ...]:
        """A shift for each followed daughter, at (t,) hours; `quantities`: of `pbrpk_daughters.csv`, () or (m,)."""
        ...


def followed(rung: KineticModel, nuclide: str) -> tuple[str, ...]:
    """Daughters of a nuclide that a rung follows."""
    return daughters_of(nuclide) if isinstance(rung, FollowsDaughters) else ()


def kept_in_place(rung: KineticModel, nuclide: str) -> tuple[str, ...]:
    """Daughters that are known to leave, and that a rung lets decay where their parent does."""
    return tuple(d for d in daughters_of(nuclide) if d not in followed(rung, nuclide))


def shifts(
    rung: KineticModel, theta: FloatArray, administration: Administration, times_h: FloatArray | Sequence[float] = ()
) -> tuple[Shift, ...]:
    """Shifts of (m, n) theta, in the order of `followed`.

    What free daughters do in a patient is assumed, so the draws hold its spread: draw i has the same quantities of
    `pbrpk_daughters.csv` in every cycle, as the same patient would.
    """
    if not isinstance(rung, FollowsDaughters) or not followed(rung, administration.nuclide):
        return ()
    theta = np.atleast_2d(theta)
    return rung.daughter_shifts(theta, administration, np.asarray(times_h, dtype=float), drawn(len(theta)))


def source_activity(rung: KineticModel, theta: FloatArray, administration: Administration) -> FloatArray:
    """(m, n) theta -> (m, sources) MBq h: the parent by region, then the shifts of each followed daughter by region."""
    parent = rung.time_integrated_activity(theta, administration)
    return np.concatenate([parent, *(s.tia_mbq_h for s in shifts(rung, theta, administration))], axis=1)


def energy_share(parent: str, daughter: str) -> float:
    """Energy of charged particles per decay of a daughter with what follows it, over that of its parent's whole chain."""
    return emissions(daughter, "all").charged_kev / emissions(parent).charged_kev


def as_parent(sources: FloatArray, nuclide: str, daughters: Sequence[str]) -> FloatArray:
    """(m, sources) -> (m, regions) of a parent in place that gives each region the same energy of charged particles."""
    parent, *moved = np.split(sources, 1 + len(daughters), axis=1)
    return np.asarray(sum((energy_share(nuclide, d) * x for d, x in zip(daughters, moved, strict=True)), parent))


def activity_by_energy(
    rung: KineticModel, theta: FloatArray, administration: Administration, times_h: FloatArray
) -> FloatArray:
    """(m, regions, t) MBq of a parent in place that gives each region the same energy of charged particles at the time."""
    found = rung.activity(theta, administration, times_h)
    for shift in shifts(rung, theta, administration, times_h):
        found = found + energy_share(administration.nuclide, shift.daughter) * shift.activity_mbq
    return found
