"""What is true in one cycle: dose and time-integrated activity on half voxels, and plain numbers per region."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tdt_core.phantom.activity import Curves
from tdt_core.phantom.anatomy import Anatomy, Structure, UInt8
from tdt_core.phantom.chain import CycleKinetics
from tdt_core.phantom.contours import ContourReport
from tdt_core.phantom.shapes import Grid
from tdt_core.phantom.types import PhantomScan

FloatArray = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class DoseMaps:
    """Sums per structure code (dose x mass in Gy g, mass in g) and the maps on the scan grid."""

    dose_mass: FloatArray
    mass_g: FloatArray
    dose_scan_gy: Float32
    tia_scan_mbq_h_ml: Float32


def to_scan(values: Float32, grid: Grid) -> Float32:
    """Sum of half voxels on the scan grid; 0 outside the crop."""
    z, y, x = (n // 2 for n in grid.shape)
    inner = values.reshape(z, 2, y, 2, x, 2).sum(axis=(1, 3, 5), dtype=np.float32)
    out = np.zeros(grid.scan_shape, np.float32)
    oz, oy, ox = (o // 2 for o in grid.offset)
    out[oz : oz + z, oy : oy + y, ox : ox + x] = inner
    return out


def dose_maps(
    anatomy: Anatomy,
    labels: UInt8,
    texture: Float32,
    course: Curves,
    nuclide: str,
    engine: str,
    kernels: MutableMapping[str, Any],
) -> DoseMaps:
    """True absorbed dose by one convolution of the time-integrated activity on half voxels.

    The dose on the scan grid is the mass-weighted mean of its eight half voxels (energy over mass).
    """
    from tdt_core.dosimetry import absorbed_dose

    grid, n = anatomy.grid, len(anatomy.structures())
    count = np.bincount(labels.ravel(), minlength=n)
    tia = np.where(count > 0, course.integral()[:n] / np.maximum(count, 1), 0.0).astype(np.float32)[labels] * texture
    density = anatomy.density(labels)
    h = grid.spacing_mm
    dose = absorbed_dose(tia, (h, h, h), nuclide, density_g_cm3=density, engine=engine, cache=kernels)
    mass = density * np.float32(grid.voxel_ml)
    tia_scan = to_scan(tia, grid) / np.float32(8 * grid.voxel_ml)
    mass_g = np.bincount(labels.ravel(), weights=mass.ravel(), minlength=n).astype(float)
    dose *= mass
    dose_mass = np.bincount(labels.ravel(), weights=dose.ravel(), minlength=n).astype(float)
    mass_scan = to_scan(mass, grid)
    dose_scan = np.where(mass_scan > 0, to_scan(dose, grid) / np.maximum(mass_scan, np.float32(1e-9)), 0.0)
    return DoseMaps(dose_mass, mass_g, dose_scan.astype(np.float32), tia_scan)


def region_columns(structures: Sequence[Structure], regions: Sequence[str]) -> dict[str, list[int]]:
    """Columns of the curves that make up each region."""
    return {r: [s.code for s in structures if s.region == r] for r in regions}


def cycle_truth(
    run: CycleKinetics,
    course: Curves,
    structures: Sequence[Structure],
    volumes_ml: FloatArray,
    anatomy: Anatomy,
    scans: tuple[PhantomScan, ...],
    maps: DoseMaps | None,
    contours: Mapping[str, ContourReport],
) -> dict[str, Any]:
    """Plain JSON: per region volume, mass, curve, TIA and dose; parameters; balance; scans; contours. Times of curves are hours
    after the injection."""
    given, n = run.administration, len(structures)
    times = np.concatenate([[0.0], np.geomspace(0.05, float(course.times_h[-1]), 160)])
    at, integrals = course.activity(times), course.integral()
    start = given.time_h
    frames = np.array([course.mean_activity(s.time_h - start, s.duration_s / 3600.0) for s in scans])
    columns = region_columns(structures, anatomy.regions())
    columns["rest"] = [s.code for s in structures if not any(s.code in c for c in columns.values())]
    regions: dict[str, Any] = {}
    for name, codes in columns.items():
        entry: dict[str, Any] = {
            "volume_ml": float(volumes_ml[codes].sum()),
            "tia_mbq_h": float(integrals[codes].sum()),
            "tia_h": float(integrals[codes].sum() / given.net_activity_mbq),
            "activities_mbq": [float(x) for x in at[:, codes].sum(axis=1)],
            "scan_activities_mbq": [float(x) for x in frames[:, codes].sum(axis=1)],
            "structures": {s.name: float(integrals[s.code]) for s in structures if s.code in codes and volumes_ml[s.code] > 0},
        }
        if maps is not None:
            mass = float(maps.mass_g[codes].sum())
            dose = float(maps.dose_mass[codes].sum()) / mass if mass > 0 else 0.0
            entry |= {"mass_g": mass, "dose_gy": dose, "gy_per_gbq": 1000 * dose / given.net_activity_mbq}
        regions[name] = entry
    p = run.physiology
    return {
        "cycle": run.number,
        "administered_mbq": given.net_activity_mbq,
        "amount_nmol": run.course.amount_nmol,
        "times_h": [float(t) for t in times],
        "regions": regions,
        "outside_tia_mbq_h": float(integrals[n]),
        "excreted_tia_mbq_h": float(integrals[n + 1]),
        "excreted_fraction_24h": float(np.interp(24.0, course.times_h, course.fractions[:, n + 1])),
        "egfr": p.egfr,
        "parameters": dict(p.values) | {f"{name}@{side}": x for (name, side), x in p.instance.items()},
        "scans": [
            {"name": s.name, "mid_time_h": s.mid_time_h, "shift_mm": list(s.shift_mm), "rotation_deg": list(s.rotation_deg)}
            for s in scans
        ],
        "contours": {
            k: {"volume_ratio": c.volume_ratio, "dice": c.dice, "volume_rel_sd": c.volume_rel_sd} for k, c in contours.items()
        },
        "anatomy": anatomy.source,
    }
