"""`tdt simulate`: a whole-body model under a schedule, and the tables, files and page that tell of it.

Nothing is written before the run has succeeded, and the folder appears whole or not at all.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from flows.simulate_input import SCHEDULE_COLUMNS, Virtual, as_input
from storage.atomic import disk_errors, publish_folder, write_atomic
from tdt_core.errors import InputError
from tdt_core.kinetics import simulate as solve
from tdt_core.kinetics.daughters import daughters_of
from tdt_core.kinetics.ligands import family, has_own_parameters, receptor_of
from tdt_core.kinetics.parameter_tables import BY_HAND, GIVEN, about, to_csv, to_json
from tdt_core.kinetics.pbrpk import OPTIONS
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration

RESEARCH = "Research use only. A simulation of a model, not of a patient; nothing here may decide a treatment."
RTOL = 1e-8
ASSUMED_OF_LIGAND = ("ligand.k_on", "ligand.K_D", "ligand.lambda_int")
"""Parameters that a run names where they are assumed."""
CURVE_POINTS = 80
SHOWN_H = 168.0
PARAMETER_COLUMNS = ("name", "value", "unit", "rule", "distribution", "sd", "status", "source")


@dataclass(frozen=True, eq=False)
class Outcome:
    """A finished run. `data` as `tdt_core.kinetics.simulation` gives it, summed over parts, at `times_h` and at finer times."""

    virtual: Virtual
    schedule: tuple[Administration, ...]
    times_h: tuple[float, ...]
    data: xr.Dataset
    notes: tuple[str, ...]


# --- running ---------------------------------------------------------------------------------------------------------


def run(
    virtual: Virtual,
    schedule: Sequence[Administration],
    times_h: Sequence[float] | None = None,
    until_h: float | None = None,
) -> Outcome:
    """Simulate.

    Parameters
    ----------
    times_h : hours of the table; by default a grid that is finer after each administration, to `until_h`.
    until_h : end of that grid; default 168 h after the last administration, or ten half-lives where these are shorter.

    Raises
    ------
    InputError : a ligand that the model has no receptors for, times that show nothing, what `simulate` refuses.
    """
    if not schedule:
        raise InputError(
            "no administration",
            expected="--product, or --ligand with --nuclide, --activity-mbq and --amount-nmol, or --schedule",
            kind="input.schedule",
        )
    given = tuple(sorted(schedule, key=lambda a: a.time_h))
    with as_input():
        virtual = virtual.with_ligand(given[0].ligand)
        notes = _notes(virtual, given)
        end = _shown_until(given, times_h, until_h)
        grid = _grid(given, end)
        wanted = tuple(grid if times_h is None else times_h)
        all_times = sorted({*wanted, *grid})
        data = solve(virtual.model, virtual.values, given, all_times, rtol=RTOL).sum("part")
    return Outcome(virtual, given, wanted, data, (*notes, *_too_hot(given)))


def _shown_until(given: Sequence[Administration], times_h: Sequence[float] | None, until_h: float | None) -> float:
    first, last = given[0].time_h, max(a.time_h + a.duration_h for a in given)
    if times_h is not None and until_h is not None:
        raise InputError("both --times and --until", expected="one of them", kind="input.time")
    if until_h is not None and not (math.isfinite(until_h) and until_h > last):
        raise InputError(
            f"the end is {until_h:g} h, the last administration ends at {last:g} h",
            expected="an end after it",
            remedy="choose a later end, or leave that administration out",
            kind="input.time",
        )
    if times_h is not None and not (times_h and max(times_h) >= first):
        raise InputError(
            f"the last of the times is {max(times_h, default=math.nan):g} h, the first administration {first:g} h",
            expected="a time after an administration",
            remedy="choose later times, or an earlier administration",
            kind="input.time",
        )
    if until_h is not None:
        return until_h
    ten = max(10.0 * nuclide(a.nuclide).half_life_h for a in given)
    default = last + min(SHOWN_H, ten)
    return default if times_h is None else max(max(times_h), first + 1.0 / 60.0)


def _grid(given: Sequence[Administration], end_h: float) -> list[float]:
    """Hours from the first administration to the end: geometric from a minute after each start and each end of an infusion."""
    marks = sorted({t for a in given for t in (a.time_h, a.time_h + a.duration_h) if t < end_h})
    times = {end_h}
    for mark, after in zip(marks, [*marks[1:], end_h], strict=True):
        length = after - mark
        steps = np.geomspace(min(1.0 / 60.0, length / 2), length, CURVE_POINTS)[:-1]
        times |= {mark, *(float(mark + s) for s in steps)}
    return sorted(times)


def _notes(virtual: Virtual, given: Sequence[Administration]) -> tuple[str, ...]:
    model = virtual.model
    notes = _of_patient(virtual)
    for ligand in dict.fromkeys(a.ligand for a in given):
        own = family(ligand)
        target = receptor_of(ligand)
        if target not in model.targets:
            raise InputError(
                f"{ligand} binds to {target}; the model {model.name} has receptors for {', '.join(model.targets)}",
                expected=f"a ligand of {', '.join(model.targets)}",
                remedy="choose another model or another product",
                kind="model.ligand",
            )
        if model.ligand:
            continue  # its own rows are used, and their status shows in the parameters
        if has_own_parameters(ligand) and ligand != own:
            notes.append(f"{ligand} is given, the parameters are those of the model's own ligand (assumed)")
        elif ligand != own:
            notes.append(f"{ligand} has no parameters of its own: those of {own} are used (assumed)")
    if assumed := [n for n in ASSUMED_OF_LIGAND if n in model.parameters and model.parameters[n].status == "assumed"]:
        notes.append(f"assumed, nothing was found for it: {', '.join(assumed)}; see the status of each parameter")
    if model.name == "psma_reference":
        notes.append("psma_reference is the numerical reference case of the engine, no patient")
    return tuple(notes)


def _of_patient(virtual: Virtual) -> list[str]:
    """What the typical patient rests on, and where the run leaves what it was calibrated for."""
    people, model = virtual.people, virtual.model
    if people is None:
        return []
    fitted = sorted(n for n in people.calibrated if n in virtual.typical)
    notes = [f"the typical patient of a population that was calibrated to clinical levels: {', '.join(fitted)}"]
    left = [f"{o} {getattr(model, o)}" for o in OPTIONS if getattr(model, o) != getattr(people.model, o)]
    if model.ligand not in ("", people.ligand):
        left.append(f"the ligand {model.ligand}")
    values = model.quantities(virtual.values)
    woman = float(values["body.female"]) > 0
    if woman and "body.female" not in people.table:
        left.append("a woman, whose height and weight stay those of the men where they are not given")
    usual, kidneys = ([o.name for o in m.organs if o.template == "paired_kidney"] for m in (people.model, model))
    if len(kidneys) < len(usual):
        left.append(f"{kidneys[0]} alone, with all filtration and flow and its usual volume" if kidneys else "no kidneys")
    if left:
        notes.append(f"not what the population was calibrated for: {', '.join(left)}")
    if "tumour_rest" in model.regions and any(r.startswith("lesion/") for r in model.regions):
        load = float(values["tumour_rest.volume"])
        notes.append(f"{1000 * load:.0f} mL of other tumours stay beside the lesions; --without tumour_rest if there are none")
    if woman and "prostate" in model.regions:
        notes.append("a woman with a prostate; --without prostate")
    return notes


def _too_hot(given: Sequence[Administration]) -> list[str]:
    """Vials that hold more radioactive ligand than ligand: no chemistry makes them."""
    notes = []
    for a in given:
        atoms_nmol = a.activity_mbq / nuclide(a.nuclide).mbq_per_nmol
        if a.amount_nmol is not None and atoms_nmol > a.amount_nmol:
            notes.append(
                f"{a.activity_mbq:g} MBq of {a.nuclide} are {atoms_nmol:.3g} nmol of it, more than the "
                f"{a.amount_nmol:g} nmol of ligand given at {a.time_h:g} h: a trace for a calculation, no vial"
            )
    return notes


# --- telling ---------------------------------------------------------------------------------------------------------


def status_counts(virtual: Virtual) -> dict[str, int]:
    """How many of the model's parameters have which status; those given by hand are counted as given."""
    counts = Counter(row["status"] for row in parameter_rows(virtual) if not row["rule"])
    ordered = {s: counts[s] for s in ("measured", "literature", "calibrated", "assumed") if counts[s]}
    return ordered | ({GIVEN: len(virtual.given)} if virtual.given else {})


