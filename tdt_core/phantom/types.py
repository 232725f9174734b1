"""What the digital reference patient hands out. Arrays and frozen values only; files are written elsewhere.

Times are hours from the first therapy administration; arrays are (z, y, x) with an affine to DICOM LPS, mm, and rising z
index runs toward the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tdt_core.errors import ModelError, UsageError
from tdt_core.imaging.volume import LabelVolume, Volume
from tdt_core.twin import CalibrationRecord, LabResult, Lesion, Schedule

FloatArray = npt.NDArray[np.float64]
Variant = Literal["standard", "one_kidney", "no_spleen"]
Images = Literal["fast", "physical"]
Noise = Literal["assumed", "physical_chain"]

PRODUCTS: Mapping[str, tuple[str, str, str, str, str]] = {
    "Lu-177-PSMA-617": ("PSMA-617", "Lu-177", "Ga-68-PSMA-11", "PSMA-11", "Ga-68"),
    "Lu-177-DOTATATE": ("DOTATATE", "Lu-177", "Ga-68-DOTATATE", "DOTATATE", "Ga-68"),
}
"""Therapy product -> its ligand and nuclide, and the product, ligand and nuclide of the pre-therapy PET."""


@dataclass(frozen=True)
class PhantomSettings:
    """What is drawn. The same settings give the same bytes on the same machine and library versions.

    Attributes
    ----------
    seed : root seed, any integer >= 0.
    cycles : therapy cycles, 2 to 6.
    matrix : scan voxels across 460 mm, 64 to 128, even; anatomy and true dose stand on half that voxel.
    time_points : SPECT scans per cycle, 3 or 4.
    pet : whether cycle 0 has a pre-therapy PET.
    variant : standard | one_kidney | no_spleen (drawn anatomy only).
    product : a key of `PRODUCTS`.
    standard_activity_mbq : what a cycle gets when nobody decides otherwise.
    interval_h : planned time between therapies.
    images : fast (SPECT blurred and made noisy in the image) | physical (projections, counts, reconstruction).
    noise : of fast SPECT images: assumed | physical_chain (SD and correlation measured on physical ones).
    """

    seed: int = 1
    cycles: int = 2
    matrix: int = 96
    time_points: int = 4
    pet: bool = True
    variant: Variant = "standard"
    product: str = "Lu-177-PSMA-617"
    standard_activity_mbq: float = 7400.0
    interval_h: float = 1008.0
    images: Images = "fast"
    noise: Noise = "assumed"

    def __post_init__(self) -> None:
        checks = (
            ("seed", self.seed >= 0, "an integer >= 0"),
            ("cycles", 2 <= self.cycles <= 6, "2 to 6"),
            ("matrix", 32 <= self.matrix <= 128 and self.matrix % 2 == 0, "even, 32 to 128 (64 to 128 for use, 32 for tests)"),
            ("time_points", self.time_points in (3, 4), "3 or 4"),
            ("variant", self.variant in ("standard", "one_kidney", "no_spleen"), "standard, one_kidney or no_spleen"),
            ("images", self.images in get_args(Images), f"one of {get_args(Images)}"),
            ("noise", self.noise in get_args(Noise), f"one of {get_args(Noise)}"),
            ("product", self.product in PRODUCTS, f"one of {sorted(PRODUCTS)}"),
            ("standard_activity_mbq", self.standard_activity_mbq > 0, "> 0"),
            ("interval_h", self.interval_h >= 336, ">= 336 h, since a cycle starts without activity from the one before"),
        )
        for name, good, expected in checks:
            if not good:
                raise UsageError(f"phantom {name} = {getattr(self, name)!r}", expected=expected, kind="model.phantom")

    @property
    def ligand(self) -> str:
        """Ligand of the therapy product."""
        return PRODUCTS[self.product][0]

    @property
    def nuclide(self) -> str:
        """Nuclide of the therapy product."""
        return PRODUCTS[self.product][1]


@dataclass(frozen=True, eq=False)
class LabelledAnatomy:
    """A real patient's CT and region map, used in place of the drawn anatomy. Kinetics are assigned, never taken from it.

    Attributes
    ----------
    hu : (z, y, x) Hounsfield units.
    affine : (k, j, i, 1) -> LPS mm of both arrays; any direction.
    labels : (z, y, x) region codes; codes that `names` does not hold are outside every region.
    names : code -> region name (`kidney_left`, `liver`, `lesion/L1`, ...).
    sex : of the patient.
    source : where the anatomy comes from, in words for reports.
    couch_hu : HU value that marks the couch; those voxels hold no body and stay in the CT. None where there is no such mark.
    """

    hu: npt.NDArray[Any]
    affine: FloatArray
    labels: npt.NDArray[Any]
    names: Mapping[int, str]
    sex: Literal["male", "female"]
    source: str
    couch_hu: float | None = None

    def __post_init__(self) -> None:
        if self.hu.ndim != 3 or self.hu.shape != self.labels.shape:
            raise ModelError(
                f"CT of shape {self.hu.shape} with labels of shape {self.labels.shape}",
                expected="two volumes of one shape z, y, x",
                kind="model.phantom",
            )
        if self.affine.shape != (4, 4) or abs(np.linalg.det(self.affine[:3, :3])) < 1e-9:
            raise ModelError("the affine of the anatomy is not an invertible 4 x 4 matrix", kind="model.phantom")
        if not self.names:
            raise ModelError("the anatomy names no region", expected="at least one code -> name", kind="model.phantom")


@dataclass(frozen=True, eq=False)
class PhantomScan:
    """One scan with the CT of the same bed time.

    Attributes
    ----------
    name : `C1-T2`, `C0-PET`.
    modality : SPECT or PET.
    image : float32; SPECT: counts per voxel over the acquisition (>= 0), PET: MBq/mL at `time_h`.
    unit : `counts` or `MBq/mL`.
    ct_hu : int16 on the same grid.
    affine : of both arrays.
    frame_of_reference : SPECT and CT of one bed time share it; a UID-free label such as `C1-T2`.
    time_h, duration_s : start and length of the acquisition.
    nuclide : of the image.
    calibration : record that belongs to the scan (not the truth).
    shift_mm, rotation_deg : (z, y, x) rigid motion of the patient against the cycle's first scan, about the grid's centre.
    truth_mbq_ml : float32 activity concentration at mid-frame, after the motion, before blur and noise.
    """

    name: str
    modality: Literal["SPECT", "PET"]
    image: npt.NDArray[np.float32]
    unit: str
    ct_hu: npt.NDArray[np.int16]
    affine: FloatArray
    frame_of_reference: str
    time_h: float
    duration_s: float
    nuclide: str
    calibration: CalibrationRecord
    shift_mm: tuple[float, float, float]
    rotation_deg: tuple[float, float, float]
    truth_mbq_ml: npt.NDArray[np.float32]

    @property
    def mid_time_h(self) -> float:
        """Middle of the acquisition."""
        return self.time_h + self.duration_s / 7200.0


@dataclass(frozen=True, eq=False)
class PhantomCycle:
    """One cycle: what a clinic would have, and beside it the truth.

    Attributes
    ----------
    number : 0 = pre-therapy (PET and baseline labs), k = therapy k.
    administrations : of this cycle, in order of time.
    scans : in order of time; empty in cycle 0 when no PET is asked for.
    segmentation : regions on the first scan's grid, with contour error; None without scans.
    labs : results of this cycle in order of time.
    lesions : every lesion with its true volume in this cycle.
    truth : plain JSON: `regions` (name -> volume_ml, mass_g, tia_mbq_h, dose_gy, gy_per_gbq, times_h, activities_mbq),
        `parameters`, `drift`, `administered_mbq`, `calibration`, `scans`, `contours`.
    truth_dose, truth_tia : Gy and MBq.h/mL on the first scan's grid, from the half-voxel computation; None in cycle 0.
    truth_labels : true regions on the first scan's grid: the region that holds most of each voxel's region content.
    """

    number: int
    administrations: Schedule
    scans: tuple[PhantomScan, ...]
    segmentation: LabelVolume | None
    labs: tuple[LabResult, ...]
    lesions: tuple[Lesion, ...]
    truth: Mapping[str, Any] = field(default_factory=dict)
    truth_dose: Volume | None = None
    truth_tia: Volume | None = None
    truth_labels: LabelVolume | None = None
