"""Volumes with geometry and unit: the only form in which images travel through the core.

Arrays are (z, y, x). `affine` maps homogeneous voxel indices (k, j, i, 1) along (z, y, x) to (x, y, z, 1) in DICOM LPS, mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tdt_core.errors import GeometryError, UnitError
from tdt_core.twin import CalibrationRecord, Region

if TYPE_CHECKING:
    from tdt_core.imaging.ct_calibration import CtCalibration

UNITS = ("MBq/mL", "HU", "Gy", "g/cm3", "MBq.h/mL", "1")


@dataclass(frozen=True, eq=False)
class Volume:
    """One quantitative volume. Raises GeometryError or UnitError when it has no meaning."""

    array: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]
    unit: str
    frame_of_reference: str

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or 0 in self.array.shape:
            raise GeometryError(f"a volume of shape {self.array.shape}", expected="three non-empty axes z, y, x")
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all():
            raise GeometryError("the affine is not a finite 4 x 4 matrix")
        if abs(np.linalg.det(self.affine[:3, :3])) < 1e-9:
            raise GeometryError("the affine is singular", expected="three independent axes")
        if self.unit not in UNITS:
            raise UnitError(f"unit {self.unit!r} on a volume", expected=f"one of {UNITS}")

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(dz, dy, dx), mm."""
        dz, dy, dx = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(dz), float(dy), float(dx)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel, mL."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    def replace(self, array: npt.NDArray[Any], unit: str | None = None) -> Volume:
        """The same geometry with other values."""
        return Volume(array, self.affine, self.unit if unit is None else unit, self.frame_of_reference)


@dataclass(frozen=True, eq=False)
class Scan:
    """One scan as the twin keeps it.

    Attributes
    ----------
    id : SHA-256 of the content (evidence digest).
    volume : SPECT/PET: MBq/mL at `time_h`, not decay corrected to anything else. CT: HU.
    time_h : hours from the origin at which the values hold (middle of a SPECT acquisition).
    counts_per_mbq : expected counts per MBq over the acquisition (sensitivity x duration); 0 when unknown. For the noise.
    value_branch : how stored values became activity: counts | real_world | rescale.
    ct_calibration : CT: what its numbers mean on its scanner; None for the packaged curve.
    """

    id: str
    modality: Literal["SPECT", "PET", "CT"]
    volume: Volume
    time_h: float
    duration_s: float = 0.0
    nuclide: str = ""
    calibration: CalibrationRecord | None = None
    counts_per_mbq: float = 0.0
    value_branch: Literal["", "counts", "real_world", "rescale"] = ""
    ct_calibration: CtCalibration | None = None


@dataclass(frozen=True, eq=False)
class LabelVolume:
    """Non-overlapping regions on one grid: label n (1-based) is `regions[n - 1]`; 0 is outside every region."""

    labels: npt.NDArray[np.int16]
    affine: npt.NDArray[np.float64]
    frame_of_reference: str
    regions: tuple[Region, ...]

    def mask(self, name: str) -> npt.NDArray[np.bool_]:
        """Boolean mask of one region. Raises GeometryError when there is none of that name."""
        for n, region in enumerate(self.regions, start=1):
            if region.name == name:
                return np.asarray(self.labels == n)
        raise GeometryError(f"no region {name!r}", expected=f"one of {[r.name for r in self.regions]}")
