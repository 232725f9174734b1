"""The administration record: who the patient is for the twin, and what was given, when, and how much stayed behind.

`administrations.json`, schema 1:

    {"schema": 1, "issued" (optional),
     "patient": {"id", "issuer" (optional), "sex", "birth_date", "height_cm", "weight_kg", "haematocrit"},
     "administrations": [{"product", "ligand", "nuclide", "intent", "activity", "activity_unit", "calibration_time",
        "start_time", "duration_min", "residual", "residual_unit", "residual_time", "amount", "amount_unit", "route"}]}

`amount` with its unit and `issued` (when the sender made this record, which orders versions) may be absent; everything else
must be there. Activities are decayed from their time of calibration to
the start of the administration. Nothing is assumed: a residual that was measured to be nothing is written as 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

from storage.dicom.parse import safe
from storage.dicom.times import parse_iso
from storage.tables import read_json
from tdt_core.errors import InputError, TimeError, TwinError, UnitError
from tdt_core.parameters import packaged_csv
from tdt_core.twin import Administration, Patient, Schedule

SCHEMA = 1
ACTIVITY_UNITS = {"Bq": 1e-6, "kBq": 1e-3, "MBq": 1.0, "GBq": 1e3, "mCi": 37.0}
AMOUNT_UNITS = {"pmol": 1e-3, "nmol": 1.0, "umol": 1e3}
PLAUSIBLE_MBQ = {"therapy": (100.0, 20_000.0), "imaging": (1.0, 1000.0)}
"""Activity at the start of an administration. Outside, a unit is wrong before the patient is unusual."""
LEAST_INTERVAL_H = 72.0
ROUTES = ("intravenous", "intraarterial")

_PLAIN = re.compile(r"[A-Za-z0-9 .,+\-_/&()\[\]]{1,48}")
_FIELDS = {
    "product", "ligand", "nuclide", "intent", "activity", "activity_unit", "calibration_time", "start_time", "duration_min",
    "residual", "residual_unit", "residual_time", "amount", "amount_unit", "route",
}  # fmt: skip
_OPTIONAL = {"amount", "amount_unit"}
_PATIENT_FIELDS = {"id", "sex", "birth_date", "height_cm", "weight_kg", "haematocrit"}

HalfLife = Callable[[str], float]
"""Half-life in hours of a nuclide's name."""


@dataclass(frozen=True)
class PatientRecord:
    """The patient part, with identity. Lives between the inbox and the vault only."""

    patient_id: str
    issuer: str
    sex: Literal["male", "female"]
    birth_date: date
    height_cm: float
    weight_kg: float
    haematocrit: float | None
    issued: datetime | None = None

    def __repr__(self) -> str:
        return "PatientRecord(...)"

    def patient(self, pid: str, origin: datetime) -> Patient:
        """The twin's patient: age in completed years at the origin."""
        day = origin.date()
        age = day.year - self.birth_date.year - ((day.month, day.day) < (self.birth_date.month, self.birth_date.day))
        return Patient(pid, self.sex, float(age), self.height_cm, self.weight_kg, self.haematocrit)


@dataclass(frozen=True)
class Given:
    """One administration with an absolute start. Activities at `start`, MBq."""

    product: str
    ligand: str
    nuclide: str
    intent: Literal["therapy", "imaging"]
    start: datetime
    activity_mbq: float
    residual_mbq: float
    duration_h: float
    amount_nmol: float | None
    route: str


def half_life_h(name: str) -> float:
    """Half-life of a nuclide in the project's nuclear data, h. Raises InputError `nuclide.unknown`."""
    from tdt_core.nuclides import nuclide

    try:
        return float(nuclide(name).half_life_h)
    except TwinError:
        raise InputError(
            f"nuclide {safe(name)}",
            expected="a nuclide of the project's nuclear data, such as Lu-177 or Ga-68",
            remedy="write the nuclide as element, dash and mass number",
            kind="nuclide.unknown",
        ) from None


