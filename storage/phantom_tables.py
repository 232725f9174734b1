"""The tables of an inbox: administrations, calibrations and labs (FHIR R4B bundle and CSV) from typed values.

Formats: `docs/data-in.md`. Extending a table keeps what is there, so a later cycle can be added to an inbox.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from storage.lab_codes import LAB_CODES
from tdt_core.codec import to_plain
from tdt_core.errors import InputError
from tdt_core.twin import Administration, CalibrationRecord, LabResult, Patient

SCHEMA = 1
CSV_HEADER = "pseudonym,datetime,loinc,value,unit,comparator,status,record"
PATIENT_SYSTEM = "urn:theranostic-digital-twin:phantom"

CALIBRATED_BEFORE_H = {"therapy": 3.0, "imaging": 0.25}
"""The activity meter reads the vial this long before the administration, so that a reader has to decay it."""
RESIDUAL_AFTER_H = 0.5
"""The residual is measured this long after the end of the administration."""

At = Callable[[float], datetime]
HalfLife = Callable[[str], float]


@dataclass(frozen=True)
class PhantomIdentity:
    """The fictitious person that a phantom's files are about, and the covariates that a clinic would know."""

    id: str
    name: str
    birth_date: date
    patient: Patient


def administrations_json(
    identity: PhantomIdentity, schedule: Sequence[Administration], at: At, half_life_h: HalfLife, before: str | None = None
) -> str:
    """`administrations.json` with the given administrations, after those of `before` (the text of an earlier one).

    `activity` holds at `calibration_time`, `residual` at `residual_time`; a reader decays both to `start_time`.
    """
    rows = [] if before is None else list(json.loads(before)["administrations"])
    rows += [_administration(a, at, half_life_h(a.nuclide)) for a in schedule]
    patient = identity.patient
    return _dump(
        {
            "schema": SCHEMA,
            "patient": {
                "id": identity.id,
                "sex": patient.sex,
                "birth_date": identity.birth_date.isoformat(),
                "height_cm": round(patient.height_cm, 1),
                "weight_kg": round(patient.weight_kg, 1),
                "haematocrit": patient.haematocrit,
            },
            "administrations": rows,
        }
    )


def calibration_json(records: Iterable[CalibrationRecord], before: str | None = None) -> str:
    """`calibration.json` with the given records and those of `before`, each once, ordered by key."""
    rows = [] if before is None else list(json.loads(before)["calibrations"])
    for record in records:
        plain = to_plain(record)
        if plain not in rows:
            rows.append(plain)
    rows.sort(key=lambda r: (r["device"], r["energy_window"], r["collimator"], r["reconstruction"], r["nuclide"], r["date"]))
    return _dump({"schema": SCHEMA, "calibrations": rows})


def labs_csv(identity: PhantomIdentity, labs: Sequence[LabResult], at: At, cycle: int, before: str | None = None) -> str:
    """`labs.csv` with the given results, after those of `before`."""
    lines = [CSV_HEADER] if before is None else before.splitlines()
    for n, lab in enumerate(labs):
        loinc, unit = _coded(lab)
        when, record = at(lab.time_h).isoformat(), record_of(lab, cycle, n)
        fields = (identity.id, when, loinc, _number(lab.value), unit, lab.comparator, lab.status, record)
        if any(set(f) & set(',"\n') for f in fields):
            raise InputError("a laboratory field with a comma, quote or line break", kind="input.labs")
        lines.append(",".join(fields))
    return "\n".join(lines) + "\n"


def labs_fhir(identity: PhantomIdentity, labs: Sequence[LabResult], at: At, cycle: int, before: str | None = None) -> str:
    """`labs.fhir.json`: a FHIR R4B collection of Observations with the same values and records as the CSV."""
    entries = [] if before is None else list(json.loads(before)["entry"])
    for n, lab in enumerate(labs):
        entries.append({"resource": _observation(identity, lab, at, record_of(lab, cycle, n))})
    return _dump({"resourceType": "Bundle", "type": "collection", "entry": entries})


def record_of(lab: LabResult, cycle: int, n: int) -> str:
    """The report line's own identity, or one made from cycle and place in the list."""
    return lab.record or f"C{cycle}-{n + 1:04d}"


def _administration(a: Administration, at: At, half_life_h: float) -> dict[str, Any]:
    start, end_h, before_h = at(a.time_h), a.time_h + a.duration_h, CALIBRATED_BEFORE_H[a.intent]
    row: dict[str, Any] = {
        "product": a.product,
        "ligand": a.ligand,
        "nuclide": a.nuclide,
        "intent": a.intent,
        "activity": round(a.activity_mbq * 2 ** (before_h / half_life_h), 6),
        "activity_unit": "MBq",
        "calibration_time": (start - timedelta(hours=before_h)).isoformat(),
        "start_time": start.isoformat(),
        "duration_min": round(a.duration_h * 60, 6),
        "residual": round(a.residual_mbq * 2 ** (-(a.duration_h + RESIDUAL_AFTER_H) / half_life_h), 6),
        "residual_unit": "MBq",
        "residual_time": at(end_h + RESIDUAL_AFTER_H).isoformat(),
        "route": a.route,
    }
    if a.amount_nmol is not None:
        row |= {"amount": round(a.amount_nmol, 6), "amount_unit": "nmol"}
    return row


def _observation(identity: PhantomIdentity, lab: LabResult, at: At, record: str) -> dict[str, Any]:
    loinc, unit = _coded(lab)
    quantity: dict[str, Any] = {
        "value": float(_number(lab.value)),
        "unit": unit,
        "system": "http://unitsofmeasure.org",
        "code": unit,
    }
    if lab.comparator:
        quantity["comparator"] = lab.comparator
    return {
        "resourceType": "Observation",
        "id": record.replace("/", "-").replace("_", "-"),
        "identifier": [{"system": PATIENT_SYSTEM + ":record", "value": record}],
        "status": lab.status,
        "code": {"coding": [{"system": "http://loinc.org", "code": loinc, "display": lab.analyte}]},
        "subject": {"identifier": {"system": PATIENT_SYSTEM, "value": identity.id}},
        "effectiveDateTime": at(lab.time_h).isoformat(),
        "valueQuantity": quantity,
    }


def _coded(lab: LabResult) -> tuple[str, str]:
    """LOINC code and unit of a result in the analyte's canonical unit."""
    code = LAB_CODES.get(lab.analyte)
    if code is None or lab.unit != code.unit:
        raise InputError(
            f"analyte {lab.analyte!r} in {lab.unit!r} cannot be written",
            expected="a listed analyte in its canonical unit",
            kind="input.labs",
        )
    return next(loinc for loinc, units in code.codes.items() if code.unit in units), code.unit


def _number(value: float) -> str:
    """At most six significant digits, as a laboratory prints, without an exponent."""
    return f"{float(f'{value:.6g}'):f}".rstrip("0").rstrip(".")


def _dump(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
