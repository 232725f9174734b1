"""A plausible twin state and dose volume from closed formulas, for tests of pages that must not wait for a whole loop.

Not a simulation: bi-exponential curves, local deposition, ellipsoids. The numbers have the size of 7.4 GBq of a Lu-177 PSMA
ligand, so that a page made from them looks like one made from a patient.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import ndimage

from tdt_core.codec import digest
from tdt_core.draws import summarised
from tdt_core.twin import (
    Administration,
    Decision,
    DoseLedger,
    ErrorBudget,
    Evidence,
    LabResult,
    Lesion,
    Patient,
    Posterior,
    Proposal,
    Region,
    RegionActivity,
    TwinState,
)

JOULE_PER_MBQ_H = 8.48e-5  # 147 keV per decay of Lu-177, electrons only
HALF_LIFE_H = 159.5
INTERVAL_H = 1008.0
DRAWS = 200
SCAN_TIMES_H = (4.0, 24.0, 72.0, 168.0)


@dataclass(frozen=True)
class Organ:
    """One ellipsoid: centre and half-axes in mm (LPS, z up from the pelvis), uptake fraction, effective half-life."""

    name: str
    organ: str
    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    fraction: float
    half_life_h: float
    rel_sd: float
    alpha_beta_gy: float | None = None
    seen: bool = True

    @property
    def volume_ml(self) -> float:
        return 4 / 3 * math.pi * math.prod(self.radii_mm) / 1000


ORGANS = (
    Organ("kidney_left", "kidneys", (62, 40, 330), (26, 24, 55), 0.0135, 41, 0.08, 2.5),
    Organ("kidney_right", "kidneys", (-62, 40, 318), (26, 24, 54), 0.0124, 42, 0.09, 2.5),
    Organ("liver", "liver", (-70, -15, 395), (85, 70, 62), 0.021, 48, 0.07, 2.5),
    Organ("spleen", "spleen", (92, 35, 400), (30, 26, 45), 0.0042, 46, 0.10),
    Organ("parotid_left", "parotid_glands", (50, 5, 660), (15, 18, 24), 0.0017, 32, 0.12, 4.5),
    Organ("parotid_right", "parotid_glands", (-50, 5, 658), (15, 18, 23), 0.0016, 33, 0.12, 4.5),
    Organ("submandibular_left", "submandibular_glands", (26, -22, 632), (12, 13, 15), 0.0007, 31, 0.15, 4.5),
    Organ("submandibular_right", "submandibular_glands", (-26, -22, 632), (12, 13, 14), 0.0007, 31, 0.15, 4.5),
    Organ("bladder", "bladder", (0, -25, 70), (36, 32, 34), 0.012, 9, 0.20),
    Organ("red_marrow", "red_marrow", (0, 62, 350), (17, 17, 200), 0.0008, 60, 0.25, 15.0, False),
    Organ("lesion/L1", "lesions", (4, 60, 250), (15, 14, 16), 0.0042, 62, 0.10),
    Organ("lesion/L2", "lesions", (-75, 30, 130), (14, 12, 13), 0.0022, 55, 0.14),
    Organ("lesion/L3", "lesions", (42, 25, 118), (9, 9, 10), 0.0011, 50, 0.22),
)
LIMITS = (
    ("kidneys", "BED", 40.0, 0.05, "Gy with alpha/beta 2.5, in silico PRRT optimisation", "literature", 0.0),
    ("parotid_glands", "AD", 26.0, 0.05, "EBRT-derived mean dose, set by the site", "assumed", 0.0),
    ("red_marrow", "AD", 2.0, 0.05, "radioiodine practice", "literature", 0.0),
)


def _tia(organ: Organ, net_mbq: float) -> float:
    return organ.fraction * net_mbq * organ.half_life_h / math.log(2)


def _dose_draws(organ: Organ, net_mbq: float, cycle: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    mean = _tia(organ, net_mbq) * JOULE_PER_MBQ_H / (organ.volume_ml * 1.05e-3) * 0.93 ** (cycle - 1)
    return np.asarray(mean * np.exp(rng.normal(0, organ.rel_sd, DRAWS)))


def _curve(organ: Organ, net_mbq: float, rng: np.random.Generator) -> dict[str, Any]:
    times = np.linspace(0, 240, 61)
    rate, rise = math.log(2) / organ.half_life_h, math.log(2) / 0.8
    shape = organ.fraction * net_mbq * (np.exp(-rate * times) - np.exp(-rise * times))
    wide = organ.rel_sd * (0.8 + 0.004 * times)
    points = []
    for n, time in enumerate(SCAN_TIMES_H if organ.seen else ()):
        truth = organ.fraction * net_mbq * (math.exp(-rate * time) - math.exp(-rise * time))
        status = "outlier" if (organ.name, n) == ("spleen", 2) else "active"
        value = truth * math.exp(rng.normal(0, organ.rel_sd * 0.6)) * (1.6 if status == "outlier" else 1)
        points.append({"time_h": time, "activity_mbq": value, "sd_mbq": organ.rel_sd * value, "status": status})
    if organ.name == "lesion/L3":
        points[-1] = {"time_h": SCAN_TIMES_H[-1], "activity_mbq": None, "sd_mbq": None, "status": "missing"}
    return {
        "region": organ.name,
        "times_h": times.tolist(),
        "q05": (shape * np.exp(-1.645 * wide)).tolist(),
        "q50": shape.tolist(),
        "q95": (shape * np.exp(1.645 * wide)).tolist(),
        "points": points,
    }


def _dvh(organ: Organ, mean_gy: float) -> dict[str, Any]:
    dose = np.linspace(0, 2.2 * mean_gy, 45)
    spread = 0.22 if organ.organ != "lesions" else 0.4

    def survival(scale: float) -> list[float]:
        centre = mean_gy * scale
        return (1 / (1 + np.exp((dose - centre) / (spread * centre / 1.8)))).clip(0, 1).tolist()

    def metric(value: float) -> dict[str, float]:
        return {"mean": value, "sd": organ.rel_sd * value, "q05": value * 0.87, "q50": value, "q95": value * 1.15}

    factors = {"d98": 0.45, "d95": 0.55, "d90": 0.66, "d50": 1.0, "d2": 1.6}
    metrics = {k: metric(f * mean_gy) for k, f in factors.items()}
    metrics["v20"] = metric(0.02 if mean_gy < 15 else 0.6)
    scale = 1.645 * organ.rel_sd
    uniform = {"eubed": metric(0.9 * mean_gy), "eud_survival": metric(0.8125 * mean_gy)}
    if organ.organ == "lesions":
        metrics["eud"] = metric(0.70 * mean_gy)
    return {
        "bed": {"metrics": uniform} if organ.organ == "lesions" else None,
        "region": organ.name,
        "dose_gy": dose.tolist(),
        "q05": survival(math.exp(-scale)),
        "q50": survival(1.0),
        "q95": survival(math.exp(scale)),
        "metrics": metrics,
    }


LABS = {
    "haemoglobin": ("g/dL", 12.6, -0.00035, 0.03),
    "platelets": ("10*9/L", 232.0, -0.00030, 0.07),
    "leukocytes": ("10*9/L", 6.2, -0.00020, 0.09),
    "neutrophils": ("10*9/L", 4.0, -0.00018, 0.12),
    "lymphocytes": ("10*9/L", 1.5, -0.00045, 0.12),
    "creatinine": ("mg/dL", 0.92, 0.00006, 0.05),
    "egfr": ("mL/min/{1.73_m2}", 84.0, -0.00005, 0.05),
    "psa": ("ng/mL", 68.0, -0.0011, 0.05),
}


def _labs(cycle: int, rng: np.random.Generator) -> tuple[list[dict[str, Any]], tuple[LabResult, ...]]:
    last = (cycle - 1) * INTERVAL_H + 336
    times = np.arange(-168.0, last + 1, 168.0)
    ahead = np.linspace(last, last + INTERVAL_H, 25)
    rows, results = [], []
    for analyte, (unit, start, rate, noise) in LABS.items():
        values = start * np.exp(rate * times + rng.normal(0, noise, times.size))
        points = [
            {"time_h": float(t), "value": round(float(v), 3), "comparator": ""} for t, v in zip(times, values, strict=True)
        ]
        if analyte == "psa":
            points[-1] = {"time_h": float(times[-1]), "value": 0.1, "comparator": "<"} if cycle > 4 else points[-1]
        mid = start * np.exp(rate * ahead)
        wide = noise * (1 + np.maximum(ahead - last, 0) / 600)
        trend = {
            "times_h": ahead.tolist(),
            "q05": (mid * np.exp(-1.645 * wide)).tolist(),
            "q50": mid.tolist(),
            "q95": (mid * np.exp(1.645 * wide)).tolist(),
        }
        note = "trend of the data, not a mechanistic forecast"
        rows.append({"analyte": analyte, "unit": unit, "points": points, "trend": trend, "note": note})
        results += [LabResult(analyte, p["time_h"], p["value"], unit) for p in points]
    albumin = {"analyte": "albumin", "unit": "g/L", "points": [{"time_h": -168.0, "value": 41.0, "comparator": ""}]}
    rows.append({**albumin, "trend": None, "note": "too few values for a trend"})
    return rows, tuple(results)


def _proposal(state: str, cycle: int, cumulative: dict[str, npt.NDArray[np.float64]], abstain: bool) -> Proposal:
    remaining = 6 - cycle
    candidates = np.linspace(1850, 13875, 61)
    per_limit: dict[str, list[float]] = {}
    rows = []
    for organ, quantity, limit, risk, source, status, _ in LIMITS:
        given = cumulative[organ] * (1.25 if quantity == "BED" else 1)
        allowance = np.maximum(limit - given, 0) / remaining
        per_mbq = given / (cycle * 7400) * 1.12
        spread = np.exp(np.random.default_rng(5).normal(0, 0.16, given.size))
        per_limit[organ] = [(float(np.mean(per_mbq * spread * a > allowance))) for a in candidates]
        rows.append(
            {
                "organ": organ,
                "quantity": quantity,
                "limit_gy": limit,
                "risk": risk,
                "source": source,
                "status": status,
                "set_by": "packaged default",
                "cumulative_q50_gy": float(np.median(given)),
                "cumulative_q95_gy": float(np.quantile(given, 0.95)),
                "allowance_q50_gy": float(np.median(allowance)),
                "gy_per_gbq_q50": float(np.median(per_mbq) * 1e3),
                "standard_activity_mbq": 7400.0,
            }
        )
    overall = np.max(np.array(list(per_limit.values())), axis=0)
    fine = np.flatnonzero(overall <= 0.05)
    chosen = None if abstain or fine.size == 0 else math.floor(float(candidates[fine[-1]]) / 10) * 10.0
    reasons = (
        ("the model does not fit the data: 2J/n = 3.40 with 47 data (expected about 1)",)
        if abstain
        else (
            f"above {chosen or 0:.0f} MBq the risk to exceed a limit's allowance is more than 5% (kidneys 5.0%)",
            f"the remaining allowance is spread evenly over {remaining} planned cycles",
        )
    )
    for row, (organ, quantity, *_) in zip(rows, LIMITS, strict=True):
        if chosen is not None:
            given = cumulative[organ] * (1.25 if quantity == "BED" else 1)
            row["after_gy"] = summarised(given * (1 + 1.12 * chosen / (cycle * 7400)))
    return Proposal(
        state=state,
        cycle=cycle + 1,
        activity_mbq=chosen,
        binding="" if chosen is None else "kidneys",
        risk=None if chosen is None else float(np.interp(chosen, candidates, overall)),
        reasons=reasons,
        limits=tuple(rows),
        curve={
            "activity_mbq": candidates.tolist(),
            "any": overall.tolist(),
            "per_limit": per_limit,
            "range_mbq": [3700.0, 11100.0],
        },
        product="Lu-177-PSMA-617",
        remaining_cycles=remaining,
    )


def _ledger(cycle: int, seed: int) -> DoseLedger:
    groups = ("kidneys", "parotid_glands", "submandibular_glands")
    names = (*(o.name for o in ORGANS), *groups)
    rows = []
    for k in range(1, cycle + 1):
        rng = np.random.default_rng([seed, k])
        single = {o.name: _dose_draws(o, 7362.0, k, rng) for o in ORGANS}
        for group in groups:
            members = [o for o in ORGANS if o.organ == group]
            weights = np.array([o.volume_ml for o in members])
            stack = np.array([single[o.name] for o in members])
            single[group] = np.asarray((weights[:, None] * stack).sum(0) / weights.sum())
        rows.append([single[n] for n in names])
    dose = np.array(rows)
    with_ab = np.array([not n.startswith("lesion") and n not in ("spleen", "bladder") for n in names])
    bed = np.where(with_ab[None, :, None], dose * (1 + 0.03 * dose), np.nan)
    return DoseLedger(
        cycles=tuple(range(1, cycle + 1)),
        administrations=tuple((k - 1) * INTERVAL_H for k in range(1, cycle + 1)),
        kinds=tuple("retrospective" if k < cycle else "prospective" for k in range(1, cycle + 1)),
        activities_mbq=(7362.0,) * cycle,
        regions=names,
        dose_gy=dose,
        bed_gy=bed,
        opening_gy={},
    )


def _doses(ledger: DoseLedger, cycle: int) -> list[dict[str, Any]]:
    rows = []
    for i, name in enumerate(ledger.regions):
        members = [o for o in ORGANS if name in (o.name, o.organ)]
        dose = ledger.dose_gy[cycle - 1, i]
        bed = ledger.bed_gy[cycle - 1, i]
        alpha_beta = members[0].alpha_beta_gy
        volume = sum(o.volume_ml for o in members)
        learned = all(o.seen for o in members)
        rows.append(
            {
                "region": name,
                "organ": members[0].organ,
                "volume_ml": volume,
                "mass_g": volume * 1.05,
                "dose_gy": summarised(dose),
                "bed_gy": None if alpha_beta is None else summarised(bed),
                "alpha_beta_gy": alpha_beta,
                "gy_per_gbq": summarised(dose / 7.362),
                "tia_mbq_h": summarised(dose * volume * 1.05e-3 / JOULE_PER_MBQ_H),
                "learned": "learned" if learned else "assumed",
                "variance_reduction": 0.93 if learned else 0.0,
            }
        )
    return rows


def _organ_level(doses: list[dict[str, Any]]) -> dict[str, Any]:
    """Organ level a little below the voxel level, marrow by image, one kidney's parts."""
    shown = [r for r in doses if r["region"] in {o.name for o in ORGANS}]
    dose = {r["region"]: r["dose_gy"] for r in shown}
    rows = [
        {
            "region": name,
            "organ_gy": {k: 0.99 * v for k, v in q.items()},
            "voxel_gy": q,
            "ratio": 0.93 if name == "parotid_left" else 0.99,
            "self_ratio": 0.99,
            "cross_organ_gy": 0.04,
            "cross_voxel_gy": 0.06,
            "why": "self-dose: activity is uneven" if name == "parotid_left" else "agree within 2 %",
        }
        for name, q in dose.items()
    ]
    kidney, marrow = dose["kidney_left"], dose["red_marrow"]
    parts = [
        {"region": "kidney_left", "part": part, "mass_g": mass, "activity_share": share, "dose_gy": kidney}
        for part, mass, share in (("cortex", 110.0, 0.875), ("medulla", 40.0, 0.125))
    ]
    return {
        "method": "MIRD schema",
        "rows": rows,
        "kidney_parts": parts,
        "marrow": {
            "method": "image",
            "words": "activity in the segmented marrow",
            "ratio": None,
            "dose_gy": marrow,
            "self_gy": marrow,
            "cross_gy": marrow,
            "cross_by_source_gy": {"kidney_left": 0.01, "rest": 0.02},
            "voxel_gy": marrow,
        },
    }


