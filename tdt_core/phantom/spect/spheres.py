"""The sphere phantom of the physical camera: what a clinic would fill, image and write into its calibration record.

Two elliptical water bodies, spheres of three volumes at three distances from the axis, three ratios of sphere to background,
one sphere at a time. `measure` images them; `spect_spheres.csv` holds what it found (`tdt bench spect --spheres 1`), so that a
patient can be made without imaging a phantom first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

import numpy as np
import numpy.typing as npt

from tdt_core.parameters import packaged_table
from tdt_core.phantom.draws import stream
from tdt_core.phantom.spect.camera import Camera
from tdt_core.phantom.spect.characterise import TestObject, clean_image, sphere, water_body
from tdt_core.phantom.spect.projector import Mapper
from tdt_core.phantom.spect.sampling import halve
from tdt_core.twin import SphereRecovery, SphereTable

Float32 = npt.NDArray[np.float32]
SPHERES = "spect_spheres.csv"
BODIES_MM = ((110.0, 150.0), (135.0, 190.0))
"""Half axes (y, x) of the bodies; both are 180 mm long."""
PLACES = (0.0, 0.4, 0.67)
"""Of the half axis along x; the centre lies off the voxels' symmetry by fixed fractions of a millimetre."""
VOLUMES_ML = (8.0, 20.0, 60.0)
RATIOS = (5.0, 20.0, 100.0)
OFF_MM = (1.0, 0.7, 1.3)
ROW = re.compile(
    r"voxel_(?P<voxel>.+)\.body_(?P<y>.+)x(?P<x>.+)\.place_(?P<place>.+)\.volume_(?P<volume>.+)\.ratio_(?P<ratio>.+)"
)
ANGLES = 60
NEAR = 0.1  # of the voxel's edge


def extent_mm(half_axes_mm: tuple[float, float]) -> float:
    """Mean over directions of the distance from the axis to the tangent of an ellipse."""
    t = 2 * np.pi * np.arange(ANGLES) / ANGLES
    return float(np.hypot(half_axes_mm[0] * np.cos(t), half_axes_mm[1] * np.sin(t)).mean())


def measure(voxel_mm: float, device: Camera, map: Mapper = map) -> Iterator[tuple[str, SphereRecovery]]:
    """(name, recovery) of every sphere, noise-free; about 60 reconstructions of a phantom."""
    for axes in BODIES_MM:
        body = water_body(voxel_mm, axes, 90.0, device)
        warm = clean_image(body, 100 * body.body, device, map)
        for place, volume, ratio in product(PLACES, VOLUMES_ML, RATIOS):
            at = (OFF_MM[0], OFF_MM[1], place * axes[1] + OFF_MM[2])
            name = f"voxel_{voxel_mm:g}.body_{axes[0]:g}x{axes[1]:g}.place_{place:g}.volume_{volume:g}.ratio_{ratio:g}"
            found = _recovery(body, warm, volume, at, ratio, device, map)
            yield name, SphereRecovery(extent_mm(axes), float(np.hypot(*at[1:])), volume, ratio, found)


def _recovery(
    body: TestObject,
    warm: Float32,
    volume_ml: float,
    at: tuple[float, float, float],
    ratio: float,
    device: Camera,
    map: Mapper,
) -> float:
    """Share of a sphere's contrast within its own volume; `warm` is the image of the body without it, 100 times its unit."""
    share = sphere(body, volume_ml, at)
    rise = clean_image(body, 100 * body.body * (1 + (ratio - 1) * share), device, map) - warm
    mask = halve(share) / 8
    return float((rise * mask).sum() / (100 * (ratio - 1) * mask.sum()))


def table(seed: int, voxel_mm: float) -> SphereTable | None:
    """What the calibration record of a patient's camera states: the tabled recoveries of the nearest voxel edge, each with the
    error of measuring it (`spheres.recovery_rel_sd`), rounded to 0.001; None where no phantom was imaged on voxels within a
    tenth of this edge."""
    known = packaged_table(SPHERES)
    found = {name: m for name in known if (m := ROW.fullmatch(name))}
    nearest = min(sorted({float(m["voxel"]) for m in found.values()}), key=lambda edge: abs(edge - voxel_mm))
    if abs(nearest / voxel_mm - 1) > NEAR:
        return None
    used = {name: m for name, m in found.items() if float(m["voxel"]) == nearest}
    sd = packaged_table("phantom_images_physical.csv").value("spheres.recovery_rel_sd")
    errors = np.clip(stream(seed, "calibration", 3).standard_normal(len(used)), -2.5, 2.5)
    rows = []
    for (name, m), error in zip(used.items(), errors, strict=True):
        axes = (float(m["y"]), float(m["x"]))
        radius = float(np.hypot(OFF_MM[1], float(m["place"]) * axes[1] + OFF_MM[2]))
        recovery = round(known.value(name) * (1 + sd * float(error)), 3)
        body, volume, ratio = extent_mm(axes), float(m["volume"]), float(m["ratio"])
        rows.append(SphereRecovery(round(body, 1), round(radius, 1), volume, ratio, recovery))
    return SphereTable(nearest, sd, tuple(rows))