def read_administrations(path: Path, half_life: HalfLife = half_life_h) -> tuple[PatientRecord, tuple[Given, ...]]:
    """Patient and administrations in order of start.

    Raises
    ------
    InputError, UnitError, TimeError
        Kinds `administration.*`, `patient.*`, `nuclide.unknown`, `file.json`; see `docs/data-in.md`.
    """
    data = read_json(path)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("administrations"), list):
        raise _format("an administration record of another form", f'{{"schema": {SCHEMA}, "patient": ..., ...}}')
    patient = replace(_patient(data.get("patient")), issued=_issued(data.get("issued")))
    given = sorted((_given(n, row, half_life) for n, row in enumerate(data["administrations"], start=1)), key=lambda g: g.start)
    therapies = [g.start for g in given if g.intent == "therapy"]
    if not therapies:
        raise InputError(
            "no therapy administration in the record",
            expected="at least one: hours count from the first",
            remedy="take the patient in once the first therapy was given",
            kind="administration.no_therapy",
        )
    for before, after in pairwise(therapies):
        if after - before < timedelta(hours=LEAST_INTERVAL_H):
            raise InputError(
                f"two therapy administrations {(after - before).total_seconds() / 3600:.1f} h apart",
                expected=f"at least {LEAST_INTERVAL_H:.0f} h: each starts a cycle",
                remedy="enter a split administration as one, with its total activity at the first start",
                kind="administration.same_time",
            )
    return patient, tuple(given)


def schedule(given: Sequence[Given], origin: datetime) -> Schedule:
    """Administrations on the patient's time axis."""
    return tuple(
        Administration(
            time_h=(g.start - origin).total_seconds() / 3600,
            product=g.product,
            ligand=g.ligand,
            nuclide=g.nuclide,
            activity_mbq=g.activity_mbq,
            amount_nmol=g.amount_nmol,
            duration_h=g.duration_h,
            residual_mbq=g.residual_mbq,
            route=g.route,
            intent=g.intent,
        )
        for g in given
    )


def _issued(text: Any) -> datetime | None:
    """When the record was made. A time to come is refused: nothing could ever correct such a record."""
    if text is None:
        return None
    issued = parse_iso(text, "issued of the administration record")
    if issued > datetime.now(UTC) + timedelta(hours=1):
        raise TimeError(
            "an administration record issued in the future",
            expected="when the record was made",
            remedy="correct `issued`, or leave it out",
            kind="administration.issued",
        )
    return issued


def _patient(row: Any) -> PatientRecord:
    if not isinstance(row, dict) or set(row) - {"issuer"} != _PATIENT_FIELDS:
        absent = sorted(_PATIENT_FIELDS - set(row)) if isinstance(row, dict) else sorted(_PATIENT_FIELDS)
        if absent == ["weight_kg"]:
            raise _no_covariate("weight_kg")
        raise _format(f"a patient part that lacks {absent} or has other fields", f"exactly {sorted(_PATIENT_FIELDS)}")
    for name in ("height_cm", "weight_kg"):
        if row[name] is None:
            raise _no_covariate(name)
    identity = row["id"]
    if not isinstance(identity, str) or not 0 < len(identity.strip()) <= 64:
        raise InputError(
            "the patient has no id",
            expected="the PatientID of the images",
            remedy="enter the patient id as it stands in the images",
            kind="patient.id_missing",
        )
    try:
        birth = date.fromisoformat(str(row["birth_date"]))
    except ValueError:
        raise InputError(
            "a birth date that cannot be read",
            expected="YYYY-MM-DD",
            remedy="enter the birth date as year, month, day",
            kind="patient.birth_date",
        ) from None
    if row["sex"] not in ("male", "female"):
        raise InputError(
            f"sex is {safe(row['sex'])}",
            expected="male or female",
            remedy="enter the sex that body and blood volumes shall be computed with",
            kind="patient.sex",
        )
    ranges = {"height_cm": (50.0, 250.0, "cm"), "weight_kg": (3.0, 350.0, "kg"), "haematocrit": (0.1, 0.7, "")}
    values: dict[str, float | None] = {}
    for name, (low, high, unit) in ranges.items():
        number = row[name]
        if name == "haematocrit" and number is None:
            values[name] = None
            continue
        if not _is_number(number) or not low < number < high:
            raise InputError(
                f"{name} is {_typed(number)}",
                expected=" ".join(filter(None, (f"a number from {low:g} to {high:g}", unit))),
                remedy="write it as a number, without quotation marks" if isinstance(number, str) else "check its unit",
                kind="patient.covariate",
            )
        values[name] = float(number)
    return PatientRecord(
        patient_id=identity.strip(),
        issuer=str(row.get("issuer") or "").strip(),
        sex=row["sex"],
        birth_date=birth,
        height_cm=cast(float, values["height_cm"]),
        weight_kg=cast(float, values["weight_kg"]),
        haematocrit=values["haematocrit"],
    )


