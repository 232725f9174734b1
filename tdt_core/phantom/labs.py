"""Laboratory values that answer to dose by simple stated rules (`data/phantom_labs.csv`).

Blood counts: value = baseline exp(-sum over cycles of s D g(t - t_cycle)) with D the red-marrow dose of the cycle, s the
sensitivity and g = (1 - q) (t/tn)^2 exp(2 (1 - t/tn)) + q (1 - exp(-(t/tn)^2)): a nadir at tn, recovery to a lasting share q.
PSA, ALP, LDH, CRP and albumin follow the living tumour volume to a power; creatinine follows eGFR through CKD-EPI 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tdt_core.parameters import packaged_csv
from tdt_core.phantom.draws import stream
from tdt_core.phantom.physiology import ckd_epi_creatinine, ckd_epi_egfr
from tdt_core.twin import LabResult

TABLE = "phantom_labs.csv"
CENSORED_BELOW = {"crp": 1.0, "psa": 0.1}


@dataclass(frozen=True)
class LabHistory:
    """What the rules answer to: start and marrow dose (Gy) of the cycles so far, and tumour burden (relative to the first
    cycle) and eGFR at knots in time."""

    starts_h: Sequence[float]
    marrow_gy: Sequence[float]
    knots_h: Sequence[float]
    burden: Sequence[float]
    egfr: Sequence[float]


def depletion(time_h: float, nadir_h: float, lasting: float) -> float:
    """g above: 0 before the administration, 1 - q + part of q at the nadir, q long after."""
    if time_h <= 0:
        return 0.0
    u = time_h / nadir_h
    return float((1 - lasting) * u**2 * np.exp(2 * (1 - u)) + lasting * (1 - np.exp(-(u**2))))


def analytes(psa: bool) -> list[str]:
    """The fifteen analytes; PSA only for men with prostate cancer."""
    return [r["name"] for r in packaged_csv(TABLE) if r["name"] != "psa" or psa]


def lab_values(
    seed: int, visits: Sequence[tuple[str, float]], history: LabHistory, age_y: float, sex: str, psa: bool
) -> tuple[LabResult, ...]:
    """Results of every analyte at every visit (label, time_h); the label makes the record ids.

    Noise depends on the seed and on the visit's label only, so a visit has the same noise whatever was given before it.
    """
    names = analytes(psa)
    table = {r["name"]: r for r in packaged_csv(TABLE)}
    base_rng = stream(seed, "labs", 0)
    baseline = {n: float(table[n]["value"]) * float(np.exp(float(table[n]["sd"]) * base_rng.standard_normal())) for n in table}
    out = []
    for label, time_h in visits:
        rng = stream(seed, "labs", 1, *label.encode())
        noise = {n: float(np.exp(float(table[n]["noise_sd"]) * rng.standard_normal())) for n in table}
        burden = float(np.interp(time_h, history.knots_h, history.burden))
        egfr = float(np.interp(time_h, history.knots_h, history.egfr))
        values = {
            n: _value(table[n], baseline[n], noise[n], time_h, burden, history)
            for n in names
            if n not in ("creatinine", "egfr")
        }
        creatinine = round(ckd_epi_creatinine(egfr, age_y, sex) * noise["creatinine"], 2)
        values |= {"creatinine": creatinine, "egfr": ckd_epi_egfr(creatinine, age_y, sex)}
        values["leukocytes"] = max(values["leukocytes"], values["neutrophils"] + values["lymphocytes"] + 0.2)
        out += [_result(n, values[n], table[n], time_h, f"{label}-{n}") for n in names]
    return tuple(out)


def _value(row: Mapping[str, str], baseline: float, noise: float, time_h: float, burden: float, history: LabHistory) -> float:
    sensitivity, nadir = float(row["marrow_per_gy"]), float(row["nadir_h"])
    lost = 0.0
    if sensitivity > 0:
        pairs = zip(history.starts_h, history.marrow_gy, strict=True)
        lost = sum(sensitivity * d * depletion(time_h - t, nadir, float(row["lasting_share"])) for t, d in pairs)
    return baseline * noise * float(np.exp(-lost)) * max(burden, 1e-3) ** float(row["burden_power"])


def _result(analyte: str, value: float, row: Mapping[str, str], time_h: float, record: str) -> LabResult:
    value = float(np.clip(value, float(row["low"]), float(row["high"])))
    limit = CENSORED_BELOW.get(analyte, 0.0)
    if value < limit:
        return LabResult(analyte, round(time_h, 2), limit, row["unit"], "<", "final", record)
    return LabResult(analyte, round(time_h, 2), round(value, int(row["digits"])), row["unit"], "", "final", record)
