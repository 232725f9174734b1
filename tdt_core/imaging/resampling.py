"""Moving volumes and labels between grids: affine to affine through a rigid transform, never index to index.

A transform maps points of its fixed frame to points of its moving frame (LPS mm). A concentration (MBq/mL), HU or density is
carried as it is; a rigid motion changes no volume, so activity is conserved up to interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tdt_core.errors import GeometryError
from tdt_core.imaging.volume import LabelVolume, Volume
from tdt_core.parameters import packaged_table

FloatArray = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class RigidTransform:
    """A rigid motion, as data.

    Attributes
    ----------
    matrix : (4, 4), point in `fixed_frame` -> point in `moving_frame`, LPS mm; orthonormal, determinant +1.
    fixed_frame, moving_frame : frames of reference.
    metric : value of the similarity at the optimum (0 for a transform that was not estimated).
    shift_mm : displacement of the centre of rotation. rotation_deg : total angle.
    residual_mm : estimated residual error inside the body, 1 sigma along one axis.
    """

    matrix: FloatArray
    fixed_frame: str
    moving_frame: str
    metric: float = 0.0
    shift_mm: float = 0.0
    rotation_deg: float = 0.0
    residual_mm: float = 0.0

    def __post_init__(self) -> None:
        m = self.matrix
        if m.shape != (4, 4) or not np.isfinite(m).all():
            raise GeometryError("a transform that is not a finite 4 x 4 matrix")
        r = m[:3, :3]
        if not np.allclose(r @ r.T, np.eye(3), atol=1e-6) or np.linalg.det(r) < 0 or not np.allclose(m[3], (0, 0, 0, 1)):
            raise GeometryError("a transform that is not rigid", expected="a rotation and a shift", kind="geometry.rigid")

    @property
    def inverse(self) -> RigidTransform:
        """The way back."""
        r, t = self.matrix[:3, :3].T, self.matrix[:3, 3]
        m = np.eye(4)
        m[:3, :3], m[:3, 3] = r, -r @ t
        return RigidTransform(
            m, self.moving_frame, self.fixed_frame, self.metric, self.shift_mm, self.rotation_deg, self.residual_mm
        )


def identity_transform(fixed_frame: str, moving_frame: str) -> RigidTransform:
    """No motion between two frames."""
    return RigidTransform(np.eye(4), fixed_frame, moving_frame)


def index_map(source: FloatArray, onto: FloatArray, transform: RigidTransform | None = None) -> FloatArray:
    """(4, 4) voxel index of the grid `onto` -> voxel index of the grid `source`; both arguments are affines."""
    matrix = np.eye(4) if transform is None else transform.matrix
    out = np.asarray(np.linalg.solve(source, matrix @ onto), np.float64)
    nearest = np.round(out)
    close = np.abs(out - nearest) < 1e-9
    out[close] = nearest[close]
    return out


def sample(array: npt.NDArray[Any], mapping: FloatArray, shape: tuple[int, ...], order: int, fill: float) -> npt.NDArray[Any]:
    """Interpolate `array` at mapped indices. A grid that only shifts and scales takes the separable path."""
    if np.array_equal(mapping, np.eye(4)) and array.shape == shape:
        return array.copy()
    linear = mapping[:3, :3]
    diagonal = np.diag(linear)
    scaled = np.array_equal(linear, np.diag(diagonal)) and (diagonal != 0).all()
    return ndimage.affine_transform(
        array,
        diagonal if scaled else linear,
        offset=mapping[:3, 3],
        output_shape=shape,
        order=order,
        mode="constant" if order == 0 else "grid-constant",
        cval=fill,
        output=array.dtype,
        prefilter=False,
    )


def resample(
    volume: Volume,
    onto: Volume | LabelVolume,
    transform: RigidTransform | None = None,
    interpolation: Literal["linear", "nearest", "spline"] = "linear",
    fill: float = 0.0,
) -> Volume:
    """A volume on another grid.

    Parameters
    ----------
    volume : what to move, in the transform's moving frame.
    onto : its grid and frame of reference are taken.
    transform : points of `onto`'s frame -> points of `volume`'s frame; None where both share one frame.
    interpolation : linear for values, nearest for codes, spline for images whose resolution and noise matter (linear
        interpolation widens a SPECT of 9 mm FWHM on voxels of 8 mm to 12 mm): cubic; where a volume without negative values
        would become negative it is cut, and the sum is kept.
    fill : value outside the volume (0 for activity, -1000 for HU).

    Returns
    -------
    Volume, float32 but for nearest. Where the target grid is coarser, each value is the mean over the target voxel, so that
    activity is kept; the same grid without motion is returned unchanged.

    Raises
    ------
    GeometryError when the frames do not fit the transform.
    """
    if transform is None and volume.frame_of_reference != onto.frame_of_reference:
        raise GeometryError(
            "two volumes of different frames of reference without a transform",
            remedy="register them first",
            kind="geometry.frame",
        )
    if transform is not None and (transform.fixed_frame, transform.moving_frame) != (
        onto.frame_of_reference,
        volume.frame_of_reference,
    ):
        raise GeometryError("the transform joins other frames of reference than these volumes", kind="geometry.frame")
    shape = onto.labels.shape if isinstance(onto, LabelVolume) else onto.array.shape
    mapping = index_map(volume.affine, onto.affine, transform)
    if interpolation == "nearest":
        array = sample(volume.array, mapping, shape, 0, fill)
    else:
        array = _averaged(np.asarray(volume.array, np.float32), mapping, shape, 1 if interpolation == "linear" else 3, fill)
    return Volume(array, onto.affine, volume.unit, onto.frame_of_reference)


def _averaged(array: Float32, mapping: FloatArray, shape: tuple[int, ...], order: int, fill: float) -> Float32:
    """Interpolation by a spline of that order; the mean over sub-voxels where the target voxel spans over 1.5 source voxels."""
    if np.array_equal(mapping, np.eye(4)) and array.shape == shape:
        return array.copy()
    parts = np.clip(np.ceil(np.abs(mapping[:3, :3]).max(axis=0) - 0.5), 1, 6).astype(int)
    # coefficients of the interpolating spline about `fill`, which the volume is taken to be beyond its edge
    knots = array if order == 1 else ndimage.spline_filter(array - np.float32(fill), order, np.float32) + np.float32(fill)
    total = np.zeros(shape, np.float32)
    for offset in sub_voxels(parts):
        shifted = mapping.copy()
        shifted[:3, 3] += mapping[:3, :3] @ offset
        total += sample(knots, shifted, shape, order, fill)
    total /= np.float32(parts.prod())
    if order == 1 or array.min() < 0:
        return total
    cut = np.maximum(total, np.float32(0))
    kept = float(cut.sum(dtype=np.float64))
    return cut * np.float32(float(total.sum(dtype=np.float64)) / kept) if kept > 0 else cut


def sub_voxels(parts: npt.NDArray[np.int_]) -> FloatArray:
    """(n, 3) centres of the sub-voxels of a unit voxel about its centre; `parts` per axis."""
    axes = [(np.arange(n) + 0.5) / n - 0.5 for n in parts]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def labels_onto(labels: LabelVolume, onto: Volume, transform: RigidTransform | None = None) -> LabelVolume:
    """Labels on another grid by nearest neighbour; arguments as for `resample`."""
    moved = resample(
        Volume(labels.labels, labels.affine, "1", labels.frame_of_reference), onto, transform, interpolation="nearest"
    )
    return LabelVolume(moved.array.astype(np.int16), onto.affine, onto.frame_of_reference, labels.regions)


@dataclass(frozen=True, eq=False)
class FractionMask:
    """The share of each voxel that one region fills, cropped to a box of the full grid."""

    box: Box
    values: Float32

    @property
    def voxels(self) -> float:
        """Volume in voxels."""
        return float(self.values.sum(dtype=np.float64))

    def full(self, shape: tuple[int, ...]) -> Float32:
        """On the whole grid."""
        out = np.zeros(shape, np.float32)
        out[self.box] = self.values
        return out


def soft_edge(mask: npt.NDArray[Any], resampled: bool = False) -> Float32:
    """Expected share of each voxel that an object fills, given which voxels were labelled as its own.

    A label says that a voxel is more than half full, not that it is full; taken as full, recovery coefficients come out too
    large (10 % for a 10 mL region on 7 mm voxels). The kernel (a, 1 - 2a, a) along each axis hands the share a over the surface
    (`labels.edge_share`, calibrated on spheres). Where the result is then averaged over the voxels of another grid
    (`resampled`), that average blurs too, and a is smaller (`labels.edge_share_resampled`). Sums are kept where the object does
    not touch the array's border.
    """
    name = "labels.edge_share_resampled" if resampled else "labels.edge_share"
    a = packaged_table("imaging_parameters.csv").value(name)
    out = np.asarray(mask, np.float32)
    for axis in range(3):
        out = ndimage.correlate1d(out, np.array([a, 1 - 2 * a, a], np.float32), axis=axis, mode="constant")
    return out


def fractions_on(
    labels: LabelVolume, onto: Volume, transform: RigidTransform | None = None, soften: bool = True, finest: int = 4
) -> dict[str, FractionMask]:
    """Region -> the share of each voxel of `onto` that it fills, from its labels at sub-voxel points.

    The share is what a voxel value averages over, so no interpolation blur is added to the region. `transform` maps points of
    `onto`'s frame to the labels' frame; `soften` gives labelled voxels the expected shares of `soft_edge`. Regions without a
    voxel are left out.
    """
    mapping = index_map(labels.affine, onto.affine, transform)
    shape = onto.array.shape
    same = np.array_equal(mapping, np.eye(4)) and labels.labels.shape == shape
    # the same voxels, perhaps with other axes: no average over parts of voxels is needed
    aligned = np.array_equal(mapping, np.round(mapping)) and np.abs(mapping[:3, :3]).sum() == 3
    spans = np.ceil(2 * np.linalg.norm(mapping[:3, :3], axis=0) - 0.01)
    parts = np.ones(3, int) if aligned else np.clip(spans, 1, finest).astype(int)
    out: dict[str, FractionMask] = {}
    back = np.asarray(np.linalg.inv(mapping), np.float64)
    boxes = ndimage.find_objects(labels.labels, max_label=len(labels.regions))
    for n, (region, found) in enumerate(zip(labels.regions, boxes, strict=True), start=1):
        if found is None:
            continue
        source = grown(found, (2, 2, 2), labels.labels.shape)
        values = (labels.labels[source] == n).astype(np.float32)
        if soften:
            values = soft_edge(values, resampled=not aligned)
        if same:
            out[region.name] = FractionMask(source, values)
            continue
        box = mapped_box(source, back, shape)
        if box is not None:
            out[region.name] = FractionMask(box, _fractions(values, source, mapping, box, parts))
    return {name: mask for name, mask in out.items() if mask.voxels > 0}


def grown(box: Box, margin: tuple[int, int, int], shape: tuple[int, ...]) -> Box:
    """A box widened by whole voxels, kept inside the grid."""
    a, b, c = (slice(max(s.start - m, 0), min(s.stop + m, n)) for s, m, n in zip(box, margin, shape, strict=True))
    return (a, b, c)


def _fractions(values: Float32, source: Box, mapping: FloatArray, box: Box, parts: npt.NDArray[np.int_]) -> Float32:
    """Mean over the sub-voxel points of each voxel of `box` of the nearest value; `values` stand on the box `source`."""
    start = np.array([s.start for s in box], float)
    origin = np.array([s.start for s in source], float)
    out = np.zeros(tuple(s.stop - s.start for s in box), np.float32)
    for offset in sub_voxels(parts):
        local = mapping.copy()
        local[:3, 3] = mapping[:3, :3] @ (start + offset) + mapping[:3, 3] - origin
        out += sample(values, local, out.shape, 0, 0.0)
    out /= np.float32(parts.prod())
    return out


def mapped_box(box: Box, to_target: FloatArray, shape: tuple[int, ...]) -> Box | None:
    """Box of the target grid that holds a source box; None where they do not meet."""
    corners = np.array(np.meshgrid(*[(s.start - 0.5, s.stop - 0.5) for s in box], indexing="ij")).reshape(3, -1)
    mapped = to_target[:3, :3] @ corners + to_target[:3, 3:]
    low = np.maximum(np.floor(mapped.min(axis=1)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(mapped.max(axis=1)).astype(int) + 2, shape)
    if (high <= low).any():
        return None
    return (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
