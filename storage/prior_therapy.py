"""Absorbed doses of therapies outside this system: the opening balance of the dose ledger.

`prior_therapy.csv`, optional, header `pseudonym,region,dose_gy,radiation,date,source`, one row per organ and treatment. The
doses count in full and without uncertainty beside those of the cycles. A date without time of day is enough: it only tells from
which cycle on a dose counts, and which row replaces which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from storage.dicom.parse import safe
from storage.tables import read_csv_of
from tdt_core.errors import InputError
from tdt_core.imaging.regions import region_codes
from tdt_core.twin import PriorTherapy

NAME = "prior_therapy.csv"
CSV_HEADER = ("pseudonym", "region", "dose_gy", "radiation", "date", "source")
RADIATIONS = ("photon", "electron", "beta_gamma")
SOURCES = ("treatment_plan", "dosimetry", "estimate")
HIGHEST_GY = 200.0
"""Above, a unit is wrong (cGy) before the patient is unusual. Assumed."""


@dataclass(frozen=True)
class PriorLine:
    """One row as it came, checked."""

    region: str
    dose_gy: float
    radiation: str
    day: date
    source: str


def organs() -> list[str]:
    """Names that a row may have: organs of the region table. Pairs count as one, as in limits."""
    return sorted({r.organ for r in region_codes().values()} - {"lesions", "body", "rest"})


def read_prior_therapy(path: Path, subjects: Sequence[str], born: date) -> tuple[PriorLine, ...]:
    """Rows in order of date.

    Parameters
    ----------
    subjects : patient id and pseudonym; any other subject is refused.

    Raises
    ------
    InputError
        `file.csv`, `prior.region`, `prior.dose`, `prior.radiation`, `prior.date`, `prior.source`, `prior.repeated`.
    IdentityError
        `identity.prior_therapy`.
    """
    rows = read_csv_of(path, CSV_HEADER, subjects, "earlier therapies", "identity.prior_therapy")
    lines = [_line(n, row, born) for n, row in enumerate(rows, start=1)]
    keys = [(x.region, x.radiation, x.day) for x in lines]
    if len(set(keys)) != len(keys):
        raise InputError(
            "two earlier therapies of one organ with one radiation on one day",
            expected="one row, with their sum",
            remedy="add them up, or remove the copy",
            kind="prior.repeated",
        )
    return tuple(sorted(lines, key=lambda x: (x.day, x.region, x.radiation)))


def _line(n: int, row: dict[str, str], born: date) -> PriorLine:
    if row["region"] not in organs():
        raise InputError(
            f"earlier therapy {n} names {safe(row['region'])}, which is no organ of the table",
            expected=", ".join(organs()),
            remedy="name the organ; for a pair give the mean dose of both sides, for lesions leave the row out",
            kind="prior.region",
        )
    try:
        dose_gy = float(row["dose_gy"])
    except ValueError:
        dose_gy = math.nan
    if not 0 < dose_gy <= HIGHEST_GY:
        raise InputError(
            f"earlier therapy {n} ({row['region']}) has no absorbed dose in Gy",
            expected=f"a number above 0, at most {HIGHEST_GY:g}",
            remedy="enter the mean absorbed dose of the organ in Gy, not in cGy; leave the row out where none was received",
            kind="prior.dose",
        )
    if row["radiation"] not in RADIATIONS:
        raise InputError(
            f"earlier therapy {n} ({row['region']}) is of radiation {safe(row['radiation'])}",
            expected=" or ".join(RADIATIONS),
            remedy="absorbed doses of alpha particles, protons and ions do not add up with these: assess them outside the twin",
            kind="prior.radiation",
        )
    try:
        day = date.fromisoformat(row["date"])
    except ValueError:
        day = date.min
    if day < born:
        raise InputError(
            f"earlier therapy {n} ({row['region']}) has a date that cannot be read or lies before the birth",
            expected="YYYY-MM-DD",
            remedy="enter the last day of that treatment as year, month, day",
            kind="prior.date",
        )
    if row["source"] not in SOURCES:
        raise InputError(
            f"earlier therapy {n} ({row['region']}) does not say where its dose comes from",
            expected=" or ".join(SOURCES),
            remedy="choose the word that fits; free text is not taken in",
            kind="prior.source",
        )
    return PriorLine(row["region"], dose_gy, row["radiation"], day, row["source"])


def on_axis(lines: Sequence[PriorLine], origin: datetime) -> tuple[PriorTherapy, ...]:
    """Rows on the patient's time axis, by whole days from the day of the origin, which is in the site's zone."""
    return tuple(PriorTherapy(24.0 * (x.day - origin.date()).days, x.region, x.dose_gy, x.radiation, x.source) for x in lines)