def _no_covariate(name: str) -> InputError:
    return InputError(
        f"the patient's {name} is missing",
        expected="a measured value",
        remedy="weigh and measure the patient; body size is never assumed",
        kind=f"patient.{name.split('_')[0]}_missing",
    )


def _given(n: int, row: Any, half_life: HalfLife) -> Given:
    if not isinstance(row, dict) or set(row) | _OPTIONAL != _FIELDS:
        absent = sorted(_FIELDS - _OPTIONAL - set(row)) if isinstance(row, dict) else sorted(_FIELDS)
        if absent == ["start_time"]:
            raise _no_start(n)
        raise _format(f"administration {n} lacks {absent} or has other fields", f"exactly {sorted(_FIELDS)}")
    if row["start_time"] is None or not str(row["start_time"]).strip():
        raise _no_start(n)
    for name in ("product", "ligand"):
        if not isinstance(row[name], str) or not _PLAIN.fullmatch(row[name].strip()):
            raise _format(f"{name} of administration {n} is not a plain name", "letters, digits and common signs")
    intent, route = row["intent"], row["route"]
    if intent not in PLAUSIBLE_MBQ:
        raise _format(f"intent of administration {n} is {safe(intent)}", "therapy or imaging")
    if route not in ROUTES:
        raise _format(f"route of administration {n} is {safe(route)}", " or ".join(ROUTES))
    if not isinstance(row["nuclide"], str):
        raise _format(f"administration {n} names no nuclide", "such as Lu-177")
    nuclide = row["nuclide"].strip()
    decay_h = half_life(nuclide)
    _check_product(n, row["product"].strip(), row["ligand"].strip(), nuclide)
    start = parse_iso(row["start_time"], f"start_time of administration {n}")
    activity = _at_start(n, row, "activity", "calibration_time", start, decay_h)
    residual = _at_start(n, row, "residual", "residual_time", start, decay_h)
    low, high = PLAUSIBLE_MBQ[intent]
    if not low <= activity <= high:
        raise InputError(
            f"administration {n} ({intent}) has {activity:.4g} MBq at its start",
            expected=f"{low:g} to {high:g} MBq",
            remedy="check the unit (MBq against GBq or kBq) and the time of calibration",
            kind="administration.activity_implausible",
        )
    if residual >= activity:
        raise InputError(
            f"administration {n} leaves a residual of {residual:.4g} of {activity:.4g} MBq",
            expected="a residual below the activity",
            remedy="check that both have the right unit and time; a full residual means that nothing was given",
            kind="administration.residual",
        )
    return Given(
        product=row["product"].strip(),
        ligand=row["ligand"].strip(),
        nuclide=nuclide,
        intent=intent,
        start=start,
        activity_mbq=activity,
        residual_mbq=residual,
        duration_h=_duration(n, row["duration_min"]),
        amount_nmol=_amount(n, row),
        route=route,
    )


def _check_product(n: int, product: str, ligand: str, nuclide: str) -> None:
    """A product of the table has one ligand and one nuclide."""
    known = next((r for r in packaged_csv("products.csv") if r["name"] == product), None)
    if known is not None and (known["ligand"], known["nuclide"]) != (ligand, nuclide):
        raise InputError(
            f"administration {n} is product {product} with nuclide {safe(nuclide)} or a ligand that do not belong to it",
            expected=f"{known['nuclide']} and {known['ligand']}",
            remedy="correct product, nuclide or ligand in the administration record",
            kind="administration.nuclide",
        )


