"""CT series in HU: one file per slice, 16-bit signed pixels, RescaleIntercept -1024. PS3.3 C.8.2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from storage.dicom.uids import derived_uid
from storage.dicom.write_common import (
    DicomPatient,
    DicomSeries,
    DicomStudy,
    Equipment,
    grid_of,
    new_dataset,
    set_pixels,
    set_plane,
)
from tdt_core.errors import InputError

CT_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.2"
_INTERCEPT = -1024


def ct_series(
    hu: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
    patient: DicomPatient,
    study: DicomStudy,
    series: DicomSeries,
    equipment: Equipment,
    kvp: str = "120",
    derived: bool = False,
) -> Iterator[Dataset]:
    """CT data sets, one per slice, InstanceNumber from 1 along the first axis.

    Parameters
    ----------
    hu : (z, y, x) Hounsfield units; stored rounded to whole HU, between -1024 and 31743.
    affine : (4, 4) voxel indices (k, j, i, 1) to LPS mm.
    derived : whether the values were resampled or computed from another image.
    """
    if hu.ndim != 3 or not np.isfinite(hu).all():
        raise InputError("CT values are not a finite volume", expected="Hounsfield units", kind="input.values")
    grid = grid_of(affine)
    for k, plane in enumerate(hu):
        d = new_dataset(CT_SOP_CLASS, derived_uid(series.uid, "slice", k), "CT", patient, study, series, equipment)
        d.ImageType = ["DERIVED", "SECONDARY", "AXIAL"] if derived else ["ORIGINAL", "PRIMARY", "AXIAL"]
        d.InstanceNumber, d.AcquisitionNumber = k + 1, 1
        d.AcquisitionDate, d.AcquisitionTime = d.SeriesDate, d.SeriesTime
        d.PatientPosition = "HFS"
        d.KVP = kvp
        d.LossyImageCompression = "00"
        set_plane(d, grid, k)
        stored = np.clip(np.rint(plane), _INTERCEPT, 32767 + _INTERCEPT) - _INTERCEPT
        set_pixels(d, stored.astype(np.int16))
        d.RescaleIntercept, d.RescaleSlope, d.RescaleType = str(_INTERCEPT), "1", "HU"
        yield d
