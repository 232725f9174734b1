"""What the camera counts: unscattered photons at half the voxel size, scatter, counting noise and the scatter windows.

Scatter follows an effective source: the emission spread by a Gaussian, times the density relative to water, seen through the
same attenuation and collimator (in the manner of Frey and Tsui, IEEE NSS 1996;2:1082, with one assumed kernel in place of
tables). The scatter windows give the triple-energy-window estimate of Ogawa et al. (IEEE Trans Med Imaging 1991;10:408) with
its own noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tdt_core.phantom.imaging import SIGMA_PER_FWHM
from tdt_core.phantom.spect.attenuation import mass_attenuation_mm2_g
from tdt_core.phantom.spect.camera import Camera
from tdt_core.phantom.spect.projector import Mapper, Projector
from tdt_core.phantom.spect.sampling import halve

FloatArray = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Projections:
    """Data of one acquisition; arrays are (angles, across, z) float32.

    Attributes
    ----------
    primary, scattered : expected counts in the photopeak window.
    weights : (angles,) share of the acquisition per projection with the decay during it, sum 1.
    radii_mm : (angles,) orbit.
    """

    primary: Float32
    scattered: Float32
    weights: FloatArray
    radii_mm: FloatArray
    spacing_mm: float


@dataclass(frozen=True, eq=False)
class Counts:
    """A realisation: photopeak counts and the scatter estimate from the two scatter windows, both (angles, across, z)."""

    peak: Float32
    scatter: Float32


def scatter_source(activity: Float32, mu_per_mm: Float32, spacing_mm: float, device: Camera) -> Float32:
    """Effective source of scattered photons on the grid of `activity`, in its unit."""
    sigma = device.scatter_fwhm_mm * SIGMA_PER_FWHM / spacing_mm
    spread = ndimage.gaussian_filter(activity, sigma, mode="constant", truncate=3.0)
    water = mass_attenuation_mm2_g("water", device.energy_kev) / 1000
    return np.asarray(device.scatter_to_primary * spread * (mu_per_mm / np.float32(water)), np.float32)


def expected(
    activity_mbq: Float32,
    mu_per_mm: Float32,
    spacing_mm: float,
    radii_mm: FloatArray,
    device: Camera,
    counts_per_mbq: float,
    weights: FloatArray,
    map: Mapper = map,
) -> Projections:
    """Expected projections of an activity map at half the voxel size.

    Parameters
    ----------
    activity_mbq, mu_per_mm : (2 z, 2 n, 2 n), mean activity over the acquisition.
    spacing_mm : edge of the scan's voxel, twice that of the map's.
    counts_per_mbq : sensitivity x duration, without attenuation.
    """
    columns = np.asarray((activity_mbq > 0).any(axis=0))
    fine = Projector(mu_per_mm, spacing_mm / 2, radii_mm, device, columns)
    across, z = fine.plane_shape
    planes = fine.forward(activity_mbq, map)
    bins = planes.reshape(device.angles, across // 2, 2, z // 2, 2).sum(axis=(2, 4), dtype=np.float32)
    mu = halve(mu_per_mm) / np.float32(8)
    source = scatter_source(halve(activity_mbq), mu, spacing_mm, device)
    coarse = Projector(mu, spacing_mm, radii_mm, device, np.asarray((mu > 0).any(axis=0)))
    scale = (counts_per_mbq * weights).astype(np.float32)[:, None, None]
    return Projections(scale * bins, scale * coarse.forward(source, map), weights, radii_mm, spacing_mm)


def count(data: Projections, device: Camera, rng: np.random.Generator) -> Counts:
    """Poisson counts in the photopeak window and the scatter estimate from Poisson counts in the windows beside it."""
    peak = rng.poisson(data.primary.astype(np.float64) + data.scattered)
    share = device.tew_width / device.window_width
    # trapezoid: mean of the two windows per keV, over the photopeak window
    windows = sum(rng.poisson(data.scattered.astype(np.float64) * share * f) for f in (device.tew_lower, device.tew_upper))
    estimate = np.asarray(windows, np.float32) / np.float32(2 * share)
    sigma = device.tew_smoothing_fwhm_mm * SIGMA_PER_FWHM / data.spacing_mm
    smooth = ndimage.gaussian_filter(estimate, (0, sigma, sigma), mode="constant", truncate=4.0)
    return Counts(peak.astype(np.float32), np.asarray(smooth, np.float32))


def noise_free(data: Projections) -> Counts:
    """Expected counts with the scatter known."""
    return Counts(data.primary + data.scattered, data.scattered)


def without_scatter(device: Camera) -> Camera:
    """The same camera in a world without scatter."""
    return replace(device, scatter_to_primary=0.0)
