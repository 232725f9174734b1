"""How much of a point kernel's energy a uniform ellipsoid keeps, and how much another one takes."""

from __future__ import annotations

import numpy as np

from tdt_core.dosimetry.organ.bodies import Ellipsoid
from tdt_core.dosimetry.radial import RadialKernel
from tdt_core.dosimetry.units import FloatArray

_RADII = 4
_RINGS, _SPOKES = 8, 8


def self_kev(kernel: RadialKernel, body: Ellipsoid) -> float:
    """Energy absorbed, keV per decay, in an ellipsoid that holds a uniform source, in its own infinite medium.

    Two points of a unit ball that lie a vector apart are both inside with probability 1 - 3 x / 4 + x^3 / 16, x its length. A
    linear map makes of that ball the ellipsoid and of r u the vector r A^-1 u, so the probability at distance r is the mean
    over directions u of the same law at r |A^-1 u|.
    """
    lengths, weights = _directions(body)
    mid = (kernel.radius_cm[1:] + kernel.radius_cm[:-1]) / 2
    shells = np.diff(kernel.cumulative_kev)
    x = np.minimum(mid[:, None] * lengths, 2.0)
    inside = (1.0 - 0.75 * x + x**3 / 16.0) @ weights
    return float(shells @ inside) + kernel.local_kev


def _directions(body: Ellipsoid) -> tuple[FloatArray, FloatArray]:
    """(k,) lengths |A^-1 u| over a quadrature of directions, and its weights, which sum to 1.

    Directions are taken evenly on the unit sphere that A maps, where the integrand is smooth however long the ellipsoid is:
    u = A u' / |A u'|, |A^-1 u| = 1 / |A u'|, and the solid angle changes by det A / |A u'|^3.
    """
    mu, half = np.polynomial.legendre.leggauss(24)
    phi = (np.arange(24) + 0.5) * (2 * np.pi / 24)
    ring = np.sqrt(1 - mu**2)
    unit = np.stack([np.repeat(mu, 24), np.outer(ring, np.cos(phi)).ravel(), np.outer(ring, np.sin(phi)).ravel()])
    values = np.linalg.svd(body.half_axes_cm, compute_uv=False)
    stretch = np.linalg.norm(values[:, None] * unit, axis=0)
    weights = np.repeat(half / 2, 24) / 24 * values.prod() / stretch**3
    return 1.0 / stretch, weights / weights.sum()


def exchange_kev(kernel: RadialKernel, source: Ellipsoid, target: Ellipsoid) -> float:
    """Energy absorbed in `target`, keV per decay spread evenly in `source`, in one infinite medium.

    From points of the source, rays over the directions that meet the target: each takes what the kernel leaves between the
    distances where it enters and leaves. Apart, touching, overlapping and one inside the other are the same formula. In the
    frame where the target is the unit ball those directions are a cone, over which a product rule is smooth.
    """
    axes = target.half_axes_cm
    # a large source is steep beside a small target: it takes finer points
    ball, shares = _ball(4 if source.volume_ml <= target.volume_ml else 12)
    points = source.centre_cm[:, None] + source.half_axes_cm @ ball
    x = np.linalg.solve(axes, points - target.centre_cm[:, None])
    distance = np.linalg.norm(x, axis=0)
    axis = -x / np.maximum(distance, 1e-12)
    widest = np.where(distance > 1.0, np.sqrt(np.maximum(1.0 - 1.0 / np.maximum(distance, 1.0) ** 2, 0.0)), -1.0)
    node, weight = np.polynomial.legendre.leggauss(_RINGS)
    w = (node + 1) / 2
    mu = widest[:, None] + (1 - widest)[:, None] * w**2  # the chord vanishes as a root at the cone's edge: smooth in w
    d_mu = (1 - widest)[:, None] * w * weight
    phi = (np.arange(_SPOKES) + 0.5) * (2 * np.pi / _SPOKES)
    a, b = _across(axis)
    ring = np.sqrt(np.maximum(1 - mu**2, 0.0))
    u = (
        mu[None, :, :, None] * axis[:, :, None, None]
        + ring[None, :, :, None] * np.cos(phi) * a[:, :, None, None]
        + ring[None, :, :, None] * np.sin(phi) * b[:, :, None, None]
    )
    along = distance[:, None] * mu
    half_chord = np.sqrt(np.maximum(1.0 - distance[:, None] ** 2 + along**2, 0.0))
    stretch = np.linalg.norm(np.einsum("ij,jprs->iprs", axes, u), axis=0)
    leaves = kernel_within(kernel, stretch * (along + half_chord)[:, :, None])
    enters = kernel_within(kernel, stretch * np.maximum(along - half_chord, 0.0)[:, :, None])
    per_ray = (leaves - enters) * abs(np.linalg.det(axes)) / stretch**3
    moved = shares @ (per_ray.sum(axis=2) * d_mu).sum(axis=1) / (2 * _SPOKES)
    return float(moved) + kernel.local_kev * float(shares @ (distance <= 1.0))


def kernel_within(kernel: RadialKernel, radius_cm: FloatArray) -> FloatArray:
    """Energy within the radii without the part at the point of decay, keV."""
    return np.asarray(np.interp(radius_cm, kernel.radius_cm, kernel.cumulative_kev))


def _ball(rings: int) -> tuple[FloatArray, FloatArray]:
    """(3, n) points in the unit ball and their weights: exact for polynomials of degree 7 with 4 rings; weights sum to 1."""
    node, weight = np.polynomial.legendre.leggauss(_RADII)
    radius = (node + 1) / 2
    shell = weight * radius**2
    mu, half = np.polynomial.legendre.leggauss(rings)
    spokes = 2 * rings
    phi = (np.arange(spokes) + 0.5) * (2 * np.pi / spokes)
    ring = np.sqrt(1 - mu**2)
    unit = np.stack([np.repeat(mu, spokes), np.outer(ring, np.cos(phi)).ravel(), np.outer(ring, np.sin(phi)).ravel()])
    weights = np.outer(shell / shell.sum(), np.repeat(half / 2, spokes) / spokes).ravel()
    return (unit[:, None, :] * radius[:, None]).reshape(3, -1), weights


def _across(axis: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Two unit vectors at right angles to each of (3, n) unit vectors and to each other."""
    other = np.where(np.abs(axis[0]) < 0.9, np.array([[1.0], [0.0], [0.0]]), np.array([[0.0], [1.0], [0.0]]))
    a = np.cross(axis, other, axis=0)
    a = a / np.maximum(np.linalg.norm(a, axis=0), 1e-12)
    return a, np.cross(axis, a, axis=0)
