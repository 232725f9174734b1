"""Calibration of CT scanners: what a CT number means in density and medium, by device.

`ct_calibration.csv`, optional, header `device,hu,density_g_cm3,medium,source`, one row per point of a phantom measurement. A
scanner that is not in the table keeps the packaged curve, and that is said.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from storage.calibrations import PLAIN_TEXT
from storage.tables import read_csv
from tdt_core.dosimetry.density import MATERIALS
from tdt_core.errors import CalibrationError
from tdt_core.imaging.ct_calibration import CtCalibration, scanner_calibrations

NAME = "ct_calibration.csv"
CSV_HEADER = ("device", "hu", "density_g_cm3", "medium", "source")
LOWEST_HU, HIGHEST_HU, HIGHEST_G_CM3 = -1100.0, 32767.0, 25.0


def read_ct_calibrations(path: Path) -> dict[str, CtCalibration]:
    """Calibrations by device serial; "" holds for every scanner that has none of its own.

    Raises
    ------
    InputError `file.csv`; CalibrationError `calibration.ct` for a point that is no number or out of range, a medium that does
    not exist, texts that are not plain, CT numbers that do not rise, a curve that leads from no air to no bone.
    """
    rows = read_csv(path, CSV_HEADER)
    for n, row in enumerate(rows, start=1):
        _check(n, row)
    if not rows:
        raise _refused("a CT calibration without a point", "the points of a phantom measurement")
    found: dict[str, CtCalibration] = {}
    for n, device in enumerate(dict.fromkeys(row["device"] for row in rows), start=1):
        label = f"scanner {n} of the table"  # errors repeat no text from outside
        own = scanner_calibrations([{**row, "device": label} for row in rows if row["device"] == device])
        found[device] = replace(own[label], device=device)
    return found


def _check(n: int, row: dict[str, str]) -> None:
    for name, low, high in (("hu", LOWEST_HU, HIGHEST_HU), ("density_g_cm3", 0.0, HIGHEST_G_CM3)):
        try:
            number = float(row[name])
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise _refused(f"{name} of point {n} is no number in range", f"{low:g} to {high:g}")
    if row["medium"] and row["medium"] not in MATERIALS:
        raise _refused(f"point {n} begins a medium that does not exist", f"nothing, or one of {', '.join(MATERIALS)}")
    if row["device"] and not PLAIN_TEXT.fullmatch(row["device"]):
        raise _refused(
            f"device of point {n} is not a plain text", "the DeviceSerialNumber of the CT, or nothing for any scanner"
        )
    if not PLAIN_TEXT.fullmatch(row["source"]):
        raise _refused(f"point {n} does not say in plain words where it comes from", "letters, digits and common signs")


def _refused(found: str, expected: str) -> CalibrationError:
    return CalibrationError(found, expected=expected, remedy=f"correct {NAME}", kind="calibration.ct")
