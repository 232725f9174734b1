"""The gamma camera: collimator-detector response, orbit, stops and decay.

Resolution of a parallel-hole collimator (Anger 1964; Cherry, Sorenson and Phelps): FWHM = d (l + z + b) / l with hole d,
effective length l = L - 2 / mu of the septa, distance z of the source from the collimator's face and mean depth b of the
interaction behind its back; the detector's intrinsic FWHM adds in quadrature. Photons through the septa are not followed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import xraydb

from tdt_core.errors import ModelError
from tdt_core.parameters import packaged_table
from tdt_core.phantom.spect.attenuation import BODY_PER_MM

FloatArray = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
CAMERA = "spect_camera.csv"


@dataclass(frozen=True)
class Camera:
    """Numbers of `spect_camera.csv`: lengths in mm, energies in keV, widths of windows relative to the peak.

    `effective_length_mm` is the collimator's length less two mean free paths in lead; `depth_mm` half the crystal.
    """

    energy_kev: float
    window_width: float
    hole_mm: float
    effective_length_mm: float
    intrinsic_fwhm_mm: float
    depth_mm: float
    gap_mm: float
    angles: int
    heads: int
    scatter_to_primary: float
    scatter_fwhm_mm: float
    tew_width: float
    tew_lower: float
    tew_upper: float
    tew_smoothing_fwhm_mm: float
    subsets: int
    iterations: int

    def __post_init__(self) -> None:
        for name in ("angles", "heads", "subsets", "iterations"):
            if getattr(self, name) < 1:
                raise ModelError(f"camera {name} = {getattr(self, name)}", expected=">= 1", kind="model.phantom")
        if self.angles % self.heads or self.angles % self.subsets:
            raise ModelError(
                f"{self.angles} angles for {self.heads} heads and {self.subsets} subsets",
                expected="a multiple of both",
                kind="model.phantom",
            )

    def fwhm_mm(self, distance_mm: FloatArray | float) -> FloatArray:
        """Width of the response to a point at distances (>= 0) from the collimator's face."""
        reach = self.effective_length_mm + np.maximum(distance_mm, 0.0) + self.depth_mm
        return np.asarray(np.hypot(self.hole_mm * reach / self.effective_length_mm, self.intrinsic_fwhm_mm))

    def angles_rad(self) -> FloatArray:
        """(angles,) rotation of the detector about the long axis; at 0 it looks from the high y side (posterior)."""
        return 2 * np.pi * np.arange(self.angles) / self.angles

    def decay_weights(self, duration_s: float, half_life_h: float) -> FloatArray:
        """(angles,) activity at each stop over its mean over the acquisition; heads move together, opposite each other."""
        stops = self.angles // self.heads
        at_h = (np.arange(self.angles) % stops + 0.5) / stops * duration_s / 3600.0
        weight = np.exp(-np.log(2) / half_life_h * at_h)
        return np.asarray(weight / weight.mean())


@cache
def camera() -> Camera:
    """The packaged camera with its medium-energy collimator at 208 keV."""
    p = packaged_table(CAMERA)
    v = {name: p.value(name) for name in p}
    lead_per_mm = float(xraydb.mu_elam("Pb", v["window.energy"] * 1000)) * v["collimator.lead_density"] / 10.0
    return Camera(
        energy_kev=v["window.energy"],
        window_width=v["window.width"],
        hole_mm=v["collimator.hole"],
        effective_length_mm=v["collimator.length"] - 2.0 / lead_per_mm,
        intrinsic_fwhm_mm=v["detector.intrinsic_fwhm"],
        depth_mm=v["detector.crystal"] / 2,
        gap_mm=v["orbit.gap"],
        angles=int(v["orbit.angles"]),
        heads=int(v["orbit.heads"]),
        scatter_to_primary=v["scatter.to_primary"],
        scatter_fwhm_mm=v["scatter.fwhm"],
        tew_width=v["tew.width"],
        tew_lower=v["tew.lower"],
        tew_upper=v["tew.upper"],
        tew_smoothing_fwhm_mm=v["tew.smoothing_fwhm"],
        subsets=int(v["osem.subsets"]),
        iterations=int(v["osem.iterations"]),
    )


def contour_orbit(mu_per_mm: Float32, spacing_mm: float, device: Camera) -> FloatArray:
    """(angles,) mm from the axis to the collimator's face: the outermost body voxel in that direction plus the gap.

    `mu_per_mm` is (z, y, x). Raises ModelError when there is no body.
    """
    columns = mu_per_mm.max(axis=0) > BODY_PER_MM
    if not columns.any():
        raise ModelError("no voxel of the attenuation map is body", expected="a body in the field", kind="model.phantom")
    j, i = np.nonzero(columns)
    y, x = (j - (columns.shape[0] - 1) / 2) * spacing_mm, (i - (columns.shape[1] - 1) / 2) * spacing_mm
    towards = np.stack([np.cos(t) * y - np.sin(t) * x for t in device.angles_rad()])
    return np.asarray(towards.max(axis=1) + spacing_mm / 2 + device.gap_mm)
