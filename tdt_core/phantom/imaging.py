"""Images of the reference patient: rigid motion, binning, blur, noise.

SPECT: expected counts = true sensitivity x duration x activity, blurred by Gaussians whose width falls from the axis outward
plus a wide tail; then multiplied by exp(s z - s^2/2) with z a Gaussian field of stated correlation length and
s^2 = ln(1 + noise density / local counts per mL). Reconstructed noise of maximum-likelihood methods is close to log-normal
with correlated voxels (Barrett, Wilson and Tsui, Phys Med Biol 1994;39:833); in this form it is never negative and keeps
the mean in every voxel, so no clipping rule biases the counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy import ndimage

from tdt_core.phantom.activity import IMAGES
from tdt_core.phantom.anatomy import UInt8
from tdt_core.phantom.draws import draw, rows, stream
from tdt_core.phantom.shapes import Grid
from tdt_core.twin import CalibrationRecord

FloatArray = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
SIGMA_PER_FWHM = 1.0 / 2.354820045
PHYSICAL = "phantom_images_physical.csv"


@dataclass(frozen=True)
class Scanner:
    """A calibration record and the truth behind it."""

    record: CalibrationRecord
    true_sensitivity: float
    true_fwhm_mm: float
    settings: dict[str, float]


def scanner(
    seed: int, kind: str, nuclide: str, images: str = "fast", noise: str = "assumed", voxel_mm: float | None = None
) -> Scanner:
    """The SPECT or PET system of a patient; truth = record x (1 + sd z) with the sds that the record states.

    `images` physical: the record's widths are those measured on the chain at this voxel edge, with the record's errors. `noise`
    physical_chain: the fast mode's noise follows the covariance measured on the chain.
    """
    rng = stream(seed, "calibration", 0 if kind == "spect" else 1)
    v = {name.split(".", 1)[1]: x for name, x in draw(IMAGES, rng).items() if name.startswith(f"{kind}.")}
    sensitivity, fwhm = round(v["sensitivity"], 3), round(v["fwhm"], 2)
    z = np.clip(rng.standard_normal(2), -2.5, 2.5)
    spect = kind == "spect"
    if spect and noise == "physical_chain":
        v |= {name: row.parameter.value for name, row in rows(PHYSICAL).items() if name.startswith("noise_")}
    true_fwhm, profile = fwhm * (1 + v["fwhm_rel_sd"] * float(z[1])), _profile(seed, fwhm, v) if spect else ()
    if spect and images == "physical" and voxel_mm is not None:
        widths = physical_widths(voxel_mm)
        true_fwhm = widths[1][1]
        fwhm, profile = round(true_fwhm / (1 + v["fwhm_rel_sd"] * float(z[1])), 2), _measured(seed, widths, v)
    record = CalibrationRecord(
        device="PHANTOM-SPECT-1" if spect else "PHANTOM-PET-1",
        energy_window="208 keV 20 %" if spect else "511 keV",
        collimator="MELP" if spect else "none",
        reconstruction="OSEM 6i10s AC SC RR" if spect else "OSEM TOF PSF",
        nuclide=nuclide,
        sensitivity_cps_per_mbq=sensitivity,
        sensitivity_rel_sd=v["sensitivity_rel_sd"],
        resolution_fwhm_mm=fwhm,
        resolution_rel_sd=v["fwhm_rel_sd"],
        date="2026-01-15",
        source="digital reference patient: drawn record; the truth differs from it by its stated sd",
        resolution_by_radius_mm=profile,
    )
    true_sensitivity = sensitivity * (1 + v["sensitivity_rel_sd"] * float(z[0]))
    return Scanner(record, true_sensitivity, true_fwhm, v)


PROFILE_RADII_MM = (0.0, 100.0, 200.0)


def _profile(seed: int, fwhm_mm: float, settings: dict[str, float]) -> tuple[tuple[float, float], ...]:
    """What line sources at three radii would give, each with its own measuring error; rounded to 0.1 mm."""
    z = stream(seed, "calibration", 2).standard_normal(len(PROFILE_RADII_MM))
    at = 1 + settings["fwhm_radial_slope"] * (np.array(PROFILE_RADII_MM) / 200.0 - 0.5)
    widths = fwhm_mm * at * (1 + settings["fwhm_profile_rel_sd"] * z)
    return tuple((r, round(float(w), 1)) for r, w in zip(PROFILE_RADII_MM, widths, strict=True))


def physical_widths(voxel_mm: float) -> tuple[tuple[float, float], ...]:
    """(radius, FWHM) of the physical chain at a voxel edge: between the tabled edges linear, beyond them the nearest."""
    table = {tuple(n.split("_")[1:]): r.parameter.value for n, r in rows(PHYSICAL).items() if n.startswith("fwhm.")}
    by_radius: dict[float, dict[float, float]] = {}
    for (edge, radius), value in table.items():
        by_radius.setdefault(float(radius), {})[float(edge.removesuffix(".radius"))] = value
    return tuple((r, float(np.interp(voxel_mm, list(at), list(at.values())))) for r, at in by_radius.items())


def _measured(
    seed: int, widths: tuple[tuple[float, float], ...], settings: dict[str, float]
) -> tuple[tuple[float, float], ...]:
    """The chain's widths as a record states them: each with its own measuring error, rounded to 0.1 mm."""
    z = stream(seed, "calibration", 2).standard_normal(len(widths))
    return tuple(
        (r, round(w * (1 + settings["fwhm_profile_rel_sd"] * float(e)), 1)) for (r, w), e in zip(widths, z, strict=True)
    )


