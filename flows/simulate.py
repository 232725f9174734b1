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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from flows.simulate_input import SCHEDULE_COLUMNS, Virtual, as_input
from flows.simulate_notes import notes_on
from flows.simulate_parameters import parameters_csv, parameters_json, status_counts
from storage.atomic import disk_errors, publish_folder, write_atomic
from tdt_core.errors import InputError, UsageError
from tdt_core.kinetics import simulate as solve
from tdt_core.kinetics.daughters import daughters_of
from tdt_core.kinetics.pbrpk import OPTIONS
from tdt_core.kinetics.schedules import administered, check_schedule
from tdt_core.kinetics.simulation import FREE, ON_LIGAND
from tdt_core.nuclides import nuclide
from tdt_core.twin import Administration

RESEARCH = "Research use only. A simulation of a model, not of a patient; nothing here may decide a treatment."
RTOL = 1e-8
CURVE_POINTS = 80
SHOWN_H = 168.0


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
        check_schedule(given, several=True)
        virtual = virtual.with_ligands([a.ligand for a in given])
        notes = notes_on(virtual, given)
        end = _shown_until(given, times_h, until_h)
        grid = _grid(given, end)
        wanted = tuple(grid if times_h is None else times_h)
        all_times = sorted({*wanted, *grid})
        data = solve(virtual.model, virtual.values, given, all_times, rtol=RTOL).sum("part")
    return Outcome(virtual, given, wanted, data, notes)


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
    ten = max(10.0 * nuclide(a.nuclide).half_life_h for a in given if a.nuclide)
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


# --- telling ---------------------------------------------------------------------------------------------------------


def tia_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """Time-integrated activity by nuclide and region; `hours` is per administered activity of it, or of the parents of a
    daughter, `share` of all its decays. Of a followed daughter there are rows of its parts too (`Bi-213/free`)."""
    rows = []
    for name in (part for n in nuclides_of(outcome) for part in (n, *parts_of(outcome, n))):
        isotope = name.partition("/")[0]
        tia = outcome.data.tia_mbq_h.sel(label=name)
        total, given = float(outcome.data.tia_mbq_h.sel(label=isotope).sum()), _administered_mbq(outcome, isotope)
        rows += [
            {"nuclide": name, "region": r, "tia_mbq_h": x, "hours": x / given, "share": x / total}
            for r, x in zip(tia.region.values.tolist(), tia.values.tolist(), strict=True)
        ]
    return rows


def nuclides_of(outcome: Outcome) -> tuple[str, ...]:
    """Nuclides in order of their first administration, then daughters that are followed."""
    given = administered(outcome.schedule)
    return (*given, *(n for n in daughters_in(outcome) if n not in given))


def daughters_in(outcome: Outcome) -> tuple[str, ...]:
    """Daughters that are followed."""
    parted = (label.partition("/") for label in outcome.data.label.values.tolist() if label.endswith(f"/{FREE}"))
    return tuple(name for name, _, _ in parted)


def parts_of(outcome: Outcome, name: str) -> tuple[str, ...]:
    """Labels of a followed daughter on the ligand and free; none of another nuclide."""
    return (f"{name}/{ON_LIGAND}", f"{name}/{FREE}") if name in daughters_in(outcome) else ()


def _administered_mbq(outcome: Outcome, name: str) -> float:
    """Activity of a nuclide that entered, with that of its parents where it is followed."""
    followed = name in daughters_in(outcome)
    return sum(
        a.net_activity_mbq
        for a in outcome.schedule
        if a.nuclide == name or (followed and a.nuclide and name in daughters_of(a.nuclide))
    )


def told(outcome: Outcome) -> dict[str, Any]:
    """The run as plain JSON: what went in, what came out."""
    virtual, end = outcome.virtual, float(outcome.data.attrs["end_h"])
    volumes = virtual.model.quantities(virtual.shared_values)
    return {
        "research_use_only": RESEARCH,
        "model": virtual.model.name,
        "patient": virtual.patient,
        "ligand": virtual.model.ligand,
        "ligands": list(virtual.ligands),
        **{option: getattr(virtual.model, option) for option in OPTIONS},
        "states": len(virtual.model.network().states),
        "given": dict(virtual.given),
        "lesions_ml": {
            r.removeprefix("lesion/"): 1000.0 * float(volumes[f"{r}.volume"])
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
    """Activity (MBq) by time, nuclide and region: a row for each time and nuclide, a column for each region. Of a
    followed daughter what is on the ligand and what is free have rows too; their sum is its own row."""
    regions = outcome.data.region.values.tolist()
    rows: list[list[Any]] = [["time_h", "nuclide", *(f"{r}_mbq" for r in regions)]]
    for time in outcome.times_h:
        for name in (part for n in nuclides_of(outcome) for part in (n, *parts_of(outcome, n))):
            at = outcome.data.activity_mbq.sel(label=name, time_h=time)
            rows.append([f"{time:.6g}", name, *(f"{x:.8g}" for x in at.values.tolist())])
    return _csv(rows)


def tia_csv(outcome: Outcome) -> str:
    """Time-integrated activity as CSV."""
    rows = [[r["nuclide"], r["region"], f"{r['tia_mbq_h']:.8g}", f"{r['hours']:.8g}"] for r in tia_rows(outcome)]
    return _csv([["nuclide", "region", "tia_mbq_h", "tia_per_administered_activity_h"], *rows])


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


# --- writing ---------------------------------------------------------------------------------------------------------


def check_folder(folder: Path) -> None:
    """Raises UsageError `output.exists` where the folder holds something, or is none."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()) or (folder.is_dir() and any(folder.iterdir())):
        raise UsageError(
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
    """Raises UsageError `output.format` for an ending other than .csv and .json, `output.exists` where the file is there."""
    if path.suffix.lower() not in (".csv", ".json"):
        raise UsageError(f"parameters into {path.name}", expected="a name that ends in .csv or .json", kind="output.format")
    if path.exists() or path.is_symlink():
        raise UsageError(
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
