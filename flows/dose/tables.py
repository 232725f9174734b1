"""What a person reads of a dosimetry: one row per region and organ, curves, assumptions; the same as CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from flows.dose.calculate import Dosimetry, dose_volumes, options_told
from flows.dose.integrate import SINGLE
from flows.report.sections import since_start
from tdt_core.codec import digest
from tdt_core.draws import summarised
from tdt_core.nuclides import nuclide as nuclide_of
from tdt_core.planning.outlook import Tissue, for_ligand, organ_groups, tissues
from tdt_core.radiobiology import bed

Row = dict[str, Any]
STATISTICS = ("mean", "sd", "q05", "q95")
CURVE_POINTS = 120
BEFORE_FIRST = {
    "constant": "before the first scan the activity is taken as that of the first scan",
    "linear": "before the first scan the activity is taken to rise evenly from zero",
    "exponential": "before the first scan the decline is drawn back to the administration",
}


def region_rows(found: Dosimetry) -> list[Row]:
    """Regions in their order, `rest` last, then organs of several regions with their mass-weighted means.

    `dose_gy`, `bed_gy` and `tia_mbq_h` hold mean, sd and quantiles over the draws; the mean dose is that of the map.
    """
    known, net = _tissues(found), found.taken.therapy.net_activity_mbq
    labels = found.images.labels.labels
    sums = np.bincount(labels.ravel(), weights=found.tia_mbq_h.ravel(), minlength=len(found.images.regions) + 1)[1:]
    draws, beds, rows = {}, {}, []
    for n, region in enumerate(found.images.regions):
        dose = float(found.dose_gy[labels == n + 1].mean(dtype=np.float64)) * found.factors[:, n]
        tissue = known.get(region.organ)
        draws[region.name] = dose
        beds[region.name] = None if tissue is None else bed(dose, found.g[n], tissue.alpha_beta_gy)
        curve = found.curves[region.name]
        rows.append(
            {
                "region": region.name,
                "organ": region.organ,
                "volume_ml": region.volume_ml,
                "mass_g": region.mass_g,
                "scans": [
                    {
                        "time_h": found.taken.hours(a.time_h),
                        "activity_mbq": a.activity_mbq,
                        "sd_mbq": a.activity_mbq * a.budget.total,
                        "recovery": a.recovery,
                    }
                    for a in sorted(found.images.activities, key=lambda a: a.time_h)
                    if a.region == region.name
                ],
                "tia_mbq_h": summarised(float(sums[n]) * found.tia_factors[:, n]),
                "tia_per_activity_h": float(sums[n]) / net,
                "before_first_share": float(curve.parts[0, 0] / max(curve.integral[0], 1e-300)),
                "after_last_share": float(curve.parts[2, 0] / max(curve.integral[0], 1e-300)),
                "effective_half_life_h": math.log(2.0) / float(curve.tail_rate[0]),
                **_doses(dose, beds[region.name], net),
                **_tissue(known, region.organ, float(found.g[n])),
            }
        )
    mass = {r.name: r.mass_g for r in found.images.regions}
    for organ, names in organ_groups(found.images.regions).items():
        share = np.array([mass[n] for n in names]) / sum(mass[n] for n in names)
        parts = [beds[n] for n in names]
        together = None if any(p is None for p in parts) else share @ np.stack([p for p in parts if p is not None])
        rows.append(
            {
                "region": organ,
                "organ": organ,
                "volume_ml": sum(r.volume_ml for r in found.images.regions if r.name in names),
                "mass_g": sum(mass[n] for n in names),
                "of": list(names),
                **_doses(share @ np.stack([draws[n] for n in names]), together, net),
                **_tissue(known, organ, math.nan),
            }
        )
    return rows


def _doses(dose: Any, bed_draws: Any, net_mbq: float) -> Row:
    return {
        "dose_gy": summarised(dose),
        "gy_per_gbq": float(np.mean(dose)) / net_mbq * 1000.0,
        "bed_gy": None if bed_draws is None else summarised(bed_draws),
    }


def _tissues(found: Dosimetry) -> Mapping[str, Tissue]:
    return for_ligand(tissues(), found.taken.therapy.ligand)


def _tissue(known: Mapping[str, Tissue], organ: str, g: float) -> Row:
    tissue = known.get(organ)
    if tissue is None:
        return dict.fromkeys(("alpha_beta_gy", "repair_half_time_h", "lea_catcheside", "tissue_status", "tissue_source"))
    return {
        "alpha_beta_gy": tissue.alpha_beta_gy,
        "repair_half_time_h": tissue.repair_half_time_h,
        "lea_catcheside": g if math.isfinite(g) else None,
        "tissue_status": tissue.status,
        "tissue_source": tissue.source,
    }


def assumptions(found: Dosimetry) -> list[str]:
    """What the result rests on without this patient's data having tested it."""
    taken, options = found.taken, found.options
    half_life = nuclide_of(taken.therapy.nuclide).half_life_h
    organs = {r.organ for r in found.images.regions}
    assumed = sorted(o.replace("_", " ") for o, t in _tissues(found).items() if o in organs and t.status == "assumed")
    engines = {
        "local": "electrons and alphas stay in their voxel, photons leave the body",
        "kernel": "energy spreads as in water of density 1; each voxel's own mass divides it",
        "multimedium": "electrons follow rays through the CT's media, photons are scaled by density",
        "mc": f"{options.decays:g} decays followed through the CT's media; their statistics are in the SD",
    }
    return [
        BEFORE_FIRST[options.early],
        _after(options.method) + f"; not slower than physical decay ({half_life:.4g} h)",
        f"dose engine {options.engine}: {engines.get(options.engine, 'see docs/dosimetry.md')}",
        "progeny that decay sooner than their parent do so where the parent did",
        "voxels share out their region's corrected activity as the images show it: the images' blur inside a region stays",
        "the SD holds count noise, calibration, partial volume, contour, registration and resolution, as draws of each "
        "region's curve; not what the shape of the curve between and after the scans may hide",
        f"density and medium follow from CT numbers by {found.images.density_from}",
        *([f"tissue parameters of BED are assumed for {', '.join(assumed)}"] if assumed else []),
        "BED takes the dose rate of a region to follow its own activity",
    ]


