"""What the chain's images are like: recovery of spheres as an effective width, and the covariance of the noise.

Test objects are a warm elliptical water body with one sphere, and a uniform water cylinder; both are given to the chain at half
voxels. The numbers of `phantom_images_physical.csv` come from here (`tdt bench spect`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage, optimize

from tdt_core.phantom.imaging import SIGMA_PER_FWHM
from tdt_core.phantom.spect.acquire import count, noise_free
from tdt_core.phantom.spect.attenuation import mass_attenuation_mm2_g
from tdt_core.phantom.spect.camera import Camera
from tdt_core.phantom.spect.projector import Mapper
from tdt_core.phantom.spect.sampling import halve
from tdt_core.phantom.spect.scan import acquire, reconstruct

FloatArray = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
SENSITIVITY, DURATION_S, HALF_LIFE_H = 9.4, 1500.0, 160.0
"""Of the test acquisitions; only their product with the activity matters."""
NARROWEST_MM = 0.5
PER_AXIS = 4  # points per half voxel and axis that draw a sphere's edge


@dataclass(frozen=True, eq=False)
class TestObject:
    """An attenuating body on half voxels (1/mm) and its share of body per half voxel."""

    __test__ = False
    mu_per_mm: Float32
    body: Float32
    spacing_mm: float

    @property
    def scan_mu(self) -> Float32:
        """Attenuation on the scan grid."""
        return halve(self.mu_per_mm) / np.float32(8)

    @property
    def half_ml(self) -> float:
        """Volume of a half voxel."""
        return (self.spacing_mm / 2) ** 3 / 1000

    def axes(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Centres of the half voxels along z, y, x, mm from the middle."""
        return tuple((np.arange(n) - (n - 1) / 2) * self.spacing_mm / 2 for n in self.body.shape)


def water_body(spacing_mm: float, half_axes_mm: tuple[float, float], half_length_mm: float, device: Camera) -> TestObject:
    """A water cylinder with elliptical section; `half_axes_mm` are (y, x)."""
    n = 2 * int(np.ceil((max(half_axes_mm) + 2 * spacing_mm) / spacing_mm))
    nz = 2 * int(np.ceil((half_length_mm + 2 * spacing_mm) / spacing_mm))
    z, r = ((np.arange(2 * k) - (2 * k - 1) / 2) * spacing_mm / 2 for k in (nz, n))
    section = (r[:, None] / half_axes_mm[0]) ** 2 + (r[None, :] / half_axes_mm[1]) ** 2 < 1
    body = (section[None] & (np.abs(z) < half_length_mm)[:, None, None]).astype(np.float32)
    water = mass_attenuation_mm2_g("water", device.energy_kev) / 1000
    return TestObject(body * np.float32(water), body, spacing_mm)


def sphere(thing: TestObject, volume_ml: float, center_mm: tuple[float, float, float]) -> Float32:
    """Share of every half voxel that a sphere with centre (z, y, x) fills."""
    r2 = (volume_ml * 1000 * 0.75 / np.pi) ** (2 / 3)
    h = thing.spacing_mm / 2
    z, y, x = (a - c for a, c in zip(thing.axes(), center_mm, strict=True))
    out = np.zeros(thing.body.shape, np.float32)
    for dz, dy, dx in np.stack(np.meshgrid(*[(np.arange(PER_AXIS) - (PER_AXIS - 1) / 2) * h / PER_AXIS] * 3), -1).reshape(
        -1, 3
    ):
        out += (z + dz)[:, None, None] ** 2 + (y + dy)[None, :, None] ** 2 + (x + dx)[None, None, :] ** 2 < r2
    return np.asarray(out / PER_AXIS**3, np.float32)


def clean_image(thing: TestObject, concentration: Float32, device: Camera, map: Mapper = map) -> Float32:
    """Noise-free image of a concentration (per half voxel), in its unit on the scan grid."""
    data = acquire(concentration, thing.mu_per_mm, thing.spacing_mm, device, SENSITIVITY, DURATION_S, HALF_LIFE_H, map)
    return reconstruct(data, noise_free(data), thing.scan_mu, device, map) / np.float32(8 * SENSITIVITY * DURATION_S)


@dataclass(frozen=True)
class Recovery:
    """A sphere in a warm background: share of its contrast that lies in it, width of the Gaussian that recovers as much,
    highest voxel over the true concentration."""

    coefficient: float
    fwhm_mm: float
    overshoot: float


