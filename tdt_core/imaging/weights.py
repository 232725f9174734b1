"""How a region's activity lies on its voxels: non-negative weights that sum to 1, and draws of them.

The pattern is the registered images summed over time and sharpened by region-based voxel-wise correction (Thomas et al., Eur J
Nucl Med Mol Imaging 2011;38:1104; iterated as Yang): each voxel is multiplied by S / (psf * S), S the piecewise constant image
of the corrected compartments. It is then drawn towards a uniform region as far as noise and resolution leave it no evidence of
structure.

With `time_integration="hierarchical"` the pattern is the time-integrated activity of a fit of every voxel, drawn towards its
region's curve by the spread between voxels that the data show (`tdt_core.dosimetry.time_integration`), instead of the sum over
time: it follows voxels that hold their activity longer than others of their region.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tdt_core.dosimetry.time_integration import time_integrated_activity
from tdt_core.errors import InputError, ModelError
from tdt_core.imaging.error_budget import correlation_volume_ml
from tdt_core.imaging.partial_volume import Compartments, compartments, means, spreads, transfer_matrix
from tdt_core.imaging.quantification import REST, CycleImages
from tdt_core.imaging.resampling import fractions_on
from tdt_core.imaging.resolution import SIGMA_PER_FWHM, Resolution
from tdt_core.imaging.volume import LabelVolume
from tdt_core.parameters import packaged_table
from tdt_core.reproducible import one_blas_thread

Float32 = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]
TimeIntegration = Literal["regional_shape", "hierarchical"]


@dataclass(frozen=True, eq=False)
class VoxelWeights(Mapping[str, Float32]):
    """Weights of all regions in one array, since regions share no voxel.

    Attributes
    ----------
    array : (z, y, x) float32; over the voxels of each label it sums to 1.
    labels : the label volume whose regions the weights belong to.
    log_sd : (z, y, x) float32 sd of the log weight, for draws.
    """

    array: Float32
    labels: LabelVolume
    log_sd: Float32

    def __getitem__(self, name: str) -> Float32:
        """(z, y, x) weights of one region, 0 elsewhere."""
        if name not in self:
            raise KeyError(name)
        return np.where(self.labels.mask(name), self.array, np.float32(0))

    def __iter__(self) -> Iterator[str]:
        return iter(r.name for r in self.labels.regions)

    def __contains__(self, name: object) -> bool:
        return any(r.name == name for r in self.labels.regions)

    def __len__(self) -> int:
        return len(self.labels.regions)


def time_weights_h(times_h: Sequence[float]) -> FloatArray:
    """(n,) hours that each scan stands for: half the way to its neighbours, and as far beyond the first and last scan."""
    t = np.asarray(times_h, float)
    if len(t) == 1:
        return np.ones(1)
    if (np.diff(t) <= 0).any():
        raise InputError("two scans at the same time", expected="scan times that rise", kind="imaging.times")
    half = np.diff(t) / 2
    out = np.zeros(len(t))
    out[:-1] += half
    out[1:] += half
    out[0] += half[0]
    out[-1] += half[-1]
    return out


def _mean_resolution(images: CycleImages) -> Resolution:
    """Resolution of the time-summed image: that of the scan that stands for most hours, at the mean FWHM."""
    hours = time_weights_h([s.time_h for s in images.registered])
    fwhm = float(np.average([s.resolution.fwhm_mm for s in images.registered], weights=hours))
    heaviest = images.registered[int(np.argmax(hours))].resolution
    return heaviest.scaled(fwhm / heaviest.fwhm_mm)


@dataclass(frozen=True, eq=False)
class _Pattern:
    """How activity lies over time.

    total : (z, y, x) MBq h/mL; noise : its relative variance; weighed : noise was weighed against structure voxel by voxel.
    """

    total: Float32
    noise: Float32
    weighed: bool


def _scan_variances(images: CycleImages, fwhm: float) -> Iterator[Float32]:
    """(z, y, x) noise variance of each scan on the reference grid, (MBq/mL)^2.

    The variance follows the counts of the neighbourhood: noise density q over the local counts per mL.
    """
    p = packaged_table("imaging_parameters.csv")
    sigma = [fwhm * SIGMA_PER_FWHM / s for s in images.spacing_mm]
    for scan in images.registered:
        local = ndimage.gaussian_filter(scan.volume.array, sigma, mode="nearest")
        if scan.counts_per_mbq > 0:
            yield np.float32(p.value("weights.noise_density") / scan.counts_per_mbq) * local
        else:
            rel = p.value("noise.uncounted_rel_sd_1ml") ** 2 / correlation_volume_ml(fwhm)
            yield np.float32(rel) * local**2


def _summed(images: CycleImages, fwhm: float) -> _Pattern:
    """The images summed over the hours that each stands for."""
    hours = time_weights_h([s.time_h for s in images.registered])
    total = np.zeros(images.body.shape, np.float32)
    variance = np.zeros(images.body.shape, np.float32)
    for scan, dt, noise in zip(images.registered, hours, _scan_variances(images, fwhm), strict=True):
        total += np.float32(dt) * scan.volume.array
        variance += np.float32(dt**2) * noise
    smooth = ndimage.gaussian_filter(total, [fwhm * SIGMA_PER_FWHM / s for s in images.spacing_mm], mode="nearest")
    floor = np.float32(1e-6 * float(total.max()))
    return _Pattern(total, variance / np.maximum(smooth, floor) ** 2, False)


def _fitted(images: CycleImages, fwhm: float, start_h: float, correction: Float32) -> _Pattern:
    """Time-integrated activity by the hierarchical fit of every voxel; needs at least two scans after the administration.

    The scans are corrected first: what a region's border loses to the resolution is no spread between its voxels.
    """
    scans = np.stack([s.volume.array * correction for s in images.registered])
    sd = np.sqrt(np.stack(list(_scan_variances(images, fwhm))), dtype=np.float32) * correction
    least = np.float32(packaged_table("imaging_parameters.csv").value("weights.least_noise"))
    for noise in sd:
        np.maximum(noise, least * noise.max(), out=noise)
    fit = time_integrated_activity(
        np.maximum(scans, np.float32(0)),
        np.array([s.time_h - start_h for s in images.registered]),
        images.registered[0].nuclide,
        method="hierarchical",
        labels=images.labels.labels,
        sd_mbq=sd,
        outside="zero",
    )
    assert fit.sd_mbq_h is not None
    floor = np.float32(1e-6 * float(fit.tia_mbq_h.max()))
    return _Pattern(fit.tia_mbq_h, np.square(fit.sd_mbq_h / np.maximum(fit.tia_mbq_h, floor), dtype=np.float32), True)


def _pattern(images: CycleImages, time_integration: TimeIntegration, start_h: float) -> _Pattern:
    if time_integration not in get_args(TimeIntegration):
        raise ModelError(
            f"time_integration {time_integration!r}", expected=f"one of {get_args(TimeIntegration)}", kind="model.name"
        )
    resolution = _mean_resolution(images)
    summed = _summed(images, resolution.fwhm_mm)
    correction = _correction(images, summed.total, resolution)
    if time_integration == "hierarchical" and len(images.registered) > 1:
        return _fitted(images, resolution.fwhm_mm, start_h, correction)
    return replace(summed, total=summed.total * correction)


def _own_level(labels: npt.NDArray[np.int16], parts: Compartments, level: Mapping[str, float]) -> Float32:
    """(z, y, x) concentration of each labelled voxel's own region: the mean of its rind and core, or of shell and remote."""
    total, share = np.zeros(labels.shape, np.float32), np.zeros(labels.shape, np.float32)
    for name, mask, owner in zip(parts.names, parts.masks, parts.owner, strict=True):
        own = np.where(labels[mask.box] == (owner if owner >= 0 else parts.regions) + 1, mask.values, np.float32(0))
        total[mask.box] += np.float32(level[name]) * own
        share[mask.box] += own
    return np.divide(total, share, out=total, where=share > 0)


