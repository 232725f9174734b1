"""What a schedule of administrations is for a model: checks, amounts, and when one decay curve tells all vials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tdt_core.errors import InputError
from tdt_core.nuclides import normalise_name, nuclide
from tdt_core.twin import Administration

FloatArray = npt.NDArray[np.float64]

MIN_PER_H = 60.0


def in_order(schedule: Sequence[Administration]) -> tuple[Administration, ...]:
    """A schedule in order of time, each nuclide by one name (`Lu-177` for `177Lu`), so that it is one label."""
    named = (replace(a, nuclide=normalise_name(a.nuclide)) if a.nuclide else a for a in schedule)
    return tuple(sorted(named, key=lambda a: a.time_h))


def check_schedule(given: Sequence[Administration], *, several: bool = False) -> None:
    """Refuse a schedule that is empty, lacks ligand amounts or holds impossible durations.

    several : whether several ligands, and cold ligand, are allowed.
    """
    if not given:
        raise InputError("a schedule without an administration", expected="at least one", kind="input.schedule")
    if not any(a.nuclide for a in given):
        raise InputError("a schedule without activity", expected="at least one administration of it", kind="input.schedule")
    for a in given:
        if not (np.isfinite(a.duration_h) and a.duration_h >= 0):
            raise InputError(
                f"the administration at {a.time_h:g} h lasts {a.duration_h:g} h",
                expected="0 for a bolus, or the hours of the infusion",
                kind="input.schedule",
            )
        if a.amount_nmol is None:
            raise InputError(
                f"the administration at {a.time_h:g} h has no ligand amount",
                expected="amount_nmol, because receptors saturate",
                remedy="record the ligand amount of the vial",
                kind="model.amount",
            )
    ligands = sorted({a.ligand for a in given})
    if len(ligands) > 1 and not several:
        raise InputError(
            f"a schedule of the ligands {', '.join(ligands)}",
            expected="one ligand",
            remedy="use a whole-body model and simulate, where ligands compete for receptors",
            kind="input.schedule",
        )
    if not several and not all(a.nuclide for a in given):
        raise InputError("a schedule with cold ligand", expected="activity in each vial", kind="input.schedule")


def check_times(given: Sequence[Administration], times: FloatArray, end_h: float | None, rtol: float) -> None:
    """Refuse times, an end or a tolerance that cannot be meant."""
    if times.ndim > 1 or not np.isfinite(times).all():
        raise InputError("times that are not finite, or not a list", expected="hours from the origin", kind="input.time")
    if not 0 < rtol < 1:
        raise InputError(f"a relative tolerance of {rtol:g}", expected="more than 0, less than 1", kind="input.tolerance")
    if end_h is not None and not (np.isfinite(end_h) and end_h > given[0].time_h):
        raise InputError(
            f"the end is {end_h:g} h, the first administration {given[0].time_h:g} h",
            expected="an end after it",
            kind="input.time",
        )
    if end_h is not None and end_h < times.max(initial=end_h):
        raise InputError(
            f"times up to {times.max():g} h, but time integrals that end at {end_h:g} h",
            expected="no time after the end",
            remedy="leave these times out, or the end",
            kind="input.time",
        )


def decay_per_h(name: str) -> float:
    """Decay constant of a nuclide, 1/h."""
    return float(nuclide(name).decay_constant_per_h)


def decay_per_min(name: str) -> float:
    """Decay constant of a nuclide, 1/min."""
    return decay_per_h(name) / MIN_PER_H


def amount_nmol(a: Administration) -> float:
    """nmol that entered the patient: the residual takes its share of the ligand too."""
    assert a.amount_nmol is not None  # checked at the boundary
    return a.amount_nmol * a.net_activity_mbq / a.activity_mbq if a.nuclide else a.amount_nmol


def administered(given: Sequence[Administration]) -> tuple[str, ...]:
    """Nuclides of a schedule, in order."""
    return tuple(dict.fromkeys(a.nuclide for a in given if a.nuclide))


def one_share(given: Sequence[Administration]) -> bool:
    """Whether one decay curve tells the radioactive share of every vial at every time."""
    if len({a.nuclide for a in given}) > 1:
        return False
    decay = decay_per_h(given[0].nuclide)
    shares = [a.net_activity_mbq / amount_nmol(a) * np.exp(decay * (a.time_h - given[0].time_h)) for a in given]
    # an infusion's activity is that at its start, so that its share decays in the syringe as in the body
    return bool(np.allclose(shares, shares[0], rtol=1e-12, atol=0.0))
