"""Calibration records of a site: how counts become activity, by device, energy window, collimator and reconstruction.

`calibration.json`: {"schema": 1, "calibrations": [fields of `CalibrationRecord`, ...]}. A record without a match is no excuse
to use another one: the sensitivity of another collimator is wrong by a factor.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

from storage.tables import read_json
from tdt_core.codec import from_plain
from tdt_core.errors import CalibrationError
from tdt_core.parameters import packaged_table
from tdt_core.twin import CalibrationRecord

SCHEMA = 1
PLAIN_TEXT = re.compile(r"[A-Za-z0-9 .,:;/*%+\-_()&=#]{1,160}")
_PROFILE = "resolution_by_radius_mm"
_SPHERES = "spheres"
_OPTIONAL = {_PROFILE, _SPHERES}
_SPHERE = {
    "body_mm": (10.0, 1000.0),
    "radius_mm": (0.0, 1000.0),
    "volume_ml": (0.01, 10000.0),
    "ratio": (1.01, 1e5),
    "recovery": (0.001, 2.0),
}
_NUMBERS = {
    "sensitivity_cps_per_mbq": (1e-6, 1e6),
    "sensitivity_rel_sd": (0.0, 1.0),
    "resolution_fwhm_mm": (0.1, 100.0),
    "resolution_rel_sd": (0.0, 1.0),
}


@dataclass(frozen=True)
class Calibrations:
    """All records of a site; at most one per key and nuclide."""

    records: tuple[CalibrationRecord, ...] = ()

    def find(
        self, device: str, energy_window: str, collimator: str, reconstruction: str, nuclide: str
    ) -> CalibrationRecord | None:
        """The record of exactly this key and nuclide, or None."""
        key = (device, energy_window, collimator, reconstruction)
        return next((r for r in self.records if r.key == key and r.nuclide == nuclide), None)

    def find_pet(self, device: str, reconstruction: str, nuclide: str) -> CalibrationRecord | None:
        """The record of a PET scanner, which has one energy window and no collimator; None unless exactly one fits."""
        found = [r for r in self.records if (r.device, r.reconstruction, r.nuclide) == (device, reconstruction, nuclide)]
        return found[0] if len(found) == 1 else None

    def match(self, device: str, energy_window: str, collimator: str, reconstruction: str, nuclide: str) -> CalibrationRecord:
        """The record of exactly this key and nuclide.

        Raises
        ------
        CalibrationError
            `calibration.none`, or `calibration.nuclide` when the key fits a record of another nuclide.
        """
        record = self.find(device, energy_window, collimator, reconstruction, nuclide)
        if record is not None:
            return record
        key = (device, energy_window, collimator, reconstruction)
        other = sorted({r.nuclide for r in self.records if r.key == key})
        if other:
            raise CalibrationError(
                f"the calibration of this scanner setting is for {', '.join(other)}, the scan shows {nuclide}",
                expected=f"a calibration for {nuclide}",
                remedy="measure the sensitivity for this nuclide, or correct the radionuclide at the scanner",
                kind="calibration.nuclide",
            )
        near = self._nearest(key)
        raise CalibrationError(
            "no calibration record for this device, energy window, collimator and reconstruction"
            + (f"; the nearest one differs in {near}" if near else ""),
            expected="a record of the same device serial, energy window, collimator and reconstruction",
            remedy="add the measured sensitivity to calibration.json, or export activity concentration (Bq/mL)",
            kind="calibration.none",
        )

    def _nearest(self, key: tuple[str, str, str, str]) -> str:
        names = ("device serial", "energy window", "collimator", "reconstruction")
        best: list[str] = list(names)
        for r in self.records:
            off = [n for n, a, b in zip(names, r.key, key, strict=True) if a != b]
            best = min(best, off, key=len)
        return ", ".join(best) if len(best) < len(names) else ""


def read_calibrations(path: Path) -> Calibrations:
    """Records of `calibration.json`.

    Raises
    ------
    CalibrationError
        `calibration.format` for a wrong schema, an unknown or absent field or a value out of range,
        `calibration.ambiguous` for two records of one key and nuclide.
    """
    data = read_json(path)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("calibrations"), list):
        raise _format("a calibration file of another form", '{"schema": 1, "calibrations": [...]}')
    records = tuple(_record(n, row) for n, row in enumerate(data["calibrations"], start=1))
    seen = [(*r.key, r.nuclide) for r in records]
    if len(set(seen)) != len(seen):
        raise CalibrationError(
            "two calibration records of one device, window, collimator, reconstruction and nuclide",
            expected="one record in force",
            remedy="remove the record that is no longer in force",
            kind="calibration.ambiguous",
        )
    return Calibrations(records)


def _record(n: int, row: Any) -> CalibrationRecord:
    names = {f.name for f in fields(CalibrationRecord)} - _OPTIONAL
    found = set(row) - _OPTIONAL if isinstance(row, dict) else set()
    if found != names:
        raise _format(
            f"calibration record {n} lacks {sorted(names - found)} and has {len(found - names)} unknown fields",
            f"exactly the fields {sorted(names)}, and {_PROFILE} and {_SPHERES} where they were measured",
        )
    for name, (low, high) in _NUMBERS.items():
        number = row[name]
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise _format(f"{name} of calibration record {n} is not a finite number", "a number")
        if not low <= number <= high:
            raise _format(f"{name} of calibration record {n} is {number}", f"{low} to {high}")
    texts = {name: row[name] for name in names - set(_NUMBERS)}
    for name, text in texts.items():
        if not isinstance(text, str) or not PLAIN_TEXT.fullmatch(text):
            raise _format(f"{name} of calibration record {n} is not a plain text", "letters, digits and common signs")
    try:
        date.fromisoformat(row["date"])
    except ValueError:
        raise _format(f"date of calibration record {n} is not a date", "YYYY-MM-DD") from None
    plain = {k: v.strip() for k, v in texts.items()} | {k: float(row[k]) for k in _NUMBERS}
    measured = {_PROFILE: _profile(n, row.get(_PROFILE, [])), _SPHERES: _sphere_table(n, row.get(_SPHERES))}
    return from_plain(CalibrationRecord, plain | measured)


def _sphere_table(n: int, table: Any) -> dict[str, Any] | None:
    """{"voxel_mm", "rel_sd", "rows": [{fields of `SphereRecovery`}, ...]}, or None."""
    if table is None:
        return None
    form = f"{_SPHERES} with voxel_mm, rel_sd (0 to 0.5) and rows of " + ", ".join(
        f"{name} {low:g} to {high:g}" for name, (low, high) in _SPHERE.items()
    )
    if not isinstance(table, dict) or set(table) != {"voxel_mm", "rel_sd", "rows"} or not isinstance(table["rows"], list):
        raise _format(f"{_SPHERES} of calibration record {n} is not such a table", form)
    rows = table["rows"]
    named = [{"voxel_mm": table["voxel_mm"], "rel_sd": table["rel_sd"]}, *rows]
    limits = [{"voxel_mm": (0.1, 50.0), "rel_sd": (0.0, 0.5)}, *([_SPHERE] * len(rows))]
    for row, limit in zip(named, limits, strict=True):
        if not isinstance(row, dict) or set(row) != set(limit):
            raise _format(f"a row of {_SPHERES} of calibration record {n} has other fields", form)
        for name, (low, high) in limit.items():
            number = row[name]
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not low <= number <= high:
                raise _format(f"{name} in {_SPHERES} of calibration record {n} is {number}", form)
    least = packaged_table("imaging_parameters.csv").value("spheres.smallest")
    if not any(row["volume_ml"] >= least for row in rows):
        raise _format(f"{_SPHERES} of calibration record {n} holds no sphere of {least:g} mL or more", form)
    return {k: [{f: float(v) for f, v in r.items()} for r in rows] if k == "rows" else float(v) for k, v in table.items()}


def _profile(n: int, pairs: Any) -> list[list[float]]:
    """[[radius mm, FWHM mm], ...] with rising radius; may be empty."""
    form = f"{_PROFILE} as [[radius mm, FWHM mm], ...] with radii that rise from 0 or more to 1000 and FWHM of 0.1 to 100"
    try:
        out = [[float(radius), float(fwhm)] for radius, fwhm in pairs]
    except (TypeError, ValueError):
        raise _format(f"{_PROFILE} of calibration record {n} is not a list of pairs of numbers", form) from None
    radii = [r for r, _ in out]
    if radii != sorted(set(radii)) or not all(0 <= r <= 1000 and 0.1 <= f <= 100 for r, f in out):
        raise _format(f"{_PROFILE} of calibration record {n} has radii that do not rise or values out of range", form)
    return out


def _format(found: str, expected: str) -> CalibrationError:
    return CalibrationError(found, expected=expected, remedy="correct calibration.json", kind="calibration.format")