def _summary(ledger: DoseLedger, cycle: int, rng: np.random.Generator) -> dict[str, Any]:
    doses = _doses(ledger, cycle)
    cumulative = []
    for organ, quantity, limit, risk, source, status, opening in LIMITS:
        draws = ledger.cumulative(organ, quantity)  # type: ignore[arg-type]
        row = {"organ": organ, "quantity": quantity, "limit_gy": limit, "risk": risk, "source": source}
        cumulative.append({**row, "status": status, "cumulative_gy": summarised(draws), "opening_gy": opening})
    mean = {row["region"]: row["dose_gy"]["mean"] for row in doses}
    labs, _ = _labs(cycle, rng)
    return {
        "doses": doses,
        "organ_level": _organ_level(doses),
        "cumulative": cumulative,
        "curves": [_curve(o, 7362.0, rng) for o in ORGANS],
        "dvh": [_dvh(o, mean[o.name]) for o in ORGANS],
        "labs": labs,
        "forecast": [
            {
                "region": row["region"],
                "organ": row["organ"],
                "gy_per_gbq": {k: v * (1.6 if k == "sd" else 1.02) for k, v in row["gy_per_gbq"].items()},
            }
            for row in doses
        ],
        "acquisitions": [
            {
                "scan": digest({"scan": n, "cycle": cycle}),
                "modality": "SPECT",
                "time_h": (cycle - 1) * INTERVAL_H + time,
                "duration_s": 1200.0,
                "value_branch": "counts",
                "calibration_id": "cal-" + digest("cal")[:12],
                "shift_mm": [0.0, 3.1, 1.9, 6.4][n],
            }
            for n, time in enumerate(SCAN_TIMES_H)
        ],
        "conservation": {
            "emitted_j": 21.3,
            "deposited_j": 20.9,
            "escaped_fraction": 0.0188,
            "activity_relative_difference": 0.0041,
        },
        "assumed": [
            {
                "name": "red_marrow.uptake_fraction",
                "value": 0.0016,
                "unit": "1",
                "source": "population value; marrow was not imaged",
            },
            {"name": "parotid_glands.limit", "value": 26.0, "unit": "Gy", "source": "EBRT-derived, set by the site"},
            {"name": "drift.log_sd_per_cycle", "value": 0.15, "unit": "1", "source": "assumed; between-cycle change"},
        ],
        "warnings": ["spleen at 72 h lies 3.8 sd from its prediction and was given less weight."],
        "diagnostics": {
            "n_obs": 47,
            "n_left_out": 1,
            "n_outliers": 1,
            "two_j": 52.6,
            "two_j_per_n": 1.12,
            "innovation_chi2_per_n": 1.31,
            "innovation_p": 0.24,
            "effective_parameters": 24.6,
            "distinct_optima": 1,
            "linearity_shift_sd": 0.08,
            "variance_reduction": {f"{o.name}.uptake_fraction": 0.93 if o.seen else 0.0 for o in ORGANS},
        },
    }


