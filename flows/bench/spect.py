"""`tdt bench spect`: the physical SPECT chain: time, recovery of spheres, noise covariance.

`phantom_images_physical.csv` holds what this prints.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from tdt_core.errors import UsageError
from tdt_core.parameters import packaged_table
from tdt_core.phantom import PhantomSettings, reference_patient
from tdt_core.phantom.imaging import scanner, spect_counts
from tdt_core.phantom.spect.acquire import count, noise_free
from tdt_core.phantom.spect.attenuation import mass_attenuation_mm2_g, of_ct
from tdt_core.phantom.spect.camera import camera
from tdt_core.phantom.spect.characterise import (
    DURATION_S,
    HALF_LIFE_H,
    SENSITIVITY,
    cylinder_noise,
    gaussian_width_mm,
    recovery,
    water_body,
    width_of_region_mm,
)
from tdt_core.phantom.spect.projector import Mapper
from tdt_core.phantom.spect.sampling import halve
from tdt_core.phantom.spect.scan import acquire, reconstruct
from tdt_core.phantom.spect.spheres import measure

SPHERES_ML = (13.0, 30.0)
RANGE_ML = (5, 500)  # regions whose width is sure: neither a few voxels nor hardly blurred
BODY_MM = (130.0, 185.0)  # half axes of the body whose scan is timed
NOT_HOT = ("lungs", "red_marrow", "prostate_bed")  # what they gain hides what they lose
SMALLEST = 8  # voxels of a region from which its noise is told
PLACES_MM = {"0": (1.0, 0.7, 1.3), "60": (1.0, 61.0, 1.3), "100": (1.0, 0.7, 101.0)}
"""Radius -> centre (z, y, x) off the voxels' symmetry, in a body of half axes 110 (y) and 150 mm (x)."""


def run(
    voxels: str = "3.6,4.8,7.2",
    repeats: int = 8,
    levels: str = "0.02,0.1,0.5",
    seed: int = 7,
    matrix: int = 64,
    spheres: int = 0,
    views: int = 0,
) -> dict[str, Any]:
    """Named figures per voxel size, and of a reference patient.

    Parameters
    ----------
    voxels : edges in mm, separated by commas.
    repeats : realisations per level of activity, at least 2.
    levels : MBq/mL of the cylinder, separated by commas.
    matrix : of the reference patient whose first scan is imaged by all modes; 0 leaves it out.
    spheres : 1 images the sphere phantom of `spect_spheres.csv` instead, at each voxel edge (54 reconstructions each).
    views : times one whole scan of a clinical size with so many projections instead, a multiple of heads and subsets.
    """
    if repeats < 2:
        raise UsageError(f"{repeats} repeats", expected="at least 2", kind="usage.bench")
    try:
        edges, concentrations = ([float(v) for v in text.split(",")] for text in (voxels, levels))
    except ValueError:
        edges = concentrations = [0.0]
    if min(edges) <= 0 or min(concentrations) <= 0:
        raise UsageError(f"voxels {voxels!r}, levels {levels!r}", expected="numbers > 0 and commas", kind="usage.bench")
    if views:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return {"views": views} | clinical_scan(views, pool.map)
    if spheres:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = {name: s.recovery for e in edges for name, s in measure(e, camera(), pool.map)}
        return {"spheres": found}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        by_voxel = {f"{e:g}": _voxel(e, concentrations, repeats, seed, pool.map) for e in edges}
        patient = _patient(matrix, repeats, seed, pool.map) if matrix else {}
    return {"seed": seed, "repeats": repeats, "voxel_mm": by_voxel, "matrix": matrix, "patient": patient}


def clinical_scan(
    views: int, map: Mapper, shape: tuple[int, int, int] = (96, 128, 128), voxel_mm: float = 3.6
) -> dict[str, Any]:
    """Wall and processor seconds of projections (at half voxels, with scatter), counts and OSEM of a warm elliptical body."""
    device = replace(camera(), angles=views)
    z, y, x = ((np.arange(2 * n) - (2 * n - 1) / 2) * voxel_mm / 2 for n in shape)
    section = (y[:, None] / BODY_MM[0]) ** 2 + (x[None, :] / BODY_MM[1]) ** 2 < 1
    body = np.broadcast_to(section, (z.size, *section.shape)).astype(np.float32)
    mu = body * np.float32(mass_attenuation_mm2_g("water", device.energy_kev) / 1000)
    clocks = [(time.perf_counter(), time.process_time())]
    data = acquire(body, mu, voxel_mm, device, SENSITIVITY, DURATION_S, HALF_LIFE_H, map)
    clocks.append((time.perf_counter(), time.process_time()))
    reconstruct(data, count(data, device, np.random.default_rng(1)), halve(mu) / np.float32(8), device, map)
    clocks.append((time.perf_counter(), time.process_time()))
    wall, cpu = np.diff(np.array(clocks), axis=0).T.tolist()
    return {
        "shape": shape,
        "updates": device.iterations * device.subsets,
        "projection_seconds": wall[0],
        "osem_seconds": wall[1],
        "projection_cpu_seconds": cpu[0],
        "osem_cpu_seconds": cpu[1],
    }


