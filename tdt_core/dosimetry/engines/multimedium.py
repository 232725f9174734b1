"""Kernels of several media: electrons along rays through the media, photons scaled by density.

Electrons. Where the medium is uniform within their reach, the exact voxel kernel of that medium, by FFT. Elsewhere that kernel
as rays through the real media change it (`tdt_core.dosimetry.rays`): a water kernel at the depth that the path makes, k times
density, so that energy is kept and dose at an interface follows both media. Electrons that bone scatters back are not in it.

Photons (`scaled_photons`). Water kernel scaled by density on the way and at the target, far ones on a coarser grid.

Energy basis: the caller divides by each voxel's own mass. Linear in activity. In water of density 1 the result is that of
`kernel` to rounding. Outside the grid is vacuum.

Options: `rays` per source voxel (1024); `tolerance`, how far a (k times density) may differ within reach of a voxel, and from
the medium whose kernel stands for it, before rays are followed (0.08); `workers`, threads for the rays (1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tdt_core.dosimetry.boxes import octant_kev
from tdt_core.dosimetry.density import AIR_BELOW_G_CM3, FLOOR_G_CM3, areal_scale
from tdt_core.dosimetry.engines import EngineSetting, register_engine
from tdt_core.dosimetry.engines.kernel import Convolution, cached, far_photons, half_width, near_photons
from tdt_core.dosimetry.radial import RadialKernel
from tdt_core.dosimetry.rays import Walk, bundle, depth_table, stencil
from tdt_core.dosimetry.s_values import point_kernels
from tdt_core.dosimetry.scaled_photons import ScaledPhotons, nodes, pair_densities, surroundings
from tdt_core.dosimetry.units import JOULE_PER_MBQ_H_KEV, Array32, FloatArray
from tdt_core.errors import ModelError

Edges = tuple[float, float, float]
Mask = npt.NDArray[np.bool_]

RAYS = 1024
TOLERANCE = 0.08
EXACT_MEDIA = 6
"""Up to so many different values of a, each has its own kernel; beyond, values are gathered into classes."""

_STEPS = 8
_MEANT = 0.999
"""Share of the electron energy inside the reach within which media are compared."""


@dataclass(frozen=True, eq=False)
class Medium:
    """One uniform medium: its a, the voxels whose sources it stands for, and their kernel."""

    areal: float
    voxels: Mask
    octant: FloatArray


class MultiMediumEngine:
    """See the module. Options: `rays`, `tolerance`, `workers`."""

    name = "multimedium"

    def __init__(self, setting: EngineSetting) -> None:
        unknown = set(setting.options) - {"rays", "tolerance", "workers"}
        if unknown:
            raise ModelError(f"multimedium engine has no options {sorted(unknown)}", expected="rays, tolerance, workers")
        tolerance = float(setting.options.get("tolerance", TOLERANCE))
        wanted = int(setting.options.get("rays", RAYS))
        self._workers = int(setting.options.get("workers", 1))
        if not 0 <= tolerance < 1 or wanted < 8 or self._workers < 1:
            raise ModelError("options of the multimedium engine", expected="0 <= tolerance < 1, rays >= 8, workers >= 1")
        dz, dy, dx = setting.spacing_mm
        self._edges: Edges = (dz / 10.0, dy / 10.0, dx / 10.0)
        kernels = point_kernels(setting.nuclide, setting.progeny)
        self.emitted_kev = kernels.emitted_kev
        self.shape = setting.shape
        self._density = setting.density_g_cm3
        self._areal = areal_scale(setting.density_g_cm3, setting.material)
        table, local = depth_table(kernels.electrons), kernels.electrons.local_kev
        self._media = [
            Medium(a, voxels, self._octant(setting, kernels.electrons, a)) for a, voxels in media(self._areal, tolerance)
        ]
        self._mixed = self._near_other_media(kernels.electrons, tolerance)
        self._reach_cm = table.end_g_cm2 / float(self._areal.min())
        self._walk: Walk | None = None
        if self._mixed.any():
            kind = np.zeros(self.shape, np.int16)
            for n, medium in enumerate(self._media):
                kind[medium.voxels] = n
            rays = bundle(self._edges, self._reach_cm, wanted)
            stencils = tuple(stencil(rays, table, m.areal, _without_local(m.octant, local)) for m in self._media)
            self._walk = Walk(rays, table, self._areal, kind, stencils, local)
        self._photons = self._scaled_photons(setting, kernels.photons)

    def energy(self, tia_mbq_h: npt.NDArray[Any]) -> Array32:
        """Energy per voxel, J."""
        decays = np.ascontiguousarray(tia_mbq_h, np.float32)
        out = self._photons(decays)
        out *= self._target()
        for medium in self._media:
            for block, inside in self._blocks(medium, medium.voxels & ~self._mixed & (decays > 0)):
                out[block] += Convolution(medium.octant, inside.shape)(np.where(inside, decays[block], np.float32(0)))
        self._follow(out, np.where(self._mixed, decays, np.float32(0)))
        out *= np.float32(JOULE_PER_MBQ_H_KEV)
        return np.maximum(out, np.float32(0.0), out=out)  # rounding of the FFT

    def escaping_fraction(self, absorbing: Mask) -> Array32:
        """By the transposed walk: what each voxel sends to the absorbing ones."""
        wanted = absorbing.astype(np.float32)
        reached = self._photons(self._target() * wanted)
        for medium in self._media:
            for block, inside in self._blocks(medium, medium.voxels & ~self._mixed):
                heard = Convolution(medium.octant, inside.shape)(wanted[block])
                reached[block] += np.where(inside, heard, np.float32(0))
        if self._walk is not None:
            reached += self._walk.gathered(wanted, self._mixed)
        return np.clip(1.0 - reached / np.float32(self.emitted_kev), 0.0, 1.0)

    def _target(self) -> Array32:
        """Density that scales photon energy at the target: the floor for thin lung, nothing for air."""
        air = self._density < AIR_BELOW_G_CM3
        return np.where(air, self._density, np.maximum(self._density, np.float32(FLOOR_G_CM3))).astype(np.float32)

    def _octant(self, setting: EngineSetting, electrons: RadialKernel, areal: float) -> FloatArray:
        """Electron kernel of a uniform medium, local part included."""
        kernel = electrons.stretched(areal)
        whole = tuple(n - 1 for n in self.shape)
        width = half_width(self._edges, float(kernel.radius_cm[-1]), whole)  # type: ignore[arg-type]
        name = f"medium|{setting.nuclide}|{setting.progeny}|{self._edges}|{width}|{areal:.7g}"
        return cached(setting.cache, name, lambda: octant_kev(kernel, self._edges, width))

    def _near_other_media(self, electrons: RadialKernel, tolerance: float) -> Mask:
        """Voxels within whose reach some voxel differs from the medium that stands for them."""
        total = float(electrons.cumulative_kev[-1])
        depth = float(np.interp(_MEANT * total, electrons.cumulative_kev, electrons.radius_cm)) if total > 0 else 0.0
        mixed = np.zeros(self.shape, bool)
        for medium in self._media:
            other = np.abs(self._areal / np.float32(medium.areal) - 1) > max(tolerance, 1e-5)
            if other.any() and total > 0:
                size = [2 * math.ceil(depth / medium.areal / e) + 1 for e in self._edges]
                mixed |= medium.voxels & ndimage.maximum_filter(other.view(np.uint8), size, mode="nearest").astype(bool)
        return mixed & (self._density >= AIR_BELOW_G_CM3)  # activity in air is taken as if all around it were thin lung

    def _scaled_photons(self, setting: EngineSetting, photons: RadialKernel) -> ScaledPhotons:
        around = surroundings(self._density, AIR_BELOW_G_CM3, self._edges)
        pairs = pair_densities(nodes(around))

        def octants(
            part: str, make: Callable[[RadialKernel, Edges, tuple[int, int, int]], FloatArray]
        ) -> list[list[FloatArray]]:
            kept: dict[float, FloatArray] = {}
            for rho in np.unique(pairs):
                name = f"photons|{part}|{setting.nuclide}|{setting.progeny}|{self._edges}|{self.shape}|{rho:.7g}"
                scaled = photons.stretched(float(rho))
                kept[float(rho)] = cached(setting.cache, name, lambda: make(scaled, self._edges, self.shape)) / rho  # noqa: B023
            return [[kept[float(rho)] for rho in row] for row in pairs]

        return ScaledPhotons(around, octants("near", near_photons), octants("far", far_photons))

    def _blocks(self, medium: Medium, sources: Mask) -> Iterator[tuple[tuple[slice, slice, slice], Mask]]:
        """The part of the grid that a medium's sources reach, and the sources in it; nothing when there are none."""
        found = ndimage.find_objects(sources.view(np.uint8))
        if found:
            width = [n - 1 for n in medium.octant.shape]
            z, y, x = (
                slice(max(0, part.start - w), min(n, part.stop + w))
                for part, w, n in zip(found[0], width, self.shape, strict=True)
            )
            yield (z, y, x), sources[z, y, x]

    def _follow(self, out: Array32, decays: Array32) -> None:
        """Rays of all mixed sources. Slabs of two reaches are done in two turns, so that no two write to the same voxel."""
        if self._walk is None:
            return
        walk = self._walk
        thick = max(8, 2 * math.ceil(self._reach_cm / self._edges[0]) + 2)
        starts = range(0, self.shape[0], thick)
        jobs = [slice(s, min(s + thick, self.shape[0])) for s in starts]

        with ThreadPoolExecutor(self._workers) as pool:
            for turn in (jobs[::2], jobs[1::2]):
                list(pool.map(lambda part: walk.spread(out, decays, part), turn))


