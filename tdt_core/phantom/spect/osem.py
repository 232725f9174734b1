"""Ordered-subsets expectation maximisation (Hudson and Larkin, IEEE Trans Med Imaging 1994;13:601) with additive scatter.

One update per subset: x <- x / A'w * A'(w y / (w A x + s)), with A the projector that models attenuation and response, w the
share of the acquisition (decay included) and s the scatter estimate. An iteration costs one forward and one
backward projection.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tdt_core.errors import ModelError
from tdt_core.phantom.spect.projector import Mapper, Projector, from_columns

FloatArray = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
LEAST = 1e-6
"""Least expected count of a bin and least sensitivity of a voxel, relative to the mean: below it nothing is learnt there."""


def subsets(angles: int, count: int) -> list[list[int]]:
    """Interleaved angles, subsets ordered so that neighbours in time lie far apart in angle (steps of the golden ratio)."""
    order = sorted(range(count), key=lambda k: (k * 0.6180339887) % 1.0)
    return [list(range(k, angles, count)) for k in order]


def osem(
    counts: npt.NDArray[np.floating],
    projector: Projector,
    weights: FloatArray,
    scatter: npt.NDArray[np.floating] | None = None,
    iterations: int | None = None,
    map: Mapper = map,
) -> Float32:
    """Reconstruct (angles, across, z) counts to a (z, y, x) volume in counts of the whole acquisition as without attenuation.

    Parameters
    ----------
    weights : (angles,) share of the acquisition that each projection stands for, sum 1.
    scatter : expected scattered counts per bin; None for none.
    iterations : as the camera states where None.
    map : spreads the angles of a subset; the result does not depend on it.

    Raises
    ------
    ModelError
        Counts that are negative, not finite or of another shape; scatter likewise.
    """
    device = projector.device
    shape = (device.angles, *projector.plane_shape)
    for name, data in (("counts", counts), ("scatter", scatter)):
        if data is not None and (data.shape != shape or not np.isfinite(data).all() or data.min() < 0):
            raise ModelError(f"{name} of shape {data.shape}", expected=f"{shape}, finite and >= 0", kind="model.phantom")
    z, n, _ = projector.shape
    known = np.zeros(shape, np.float32) if scatter is None else np.asarray(scatter, np.float32)
    x = np.zeros((n, n, z), np.float32)
    x[projector.support] = max(float(counts.sum()), 1.0) / (projector.support.sum() * z)
    floor = np.float32(LEAST * max(float(counts.mean()), LEAST))
    parts = subsets(device.angles, device.subsets)
    sensitivity: dict[int, Float32] = {}

    def one(angle: int, current: Float32, whole: bool) -> tuple[Float32, Float32 | None]:
        view, w = projector.view(angle), np.float32(weights[angle])
        expected = w * projector.forward_view(current, view) + known[angle]
        ratio = w * np.asarray(counts[angle], np.float32) / np.maximum(expected, floor)
        seen = projector.backward_view(np.full(projector.plane_shape, w), view) if whole else None
        return projector.backward_view(ratio, view), seen

    for turn in range(device.iterations if iterations is None else iterations):
        for k, part in enumerate(parts):
            fixed, back = x, np.zeros_like(x)
            total = np.zeros_like(x) if turn == 0 else sensitivity[k]
            for corrected, seen in map(lambda a: one(a, fixed, turn == 0), part):
                back += corrected
                if seen is not None:
                    total += seen
            sensitivity[k] = total
            usable = total > LEAST * total.max()
            x = np.where(usable, x * back / np.where(usable, total, np.float32(1)), np.float32(0))
    return from_columns(x)
