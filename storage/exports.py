"""Results as files that other software reads: dose and BED as RTDOSE, the SD of the dose as Parametric Map, regions as SEG,
the CT that they lie on, and every map as NIfTI.

Exports are pseudonymised: the patient is the pseudonym, PatientIdentityRemoved is YES, and dates are not real. The time axis
is the twin's own, hours from the first therapy, written as 2000-01-01 00:00 UTC plus those hours, so that intervals are
right. Every file carries the state id and "research use only" in PatientComments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
from pydicom.dataset import Dataset

from storage.atomic import write_atomic
from storage.dicom.uids import derived_uid
from storage.dicom.write_common import RESEARCH_USE, DicomPatient, DicomSeries, DicomStudy, Equipment, encode
from storage.dicom.write_ct import ct_series
from storage.dicom.write_parametric import parametric_map
from storage.dicom.write_rtdose import rtdose
from storage.dicom.write_seg import seg
from storage.nifti_write import nifti_bytes
from tdt_core.errors import GeometryError, StoreError, UnitError
from tdt_core.imaging.volume import LabelVolume, Volume
from tdt_core.twin import Region, TwinState

EXPORT_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_UID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")


@dataclass(frozen=True)
class ExportReference:
    """What an export is of: patient pseudonym, state, cycle, the grid's frame of reference and the time of the state.

    `of` says in the files what `state` is the id of. `patient` replaces the pseudonymised patient where an export is
    re-identified on purpose.
    """

    pid: str
    state: str
    cycle: int
    frame_of_reference: str
    time_h: float
    sex: Literal["male", "female"] | None = None
    patient: DicomPatient | None = None
    of: str = "Twin state"

    @property
    def at(self) -> datetime:
        """Pseudonymous time: the export epoch plus the twin's hours, whole seconds."""
        return EXPORT_EPOCH + timedelta(seconds=round(self.time_h * 3600))

    def dicom_patient(self) -> DicomPatient:
        """Who the file says it is about."""
        dates = "Dates are hours from the first therapy, counted from 2000-01-01 00:00 UTC."
        comments = f"{RESEARCH_USE} {self.of} {self.state}. {dates}"
        if self.patient is not None:
            return replace(self.patient, comments=comments)
        return DicomPatient(self.pid, f"{self.pid}^", self.sex, deidentified=True, comments=comments)

    def study(self) -> DicomStudy:
        """One study per state; the frame of reference is kept where it is a UID."""
        frame = self.frame_of_reference
        uid = frame if _UID.fullmatch(frame) and len(frame) <= 64 else derived_uid(self.pid, "frame", frame)
        return DicomStudy(derived_uid(self.state, "study"), uid, self.at, f"Cycle {self.cycle}. Research use only.")

    def series(self, role: str, number: int, description: str) -> DicomSeries:
        """A series of the state, named by its role."""
        return DicomSeries(derived_uid(self.state, "series", role), number, self.at, description)

    def equipment(self) -> Equipment:
        """The software itself."""
        return Equipment(model="Twin export (research use only)", serial=self.state[:16])


def export_rtdose(
    path: Path,
    dose: Volume,
    reference: ExportReference,
    *,
    quantity: Literal["AD", "BED"] = "AD",
    alpha_beta: str = "",
    what: str = "posterior mean",
) -> Path:
    """Write a dose map as RTDOSE: absorbed dose as GY/PHYSICAL, BED as GY/EFFECTIVE.

    Parameters
    ----------
    dose : Gy. NaN (BED where no alpha/beta is set) is written as 0, and the comment says so.
    alpha_beta : for BED, the alpha/beta behind it in words of at most 20 characters.
    what : for the absorbed dose, which value of it, in as few words.
    """
    if dose.unit != "Gy":
        raise UnitError(f"a dose export of a volume in {dose.unit}", expected="Gy")
    if quantity == "AD":
        comment = f"Absorbed dose, {what}. Research use only."
    else:
        comment = f"BED, 0 where undefined. a/b {alpha_beta or 'by region'}. Research use only."
    d = rtdose(
        np.nan_to_num(dose.array, nan=0.0) if quantity == "BED" else dose.array,
        dose.affine,
        reference.dicom_patient(),
        reference.study(),
        reference.series(f"dose {quantity}", 101 if quantity == "AD" else 102, f"{quantity} (research use only)"),
        reference.equipment(),
        derived_uid(reference.state, "dose", quantity),
        dose_type="PHYSICAL" if quantity == "AD" else "EFFECTIVE",
        comment=comment,
    )
    return _saved(d, path)


def export_seg(path: Path, labels: LabelVolume, ct_hu: Volume, reference: ExportReference) -> Path:
    """Write regions as SEG. It refers to the series of `export_ct`; `ct_hu` must lie on the grid of the labels."""
    _same_grid(ct_hu, labels.labels.shape, labels.affine)
    d = seg(
        labels,
        _ct(ct_hu, reference),
        reference.series("regions", 103, "Regions (research use only)"),
        reference.equipment(),
        reference.dicom_patient(),
        derived_uid(reference.state, "regions"),
        tracking_seed=reference.pid,
        description="Regions of the twin state. Research use only.",
    )
    return _saved(d, path)


def export_sd(path: Path, sd: Volume, ct_hu: Volume, reference: ExportReference) -> Path:
    """Write the SD of the absorbed dose (Gy) as a Parametric Map. It refers to the series of `export_ct`, on the same grid."""
    if sd.unit != "Gy":
        raise UnitError(f"an SD of a dose in {sd.unit}", expected="Gy")
    _same_grid(ct_hu, sd.array.shape, sd.affine)
    d = parametric_map(
        sd.array,
        _ct(ct_hu, reference),
        reference.series("dose SD", 105, "SD of absorbed dose (research use only)"),
        reference.equipment(),
        reference.dicom_patient(),
        derived_uid(reference.state, "dose SD"),
        label="SD_ABS_DOSE",
        explanation="Standard deviation of absorbed dose. Research use only.",
    )
    return _saved(d, path)


