"""From a model, parameters and a schedule to amounts and activities over time, and their time integrals.

Activity follows the ligand. Where every vial's share of radioactive ligand follows one decay curve (a single administration, or
one vial given in parts), the share of radioactive ligand is the same everywhere and activity is that share of the total amount
(hot-fraction law, exact). Otherwise each nuclide is a label of its own, carried by the total: linear in its own amount, bound
by the receptors that the total leaves free, and lost by decay.

Ligands of one receptor given in one schedule each have a total of their own, with their own rates, and compete for the same
receptors (`together`). Daughters of a nuclide, where the model follows them, are species like the nuclide (`daughters`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import xarray as xr

from tdt_core.errors import EstimationError, InputError, ModelError
from tdt_core.kinetics.counted import TOTAL, Counted, counted, network_of
from tdt_core.kinetics.network import Network
from tdt_core.kinetics.pbrpk import PBRPK
from tdt_core.kinetics.rosenbrock import Course, Solution, solve
from tdt_core.kinetics.schedules import MIN_PER_H as MIN_PER_H
from tdt_core.kinetics.schedules import (
    administered,
    amount_nmol,
    check_schedule,
    check_times,
    decay_per_h,
    decay_per_min,
    in_order,
    one_share,
)
from tdt_core.kinetics.structure import RECEPTORS
from tdt_core.kinetics.symbolic import Tables, tables
from tdt_core.kinetics.together import together
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration

FloatArray = npt.NDArray[np.float64]
Parameters = Mapping[str, Any]

HORIZON_HALF_LIVES = 10.0
ON_LIGAND, FREE = "on_ligand", "free"


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
    parameters : values by name for whatever differs from the model's own; rules are recomputed from them. With several ligands
        `PSMA-11/ligand.K_D` is that of one of them.
    schedule : administrations with activity, nuclide and total ligand amount; `duration_h` > 0 is an infusion. Whole-body
        models take several ligands of their receptor, and cold ligand (no nuclide, no activity).
    times_h : hours from the origin of the schedule; before the first administration everything is 0, at a bolus it is in.
    end_h : where time integrals end, not before the last of `times_h`; by default ten half-lives after the last
        administration of each nuclide, or the last of `times_h` where that is later.
    rtol : tolerance of each step.

    Returns
    -------
    Dataset over `label`, `region`, `part` (sub-compartment) and `time_h`: `amount_nmol` (ligand; of a nuclide its radioactive
    atoms), `activity_mbq` (decay included) and `tia_mbq_h` by label and region up to `end_h`. Parts that a region does not have
    hold 0. Labels: "total" (of all that was administered), each ligand where there are several, each nuclide, and of followed
    daughters the nuclide, `nuclide/on_ligand` and `nuclide/free`. With receptor turnover also `receptors_away_nmol`.

    Raises
    ------
    InputError : times or a schedule that cannot be meant. ModelError : parameters. EstimationError : the solver gave up.
    """
    run = plan(model, schedule, times_h, end_h, rtol, by_part=True)
    coefficients = run.network.gather(with_decay(run.model.coefficients(parameters), run.labels))
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
        run.network.gather(with_decay(run.model.coefficients(parameters), run.labels)),
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
    """What one schedule makes of a model.

    `model` is the one that gives the coefficients. `counted` are the species in the order of the rows, and `labels` the
    nuclides that decay among them; both are empty where the hot-fraction law holds.
    """

    model: OdeModel
    network: Network
    tables: Tables
    course: Course
    counted: tuple[Counted, ...]
    labels: tuple[str, ...]
    scale_nmol: float
    regions: tuple[str, ...]
    parts: tuple[str, ...]
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
    given = in_order(schedule)
    times = np.atleast_1d(np.asarray(times_h, dtype=float))
    whole_body = isinstance(model, PBRPK)
    check_schedule(given, several=whole_body)
    check_times(given, times, end_h, rtol)
    ligands = tuple(dict.fromkeys(a.ligand for a in given))
    followed = getattr(model, "daughters", "none") == "followed"
    if isinstance(model, PBRPK) and len(ligands) > 1:
        model = together(model, ligands)
    hot = [a for a in given if a.nuclide]
    last = max(HORIZON_HALF_LIVES * np.log(2) / decay_per_h(a.nuclide) + a.time_h + a.duration_h for a in hot)
    end = float(max(last if end_h is None else end_h, times.max(initial=given[0].time_h)))
    entries = counted(given, followed)
    if len(ligands) == 1 and one_share(given) and not any(c.is_daughter for c in entries):
        entries = ()
    network, index_tables = _compiled(model, entries)
    regions = model.regions
    parts = tuple(dict.fromkeys(s.part for s in network.states if s.label != RECEPTORS)) if by_part else ("",)
    places: dict[tuple[str, str, str], list[int]] = {}
    for i, state in enumerate(network.states):
        places.setdefault((state.label, state.region, state.part if by_part else ""), []).append(i)
    counts = [c.label for c in entries] or [network.states[0].label]
    rows = [places.get((label, region, part), []) for label in counts for region in regions for part in parts]
    if network.select(RECEPTORS).size:
        rows += [[int(i) for i in network.select(RECEPTORS, region)] for region in regions]
    order = np.argsort(times, kind="stable")
    course = _course(model, network, index_tables, given, entries, end, times[order], rows)
    labels = tuple(dict.fromkeys(c.nuclide for c in entries if c.nuclide))
    scale = sum(amount_nmol(a) for a in given)
    return Run(model, network, index_tables, course, entries, labels, scale, regions, parts, times, order, given, end)