def _at_start(n: int, row: dict[str, Any], name: str, time_name: str, start: datetime, decay_h: float) -> float:
    """An activity in MBq, decayed to the start of the administration."""
    number, unit = row[name], row[f"{name}_unit"]
    if number is None:
        raise InputError(
            f"{name} of administration {n} is missing",
            expected="a measured value",
            remedy="enter it; write 0 only where 0 was measured",
            kind=f"administration.{name}_missing",
        )
    if not _is_number(number) or number < 0 or (name == "activity" and number == 0):
        raise InputError(
            f"{name} of administration {n} is {_typed(number)}, unit {safe(unit)}",
            expected="a number above 0" if name == "activity" else "a number of 0 or more",
            remedy=_number_remedy(number),
            kind="administration.number",
        )
    if unit not in ACTIVITY_UNITS:
        raise UnitError(
            f"{name} of administration {n} is in {safe(unit)}",
            expected=f"one of {', '.join(ACTIVITY_UNITS)}",
            remedy="write the unit of the dose calibrator's reading",
            kind="administration.unit",
        )
    at = parse_iso(row[time_name], f"{time_name} of administration {n}")
    hours = (start - at).total_seconds() / 3600
    if abs(hours) > 14 * 24:
        raise TimeError(
            f"{time_name} of administration {n} is {abs(hours) / 24:.0f} days from its start",
            expected="within 14 days",
            remedy="check the dates",
            kind="administration.calibration_time",
        )
    return float(number) * ACTIVITY_UNITS[unit] * 2 ** (-hours / decay_h)


def _typed(number: Any) -> str:
    """A number as it was written, a decimal comma included; nothing else of a text is repeated."""
    if _is_number(number):
        return f"{number:.10g}"
    return repr(number) if isinstance(number, str) and re.fullmatch(r"-?[0-9.,]{1,18}", number) else safe(number)


def _number_remedy(number: Any) -> str:
    if isinstance(number, str) and "," in number:
        return "write the number in administrations.json without quotation marks, with a point for the decimals"
    return "correct the number in administrations.json"


def _duration(n: int, minutes: Any) -> float:
    if not _is_number(minutes) or not 0 <= minutes <= 24 * 60:
        raise InputError(
            f"duration of administration {n} is {safe(minutes)} min",
            expected="0 to 1440",
            remedy="enter the length of the infusion; 0 for a bolus",
            kind="administration.duration",
        )
    return float(minutes) / 60


def _amount(n: int, row: dict[str, Any]) -> float | None:
    number, unit = row.get("amount"), row.get("amount_unit")
    if number is None:
        return None
    if unit not in AMOUNT_UNITS:
        raise UnitError(
            f"ligand amount of administration {n} is in {safe(unit)}",
            expected=f"one of {', '.join(AMOUNT_UNITS)}",
            remedy="convert a mass with the molar mass of the ligand, or leave the amount empty (null)",
            kind="administration.amount_unit",
        )
    if not _is_number(number) or not 0 < number * AMOUNT_UNITS[unit] < 1e5:
        raise InputError(
            f"ligand amount of administration {n} is {safe(number)} {unit}",
            expected="> 0",
            remedy="correct the number in administrations.json",
            kind="administration.number",
        )
    return float(number) * AMOUNT_UNITS[unit]


def _is_number(found: Any) -> bool:
    return isinstance(found, (int, float)) and not isinstance(found, bool) and math.isfinite(found)


def _no_start(n: int) -> TimeError:
    return TimeError(
        f"administration {n} has no start time",
        expected="start_time, date and time with an offset from UTC",
        remedy="enter when the injection or infusion started; uptake times hang on it",
        kind="administration.start_missing",
    )


def _format(found: str, expected: str) -> InputError:
    return InputError(found, expected=expected, remedy="correct administrations.json", kind="administration.format")
