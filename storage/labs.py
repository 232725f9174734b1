"""Laboratory results from FHIR R4B and CSV: whitelisted codes and units, censored values kept, corrections honoured.

The library that parses FHIR checks structure, not bindings (it accepts any status), so code system, code, unit and status are
checked here. Only final, amended and corrected results count; entered-in-error retracts what it names. A result that comes
both as FHIR and as CSV counts once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, cast, get_args

from storage.dicom.parse import safe
from storage.dicom.times import parse_iso
from storage.lab_codes import BY_LOINC, UNIT_SPELLINGS, LabCode
from storage.tables import read_csv, read_json
from tdt_core.errors import IdentityError, InputError, UnitError
from tdt_core.twin import LabResult, LabStatus

CSV_HEADER = ("pseudonym", "datetime", "loinc", "value", "unit", "comparator", "status", "record")
_NOT_YET = ("registered", "preliminary", "cancelled", "unknown")
_LOINC = re.compile(r"[0-9]{1,7}-[0-9]")
_RANK = {"final": 0, "amended": 1, "corrected": 2, "entered-in-error": 3}

Comparator = Literal["", "<", "<=", ">", ">="]


@dataclass(frozen=True)
class Line:
    """One result as it came, in the canonical unit. A retraction has no value (NaN) and may have no time."""

    record: str
    status: LabStatus
    analyte: str = ""
    at: datetime | None = None
    value: float = math.nan
    unit: str = ""
    comparator: Comparator = ""
    issued: str = ""


def loinc_check_digit(code: str) -> bool:
    """Whether the last digit of a LOINC code is right (Luhn's mod 10)."""
    body, last = code.split("-")
    total = 0
    for place, digit in enumerate(reversed(body)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return (10 - total % 10) % 10 == int(last)


def canonical(code: LabCode, loinc: str, value: float, unit: str, comparator: str) -> float:
    """A value in the canonical unit.

    Raises
    ------
    UnitError
        `labs.unit_missing`, `labs.unit`.
    InputError
        `labs.implausible`.
    """
    if not unit.strip():
        raise UnitError(
            f"a result of {code.analyte} without a unit",
            expected=" or ".join(code.codes[loinc]),
            remedy="let the laboratory system export the unit of every result",
            kind="labs.unit_missing",
        )
    plain = UNIT_SPELLINGS.get(unit.strip(), unit.strip())
    if plain not in code.codes[loinc]:
        raise UnitError(
            f"{code.analyte} (LOINC {loinc}) in {safe(unit)}",
            expected=" or ".join(code.codes[loinc]),
            remedy="check code and unit; a mass and a molar concentration have different LOINC codes",
            kind="labs.unit",
        )
    number = value * code.factors[plain]
    low = 0.0 if comparator else code.low
    if not low <= number <= code.high:
        raise InputError(
            f"{code.analyte} of {number:.4g} {code.unit}",
            expected=f"{code.low:g} to {code.high:g} {code.unit}",
            remedy="check the unit and the decimal point of the result",
            kind="labs.implausible",
        )
    return number


def _line(
    n: int, at: Any, loinc: str, value: Any, unit: str, comparator: str, status: str, record: str, issued: str = ""
) -> Line | str:
    """One checked line, or the reason in words why it was left out."""
    if status in _NOT_YET:
        return f"a result of status {status} was left out"
    if status not in _RANK:
        raise InputError(
            f"result {n} has status {safe(status)}",
            expected="final, amended, corrected or entered-in-error",
            remedy="export the status of every result",
            kind="labs.status",
        )
    if status == "entered-in-error":
        if not record:
            raise _no_record(n)
        return Line(record, "entered-in-error")
    if not _LOINC.fullmatch(loinc) or not loinc_check_digit(loinc):
        raise InputError(
            f"result {n} has code {safe(loinc)}, which is no LOINC code",
            expected="a LOINC code (its last digit is a check digit)",
            remedy="correct the code; results are never taken by their name",
            kind="labs.code",
        )
    if loinc not in BY_LOINC:
        return f"LOINC {loinc} is not used and was left out"
    code = BY_LOINC[loinc]
    if comparator not in get_args(Comparator):
        raise InputError(
            f"comparator {safe(comparator)}",
            expected="<, <=, >, >= or nothing",
            remedy="put <, <=, > or >= into the comparator and the number into the value",
            kind="labs.comparator",
        )
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise InputError(
            f"result {n} ({code.analyte}) has no number of 0 or more",
            expected="a number; put < or > into the comparator",
            remedy="correct the result, or leave it out",
            kind="labs.value",
        )
    if not record:
        raise _no_record(n)
    return Line(
        record=record,
        status=cast(LabStatus, status),
        analyte=code.analyte,
        at=parse_iso(at, f"time of result {n} ({code.analyte})"),
        value=canonical(code, loinc, number, unit, comparator),
        unit=code.unit,
        comparator=cast(Comparator, comparator),
        issued=issued,
    )


def _no_record(n: int) -> InputError:
    return InputError(
        f"result {n} has no record number",
        expected="the laboratory's number of the result",
        remedy="export it; corrections and retractions find what they replace by it",
        kind="labs.record",
    )


def read_lab_csv(path: Path, subjects: Sequence[str]) -> tuple[list[Line], list[str]]:
    """Lines of `labs.csv` and remarks.

    Parameters
    ----------
    subjects : what may stand in the column `pseudonym`: the patient's id or pseudonym.

    Raises
    ------
    IdentityError `identity.labs` for a line of somebody else; InputError and UnitError of kinds `labs.*`.
    """
    lines: list[Line] = []
    left_out: list[str] = []
    for n, row in enumerate(read_csv(path, CSV_HEADER), start=1):
        if row["pseudonym"] not in subjects:
            raise _stranger()
        found = _line(
            n, row["datetime"], row["loinc"], row["value"], row["unit"], row["comparator"], row["status"], row["record"]
        )
        if isinstance(found, str):
            left_out.append(found)
        else:
            lines.append(found)
    return lines, _counted(left_out)


def read_lab_fhir(path: Path, subjects: Sequence[str]) -> tuple[list[Line], list[str]]:
    """Observations of a FHIR R4B bundle and remarks. Other resources than Patient and Observation are left out."""
    data = read_json(path)
    _check_structure(data)
    resources = [e["resource"] for e in data.get("entry", []) if "resource" in e]
    people = _people(resources, subjects)
    lines: list[Line] = []
    left_out: list[str] = []
    for n, o in enumerate((r for r in resources if r["resourceType"] == "Observation"), start=1):
        subject = o.get("subject", {})
        named = subject.get("identifier", {}).get("value", "")
        if named not in subjects and subject.get("reference", "") not in people:
            raise _stranger()
        found = _observation(n, o)
        if isinstance(found, str):
            left_out.append(found)
        else:
            lines.append(found)
    others = sum(r["resourceType"] not in ("Observation", "Patient") for r in resources)
    return lines, _counted(left_out) + ([f"{others} other FHIR resources were left out"] if others else [])


def _check_structure(data: Any) -> None:
    from fhir.resources.R4B.bundle import Bundle

    try:
        Bundle.model_validate(data)
    except Exception as e:  # messages of the validator repeat values, which may name a person
        raise InputError(
            f"a file that is no FHIR R4B bundle ({type(e).__name__})",
            expected="a Bundle of Observation resources",
            remedy="check the export with a FHIR validator",
            kind="labs.fhir",
        ) from None


def _people(resources: Sequence[dict[str, Any]], subjects: Sequence[str]) -> set[str]:
    """References that mean the patient: those of Patient resources that carry one of the subjects as identifier."""
    people = {f"Patient/{s}" for s in subjects}
    for r in resources:
        if r["resourceType"] != "Patient":
            continue
        if not any(i.get("value") in subjects for i in r.get("identifier", [])) and r.get("id") not in subjects:
            raise _stranger()
        people |= {f"Patient/{r.get('id', '')}", f"urn:uuid:{r.get('id', '')}"}
    return people


def _observation(n: int, o: dict[str, Any]) -> Line | str:
    codings = [c for c in o.get("code", {}).get("coding", []) if c.get("system") == "http://loinc.org"]
    known = [c for c in codings if c.get("code") in BY_LOINC] or codings
    quantity = o.get("valueQuantity", {})
    if quantity and quantity.get("system", "http://unitsofmeasure.org") != "http://unitsofmeasure.org":
        raise UnitError(
            f"result {n} has a unit that is not UCUM", expected="UCUM", remedy="export units as UCUM codes", kind="labs.unit"
        )
    identifiers = o.get("identifier", [])
    record = str(identifiers[0].get("value", "")) if identifiers else ""
    return _line(
        n,
        o.get("effectiveDateTime"),
        str(known[0].get("code", "")) if known else "",
        quantity.get("value"),
        str(quantity.get("code") or quantity.get("unit") or ""),
        str(quantity.get("comparator", "")),
        str(o.get("status", "")),
        record or str(o.get("id", "")),
        str(o.get("issued", "")),
    )


def _stranger() -> IdentityError:
    return IdentityError(
        "laboratory results of somebody else, or of nobody",
        expected="the patient of the administration record",
        remedy="export the results of this patient alone",
        kind="identity.labs",
    )


def _counted(words: Sequence[str]) -> list[str]:
    return [w if words.count(w) == 1 else f"{words.count(w)} times: {w}" for w in sorted(set(words))]


def withdrawn(lines: Sequence[Line]) -> tuple[str, ...]:
    """Record numbers of results that were entered in error, sorted; also those whose result came in another delivery."""
    return tuple(sorted({x.record for x in lines if x.status == "entered-in-error"}))


def merged(lines: Sequence[Line], rank: Callable[[str], str] = str) -> tuple[list[Line], list[str]]:
    """What holds after corrections and retractions, in order of time, and remarks. The order of `lines` plays no part.

    rank : orders record numbers; of one result under two of them the lower one is kept.

    Raises
    ------
    InputError
        `labs.contradiction`: two values of one record with one status, or of one analyte at one time.
    """
    by_record: dict[str, list[Line]] = {}
    for line in lines:
        by_record.setdefault(line.record, []).append(line)
    standing, findings = [], []
    for _, versions in sorted(by_record.items()):
        last = _last(versions)
        if last.status == "entered-in-error":
            known = len(versions) > 1
            findings.append("a result was retracted" if known else "a retraction names a result that is not in the folder")
            continue
        if last.status != "final":
            findings.append(f"a result of {last.analyte} was {last.status}")
        standing.append(last)
    return _once(standing, rank), _counted(findings)


def _last(versions: Sequence[Line]) -> Line:
    """The version in force: by status, then by time of issue."""
    ordered = sorted(versions, key=lambda v: (_RANK[v.status], v.issued))
    last = ordered[-1]
    rivals = [v for v in versions if v.status == last.status and (v.issued == last.issued or not v.issued or not last.issued)]
    if any(not _same(v, last) for v in rivals):
        raise _contradiction(last)
    return last


def _same(a: Line, b: Line) -> bool:
    if a.status == b.status == "entered-in-error":
        return True
    close = math.isclose(a.value, b.value, rel_tol=1e-6, abs_tol=1e-12)
    return close and (a.analyte, a.at, a.comparator) == (b.analyte, b.at, b.comparator)


def _once(standing: Sequence[Line], rank: Callable[[str], str]) -> list[Line]:
    """Results in order of time; the same result under two record numbers (FHIR and CSV) counts once."""
    kept: dict[tuple[str, datetime], Line] = {}
    for line in sorted(standing, key=lambda v: rank(v.record)):
        key = (line.analyte, cast(datetime, line.at))
        if key not in kept:
            kept[key] = line
            continue
        other = kept[key]
        if not math.isclose(line.value, other.value, rel_tol=0.01) or line.comparator != other.comparator:
            raise _contradiction(line)
        if _RANK[line.status] > _RANK[other.status]:
            kept[key] = line
    return sorted(kept.values(), key=lambda v: (cast(datetime, v.at), v.analyte))


def _contradiction(line: Line) -> InputError:
    return InputError(
        f"two values of {line.analyte} for one sample",
        expected="one value, or a correction that says so in its status",
        remedy="mark the wrong one as entered-in-error by its record number",
        kind="labs.contradiction",
    )


def results(lines: Sequence[Line], origin: datetime, token: Callable[[str], str]) -> tuple[LabResult, ...]:
    """Lines on the patient's time axis; record numbers become pseudonyms."""
    return tuple(
        LabResult(
            analyte=v.analyte,
            time_h=(cast(datetime, v.at) - origin).total_seconds() / 3600,
            value=v.value,
            unit=v.unit,
            comparator=v.comparator,
            status=v.status,
            record=token(v.record),
        )
        for v in lines
    )
