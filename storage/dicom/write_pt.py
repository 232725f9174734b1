"""PET series in BQML: one file per slice, a rescale slope per slice, values corrected to the start of the series.

PS3.3 C.8.9. A scanner slope per slice uses all 15 bits in every slice, as real PET series do; a reader that takes the first
slope for all slices gets wrong values, which is why the phantom has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
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
    ds,
    grid_of,
    new_dataset,
    printed,
    radiopharmaceutical,
    set_pixels,
    set_plane,
    set_supine_head_first,
)
from tdt_core.errors import InputError

PT_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.128"
_MAX_STORED = 32767


@dataclass(frozen=True)
class PetAcquisition:
    """How a PET was taken. `injected_mbq` is at `injection_start`; it is written in Bq."""

    duration_s: float
    nuclide: str
    half_life_s: float
    product: str
    injected_mbq: float
    injection_start: datetime
    reconstruction: str = "OSEM-TOF-PSF"


def pt_series(
    bq_per_ml: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
    acquisition: PetAcquisition,
    patient: DicomPatient,
    study: DicomStudy,
    series: DicomSeries,
    equipment: Equipment,
) -> Iterator[Dataset]:
    """PT data sets, one per slice.

    Parameters
    ----------
    bq_per_ml : (z, y, x) activity concentration, decay corrected to the start of the acquisition (`series.at`).
    affine : (4, 4) voxel indices (k, j, i, 1) to LPS mm.
    """
    if bq_per_ml.ndim != 3 or not np.isfinite(bq_per_ml).all() or bq_per_ml.min() < 0:
        raise InputError("PET values are not a finite, non-negative volume", expected="Bq/mL", kind="input.values")
    grid = grid_of(affine)
    decay = math.log(2) / acquisition.half_life_s * acquisition.duration_s
    factor = decay / -math.expm1(-decay)
    reference_ms = math.log(factor) / decay * acquisition.duration_s * 1000
    for k, plane in enumerate(bq_per_ml):
        d = new_dataset(PT_SOP_CLASS, derived_uid(series.uid, "slice", k), "PT", patient, study, series, equipment)
        d.ImageType = ["ORIGINAL", "PRIMARY"]
        d.InstanceNumber, d.ImageIndex = k + 1, k + 1
        d.AcquisitionDate, d.AcquisitionTime = d.SeriesDate, d.SeriesTime
        _series_module(d, bq_per_ml.shape[0], acquisition)
        d.FrameReferenceTime = ds(round(reference_ms, 3))
        d.ActualFrameDuration = round(acquisition.duration_s * 1000)
        d.DecayFactor = ds(factor)
        set_plane(d, grid, k)
        slope = printed(max(float(plane.max()), 1e-3) / _MAX_STORED)
        set_pixels(d, np.minimum(np.rint(plane / slope), _MAX_STORED).astype(np.int16))
        d.RescaleIntercept, d.RescaleSlope = "0", ds(slope)
        yield d


def _series_module(d: Dataset, n: int, acquisition: PetAcquisition) -> None:
    d.Units = "BQML"
    d.CountsSource = "EMISSION"
    d.SeriesType = ["STATIC", "IMAGE"]
    d.NumberOfSlices = n
    d.CorrectedImage = ["DECY", "ATTN", "SCAT", "DTIM", "RAN", "NORM"]
    d.DecayCorrection = "START"
    d.CollimatorType = "NONE"
    d.ReconstructionMethod = acquisition.reconstruction
    d.AttenuationCorrectionMethod = "CT"
    d.ScatterCorrectionMethod = "Model"
    d.RandomsCorrectionMethod = "DLYD"
    set_supine_head_first(d)
    d.LossyImageCompression = "00"
    d.RadiopharmaceuticalInformationSequence = [
        radiopharmaceutical(
            acquisition.product,
            acquisition.nuclide,
            acquisition.injection_start,
            acquisition.injected_mbq * 1e6,  # Bq in PT
            acquisition.half_life_s,
        )
    ]