@one_blas_thread
def _correction(images: CycleImages, total: Float32, resolution: Resolution) -> Float32:
    """Factor per voxel that gives back what crosses the borders of regions.

    A labelled voxel is taken as filled by its own region, as the region's mean dose takes it: a border voxel that is half fat
    would else hold half, and what it lacks would raise the voxels deep inside (by 4 to 14 % in kidneys).
    """
    p = packaged_table("imaging_parameters.csv")
    regions = LabelVolume(
        np.where(images.labels.labels < len(images.regions), images.labels.labels, 0).astype(np.int16),
        images.affine,
        images.frame_of_reference,
        images.regions[:-1],
    )
    masks = fractions_on(regions, images.ct_hu)
    parts = compartments(masks, images.body.astype(np.float32), images.spacing_mm, resolution.fwhm_mm)
    blurred = spreads(parts, resolution)
    least = p.value("weights.least_concentration") * float(total[images.body].mean())
    # of the summed image itself: scans may cut a small region's core differently on their own grids
    solved = np.linalg.solve(transfer_matrix(parts, blurred), means(parts, total))
    level = dict(zip(parts.names, np.maximum(solved, least).tolist(), strict=True))
    for _ in range(int(p.value("weights.iterations"))):
        used = level
        flat, seen = np.zeros(total.shape, np.float32), np.zeros(total.shape, np.float32)
        for name, mask, wide in zip(parts.names, parts.masks, blurred, strict=True):
            flat[mask.box] += np.float32(used[name]) * mask.values
            seen[wide.box] += np.float32(used[name]) * wide.values
        np.maximum(seen, np.float32(1e-3 * least), out=seen)
        level = dict(zip(parts.names, np.maximum(means(parts, total * flat / seen), least).tolist(), strict=True))
    return np.divide(_own_level(images.labels.labels, parts, used), seen, dtype=np.float32)


