"""Parametric maps: volumes of 32-bit floating point numbers with a unit, for what no other object holds (the SD of a dose).

highdicom builds the object; its wall-clock fields are replaced, so that the same input gives the same bytes. PS3.3 C.8.32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from storage.dicom.uids import derived_uid
from storage.dicom.write_common import (
    DicomPatient,
    DicomSeries,
    Equipment,
    date_of,
    datetime_of,
    fix_dimension_uid,
    set_patient,
    time_of,
    zone_of,
)
from tdt_core.errors import GeometryError, InputError

ABSORBED_DOSE = Code("128513", "DCM", "Absorbed Radiation Dose")
STANDARD_DEVIATION = Code("386136009", "SCT", "Standard Deviation")
GRAY = Code("Gy", "UCUM", "Gray")


def parametric_map(
    values: npt.NDArray[Any],
    source: Sequence[Dataset],
    series: DicomSeries,
    equipment: Equipment,
    patient: DicomPatient,
    sop_uid: str,
    *,
    label: str,
    explanation: str,
    quantity: Code = ABSORBED_DOSE,
    unit: Code = GRAY,
) -> Dataset:
    """A Parametric Map data set.

    Parameters
    ----------
    values : (z, y, x) finite numbers in `unit`, on the grid of `source`; written as float32.
    source : the CT data sets of the series that it lies on, one per slice along the first axis.
    label, explanation : what the numbers are, at most 16 and 64 characters.
    quantity : the measured quantity as a code.

    Raises
    ------
    GeometryError when the values do not fit the source series; InputError for values that are not finite.
    """
    if len(source) != values.shape[0] or (source[0].Rows, source[0].Columns) != values.shape[1:]:
        raise GeometryError(
            f"a map of shape {values.shape} on a series of {len(source)} x {source[0].Rows} x {source[0].Columns}",
            expected="a map on the grid of the source series",
            kind="geometry.grid",
        )
    array = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(array).all():
        raise InputError("a parametric map with values that are not finite", expected="finite numbers", kind="input.values")
    low, high = float(array.min()), float(array.max())
    mapping = hd.pm.RealWorldValueMapping(
        lut_label=label[:16],
        lut_explanation=explanation[:64],
        unit=unit,
        value_range=(low, high),
        slope=1.0,
        intercept=0.0,
        quantity_definition=quantity,
    )
    d: Dataset = hd.pm.ParametricMap(
        source_images=list(source),
        pixel_array=array,
        series_instance_uid=series.uid,
        series_number=series.number,
        sop_instance_uid=sop_uid,
        instance_number=1,
        manufacturer=equipment.manufacturer,
        manufacturer_model_name=equipment.model,
        software_versions=equipment.software,
        device_serial_number=equipment.serial,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        # LINEAR_EXACT, since a window of LINEAR may not be narrower than 1
        voi_lut_transformations=[
            hd.VOILUTTransformation(
                window_center=(low + high) / 2, window_width=max(high - low, 1e-6), voi_lut_function="LINEAR_EXACT"
            )
        ],
        content_label=label.upper().replace(" ", "_")[:16],
        content_description=explanation[:64],
        series_description=series.description or None,
    )
    d = Dataset(d)  # a plain data set from here on
    set_patient(d, patient)
    d.BodyPartExamined = "WHOLEBODY"  # unpaired, so Laterality is absent
    d.SeriesDate = d.ContentDate = d.InstanceCreationDate = date_of(series.at)
    d.SeriesTime = d.ContentTime = d.InstanceCreationTime = time_of(series.at)
    d.TimezoneOffsetFromUTC = zone_of(series.at)
    for item in d.get("ContributingEquipmentSequence", ()):
        item.ContributionDateTime = datetime_of(series.at)
    fix_dimension_uid(d, derived_uid(sop_uid, "dimensions"))
    return d