@lru_cache(maxsize=128)  # a structure for each patient with lesions of his own would pile up
def _compiled(model: Hashable, entries: tuple[Counted, ...]) -> tuple[Network, Tables]:
    assert isinstance(model, OdeModel)
    network = network_of(model, entries) if entries else model.network()
    return network, tables(network)


def with_decay(values: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """Coefficients with the decay constants (1/min) of nuclides that are counted apart."""
    return {**values, **{f"decay/{name}": decay_per_min(name) for name in labels}}


def _course(
    model: OdeModel,
    network: Network,
    index_tables: Tables,
    given: Sequence[Administration],
    entries: Sequence[Counted],
    end_h: float,
    times_h: FloatArray,
    rows: Sequence[Sequence[int]],
) -> Course:
    n = len(network.states)
    marks = sorted({t for a in given for t in (a.time_h, a.time_h + a.duration_h)} | {end_h})
    marks = [m for m in marks if m <= end_h]
    event_min = np.array(marks) * MIN_PER_H
    bolus, inflow, inflow_decay = np.zeros((len(marks), n)), np.zeros((len(marks), n)), np.zeros(n)
    scale = sum(amount_nmol(a) for a in given)
    for a in given:
        sources = [(network.states[0].label, "", amount_nmol(a))]
        if entries:
            given_to = {(c.ligand, c.nuclide): c.label for c in entries if not c.is_daughter}
            sources = [(given_to[a.ligand, ""], "", amount_nmol(a))]
            if a.nuclide:
                # a label is linear in its own amount, so it travels in units in which all its administrations make `scale` nmol
                activity = sum(b.net_activity_mbq for b in given if b.nuclide == a.nuclide)
                sources.append((given_to[a.ligand, a.nuclide], a.nuclide, scale * a.net_activity_mbq / activity))
        for label, decaying, amount in sources:
            at = index_tables.place[network.select(label, *model.entry)[0]]
            # what waits in the syringe decays there
            inflow_decay[at] = decay_per_min(decaying) if decaying else 0.0
            if a.duration_h <= 0:
                if a.time_h in marks:
                    bolus[marks.index(a.time_h), at] += amount
                continue
            for e, mark in enumerate(marks):
                if a.time_h <= mark < a.time_h + a.duration_h:
                    left = np.exp(-inflow_decay[at] * (mark - a.time_h) * MIN_PER_H)
                    inflow[e, at] += left * amount / (a.duration_h * MIN_PER_H)
    row_ptr, row_state = _rows(index_tables, rows)
    integral_ptr, integral_state = _rows(index_tables, _integrals(network, entries, model.regions))
    # a carried label decays by itself; the total is weighted by its nuclide's decay
    decay = 0.0 if entries else decay_per_min(given[0].nuclide)
    # the solver reports an event's own time before the event; a hair later the bolus is in, as at the first one
    output_min = times_h * MIN_PER_H
    output_min = np.where(np.isin(output_min, event_min[1:]), np.nextafter(output_min, np.inf), output_min)
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


def _integrals(network: Network, entries: Sequence[Counted], regions: Sequence[str]) -> list[list[int]]:
    """States of each time integral, label by label, region by region."""
    carried = [c.label for c in entries if c.nuclide] or [network.states[0].label]
    return [[int(i) for i in network.select(label, region)] for label in carried for region in regions]


def dataset(run: Run, found: Solution) -> xr.Dataset:
    """What the solver found in the units and names of the outside; linear in the solution."""
    m, given = len(found.failed), run.schedule
    unsorted = np.empty_like(found.amounts)
    unsorted[:, run.order] = found.amounts
    shape = (max(len(run.counted), 1), len(run.regions), len(run.parts))
    ends = int(np.prod(shape))
    travelled = np.moveaxis(unsorted[..., :ends].reshape(m, len(run.times_h), *shape), 1, -1)  # (m, label, region, part, time)
    integrals = found.integrals.reshape(m, -1, len(run.regions))
    if run.counted:
        made = _labelled(run, travelled, integrals)
    else:
        name, share = given[0].nuclide, given[0].net_activity_mbq / amount_nmol(given[0])
        passed = np.maximum(run.times_h - given[0].time_h, 0.0)
        activity = travelled[:, 0] * share * np.exp(-decay_per_h(name) * passed)
        tia = integrals[:, 0] * share / MIN_PER_H
        made = {
            TOTAL: (travelled[:, 0], activity, tia),
            name: (activity / nuclide(name).mbq_per_nmol, activity, tia),
        }
    amounts, activities, integrated = zip(*made.values(), strict=True)
    stacked = {
        "amount_nmol": np.stack(amounts, axis=1),
        "activity_mbq": np.stack(activities, axis=1),
        "tia_mbq_h": np.stack(integrated, axis=1),
    }
    dims = ("member", "label", "region", "part", "time_h")
    units_of = {"amount_nmol": "nmol", "activity_mbq": "MBq", "tia_mbq_h": "MBq h"}
    data = xr.Dataset(
        {
            name: (dims if name != "tia_mbq_h" else dims[:3], values, {"units": units_of[name]})
            for name, values in stacked.items()
        },
        coords={
            "label": list(made),
            "region": list(run.regions),
            "part": list(run.parts),
            "time_h": ("time_h", run.times_h, {"units": "h"}),
        },
        attrs={"end_h": run.end_h},
    )
    if unsorted.shape[-1] > ends:
        away = np.moveaxis(unsorted[..., ends:], 1, -1)
        data["receptors_away_nmol"] = (("member", "region", "time_h"), away, {"units": "nmol"})
    return data if run.parts != ("",) else data.isel(part=0, drop=True)


Made = tuple[FloatArray, FloatArray, FloatArray]


def _labelled(run: Run, travelled: FloatArray, integrals: FloatArray) -> dict[str, Made]:
    """Amount (nmol), activity (MBq) and time-integrated activity (MBq h) of each label of the output."""
    given, nuclides = run.schedule, administered(run.schedule)
    units = {n: sum(a.net_activity_mbq for a in given if a.nuclide == n) / run.scale_nmol for n in nuclides}
    activity = {c: travelled[:, k] * units[c.origin] for k, c in enumerate(run.counted) if c.nuclide}
    tia = {c: integrals[:, k] * units[c.origin] / MIN_PER_H for k, c in enumerate(activity)}

    def of_ligand(ligands: Sequence[str]) -> Made:
        totals = [travelled[:, k] for k, c in enumerate(run.counted) if not c.nuclide and c.ligand in ligands]
        chosen = [c for c in activity if not c.is_daughter and c.ligand in ligands]
        return _sum(totals, travelled[:, 0]), _sum([activity[c] for c in chosen], travelled[:, 0]), _tia_of(chosen)

    def of_nuclide(name: str, chosen: Sequence[Counted]) -> Made:
        summed = _sum([activity[c] for c in chosen], travelled[:, 0])
        return summed / nuclide(name).mbq_per_nmol, summed, _tia_of(chosen)

    def _tia_of(chosen: Sequence[Counted]) -> FloatArray:
        return _sum([tia[c] for c in chosen], integrals[:, 0])

    ligands = tuple(dict.fromkeys(c.ligand for c in run.counted if not c.nuclide))
    made = {TOTAL: of_ligand(ligands)} | ({n: of_ligand([n]) for n in ligands} if len(ligands) > 1 else {})
    made |= {n: of_nuclide(n, [c for c in activity if c.nuclide == n]) for n in run.labels}
    for name in dict.fromkeys(c.nuclide for c in activity if c.is_daughter):
        for what, free in ((ON_LIGAND, False), (FREE, True)):
            made[f"{name}/{what}"] = of_nuclide(name, [c for c in activity if c.nuclide == name and (not c.ligand) == free])
    return made


def _sum(arrays: Sequence[FloatArray], like: FloatArray) -> FloatArray:
    return reduce(np.add, arrays) if arrays else np.zeros_like(like)
