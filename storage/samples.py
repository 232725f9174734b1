"""Activity measured without an image: blood, excreta, readings of the whole body.

`samples.csv`, optional, one row per sample, header as `CSV_HEADER`. Times have their offset from UTC. Excreta have a start and
an end of the collection, other kinds a start only. Activities hold at the time of the sample, of excreta at the end of the
collection. A comparator < says that the activity was below `value`, the limit of quantification. `relative_sd` is the error of
one sample, `counter_sd` that of the counter, shared by all of its samples.

Readings of a dose-rate meter (uSv/h, whole body only) are relative: the first one after an administration, taken within
`FIRST_READING_H` and before anything was excreted, stands for the administered activity and is used up by that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import get_args

from storage.calibrations import PLAIN_TEXT
from storage.dicom.parse import safe
from storage.dicom.times import parse_iso
from storage.tables import read_csv_of
from tdt_core.errors import InputError, UnitError
from tdt_core.nuclides import nuclide
from tdt_core.twin import Sample, SampleKind, Schedule

NAME = "samples.csv"
CSV_HEADER = (
    "pseudonym",
    "kind",
    "start_time",
    "end_time",
    "value",
    "unit",
    "comparator",
    "nuclide",
    "relative_sd",
    "counter",
    "counter_sd",
)
KINDS: tuple[SampleKind, ...] = get_args(SampleKind)
RATE = "uSv/h"
UNITS = {
    "blood": {"MBq/mL": 1.0, "kBq/mL": 1e-3, "Bq/mL": 1e-6},
    "excreta": {"MBq": 1.0, "kBq": 1e-3},
    "whole_body": {"MBq": 1.0, "GBq": 1e3, RATE: 1.0},
}
FIRST_READING_H = 1.0


@dataclass(frozen=True, kw_only=True)
class _Row:
    """What a row says but for its time, in canonical units; `rate`: a dose rate in uSv/h, not yet an activity."""

    kind: SampleKind
    value: float
    below: bool
    nuclide: str
    relative_sd: float
    counter: str
    counter_sd: float
    rate: bool


@dataclass(frozen=True, kw_only=True)
class SampleLine(_Row):
    """One row as it came, checked."""

    start: datetime
    end: datetime | None


def read_samples(path: Path, subjects: Sequence[str]) -> tuple[SampleLine, ...]:
    """Rows in order of time.

    Parameters
    ----------
    subjects : patient id and pseudonym; any other subject is refused.

    Raises
    ------
    InputError
        `file.csv`, `sample.kind`, `sample.value`, `sample.time`, `sample.nuclide`, `sample.sd`, `sample.repeated`,
        `sample.counter`, `time.*`.
    UnitError
        `sample.unit`.
    IdentityError
        `identity.samples`.
    """
    rows = read_csv_of(path, CSV_HEADER, subjects, "samples", "identity.samples")
    lines = [_line(n, row) for n, row in enumerate(rows, start=1)]
    keys = [(x.kind, "" if x.rate else x.nuclide, x.start, x.counter) for x in lines]  # a dose rate tells no nuclides apart
    if len(set(keys)) != len(keys):
        raise InputError(
            "two samples of one kind, nuclide and counter at one time",
            expected="one row for each sample",
            remedy="remove the copy, or name the counters apart",
            kind="sample.repeated",
        )
    return tuple(sorted(lines, key=lambda x: (x.start, x.kind, x.counter, x.nuclide)))


def _line(n: int, row: dict[str, str]) -> SampleLine:
    kind = next((k for k in KINDS if k == row["kind"]), None)
    if kind is None:
        raise InputError(
            f"sample {n} is of kind {safe(row['kind'])}",
            expected=" or ".join(KINDS),
            remedy="use one of these words; concentrations in plasma or serum are to be converted to whole blood",
            kind="sample.kind",
        )
    if row["unit"] not in UNITS[kind]:
        raise UnitError(
            f"sample {n} ({kind}) is in {safe(row['unit'])}",
            expected=" or ".join(UNITS[kind]),
            remedy="convert it; counts per minute need the counter's calibration first",
            kind="sample.unit",
        )
    if row["comparator"] not in ("", "<"):
        raise InputError(
            f"sample {n} ({kind}) has comparator {safe(row['comparator'])}",
            expected="nothing, or <",
            remedy="give the limit of quantification with < where the activity was below it",
            kind="sample.value",
        )
    try:
        emitter = nuclide(row["nuclide"]).name
    except InputError:
        raise InputError(
            f"sample {n} ({kind}) shows nuclide {safe(row['nuclide'])}",
            expected="a nuclide such as Lu-177",
            remedy="write it as element, dash and mass number",
            kind="sample.nuclide",
        ) from None
    start = _time(n, kind, row["start_time"])
    end = _time(n, kind, row["end_time"]) if row["end_time"] else None
    if (kind == "excreta") != (end is not None) or (end is not None and end <= start):
        raise InputError(
            f"sample {n} ({kind}) has {'no end' if end is None else 'an end that does not fit'}",
            expected="start and a later end for excreta, only a start for other kinds",
            remedy="enter when the collection began and ended",
            kind="sample.time",
        )
    counter = row["counter"] or "counter"
    if not PLAIN_TEXT.fullmatch(counter):
        raise InputError(
            f"the counter of sample {n} ({kind}) is not a plain text",
            expected="letters, digits and common signs, or nothing",
            remedy="name the instrument, not a person",
            kind="sample.counter",
        )
    return SampleLine(
        kind=kind,
        start=start,
        end=end,
        value=_number(n, kind, row["value"], "value", 0.0, math.inf) * UNITS[kind][row["unit"]],
        below=row["comparator"] == "<",
        nuclide=emitter,
        relative_sd=_number(n, kind, row["relative_sd"], "relative_sd", 0.0, 2.0),
        counter=counter,
        counter_sd=_number(n, kind, row["counter_sd"], "counter_sd", -1e-12, 2.0) if row["counter_sd"] else 0.0,
        rate=row["unit"] == RATE,
    )


def _time(n: int, kind: str, found: str) -> datetime:
    return parse_iso(found, f"a time of sample {n} ({kind})")


def _number(n: int, kind: str, found: str, column: str, above: float, most: float) -> float:
    try:
        value = float(found)
    except ValueError:
        value = math.nan
    if not above < value <= most or math.isinf(value):
        raise InputError(
            f"sample {n} ({kind}) has {column} {safe(found)}",
            expected=f"a number above {max(above, 0):g}" + (f", at most {most:g}" if math.isfinite(most) else ""),
            remedy="relative_sd and counter_sd are fractions (0.05 for 5 %); a sample without counts has its limit and <",
            kind="sample.value" if column == "value" else "sample.sd",
        )
    return value


@dataclass(frozen=True, kw_only=True)
class HourLine(_Row):
    """A row on the patient's time axis, before a dose rate is made an activity: that needs what was given, which may change."""

    start_h: float
    end_h: float | None

    @property
    def order(self) -> tuple[float, str, str, str]:
        """Sorts rows as `read_samples` does."""
        return (self.start_h, self.kind, self.counter, self.nuclide)


