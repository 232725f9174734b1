"""From a model, parameters and a schedule to amounts and activities over time, and their time integrals.

Activity follows the ligand. Where every vial's share of radioactive ligand follows one decay curve (a single administration, or
one vial given in parts), the share of radioactive ligand is the same everywhere and activity is that share of the total amount
(hot-fraction law, exact). Otherwise each nuclide is a label of its own, carried by the total: linear in its own amount, bound
by the receptors that the total leaves free, and lost by decay.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import xarray as xr

from tdt_core.errors import EstimationError, InputError, ModelError
from tdt_core.kinetics.network import Network, Transfer
from tdt_core.kinetics.rosenbrock import Course, Solution, solve
from tdt_core.kinetics.symbolic import Tables, tables
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration

FloatArray = npt.NDArray[np.float64]
Parameters = Mapping[str, Any]

MIN_PER_H = 60.0
HORIZON_HALF_LIVES = 10.0
TOTAL = "total"


@runtime_checkable
class OdeModel(Hashable, Protocol):
    """What can be simulated: a structure, and coefficients that follow from named parameters. Equal ones share a structure."""

    @property
    def regions(self) -> tuple[str, ...]:
        """Regions in the order of every output."""

    @property
    def entry(self) -> tuple[str, str]:
        """Region and part that administrations enter."""

    def network(self, labels: Sequence[str] = ("ligand",), occupying: Sequence[str] | None = None) -> Network:
        """States and flows of each label; `occupying` names the labels that fill receptors."""

    def coefficients(self, overrides: Parameters | None = None) -> Mapping[str, Any]:
        """Coefficients of the network, (m,) each, from parameters by name."""


def simulate(
    model: OdeModel,
    parameters: Parameters | None,
    schedule: Sequence[Administration],
    times_h: Sequence[float] | FloatArray,
    *,
    end_h: float | None = None,
    rtol: float = 1e-8,
) -> xr.Dataset:
    """One patient.

    Parameters
    ----------
    parameters : values by name for whatever differs from the model's own; rules are recomputed from them.
    schedule : administrations with activity, nuclide and total ligand amount; `duration_h` > 0 is an infusion.
    times_h : hours from the origin of the schedule; before the first administration everything is 0, at a bolus it is in.
    end_h : where time integrals end, not before the last of `times_h`; by default ten half-lives after the last
        administration of each nuclide, or the last of `times_h` where that is later.
    rtol : tolerance of each step.

    Returns
    -------
    Dataset over `label` ("total", then each nuclide), `region`, `part` (sub-compartment) and `time_h`: `amount_nmol`
    (ligand; of a nuclide its radioactive ligand), `activity_mbq` (decay included; "total" is the sum) and `tia_mbq_h` by label
    and region up to `end_h`. Parts that a region does not have hold 0.

    Raises
    ------
    InputError : times or a schedule that cannot be meant. ModelError : parameters. EstimationError : the solver gave up.
    """
    run = plan(model, schedule, times_h, end_h, rtol, by_part=True)
    coefficients = run.network.gather(with_decay(model.coefficients(parameters), run.labels))
    if len(coefficients) != 1:
        raise ModelError(
            f"{len(coefficients)} sets of parameters", expected="one", remedy="use simulate_batch", kind="model.batch"
        )
    found = solve(run.tables, coefficients, run.course, rtol, run.scale_nmol)
    if found.failed[0]:
        raise EstimationError(
            "the solver could not follow the model", remedy="look for extreme parameters", kind="model.solver"
        )
    data = dataset(run, found).isel(member=0, drop=True)
    return data.assign_attrs(rtol=rtol, steps=int(found.steps[0]))


def simulate_batch(
    model: OdeModel,
    parameters: Parameters | xr.DataArray,
    schedule: Sequence[Administration],
    times_h: Sequence[float] | FloatArray,
    *,
    end_h: float | None = None,
    rtol: float = 1e-5,
) -> xr.Dataset:
    """Many patients or draws with one schedule.

    Parameters
    ----------
    parameters : name -> (m,) values, or a scalar that all members share; or a (member, parameter) array whose coordinate
        `parameter` holds the names.

    Returns
    -------
    As `simulate`, with a leading `member` and summed over parts; `failed` (member) marks members whose numbers stopped being
    finite: their values are NaN, the others stand.
    """
    run = plan(model, schedule, times_h, end_h, rtol, by_part=False)
    if isinstance(parameters, xr.DataArray):
        parameters = _by_name(parameters)
    found = solve(
        run.tables,
        run.network.gather(with_decay(model.coefficients(parameters), run.labels)),
        run.course,
        rtol,
        run.scale_nmol,
    )
    data = dataset(run, found)
    data["failed"] = ("member", found.failed)
    return data.assign_attrs(rtol=rtol)


def _by_name(parameters: xr.DataArray) -> dict[str, FloatArray]:
    if set(parameters.dims) != {"member", "parameter"} or "parameter" not in parameters.coords:
        raise InputError(
            f"parameters over {', '.join(map(str, parameters.dims))}",
            expected="a (member, parameter) array with the names as coordinate `parameter`",
            kind="input.parameters",
        )
    return {str(name): parameters.sel(parameter=name).to_numpy() for name in parameters["parameter"].to_numpy()}


@dataclass(frozen=True, eq=False)
class Run:
    """What one schedule makes of a model. `labels` are the carried nuclides, none where the hot-fraction law holds."""

    network: Network
    tables: Tables
    course: Course
    labels: tuple[str, ...]
    scale_nmol: float
    regions: tuple[str, ...]
    parts: tuple[str, ...]
    rows: tuple[tuple[str, str, str], ...]
    times_h: FloatArray
    order: npt.NDArray[np.int64]
    schedule: tuple[Administration, ...]
    end_h: float


def plan(
    model: OdeModel,
    schedule: Sequence[Administration],
    times_h: Sequence[float] | FloatArray,
    end_h: float | None,
    rtol: float,
    by_part: bool,
) -> Run:
    """What a schedule makes of a model: structure, index tables, events and rows of the output."""
    given = tuple(sorted(schedule, key=lambda a: a.time_h))
    times = np.atleast_1d(np.asarray(times_h, dtype=float))
    _check(given, times, end_h, rtol)
    last = max(HORIZON_HALF_LIVES * np.log(2) / _decay_per_h(a.nuclide) + a.time_h + a.duration_h for a in given)
    end = float(max(last if end_h is None else end_h, times.max(initial=given[0].time_h)))
    nuclides = tuple(dict.fromkeys(a.nuclide for a in given))
    labels = () if _one_share(given) else nuclides
    network, index_tables = _compiled(model, labels)
    regions = model.regions
    parts = tuple(dict.fromkeys(s.part for s in network.states)) if by_part else ("",)
    carried = (TOTAL, *labels) if labels else (network.states[0].label,)
    rows = tuple((label, region, part) for label in carried for region in regions for part in parts)
    members = [[int(i) for i in network.select(label, region, part or None)] for label, region, part in rows]
    order = np.argsort(times, kind="stable")
    scale = sum(_amount(a) for a in given)
    course = _course(model, network, index_tables, given, labels, end, times[order], members, regions)
    return Run(network, index_tables, course, labels, scale, regions, parts, rows, times, order, given, end)


def check_schedule(given: Sequence[Administration]) -> None:
    """Refuse a schedule that is empty, lacks ligand amounts, mixes ligands or holds impossible durations."""
    if not given:
        raise InputError("a schedule without an administration", expected="at least one", kind="input.schedule")
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
    if len(ligands) > 1:
        raise InputError(
            f"a schedule of the ligands {', '.join(ligands)}",
            expected="one ligand in a simulation",
            remedy="simulate each ligand on its own; their competition for receptors is not modelled",
            kind="input.schedule",
        )


def _check(given: Sequence[Administration], times: FloatArray, end_h: float | None, rtol: float) -> None:
    check_schedule(given)
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


def _decay_per_h(name: str) -> float:
    return float(nuclide(name).decay_constant_per_h)


def _amount(a: Administration) -> float:
    """nmol that entered the patient: the residual takes its share of the ligand too."""
    assert a.amount_nmol is not None  # checked at the boundary
    return a.amount_nmol * a.net_activity_mbq / a.activity_mbq


def _one_share(given: Sequence[Administration]) -> bool:
    """Whether one decay curve tells the radioactive share of every vial at every time."""
    if len({a.nuclide for a in given}) > 1:
        return False
    decay = _decay_per_h(given[0].nuclide)
    shares = [a.net_activity_mbq / _amount(a) * np.exp(decay * (a.time_h - given[0].time_h)) for a in given]
    # an infusion's activity is that at its start, so that its share decays in the syringe as in the body
    return bool(np.allclose(shares, shares[0], rtol=1e-12, atol=0.0))


@lru_cache(maxsize=128)  # a structure for each patient with lesions of his own would pile up
def _compiled(model: Hashable, labels: tuple[str, ...]) -> tuple[Network, Tables]:
    assert isinstance(model, OdeModel)
    if not labels:
        network = model.network()
        return network, tables(network)
    base = model.network((TOTAL, *labels), occupying=(TOTAL,))
    decays = tuple(Transfer(s.name, None, f"decay/{s.label}") for s in base.states if s.label in labels)
    network = Network(base.states, base.transfers + decays, base.pools, base.bindings)
    return network, tables(network)


def with_decay(values: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """Coefficients with the decay constants (1/min) of carried labels."""
    return {**values, **{f"decay/{name}": _decay_per_h(name) / MIN_PER_H for name in labels}}


def _course(
    model: OdeModel,
    network: Network,
    index_tables: Tables,
    given: Sequence[Administration],
    labels: Sequence[str],
    end_h: float,
    times_h: FloatArray,
    members: Sequence[Sequence[int]],
    regions: Sequence[str],
) -> Course:
    n = len(network.states)
    marks = sorted({t for a in given for t in (a.time_h, a.time_h + a.duration_h)} | {end_h})
    marks = [m for m in marks if m <= end_h]
    event_min = np.array(marks) * MIN_PER_H
    bolus, inflow, inflow_decay = np.zeros((len(marks), n)), np.zeros((len(marks), n)), np.zeros(n)
    scale = sum(_amount(a) for a in given)
    for a in given:
        sources = [(TOTAL if labels else network.states[0].label, _amount(a))]
        if labels:
            # a label is linear in its own amount, so it travels in units in which all its administrations make `scale` nmol
            activity = sum(b.net_activity_mbq for b in given if b.nuclide == a.nuclide)
            sources.append((a.nuclide, scale * a.net_activity_mbq / activity))
        for label, amount in sources:
            at = index_tables.place[network.select(label, *model.entry)[0]]
            # what waits in the syringe decays there
            inflow_decay[at] = _decay_per_h(label) / MIN_PER_H if label in labels else 0.0
            if a.duration_h <= 0:
                if a.time_h in marks:
                    bolus[marks.index(a.time_h), at] += amount
                continue
            for e, mark in enumerate(marks):
                if a.time_h <= mark < a.time_h + a.duration_h:
                    left = np.exp(-inflow_decay[at] * (mark - a.time_h) * MIN_PER_H)
                    inflow[e, at] += left * amount / (a.duration_h * MIN_PER_H)
    row_ptr, row_state = _rows(index_tables, members)
    integral_ptr, integral_state = _rows(index_tables, _integrals(network, labels, regions))
    # a carried label decays by itself; the total is weighted by its nuclide's decay
    decay = 0.0 if labels else _decay_per_h(given[0].nuclide) / MIN_PER_H
    # the solver reports an event's own time before the event; a hair later the bolus is in, as at the first one
    output_min = times_h * MIN_PER_H
    output_min = np.where(np.isin(output_min, event_min[1:-1]), np.nextafter(output_min, np.inf), output_min)
    return Course(
        event_min,
        bolus,
        inflow,
        inflow_decay,
        output_min,
        row_ptr,
        row_state,
        integral_ptr,
        integral_state,
        decay,
        given[0].time_h * MIN_PER_H,
    )


def _rows(index_tables: Tables, members: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    ptr = np.cumsum([0, *(len(m) for m in members)]).astype(np.int32)
    flat = np.array([index_tables.place[i] for m in members for i in m], dtype=np.int32)
    return ptr, flat


def _integrals(network: Network, labels: Sequence[str], regions: Sequence[str]) -> list[list[int]]:
    """States of each time integral, label by label, region by region."""
    carried = list(labels) or [network.states[0].label]
    return [[int(i) for i in network.select(label, region)] for label in carried for region in regions]


def dataset(run: Run, found: Solution) -> xr.Dataset:
    """What the solver found in the units and names of the outside; linear in the solution."""
    m, given = len(found.failed), run.schedule
    nuclides = tuple(dict.fromkeys(a.nuclide for a in given))
    shape = (len(run.labels) + 1, len(run.regions), len(run.parts))
    unsorted = np.empty_like(found.amounts)
    unsorted[:, run.order] = found.amounts
    travelled = np.moveaxis(unsorted.reshape(m, len(run.times_h), *shape), 1, -1)  # (m, label, region, part, time)
    integrals = found.integrals.reshape(m, max(len(run.labels), 1), len(run.regions))
    total = travelled[:, 0]
    if run.labels:
        units = [sum(a.net_activity_mbq for a in given if a.nuclide == n) / run.scale_nmol for n in nuclides]
        activity = [travelled[:, k + 1] * unit for k, unit in enumerate(units)]
        tia = [integrals[:, k] * unit / MIN_PER_H for k, unit in enumerate(units)]
    else:
        share = given[0].net_activity_mbq / _amount(given[0])
        passed = np.maximum(run.times_h - given[0].time_h, 0.0)
        activity = [total * share * np.exp(-_decay_per_h(nuclides[0]) * passed)]
        tia = [integrals[:, 0] * share / MIN_PER_H]
    hot = [a / nuclide(n).mbq_per_nmol for a, n in zip(activity, nuclides, strict=True)]
    stacked = {
        "amount_nmol": np.stack([total, *hot], axis=1),
        "activity_mbq": np.stack([sum(activity), *activity], axis=1),
        "tia_mbq_h": np.stack([sum(tia), *tia], axis=1),
    }
    dims = ("member", "label", "region", "part", "time_h")
    units_of = {"amount_nmol": "nmol", "activity_mbq": "MBq", "tia_mbq_h": "MBq h"}
    data = xr.Dataset(
        {
            name: (dims if name != "tia_mbq_h" else dims[:3], values, {"units": units_of[name]})
            for name, values in stacked.items()
        },
        coords={
            "label": [TOTAL, *nuclides],
            "region": list(run.regions),
            "part": list(run.parts),
            "time_h": ("time_h", run.times_h, {"units": "h"}),
        },
        attrs={"end_h": run.end_h},
    )
    return data if run.parts != ("",) else data.isel(part=0, drop=True)
