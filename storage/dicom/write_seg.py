"""SEG objects of type BINARY from a label volume, with SNOMED codes, laterality as a modifier and tracking ids of lesions.

highdicom builds the object; its wall-clock fields are replaced, so that the same input gives the same bytes. Segment labels
are the product's own region names. PS3.3 C.8.20.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import cast

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts
from pydicom.sr.coding import Code

from storage.dicom.uids import derived_uid
from storage.dicom.write_common import (
    DicomPatient,
    DicomSeries,
    Equipment,
    code_item,
    date_of,
    datetime_of,
    fix_dimension_uid,
    set_patient,
    time_of,
    zone_of,
)
from tdt_core.errors import GeometryError, InputError
from tdt_core.imaging.volume import LabelVolume
from tdt_core.twin import Region

_ANATOMICAL = Code("123037004", "SCT", "Anatomical Structure")
_ALTERED = Code("49755003", "SCT", "Morphologically Altered Structure")
_LATERALITY = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}
# what SNOMED calls the codes that pydicom's dictionary lacks or words unclearly
_MEANINGS = {"14016003": "Bone marrow", "38266002": "Entire body", "52988006": "Lesion", "64033007": "Kidney"}


def seg(
    labels: LabelVolume,
    source: Sequence[Dataset],
    series: DicomSeries,
    equipment: Equipment,
    patient: DicomPatient,
    sop_uid: str,
    tracking_seed: str,
    description: str = "",
) -> Dataset:
    """A SEG data set.

    Parameters
    ----------
    labels : regions on the grid of `source`; label n is `regions[n - 1]`. Regions without a voxel are left out.
    source : the CT (or other single-frame) data sets of the series, one per slice along the first axis of the labels.
    tracking_seed : with the tracking id it names the lesion's tracking UID, which therefore persists over cycles.

    Raises
    ------
    GeometryError when the label volume does not fit the source series; InputError when no region has a voxel.
    """
    if len(source) != labels.labels.shape[0] or (source[0].Rows, source[0].Columns) != labels.labels.shape[1:]:
        raise GeometryError(
            f"labels of shape {labels.labels.shape} on a series of {len(source)} x {source[0].Rows} x {source[0].Columns}",
            expected="labels on the grid of the source series",
            remedy="resample the labels (nearest) to the source grid first",
            kind="geometry.grid",
        )
    present = [n for n in range(1, len(labels.regions) + 1) if (labels.labels == n).any()]
    if not present:
        raise InputError("a label volume without any labelled voxel", expected="at least one region", kind="input.mask")
    packed = np.zeros(len(labels.regions) + 1, np.uint16)
    packed[present] = np.arange(1, len(present) + 1)
    descriptions = [_describe(i, labels.regions[n - 1], tracking_seed) for i, n in enumerate(present, start=1)]
    d: Dataset = hd.seg.Segmentation(
        source_images=list(source),
        pixel_array=packed[labels.labels],
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=series.uid,
        series_number=series.number,
        sop_instance_uid=sop_uid,
        instance_number=1,
        manufacturer=equipment.manufacturer,
        manufacturer_model_name=equipment.model,
        software_versions=equipment.software,
        device_serial_number=equipment.serial,
        content_label="REGIONS",
        content_description=description or None,
        series_description=series.description or None,
    )
    d = Dataset(d)  # a plain data set from here on
    set_patient(d, patient)
    at_date, at_time = date_of(series.at), time_of(series.at)
    d.SeriesDate = d.ContentDate = d.InstanceCreationDate = at_date
    d.SeriesTime = d.ContentTime = d.InstanceCreationTime = at_time
    d.TimezoneOffsetFromUTC = zone_of(series.at)
    for item in d.ContributingEquipmentSequence:
        item.ContributionDateTime = datetime_of(series.at)
    fix_dimension_uid(d, derived_uid(sop_uid, "dimensions"))
    return d


def tracking_uid(tracking_seed: str, tracking_id: str) -> str:
    """The persistent UID of a lesion."""
    return derived_uid("tracking", tracking_seed, tracking_id)


def _describe(number: int, region: Region, tracking_seed: str) -> hd.seg.SegmentDescription:
    lesion = region.tracking_id is not None
    kind = Code("52988006", "SCT", "Lesion") if lesion else _coded(region.code)
    item = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=region.name,
        segmented_property_category=_ALTERED if lesion else _ANATOMICAL,
        segmented_property_type=kind,
        algorithm_type="MANUAL",
        tracking_id=region.tracking_id,
        tracking_uid=None if region.tracking_id is None else tracking_uid(tracking_seed, region.tracking_id),
    )
    if region.laterality != "none":
        value, meaning = _LATERALITY[region.laterality]
        modifier = code_item(value, "SCT", meaning)
        item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return item


def _coded(value: str) -> Code:
    meaning = _MEANINGS.get(value) or _meanings().get(value)
    if meaning is None:
        raise InputError(
            f"SNOMED code {value!r} of a region is unknown",
            expected="a code of DICOM's anatomy context groups",
            remedy="give the region a listed code",
            kind="input.region",
        )
    return Code(value, "SCT", meaning)


@cache
def _meanings() -> dict[str, str]:
    entries = cast("dict[str, dict[str, tuple[str, list[int]]]]", concepts["SCT"])
    return {code: entry[0] for by_code in entries.values() for code, entry in by_code.items()}
