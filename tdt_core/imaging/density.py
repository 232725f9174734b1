"""Mass density and media from CT numbers, without the couch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.density import MATERIALS
from tdt_core.errors import GeometryError, UnitError
from tdt_core.imaging.ct_calibration import METAL_HU, CtCalibration, packaged_calibration
from tdt_core.imaging.masks import body_outline
from tdt_core.imaging.volume import Volume

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CtMedia:
    """What dosimetry takes from a CT.

    Attributes
    ----------
    density : g/cm3, float32; air outside the body.
    material : (z, y, x) int8 indices of `tdt_core.dosimetry.MATERIALS`; air outside the body.
    findings : remarks in words (metal, CT numbers beyond the calibration).
    """

    density: Volume
    material: npt.NDArray[np.int8]
    findings: tuple[str, ...]


def density(ct: Volume, body: BoolArray | None = None, calibration: CtCalibration | None = None) -> Volume:
    """Density (g/cm3, float32) of a CT by a piecewise linear curve; by default the packaged one (`hu_density.csv`).

    Values beyond the curve take its ends: air is never lighter than air, metal never heavier than dense bone. Outside `body`
    (same grid) everything is air, so that the couch takes no dose.

    Raises UnitError when the volume is not in HU, GeometryError for a body on another grid.
    """
    _check(ct, body)
    used = calibration or packaged_calibration()
    out = used.density(ct.array)
    if body is not None:
        out[~body] = np.float32(used.curve[0][1])
    return ct.replace(out, "g/cm3")


def media(ct: Volume, body: BoolArray | None = None, calibration: CtCalibration | None = None) -> CtMedia:
    """Density and medium per voxel of a CT.

    Parameters
    ----------
    ct : volume in HU.
    body : (z, y, x) body; found by `body_outline` (largest connected part, which leaves out the couch) where absent.
    calibration : the scanner's own; the packaged one where absent.

    Raises
    ------
    UnitError not in HU; GeometryError for a body on another grid, or when there is none.
    """
    _check(ct, body)
    inside = body_outline(ct) if body is None else body
    used = calibration or packaged_calibration()
    material = used.material(ct.array)
    material[~inside] = MATERIALS.index("air")
    findings = []
    metal = int((ct.array[inside] > METAL_HU).sum())
    if metal:
        findings.append(f"{metal * ct.voxel_ml:.1f} mL of the CT are metal; dose there and beside it is uncertain")
    return CtMedia(density(ct, inside, used), material, tuple(findings))


def _check(ct: Volume, body: BoolArray | None) -> None:
    if ct.unit != "HU":
        raise UnitError(f"density from a volume in {ct.unit}", expected="HU")
    if body is not None and body.shape != ct.array.shape:
        raise GeometryError(f"a body of shape {body.shape} on a CT of {ct.array.shape}", kind="geometry.grid")
