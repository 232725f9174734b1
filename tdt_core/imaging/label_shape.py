"""The smooth shape that labelled voxels stand for.

A label is a stack of whole voxels, the organ behind it is not. Where the response is wider than a voxel the difference is
blurred away (`resampling.soft_edge` is enough); where it is finer, the share of a voxel that an organ fills decides what the
voxel holds, and a label moved by nearly whole voxels would look sharper than one moved by half a voxel. Here the label is
smoothed by about half a voxel and cut at the level that keeps its volume; shares follow from that surface on any grid.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tdt_core.imaging.resampling import FractionMask, RigidTransform, grown, index_map, mapped_box, sample, sub_voxels
from tdt_core.imaging.volume import LabelVolume, Volume
from tdt_core.parameters import packaged_table

Float32 = npt.NDArray[np.float32]
PER_AXIS = 4
"""Points per voxel and axis at which a surface is read."""


def surface(label: npt.NDArray[np.bool_], sigma: float) -> tuple[Float32, float]:
    """A field and the level above which it holds the volume of `label`; `sigma` of the smoothing in voxels.

    `label` is False on its border.
    """
    field = ndimage.gaussian_filter(label.astype(np.float32), sigma, mode="constant")
    parts = sub_voxels(np.full(3, PER_AXIS))
    fine = [sample(field, np.column_stack([np.eye(3), offset]), label.shape, 1, 0.0) for offset in parts]
    values = np.stack(fine).ravel()
    keep = int(label.sum()) * len(parts)
    return field, float(np.partition(values, values.size - keep)[values.size - keep])


def shape_fractions(labels: LabelVolume, onto: Volume, transform: RigidTransform | None = None) -> dict[str, FractionMask]:
    """Region -> the share of each voxel of `onto` that its smooth shape fills; regions without a voxel are left out.

    `transform` maps points of `onto`'s frame to the labels' frame. Where shapes meet, shares of a voxel add to 1 at most.
    """
    sigma = packaged_table("imaging_parameters.csv").value("labels.shape_sigma")
    mapping = index_map(labels.affine, onto.affine, transform)
    back = np.asarray(np.linalg.inv(mapping), np.float64)
    shape = onto.array.shape
    total = np.zeros(shape, np.float32)
    out: dict[str, FractionMask] = {}
    parts = sub_voxels(np.full(3, PER_AXIS))
    boxes = ndimage.find_objects(labels.labels, max_label=len(labels.regions))
    for n, (region, found) in enumerate(zip(labels.regions, boxes, strict=True), start=1):
        if found is None:
            continue
        source = grown(found, (3, 3, 3), labels.labels.shape)
        box = mapped_box(source, back, shape)
        if box is None:
            continue
        inside = np.pad(labels.labels[source] == n, 1)
        field, level = surface(inside, sigma)
        start = np.array([s.start for s in box], float)
        origin = np.array([s.start - 1 for s in source], float)
        values = np.zeros([s.stop - s.start for s in box])
        for offset in parts:
            local = mapping[:3].copy()
            local[:, 3] += mapping[:3, :3] @ (start + offset) - origin
            values += sample(field, local, values.shape, 1, 0.0) >= level
        out[region.name] = FractionMask(box, np.asarray(values / len(parts), np.float32))
        total[box] += out[region.name].values
    shared = np.maximum(total, np.float32(1))
    return {
        name: FractionMask(m.box, np.asarray(m.values / shared[m.box], np.float32)) for name, m in out.items() if m.voxels > 0
    }
