"""`tdt bench dose`: how long one patient's dosimetry takes, beside the plain pipeline that the field uses, in the same run.

The patient is drawn (a trunk with lungs, spine, organs, a gland and lesions, four SPECT scans with noise), so that the
benchmark needs no file and any matrix can be asked for. Registration and reading are apart.

Ours, `cycle_seconds`: every region's curve is fitted in logarithms and integrated to infinity with physical decay as the bound
of its rate, spread over the region's voxels by the images; dose by the homogeneous kernel over the full photon range,
histograms of all regions, Lea-Catcheside factor and map of biologically effective dose. `credible_map_seconds`: mean, SD,
quantiles of dose and BED, region draws and bands of histograms of `draws` draws, pattern noise included. `kernel_256_seconds`:
kernel dose of one map of `kernel_matrix` cubed.

Monte Carlo (`flows.bench.dose_mc`, left out by `--mc 0`): `mc.decays_per_second_per_core` and `mc.patient_seconds`.

The field's way, `field_pipeline_seconds`: a voxel-wise log-linear fit of the same scans, `scipy.signal.fftconvolve` in double
precision with the voxel kernel cut to 25 mm, division by density, histograms by numpy. No BED and no uncertainty.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, signal

from flows.bench.clock import best
from tdt_core.dosimetry import (
    MATERIALS,
    EngineSetting,
    Response,
    absorbed_dose,
    build_engine,
    credible_dose,
    dvh,
    voxel_s_values,
)
from tdt_core.errors import UsageError
from tdt_core.nuclides import nuclide
from tdt_core.radiobiology import bed, lea_catcheside

FloatArray = npt.NDArray[np.float64]
Array32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

TIMES_H = np.array([4.0, 24.0, 72.0, 168.0])
FIELD_MM = 500.0
CROP_MM = 25.0
REPAIR_H, ALPHA_BETA_GY, ALPHA_PER_GY, EUD_A = 2.8, 2.5, 0.15, -10.0
PATTERN_DRAWS = 8
NUCLIDE = "Lu-177"
KERNEL_MATRIX = 256


@dataclass(frozen=True, eq=False)
class Patient:
    """A drawn patient: regions by name, density g/cm3, indices of `MATERIALS`, four scans in MBq per voxel; the last region
    is the rest."""

    spacing_mm: tuple[float, float, float]
    regions: dict[str, Mask]
    density: Array32
    material: npt.NDArray[np.int8]
    scans: Array32


def run(
    matrix: int = 128,
    draws: int = 200,
    kernel_matrix: int = KERNEL_MATRIX,
    repeats: int = 3,
    seed: int = 1,
    mc: int = 1,
    mc_sd: float = 0.03,
    mc_pilot: int = 4_000_000,
    mc_speed_decays: int = 400_000,
) -> dict[str, Any]:
    """Named figures for a cube of `matrix` voxels over 500 mm; times are the best of `repeats`, kernels made inside them.

    mc : 0 leaves Monte Carlo out. `mc_sd` is the relative statistical SD to reach in the worst voxel of tumours and kidneys,
    `mc_pilot` the decays that plan for it, `mc_speed_decays` those of the speed in water.
    """
    if matrix < 24 or kernel_matrix < 24 or draws < 2 or repeats < 1:
        raise UsageError("too small a benchmark", expected="matrix >= 24, draws >= 2, repeats >= 1", kind="usage.bench")
    patient = drawn(matrix, seed)
    credible_seconds, peak_gb = credible(patient, draws, seed)  # first: the peak is that of the whole process
    cycle_seconds, our_dose = best(lambda: cycle(patient), repeats)
    field_seconds, field_dose = best(lambda: field_pipeline(patient), repeats)
    inside = patient.regions["kidney_left"]
    figures = {
        "matrix": matrix,
        "draws": draws,
        "regions": len(patient.regions),
        "cycle_seconds": cycle_seconds,
        "field_pipeline_seconds": field_seconds,
        "credible_map_seconds": credible_seconds,
        "credible_map_peak_gb": peak_gb,
        "kernel_256_seconds": kernel_seconds(kernel_matrix, repeats, seed),
        "kernel_matrix": kernel_matrix,
        "kidney_dose_gy": float(our_dose[inside].mean()),
        "field_kidney_dose_gy": float(field_dose[inside].mean()),
    }
    if mc:
        from flows.bench.dose_mc import figures as monte_carlo

        start, rate = fitted(patient.regions, patient.scans)
        tia = spread(start / rate, patient)
        figures |= monte_carlo(patient, tia, our_dose, relative_sd=mc_sd, pilot=mc_pilot, speed=mc_speed_decays, seed=seed)
    return figures


def drawn(matrix: int, seed: int) -> Patient:
    """Ellipsoids in a trunk, scans blurred to 12 mm and given counting noise."""
    rng = np.random.default_rng(seed)
    step = FIELD_MM / matrix
    z, y, x = np.meshgrid(*[(np.arange(matrix) + 0.5) * step - FIELD_MM / 2] * 3, indexing="ij")

    def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Mask:
        parts = (((a - c) / r) ** 2 for a, c, r in zip((z, y, x), centre, radii, strict=True))
        return np.asarray(sum(parts) < 1.0)

    body = (y / 110.0) ** 2 + (x / 165.0) ** 2 < 1.0
    density = np.where(body, 1.03, 0.0012).astype(np.float32)
    for side in (-1, 1):
        density[ellipsoid((150.0, 0.0, 75.0 * side), (95.0, 75.0, 55.0))] = 0.26
    density[body & ((y - 75.0) ** 2 + x**2 < 16.0**2)] = 1.4
    media = [MATERIALS.index(name) for name in ("air", "lung", "soft_tissue", "cortical_bone")]
    material = np.array(media, np.int8)[np.searchsorted([0.05, 0.5, 1.2], density)]
    # centre, radii (z, y, x) in mm, MBq per mL at its height, effective half-life in h
    organs: dict[str, tuple[tuple[float, float, float], tuple[float, float, float], float, float]] = {
        "liver": ((40.0, -15.0, -80.0), (60.0, 65.0, 70.0), 0.08, 70.0),
        "spleen": ((30.0, 35.0, 110.0), (45.0, 30.0, 25.0), 0.3, 75.0),
        "kidney_left": ((-50.0, 45.0, 65.0), (55.0, 27.0, 28.0), 0.5, 55.0),
        "kidney_right": ((-55.0, 45.0, -65.0), (55.0, 27.0, 28.0), 0.45, 55.0),
        "gland": ((225.0, 20.0, 50.0), (20.0, 12.0, 14.0), 0.4, 35.0),
        "lesion_1": ((-120.0, 20.0, 30.0), (16.0, 16.0, 16.0), 1.5, 100.0),
        "lesion_2": ((-150.0, -30.0, -40.0), (14.0, 14.0, 14.0), 1.0, 90.0),
    }
    taken = np.zeros(body.shape, bool)
    regions: dict[str, Mask] = {}
    concentration = np.zeros((TIMES_H.size, *body.shape))
    for name, (centre, radii, level, half_life) in organs.items():
        regions[name] = ellipsoid(centre, radii) & ~taken
        taken |= regions[name]
        concentration[:, regions[name]] = (level * 0.5 ** (TIMES_H / half_life))[:, None]
    regions["rest"] = body & ~taken
    concentration[:, regions["rest"]] = (0.01 * 0.5 ** (TIMES_H / 50.0))[:, None]
    empty = [name for name, mask in regions.items() if not mask.any()]
    if empty:
        raise UsageError(f"at matrix {matrix} {', '.join(empty)} hold no voxel", expected="a finer matrix", kind="usage.bench")
    counts_per_mbq = 20_000.0
    scans = np.stack([ndimage.gaussian_filter(c, 12.0 / 2.355 / step) for c in concentration]) * step**3 / 1000.0
    scans = rng.poisson(scans * counts_per_mbq) / counts_per_mbq
    return Patient((step, step, step), regions, density, material, scans.astype(np.float32))


def fitted(regions: Mapping[str, Mask], scans: Array32) -> tuple[FloatArray, FloatArray]:
    """(regions,) activity at time 0, MBq, and rate, 1/h: straight lines in logarithms, never slower than physical decay."""
    activity = np.array([[float(s[m].sum(dtype=np.float64)) for s in scans] for m in regions.values()])
    slope, level = np.polyfit(TIMES_H, np.log(np.maximum(activity, 1e-9)).T, 1)
    rate = np.maximum(-slope, nuclide(NUCLIDE).decay_constant_per_h)
    weight = np.exp(-rate[:, None] * TIMES_H)
    start = np.where(rate > -slope, (activity * weight).sum(axis=1) / (weight**2).sum(axis=1), np.exp(level))
    return start, rate


def weights_of(patient: Patient) -> dict[str, Array32]:
    """Share of each region's activity in each voxel, from all scans together."""
    total = patient.scans.sum(axis=0, dtype=np.float32)
    return {name: np.where(m, total, np.float32(0)) / total[m].sum(dtype=np.float64) for name, m in patient.regions.items()}


