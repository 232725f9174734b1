"""One scan of the reference patient through the physical chain: projections, counts, reconstruction."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tdt_core.phantom.spect.acquire import Counts, Projections, count, expected
from tdt_core.phantom.spect.attenuation import of_ct
from tdt_core.phantom.spect.camera import Camera, contour_orbit
from tdt_core.phantom.spect.osem import osem
from tdt_core.phantom.spect.projector import Mapper, Projector
from tdt_core.phantom.spect.sampling import halve

Float32 = npt.NDArray[np.float32]


def acquire(
    activity_mbq: Float32,
    mu_per_mm: Float32,
    spacing_mm: float,
    device: Camera,
    sensitivity_cps_per_mbq: float,
    duration_s: float,
    half_life_h: float,
    map: Mapper = map,
) -> Projections:
    """Expected projections of a patient given at half the scan's voxel size; the orbit follows the body."""
    radii = contour_orbit(halve(mu_per_mm) / np.float32(8), spacing_mm, device)
    weights = device.decay_weights(duration_s, half_life_h) / device.angles
    counts_per_mbq = sensitivity_cps_per_mbq * duration_s
    return expected(activity_mbq, mu_per_mm, spacing_mm, radii, device, counts_per_mbq, weights, map)


def reconstruct(data: Projections, counts: Counts, mu_per_mm: Float32, device: Camera, map: Mapper = map) -> Float32:
    """(z, y, x) counts per voxel of the whole acquisition as without attenuation; `mu_per_mm` is the scanner's own map.

    Over sensitivity x duration this is the activity (MBq per voxel, mean over the acquisition).
    """
    projector = Projector(mu_per_mm, data.spacing_mm, data.radii_mm, device)
    return osem(counts.peak, projector, data.weights, counts.scatter, map=map)


def physical_counts(
    activity_mbq: Float32,
    mu_per_mm: Float32,
    ct_hu: npt.NDArray[np.int16],
    spacing_mm: float,
    device: Camera,
    sensitivity_cps_per_mbq: float,
    duration_s: float,
    half_life_h: float,
    rng: np.random.Generator,
    map: Mapper = map,
) -> Float32:
    """Reconstructed counts per voxel of one scan, the physical counterpart of `imaging.spect_counts`.

    Parameters
    ----------
    activity_mbq, mu_per_mm : (2 z, 2 n, 2 n) truth at half voxels (`sampling.place`), activity as mean over the acquisition.
    ct_hu : (z, n, n) the scan's CT, from which the reconstruction takes its own attenuation.
    rng : counting noise of the three energy windows.
    """
    data = acquire(activity_mbq, mu_per_mm, spacing_mm, device, sensitivity_cps_per_mbq, duration_s, half_life_h, map)
    return reconstruct(data, count(data, device, rng), of_ct(ct_hu, device.energy_kev), device, map)
