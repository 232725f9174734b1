"""Compiled steps of the projector for one angle. Arrays are float32; volumes are (y, x, z) with z contiguous.

The rotated volume has its depth first: row n - 1 is nearest to the detector. Every step has its
exact adjoint here: rotate forth and back, towards and away; `diffuse` is its own.
"""

from __future__ import annotations

import numpy as np
from numba import njit

LARGEST = 0.25
"""Largest weight of a neighbour in one pass of `diffuse`: the kernel then falls from its middle."""


@njit(cache=True, nogil=True)
def rotate(image, support, cos, sin, rotated, hit, back):  # type: ignore[no-untyped-def] # pragma: no cover
    """Share every column of the support out over four with weights that sum to 1, so that no count is lost inside the grid.

    `back` is the adjoint: every column of `image` reads its four of `rotated`.
    """
    n, _, nz = image.shape
    mid = 0.5 * (n - 1)
    for j in range(n):
        for i in range(n):
            if not support[j, i]:
                continue
            u = cos * (i - mid) + sin * (j - mid) + mid
            v = cos * (j - mid) - sin * (i - mid) + mid
            p, q = int(np.floor(v)), int(np.floor(u))
            column = image[j, i]
            for dp in range(2):
                for dq in range(2):
                    jj, ii = p + dp, q + dq
                    if jj < 0 or jj >= n or ii < 0 or ii >= n:
                        continue
                    w = np.float32((v - p if dp else 1.0 - (v - p)) * (u - q if dq else 1.0 - (u - q)))
                    if w <= 0.0:
                        continue
                    other = rotated[jj, ii]
                    if back:
                        for k in range(nz):
                            column[k] += w * other[k]
                        continue
                    hit[jj, ii] = True
                    for k in range(nz):
                        other[k] += w * column[k]


@njit(cache=True, nogil=True)
def survive(mu, cos, sin, hit, out):  # type: ignore[no-untyped-def] # pragma: no cover
    """exp(-path to the detector) in the rotated columns that hold activity; `mu` is per voxel edge, read by interpolation."""
    n, _, nz = mu.shape
    mid = 0.5 * (n - 1)
    path = np.zeros((n, nz), np.float32)
    step = np.empty(nz, np.float32)
    for j in range(n - 1, -1, -1):
        for i in range(n):
            x = cos * (i - mid) - sin * (j - mid) + mid
            y = cos * (j - mid) + sin * (i - mid) + mid
            p, q = int(np.floor(y)), int(np.floor(x))
            if p < -1 or p >= n or q < -1 or q >= n:
                continue
            step[:] = 0.0
            for dp in range(2):
                for dq in range(2):
                    jj, ii = p + dp, q + dq
                    if jj < 0 or jj >= n or ii < 0 or ii >= n:
                        continue
                    w = np.float32((y - p if dp else 1.0 - (y - p)) * (x - q if dq else 1.0 - (x - q)))
                    source = mu[jj, ii]
                    for k in range(nz):
                        step[k] += w * source[k]
            along = path[i]
            if hit[j, i]:
                target = out[j, i]
                for k in range(nz):
                    target[k] = np.exp(-(along[k] + np.float32(0.5) * step[k]))
            for k in range(nz):
                along[k] += step[k]


@njit(cache=True, nogil=True)
def diffuse(plane, other, half_variance):  # type: ignore[no-untyped-def] # pragma: no cover
    """Blur a plane in place by passes of (a, 1 - 2a, a) along both axes, variance 2 a each; what leaves it is lost."""
    n, nz = plane.shape
    if half_variance <= 0.0:
        return
    passes = int(np.ceil(half_variance / LARGEST))
    a = np.float32(half_variance / passes)
    b = np.float32(1.0) - a - a
    for _ in range(passes):
        for i in range(n):
            line, out = plane[i], other[i]
            for k in range(1, nz - 1):
                out[k] = b * line[k] + a * (line[k - 1] + line[k + 1])
            if nz > 1:
                out[0] = b * line[0] + a * line[1]
                out[nz - 1] = b * line[nz - 1] + a * line[nz - 2]
            else:
                out[0] = b * line[0]
        for i in range(n):
            out, line = plane[i], other[i]
            for k in range(nz):
                out[k] = b * line[k]
            if i > 0:
                below = other[i - 1]
                for k in range(nz):
                    out[k] += a * below[k]
            if i < n - 1:
                above = other[i + 1]
                for k in range(nz):
                    out[k] += a * above[k]


@njit(cache=True, nogil=True)
def towards(rotated, survival, hit, half_variances, plane):  # type: ignore[no-untyped-def] # pragma: no cover
    """Carry the planes from far to near into `plane`: at each plane blur what came so far, then add what survives from it.

    `half_variances[j]` widens plane j to the width of plane j + 1; the last one is the width of the nearest plane itself.
    """
    n, _, nz = rotated.shape
    other = np.empty((n, nz), np.float32)
    begun = False
    for j in range(n):
        for i in range(n):
            if hit[j, i]:
                begun = True
                target, source, left = plane[i], rotated[j, i], survival[j, i]
                for k in range(nz):
                    target[k] += source[k] * left[k]
        if begun:
            diffuse(plane, other, half_variances[j])


@njit(cache=True, nogil=True)
def away(plane, survival, hit, half_variances, rotated):  # type: ignore[no-untyped-def] # pragma: no cover
    """Adjoint of `towards`: `plane` is used up."""
    n, _, nz = rotated.shape
    other = np.empty((n, nz), np.float32)
    first = 0
    while first < n and not hit[first].any():
        first += 1
    for j in range(n - 1, first - 1, -1):
        diffuse(plane, other, half_variances[j])
        for i in range(n):
            if hit[j, i]:
                source, target, left = plane[i], rotated[j, i], survival[j, i]
                for k in range(nz):
                    target[k] = source[k] * left[k]