def voxel_weights(
    images: CycleImages, time_integration: TimeIntegration = "regional_shape", start_h: float = 0.0
) -> VoxelWeights:
    """Weights of every region of a cycle, `rest` included, on the reference grid.

    time_integration : `regional_shape`, every voxel follows its region over time; `hierarchical`, a voxel has its own rate as
        far as the data show it (a single scan shows none: the first is used).
    start_h : time of the administration, on the clock of the scans.

    Per region the relative pattern r(v) = image / mean has the spatial variance s^2, of which noise explains n^2; the weight is
    1 + a (r - 1) with a = sqrt(max(0, 1 - n^2 / s^2)) V / (V + V_psf): the factor that leaves the pattern the variance of the
    structure (a constrained empirical Bayes estimate, Louis, J Am Stat Assoc 1984;79:393: the full shrinkage 1 - n^2 / s^2 errs
    a little less per voxel but narrows every dose-volume histogram), times the share of structure that the resolution shows in
    a region of volume V; the hierarchical fit has weighed noise before. A region without any counts is uniform.
    """
    resolution = _mean_resolution(images)
    found = _pattern(images, time_integration, start_h)
    p = packaged_table("imaging_parameters.csv")
    labels = images.labels.labels
    array = np.zeros(labels.shape, np.float32)
    log_sd = np.zeros(labels.shape, np.float32)
    boxes = ndimage.find_objects(labels, max_label=len(images.regions))
    psf_ml = (resolution.fwhm_mm / 10.0) ** 3
    for n, (region, box) in enumerate(zip(images.regions, boxes, strict=True), start=1):
        if box is None:
            if region.name == REST:
                continue
            raise InputError(f"region {region.name} has no voxel", expected="at least one voxel", kind="input.mask")
        inside = labels[box] == n
        values = found.total[box][inside].astype(np.float64)
        mean = values.mean()
        ratio = values / mean if mean > 0 else np.ones(values.shape)
        noise_here = found.noise[box][inside].astype(np.float64)
        observed, expected = float(ratio.var()), float(noise_here.mean())
        seen = region.volume_ml / (region.volume_ml + psf_ml)
        true = observed if found.weighed else max(0.0, observed - expected)
        share = seen * np.sqrt(true / observed) if observed > 0 else 0.0
        pattern = 1.0 + share * (ratio - 1.0)
        array[box][inside] = pattern / pattern.sum()
        # error of the shrunk pattern: noise that came through, structure that did not, and what the correction misses
        row = f"weights.unresolved_sd.{region.organ}"
        unresolved = p.value(row if row in p else "weights.unresolved_sd")
        log_sd[box][inside] = np.sqrt(np.log1p(share**2 * noise_here + (1 - share) ** 2 * true + unresolved**2))
    return VoxelWeights(array, images.labels, log_sd)


def weight_draws(images: CycleImages, best: VoxelWeights, n: int, seed: int | Sequence[int]) -> tuple[VoxelWeights, ...]:
    """`n` draws about the weights `best`: log-normal errors, correlated as reconstructed noise is, normalised per region.

    Draw k depends on `seed` and k only.
    """
    fwhm = _mean_resolution(images).fwhm_mm
    width = packaged_table("imaging_parameters.csv").value("noise.correlation_fwhm") * fwhm * SIGMA_PER_FWHM
    sigma = [width / s for s in images.spacing_mm]
    root = [seed] if isinstance(seed, int) else list(seed)
    labels = images.labels.labels
    out = []
    for k in range(n):
        white = np.random.default_rng([*root, k]).standard_normal(labels.shape, dtype=np.float32)
        field = ndimage.gaussian_filter(white, sigma, mode="wrap")
        field /= field.std()
        drawn = best.array * np.exp(best.log_sd * field)
        sums = np.bincount(labels.ravel(), weights=drawn.ravel(), minlength=len(images.regions) + 1)
        sums[0] = 1.0
        drawn /= np.where(sums > 0, sums, 1.0).astype(np.float32)[labels]
        out.append(VoxelWeights(drawn, images.labels, best.log_sd))
    return tuple(out)
