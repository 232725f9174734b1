"""Recovery by the geometric transfer matrix (Rousset, Ma and Evans, J Nucl Med 1998;39:904).

The image is the true activity blurred by a Gaussian of the calibration record's effective resolution. With regions j of
uniform concentration C_j that fill the share f_j(v) of voxel v, the mean of the image over region i is

    m_i = sum_j G_ij C_j,     G_ij = sum_v f_i(v) (psf * f_j)(v) / sum_v f_i(v)

so C = G^-1 m. The remainder of the body is no single region: each segmented region is wrapped in a shell of it, the rest is
`remote`; spill-in is thus corrected with the local surrounding, and the body's surface with the loss to air.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tdt_core.errors import InputError
from tdt_core.imaging.masks import grown
from tdt_core.imaging.resampling import Box, FractionMask
from tdt_core.parameters import packaged_table

FloatArray = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Spacing = tuple[float, float, float]

SIGMA_PER_FWHM = 1.0 / 2.3548200450309493
SHELL = "around/"
REMOTE = "remote"


@dataclass(frozen=True, eq=False)
class Compartments:
    """The body cut into compartments of assumed uniform concentration: regions, then their shells, then `remote`.

    Attributes
    ----------
    names : `kidney_left`, ..., `around/kidney_left`, ..., `remote`; empty compartments are left out.
    masks : share of each voxel, one per name; over the body they add to 1.
    regions : number of segmented regions, which stand first.
    shape, spacing_mm : of the grid.
    """

    names: tuple[str, ...]
    masks: tuple[FractionMask, ...]
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


def compartments(regions: Mapping[str, FractionMask], body: Float32, spacing_mm: Spacing, fwhm_mm: float) -> Compartments:
    """Cut the body into regions, shells and remote.

    Parameters
    ----------
    regions : share of each voxel by region, not overlapping.
    body : (z, y, x) share of each voxel inside the body; widened where a region lies outside.
    fwhm_mm : sets the shells' thickness (`partial_volume.shell` x FWHM).

    Raises
    ------
    InputError (`input.mask`) for a region without volume.
    """
    reach = packaged_table("imaging_parameters.csv").value("partial_volume.shell") * fwhm_mm
    shape = (body.shape[0], body.shape[1], body.shape[2])
    rest = body.astype(np.float32)
    for name, mask in regions.items():
        if mask.voxels <= 0:
            raise InputError(f"region {name} has no voxel", expected="at least one voxel", kind="input.mask")
        rest[mask.box] -= mask.values
    np.clip(rest, 0.0, 1.0, out=rest)
    owner = np.zeros(shape, np.int16)
    nearest = np.full(shape, np.float32(reach))
    margin = _margin(reach, spacing_mm)
    boxes = []
    for n, mask in enumerate(regions.values(), start=1):
        box = grown(mask.box, margin, shape)
        boxes.append(box)
        inside = np.zeros([s.stop - s.start for s in box], bool)
        inside[within(mask.box, box)] = mask.values >= 0.5 * mask.values.max()
        distance = ndimage.distance_transform_edt(~inside, sampling=spacing_mm).astype(np.float32)
        closer = distance < nearest[box]
        nearest[box][closer] = distance[closer]
        owner[box][closer] = n
    names, masks = list(regions), list(regions.values())
    for n, (name, box) in enumerate(zip(regions, boxes, strict=True), start=1):
        shell = FractionMask(box, np.where(owner[box] == n, rest[box], np.float32(0)))
        if shell.voxels > 1.0:
            names.append(SHELL + name)
            masks.append(shell)
        else:
            owner[box][owner[box] == n] = 0
    remote = FractionMask(
        (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])), np.where(owner == 0, rest, np.float32(0))
    )
    if remote.voxels > 1.0:
        names.append(REMOTE)
        masks.append(remote)
    return Compartments(tuple(names), tuple(masks), len(regions), shape, spacing_mm)


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


def spread(mask: FractionMask, shape: tuple[int, int, int], spacing_mm: Spacing, fwhm_mm: float) -> FractionMask:
    """Region spread function: the mask blurred by the Gaussian, on the box that it reaches. What leaves the grid is lost."""
    sigma = [fwhm_mm * SIGMA_PER_FWHM / s for s in spacing_mm]
    radius = [int(4.0 * s + 0.5) for s in sigma]
    box = grown(mask.box, (radius[0], radius[1], radius[2]), shape)
    padded = np.zeros([s.stop - s.start for s in box], np.float32)
    padded[within(mask.box, box)] = mask.values
    return FractionMask(box, ndimage.gaussian_filter(padded, sigma, mode="constant", truncate=4.0))


def overlap(one: FractionMask, other: FractionMask) -> float:
    """Sum over the grid of the product of two masks."""
    box = _common(one.box, other.box)
    if box is None:
        return 0.0
    a, b = one.values[within(box, one.box)], other.values[within(box, other.box)]
    return float(np.vdot(a, b)) if a.size < 4096 else float(np.einsum("ijk,ijk->", a, b, dtype=np.float64))


def spreads(parts: Compartments, fwhm_mm: float) -> tuple[FractionMask, ...]:
    """Spread function of each compartment."""
    return tuple(spread(m, parts.shape, parts.spacing_mm, fwhm_mm) for m in parts.masks)


def transfer_matrix(parts: Compartments, blurred: tuple[FractionMask, ...]) -> FloatArray:
    """(k, k) G_ij: mean over compartment i of the spread function of j. Each row sums to at most 1."""
    size = np.array([m.voxels for m in parts.masks])
    n = len(parts.masks)
    shared = np.zeros((n, n))
    for i in range(n):
        for j in range(i, n):
            # the Gaussian is symmetric: one product serves both directions
            shared[i, j] = shared[j, i] = overlap(parts.masks[i], blurred[j])
    return np.asarray(shared / size[:, None])


def means(parts: Compartments, image: Float32) -> FloatArray:
    """(k,) mean of the image over each compartment, MBq/mL."""
    return np.array([float(np.einsum("ijk,ijk->", m.values, image[m.box], dtype=np.float64)) / m.voxels for m in parts.masks])


@dataclass(frozen=True, eq=False)
class Corrected:
    """Partial-volume corrected concentrations of all compartments, in their order.

    Attributes
    ----------
    observed, concentration : (k,) means of the image and corrected, MBq/mL; corrected ones may be negative here.
    matrix : (k, k) G. inverse : G^-1.
    fwhm_shift : (k,) relative change of the concentration when the FWHM rises by 1 sd.
    fwhm_sensitivity : (k,) d ln C / d ln FWHM.
    """

    parts: Compartments
    observed: FloatArray
    concentration: FloatArray
    matrix: FloatArray
    inverse: FloatArray
    fwhm_shift: FloatArray
    fwhm_sensitivity: FloatArray

    @property
    def recovery(self) -> FloatArray:
        """(k,) diagonal of G: the share of a compartment's own concentration that its mean keeps."""
        return np.diag(self.matrix).copy()

    def spill_in(self) -> FloatArray:
        """(k, k) part of the mean of i that comes from compartment j, MBq/mL; zero diagonal."""
        out = self.matrix * self.concentration[None, :]
        np.fill_diagonal(out, 0.0)
        return out


def correct(parts: Compartments, image: Float32, fwhm_mm: float, fwhm_rel_sd: float) -> Corrected:
    """Solve the geometric transfer matrix for an image (MBq/mL on the grid of `parts`), and how it answers to the FWHM.

    Nothing is clipped: a negative concentration is a legal answer here, and the error budget decides what it is worth.
    """
    observed = means(parts, image)
    matrix = transfer_matrix(parts, spreads(parts, fwhm_mm))
    inverse = np.asarray(np.linalg.inv(matrix), np.float64)
    concentration = inverse @ observed
    step = max(fwhm_rel_sd, 0.02)
    wider = np.linalg.solve(transfer_matrix(parts, spreads(parts, fwhm_mm * (1 + step))), observed)
    scale = np.maximum(np.abs(concentration), 1e-12)
    relative = (wider - concentration) / scale
    sensitivity: FloatArray = np.asarray(relative / np.log1p(step), np.float64)
    return Corrected(parts, observed, concentration, matrix, inverse, sensitivity * fwhm_rel_sd, sensitivity)
