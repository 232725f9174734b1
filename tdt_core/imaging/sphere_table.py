"""Width of the response from a scanner's sphere phantom: how far a reconstruction has converged depends on what it shows.

Iterative reconstruction sharpens an edge the sooner, the more of the counts of its projections come from it. Hot regions in a
cold body are therefore sharper than warm ones, and one width measured at one contrast is wrong for the others. The law

    FWHM = w (ratio / 20)^p exp(s r) (body / 150 mm)^b

(ratio to the surroundings, distance r from the axis, mean distance from the axis to the body's surface, which the collimators
follow) is empirical; its four numbers are fitted to the measured recoveries with weak priors (`spheres.*` in
`imaging_parameters.csv`), so that a table of one body, one ratio or one place can be used too, as far as it says something.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage, optimize

from tdt_core.errors import CalibrationError
from tdt_core.imaging.partial_volume import (
    CORE,
    SHELL,
    Compartments,
    Corrected,
    concentrations,
    correct,
    overlap,
    spread,
    within,
)
from tdt_core.imaging.resampling import FractionMask, grown
from tdt_core.imaging.resolution import Resolution
from tdt_core.parameters import packaged_table
from tdt_core.twin import SphereTable

FloatArray = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
RATIO, BODY_MM = 20.0, 150.0
WIDTHS_MM = np.geomspace(0.5, 40.0, 23)
OFFSETS = (0.0, 0.29)  # of a sphere's centre from a voxel's, in voxels
PER_AXIS = 5  # points per voxel and axis that draw a sphere's edge
ANGLES = 60
ROUNDS = 2


@dataclass(frozen=True)
class WidthLaw:
    """FWHM (mm) by ratio, distance from the axis and body; `rel_sd` is the spread of single spheres about it."""

    log_width: float
    ratio_power: float
    radius_slope: float
    body_power: float
    rel_sd: float
    ratios: tuple[float, float]

    def fwhm_mm(self, ratio: float, radius_mm: float, body_mm: float) -> float:
        """Width; beyond the ratios of the phantom it follows the law for a factor of two, then stays."""
        inside = min(max(ratio, self.ratios[0] / 2), self.ratios[1] * 2)
        log = self.log_width + self.ratio_power * np.log(inside / RATIO) + self.radius_slope * radius_mm
        return float(np.exp(log + self.body_power * np.log(body_mm / BODY_MM)))


def sphere_mask(volume_ml: float, voxel_mm: float, offset: float) -> tuple[FractionMask, tuple[int, int, int]]:
    """A sphere on a cubic grid, its centre `offset` voxels beside a voxel's centre on each axis, and the grid's shape."""
    radius = (volume_ml * 1000 * 0.75 / np.pi) ** (1 / 3) / voxel_mm
    n = 2 * int(np.ceil(radius + 1)) + 1
    points = (np.arange(n * PER_AXIS) + 0.5) / PER_AXIS - 0.5 - (n - 1) / 2 - offset
    square = points**2
    inside = square[:, None, None] + square[None, :, None] + square[None, None, :] < radius**2
    share = inside.reshape(n, PER_AXIS, n, PER_AXIS, n, PER_AXIS).mean(axis=(1, 3, 5), dtype=np.float32)
    margin = int(np.ceil(WIDTHS_MM[-1] / voxel_mm))
    box = (slice(margin, margin + n),) * 3
    return FractionMask(box, share), (n + 2 * margin,) * 3


@lru_cache(maxsize=256)
def recoveries(volume_ml: float, voxel_mm: float) -> FloatArray:
    """(23,) log recovery of a sphere at `WIDTHS_MM`, by the same sums that regions are corrected with."""
    out = np.zeros(len(WIDTHS_MM))
    for offset in OFFSETS:
        mask, shape = sphere_mask(volume_ml, voxel_mm, offset)
        spacing = (voxel_mm, voxel_mm, voxel_mm)
        out += [overlap(mask, spread(mask, shape, spacing, float(w), narrow=True)) / mask.voxels for w in WIDTHS_MM]
    return np.asarray(np.log(out / len(OFFSETS)))


@lru_cache(maxsize=16)
def fit_widths(table: SphereTable) -> WidthLaw:
    """The law through a phantom's recoveries: least squares of log recovery with the priors.

    Raises
    ------
    CalibrationError (`calibration.spheres`) where no sphere of at least `spheres.smallest` mL is left.
    """
    p = packaged_table("imaging_parameters.csv")
    used = [r for r in table.rows if r.volume_ml >= p.value("spheres.smallest")]
    if not used:
        raise CalibrationError(
            "a sphere phantom without a sphere large enough",
            expected=f"spheres of at least {p.value('spheres.smallest'):g} mL",
            remedy="measure larger spheres, or state the resolution alone",
            kind="calibration.spheres",
        )
    x = np.array([[1.0, np.log(r.ratio / RATIO), r.radius_mm, np.log(r.body_mm / BODY_MM)] for r in used])
    measured = np.log([r.recovery for r in used])
    curves = [recoveries(r.volume_ml, table.voxel_mm) for r in used]
    rows = [p[f"spheres.{name}"] for name in ("ratio_power", "radius_slope", "body_power")]
    prior, prior_sd = np.array([r.value for r in rows]), np.array([r.sd for r in rows])
    # spheres differ by where their edges lie on the voxels and by their place, beside the error of measuring
    sd = float(np.hypot(table.rel_sd, p.value("spheres.recovery_rel_sd")))
    grid = np.log(WIDTHS_MM)

    def miss(theta: FloatArray) -> FloatArray:
        expected = np.array([np.interp(w, grid, c) for w, c in zip(x @ theta, curves, strict=True)])
        return np.concatenate([(expected - measured) / sd, (theta[1:] - prior) / prior_sd])

    found = optimize.least_squares(miss, np.concatenate([[np.log(8.0)], prior]), x_scale=[1.0, 0.3, 0.003, 1.0])
    theta = found.x
    slope = np.array(
        [(np.interp(w + 0.1, grid, c) - np.interp(w - 0.1, grid, c)) / 0.2 for w, c in zip(x @ theta, curves, strict=True)]
    )
    left = miss(theta)[: len(used)] * sd
    # spread of the width that explains what is left; recovery says nothing of the width where its slope is small
    rel_sd = float(np.sqrt((left**2).sum() / max(float((slope**2).sum()), 1e-6)))
    known = [r.ratio for r in used]
    return WidthLaw(float(theta[0]), float(theta[1]), float(theta[2]), float(theta[3]), rel_sd, (min(known), max(known)))


def mean_extent_mm(body: npt.NDArray[np.bool_] | Float32, spacing_mm: tuple[float, float, float]) -> float:
    """Mean over directions of the distance from the axis (middle of the grid) to the body's outermost voxel, (z, y, x) body."""
    columns = np.asarray(body > 0.5).any(axis=0)
    j, i = np.nonzero(columns)
    y, x = ((k - (n - 1) / 2) * s for k, n, s in zip((j, i), columns.shape, spacing_mm[1:], strict=True))
    angles = 2 * np.pi * np.arange(ANGLES) / ANGLES
    reach = np.max(np.cos(angles)[:, None] * y[None] + np.sin(angles)[:, None] * x[None], axis=1)
    return float(reach.mean() + (spacing_mm[1] + spacing_mm[2]) / 4)


