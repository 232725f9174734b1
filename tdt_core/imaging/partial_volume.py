"""Recovery by the geometric transfer matrix (Rousset, Ma and Evans, J Nucl Med 1998;39:904).

The image is the true activity blurred by a Gaussian of the calibration record's resolution where the activity lies. With
regions j of uniform concentration C_j that fill the share f_j(v) of voxel v, the mean of the image over region i is

    m_i = sum_j G_ij C_j,     G_ij = sum_v f_i(v) (psf * f_j)(v) / sum_v f_i(v)

so C = G^-1 m. Two refinements make uniformity a fair assumption: a region deep enough is cut into a rind and a core (cortex and
medulla; a necrotic centre), and the remainder of the body is cut into a shell around each region, where its spill-in comes
from, and `remote`. The body's surface is modelled too, so what blurs out into air is not lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage, special

from tdt_core.errors import InputError
from tdt_core.imaging.resampling import Box, FractionMask, grown
from tdt_core.imaging.resolution import SIGMA_PER_FWHM, Resolution, Spacing
from tdt_core.parameters import packaged_table
from tdt_core.reproducible import one_blas_thread

FloatArray = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
CORE = "core/"
SHELL = "around/"
REMOTE = "remote"


@dataclass(frozen=True, eq=False)
class Compartments:
    """The body cut into compartments of assumed uniform concentration: regions (or their rinds), cores, shells, `remote`.

    Attributes
    ----------
    names : `kidney_left`, ..., `core/kidney_left`, ..., `around/kidney_left`, ..., `remote`; empty ones are left out.
    masks : share of each voxel, one per name; over the body they add to 1.
    owner : per compartment the position of its region, -1 for the remainder.
    regions : number of segmented regions, which stand first.
    shape, spacing_mm : of the grid.
    """

    names: tuple[str, ...]
    masks: tuple[FractionMask, ...]
    owner: tuple[int, ...]
    regions: int
    shape: tuple[int, int, int]
    spacing_mm: Spacing

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel, mL."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    def volumes_ml(self) -> FloatArray:
        """(k,) volume of each compartment."""
        return np.array([m.voxels * self.voxel_ml for m in self.masks])

    def gather(self) -> FloatArray:
        """(regions + 1, k) volume of each compartment in the row of its region, the remainder last: concentration to MBq."""
        out = np.zeros((self.regions + 1, len(self.masks)))
        out[np.array(self.owner), np.arange(len(self.masks))] = self.volumes_ml()
        return out


def compartments(regions: Mapping[str, FractionMask], body: Float32, spacing_mm: Spacing, fwhm_mm: float) -> Compartments:
    """Cut the body into regions, cores, shells and remote.

    Parameters
    ----------
    regions : share of each voxel by region, not overlapping.
    body : (z, y, x) share of each voxel inside the body; widened where a region lies outside.
    fwhm_mm : sets the thickness of shells (`partial_volume.shell`) and rinds (`partial_volume.rind`), in units of FWHM.

    Raises
    ------
    InputError (`input.mask`) for a region without volume.
    """
    p = packaged_table("imaging_parameters.csv")
    shape = (body.shape[0], body.shape[1], body.shape[2])
    rest = body.astype(np.float32)
    for name, mask in regions.items():
        if mask.voxels <= 0:
            raise InputError(f"region {name} has no voxel", expected="at least one voxel", kind="input.mask")
        rest[mask.box] -= mask.values
    np.clip(rest, 0.0, 1.0, out=rest)
    names, masks, cores = list(regions), [], []
    smallest = p.value("partial_volume.smallest_core") * fwhm_mm**3 / float(np.prod(spacing_mm))
    for n, (name, mask) in enumerate(regions.items()):
        rind, core = _split(mask, spacing_mm, p.value("partial_volume.rind") * fwhm_mm)
        deep = core.voxels >= smallest
        masks.append(rind if deep else mask)
        if deep:
            cores.append((CORE + name, core, n))
    around = _shells(regions, rest, spacing_mm, p.value("partial_volume.shell") * fwhm_mm)
    owner = list(range(len(regions)))
    for name, mask, n in (*cores, *around):
        names.append(name)
        masks.append(mask)
        owner.append(n)
    return Compartments(tuple(names), tuple(masks), tuple(owner), len(regions), shape, spacing_mm)


def _split(mask: FractionMask, spacing_mm: Spacing, depth_mm: float) -> tuple[FractionMask, FractionMask]:
    """A region's rind of that depth, and its core."""
    inside = np.pad(mask.values >= 0.5 * mask.values.max(), 1)
    depth = ndimage.distance_transform_edt(inside, sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    # the outermost voxels always belong to the rind
    deep = depth > max(depth_mm, *spacing_mm)
    return (
        FractionMask(mask.box, np.where(deep, np.float32(0), mask.values)),
        FractionMask(mask.box, np.where(deep, mask.values, np.float32(0))),
    )


def _shells(
    regions: Mapping[str, FractionMask], rest: Float32, spacing_mm: Spacing, reach_mm: float
) -> list[tuple[str, FractionMask, int]]:
    """The remainder within reach of a region, given to the nearest one, and what is left, all owned by -1."""
    shape = (rest.shape[0], rest.shape[1], rest.shape[2])
    owner = np.zeros(shape, np.int16)
    nearest = np.full(shape, np.float32(reach_mm))
    margin = _margin(reach_mm, spacing_mm)
    boxes = [grown(mask.box, margin, shape) for mask in regions.values()]
    for n, (mask, box) in enumerate(zip(regions.values(), boxes, strict=True), start=1):
        inside = np.zeros([s.stop - s.start for s in box], bool)
        inside[within(mask.box, box)] = mask.values >= 0.5 * mask.values.max()
        distance = ndimage.distance_transform_edt(~inside, sampling=spacing_mm).astype(np.float32)
        closer = distance < nearest[box]
        nearest[box][closer] = distance[closer]
        owner[box][closer] = n
    out = []
    for n, (name, box) in enumerate(zip(regions, boxes, strict=True), start=1):
        shell = FractionMask(box, np.where(owner[box] == n, rest[box], np.float32(0)))
        if shell.voxels > 1.0:
            out.append((SHELL + name, shell, -1))
        else:
            owner[box][owner[box] == n] = 0
    everywhere = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    remote = FractionMask(everywhere, np.where(owner == 0, rest, np.float32(0)))
    return [*out, (REMOTE, remote, -1)] if remote.voxels > 1.0 else out


def _margin(reach_mm: float, spacing_mm: Spacing) -> tuple[int, int, int]:
    a, b, c = (int(np.ceil(reach_mm / s)) + 1 for s in spacing_mm)
    return (a, b, c)


def within(inner: Box, outer: Box) -> Box:
    """`inner` in the coordinates of `outer`."""
    a, b, c = (slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))
    return (a, b, c)