def export_nifti(path: Path, volume: Volume, what: str) -> Path:
    """Write a map as `.nii.gz`. `what` goes into the header, with the unit and "research use only"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, nifti_bytes(volume, f"{what}, {volume.unit}. Research use only."))
    return path


def export_maps(
    folder: Path, grid: xr.Dataset, reference: ExportReference, regions: Sequence[Region], *, with_ct: bool = False
) -> dict[str, Path]:
    """Write what a `dose.zarr` holds; see `export_state`. The same for a twin's state and for a dose without a twin."""
    affine, frame = grid_affine(grid), reference.frame_of_reference
    ct = Volume(grid["ct_hu"].values, affine, "HU", frame)
    dose = Volume(grid["dose_mean_gy"].values, affine, "Gy", frame)
    sd = Volume(grid["dose_sd_gy"].values, affine, "Gy", frame) if "dose_sd_gy" in grid else None
    paths = {
        "dose": export_rtdose(folder / "dose.dcm", dose, reference, what=str(grid.attrs.get("dose_is", "posterior mean"))),
        "dose_nifti": export_nifti(folder / "dose.nii.gz", dose, "Absorbed dose"),
    }
    if sd is not None:
        paths["sd"] = export_sd(folder / "dose_sd.dcm", sd, ct, reference)
        paths["sd_nifti"] = export_nifti(folder / "dose_sd.nii.gz", sd, "SD of absorbed dose")
    if "bed_mean_gy" in grid and np.isfinite(grid["bed_mean_gy"].values).any():
        bed = Volume(grid["bed_mean_gy"].values, affine, "Gy", frame)
        paths["bed"] = export_rtdose(folder / "bed.dcm", bed, reference, quantity="BED")
        paths["bed_nifti"] = export_nifti(folder / "bed.nii.gz", bed, "BED, NaN where undefined")
    labels = grid_labels(grid, regions)
    if labels.labels.any():
        paths["regions"] = export_seg(folder / "regions.dcm", labels, ct, reference)
    if with_ct:
        export_ct(folder / "ct", ct, reference)
        paths["ct"] = folder / "ct"
    return paths


def export_ct(folder: Path, ct_hu: Volume, reference: ExportReference) -> list[Path]:
    """Write the CT on the dose grid, one file per slice, as derived images."""
    return [_saved(d, folder / f"ct-{k:04d}.dcm") for k, d in enumerate(_ct(ct_hu, reference))]


def export_state(folder: Path, state: TwinState, grid: xr.Dataset, *, with_ct: bool = False) -> dict[str, Path]:
    """Write what a state's `dose.zarr` holds (see `docs/design/002`) as DICOM and NIfTI.

    Returns
    -------
    `dose` (dose.dcm), `sd` (dose_sd.dcm), `bed` (bed.dcm, when any BED is set), `regions` (regions.dcm, when any region is
    labelled), the maps as `dose_nifti`, `sd_nifti` and `bed_nifti` (dose.nii.gz, ...), and with `with_ct` the folder `ct`.
    The CT is left out unless asked for, since a head's surface is a face.
    """
    frame = str(grid.attrs["frame_of_reference"])
    reference = ExportReference(state.pid, state.id, state.cycle, frame, state.valid_time_h, state.patient.sex)
    return export_maps(folder, grid, reference, state.evidence.regions, with_ct=with_ct)


def grid_affine(grid: xr.Dataset) -> np.ndarray:
    """The affine of a `dose.zarr`. Raises StoreError where it is missing."""
    values = grid.attrs.get("affine")
    if values is None or len(values) != 16:
        raise StoreError("a dose grid without its affine", expected="16 numbers in the attribute `affine`", kind="store.schema")
    return np.asarray(values, float).reshape(4, 4)


def grid_labels(grid: xr.Dataset, regions: Sequence[Region]) -> LabelVolume:
    """The regions of a `dose.zarr` with the codes of the evidence.

    Regions that the evidence does not list (such as `rest`, the remainder of the body) have no code and are left out.
    """
    names = grid.attrs["regions"]
    names = json.loads(names) if isinstance(names, str) else list(names)
    known = {r.name: r for r in regions}
    kept = [n for n in names if n in known]
    new = np.zeros(len(names) + 1, np.int16)
    for n, name in enumerate(names, start=1):
        new[n] = kept.index(name) + 1 if name in known else 0
    labels = new[grid["label"].values]
    return LabelVolume(labels, grid_affine(grid), str(grid.attrs["frame_of_reference"]), tuple(known[n] for n in kept))


def _same_grid(ct_hu: Volume, shape: tuple[int, ...], affine: np.ndarray) -> None:
    if ct_hu.array.shape != shape or not np.allclose(ct_hu.affine, affine, atol=1e-4):
        raise GeometryError("the CT does not lie on the grid of what is exported", expected="one grid", kind="geometry.grid")


def _saved(d: Dataset, path: Path) -> Path:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, encode(d))
    return path


def _ct(ct_hu: Volume, reference: ExportReference) -> list[Dataset]:
    series = reference.series("ct", 104, "CT on the dose grid (research use only)")
    return list(
        ct_series(
            ct_hu.array,
            ct_hu.affine,
            reference.dicom_patient(),
            reference.study(),
            series,
            reference.equipment(),
            kvp="",
            derived=True,
        )
    )