def ratios(parts: Compartments, concentration: FloatArray) -> FloatArray:
    """(regions,) concentration of each region over the mean of what lies around it, at least 1.

    Around it is what lies within `spheres.surroundings` mm of it beyond the voxels that it touches, of the image of uniform
    compartments; air counts as empty.
    """
    reach_mm = packaged_table("imaging_parameters.csv").value("spheres.surroundings")
    level = np.maximum(concentration, 0.0)
    flat = np.zeros(parts.shape, np.float32)
    for mask, c in zip(parts.masks, level, strict=True):
        flat[mask.box] += np.float32(c) * mask.values
    volume = parts.volumes_ml()
    owner = np.array(parts.owner)
    out = np.ones(parts.regions)
    a, b, c = (int(np.ceil(reach_mm / s)) + 1 for s in parts.spacing_mm)
    for n in range(parts.regions):
        mine = np.flatnonzero(owner == n)
        whole = [parts.masks[k] for k in mine]
        box = grown(whole[0].box, (a, b, c), parts.shape)
        touched = np.zeros([s.stop - s.start for s in box], bool)
        for m in whole:
            touched[within(m.box, box)] |= m.values > 0
        distance = ndimage.distance_transform_edt(~touched, sampling=parts.spacing_mm)
        around = (distance > 0) & (distance <= reach_mm)
        inside = float(np.average(level[mine], weights=volume[mine]))
        outside = float(flat[box][around].mean()) if around.any() else 0.0
        out[n] = max(inside / max(outside, 1e-6 * inside), 1.0) if inside > 0 else 1.0
    return out


def widths(parts: Compartments, concentration: FloatArray, law: WidthLaw, resolution: Resolution, body_mm: float) -> FloatArray:
    """(k,) FWHM of each compartment: the law's for regions, cores and shells (whose edge it is), else the record's."""
    position = {name: n for n, name in enumerate(parts.names[: parts.regions])}
    ratio = ratios(parts, concentration)
    out = np.empty(len(parts.masks))
    for k, (name, mask) in enumerate(zip(parts.names, parts.masks, strict=True)):
        owner = position.get(name.removeprefix(CORE).removeprefix(SHELL))
        if owner is None:
            out[k] = resolution.of(mask, parts.shape, parts.spacing_mm)
        else:
            out[k] = law.fwhm_mm(ratio[owner], radius_mm(parts.masks[owner], parts), body_mm)
    return out


def radius_mm(mask: FractionMask, parts: Compartments) -> float:
    """Mean distance of a region from the axis."""
    plane = mask.values.sum(axis=0, dtype=np.float64)
    y, x = (
        (np.arange(s.start, s.stop) - (n - 1) / 2) * step
        for s, n, step in zip(mask.box[1:], parts.shape[1:], parts.spacing_mm[1:], strict=True)
    )
    return float((plane * np.hypot(y[:, None], x[None, :])).sum() / plane.sum())


def correct_by_spheres(
    parts: Compartments,
    image: Float32,
    resolution: Resolution,
    fwhm_rel_sd: float,
    table: SphereTable,
    body: npt.NDArray[np.bool_] | Float32,
) -> Corrected:
    """`partial_volume.correct` with widths by each region's ratio to its surroundings, which the correction itself tells.

    The first ratios come from the record's own resolution; `body` is (z, y, x), as for `mean_extent_mm`.
    """
    law, extent = fit_widths(table), mean_extent_mm(body, parts.spacing_mm)
    own = None
    for _ in range(ROUNDS):
        own = widths(parts, concentrations(parts, image, resolution, own), law, resolution, extent)
    return correct(parts, image, resolution, fwhm_rel_sd, own)
