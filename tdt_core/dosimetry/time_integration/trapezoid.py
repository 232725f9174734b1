"""Plain integration: an assumption before the first scan, trapezoids between scans, an exponential tail.

Trapezoids are linear, or (default) log-linear where activity falls and linear where it rises: exact for one exponential. The
tail is physical decay of the last activity, or (default) goes on at the rate of a log-linear fit to the last scans; it is never
slower than physical decay, and physical where activity does not fall or is zero.
"""

from __future__ import annotations

import numpy as np

from tdt_core.dosimetry.time_integration.checks import refuse_unknown
from tdt_core.dosimetry.time_integration.intervals import BETWEEN, EARLY, integrate_parts
from tdt_core.dosimetry.time_integration.registry import IntegrationSetting, TimeIntegrated, register_integrator
from tdt_core.dosimetry.units import Array32
from tdt_core.errors import ModelError

_BLOCK = 1 << 16


class Trapezoid:
    """Options: `between` (`log` | `linear`), `tail` (`fitted` | `physical`), `tail_scans` (2, of the fitted tail)."""

    name = "trapezoid"
    scans = (1, 10_000)

    def __init__(self, setting: IntegrationSetting) -> None:
        refuse_unknown(setting.options, ("between", "tail", "tail_scans"), self.name)
        self._setting = setting
        between, tail = setting.options.get("between", "log"), setting.options.get("tail", "fitted")
        if between not in BETWEEN or tail not in ("fitted", "physical"):
            raise ModelError(
                f"between {between!r}, tail {tail!r}", expected="log or linear; fitted or physical", kind="model.option"
            )
        early = setting.before_first or "constant"
        if early == "curve":
            raise ModelError(
                "before_first='curve' in trapezoid", expected="linear, constant or exponential", kind="model.option"
            )
        wanted = int(setting.options.get("tail_scans", 2))
        if wanted < 2:
            raise ModelError(f"tail_scans {wanted}", expected="at least 2", kind="model.option")
        self._between, self._early = BETWEEN[between], EARLY[early]
        self._tail = min(wanted, len(setting.times_h)) if tail == "fitted" else 0
        self._words = f"before the first scan: {early}"

    def integrate(self, scans_mbq: Array32) -> TimeIntegrated:
        """Each voxel by itself; no SD without draws (`tdt_core.dosimetry.time_integration.redraw`)."""
        s = self._setting
        grid = scans_mbq.shape[1:]
        flat = scans_mbq.reshape(len(scans_mbq), -1)
        tia, late, physical = np.empty(flat.shape[1], np.float32), 0.0, 0
        for start in range(0, flat.shape[1], _BLOCK):
            block = flat[:, start : start + _BLOCK]
            parts = integrate_parts(block, s.times_h, s.decay_per_h, self._between, self._early, self._tail)
            tia[start : start + _BLOCK] = parts[:3].sum(axis=0)
            late += float(parts[2].sum())
            physical += int((parts[3] * (block[-1] > 0)).sum())
        if s.outside == "zero":
            tia[s.labels.ravel() == 0] = 0.0
        total = float(tia.sum(dtype=np.float64))
        findings = [self._words]
        if total > 0 and late > 0:
            findings.append(f"{late / total:.0%} of the time-integrated activity lies after the last scan")
        if physical:
            findings.append(f"{physical} voxels do not show a decline: their tail is physical decay")
        return TimeIntegrated(tia.reshape(grid), None, self.name, {}, tuple(findings))


register_integrator(Trapezoid.name, Trapezoid)