def spread(tia_mbq_h: FloatArray, patient: Patient) -> Array32:
    """Time-integrated activity per voxel, MBq h, from that of the regions."""
    tia = np.zeros(patient.density.shape, np.float32)
    for integral, weight in zip(tia_mbq_h, weights_of(patient).values(), strict=True):
        tia += np.float32(integral) * weight
    return tia


def cycle(patient: Patient) -> Array32:
    """Time integration, dose, histograms and BED; the dose map, Gy."""
    start, rate = fitted(patient.regions, patient.scans)
    tia = spread(start / rate, patient)
    dose = absorbed_dose(tia, patient.spacing_mm, NUCLIDE, patient.density, engine="kernel")
    for mask in patient.regions.values():
        dvh(dose, mask)
    g = lea_catcheside(start[:, None], rate[:, None], REPAIR_H)
    effective = np.zeros_like(dose)
    for factor, mask in zip(g, patient.regions.values(), strict=True):
        effective[mask] = bed(dose[mask].astype(np.float64), factor, ALPHA_BETA_GY)
    return dose


def credible(patient: Patient, draws: int, seed: int) -> tuple[float, float]:
    """Seconds for maps and histograms of dose and BED with their uncertainty, pattern noise included, and this process's peak
    memory, GB."""
    rng = np.random.default_rng(seed)
    start, rate = fitted(patient.regions, patient.scans)
    spread = rng.standard_normal((draws, len(patient.regions)))
    weights = weights_of(patient)
    total = sum(weights.values(), np.zeros_like(patient.density))
    noise = [total * np.exp(np.float32(0.1) * rng.standard_normal(total.shape, np.float32)) for _ in range(PATTERN_DRAWS)]
    g = lea_catcheside(start[:, None], rate[:, None], REPAIR_H)
    tissue = {
        name: Response(np.full(draws, factor), ALPHA_BETA_GY, ALPHA_PER_GY, EUD_A)
        for name, factor in zip(patient.regions, g, strict=True)
        if name != "rest"
    }
    begun = time.perf_counter()
    credible_dose(
        weights, (start / rate) * np.exp(0.15 * spread), patient.regions, spacing_mm=patient.spacing_mm,
        nuclide=NUCLIDE, density_g_cm3=patient.density, noise_draws=noise, responses=tissue,
    )  # fmt: skip
    return time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def kernel_seconds(matrix: int, repeats: int, seed: int) -> float:
    """Kernel dose of one map on a cube, kernels made inside the time."""
    tia = np.random.default_rng(seed).random((matrix,) * 3, dtype=np.float32)
    spacing = (FIELD_MM / matrix,) * 3
    density = np.ones(tia.shape, np.float32)
    return best(lambda: build_engine("kernel", EngineSetting(NUCLIDE, spacing, density)).energy(tia), repeats)[0]


