"""The parts of a region activity's error, each as a relative 1-sigma, from the image itself and stated assumptions.

counts          noise of the means through the inverse transfer matrix
calibration     the calibration record
resolution      one error of the record's FWHM that moves all regions of its scans together
partial volume  resolution that changes with place, structure inside the region, structure of what spills in, few voxels
segmentation    a common shift of the contour, through mean, volume and transfer matrix
registration    the image under a displaced mask

Sources and status of every number: `imaging_parameters.csv`; derivations: `docs/quantification.md`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import log_ndtr

from tdt_core.imaging.masks import surface_cm2
from tdt_core.imaging.partial_volume import Compartments, Corrected, overlap, spread, within
from tdt_core.imaging.resampling import FractionMask, grown
from tdt_core.imaging.resolution import SIGMA_PER_FWHM, Resolution
from tdt_core.parameters import packaged_table

FloatArray = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]


def _p(name: str) -> float:
    return packaged_table("imaging_parameters.csv").value(name)


def correlation_volume_ml(fwhm_mm: float) -> float:
    """Volume over which reconstructed noise is one value: integral of the autocorrelation of a Gaussian filter, mL."""
    sigma = _p("noise.correlation_fwhm") * fwhm_mm * SIGMA_PER_FWHM
    return float((4 * np.pi * sigma**2) ** 1.5) / 1000.0


def count_sd(corrected: Corrected, counts_per_mbq: float, fwhm_mm: float) -> FloatArray:
    """(regions + 1,) sd of the activities (MBq) from noise, carried through the inverse transfer matrix.

    The relative variance of the mean over volume V holding c counts per mL is (q / c) V_c / (V + V_c), with q the noise density
    and V_c the correlation volume: q V_c / (c V) for a large region, q / c for a point. Noise of neighbours is taken as
    independent. Where counts are unknown (`counts_per_mbq` 0), the stated relative sd of 1 mL is used.
    """
    volume = corrected.parts.volumes_ml()
    mean = np.maximum(corrected.observed, 0.0)
    if counts_per_mbq > 0:
        correlated = correlation_volume_ml(fwhm_mm)
        variance = _p("noise.spect_density") * mean / counts_per_mbq * correlated / (volume + correlated)
    else:
        variance = (_p("noise.uncounted_rel_sd_1ml") * mean) ** 2 / np.maximum(volume, 0.1)
    through = corrected.parts.gather() @ corrected.inverse
    return np.asarray(np.sqrt(through**2 @ variance))


def position_rel_sd(resolution: Resolution) -> float:
    """Relative sd of the FWHM at one place beside its common error: small where the record states it by radius."""
    return _p("resolution.profile_rel_sd" if resolution.by_radius_mm else "resolution.position_rel_sd")


def sphere_rel_sd(spread_of_spheres: float) -> float:
    """Relative sd of the width that a sphere phantom gives a region: spread between spheres, and from spheres to organs."""
    return float(np.hypot(spread_of_spheres, _p("spheres.organ_rel_sd")))


def partial_volume_sd(corrected: Corrected, position_rel_sd: float) -> FloatArray:
    """(regions + 1,) sd of the activities (MBq) from place-dependent resolution and from structure taken as uniform.

    A region's own structure changes its recovery in proportion to what it loses; what spills in varies about its mean, more for
    the surrounding than for a segmented neighbour. What the regions take too much, the remainder lacks. A stray share of all
    activity (scatter, septal penetration) is lost by each region and lies spread over the body. The common error of the
    record's FWHM is not here: it moves all regions together.
    """
    n = corrected.parts.regions
    recovery = corrected.own_recovery()
    size = np.abs(corrected.activity)
    structure = np.full(n + 1, _p("partial_volume.non_uniformity"))
    # a rind and a core of their own already take up half of it
    structure[[o for k, o in enumerate(corrected.parts.owner) if k >= n and o >= 0]] *= 0.5
    own = structure * (1 - recovery) * size
    cv = np.where(np.array(corrected.parts.owner) < 0, _p("partial_volume.background"), _p("partial_volume.non_uniformity"))
    from_others = np.sqrt(((corrected.spill_in() * cv[None, :]) ** 2).sum(axis=1)) / np.maximum(recovery, 0.05)
    resolution = np.abs(corrected.fwhm_sensitivity) * position_rel_sd * size
    out = np.sqrt(own**2 + from_others**2 + resolution**2)
    # one cause moves all regions the same way, so their errors add up in the remainder
    out[n] = np.hypot(resolution[n], np.hypot(own[:n], from_others[:n]).sum())
    volume = corrected.parts.gather().sum(axis=1)
    stray = _p("partial_volume.stray") * (size + size.sum() * volume / volume.sum())
    return np.asarray(np.hypot(out, stray))


def volume_rel_sd(mask: FractionMask, spacing_mm: tuple[float, float, float]) -> float:
    """Relative sd of a region's volume when its contour shifts as a whole: surface x shift / volume, capped."""
    volume_ml = mask.voxels * float(np.prod(spacing_mm)) / 1000.0
    linear = surface_cm2(mask, spacing_mm) * _p("segmentation.boundary_shift") / 10.0 / volume_ml
    return float(min(linear, _p("segmentation.largest_volume_rel_sd")))