def motion(grid: Grid, shift_mm: FloatArray, rotation_deg: FloatArray) -> FloatArray:
    """(3, 4) map from half-voxel indices (z, y, x) to scan coordinates (voxel n covers n - 0.5 to n + 0.5) when the patient is
    rotated about the grid's centre by angles about z, y, x and shifted by (z, y, x) mm."""
    cz, cy, cx = (np.cos(a) for a in np.deg2rad(rotation_deg))
    sz, sy, sx = (np.sin(a) for a in np.deg2rad(rotation_deg))
    about_z = np.array([[1, 0, 0], [0, cz, sz], [0, -sz, cz]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[cx, -sx, 0], [sx, cx, 0], [0, 0, 1]])
    turn = about_x @ about_y @ about_z
    center = (np.array(grid.scan_shape) - 1) / 2
    start = (np.array(grid.offset) + 0.5) / 2 - 0.5 - center
    out = np.empty((3, 4))
    out[:, :3] = turn / 2
    out[:, 3] = turn @ start + center + np.asarray(shift_mm) / (2 * grid.spacing_mm)
    return out


@njit(cache=True)
def _bin(labels, texture, hu, per_voxel, m, activity, attenuation, weight):  # type: ignore[no-untyped-def] # pragma: no cover
    """Split every half voxel over the scan voxels that its (axis-aligned) cube overlaps."""
    n0, n1, n2 = labels.shape
    s0, s1, s2 = activity.shape
    at = np.empty(3)
    base = np.empty(3, np.int64)
    over = np.empty(3)
    for k in range(n0):
        for j in range(n1):
            for i in range(n2):
                code = labels[k, j, i]
                for r in range(3):
                    at[r] = m[r, 0] * k + m[r, 1] * j + m[r, 2] * i + m[r, 3]
                    base[r] = int(np.floor(at[r] + 0.25))
                    over[r] = (at[r] - 0.25 - base[r]) * 2.0
                    if over[r] < 0.0:
                        over[r] = 0.0
                a = per_voxel[code] * texture[k, j, i]
                for dk in range(2):
                    p = base[0] + dk
                    wk = over[0] if dk else 1.0 - over[0]
                    if wk <= 0.0 or p < 0 or p >= s0:
                        continue
                    for dj in range(2):
                        q = base[1] + dj
                        wj = wk * (over[1] if dj else 1.0 - over[1])
                        if wj <= 0.0 or q < 0 or q >= s1:
                            continue
                        for di in range(2):
                            o = base[2] + di
                            w = wj * (over[2] if di else 1.0 - over[2])
                            if w <= 0.0 or o < 0 or o >= s2:
                                continue
                            activity[p, q, o] += w * a
                            attenuation[p, q, o] += w * (hu[k, j, i] + 1000.0)
                            weight[p, q, o] += w


def bin_to_scan(
    grid: Grid, labels: UInt8, texture: Float32, hu: npt.NDArray[np.int16], activity_mbq: FloatArray, m: FloatArray
) -> tuple[Float32, Float32]:
    """Activity (MBq per scan voxel) and mean HU on the scan grid of a moved patient. `activity_mbq` is per structure code."""
    count = np.bincount(labels.ravel(), minlength=activity_mbq.size)[: activity_mbq.size]
    per_voxel = np.where(count > 0, activity_mbq / np.maximum(count, 1), 0.0)
    activity, attenuation, weight = (np.zeros(grid.scan_shape, np.float32) for _ in range(3))
    _bin(labels, texture, hu, per_voxel, m, activity, attenuation, weight)
    mean_hu = np.where(weight > 1e-3, attenuation / np.maximum(weight, 1e-3), 0.0) - 1000.0
    return activity, mean_hu.astype(np.float32)


