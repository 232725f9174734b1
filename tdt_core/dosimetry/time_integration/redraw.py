"""Noise, registration and calibration carried through any method by redrawn images.

Each draw moves every scan but the first by its own small shift (registration), adds noise with the correlation of the
reconstruction, multiplies all scans by one factor (calibration), and takes one draw of each regional curve. The spread of the
integrals is then the uncertainty of the map. Redrawn images hold noise on top of the noise of the images themselves, so the
spread is right for methods that are near linear in the images; `hierarchical` gives its own SD, from which `posterior_draws`
draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from tdt_core.dosimetry.time_integration.curves import RegionalCurve
from tdt_core.dosimetry.time_integration.registry import IntegrationSetting, TimeIntegrated, build_integrator
from tdt_core.dosimetry.units import Array32
from tdt_core.errors import InputError, ModelError
from tdt_core.parameters import packaged_table

_SIGMA_PER_FWHM = 1.0 / np.sqrt(8.0 * np.log(2.0))
_FLOOR = 1e-3  # of a scan's mean: activity whose counts a voxel's noise holds at least, so that none is known exactly


def noise_sd(
    scans_mbq: Array32, spacing_mm: tuple[float, float, float], counts_per_mbq: Sequence[float], fwhm_mm: float
) -> Array32:
    """(scans, z, y, x) noise SD from the counts around each voxel: variance = q V A / N.

    q : `noise.spect_density`, relative variance times counts per mL; V voxel volume in mL; A activity per voxel, smoothed with
    the resolution; N counts per MBq of each scan. Raises InputError unless counts are positive.
    """
    if len(counts_per_mbq) != len(scans_mbq) or not all(c > 0 for c in counts_per_mbq):
        raise InputError(
            f"counts per MBq {list(counts_per_mbq)}", expected="one positive number per scan", kind="time_integration.noise"
        )
    q = packaged_table("imaging_parameters.csv").value("noise.spect_density")
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    sigma = [fwhm_mm * _SIGMA_PER_FWHM / s for s in spacing_mm]
    out = np.empty(scans_mbq.shape, np.float32)
    for k, (scan, counts) in enumerate(zip(scans_mbq, counts_per_mbq, strict=True)):
        local = ndimage.gaussian_filter(scan, sigma, mode="nearest")
        floor = max(_FLOOR * float(scan.mean()), float(np.finfo(np.float32).tiny))
        out[k] = np.sqrt(np.maximum(local, floor) * np.float32(q * voxel_ml / counts))
    return out


def _field(rng: np.random.Generator, shape: tuple[int, ...], sigma: Sequence[float]) -> Array32:
    """Standard normal field with the correlation of a Gaussian filter, (z, y, x)."""
    white = rng.standard_normal(shape, dtype=np.float32)
    if max(sigma) <= 0:
        return white
    field = ndimage.gaussian_filter(white, sigma, mode="wrap")
    return np.asarray(field / field.std(), np.float32)


def _sigma(correlation_fwhm_mm: float, spacing_mm: tuple[float, float, float]) -> list[float]:
    return [correlation_fwhm_mm * _SIGMA_PER_FWHM / s for s in spacing_mm]


def integrated_draws(
    scans_mbq: Array32,
    setting: IntegrationSetting,
    method: str,
    n: int,
    seed: int | Sequence[int],
    *,
    spacing_mm: tuple[float, float, float],
    correlation_fwhm_mm: float = 0.0,
    shift_sd_mm: float = 0.0,
    calibration_rel_sd: float = 0.0,
) -> Iterator[Array32]:
    """`n` maps (z, y, x) of time-integrated activity; draw k depends on `seed` and k only.

    Noise of `setting.sd_mbq` with the given correlation; shifts along each axis with the given SD; a log-normal factor. Noise
    makes some activities negative: they stay, since cutting them would raise the mean.
    """
    root = [seed] if isinstance(seed, int) else list(seed)
    sigma, draws = _sigma(correlation_fwhm_mm, spacing_mm), {k: len(c.at_scans) for k, c in setting.curves.items()}
    for k in range(n):
        rng = np.random.default_rng([*root, k])
        drawn = scans_mbq.copy()
        for i in range(len(drawn)):
            if shift_sd_mm > 0 and i > 0:
                shift = shift_sd_mm * rng.standard_normal(3) / np.array(spacing_mm)
                drawn[i] = ndimage.shift(drawn[i], shift, order=1, mode="nearest")
            if setting.sd_mbq is not None:
                drawn[i] += setting.sd_mbq[i] * _field(rng, drawn[i].shape, sigma)
        factor = float(np.exp(calibration_rel_sd * rng.standard_normal()))
        one = replace(setting, curves={c: _one(setting.curves[c], int(rng.integers(m))) for c, m in draws.items()})
        yield build_integrator(method, one).integrate(drawn).tia_mbq_h * np.float32(factor)


def _one(curve: RegionalCurve, i: int) -> RegionalCurve:
    part = slice(i, i + 1)
    return RegionalCurve(curve.at_scans[part], curve.before_first[part], curve.between[part], curve.after_last[part])


def with_drawn_sd(result: TimeIntegrated, draws: Iterator[Array32]) -> TimeIntegrated:
    """The result with the SD of the draws about their own mean. Raises ModelError for fewer than two draws."""
    total, square = np.zeros(result.tia_mbq_h.shape), np.zeros(result.tia_mbq_h.shape)
    n = 0
    for n, draw in enumerate(draws, start=1):  # noqa: B007 - n is the count after the loop
        apart = draw.astype(np.float64) - result.tia_mbq_h  # small numbers keep the squares exact
        total += apart
        square += apart**2
    if n < 2:
        raise ModelError(f"{n} draws", expected="at least two", kind="input.draws")
    sd = np.sqrt(np.maximum(square - total**2 / n, 0.0) / (n - 1))
    return replace(result, sd_mbq_h=sd.astype(np.float32))


def posterior_draws(
    result: TimeIntegrated,
    n: int,
    seed: int | Sequence[int],
    *,
    spacing_mm: tuple[float, float, float],
    correlation_fwhm_mm: float = 0.0,
    calibration_rel_sd: float = 0.0,
) -> Iterator[Array32]:
    """`n` maps (z, y, x) from the mean and SD of a result: log-normal, correlated as noise is, one common factor.

    Raises ModelError without SD.
    """
    if result.sd_mbq_h is None:
        raise ModelError(f"{result.method} gave no SD", expected="a result with sd_mbq_h", kind="input.draws")
    root = [seed] if isinstance(seed, int) else list(seed)
    mean = np.maximum(result.tia_mbq_h, np.float32(1e-30))
    log_sd = np.sqrt(np.log1p((result.sd_mbq_h / mean) ** 2))
    middle = result.tia_mbq_h * np.exp(-(log_sd**2) / 2)
    for k in range(n):
        rng = np.random.default_rng([*root, k])
        field = _field(rng, middle.shape, _sigma(correlation_fwhm_mm, spacing_mm))
        factor = np.exp(calibration_rel_sd * rng.standard_normal())
        yield np.asarray(middle * np.exp(log_sd * field) * np.float32(factor), np.float32)