def _shifted(mask: FractionMask, free: Float32, spacing_mm: tuple[float, float, float], outward: bool) -> FractionMask:
    """The region with its surface moved so far that its volume changes by one sd; it takes no voxel of another region."""
    box = grown(mask.box, (1, 1, 1), free.shape)
    inside = np.zeros([s.stop - s.start for s in box], np.float32)
    inside[within(mask.box, box)] = mask.values
    cross = ndimage.generate_binary_structure(3, 1)
    if outward:
        change = np.minimum(ndimage.grey_dilation(inside, footprint=cross) - inside, free[box])
    else:
        change = ndimage.grey_erosion(inside, footprint=cross, mode="nearest") - inside
    total = abs(float(change.sum()))
    if total <= 0:
        return mask
    share = min(volume_rel_sd(mask, spacing_mm) * mask.voxels / total, 1.0)
    return FractionMask(box, inside + np.float32(share) * change)


def segmentation_rel(
    corrected: Corrected,
    masks: Mapping[str, FractionMask],
    image: Float32,
    resolution: Resolution,
) -> FloatArray:
    """(regions,) relative change of each region's activity when its contour moves outward by 1 sd.

    Half the difference between a contour moved outward and one moved inward: mean, recovery and spill-in are computed again,
    the other compartments stay. Activity answers less than volume does, because a contour that is too wide lowers the mean by
    much of what it adds in volume.
    """
    parts = corrected.parts
    free = np.zeros(parts.shape, np.float32)
    for mask, owner in zip(parts.masks, parts.owner, strict=True):
        if owner < 0:
            free[mask.box] += mask.values
    spill = corrected.spill_in().sum(axis=1)
    out = np.zeros(len(masks))
    for i, mask in enumerate(masks.values()):
        own = corrected.widths_mm
        narrow = own is not None
        fwhm_mm = resolution.of(mask, parts.shape, parts.spacing_mm) if own is None else float(own[i])
        _, before, at_rest = _read(mask, image, parts, fwhm_mm, 0.0, 1.0, narrow)
        foreign = spill[i] / parts.voxel_ml / mask.voxels
        sides = []
        for outward in (True, False):
            moved = _shifted(mask, free, parts.spacing_mm, outward)
            sides.append(_read(moved, image, parts, fwhm_mm, foreign, 1 - at_rest, narrow)[0])
        still = _read(mask, image, parts, fwhm_mm, foreign, 1 - at_rest, narrow)[0]
        out[i] = min(abs(sides[0] - sides[1]) / 2 / abs(still), 1.0) if before > 0 and still != 0 else 1.0
    return out


def coarse_label_rel(label_voxels: float) -> float:
    """Relative sd of a region's activity because few labelled voxels say little about its shape."""
    return _p("labels.coarse") / max(label_voxels, 1.0)


def _read(
    mask: FractionMask, image: Float32, parts: Compartments, fwhm_mm: float, spill: float, lost: float, narrow: bool = False
) -> tuple[float, float, float]:
    """Activity (in voxel units) that one uniform region would have; its mean; its own recovery.

    `spill` is the foreign part of the mean of a mask that loses the share `lost` of its own: it falls as that share does.
    """
    own = overlap(mask, spread(mask, parts.shape, parts.spacing_mm, fwhm_mm, narrow)) / mask.voxels
    mean = _mean(mask, image)
    return (mean - spill * (1 - own) / max(lost, 1e-6)) / own * mask.voxels, mean, own


def _mean(mask: FractionMask, image: Float32) -> float:
    return float(np.einsum("ijk,ijk->", mask.values, image[mask.box], dtype=np.float64)) / mask.voxels


def registration_rel(mask: FractionMask, image: Float32, spacing_mm: tuple[float, float, float], sd_mm: float) -> float:
    """Relative sd of a region's mean when image and mask are displaced by a normal error of `sd_mm` along each axis.

    Slope g and curvature h along each axis from the mask moved by one voxel either way; the variance of
    sum_a (g_a d_a + h_a d_a^2 / 2) plus its squared mean, for d normal.
    """
    middle = _mean(mask, image)
    if middle <= 0 or sd_mm <= 0:
        return 0.0 if sd_mm <= 0 else 1.0
    slopes, bends = [], []
    for axis, s in enumerate(spacing_mm):
        below, above = (_moved_mean(mask, image, axis, step) for step in (-1, 1))
        slopes.append((above - below) / (2 * s))
        bends.append((above - 2 * middle + below) / s**2)
    linear = sum(g**2 for g in slopes) * sd_mm**2
    bend = sum(h**2 for h in bends) * sd_mm**4 / 2 + (sum(bends) * sd_mm**2 / 2) ** 2
    return float(np.sqrt(linear + bend)) / middle


def _moved_mean(mask: FractionMask, image: Float32, axis: int, step: int) -> float:
    """Mean over the mask moved by `step` voxels along one axis; what leaves the grid does not count."""
    where, part = list(mask.box), [slice(None)] * 3
    start, stop = where[axis].start + step, where[axis].stop + step
    where[axis] = slice(max(start, 0), min(stop, image.shape[axis]))
    part[axis] = slice(where[axis].start - start, where[axis].stop - start)
    values = mask.values[tuple(part)]
    inside = float(values.sum(dtype=np.float64))
    return float(np.einsum("ijk,ijk->", values, image[tuple(where)], dtype=np.float64)) / max(inside, 1e-9)


def positive(value: float, sd: float) -> tuple[float, float]:
    """Mean and relative sd of a quantity that cannot be negative, measured as `value` +- `sd`.

    The mean and sd of the normal law cut at zero: equal to (value, sd / |value|) when the value is many sd above zero, and a
    positive, wide answer near or below zero, fit for a logarithm.
    """
    if sd <= 0:
        return max(value, 0.0), 0.0
    z = value / sd
    hazard = float(np.exp(-0.5 * z * z - 0.5 * np.log(2 * np.pi) - log_ndtr(z)))
    mean = value + sd * hazard
    variance = sd**2 * max(1 - z * hazard - hazard**2, 1e-6)
    return mean, float(np.sqrt(variance)) / mean