def counts_in_words(counts: Mapping[str, int]) -> str:
    """`97 literature, 9 assumed`."""
    return ", ".join(f"{n} {status}" for status, n in counts.items())


def parameter_rows(virtual: Virtual) -> list[dict[str, Any]]:
    """Every quantity: parameters with their number, derived ones with the value and the rule that it follows from."""
    model = virtual.model
    values, parameters = model.quantities(virtual.values), model.parameters
    follows = model.table.followers(virtual.values)
    rows = []
    for name, declared in model.table.items():
        by_hand, typical = name in virtual.given, name in virtual.typical
        rule = virtual.row_of(name) if typical else model.table.acting(name, virtual.values)
        own = (typical or (name in parameters and name not in follows)) and not by_hand
        rows.append(
            {
                "name": name,
                "value": float(values[name]),
                "unit": declared.unit,
                "rule": "" if by_hand or own else rule.rule,
                "distribution": rule.distribution if own else "fixed",
                "sd": rule.sd if own else 0.0,
                "status": GIVEN if by_hand else rule.status,
                "source": virtual.sources.get(name, BY_HAND) if by_hand else rule.source,
            }
        )
    return rows


def tia_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """Time-integrated activity by nuclide and region; `hours` is per administered activity (of a daughter, of its parents),
    `share` of all its decays."""
    rows = []
    for name in nuclides_of(outcome):
        administered = sum(a.net_activity_mbq for a in outcome.schedule if name in (a.nuclide, *daughters_of(a.nuclide)))
        tia = outcome.data.tia_mbq_h.sel(label=name)
        total = float(tia.sum())
        rows += [
            {"nuclide": name, "region": r, "tia_mbq_h": x, "hours": x / administered, "share": x / total}
            for r, x in zip(tia.region.values.tolist(), tia.values.tolist(), strict=True)
        ]
    return rows


