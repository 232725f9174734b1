"""Homogeneous kernel on an energy basis: energy per voxel by convolution; the caller divides by each voxel's own mass.

The water kernel is split smoothly in radius. Electrons, alphas and the near part of the photons (first few voxels) are
convolved on the grid itself; what remains of the photons is smooth and goes to a grid twice as coarse, over the whole
range, and comes back by conservative linear interpolation. `exact=True` convolves everything on the full grid instead.
Outside the grid is vacuum: what would be deposited there has escaped, and nothing scatters back from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft

from tdt_core.dosimetry.boxes import octant_kev
from tdt_core.dosimetry.engines import EngineSetting, register_engine
from tdt_core.dosimetry.radial import RadialKernel
from tdt_core.dosimetry.s_values import point_kernels
from tdt_core.dosimetry.units import JOULE_PER_MBQ_H_KEV, Array32, FloatArray
from tdt_core.errors import ModelError

Edges = tuple[float, float, float]
Shape = tuple[int, int, int]

NEAR_VOXELS = 8.0
"""Radius, in longest voxel edges, over which photons pass from the fine to the coarse grid."""


class Convolution:
    """Linear convolution of one grid with one mirror-symmetric kernel, zero outside; the spectrum is kept."""

    def __init__(self, octant: FloatArray, shape: Shape) -> None:
        width = tuple(min(o, n) - 1 for o, n in zip(octant.shape, shape, strict=True))
        self.shape = shape
        self.padded = tuple(fft.next_fast_len(n + w, real=True) for n, w in zip(shape, width, strict=True))
        wrapped = np.zeros(self.padded, np.float32)
        wz, wy, wx = width
        wrapped[: wz + 1, : wy + 1, : wx + 1] = octant[: wz + 1, : wy + 1, : wx + 1]
        for axis, w in enumerate(width):
            if w:
                end = self.padded[axis]
                wrapped[_along(axis, slice(end - w, end))] = np.flip(wrapped[_along(axis, slice(1, w + 1))], axis)
        # a mirror-symmetric kernel has a real spectrum: half the memory and half the products
        self.spectrum = np.ascontiguousarray(fft.rfftn(wrapped, workers=1, overwrite_x=True).real)

    def __call__(self, array: Array32) -> Array32:
        """(z, y, x) convolved values, float32, on the grid."""
        spectrum = fft.rfftn(array, s=self.padded, workers=1)
        spectrum *= self.spectrum
        nz, ny, nx = self.shape
        full = fft.irfftn(spectrum, s=self.padded, workers=1, overwrite_x=True)
        return np.asarray(full[:nz, :ny, :nx], np.float32)


class KernelEngine:
    """Water kernels by FFT in float32. Options: `exact` (bool), everything on the full grid."""

    name = "kernel"

    def __init__(self, setting: EngineSetting) -> None:
        unknown = set(setting.options) - {"exact"}
        if unknown:
            raise ModelError(f"kernel engine has no options {sorted(unknown)}", expected="exact")
        exact = bool(setting.options.get("exact", False))
        dz, dy, dx = setting.spacing_mm
        edges = (dz / 10.0, dy / 10.0, dx / 10.0)
        kernels = point_kernels(setting.nuclide, setting.progeny)
        self.emitted_kev = kernels.emitted_kev
        self.shape = setting.shape
        near, far = kernel_octants(setting, edges, exact)
        self._near = Convolution(near, setting.shape)
        self._far = None if far is None else Convolution(far, coarse_shape(setting.shape))

    def energy(self, tia_mbq_h: npt.NDArray[Any]) -> Array32:
        """Energy per voxel, J."""
        energy_kev = self._spread(np.ascontiguousarray(tia_mbq_h, np.float32))
        energy_kev *= np.float32(JOULE_PER_MBQ_H_KEV)
        return np.maximum(energy_kev, np.float32(0.0), out=energy_kev)  # rounding of the FFT, 1e-7 of the largest value

    def escaping_fraction(self, absorbing: npt.NDArray[np.bool_]) -> Array32:
        """By reciprocity: what reaches the absorbing voxels from one voxel is what reaches it from all of them."""
        reached = self._spread(absorbing.astype(np.float32))
        return np.clip(1.0 - reached / np.float32(self.emitted_kev), 0.0, 1.0)

    def _spread(self, decays: Array32) -> Array32:
        """Energy per voxel, keV, for decays per voxel."""
        energy_kev = self._near(decays)
        if self._far is not None:
            energy_kev += prolonged(self._far(coarsened(decays)), self.shape)
        return energy_kev


def kernel_octants(setting: EngineSetting, edges: Edges, exact: bool) -> tuple[FloatArray, FloatArray | None]:
    """Octants of the fine kernel and of the coarse far-photon kernel (None when `exact`), from the cache where it has them."""
    lengths = "x".join(f"{e:.6g}" for e in edges)
    grid = "x".join(str(n) for n in setting.shape)
    name = f"kernel|{setting.nuclide}|{setting.progeny}|{lengths}|{grid}"
    kernels = point_kernels(setting.nuclide, setting.progeny)
    whole: Shape = tuple(n - 1 for n in setting.shape)  # type: ignore[assignment]
    if exact:
        photons = cached(setting.cache, name + "|exact", lambda: octant_kev(kernels.photons, edges, whole))
        return _with_electrons(photons, kernels.electrons, edges), None
    reach = float(kernels.electrons.radius_cm[-1])

    def near() -> FloatArray:
        return _with_electrons(near_photons(kernels.photons, edges, setting.shape, reach), kernels.electrons, edges)

    def far() -> FloatArray:
        return far_photons(kernels.photons, edges, setting.shape)

    return cached(setting.cache, name + "|near", near), cached(setting.cache, name + "|far", far)


def near_photons(photons: RadialKernel, edges: Edges, shape: Shape, reach_cm: float = 0.0) -> FloatArray:
    """Octant, on the grid itself, of the photons near their source; at least `reach_cm` wide."""
    whole: Shape = tuple(n - 1 for n in shape)  # type: ignore[assignment]
    width = half_width(edges, max(NEAR_VOXELS * max(edges), reach_cm), whole)
    return octant_kev(photons.windowed(lambda r: _near_weight(r, edges)), edges, width)


def far_photons(photons: RadialKernel, edges: Edges, shape: Shape) -> FloatArray:
    """Octant, on the coarse grid, of the photons that `near_photons` leaves out."""
    double = (2 * edges[0], 2 * edges[1], 2 * edges[2])
    rest = photons.windowed(lambda r: 1.0 - _near_weight(r, edges))
    return sharpened(octant_kev(RadialKernel(rest.radius_cm, rest.cumulative_kev), double, coarse_shape(shape)))


def _near_weight(radius_cm: FloatArray, edges: Edges) -> FloatArray:
    reach = NEAR_VOXELS * max(edges)
    return np.where(radius_cm < reach, np.cos(np.pi * radius_cm / (2 * reach)) ** 2, 0.0)


def cached(cache: MutableMapping[str, Any] | None, name: str, make: Callable[[], FloatArray]) -> FloatArray:
    """`make()`, or what the mapping holds under that name; it is put there."""
    if cache is None:
        return np.asarray(make())
    if name not in cache:
        cache[name] = make()
    return np.asarray(cache[name])


def half_width(edges: Edges, reach_cm: float, whole: Shape) -> Shape:
    """Voxels per axis that a reach covers, at most `whole`."""
    z, y, x = (min(w, math.ceil(reach_cm / e) + 1) for w, e in zip(whole, edges, strict=True))
    return z, y, x


def _with_electrons(photons: FloatArray, electrons: RadialKernel, edges: Edges) -> FloatArray:
    """Photon octant plus the short electron octant in its corner."""
    whole: Shape = tuple(n - 1 for n in photons.shape)
    short = octant_kev(electrons, edges, half_width(edges, float(electrons.radius_cm[-1]), whole))
    out = photons.copy()
    sz, sy, sx = short.shape
    out[:sz, :sy, :sx] += short
    return out


def coarse_shape(shape: Shape) -> Shape:
    """Blocks of 2 x 2 x 2 voxels that cover the grid, and one more on every side, so that the way back needs no edge rule."""
    z, y, x = ((n + 1) // 2 + 2 for n in shape)
    return z, y, x


def coarsened(array: Array32) -> Array32:
    """Voxel values shared out linearly to blocks: per axis 3/4 to the own block, 1/4 to the nearer neighbour.

    Keeps the sum and the centre of gravity; the transpose of `prolonged` times 8, so that reciprocity survives.
    """
    out = array
    for axis in range(3):
        n = out.shape[axis]
        evens, odds = (n + 1) // 2, n // 2
        size = tuple(evens + 2 if a == axis else s for a, s in enumerate(out.shape))
        even, odd = out[_along(axis, slice(0, n, 2))], out[_along(axis, slice(1, n, 2))]
        blocks = np.zeros(size, np.float32)
        blocks[_along(axis, slice(1, 1 + evens))] = np.float32(0.75) * even
        blocks[_along(axis, slice(0, evens))] += np.float32(0.25) * even
        blocks[_along(axis, slice(1, 1 + odds))] += np.float32(0.75) * odd
        blocks[_along(axis, slice(2, 2 + odds))] += np.float32(0.25) * odd
        out = blocks
    return out


def prolonged(blocks: Array32, shape: Shape) -> Array32:
    """Block values spread linearly over their voxels: per axis 3/8 of the own block and 1/8 of the nearer neighbour.

    A block gives away exactly its value; at the rim part of it falls outside the grid, where nothing is deposited.
    """
    out = blocks
    own, neighbour = np.float32(0.375), np.float32(0.125)
    for axis, n in enumerate(shape):
        evens, odds = (n + 1) // 2, n // 2
        fine = np.empty(tuple(n if a == axis else s for a, s in enumerate(out.shape)), np.float32)
        fine[_along(axis, slice(0, n, 2))] = (
            own * out[_along(axis, slice(1, 1 + evens))] + neighbour * out[_along(axis, slice(0, evens))]
        )
        fine[_along(axis, slice(1, n, 2))] = (
            own * out[_along(axis, slice(1, 1 + odds))] + neighbour * out[_along(axis, slice(2, 2 + odds))]
        )
        out = fine
    return out


def sharpened(octant: FloatArray) -> FloatArray:
    """The coarse kernel less the blur that sharing out, box averages and spreading add, to second order.

    In voxel edges L: sharing and spreading have variance 3/4 each, the block's box average 4/6 instead of the voxel's 1/6:
    together 2 L^2 = (2 L)^2 / 2, whose second difference on blocks has the factor 1/4. One box per axis is used up at the end.
    """
    out = octant
    for axis in range(3):
        n = out.shape[axis]
        centre = out[_along(axis, slice(0, n - 1))]
        after = out[_along(axis, slice(1, n))]
        before = np.concatenate([after[_along(axis, slice(0, 1))], centre[_along(axis, slice(0, n - 2))]], axis)
        out = centre - 0.25 * (after - 2.0 * centre + before)
    return out


def _along(axis: int, part: slice) -> tuple[slice, slice, slice]:
    index = [slice(None)] * 3
    index[axis] = part
    z, y, x = index
    return z, y, x


register_engine("kernel", KernelEngine)