def in_hours(lines: Sequence[SampleLine], origin: datetime) -> tuple[HourLine, ...]:
    """Rows on the patient's time axis."""

    def hours(at: datetime) -> float:
        return (at - origin).total_seconds() / 3600

    return tuple(
        HourLine(
            start_h=hours(x.start),
            end_h=None if x.end is None else hours(x.end),
            **{f.name: getattr(x, f.name) for f in fields(_Row)},
        )
        for x in lines
    )


def on_axis(lines: Sequence[SampleLine], given: Schedule, origin: datetime) -> tuple[Sample, ...]:
    """Rows on the patient's time axis, readings of a dose-rate meter as activity; raises as `scaled`."""
    return scaled(in_hours(lines, origin), given)


def scaled(lines: Sequence[HourLine], given: Schedule) -> tuple[Sample, ...]:
    """Rows as samples, readings of a dose-rate meter as activity.

    Raises InputError `sample.time` before any administration of the nuclide, `sample.first_reading`.
    """
    scales: dict[tuple[str, str, float], tuple[float, float]] = {}
    out = []
    for i, x in enumerate(lines):
        at, value, calibration_sd, meter = x.start_h, x.value, x.counter_sd, x.counter
        start, activity = _administered(x, given, x.start_h if x.end_h is None else x.end_h)
        if x.rate:
            key = (x.counter, x.nuclide, start)
            meter = f"{x.counter} after {start:g} h"
            if key not in scales:
                decayed = activity * math.exp(-nuclide(x.nuclide).decay_constant_per_h * (at - start))
                if at - start > FIRST_READING_H or x.below:
                    raise InputError(
                        f"the first dose rate of a meter was read {at - start:.1f} h after the administration"
                        + (" and is a limit" if x.below else ""),
                        expected=f"a value within {FIRST_READING_H:g} h, before any excretion: it stands for the activity",
                        remedy="add that reading, or leave the readings of this meter out",
                        kind="sample.first_reading",
                    )
                scales[key] = (decayed / x.value, x.relative_sd)
                continue
            scale, first_sd = scales[key]
            value, calibration_sd = value * scale, math.hypot(calibration_sd, first_sd)
        out.append(
            Sample(
                kind=x.kind,
                time_h=at,
                value=value,
                nuclide=x.nuclide,
                relative_sd=x.relative_sd,
                calibration_sd=calibration_sd,
                calibration_id=meter,
                until_h=x.end_h,
                below=x.below,
                record=f"{NAME} {i + 1}",
            )
        )
    return tuple(out)


def _administered(x: HourLine, given: Schedule, at: float) -> tuple[float, float]:
    """Start and net activity of the last administration of the nuclide before a sample; a first dose rate may be at its start.

    Without any administration in the folder's cycle only a dose rate is refused: others join a cycle that the twin knows.
    """
    before = [a for a in given if a.nuclide == x.nuclide and (a.time_h < at or (x.rate and a.time_h == at))]
    if not before and (given or x.rate):
        raise InputError(
            f"a {x.kind} sample before any administration of {x.nuclide} in its cycle",
            expected="samples after an administration of their nuclide",
            remedy="check times and time zones of the samples and of the administration record; leave blanks out",
            kind="sample.time",
        )
    last = max(before, key=lambda a: a.time_h, default=None)
    return (math.nan, math.nan) if last is None else (last.time_h, last.net_activity_mbq)
