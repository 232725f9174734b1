"""`tdt bench credible`: how sure dose maps are, and how sure they say that they are, on reference patients with known dose.

The whole loop runs on the files of each patient (`flows.bench.loop`). Region means are compared with the truth at half the
voxel size. Voxels are compared with the true dose blurred by a Gaussian of the image's true resolution, as nothing finer can be
seen, in the voxels at least one FWHM inside a region's drawn contour; coverage of the true dose as it is stands beside it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from flows.bench import loop
from flows.bench.resumable import by_patient
from flows.truth import KINDS, read_truth
from tdt_core.errors import GeometryError
from tdt_core.imaging.resolution import SIGMA_PER_FWHM

ORGANS: Mapping[str, tuple[str, ...]] = {**KINDS, "liver": ("liver",), "spleen": ("spleen",)}
SMALLEST_LESION_ML = 5.0
FEWEST_VOXELS = 5
"""A region with fewer voxels one FWHM inside it is left out of the voxel figures."""
LEVELS = ("q05", "q50", "q95")
Mask = npt.NDArray[np.bool_]


def run(
    patients: int = 20,
    seed: int = 1,
    cycles: int = 2,
    matrix: int = 64,
    processes: int = 2,
    folder: str | None = None,
    model: str | None = None,
    images: str | None = None,
) -> dict[str, Any]:
    """Named figures of `patients` reference patients with seeds `seed * 1000 + i`; `images` as in `PhantomSettings`."""
    started = time.perf_counter()
    arguments = loop.cohort("credible", patients, seed, cycles, matrix, model, images)
    results = by_patient(one_patient, arguments, processes, folder, tasks_per_process=1)
    seconds = time.perf_counter() - started
    return figures(results) | {"patients": patients, "seed": seed, "matrix": matrix, "wall_seconds": seconds}


def one_patient(
    seed: int, variant: str, cycles: int, matrix: int, model: str | None, images: str | None, work: Path
) -> dict[str, Any]:
    """The loop on one reference patient, with a look at its dose maps."""
    return loop.one_patient(seed, variant, cycles, matrix, model, images, work, look)


def kind_of(organ: str) -> str | None:
    """kidneys, glands, lesions, liver or spleen; None for any other organ."""
    return next((kind for kind, organs in ORGANS.items() if organ in organs), None)


def look(site: Any, state: Any, truth: Path) -> list[dict[str, Any]]:
    """One row per region of a treated state: its mean dose against the truth, and its voxels."""
    known = read_truth(truth.parent / "truth.json")[state.cycle]
    fwhm = float(known["calibration"]["resolution_fwhm_mm"])
    with np.load(truth / "dose_gy.npz") as file:
        true, affine = file["array"].astype(np.float64), file["affine"]
    maps = site.store.open_dose(state.id)
    here = np.reshape(maps.attrs["affine"], (4, 4))
    if true.shape != maps["label"].shape or not np.allclose(here, affine, atol=1e-3):
        raise GeometryError("the true dose lies on another grid than the state's", expected="the grid of the first scan")
    names, labels = json.loads(maps.attrs["regions"]), maps["label"].values
    spacing = np.linalg.norm(here[:3, :3], axis=0)
    blurred = ndimage.gaussian_filter(true, fwhm * SIGMA_PER_FWHM / spacing, mode="nearest")
    bands = {q: maps[f"dose_{q}_gy"].values for q in LEVELS}
    rows = []
    for row in state.summary["doses"]:
        entry, kind = known["regions"].get(row["region"]), kind_of(row["organ"])
        if kind is None or row["region"] not in names or not entry or not entry.get("dose_gy"):
            continue
        q, dose = row["dose_gy"], float(entry["dose_gy"])
        mask = labels == names.index(row["region"]) + 1
        rows.append(
            {
                "region": row["region"],
                "kind": kind,
                "volume_ml": float(entry["volume_ml"]),
                "error": q["q50"] / dose - 1.0,
                "covered": q["q05"] <= dose <= q["q95"],
                "half_width": 0.5 * (q["q95"] - q["q05"]) / q["q50"],
                **voxels(deep_inside(mask, spacing, fwhm), true, blurred, bands),
            }
        )
    return rows


def deep_inside(mask: Mask, spacing_mm: npt.NDArray[Any], depth_mm: float) -> Mask:
    """Voxels of a mask whose centre lies at least `depth_mm` from its surface, half a voxel before the first centre outside."""
    distance = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    return np.asarray(distance - 0.5 * float(np.mean(spacing_mm)) >= depth_mm)


def voxels(
    inside: Mask, true: npt.NDArray[Any], blurred: npt.NDArray[Any], bands: Mapping[str, npt.NDArray[Any]]
) -> dict[str, float]:
    """Coverage of the 90 % intervals, error and width of the voxels in `inside`; `voxels` is their number."""
    if int(inside.sum()) < FEWEST_VOXELS:
        return {"voxels": 0}
    low, mid, high = (bands[q][inside].astype(np.float64) for q in LEVELS)
    error = np.log(mid / blurred[inside])
    return {
        "voxels": int(inside.sum()),
        "voxel_covered": float(np.mean((low <= blurred[inside]) & (blurred[inside] <= high))),
        "voxel_covered_unblurred": float(np.mean((low <= true[inside]) & (true[inside] <= high))),
        "voxel_half_width": float(np.median(0.5 * (high - low) / mid)),
        "voxel_shift": float(error.mean()),
        "voxel_scatter": float(error.std()),
    }


def figures(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The named figures of finished patients; lesions are those over 5 mL."""
    good = [r for r in results if r["completed"]]
    rows = [row for r in good for rows in r["looks"] for row in rows]
    rows = [row for row in rows if row["kind"] != "lesions" or row["volume_ml"] > SMALLEST_LESION_ML]
    out: dict[str, Any] = {"completed_fraction": len(good) / max(len(results), 1)}
    out["region_dose_median_abs_error"] = _median([abs(r["error"]) for r in rows])
    seen = [r for r in rows if r["voxels"]]
    out["voxel_coverage90"] = _pooled(seen, "voxel_covered")
    out["voxel_coverage90_unblurred"] = _pooled(seen, "voxel_covered_unblurred")
    out["voxel_coverage90_mean_of_regions"] = _mean([r["voxel_covered"] for r in seen])
    for kind in ORGANS:
        members_ = [r for r in rows if r["kind"] == kind]
        inner = [r for r in members_ if r["voxels"]]
        out |= {
            f"n.{kind}": len(members_),
            f"median_abs_error.{kind}": _median([abs(r["error"]) for r in members_]),
            f"median_error.{kind}": _median([r["error"] for r in members_]),
            f"coverage90.{kind}": _mean([float(r["covered"]) for r in members_]),
            f"halfwidth90_median.{kind}": _median([r["half_width"] for r in members_]),
            f"voxels.{kind}": sum(r["voxels"] for r in inner),
            f"voxel_coverage90.{kind}": _mean([r["voxel_covered"] for r in inner]),
            f"voxel_coverage90_unblurred.{kind}": _mean([r["voxel_covered_unblurred"] for r in inner]),
            f"voxel_halfwidth90_median.{kind}": _median([r["voxel_half_width"] for r in inner]),
            f"voxel_shift_rms.{kind}": _rms([r["voxel_shift"] for r in inner]),
            f"voxel_scatter_rms.{kind}": _rms([r["voxel_scatter"] for r in inner]),
        }
    out["failures"] = [{"seed": r["seed"], "error": r["error"]} for r in results if "error" in r]
    return out


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _rms(values: Sequence[float]) -> float | None:
    return float(np.sqrt(np.mean(np.square(values)))) if values else None


def _pooled(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Mean over voxels rather than over regions."""
    return float(np.average([r[key] for r in rows], weights=[r["voxels"] for r in rows])) if rows else None


def describe(out: Mapping[str, Any]) -> str:
    """The figures as text, with the goals beside them."""
    goals = {"region_dose_median_abs_error": "<= 0.08", "voxel_coverage90": "0.85-0.95"}
    goals |= {f"coverage90.{kind}": "0.85-0.95" for kind in ORGANS}
    lines = []
    for key, value in out.items():
        shown = f"{value:.3g}" if isinstance(value, float) else f"{value}"
        lines.append(f"{key:42s} {shown:>10s}   {goals.get(key, '')}")
    return "\n".join(lines)