def recovery(
    thing: TestObject,
    volume_ml: float,
    center_mm: tuple[float, float, float],
    device: Camera,
    contrast: float = 10.0,
    map: Mapper = map,
) -> Recovery:
    """Noise-free recovery of a sphere, `contrast` times the background's concentration."""
    share = sphere(thing, volume_ml, center_mm)
    warm = 100 * thing.body
    hot = clean_image(thing, warm * (1 + (contrast - 1) * share), device, map)
    rise = (hot - clean_image(thing, warm, device, map)) / (100 * (contrast - 1))
    mask = halve(share) / 8
    norm = float((mask * mask).sum())
    coefficient = float((rise * mask).sum()) / norm

    def short(fwhm_mm: float) -> float:
        sigma = fwhm_mm * SIGMA_PER_FWHM / (thing.spacing_mm / 2)
        blurred = halve(np.asarray(ndimage.gaussian_filter(share, sigma, mode="constant"), np.float32)) / 8
        return float((blurred * mask).sum()) / norm - coefficient

    # overshoot can fill a sphere on coarse voxels: then nothing was lost
    fwhm = float(optimize.brentq(short, NARROWEST_MM, 60.0)) if short(NARROWEST_MM) > 0 else 0.0
    return Recovery(coefficient, fwhm, float(hot.max()) / (100 * contrast))


@dataclass(frozen=True, eq=False)
class Noise:
    """Noise of a uniform cylinder over its counts.

    Attributes
    ----------
    counts_per_ml : of the object, as without attenuation.
    radii_mm, density_per_ml : mean radius of rings, and relative variance of a voxel times counts per mL in them.
    correlation : (3, lags) along z, y, x at 1, 2, ... voxels, within the innermost rings.
    mean : reconstructed over true concentration.
    """

    counts_per_ml: float
    radii_mm: FloatArray
    density_per_ml: FloatArray
    correlation: FloatArray
    mean: float


def cylinder_noise(
    thing: TestObject, mbq_per_ml: float, repeats: int, device: Camera, seed: int, map: Mapper = map, lags: int = 5
) -> Noise:
    """Noise of `repeats` realisations of one acquisition of a uniform object, in three rings within 95 mm of its axis."""
    activity = thing.body * np.float32(mbq_per_ml * thing.half_ml)
    data = acquire(activity, thing.mu_per_mm, thing.spacing_mm, device, SENSITIVITY, DURATION_S, HALF_LIFE_H, map)
    counts = mbq_per_ml * SENSITIVITY * DURATION_S
    rngs = [np.random.default_rng([seed, k]) for k in range(repeats)]
    images = np.stack([reconstruct(data, count(data, device, rng), thing.scan_mu, device, map) for rng in rngs])
    mean = images.mean(axis=0)
    rest = images - mean
    z, y, x = ((np.arange(n) - (n - 1) / 2) * thing.spacing_mm for n in mean.shape)
    r = np.hypot(y[:, None], x[None, :])
    middle = (np.abs(z) < 50)[:, None, None]
    variance = (rest**2).sum(axis=0) / (repeats - 1)
    radii, density = [], []
    for low, high in ((0, 35), (35, 65), (65, 95)):
        ring = middle & ((r >= low) & (r < high))[None]
        radii.append(float(np.broadcast_to(r, mean.shape)[ring].mean()))
        density.append(float(variance[ring].mean() / mean[ring].mean() ** 2 * counts))
    inner = middle & (r < 80)[None]
    power = float((rest**2)[:, inner].mean())
    found = [
        [float((rest * np.roll(rest, -k, axis))[:, inner].mean()) / power for k in range(1, lags + 1)] for axis in (1, 2, 3)
    ]
    true = counts * thing.spacing_mm**3 / 1000
    return Noise(counts, np.array(radii), np.array(density), np.array(found), float(mean[inner].mean()) / true)


def width_of_region_mm(activity: Float32, image: Float32, region: npt.NDArray[np.bool_], spacing_mm: float) -> float:
    """FWHM of the Gaussian after which a region of the true `activity` holds as much as of the noise-free `image` (same unit).

    0 where nothing was lost, NaN where even the widest (60 mm) does not explain the loss. All (z, y, x).
    """
    reach = int(np.ceil(30.0 / spacing_mm))
    box = tuple(slice(max(int(q.min()) - reach, 0), int(q.max()) + reach + 1) for q in np.nonzero(region))
    part, mask = activity[box], region[box]
    held = float(image[region].sum())

    def short(fwhm_mm: float) -> float:
        return float(ndimage.gaussian_filter(part, fwhm_mm * SIGMA_PER_FWHM / spacing_mm, mode="constant")[mask].sum()) - held

    if short(NARROWEST_MM) <= 0:
        return 0.0
    return float(optimize.brentq(short, NARROWEST_MM, 60.0)) if short(60.0) < 0 else float("nan")


def gaussian_width_mm(correlation: FloatArray, spacing_mm: float) -> float:
    """FWHM of the Gaussian filter of white noise whose correlation exp(-d^2 / (4 sigma^2)) fits lags 1 and 2 best."""
    lag = spacing_mm * np.arange(1, 3)

    def miss(fwhm: float) -> float:
        return float(((np.exp(-(lag**2) / (4 * (fwhm * SIGMA_PER_FWHM) ** 2)) - correlation[:2]) ** 2).sum())

    return float(optimize.minimize_scalar(miss, bounds=(1.0, 40.0), method="bounded").x)
