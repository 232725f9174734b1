"""Whether the fields of CT and scan hold what is measured in them. Geometry only: cheap enough for `tdt check`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tdt_core.errors import GeometryError, InputError
from tdt_core.imaging.resampling import RigidTransform, resample
from tdt_core.imaging.volume import LabelVolume, Volume
from tdt_core.parameters import packaged_table

BoolArray = npt.NDArray[np.bool_]


def check_coverage(ct: Volume, scan: Volume, transform: RigidTransform | None = None) -> None:
    """Refuse a CT that leaves out activity of a scan, whose medium and attenuation would then be guessed.

    Parameters
    ----------
    ct, scan : the CT, and activity (MBq/mL) in the same frame, or with a transform of scan points to CT points.

    Raises GeometryError (`geometry.ct_coverage`) when more than `ct.uncovered_share` of the activity lies outside the CT.
    """
    seen = _seen(ct, scan, transform)
    total = float(scan.array.sum(dtype=np.float64))
    if total <= 0 or seen.all():
        return
    outside = float(scan.array[~seen].sum(dtype=np.float64)) / total
    if outside > _most():
        raise GeometryError(
            f"{outside:.0%} of the activity of a scan lies outside its CT",
            expected=f"at most {_most():.0%}",
            remedy="send the CT that covers the whole SPECT bed, or crop the SPECT to it",
            kind="geometry.ct_coverage",
        )


def check_regions(labels: LabelVolume, ct: Volume, scans: Sequence[Volume] = ()) -> None:
    """Refuse regions that CT or scan do not show: mass and dose, or activity, would be those of air or of nothing.

    Parameters
    ----------
    labels, ct, scans : all in one frame of reference; `scans` are those that the regions are read on without registration.

    Raises
    ------
    GeometryError `geometry.ct_coverage` : more than `ct.uncovered_share` of a region lies outside the CT.
    InputError `input.mask` : a region lies wholly outside a scan.
    """
    for name, share in _outside(labels, ct).items():
        if share > _most():
            raise GeometryError(
                f"{share:.0%} of {name} lies outside the CT",
                expected=f"at most {_most():.0%} of a region",
                remedy="send the CT that covers all regions, or leave out those that it does not show",
                kind="geometry.ct_coverage",
            )
    for scan in scans:
        missing = [name for name, share in _outside(labels, scan).items() if share == 1]
        if missing:
            raise InputError(
                f"{', '.join(missing)} cover no voxel of a scan that the regions are drawn on",
                expected="every region inside the scan's field of view",
                remedy="draw the regions, or leave out those that the scan does not show",
                kind="input.mask",
            )


def _most() -> float:
    return packaged_table("imaging_parameters.csv").value("ct.uncovered_share")


def _seen(field: Volume, onto: Volume | LabelVolume, transform: RigidTransform | None = None) -> BoolArray:
    """Voxels of `onto` whose centre lies among the voxel centres of `field`."""
    inside: BoolArray = resample(field.replace(np.ones(field.array.shape, bool), "1"), onto, transform, "nearest", 0.0).array
    return inside


def _outside(labels: LabelVolume, field: Volume) -> dict[str, float]:
    """Share of each drawn region that lies outside the field of a volume."""
    seen = _seen(field, labels)
    if seen.all():
        return {}
    many = len(labels.regions) + 1
    all_, out = (np.bincount(a.ravel(), minlength=many) for a in (labels.labels, labels.labels[~seen]))
    return {r.name: float(out[n] / all_[n]) for n, r in enumerate(labels.regions, start=1) if all_[n]}
