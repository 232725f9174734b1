"""Mass density and media from CT numbers, without the couch, and whether the CT covers a scan at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tdt_core.dosimetry.density import MATERIALS
from tdt_core.errors import GeometryError, UnitError
from tdt_core.imaging.ct_calibration import METAL_HU, CtCalibration, packaged_calibration
from tdt_core.imaging.masks import body_outline
from tdt_core.imaging.resampling import RigidTransform, resample
from tdt_core.imaging.volume import Volume
from tdt_core.parameters import packaged_table

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


def check_coverage(ct: Volume, scan: Volume, transform: RigidTransform | None = None) -> None:
    """Refuse a CT that leaves out activity of a scan, whose medium and attenuation would then be guessed.

    Parameters
    ----------
    ct, scan : the CT, and activity (MBq/mL) in the same frame, or with a transform of scan points to CT points.

    Raises GeometryError (`geometry.ct_coverage`) when more than `ct.uncovered_share` of the activity lies outside the CT.
    """
    seen = resample(ct.replace(np.ones(ct.array.shape, np.float32), "1"), scan, transform, "nearest", 0.0).array > 0.5
    total = float(scan.array.sum(dtype=np.float64))
    if total <= 0 or seen.all():
        return
    outside = float(scan.array[~seen].sum(dtype=np.float64)) / total
    most = packaged_table("imaging_parameters.csv").value("ct.uncovered_share")
    if outside > most:
        raise GeometryError(
            f"{outside:.0%} of the activity of a scan lies outside its CT",
            expected=f"at most {most:.0%}",
            remedy="send the CT that covers the whole SPECT bed, or crop the SPECT to it",
            kind="geometry.ct_coverage",
        )


def _check(ct: Volume, body: BoolArray | None) -> None:
    if ct.unit != "HU":
        raise UnitError(f"density from a volume in {ct.unit}", expected="HU")
    if body is not None and body.shape != ct.array.shape:
        raise GeometryError(f"a body of shape {body.shape} on a CT of {ct.array.shape}", kind="geometry.grid")