def _fit_report(curves: list[dict[str, Any]], start_h: float) -> tuple[dict[str, Any], ...]:
    rows = []
    for curve in curves:
        for p in curve["points"]:
            predicted = float(np.interp(p["time_h"], curve["times_h"], curve["q50"]))
            value = p["activity_mbq"]
            sd = p["sd_mbq"] or 0.1 * predicted
            common = {"region": curve["region"], "time_h": start_h + p["time_h"], "modality": "SPECT"}
            if value is None:
                rows.append({**common, "observed_mbq": 0.0, "status": "missing", "reason": "outside the field of view"})
                continue
            log_sd = sd / value
            z = math.log(value / predicted) / log_sd
            rows.append(
                {
                    **common,
                    "observed_mbq": value,
                    "sd_log": log_sd,
                    "total_sd_log": log_sd,
                    "prior_mbq": predicted * 1.1,
                    "prior_sd_log": 0.4,
                    "posterior_mbq": predicted,
                    "posterior_sd_log": 0.06,
                    "z": z,
                    "status": p["status"],
                }
            )
    return tuple(rows)


def build_state(
    cycle: int = 2, seed: int = 20, *, abstain: bool = False, parent: str | None = None, digests: tuple[str, ...] = ()
) -> TwinState:
    """A state of `cycle` cycles. `abstain` gives one whose diagnostics fail; `digests` are of the evidence of all cycles."""
    rng = np.random.default_rng([seed, cycle])
    ledger = _ledger(cycle, seed)
    summary = _summary(ledger, cycle, rng)
    start = (cycle - 1) * INTERVAL_H
    patient = Patient("tw-" + digest({"seed": seed})[:12], "male", 71.0, 176.0, 82.0, 0.39)
    given = Administration(start, "Lu-177-PSMA-617", "PSMA-617", "Lu-177", 7410.0, 95.0, 0.0, 48.0)
    _, labs = _labs(cycle, rng)
    calibration = summary["acquisitions"][0]["calibration_id"]
    activities = tuple(
        RegionActivity(
            curve["region"], start + p["time_h"], p["activity_mbq"], 0.8 * p["activity_mbq"], 0.8,
            ErrorBudget(0.02, 0.03, 0.04, 0.05, 0.01), summary["acquisitions"][n]["scan"], "SPECT", "Lu-177", calibration,
        )
        for curve in summary["curves"]
        for n, p in enumerate(curve["points"])
        if p["activity_mbq"] is not None
    )  # fmt: skip
    lesions = (
        Lesion("L1", "lumbar vertebra 4", 14.1, 1, "present"),
        Lesion("L2", "right ilium", 9.1, 1, "present"),
        Lesion("L3", "left external iliac node", 3.4, 1, "present"),
        Lesion("L4", "right rib 7", 0.0, 1, "vanished"),
    )
    evidence = Evidence(
        cycle,
        patient,
        (given,),
        tuple(
            Region(o.name, o.organ, "", volume_ml=o.volume_ml, mass_g=o.volume_ml * 1.05, volume_rel_sd=0.05) for o in ORGANS
        ),
        activities,
        labs,
        lesions,
        digests[-1:] or tuple(digest({"item": n, "cycle": cycle, "seed": seed}) for n in range(9)),
        ("SPECT at 168 h: no attenuation correction method is named in the header; taken as corrected.",),
    )
    identity = {
        "schema_version": 1,
        "pid": patient.pid,
        "cycle": cycle,
        "parent": parent,
        "evidence": sorted(digests or evidence.digests),
        "model": "sum-of-exponentials",
        "settings": {"draws": DRAWS, "voxel_mm": 4.8},
        "seed": seed,
        "science": digest("science"),
    }
    names = tuple(f"{o.name}.uptake_fraction" for o in ORGANS)
    sd = np.array([o.rel_sd for o in ORGANS])
    mean = np.log([o.fraction for o in ORGANS])
    fit = {**summary["diagnostics"], **({"two_j_per_n": 3.4} if abstain else {})}
    posterior = Posterior(
        names,
        mean,
        np.diag(sd),
        mean + rng.normal(size=(DRAWS, len(names))) * sd,
        "sum-of-exponentials",
        fit,
        _fit_report(summary["curves"], start),
    )
    state = TwinState(
        id=digest(identity),
        identity=identity,
        pid=patient.pid,
        cycle=cycle,
        parent=parent,
        valid_time_h=start + SCAN_TIMES_H[-1],
        model="sum-of-exponentials",
        patient=patient,
        posterior=posterior,
        ledger=ledger,
        lesions=lesions,
        evidence=evidence,
        proposal=None,
        summary={**summary, "diagnostics": fit},
    )
    cumulative = {row[0]: ledger.cumulative(row[0]) for row in LIMITS}
    return replace(state, proposal=_proposal(state.id, cycle, cumulative, abstain))