def nuclides_of(outcome: Outcome) -> tuple[str, ...]:
    """Nuclides in order of their first administration, then daughters that were followed."""
    given = dict.fromkeys(a.nuclide for a in outcome.schedule)
    followed = dict.fromkeys(d for n in given for d in daughters_of(n) if d in outcome.data.label)
    return (*given, *(d for d in followed if d not in given))


def told(outcome: Outcome) -> dict[str, Any]:
    """The run as plain JSON: what went in, what came out."""
    virtual, end = outcome.virtual, float(outcome.data.attrs["end_h"])
    return {
        "research_use_only": RESEARCH,
        "model": virtual.model.name,
        "patient": virtual.patient,
        "ligand": virtual.model.ligand,
        **{option: getattr(virtual.model, option) for option in OPTIONS},
        "states": len(virtual.model.network().states),
        "given": dict(virtual.given),
        "lesions_ml": {
            r.removeprefix("lesion/"): 1000.0 * float(virtual.model.quantities(virtual.values)[f"{r}.volume"])
            for r in virtual.model.regions
            if r.startswith("lesion/")
        },
        "schedule": [{c: getattr(a, c) for c in SCHEDULE_COLUMNS} for a in outcome.schedule],
        "rtol": RTOL,
        "integrated_until_h": end,
        "parameters": status_counts(virtual),
        "notes": list(outcome.notes),
        "tia": tia_rows(outcome),
    }


def activity_csv(outcome: Outcome) -> str:
    """Activity (MBq) by time, nuclide and region: a row for each time and nuclide, a column for each region."""
    regions = outcome.data.region.values.tolist()
    rows: list[list[Any]] = [["time_h", "nuclide", *(f"{r}_mbq" for r in regions)]]
    for time in outcome.times_h:
        for name in nuclides_of(outcome):
            at = outcome.data.activity_mbq.sel(label=name, time_h=time)
            rows.append([f"{time:.6g}", name, *(f"{x:.8g}" for x in at.values.tolist())])
    return _csv(rows)


def tia_csv(outcome: Outcome) -> str:
    """Time-integrated activity as CSV."""
    rows = [[r["nuclide"], r["region"], f"{r['tia_mbq_h']:.8g}", f"{r['hours']:.8g}"] for r in tia_rows(outcome)]
    return _csv([["nuclide", "region", "tia_mbq_h", "tia_per_administered_activity_h"], *rows])


def parameters_csv(virtual: Virtual) -> str:
    """All quantities as CSV under the model's name and options; `--parameters` reads it back."""
    return to_csv(parameter_rows(virtual), PARAMETER_COLUMNS, _made_with(virtual))


def parameters_json(virtual: Virtual) -> str:
    """The same as JSON."""
    return to_json(parameter_rows(virtual), _made_with(virtual))


def _made_with(virtual: Virtual) -> dict[str, str]:
    return {**about(virtual.model), "patient": virtual.patient}


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


# --- writing ---------------------------------------------------------------------------------------------------------


def check_folder(folder: Path) -> None:
    """Raises InputError `output.exists` where the folder holds something, or is none."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()) or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(
            f"{folder} is there and not an empty folder",
            expected="a new or empty folder",
            remedy="name another, or clear it first",
            kind="output.exists",
        )


def write(outcome: Outcome, folder: Path) -> list[Path]:
    """activity.csv, tia.csv, parameters.csv and .json, run.json, curves.html and curves.svg in a new folder, all or none."""
    from flows.simulate_page import picture, render

    check_folder(folder)
    files = {
        "activity.csv": activity_csv(outcome),
        "tia.csv": tia_csv(outcome),
        "parameters.csv": parameters_csv(outcome.virtual),
        "parameters.json": parameters_json(outcome.virtual),
        "run.json": json.dumps(told(outcome), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "curves.html": render(outcome),
        "curves.svg": picture(outcome),
    }
    with disk_errors("writing the simulation"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for name, text in files.items():
                (staged / name).write_text(text, encoding="utf-8")
            if not publish_folder(staged, folder):
                check_folder(folder)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
    return [folder / name for name in files]


def check_export(path: Path) -> None:
    """Raises InputError `output.format` for an ending other than .csv and .json, `output.exists` where the file is there."""
    if path.suffix.lower() not in (".csv", ".json"):
        raise InputError(f"parameters into {path.name}", expected="a name that ends in .csv or .json", kind="output.format")
    if path.exists() or path.is_symlink():
        raise InputError(
            f"{path} is there", expected="a new file", remedy="name another, or move it away first", kind="output.exists"
        )


def export_parameters(virtual: Virtual, path: Path) -> Path:
    """All quantities into a new `.csv` or `.json` file. Raises as `check_export`."""
    check_export(path)
    text = parameters_json(virtual) if path.suffix.lower() == ".json" else parameters_csv(virtual)
    with disk_errors("writing the parameters"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
    return path