def _without_local(octant: FloatArray, local_kev: float) -> FloatArray:
    out = octant.copy()
    out[0, 0, 0] -= local_kev
    return out


def media(areal: Array32, tolerance: float) -> list[tuple[float, Mask]]:
    """Uniform media that stand for the voxels: each value of a when they are few, else classes around the commonest values.

    The commonest value takes what lies within the tolerance of it, then the commonest of the rest, until nothing is left.
    """
    values = np.unique(areal)
    if values.size <= EXACT_MEDIA:
        return [(float(a), areal == a) for a in values]
    step = math.log1p(max(tolerance, 0.01)) / _STEPS
    number = np.rint(np.log(areal) / step).astype(np.int32)
    lowest = int(number.min())
    counts = np.bincount((number - lowest).ravel())
    owner = np.full(counts.size, -1)
    found: list[float] = []
    while (left := np.where(owner < 0, counts, 0)).any():
        centre = int(left.argmax())
        part = slice(max(0, centre - _STEPS + 1), centre + _STEPS)
        owner[part] = np.where(owner[part] < 0, len(found), owner[part])
        found.append(math.exp((centre + lowest) * step))
    medium = owner[number - lowest]
    return [(a, medium == n) for n, a in enumerate(found)]


register_engine("multimedium", MultiMediumEngine)
