"""Analytic bodies for the imaging tests: a trunk with lungs, spine and ellipsoid organs, evaluated at any rigid position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tdt_core.imaging.regions import region_named
from tdt_core.imaging.volume import LabelVolume, Scan, Volume
from tdt_core.twin import CalibrationRecord

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Organ:
    name: str
    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    mbq_ml: float


ORGANS = (
    Organ("liver", (-60.0, -10.0, 60.0), (60.0, 55.0, 45.0), 0.05),
    Organ("kidney_left", (62.0, 40.0, -30.0), (28.0, 26.0, 50.0), 0.5),
    Organ("kidney_right", (-62.0, 40.0, -40.0), (28.0, 26.0, 50.0), 0.4),
    Organ("lesion/L1", (40.0, -40.0, -70.0), (13.0, 13.0, 13.0), 1.0),
)
BACKGROUND = 0.005
RECORD = CalibrationRecord("D", "W", "C", "R", "Lu-177", 10.0, 0.04, 11.0, 0.07, "2026-01-01", "test")


def affine_of(shape: tuple[int, int, int], spacing_mm: float) -> FloatArray:
    out = np.eye(4)
    out[:3, :3] = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]) * spacing_mm
    out[:3, 3] = -np.array(shape[::-1]) * spacing_mm / 2
    return out


def rigid(shift_mm: tuple[float, float, float] = (0, 0, 0), angles_deg: tuple[float, float, float] = (0, 0, 0)) -> FloatArray:
    out = np.eye(4)
    out[:3, :3] = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    out[:3, 3] = shift_mm
    return out


def _points(shape: tuple[int, int, int], affine: FloatArray, motion: FloatArray, parts: int) -> list[FloatArray]:
    """Sub-voxel points in the body's own coordinates, one (3, z, y, x) array per sub-voxel; `motion` moves the body."""
    back = np.linalg.inv(motion)
    index = np.indices(shape).reshape(3, -1)
    offsets = (np.arange(parts) + 0.5) / parts - 0.5
    out = []
    for dz in offsets:
        for dy in offsets:
            for dx in offsets:
                p = affine[:3, :3] @ (index + np.array([[dz], [dy], [dx]])) + affine[:3, 3:]
                out.append((back[:3, :3] @ p + back[:3, 3:]).reshape(3, *shape))
    return out


def _in_body(p: FloatArray) -> npt.NDArray[np.bool_]:
    x, y, z = p
    wave = 1 + 0.1 * np.sin(z / 90)
    return ((x / (130 * wave)) ** 2 + (y / 90) ** 2 < 1) & (np.abs(z) < 170)


def _inside(organ: Organ, p: FloatArray) -> npt.NDArray[np.bool_]:
    return np.asarray(sum(((p[a] - organ.centre_mm[a]) / organ.radii_mm[a]) ** 2 for a in range(3)) < 1)


def ct(shape: tuple[int, int, int], affine: FloatArray, motion: FloatArray, seed: int, couch: bool = True) -> FloatArray:
    """HU, with noise; the couch does not move with the body."""
    total = np.zeros(shape)
    for p in _points(shape, affine, motion, 2):
        x, y, z = p
        hu = np.full(shape, -1000.0)
        hu[_in_body(p)] = -90.0
        hu[_in_body(p * 1.12)] = 45.0
        for side in (-1, 1):
            hu[((x - side * 60) / 42) ** 2 + (y / 55) ** 2 + ((z - 120) / 45) ** 2 < 1] = -750.0
        hu[(x**2 + (y - 60) ** 2 < 18**2) & _in_body(p)] = 350.0
        for organ in ORGANS:
            hu[_inside(organ, p)] = 60.0
        total += hu / 8
    if couch:
        y = _points(shape, affine, np.eye(4), 1)[0][1]
        total[(y > 118) & (y < 132)] = 200.0
    return total + np.random.default_rng(seed).normal(0, 8, shape)


def activity(shape: tuple[int, int, int], affine: FloatArray, motion: FloatArray, scale: float = 1.0) -> FloatArray:
    """Mean concentration per voxel, MBq/mL, without blur."""
    total = np.zeros(shape)
    parts = 3
    for p in _points(shape, affine, motion, parts):
        c = np.where(_in_body(p), BACKGROUND, 0.0)
        for organ in ORGANS:
            c[_inside(organ, p)] = organ.mbq_ml
        total += c / parts**3
    return total * scale


def blurred(image: FloatArray, spacing_mm: float, fwhm_mm: float) -> FloatArray:
    return ndimage.gaussian_filter(image, fwhm_mm / 2.354820045 / spacing_mm, mode="constant", truncate=5.0)


def true_mbq(organ: Organ) -> float:
    return 4 / 3 * np.pi * float(np.prod(organ.radii_mm)) / 1000.0 * organ.mbq_ml


def labels_of(shape: tuple[int, int, int], affine: FloatArray, frame: str) -> LabelVolume:
    """Organs of the body at rest: a voxel belongs to an organ that fills half of it."""
    out = np.zeros(shape, np.int16)
    share = [np.zeros(shape) for _ in ORGANS]
    for p in _points(shape, affine, np.eye(4), 3):
        for n, organ in enumerate(ORGANS):
            share[n] += _inside(organ, p) / 27
    for n in range(len(ORGANS)):
        out[share[n] >= 0.5] = n + 1
    return LabelVolume(out, affine, frame, tuple(region_named(o.name) for o in ORGANS))


def make_scan(
    name: str,
    time_h: float,
    motion: FloatArray | None = None,
    shape: tuple[int, int, int] = (64, 46, 56),
    spacing_mm: float = 6.0,
    fwhm_mm: float = 11.0,
    scale: float = 1.0,
    seed: int = 0,
    couch: bool = True,
) -> tuple[Scan, Scan]:
    """A SPECT and the CT of its bed time; the frame of reference is the name. Without noise in the SPECT."""
    move = np.eye(4) if motion is None else motion
    affine = affine_of(shape, spacing_mm)
    image = blurred(activity(shape, affine, move, scale), spacing_mm, fwhm_mm).astype(np.float32)
    spect = Scan(name, "SPECT", Volume(image, affine, "MBq/mL", name), time_h, 1800.0, "Lu-177", RECORD, 18000.0, "counts")
    hu = Volume(ct(shape, affine, move, seed, couch).astype(np.float32), affine, "HU", name)
    return spect, Scan(f"ct-{name}", "CT", hu, time_h)
