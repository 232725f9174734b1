"""What CT numbers mean: density and medium, by the packaged calibration or by that of one scanner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.density import MATERIALS
from tdt_core.errors import CalibrationError
from tdt_core.parameters import packaged_csv

METAL_HU = 3000.0
"""CT numbers above this are metal: no tissue reaches them (compact bone ends near 2000, teeth near 3000)."""


@dataclass(frozen=True)
class CtCalibration:
    """One scanner's meaning of HU. Raises CalibrationError when it has none.

    Attributes
    ----------
    device : scanner it holds for; "" for any.
    curve : (HU, g/cm3) points, HU rising, density never falling but at most by a tenth (contrast against bone);
        linear between them, constant beyond the first and the last.
    media : (lowest HU, medium) rows, HU rising; the first also holds below its own HU.
    source : where the points come from.
    """

    device: str
    curve: tuple[tuple[float, float], ...]
    media: tuple[tuple[float, str], ...]
    source: str

    def __post_init__(self) -> None:
        for what, rows, least in (("density", self.curve, 2), ("media", self.media, 1)):
            levels = [row[0] for row in rows]
            if len(rows) < least or not np.isfinite(levels).all() or any(b <= a for a, b in pairwise(levels)):
                raise self._refused(f"the {what} points {rows}", f"at least {least}, CT numbers rising")
        densities = np.array([rho for _, rho in self.curve])
        if not np.isfinite(densities).all() or (densities < 0).any() or densities[-1] < 1.0 or densities[0] > 0.1:
            raise self._refused(f"densities {densities.tolist()}", "g/cm3, from air (below 0.1) to bone (above 1)")
        if (densities[1:] < 0.9 * densities[:-1]).any():
            raise self._refused("a density that falls while the CT number rises", "a curve that rises")
        unknown = [name for _, name in self.media if name not in MATERIALS]
        if unknown:
            raise self._refused(f"the media {unknown}", f"of {MATERIALS}")

    def _refused(self, found: str, expected: str) -> CalibrationError:
        return CalibrationError(
            f"the CT calibration of {self.device or 'any scanner'} holds {found}",
            expected=expected,
            remedy="enter the points of the scanner's own phantom measurement again",
            kind="calibration.ct",
        )

    def density(self, hu: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """g/cm3, same shape."""
        x, y = zip(*self.curve, strict=True)
        return np.interp(hu, x, y).astype(np.float32)

    def material(self, hu: npt.NDArray[np.floating]) -> npt.NDArray[np.int8]:
        """Index into `MATERIALS`, same shape."""
        levels, names = zip(*self.media, strict=True)
        index = np.array([MATERIALS.index(name) for name in names], np.int8)
        return np.asarray(index[np.searchsorted(np.array(levels[1:]), hu, side="right")])


@cache
def packaged_calibration() -> CtCalibration:
    """The calibration that holds where a scanner has none of its own."""
    curve = tuple((float(r["hu"]), float(r["density_g_cm3"])) for r in packaged_csv("hu_density.csv"))
    media = tuple((float(r["hu"]), r["medium"]) for r in packaged_csv("hu_media.csv"))
    return CtCalibration("", curve, media, "Schneider 2000, hu_density.csv and hu_media.csv")


def scanner_calibrations(rows: Iterable[Mapping[str, str]]) -> dict[str, CtCalibration]:
    """Calibrations by device from a table with the columns device, hu, density_g_cm3, medium (may be empty) and source.

    A device without media takes the packaged ones. Raises CalibrationError for numbers that are none, or no calibration.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    media: dict[str, list[tuple[float, str]]] = {}
    sources: dict[str, str] = {}
    for row in rows:
        device = row.get("device", "").strip()
        try:
            hu, density = float(row["hu"]), float(row["density_g_cm3"])
        except (KeyError, ValueError, TypeError):
            raise CalibrationError(
                f"a row {dict(row)} of a CT calibration",
                expected="columns device, hu, density_g_cm3, medium, source with numbers for hu and density",
                kind="calibration.ct",
            ) from None
        points.setdefault(device, []).append((hu, density))
        if row.get("medium"):
            media.setdefault(device, []).append((hu, row["medium"].strip()))
        sources.setdefault(device, row.get("source", ""))
    usual = packaged_calibration().media
    return {
        device: CtCalibration(device, tuple(curve), tuple(media.get(device, usual)), sources[device])
        for device, curve in points.items()
    }


def calibration_of(device: str, scanners: Mapping[str, CtCalibration]) -> CtCalibration:
    """That of the device, else that for any device (""), else the packaged one."""
    return scanners.get(device) or scanners.get("") or packaged_calibration()
