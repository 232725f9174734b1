"""Voxel-wise fit, plain or with shrinkage towards the region's curve.

Voxel v of a region with the curve f, its rate r after the last scan, and a reference time t0:

    y[k, v] = A[v] f(t[k]) / f(t0) exp(-(r[v] - r) (t[k] - t0)) + noise of known SD
    (ln A[v], ln r[v] / r) ~ normal(mu, T) between the voxels of the region

mu and T come from the region's own data: empirical Bayes, EM on the data linearised at the voxels' posterior modes, on at most
`SAMPLE` voxels evenly along the order of activity (of an even stride of voxels where a region is very large). Every voxel then
has its posterior mode and curvature, and the mean and variance of its time-integrated activity (TIA) by a log-normal law. Where
f is one exponential, or with `shape="exponential"`, which puts one in the place of f, this is one exponential per voxel. Rates
stay between physical decay (or the curve's own rate where that still rises) and 20 times the region's rate.

`hierarchical`: that. T of rates 0 and flat amplitudes give `regional_shape`; no noise gives the plain fit of the same shape.
`voxel_fit`: no prior, one exponential. Cost: about 0.7 us of one core per voxel with four scans; blocks of voxels run in
threads and do not depend on each other.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tdt_core.dosimetry.time_integration.checks import refuse_unknown
from tdt_core.dosimetry.time_integration.curves import RegionalCurve
from tdt_core.dosimetry.time_integration.intervals import log_mean
from tdt_core.dosimetry.time_integration.regional_shape import curve_of, early_hours, region_activity, scan_weights
from tdt_core.dosimetry.time_integration.registry import (
    IntArray,
    IntegrationSetting,
    TimeIntegrated,
    register_integrator,
)
from tdt_core.dosimetry.time_integration.voxel_kernels import fit_voxels, integrate_voxels, spread
from tdt_core.dosimetry.units import Array32, FloatArray
from tdt_core.errors import InputError, ModelError

SAMPLE = 2048
FASTEST = math.log(20.0)
_OUTER, _INNER = 12, 60
_START_RATE_SD = 0.3
_BLOCK = 1 << 15
_ORDERED = 16 * SAMPLE
_NO_SPREAD = 1e-6  # SD that stands for none


@dataclass(frozen=True, eq=False)
class _Region:
    """What the kernels need of one region; logs, hours and times are (scans,)."""

    logs: FloatArray
    hours: FloatArray
    times: FloatArray
    rate: float
    low: float
    early: float
    between: float
    rel_sd: float


def _region(setting: IntegrationSetting, label: int, curve: RegionalCurve, weights: FloatArray, exponential: bool) -> _Region:
    times = setting.times_h
    mean = curve.mean
    f = mean.at_scans[0]
    if exponential:
        f = np.exp(-max(float(f[-1] / mean.after_last[0]), setting.decay_per_h) * (times - times[-1]))
    information = weights * f**2
    at = float(information @ times / information.sum())
    lf = np.log(f)
    logs = lf - float(np.interp(at, times, lf))
    rate = float(mean.at_scans[0, -1] / mean.after_last[0])
    rate = max(rate, setting.decay_per_h) if exponential else rate
    own = setting.early(label)
    early = -1.0 if own == "exponential" else float(early_hours(setting, own, mean)[0])
    plain = sum(float(dt * log_mean(a, b)) for dt, a, b in zip(np.diff(times), f[:-1], f[1:], strict=True))
    level = np.exp([np.interp(at, times, row) for row in np.log(curve.at_scans)])
    shape = curve.integral / level
    return _Region(
        logs=logs,
        hours=times - at,
        times=times,
        rate=rate,
        low=min(0.0, math.log(setting.decay_per_h / rate)),
        early=early,
        between=1.0 if exponential or plain <= 0 else float(mean.between[0]) / plain,
        rel_sd=float(shape.std(ddof=1) / shape.mean()) if len(shape) > 1 else 0.0,
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _VoxelFit:
    """Common parts of both methods."""

    name = ""
    scans = (2, 10_000)
    known: tuple[str, ...] = ("shape", "total", "workers")
    default_shape = "curve"

    def __init__(self, setting: IntegrationSetting) -> None:
        refuse_unknown(setting.options, self.known, self.name)
        if setting.sd_mbq is None:
            raise InputError(
                f"{self.name} without noise",
                expected="sd_mbq, the noise SD of every voxel and scan",
                remedy="estimate it with noise_sd",
                kind="time_integration.noise",
            )
        self._setting = setting
        self._shape = setting.options.get("shape", self.default_shape)
        if self._shape not in ("curve", "exponential"):
            raise ModelError(f"shape {self._shape!r}", expected="curve or exponential", kind="model.option")
        self._total = setting.options.get("total", "voxels")
        if self._total not in ("voxels", "region"):
            raise ModelError(f"total {self._total!r}", expected="voxels or region", kind="model.option")
        self._workers = int(setting.options.get("workers", 0)) or _cores()
        if self._workers < 1:
            raise ModelError(f"{self._workers} workers", expected="at least one, or 0 for all cores", kind="model.option")

    def prior(self, flat: Array32, sd: Array32, voxels: IntArray, region: _Region) -> tuple[FloatArray, FloatArray, str]:
        """Mean (2,) and precision (3,) of the prior of a region's voxels, and a finding or nothing."""
        raise NotImplementedError

    def integrate(self, scans_mbq: Array32) -> TimeIntegrated:
        """Mean and SD of the TIA of every voxel; the SD holds the spread of the regional curve's shape over its draws."""
        s = self._setting
        assert s.sd_mbq is not None
        flat, sd = scans_mbq.reshape(len(scans_mbq), -1), s.sd_mbq.reshape(len(scans_mbq), -1)
        tia, error = np.zeros(flat.shape[1], np.float32), np.zeros(flat.shape[1], np.float32)
        regions: dict[int, dict[str, float]] = {}
        findings: list[str] = []
        with ThreadPoolExecutor(self._workers) as pool:
            for label, voxels in s.regions().items():
                curve = curve_of(s, label, region_activity(flat, voxels))
                if curve is None:
                    continue
                region = _region(s, label, curve, scan_weights(s, voxels, curve.mean.at_scans[0]), self._shape == "exponential")
                mu, p, finding = self.prior(flat, sd, voxels, region)
                findings += [f"label {label}: {finding}"] if finding else []
                job = self._job(flat, sd, region, mu, p, tia, error)
                list(pool.map(job, [voxels[i : i + _BLOCK] for i in range(0, voxels.size, _BLOCK)]))
                self._totalled(tia, error, voxels, float(curve.mean.integral[0]))
                regions[label] = {
                    "tia_mbq_h": float(tia[voxels].sum(dtype=np.float64)),
                    "half_life_h": math.log(2.0) / (region.rate * math.exp(float(mu[1]))),
                    **_spreads(p),
                }
        findings += [f"before the first scan: {', '.join(sorted({s.early(k) for k in regions}))}"] if regions else []
        grid = scans_mbq.shape[1:]
        return TimeIntegrated(tia.reshape(grid), error.reshape(grid), self.name, regions, tuple(findings))

    def _totalled(self, tia: Array32, error: Array32, voxels: IntArray, integral: float) -> None:
        """With `total="region"`, give the voxels the integral of the region's curve in sum: it rests on all counts at once."""
        found = float(tia[voxels].sum(dtype=np.float64))
        if self._total == "region" and found > 0:
            tia[voxels] *= np.float32(integral / found)
            error[voxels] *= np.float32(integral / found)

    def _job(
        self, flat: Array32, sd: Array32, region: _Region, mu: FloatArray, p: FloatArray, tia: Array32, error: Array32
    ) -> Callable[[IntArray], None]:
        def run(voxels: IntArray) -> None:
            fits, out = np.empty((len(voxels), 7)), np.empty((len(voxels), 2))
            r = region
            fit_voxels(flat, sd, voxels, r.logs, r.hours, r.rate, r.low, FASTEST, mu, p, fits)
            integrate_voxels(fits, r.logs, r.hours, r.times, r.rate, r.early, r.between, p, out)
            tia[voxels] = out[:, 0]
            error[voxels] = np.hypot(out[:, 1], r.rel_sd * out[:, 0])

        return run