def build_dose(state: TwinState, shape: tuple[int, int, int] = (150, 54, 84), spacing_mm: float = 4.8) -> xr.Dataset:
    """The dose volumes of a state on one grid, `docs/design/002`; axes rise to head, posterior, left."""
    z, y, x = np.meshgrid(
        *(
            (np.arange(n) - offset) * spacing_mm
            for n, offset in zip(shape, (0, (shape[1] - 1) / 2, (shape[2] - 1) / 2), strict=True)
        ),
        indexing="ij",
    )
    rng = np.random.default_rng(7)
    scale = shape[0] * spacing_mm / 720

    def ellipsoid(centre: tuple[float, ...], radii: tuple[float, ...]) -> npt.NDArray[np.bool_]:
        cx, cy, cz = centre[0], centre[1], centre[2] * scale
        return ((x - cx) / radii[0]) ** 2 + ((y - cy) / radii[1]) ** 2 + ((z - cz) / (radii[2] * scale)) ** 2 <= 1

    torso = ((x / 175) ** 2 + (y / 108) ** 2 <= 1) & (z < 570 * scale)
    neck = ((x / 62) ** 2 + ((y - 10) / 60) ** 2 <= 1) & (z >= 560 * scale)
    body = torso | neck | ellipsoid((0, 5, 690), (78, 92, 100))
    hu = np.where(body, 25.0, -1000.0)
    hu[((x / 160) ** 2 + (y / 94) ** 2 > 1) & torso] = -95.0
    for side in (-1, 1):
        hu[ellipsoid((side * 82, 0, 490), (66, 72, 88))] = -760.0
        hu[ellipsoid((side * 95, 25, 125), (40, 32, 65)) & ~ellipsoid((side * 84, 10, 130), (34, 30, 62))] = 380.0
    hu[ellipsoid((0, 62, 360), (19, 19, 340))] = 260.0
    hu[ellipsoid((0, 5, 690), (72, 86, 94)) & ~ellipsoid((0, 5, 692), (66, 80, 88))] = 700.0
    label = np.zeros(shape, np.int16)
    means = {row["region"]: row["dose_gy"]["mean"] for row in state.summary["doses"]}
    dose = np.where(body, 0.25, 0.0)
    for n, organ in enumerate(ORGANS, start=1):
        mask = ellipsoid(organ.centre_mm, organ.radii_mm) & body
        label[mask & (label == 0)] = n
        if organ.name == "red_marrow":
            continue
        texture = ndimage.gaussian_filter(rng.normal(size=shape), 1.6)
        texture = 1 + 0.25 * texture / texture.std()
        if organ.organ == "kidneys":
            core = ellipsoid(organ.centre_mm, tuple(0.5 * r for r in organ.radii_mm))
            texture = np.where(core, 0.55, 1.12) * texture
        dose = np.where(mask, means[organ.name] * texture.clip(0.3), dose)
        hu = np.where(mask & (hu < 100), 45.0, hu)
    dose = ndimage.gaussian_filter(dose, 0.9)
    hu = hu + rng.normal(0, 12, shape)
    spread = 0.06 + 0.10 * np.exp(-dose / 1.5)
    affine = np.array(
        [
            [0, 0, spacing_mm, -spacing_mm * (shape[2] - 1) / 2],
            [0, spacing_mm, 0, -spacing_mm * (shape[1] - 1) / 2],
            [spacing_mm, 0, 0, -400.0],
            [0, 0, 0, 1],
        ]
    )
    dims = ("z", "y", "x")

    def variable(values: npt.NDArray[Any], units: str, dtype: str = "float32") -> tuple[Any, ...]:
        return dims, values.astype(dtype), {"units": units}

    return xr.Dataset(
        {
            "dose_mean_gy": variable(dose, "Gy"),
            "dose_sd_gy": variable(dose * spread, "Gy"),
            "bed_mean_gy": variable(np.where(label > 0, dose * (1 + 0.03 * dose), np.nan), "Gy"),
            **{
                f"{what}_{q}_gy": variable(map_, "Gy")
                for q, at in (("q05", dose * np.exp(-1.645 * spread)), ("q50", dose), ("q95", dose * np.exp(1.645 * spread)))
                for what, map_ in (("dose", at), ("bed", np.where(label > 0, at * (1 + 0.03 * at), np.nan)))
            },
            "ct_hu": variable(hu, "HU", "int16"),
            "label": variable(label, "1", "int16"),
        },
        attrs={
            "affine": affine.ravel().tolist(),
            "regions": json.dumps([o.name for o in ORGANS]),
            "frame_of_reference": "1.2.826.0.1.3680043.8.498.1",
        },
    )


