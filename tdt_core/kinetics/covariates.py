"""What is known of a patient, by quantity of the whole-body models."""

from __future__ import annotations

from collections.abc import Iterable

from tdt_core.twin import Evidence, LabResult

LABS = {"creatinine": ("blood.creatinine", "mg/dL"), "egfr": ("body.eGFR", "mL/min/{1.73_m2}")}
"""Analyte -> the quantity that it gives and its canonical unit; the first one that was measured is used."""


def covariates_of(evidence: Evidence) -> dict[str, float]:
    """Covariates of a cycle: sex, age, height, weight, haematocrit where known, and kidney function by the newest lab."""
    patient = evidence.patient
    known = {
        "body.female": float(patient.sex == "female"),
        "body.age": patient.age_y,
        "body.height": patient.height_cm,
        "body.weight": patient.weight_kg,
    }
    if patient.haematocrit is not None:
        known["blood.hematocrit"] = patient.haematocrit
    for analyte, (quantity, unit) in LABS.items():
        if (value := _newest(evidence.labs, analyte, unit)) is not None:
            return {**known, quantity: value}
    return known


def _newest(labs: Iterable[LabResult], analyte: str, unit: str) -> float | None:
    """The newest uncensored result that stands."""
    found = [x for x in labs if x.analyte == analyte and x.unit == unit and not x.comparator and x.status != "entered-in-error"]
    return max(found, key=lambda x: x.time_h).value if found else None