def _spreads(p: FloatArray) -> dict[str, float]:
    """SDs between voxels from the precision; nothing without a prior."""
    det = p[0] * p[2] - p[1] ** 2
    if det <= 0:
        return {}
    return {"amplitude_log_sd": math.sqrt(p[2] / det), "rate_log_sd": math.sqrt(p[0] / det)}


class VoxelFit(_VoxelFit):
    """Plain fit of amplitude and rate per voxel, weighted least squares. Options `shape` (exponential), `total`, `workers`."""

    name = "voxel_fit"
    default_shape = "exponential"

    def prior(self, flat: Array32, sd: Array32, voxels: IntArray, region: _Region) -> tuple[FloatArray, FloatArray, str]:
        """None."""
        return np.zeros(2), np.zeros(3), ""


class Hierarchical(_VoxelFit):
    """Options: `between` (SD of ln amplitude or None for flat, SD of ln rate) in place of empirical Bayes;
    `shape` (curve); `total` (voxels: whatever they add to; region: the integral of the region's curve); `workers`."""

    name = "hierarchical"
    known = ("between", "shape", "total", "workers")

    def prior(self, flat: Array32, sd: Array32, voxels: IntArray, region: _Region) -> tuple[FloatArray, FloatArray, str]:
        """As given, or by empirical Bayes from the region's data."""
        given = self._setting.options.get("between")
        if given is not None:
            return (*_given(given, flat, voxels, region), "")
        return estimated(flat, sd, voxels, region)