def _patient(matrix: int, repeats: int, seed: int, map: Mapper) -> dict[str, dict[str, dict[str, float]]]:
    """Per region and mode of patient 1, first scan of cycle 1: relative SD of a voxel (rms) and of the region's mean, and the
    mean over the truth; under `place` its distance from the axis, volume and width of equal recovery. The physical mode gets
    the truth on the scan's voxels here."""
    reference = reference_patient(PhantomSettings(seed=1, matrix=matrix, pet=False))
    cycle, grid = reference.cycle(1), reference.anatomy.grid
    scan, device = cycle.scans[0], camera()
    spacing, voxel_ml = 2 * grid.spacing_mm, 8 * grid.voxel_ml
    activity = scan.truth_mbq_ml * np.float32(voxel_ml)
    mu = of_ct(scan.ct_hu, device.energy_kev)
    fine, fine_mu = (v.repeat(2, 0).repeat(2, 1).repeat(2, 2) for v in (activity / np.float32(8), mu))
    sensitivity = reference.spect.true_sensitivity
    data = acquire(fine, fine_mu, spacing, device, sensitivity, scan.duration_s, HALF_LIFE_H, map)
    rngs = [np.random.default_rng([seed, k]) for k in range(repeats)]
    clean = reconstruct(data, noise_free(data), mu, device, map) / np.float32(sensitivity * scan.duration_s)
    y, x = ((np.arange(n) - (n - 1) / 2) * spacing for n in grid.scan_shape[1:])
    radius = np.broadcast_to(np.hypot(y[:, None], x[None, :]), grid.scan_shape)
    images = {"physical": np.stack([reconstruct(data, count(data, device, r), mu, device, map) for r in rngs])}
    for noise in ("assumed", "physical_chain"):
        fast = scanner(1, "spect", scan.nuclide, noise=noise)
        images[noise] = np.stack([spect_counts(activity, grid, fast, scan.duration_s, r) for r in rngs])
    assert cycle.truth_labels is not None
    out: dict[str, dict[str, dict[str, float]]] = {}
    for region in cycle.truth_labels.regions:
        inside = cycle.truth_labels.mask(region.name)
        true = float(activity[inside].sum()) * sensitivity * scan.duration_s
        if inside.sum() < SMALLEST or true <= 0:
            continue
        out[region.name] = {
            mode: {
                "voxel_rel_sd": float(np.sqrt(stack[:, inside].var(axis=0, ddof=1).mean()) / stack[:, inside].mean()),
                "region_rel_sd": float(stack[:, inside].sum(axis=1).std(ddof=1) / stack[:, inside].sum(axis=1).mean()),
                "mean_over_truth": float(stack[:, inside].sum(axis=1).mean() / true),
            }
            for mode, stack in images.items()
        }
        out[region.name]["place"] = {
            "radius_mm": float(radius[inside].mean()),
            "volume_ml": float(inside.sum()) * voxel_ml,
            "fwhm_mm": width_of_region_mm(activity, clean, inside, spacing),
        }
    return out


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


def _widths(patient: dict[str, dict[str, dict[str, float]]]) -> dict[int, float]:
    hot = [m["place"] for name, m in patient.items() if name not in NOT_HOT]
    places = [p for p in hot if RANGE_ML[0] <= p["volume_ml"] <= RANGE_ML[1]]
    known = np.array([(p["radius_mm"], p["fwhm_mm"]) for p in places if np.isfinite(p["fwhm_mm"])])
    slope, start = np.polyfit(known[:, 0], known[:, 1], 1)
    return {r: float(start + slope * r) for r in (0, 100, 200)}


def _chain_over_fast(patient: dict[str, dict[str, dict[str, float]]], key: str) -> float:
    return float(np.exp(np.mean([np.log(modes["physical"][key] / modes["assumed"][key]) for modes in patient.values()])))


def describe(figures: dict[str, Any]) -> str:
    """The figures in words."""
    if "views" in figures:
        f = figures
        both = ", ".join(
            f"{k} {f[k + '_seconds']:.1f} s ({f[k + '_cpu_seconds']:.1f} s of processor)" for k in ("projection", "osem")
        )
        return f"{f['views']} views on a grid {tuple(f['shape'])}, {f['updates']} updates: {both}"
    if "spheres" in figures:
        return "\n".join(f"{name} {value:.4f}" for name, value in figures["spheres"].items())
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
    if figures["patient"]:
        voxel, region = (_chain_over_fast(figures["patient"], key) for key in ("voxel_rel_sd", "region_rel_sd"))
        density = packaged_table("phantom_images.csv").value("spect.noise_density") * voxel**2
        lines.append(
            f"chain over fast default, geometric means over regions: SD of a voxel {voxel:.2f} (a noise density of"
            f" {density:.0f} /mL), of the region's mean {region:.2f}"
        )
        at = ", ".join(f"{w:.1f} at {r} mm" for r, w in _widths(figures["patient"]).items())
        lines.append(f"FWHM of equal recovery, line through regions of {RANGE_ML[0]} to {RANGE_ML[1]} mL: {at} off axis")
        lines.append(f"patient 1, matrix {figures['matrix']}: SD of a voxel in %, of the region's mean in %, mean over truth")
    for region, modes in figures["patient"].items():
        told = "; ".join(
            f"{mode} {100 * m['voxel_rel_sd']:.1f}, {100 * m['region_rel_sd']:.2f}, {m['mean_over_truth']:.2f}"
            for mode, m in modes.items()
            if mode != "place"
        )
        told += f"; {modes['place']['radius_mm']:.0f} mm off axis, FWHM {modes['place']['fwhm_mm']:.1f} mm"
        lines.append(f"  {region}: {told}")
    return "\n".join(lines)
