"""The closed table of laboratory analytes: LOINC codes, accepted units with their factor, canonical unit, plausible range.

A code or a unit that is not here is refused. A code of a mass concentration is not accepted with a molar unit and the other
way round: the code says what the laboratory measured, so a contradiction means that one of the two is wrong.

Molar masses: creatinine 113.12 g/mol, bilirubin 584.66 g/mol, haemoglobin monomer 16 114.5 g/mol (as reported in mmol/L).
Plausible ranges are wide limits of what a blood sample of a living patient can show; they catch a wrong unit, not a disease.
They are assumed. LOINC codes are from the public code table and are to be checked against the site's own LOINC release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_COUNTS = {"10*9/L": 1.0, "10*3/uL": 1.0, "/nL": 1.0}
_ENZYME = {"U/L": 1.0, "[iU]/L": 1.0, "ukat/L": 60.0}
_NG_ML = {"ng/mL": 1.0, "ug/L": 1.0}


@dataclass(frozen=True)
class LabCode:
    """One analyte.

    Attributes
    ----------
    analyte : the product's own name.
    unit : canonical UCUM unit; every stored value is in it.
    codes : LOINC code -> the units that are accepted with it.
    factors : UCUM unit -> factor to the canonical unit.
    low, high : plausible range in the canonical unit, ends included; a censored value is exempt from `low`.
    """

    analyte: str
    unit: str
    codes: Mapping[str, tuple[str, ...]]
    factors: Mapping[str, float]
    low: float
    high: float


def _code(analyte: str, unit: str, low: float, high: float, *forms: tuple[tuple[str, ...], Mapping[str, float]]) -> LabCode:
    codes = {loinc: tuple(factors) for loincs, factors in forms for loinc in loincs}
    merged = {u: f for _, factors in forms for u, f in factors.items()}
    return LabCode(analyte, unit, MappingProxyType(codes), MappingProxyType(merged), low, high)


_TABLE = (
    _code(
        "creatinine",
        "mg/dL",
        0.1,
        25.0,
        (("2160-0",), {"mg/dL": 1.0, "mg/L": 0.1}),
        (("14682-9",), {"umol/L": 113.12e-4, "mmol/L": 11.312}),
    ),
    _code("egfr", "mL/min/{1.73_m2}", 1.0, 220.0, (("98979-8",), {"mL/min/{1.73_m2}": 1.0})),
    _code("psa", "ng/mL", 0.0, 50_000.0, (("2857-1",), _NG_ML)),
    _code(
        "haemoglobin",
        "g/dL",
        2.0,
        25.0,
        (("718-7",), {"g/dL": 1.0, "g/L": 0.1}),
        (("59260-0",), {"mmol/L": 1.61145}),
    ),
    _code("platelets", "10*9/L", 0.0, 3000.0, (("777-3", "26515-7"), _COUNTS)),
    _code("leukocytes", "10*9/L", 0.0, 500.0, (("6690-2", "26464-8"), _COUNTS)),
    _code("neutrophils", "10*9/L", 0.0, 300.0, (("751-8", "26499-4"), _COUNTS)),
    _code("lymphocytes", "10*9/L", 0.0, 300.0, (("731-0", "26474-7"), _COUNTS)),
    _code("alp", "U/L", 1.0, 10_000.0, (("6768-6",), _ENZYME)),
    _code("ldh", "U/L", 10.0, 20_000.0, (("2532-0", "14804-9"), _ENZYME)),
    _code("ast", "U/L", 1.0, 20_000.0, (("1920-8",), _ENZYME)),
    _code("alt", "U/L", 1.0, 20_000.0, (("1742-6",), _ENZYME)),
    _code(
        "bilirubin",
        "mg/dL",
        0.01,
        60.0,
        (("1975-2",), {"mg/dL": 1.0, "mg/L": 0.1}),
        (("14631-6",), {"umol/L": 584.66e-4}),
    ),
    _code("albumin", "g/dL", 0.5, 8.0, (("1751-7",), {"g/dL": 1.0, "g/L": 0.1})),
    _code("crp", "mg/L", 0.0, 1000.0, (("1988-5",), {"mg/L": 1.0, "mg/dL": 10.0})),
    _code("chromogranin_a", "ng/mL", 0.0, 1_000_000.0, (("9811-1",), _NG_ML)),
)

LAB_CODES: Mapping[str, LabCode] = MappingProxyType({row.analyte: row for row in _TABLE})
"""Analyte -> its row."""

BY_LOINC: Mapping[str, LabCode] = MappingProxyType({loinc: row for row in _TABLE for loinc in row.codes})
"""LOINC code -> the analyte's row."""

UNIT_SPELLINGS: Mapping[str, str] = MappingProxyType(
    {
        "µmol/L": "umol/L",
        "μmol/L": "umol/L",
        "µg/L": "ug/L",
        "μg/L": "ug/L",
        "µkat/L": "ukat/L",
        "IU/L": "[iU]/L",
        "[IU]/L": "[iU]/L",
        "mL/min/{1.73m2}": "mL/min/{1.73_m2}",
        "mL/min/1.73m2": "mL/min/{1.73_m2}",
        "mL/min/1.73 m2": "mL/min/{1.73_m2}",
        "mL/min/1.73m²": "mL/min/{1.73_m2}",
        "mL/min/{1.73_m^2}": "mL/min/{1.73_m2}",
        "10^9/L": "10*9/L",
        "x10^9/L": "10*9/L",
        "10^3/uL": "10*3/uL",
    }
)
"""Other spellings of a UCUM unit that mean the same without doubt. Plain `mL/min` (absolute eGFR) is not among them."""