def _given(
    between: tuple[float | None, float], flat: Array32, voxels: IntArray, region: _Region
) -> tuple[FloatArray, FloatArray]:
    amplitude, rate = between
    if rate < 0 or (amplitude is not None and amplitude <= 0):
        raise ModelError(f"between {between}", expected="(SD > 0 or None, SD >= 0)", kind="model.option")
    mu = np.array([_typical(flat, voxels, region)[0], 0.0])
    return mu, np.array([0.0 if amplitude is None else amplitude**-2, 0.0, max(rate, _NO_SPREAD) ** -2])


def _typical(flat: Array32, voxels: IntArray, region: _Region) -> tuple[float, float]:
    """Mean and SD of ln amplitude at the reference time, from each voxel's scans summed; those without activity left out."""
    amplitude = flat[:, voxels].sum(axis=0, dtype=np.float64) / np.exp(region.logs).sum()
    seen = np.log(amplitude[amplitude > 1e-3 * amplitude.mean()])
    return float(seen.mean()), float(max(seen.std(), 0.05))


def estimated(flat: Array32, sd: Array32, voxels: IntArray, region: _Region) -> tuple[FloatArray, FloatArray, str]:
    """Mean and precision of (ln amplitude, ln relative rate) between voxels by empirical Bayes."""
    sample = voxels
    if voxels.size > SAMPLE:
        some = voxels[:: -(-voxels.size // _ORDERED)]
        order = np.argsort(flat[:, some].sum(axis=0), kind="stable")
        sample = some[order[np.linspace(0, some.size - 1, SAMPLE).round().astype(int)]]
    level, scatter = _typical(flat, sample, region)
    mu, cov = np.array([level, 0.0]), np.array([scatter**2, 0.0, _START_RATE_SD**2])
    fits = np.empty((len(sample), 7))
    finding = "the spread between voxels did not settle"
    for _ in range(_OUTER):
        before = cov.copy()
        fit_voxels(flat, sd, sample, region.logs, region.hours, region.rate, region.low, FASTEST, mu, _inverse(cov), fits)
        spread(fits, mu, cov, _INNER, 1e-3)
        if np.abs(np.sqrt(cov[[0, 2]] / before[[0, 2]]) - 1).max() < 0.02:
            finding = ""
            break
    if len(sample) < 30:
        finding = f"the spread between voxels rests on {len(sample)} voxels"
    return mu, _inverse(cov), finding


def _inverse(cov: FloatArray) -> FloatArray:
    det = cov[0] * cov[2] - cov[1] ** 2
    return np.array([cov[2], -cov[1], cov[0]]) / det


register_integrator(VoxelFit.name, VoxelFit)
register_integrator(Hierarchical.name, Hierarchical)