def _common(one: Box, other: Box) -> Box | None:
    low = [max(a.start, b.start) for a, b in zip(one, other, strict=True)]
    high = [min(a.stop, b.stop) for a, b in zip(one, other, strict=True)]
    if any(h <= lo for lo, h in zip(low, high, strict=True)):
        return None
    return (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))


def spread(
    mask: FractionMask, shape: tuple[int, int, int], spacing_mm: Spacing, fwhm_mm: float, narrow: bool = False
) -> FractionMask:
    """Region spread function: the mask blurred by the Gaussian, on the box that it reaches. What leaves the grid is lost.

    `narrow` takes the discrete Gaussian exp(-t) I_n(t), t = sigma^2 (Lindeberg 1990), whose variance is right also where sigma
    is a fraction of a voxel; the sampled one is too narrow there.
    """
    sigma = [fwhm_mm * SIGMA_PER_FWHM / s for s in spacing_mm]
    if narrow:
        return _narrow(mask, shape, sigma)
    radius = [int(4.0 * s + 0.5) for s in sigma]
    box = grown(mask.box, (radius[0], radius[1], radius[2]), shape)
    padded = np.zeros([s.stop - s.start for s in box], np.float32)
    padded[within(mask.box, box)] = mask.values
    return FractionMask(box, ndimage.gaussian_filter(padded, sigma, mode="constant", truncate=4.0))


def _narrow(mask: FractionMask, shape: tuple[int, int, int], sigma: list[float]) -> FractionMask:
    a, b, c = (int(4.0 * s + 0.5) + 2 for s in sigma)
    box = grown(mask.box, (a, b, c), shape)
    out = np.zeros([s.stop - s.start for s in box], np.float32)
    out[within(mask.box, box)] = mask.values
    for axis, (s, reach) in enumerate(zip(sigma, (a, b, c), strict=True)):
        kernel = special.ive(np.abs(np.arange(-reach, reach + 1)), s**2)
        out = ndimage.correlate1d(out, kernel / kernel.sum(), axis=axis, mode="constant")
    return FractionMask(box, out)


def overlap(one: FractionMask, other: FractionMask) -> float:
    """Sum over the grid of the product of two masks."""
    box = _common(one.box, other.box)
    if box is None:
        return 0.0
    a, b = one.values[within(box, one.box)], other.values[within(box, other.box)]
    return float(np.vdot(a, b)) if a.size < 4096 else float(np.einsum("ijk,ijk->", a, b, dtype=np.float64))