def gaussian(image: Float32, fwhm_mm: float, spacing_mm: float) -> Float32:
    """Gaussian blur; what leaves the grid is lost."""
    sigma = fwhm_mm * SIGMA_PER_FWHM / spacing_mm
    return np.asarray(ndimage.gaussian_filter(image, sigma, mode="constant", truncate=4.0), np.float32)


def blur(image: Float32, fwhm_mm: float, spacing_mm: float, slope: float, tail_share: float, tail_fwhm_mm: float) -> Float32:
    """Blur with a width that changes with the distance of the source from the axis.

    FWHM(r) = fwhm (1 + slope (r / 200 mm - 0.5)), made by mixing three Gaussians by source voxel (exact in variance, so counts
    are kept); `tail_share` of the counts goes into a wide Gaussian.
    """
    ny, nx = image.shape[1:]
    y, x = (np.arange(n) - (n - 1) / 2 for n in (ny, nx))
    r = np.minimum(np.hypot(y[:, None], x[None, :]) * spacing_mm, 200.0)
    variance = (1 + slope * (r / 200.0 - 0.5)) ** 2
    knots = np.array([(1 + slope * f) ** 2 for f in (-0.5, 0.0, 0.5)])
    order = np.argsort(knots)
    out = np.zeros_like(image)
    for n, knot in enumerate(knots):
        weight = np.interp(variance, knots[order], np.eye(3)[n][order]) if slope else np.full_like(r, float(n == 0))
        if weight.any():
            part = (image * ((1 - tail_share) * weight)[None]).astype(np.float32)
            out += gaussian(part, fwhm_mm * float(np.sqrt(knot)) if slope else fwhm_mm, spacing_mm)
    if tail_share > 0:
        out += gaussian((tail_share * image).astype(np.float32), tail_fwhm_mm, spacing_mm)
    return out


def noise_field(
    rng: np.random.Generator, shape: tuple[int, int, int], fwhm_mm: float, spacing_mm: float, fwhm_z_mm: float | None = None
) -> Float32:
    """Gaussian field of unit variance with the correlation of a Gaussian filter of this FWHM; along z of its own if given."""
    widths = (fwhm_mm if fwhm_z_mm is None else fwhm_z_mm, fwhm_mm, fwhm_mm)
    sigma = tuple(w * SIGMA_PER_FWHM / spacing_mm for w in widths)
    field = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap", truncate=4.0)
    return np.asarray(field / field.std(), np.float32)


def add_noise(expected: Float32, density: Float32, noise_density: float, cap: float, z: Float32) -> Float32:
    """expected x exp(s z - s^2/2), s^2 = ln(1 + noise_density / density), s <= cap. Where nothing is expected, nothing is."""
    ratio = noise_density / np.maximum(density, np.float32(1e-12))
    s = np.minimum(np.sqrt(np.log1p(ratio)), np.float32(cap))
    return np.asarray(expected * np.exp(s * z - 0.5 * s * s), np.float32)


def spect_counts(activity_mbq: Float32, grid: Grid, device: Scanner, duration_s: float, rng: np.random.Generator) -> Float32:
    """Reconstructed counts per voxel of one acquisition."""
    v, spacing = device.settings, 2 * grid.spacing_mm
    expected = activity_mbq * np.float32(device.true_sensitivity * duration_s)
    expected = blur(expected, device.true_fwhm_mm, spacing, v["fwhm_radial_slope"], v["tail_share"], v["tail_fwhm"])
    density = gaussian(expected, v["noise_reach_fwhm"], spacing) / np.float32(8 * grid.voxel_ml)
    z = noise_field(rng, grid.scan_shape, v["noise_fwhm"], spacing, v.get("noise_fwhm_z"))
    return add_noise(expected, density, v["noise_density"], v["noise_sigma_cap"], z)


def pet_image(activity_mbq: Float32, grid: Grid, device: Scanner, rng: np.random.Generator) -> Float32:
    """PET image in MBq/mL at the time that the activity is given for. Its scale is off by the true calibration error."""
    v, spacing = device.settings, 2 * grid.spacing_mm
    scale = device.true_sensitivity / device.record.sensitivity_cps_per_mbq
    expected = gaussian(activity_mbq * np.float32(scale / (8 * grid.voxel_ml)), device.true_fwhm_mm, spacing)
    density = gaussian(expected, 2 * v["noise_fwhm"], spacing)
    z = noise_field(rng, grid.scan_shape, v["noise_fwhm"], spacing)
    return add_noise(expected, density, v["noise_density"], 1.2, z)


def ct_image(mean_hu: Float32, noise_hu: float, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    """CT on the scan grid with white noise, whole HU, -1024 to 3071."""
    noisy = mean_hu + np.float32(noise_hu) * rng.standard_normal(mean_hu.shape, dtype=np.float32)
    return np.clip(np.rint(noisy), -1024, 3071).astype(np.int16)
