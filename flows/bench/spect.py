"""`tdt bench spect`: the physical SPECT chain: time, recovery of spheres, noise covariance.

`phantom_images_physical.csv` holds what this prints.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tdt_core.errors import SettingsError
from tdt_core.phantom.spect.acquire import count
from tdt_core.phantom.spect.camera import camera
from tdt_core.phantom.spect.characterise import (
    DURATION_S,
    HALF_LIFE_H,
    SENSITIVITY,
    cylinder_noise,
    gaussian_width_mm,
    recovery,
    water_body,
)
from tdt_core.phantom.spect.projector import Mapper
from tdt_core.phantom.spect.scan import acquire, reconstruct

SPHERES_ML = (13.0, 30.0)
PLACES_MM = {"0": (1.0, 0.7, 1.3), "60": (1.0, 61.0, 1.3), "100": (1.0, 0.7, 101.0)}
"""Radius -> centre (z, y, x) off the voxels' symmetry, in a body of half axes 110 (y) and 150 mm (x)."""


def run(voxels: str = "3.6,4.8,7.2", repeats: int = 8, levels: str = "0.02,0.1,0.5", seed: int = 7) -> dict[str, Any]:
    """Named figures per voxel size.

    Parameters
    ----------
    voxels : edges in mm, separated by commas.
    repeats : realisations per level of activity, at least 2.
    levels : MBq/mL of the cylinder, separated by commas.
    """
    if repeats < 2:
        raise SettingsError(f"{repeats} repeats", expected="at least 2", kind="settings.bench")
    try:
        edges, concentrations = ([float(v) for v in text.split(",")] for text in (voxels, levels))
    except ValueError:
        edges = concentrations = [0.0]
    if min(edges) <= 0 or min(concentrations) <= 0:
        raise SettingsError(f"voxels {voxels!r}, levels {levels!r}", expected="numbers > 0 and commas", kind="settings.bench")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        by_voxel = {f"{e:g}": _voxel(e, concentrations, repeats, seed, pool.map) for e in edges}
    return {"seed": seed, "repeats": repeats, "voxel_mm": by_voxel}


def _voxel(edge: float, levels: list[float], repeats: int, seed: int, map: Mapper) -> dict[str, Any]:
    device = camera()
    body = water_body(edge, (110.0, 150.0), 90.0, device)
    found = {radius: [recovery(body, ml, at, device, map=map) for ml in SPHERES_ML] for radius, at in PLACES_MM.items()}
    cylinder = water_body(edge, (110.0, 110.0), 90.0, device)
    noise = [cylinder_noise(cylinder, c, repeats, device, seed, map) for c in levels]
    mean = np.mean([n.correlation for n in noise], axis=0)
    started = time.perf_counter()
    data = acquire(body.body, body.mu_per_mm, edge, device, SENSITIVITY, DURATION_S, HALF_LIFE_H, map)
    projected = time.perf_counter()
    reconstruct(data, count(data, device, np.random.default_rng(seed)), body.scan_mu, device, map)
    return {
        "shape": body.scan_mu.shape,
        "projection_seconds": projected - started,
        "osem_seconds": time.perf_counter() - projected,
        "sphere_ml": list(SPHERES_ML),
        "recovery": {r: [x.coefficient for x in xs] for r, xs in found.items()},
        "overshoot": {r: [x.overshoot for x in xs] for r, xs in found.items()},
        "fwhm_mm": {r: float(np.mean([x.fwhm_mm for x in xs])) for r, xs in found.items()},
        "noise": [
            {
                "counts_per_ml": n.counts_per_ml,
                "radii_mm": n.radii_mm.tolist(),
                "density_per_ml": n.density_per_ml.tolist(),
                "mean": n.mean,
            }
            for n in noise
        ],
        "correlation_z": mean[0].tolist(),
        "correlation_across": ((mean[1] + mean[2]) / 2).tolist(),
        "noise_fwhm_z_mm": gaussian_width_mm(mean[0], edge),
        "noise_fwhm_across_mm": gaussian_width_mm((mean[1] + mean[2]) / 2, edge),
    }


def describe(figures: dict[str, Any]) -> str:
    """The figures in words."""
    lines = [f"{figures['repeats']} realisations per level, seed {figures['seed']}"]
    for edge, f in figures["voxel_mm"].items():
        lines.append(f"voxel {edge} mm, grid {tuple(f['shape'])}:")
        lines.append(f"  projections {f['projection_seconds']:.1f} s, OSEM {f['osem_seconds']:.1f} s")
        for radius, fwhm in f["fwhm_mm"].items():
            rc = ", ".join(f"{x:.2f}" for x in f["recovery"][radius])
            over = ", ".join(f"{x:.2f}" for x in f["overshoot"][radius])
            lines.append(f"  {radius} mm off axis: spheres {f['sphere_ml']} mL recover {rc}, peak {over}; FWHM {fwhm:.1f} mm")
        for n in f["noise"]:
            at = ", ".join(f"{q:.0f} at {r:.0f} mm" for q, r in zip(n["density_per_ml"], n["radii_mm"], strict=True))
            lines.append(f"  {n['counts_per_ml']:.0f} counts/mL: noise density {at} /mL, mean {n['mean']:.3f} of truth")
        lines.append(
            f"  noise as of a filter of {f['noise_fwhm_across_mm']:.1f} mm across, {f['noise_fwhm_z_mm']:.1f} mm along the axis"
        )
        across, along = (", ".join(f"{c:.2f}" for c in f[f"correlation_{k}"]) for k in ("across", "z"))
        lines.append(f"  correlation at 1, 2, ... voxels across {across}; along {along}")
    return "\n".join(lines)