def commit_course(
    home: Path, cycles: int = 2, seed: int = 20, *, abstain: bool = False, report: bool = True
) -> list[TwinState]:
    """Commit a patient's states to the store in `home`, with past decisions and, beside them, the reports."""
    from flows.report import render_report
    from storage.home import open_home
    from storage.twins import TwinStore

    store = TwinStore(open_home(home))
    states: list[TwinState] = []
    digests: tuple[str, ...] = ()
    for cycle in range(1, cycles + 1):
        digests = (*digests, store.evidence.put_json("cycle", {"cycle": cycle, "seed": seed}))
        parent = states[-1].id if states else None
        state = build_state(cycle, seed, abstain=abstain and cycle == cycles, parent=parent, digests=digests)
        dose = build_dose(state, (75, 32, 44), 9.6)
        when = datetime(2026, 1, 5, 9, tzinfo=UTC) + timedelta(days=42 * cycle)
        store.commit(state, dose, expected_head=parent, provenance={"tdt": "0.1.0"}, knowledge_time=when)
        if cycle < cycles:
            words = "taken in as history"
            store.decide(Decision(state.id, "retrospective", 7400.0, "", "", words), time=when)
        if report:
            folder = store.home.derived / state.id
            folder.mkdir()
            html = render_report(state, dose, store.decision(state.id), previous=states[-1] if states else None)
            (folder / "report.html").write_text(html, encoding="utf-8")
        states.append(state)
    return states