def spreads(parts: Compartments, resolution: Resolution, widths_mm: FloatArray | None = None) -> tuple[FractionMask, ...]:
    """Spread function of each compartment, blurred by the resolution where it lies, or by its own FWHM of `widths_mm` (k,)."""
    if widths_mm is not None:
        own = zip(parts.masks, widths_mm, strict=True)
        return tuple(spread(m, parts.shape, parts.spacing_mm, float(w), narrow=True) for m, w in own)
    return tuple(spread(m, parts.shape, parts.spacing_mm, resolution.of(m, parts.shape, parts.spacing_mm)) for m in parts.masks)


def transfer_matrix(parts: Compartments, blurred: tuple[FractionMask, ...]) -> FloatArray:
    """(k, k) G_ij: mean over compartment i of the spread function of j. Each row sums to at most about 1."""
    size = np.array([m.voxels for m in parts.masks])
    shared = np.array([[overlap(mask, spread_j) for spread_j in blurred] for mask in parts.masks])
    return np.asarray(shared / size[:, None])


def means(parts: Compartments, image: Float32) -> FloatArray:
    """(k,) mean of the image over each compartment, MBq/mL."""
    return np.array([float(np.einsum("ijk,ijk->", m.values, image[m.box], dtype=np.float64)) / m.voxels for m in parts.masks])


@dataclass(frozen=True, eq=False)
class Corrected:
    """Partial-volume corrected concentrations of all compartments, in their order, and activities of regions.

    Attributes
    ----------
    observed, concentration : (k,) means of the image and corrected, MBq/mL; corrected ones may be negative here.
    matrix : (k, k) G. inverse : G^-1.
    activity, raw : (regions + 1,) corrected and uncorrected MBq; the remainder stands last.
    fwhm_sensitivity : (regions + 1,) d ln A / d ln FWHM.
    widths_mm : (k,) FWHM of each compartment where a sphere phantom tells them, else None.
    """

    parts: Compartments
    observed: FloatArray
    concentration: FloatArray
    matrix: FloatArray
    inverse: FloatArray
    activity: FloatArray
    raw: FloatArray
    fwhm_sensitivity: FloatArray
    widths_mm: FloatArray | None = None

    def own_recovery(self) -> FloatArray:
        """(regions + 1,) share of its own activity that each region's mask holds: 1 for a large region."""
        kept = self._exchange(own=True).sum(axis=1)
        return np.clip(kept / np.where(self.activity == 0, 1.0, self.activity), 0.02, 1.0)

    def spill_in(self) -> FloatArray:
        """(regions + 1, k) MBq that each foreign compartment puts into each region's mask."""
        return self._exchange(own=False)

    def _exchange(self, own: bool) -> FloatArray:
        gather = self.parts.gather()
        mine = gather > 0
        return np.where(mine == own, (gather @ self.matrix) * self.concentration[None, :], 0.0)


@one_blas_thread
def concentrations(
    parts: Compartments, image: Float32, resolution: Resolution, widths_mm: FloatArray | None = None
) -> FloatArray:
    """(k,) corrected concentrations of an image alone; arguments as for `correct`."""
    return np.asarray(np.linalg.solve(transfer_matrix(parts, spreads(parts, resolution, widths_mm)), means(parts, image)))


@one_blas_thread
def correct(
    parts: Compartments, image: Float32, resolution: Resolution, fwhm_rel_sd: float, widths_mm: FloatArray | None = None
) -> Corrected:
    """Solve the geometric transfer matrix for an image (MBq/mL on the grid of `parts`), and how it answers to the FWHM.

    `widths_mm` (k,), where given, are the compartments' own FWHM in place of `resolution`. Nothing is clipped: a negative
    concentration is a legal answer here, and the error budget decides what it is worth.
    """
    observed = means(parts, image)
    matrix = transfer_matrix(parts, spreads(parts, resolution, widths_mm))
    inverse = np.asarray(np.linalg.inv(matrix), np.float64)
    concentration = inverse @ observed
    step = max(fwhm_rel_sd, 0.02)
    scaled = None if widths_mm is None else widths_mm * (1 + step)
    wider = np.linalg.solve(transfer_matrix(parts, spreads(parts, resolution.scaled(1 + step), scaled)), observed)
    gather = parts.gather()
    activity = gather @ concentration
    change = gather @ wider - activity
    sensitivity = change / np.maximum(np.abs(activity), 1e-12) / np.log1p(step)
    return Corrected(
        parts,
        observed,
        concentration,
        matrix,
        inverse,
        activity,
        gather @ observed,
        np.asarray(sensitivity, np.float64),
        widths_mm,
    )
