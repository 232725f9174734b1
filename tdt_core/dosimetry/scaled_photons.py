"""Photons in media of several densities: the water kernel, scaled by density on the way and where the energy ends.

Energy from a voxel s to a voxel t is rho_t B(d; rho_st) / rho_st, B the box kernel of a uniform medium of density rho_st, and
rho_st the mean of the two densities that s and t see around them (air left out). This is exact in a uniform medium, is the
same in both directions up to rho_t (reciprocity), and needs no ray: the kernel is interpolated linearly between a few
densities, and a sum of separable terms is a sum of convolutions. The near part runs on the grid itself, the rest on a grid
twice as coarse.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import fft, ndimage

from tdt_core.dosimetry.engines.kernel import coarse_shape, coarsened, prolonged
from tdt_core.dosimetry.units import Array32, FloatArray

Shape = tuple[int, int, int]

NODES = 3
SURROUNDINGS_CM = 6.0
"""Edge of the box over which the density around a voxel is averaged, about a photon's way to where it matters."""

_SAME = 0.005


def surroundings(density: Array32, air_below: float, edges_cm: tuple[float, float, float]) -> Array32:
    """(z, y, x) mean density around each voxel without air, from a box filter applied twice."""
    solid = (density >= air_below).astype(np.float32)
    size = [max(1, 2 * round(SURROUNDINGS_CM / 4 / e) + 1) for e in edges_cm]
    total, weight = density * solid, solid
    for _ in range(2):
        total = ndimage.uniform_filter(total, size, mode="nearest")
        weight = ndimage.uniform_filter(weight, size, mode="nearest")
    return np.where(weight > 1e-3, total / np.maximum(weight, 1e-3), np.float32(1.0)).astype(np.float32)


def nodes(around: Array32) -> FloatArray:
    """Densities between which kernels are interpolated: one where the medium is uniform, else evenly over the range."""
    low, high = float(around.min()), float(around.max())
    if high <= low * (1.0 + _SAME):
        return np.array([(low + high) / 2])
    return np.linspace(low, high, NODES)


def pair_densities(node: FloatArray) -> FloatArray:
    """(n, n) density of the way between a source at node i and a target at node j."""
    return np.asarray((node[:, None] + node) / 2)


class NodeConvolution:
    """Sum over nodes i, j of w_j (kernel_ij * (w_i array)): each pair's kernel symmetric in i, j and in space."""

    def __init__(self, octants: Sequence[Sequence[FloatArray]], shape: Shape, weights: Sequence[Array32]) -> None:
        width = [min(octants[0][0].shape[a], shape[a]) - 1 for a in range(3)]
        self.shape = shape
        self.padded = tuple(fft.next_fast_len(n + w, real=True) for n, w in zip(shape, width, strict=True))
        self.spectra = {
            (i, j): self._spectrum(octants[i][j], width) for i in range(len(weights)) for j in range(i + 1)
        }  # half the pairs: the others are the same
        self.weights = weights

    def _spectrum(self, octant: FloatArray, width: list[int]) -> Array32:
        wrapped = np.zeros(self.padded, np.float32)
        inside = tuple(slice(0, w + 1) for w in width)
        wrapped[inside] = octant[inside]
        for axis, w in enumerate(width):
            if w:
                back: list[slice] = [slice(None)] * 3
                front = list(back)
                back[axis], front[axis] = slice(self.padded[axis] - w, None), slice(1, w + 1)
                wrapped[tuple(back)] = np.flip(wrapped[tuple(front)], axis)
        return np.ascontiguousarray(fft.rfftn(wrapped, workers=1, overwrite_x=True).real)

    def __call__(self, array: Array32) -> Array32:
        """(z, y, x) float32."""
        count = len(self.weights)
        parts = [fft.rfftn(array * w if count > 1 else array, s=self.padded, workers=1) for w in self.weights]
        out = np.zeros(self.shape, np.float32)
        for j, weight in enumerate(self.weights):
            total = parts[0] * self.spectra[j, 0]
            for i in range(1, count):
                total += parts[i] * self.spectra[max(i, j), min(i, j)]
            full = fft.irfftn(total, s=self.padded, workers=1, overwrite_x=True)
            inside = full[: self.shape[0], : self.shape[1], : self.shape[2]]
            out += inside * weight if count > 1 else inside
        return out


def hats(around: Array32, node: FloatArray) -> list[Array32]:
    """Weights of linear interpolation between nodes, one array per node; they sum to 1."""
    if node.size == 1:
        return [np.ones(around.shape, np.float32)]
    at = np.clip((around - node[0]) / (node[1] - node[0]), 0, node.size - 1)
    return [np.maximum(np.float32(0), 1 - np.abs(at - np.float32(i))).astype(np.float32) for i in range(node.size)]


def blocks_mean(array: Array32) -> Array32:
    """Mean over the 2 x 2 x 2 voxels of each block of the coarse grid, its rim taken from the nearest block."""
    padded = np.pad(array, [(0, n % 2) for n in array.shape], mode="edge")
    z, y, x = (n // 2 for n in padded.shape)
    mean = padded.reshape(z, 2, y, 2, x, 2).mean(axis=(1, 3, 5), dtype=np.float32)
    return np.pad(mean, 1, mode="edge")


class ScaledPhotons:
    """Photon energy per voxel over density, keV per g/cm3; multiply by the target's density.

    `near`, `far` give the octants of the fine and the coarse kernel at one density, divided by that density.
    """

    def __init__(
        self,
        around: Array32,
        near: Sequence[Sequence[FloatArray]],
        far: Sequence[Sequence[FloatArray]],
    ) -> None:
        node = nodes(around)
        self.shape: Shape = around.shape
        self._near = NodeConvolution(near, self.shape, hats(around, node))
        self._far = NodeConvolution(far, coarse_shape(self.shape), hats(blocks_mean(around), node))

    def __call__(self, decays: Array32) -> Array32:
        """(z, y, x)."""
        return self._near(decays) + prolonged(self._far(coarsened(decays)), self.shape)
