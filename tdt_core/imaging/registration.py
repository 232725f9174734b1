"""Rigid registration of the CTs of two bed times, carried to the SPECT through the shared frame of reference.

Mattes mutual information on three levels, one thread and a fixed seed, so that the same pair gives the same transform. This is
the only module that touches SimpleITK, and it imports it when it is called.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tdt_core.errors import GeometryError
from tdt_core.imaging.masks import body_outline
from tdt_core.imaging.resampling import RigidTransform, resample
from tdt_core.imaging.volume import Volume
from tdt_core.parameters import packaged_table

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_HU_WINDOW = (-300.0, 500.0)
"""Values are clipped to it: metal and couch must not own the histogram."""
_LEVELS = ((4, 2.0, 0.20, 4.0), (2, 1.0, 0.10, 2.0), (1, 0.0, 0.05, 0.8))
"""Shrink factor, smoothing (voxels), sampled share, first step (mm) of each level."""
FEWEST_VOXELS = 8
"""Along each axis: images are smoothed and shrunk before they are compared."""
_MARGIN_MM = 12.0
"""Voxels that map closer than this to the end of the moving field of view are not sampled."""


def register(
    fixed: Volume,
    moving: Volume,
    fixed_body: BoolArray | None = None,
    moving_body: BoolArray | None = None,
    seed: int = 1,
) -> RigidTransform:
    """Rigid transform of points of `fixed`'s frame to points of `moving`'s frame.

    Parameters
    ----------
    fixed, moving : CTs, HU; grids may differ and may run in any direction.
    fixed_body, moving_body : body masks on those grids; computed where absent. Voxels are sampled inside the fixed body, a
        little widened, so that the couch does not take part.
    seed : of the voxel sampling.

    Returns
    -------
    RigidTransform with the metric (negative mutual information), the shift of the body's centre, the angle, and a residual:
    how far points of the body move between two optima found with different samples, with a floor
    (`registration.residual_floor`) for what sampling cannot show.

    Raises
    ------
    GeometryError
        `geometry.too_few_voxels` for fewer than `FEWEST_VOXELS` along an axis; `registration.failed` when the outlines do not
        overlap afterwards or the shift is beyond any bed time.
    """
    for volume in (fixed, moving):
        if min(volume.array.shape) < FEWEST_VOXELS:
            raise GeometryError(
                f"a CT of {' x '.join(str(n) for n in volume.array.shape)} voxels",
                expected=f"at least {FEWEST_VOXELS} along every axis, to register it with another bed time",
                remedy="send the whole CT series",
                kind="geometry.too_few_voxels",
            )
    fixed_body = body_outline(fixed) if fixed_body is None else fixed_body
    moving_body = body_outline(moving) if moving_body is None else moving_body
    centre = _centre(fixed, fixed_body)
    start = np.zeros(6)
    start[3:] = _centre(moving, moving_body) - centre
    target, source = _oriented(fixed, fixed_body), _oriented(moving, moving_body)
    candidates = [np.zeros(6), start]
    first = min(candidates, key=lambda x: _evaluate(target, source, x, centre, seed))
    best, metric = _optimise(target, source, first, centre, _LEVELS, seed)
    again, _ = _optimise(target, source, best, centre, _LEVELS[-1:], seed + 1)
    matrix = _matrix(best, centre)
    spread = _spread(fixed, fixed_body, matrix, _matrix(again, centre))
    floor = packaged_table("imaging_parameters.csv").value("registration.residual_floor")
    angle = np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1)))
    shift = float(np.linalg.norm((matrix @ np.append(centre, 1.0))[:3] - centre))
    out = RigidTransform(
        matrix,
        fixed.frame_of_reference,
        moving.frame_of_reference,
        metric,
        shift,
        float(angle),
        float(np.hypot(spread, floor)),
    )
    _check(out, fixed, moving, fixed_body, moving_body)
    return out


def _centre(volume: Volume, mask: BoolArray) -> FloatArray:
    """Centre of mass of a mask, LPS mm."""
    centre = [float(np.average(np.arange(n), weights=mask.sum(axis=tuple({0, 1, 2} - {a})))) for a, n in enumerate(mask.shape)]
    out: FloatArray = (volume.affine @ np.append(centre, 1.0))[:3]
    return out


def _oriented(volume: Volume, body: BoolArray) -> tuple[Any, Any]:
    """SimpleITK images of the clipped CT and of the widened body mask, cropped to the body, right-handed."""
    import SimpleITK as sitk

    spacing = volume.spacing_mm
    near = ndimage.binary_dilation(body, iterations=max(1, round(8.0 / min(spacing))))
    box = ndimage.find_objects(near.astype(np.int8))[0]
    affine = volume.affine.copy()
    affine[:3, 3] = (affine @ np.array([*(s.start for s in box), 1.0]))[:3]
    array = np.clip(volume.array[box], *_HU_WINDOW).astype(np.float32)
    # outside the body air, so that couch and clothing are the same in both
    array[~near[box]] = _HU_WINDOW[0]
    mask = near[box].astype(np.uint8)
    if np.linalg.det(affine[:3, 2::-1]) < 0:
        affine[:3, 3] += affine[:3, 0] * (array.shape[0] - 1)
        affine[:3, 0] *= -1
        array, mask = array[::-1], mask[::-1]
    images = []
    for a in (array, mask):
        image = sitk.GetImageFromArray(np.ascontiguousarray(a))
        image.SetSpacing([float(s) for s in spacing[::-1]])
        image.SetDirection((affine[:3, 2::-1] / np.array(spacing[::-1])).ravel().tolist())
        image.SetOrigin(affine[:3, 3].tolist())
        images.append(image)
    return images[0], images[1]


def _seen_by_both(target: tuple[Any, Any], source: tuple[Any, Any], at: FloatArray, centre: FloatArray) -> Any:
    """The fixed mask without the voxels that fall near or beyond the moving field of view under the current estimate.

    Mutual information rises when slices that say little leave the overlap: with a body that both fields of view cut off, the
    optimum is then millimetres away from the truth. A fixed set of voxels has no such pull.
    """
    import SimpleITK as sitk

    fixed, moving = target[0], source[0]
    size = np.array(moving.GetSize())
    to_point = np.array(fixed.GetDirection()).reshape(3, 3) * np.array(fixed.GetSpacing())
    to_index = np.linalg.inv(np.array(moving.GetDirection()).reshape(3, 3) * np.array(moving.GetSpacing()))
    matrix = _matrix(at, centre)
    linear = to_index @ matrix[:3, :3] @ to_point
    origin = matrix[:3, :3] @ np.array(fixed.GetOrigin()) + matrix[:3, 3] - np.array(moving.GetOrigin())
    start = to_index @ origin
    mask = sitk.GetArrayFromImage(target[1])
    k, j, i = np.ogrid[tuple(slice(0, n) for n in mask.shape)]
    for axis in range(3):
        mapped = start[axis] + linear[axis, 0] * i + linear[axis, 1] * j + linear[axis, 2] * k
        margin = _MARGIN_MM / moving.GetSpacing()[axis]
        mask = mask & (mapped >= margin) & (mapped <= size[axis] - 1 - margin)
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.CopyInformation(fixed)
    return target[1] if not mask.any() else image


def _method(mask: Any, levels: tuple[tuple[int, float, float, float], ...], seed: int) -> Any:
    """A registration method on one thread, with the metric and the levels set."""
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel([share for _, _, share, _ in levels], seed)
    method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel([shrink for shrink, _, _, _ in levels])
    method.SetSmoothingSigmasPerLevel([smooth for _, smooth, _, _ in levels])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    return method


def _transform(parameters: FloatArray, centre: FloatArray) -> Any:
    import SimpleITK as sitk

    out = sitk.Euler3DTransform()
    out.SetCenter(centre.tolist())
    out.SetParameters(parameters.tolist())
    return out


def _evaluate(target: tuple[Any, Any], source: tuple[Any, Any], at: FloatArray, centre: FloatArray, seed: int) -> float:
    """Metric on the coarsest level without optimisation."""
    import SimpleITK as sitk

    shrink = _LEVELS[0][0]
    small = [sitk.Shrink(image, [min(shrink, n) for n in image.GetSize()]) for image in (*target, source[0])]
    method = _method(small[1], ((1, 0.0, 1.0, 1.0),), seed)
    method.SetInitialTransform(_transform(at, centre), inPlace=False)
    return float(method.MetricEvaluate(small[0], small[2]))


def _optimise(
    target: tuple[Any, Any],
    source: tuple[Any, Any],
    start: FloatArray,
    centre: FloatArray,
    levels: tuple[tuple[int, float, float, float], ...],
    seed: int,
) -> tuple[FloatArray, float]:
    """Parameters (three angles in rad, three shifts in mm) at the optimum, and the metric there."""
    parameters, metric = start, 0.0
    for level in levels:
        method = _method(_seen_by_both(target, source, parameters, centre), (level,), seed)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=level[3],
            minStep=0.02 * level[3],
            numberOfIterations=40,
            relaxationFactor=0.6,
            gradientMagnitudeTolerance=1e-6,
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(_transform(parameters, centre), inPlace=False)
        found = method.Execute(target[0], source[0])
        parameters = np.array(found.Downcast().GetParameters() if hasattr(found, "Downcast") else found.GetParameters())
        metric = float(method.GetMetricValue())
    return parameters, metric


def _matrix(parameters: FloatArray, centre: FloatArray) -> FloatArray:
    """(4, 4) of the Euler transform about `centre`."""
    transform = _transform(parameters, centre)
    out = np.eye(4)
    out[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    out[:3, 3] = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    return out


def _spread(fixed: Volume, body: BoolArray, one: FloatArray, other: FloatArray) -> float:
    """Root mean square distance per axis between two transforms over the body, divided by sqrt 2 for one of them, mm."""
    index = np.argwhere(body[::4, ::4, ::4]) * 4
    points = np.c_[index, np.ones(len(index))] @ fixed.affine.T
    distance = points @ (one - other).T
    return float(np.sqrt((distance[:, :3] ** 2).mean() / 2))


def _check(transform: RigidTransform, fixed: Volume, moving: Volume, fixed_body: BoolArray, moving_body: BoolArray) -> None:
    """Refuse a transform that cannot be meant. Compared where both fields of view reach."""
    p = packaged_table("imaging_parameters.csv")
    coarse = fixed.affine.copy()
    coarse[:3, :3] *= 2
    grid = Volume(np.zeros([(n + 1) // 2 for n in fixed_body.shape], np.float32), coarse, "1", fixed.frame_of_reference)
    here = fixed_body[::2, ::2, ::2]
    moved = resample(moving.replace(moving_body, "1"), grid, transform, "nearest").array
    seen = resample(moving.replace(np.ones(moving_body.shape, bool), "1"), grid, transform, "nearest").array
    both = float((moved & here & seen).sum())
    overlap = 2 * both / max(float((moved & seen).sum() + (here & seen).sum()), 1.0)
    if transform.shift_mm > p.value("registration.largest_shift") or overlap < p.value("registration.smallest_overlap"):
        raise GeometryError(
            f"registration ends with a shift of {transform.shift_mm:.0f} mm and an overlap of the bodies of {overlap:.2f}",
            expected=f"at most {p.value('registration.largest_shift'):.0f} mm and at least "
            f"{p.value('registration.smallest_overlap'):.2f}",
            remedy="check that both CTs show the same patient and bed position",
            kind="registration.failed",
        )
