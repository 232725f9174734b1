"""Regional shape: every voxel follows its region's curve, scaled by an amplitude from all scans.

    a[v] = sum_k w[k] f[k] y[k, v] / sum_k w[k] f[k]^2,     TIA[v] = R a[v] / sum_v a[v]

f is the curve at the scans, R its integral, w the inverse of the region's mean noise variance at each scan. The weights are
those of the region, not of the voxel: noise that goes with the counts makes w f equal in all voxels, and weights that follow a
voxel's own counts would prefer its low values. Without noise given, variance goes with activity, w = 1 / f. The sum over voxels
is the curve's integral, to rounding; with the region's own activity as curve it is that curve's integral.
"""

from __future__ import annotations

import numpy as np

from tdt_core.dosimetry.time_integration.checks import refuse_unknown
from tdt_core.dosimetry.time_integration.curves import RegionalCurve, measured_curve
from tdt_core.dosimetry.time_integration.intervals import EARLY
from tdt_core.dosimetry.time_integration.registry import IntArray, IntegrationSetting, TimeIntegrated, register_integrator
from tdt_core.dosimetry.units import Array32, FloatArray

TAIL_SCANS = 2


def region_activity(flat: Array32, voxels: IntArray) -> FloatArray:
    """(scans,) activity of a region, MBq, from (scans, voxels of the grid)."""
    return np.array([np.take(scan, voxels).sum(dtype=np.float64) for scan in flat])


def curve_of(setting: IntegrationSetting, label: int, activity: FloatArray) -> RegionalCurve | None:
    """The curve given for a region, early part as the setting wants it, else what its activity shows; None without any."""
    early = setting.early(label)
    given = setting.curves.get(label)
    if given is None:
        if not activity.max() > 0:
            return None
        kind = EARLY["constant" if early == "curve" else early]
        return measured_curve(activity, setting.times_h, setting.decay_per_h, kind, min(TAIL_SCANS, len(activity)))
    if early == "curve":
        return given
    first = given.at_scans[:, 0]
    return RegionalCurve(given.at_scans, early_hours(setting, early, given) * first, given.between, given.after_last)


def early_hours(setting: IntegrationSetting, early: str, curve: RegionalCurve) -> FloatArray:
    """(draws,) integral before the first scan over the activity at it, h."""
    t = float(setting.times_h[0])
    if early == "linear":
        return np.full(len(curve.at_scans), 0.5 * t)
    if early == "constant":
        return np.full(len(curve.at_scans), t)
    if early == "curve":
        return curve.before_first / curve.at_scans[:, 0]
    rate = np.full(len(curve.at_scans), setting.decay_per_h)
    if len(setting.times_h) > 1:
        fall = np.log(curve.at_scans[:, 0] / curve.at_scans[:, 1]) / (setting.times_h[1] - t)
        rate = np.maximum(fall, setting.decay_per_h)
    return np.expm1(rate * t) / rate


def scan_weights(setting: IntegrationSetting, voxels: IntArray, shape: FloatArray) -> FloatArray:
    """(scans,) inverse of the region's mean noise variance at each scan; without noise given 1 / f."""
    if setting.sd_mbq is None:
        return 1.0 / shape
    flat = setting.sd_mbq.reshape(len(shape), -1)
    return np.array([1.0 / np.square(np.take(sd, voxels), dtype=np.float64).mean() for sd in flat])


class RegionalShape:
    """No options."""

    name = "regional_shape"
    scans = (1, 10_000)

    def __init__(self, setting: IntegrationSetting) -> None:
        refuse_unknown(setting.options, (), self.name)
        self._setting = setting

    def integrate(self, scans_mbq: Array32) -> TimeIntegrated:
        """SD per voxel from the draws of the curve and, where noise is given, of the amplitude."""
        s = self._setting
        flat = scans_mbq.reshape(len(scans_mbq), -1)
        tia = np.zeros(flat.shape[1], np.float32)
        variance = np.zeros(flat.shape[1], np.float32)
        sure = s.sd_mbq is None and not any(len(c.at_scans) > 1 for c in s.curves.values())
        regions: dict[int, dict[str, float]] = {}
        findings: list[str] = []
        for label, voxels in s.regions().items():
            activity = region_activity(flat, voxels)
            curve = curve_of(s, label, activity)
            if curve is None:
                continue
            shape = curve.mean.at_scans[0]
            factors = (w := scan_weights(s, voxels, shape)) * shape / (w @ shape**2)
            amplitude = factors.astype(np.float32) @ flat[:, voxels]
            total = float(amplitude.sum(dtype=np.float64))
            if total <= 0:
                findings.append(f"label {label} has a curve but no activity in the images")
                continue
            integral = float(curve.integral.mean())
            tia[voxels] = amplitude * np.float32(integral / total)
            if not sure:
                rel = float(curve.integral.std(ddof=1)) / integral if len(curve.at_scans) > 1 else 0.0
                variance[voxels] = (tia[voxels] * np.float32(rel)) ** 2
                if s.sd_mbq is not None:
                    noise = np.square(s.sd_mbq.reshape(len(flat), -1)[:, voxels])
                    variance[voxels] += (factors**2).astype(np.float32) @ noise * np.float32(integral / total) ** 2
            regions[label] = {
                "tia_mbq_h": integral,
                "before_first_share": float(curve.before_first.mean()) / integral,
                "after_last_share": float(curve.after_last.mean()) / integral,
                "amplitude_over_curve": total,
            }
        findings += [f"before the first scan: {', '.join(sorted({s.early(k) for k in regions}))}"] if regions else []
        grid = scans_mbq.shape[1:]
        sd = None if sure else np.sqrt(variance, out=variance).reshape(grid)
        return TimeIntegrated(tia.reshape(grid), sd, self.name, regions, tuple(findings))


register_integrator(RegionalShape.name, RegionalShape)