def _after(method: str) -> str:
    """What the tail rests on."""
    if method in SINGLE:
        return "the decline is one exponential with the half-life of a population (kinetics_sum_of_exponentials.csv)"
    if method in ("hierarchical", "voxel_fit"):
        return (
            "after the last scan each voxel falls at its own fitted rate; the curves shown are those through region activities"
        )
    return "after the last scan the activity falls at the rate of the last two scans"


def curve_rows(found: Dosimetry) -> list[Row]:
    """Per region the median and the 90 % band of its curve, with the measured points."""
    rows = []
    for row in region_rows(found):
        if "scans" not in row:
            continue
        curve = found.curves[row["region"]]
        end = max(float(curve.times_h[-1]) * 1.35, 24.0)
        times = np.unique(np.concatenate([np.linspace(0.0, end, CURVE_POINTS), curve.times_h]))
        low, mid, high = np.quantile(curve.values(times)[1:], (0.05, 0.5, 0.95), axis=0)
        rows.append(
            {
                "region": row["region"],
                "times_h": times.tolist(),
                "q05": low.tolist(),
                "q50": mid.tolist(),
                "q95": high.tolist(),
                "points": [{**p, "status": "active"} for p in row["scans"]],
                "half_life_h": row["effective_half_life_h"],
            }
        )
    return rows


def result_id(found: Dosimetry) -> str:
    """SHA-256 of what the result follows from: evidence, cycle, options."""
    return digest(
        {"evidence": list(found.taken.cycle.digests), "cycle": found.taken.cycle.number, **options_told(found.options)}
    )


def document(found: Dosimetry) -> Row:
    """The whole result but its maps, as plain JSON values."""
    therapy = found.taken.therapy
    return {
        "schema": 1,
        "research_use_only": True,
        "id": result_id(found),
        "cycle": found.taken.cycle.number,
        "therapy": {
            "product": therapy.product,
            "nuclide": therapy.nuclide,
            "net_activity_mbq": therapy.net_activity_mbq,
            "physical_half_life_h": nuclide_of(therapy.nuclide).half_life_h,
        },
        "options": options_told(found.options),
        "grid": {"shape": list(found.dose_gy.shape), "spacing_mm": list(found.images.spacing_mm)},
        "scans": [
            {
                "time_h": found.taken.hours(s.time_h),
                "modality": s.modality,
                "shift_mm": s.transform.shift_mm,
                "rotation_deg": s.transform.rotation_deg,
            }
            for s in found.images.registered
        ],
        "regions": region_rows(found),
        "dvh": dose_volumes(found),
        "conservation": dict(found.conservation),
        "monte_carlo": dict(found.monte_carlo) or None,
        "findings": [since_start(words, therapy.time_h) for words in found.findings],
        "assumptions": assumptions(found),
    }


def region_csv(told: Row) -> str:
    """The regions of a document as one table; quantiles as columns, activities one column per scan."""
    metrics = {d["region"]: d["metrics"] for d in told["dvh"]}
    times = [f"{s['time_h']:.2f}" for s in told["scans"]]
    rows = []
    for r in told["regions"]:
        row = {k: r[k] for k in ("region", "organ", "volume_ml", "mass_g")}
        for t, at in enumerate(times):
            point = r["scans"][t] if "scans" in r else {}
            row[f"activity_{at}_h_mbq"] = point.get("activity_mbq")
            row[f"sd_{at}_h_mbq"] = point.get("sd_mbq")
        for name in ("tia_mbq_h", "dose_gy", "bed_gy"):
            row |= {f"{name}_{s}": (r.get(name) or {}).get(s) for s in STATISTICS}
        for name in ("tia_per_activity_h", "effective_half_life_h", "before_first_share", "after_last_share", "gy_per_gbq"):
            row[name] = r.get(name)
        row |= {f"{m}_gy": metrics.get(r["region"], {}).get(m, {}).get("mean") for m in ("d98", "d95", "d90", "d50", "d2")}
        row["v20_share"] = metrics.get(r["region"], {}).get("v20", {}).get("mean")
        for name in ("alpha_beta_gy", "repair_half_time_h", "lea_catcheside", "tissue_status", "tissue_source"):
            row[name] = r.get(name)
        rows.append({k: _cell(v) for k, v in row.items()})
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else value