def field_pipeline(patient: Patient) -> Array32:
    """Voxel-wise log-linear fit, 25 mm kernel by fftconvolve in double precision, density, histograms; the dose map, Gy."""
    logs = np.log(np.maximum(patient.scans.astype(np.float64), 1e-9))
    centred = TIMES_H - TIMES_H.mean()
    slope = np.tensordot(centred, logs, axes=1) / (centred**2).sum()
    level = logs.mean(axis=0) - slope * TIMES_H.mean()
    rate = np.maximum(-slope, nuclide(NUCLIDE).decay_constant_per_h)
    tia = np.exp(level) / rate
    half = round(CROP_MM / 2 / patient.spacing_mm[0])
    kernel = voxel_s_values(NUCLIDE, patient.spacing_mm, half)
    dose = signal.fftconvolve(tia, kernel, mode="same") * 3600.0 / 1000.0 / np.maximum(patient.density, 0.15)
    for mask in patient.regions.values():
        np.histogram(dose[mask], bins=100)
    return np.asarray(dose, np.float32)


def describe(figures: Mapping[str, Any]) -> str:
    """A few lines for the terminal."""
    n, k = figures["matrix"], figures["kernel_matrix"]
    lines = [
        f"{n} cubed, 4 scans, {figures['regions']} regions:",
        f"  time integration, kernel dose, DVH, BED: {figures['cycle_seconds']:.2f} s",
        f"  the field's pipeline (fftconvolve, 25 mm kernel): {figures['field_pipeline_seconds']:.2f} s; kidney "
        f"{figures['field_kidney_dose_gy']:.2f} Gy against {figures['kidney_dose_gy']:.2f} Gy",
        f"  credible maps, {figures['draws']} draws: {figures['credible_map_seconds']:.1f} s, "
        f"{figures['credible_map_peak_gb']:.2f} GB",
        f"  kernel dose on {k} cubed: {figures['kernel_256_seconds']:.2f} s",
    ]
    if "mc.patient_seconds" in figures:
        from flows.bench.dose_mc import describe as monte_carlo

        lines += monte_carlo(figures)
    return "\n".join(lines)
