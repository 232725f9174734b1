"""The moved patient at half the scan's voxel size: activity and attenuation that feed the projector."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from tdt_core.phantom.anatomy import UInt8
from tdt_core.phantom.shapes import Grid

FloatArray = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]


@njit(cache=True, nogil=True)
def _place(labels, texture, mu, per_voxel, m, activity, attenuation, weight):  # type: ignore[no-untyped-def] # pragma: no cover
    """Share every half voxel out over the eight of the scan's half grid around its moved centre."""
    n0, n1, n2 = labels.shape
    s0, s1, s2 = activity.shape
    for k in range(n0):
        for j in range(n1):
            for i in range(n2):
                if mu[k, j, i] <= 0.0:
                    continue
                # scan coordinate c (voxel n covers n - 1/2 to n + 1/2) is half-grid coordinate 2 c + 1/2
                at0 = 2.0 * (m[0, 0] * k + m[0, 1] * j + m[0, 2] * i + m[0, 3]) + 0.5
                at1 = 2.0 * (m[1, 0] * k + m[1, 1] * j + m[1, 2] * i + m[1, 3]) + 0.5
                at2 = 2.0 * (m[2, 0] * k + m[2, 1] * j + m[2, 2] * i + m[2, 3]) + 0.5
                b0, b1, b2 = int(np.floor(at0)), int(np.floor(at1)), int(np.floor(at2))
                a = per_voxel[labels[k, j, i]] * texture[k, j, i]
                for d0 in range(2):
                    p, w0 = b0 + d0, (at0 - b0 if d0 else 1.0 - (at0 - b0))
                    if p < 0 or p >= s0 or w0 <= 0.0:
                        continue
                    for d1 in range(2):
                        q, w1 = b1 + d1, w0 * (at1 - b1 if d1 else 1.0 - (at1 - b1))
                        if q < 0 or q >= s1 or w1 <= 0.0:
                            continue
                        for d2 in range(2):
                            o, w = b2 + d2, w1 * (at2 - b2 if d2 else 1.0 - (at2 - b2))
                            if o < 0 or o >= s2 or w <= 0.0:
                                continue
                            activity[p, q, o] += w * a
                            attenuation[p, q, o] += w * mu[k, j, i]
                            weight[p, q, o] += w


def place(
    grid: Grid, labels: UInt8, texture: Float32, mu_per_mm: Float32, activity_mbq: FloatArray, m: FloatArray
) -> tuple[Float32, Float32]:
    """Activity (MBq per half voxel) and attenuation (1/mm) on the scan's half grid (2 x scan_shape) of a moved patient.

    `m` is the map of `imaging.motion`, `activity_mbq` per structure code. A patient who did not move keeps every half voxel.
    """
    shape = tuple(2 * s for s in grid.scan_shape)
    count = np.bincount(labels.ravel(), minlength=activity_mbq.size)[: activity_mbq.size]
    per_voxel = np.where(count > 0, activity_mbq / np.maximum(count, 1), 0.0)
    activity, attenuation, weight = (np.zeros(shape, np.float32) for _ in range(3))
    _place(labels, texture, mu_per_mm, per_voxel, m, activity, attenuation, weight)
    return activity, np.asarray(attenuation / np.maximum(weight, np.float32(1.0)), np.float32)


def halve(volume: Float32) -> Float32:
    """Sum of the eight half voxels of every voxel."""
    z, y, x = (n // 2 for n in volume.shape)
    return np.asarray(volume.reshape(z, 2, y, 2, x, 2).sum(axis=(1, 3, 5), dtype=np.float32))
