"""A real patient's CT and region map as an anatomy. The outline and tissues come from the CT by plain thresholds (assumed),
regions from the labels; kinetics are assigned elsewhere."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tdt_core.errors import ModelError
from tdt_core.phantom.anatomy import CODE, STRUCTURES, Anatomy, LesionShape, UInt8, split_kidney
from tdt_core.phantom.drawn import FIELD_MM
from tdt_core.phantom.physiology import Body
from tdt_core.phantom.shapes import Box, Grid
from tdt_core.phantom.types import LabelledAnatomy

FloatArray = npt.NDArray[np.float64]
AIR_HU, FAT_HU, SPONGIOSA_HU, BONE_HU = -400.0, -30.0, 160.0, 450.0
"""Upper ends of air and lung, fat, soft tissue, spongiosa."""
LUNG_ML = 200.0
"""Smallest connected air space that counts as lung; smaller ones are gas and hold no activity."""


def _grid(a: LabelledAnatomy, matrix: int) -> Grid:
    """Scan grid of 460 mm around the middle of the CT, and half voxels over the CT's own extent."""
    ends = [(-0.5, n - 0.5) for n in a.hu.shape]
    corners = np.array([[*index, 1.0] for index in itertools.product(*ends)])
    world = (a.affine @ corners.T)[:3]
    low, high = world.min(axis=1), world.max(axis=1)
    s = FIELD_MM / matrix
    nz = math.ceil(float(high[2] - low[2]) / s)
    keep = [min(matrix // 2, math.ceil(float(high[r] - low[r]) / 2 / s)) for r in (0, 1)]
    center = (low + high) / 2
    corner = (float(center[0]) - FIELD_MM / 2, float(center[1]) - FIELD_MM / 2, float(low[2]))
    offset = (0, 2 * (matrix // 2 - keep[1]), 2 * (matrix // 2 - keep[0]))
    return Grid((2 * nz, 4 * keep[1], 4 * keep[0]), s / 2, offset, (nz, matrix, matrix), corner)


def _resampled(a: LabelledAnatomy, grid: Grid) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """HU (linear), region codes (nearest) and couch on the half voxels; air outside the CT."""
    inverse = np.linalg.inv(a.affine)
    z, y, x = grid.axes()
    hu, codes = np.full(grid.shape, -1000, np.int16), np.zeros(grid.shape, np.int32)
    couch = np.zeros(grid.shape, bool)
    is_couch = np.zeros(a.hu.shape, np.uint8) if a.couch_hu is None else (a.hu == a.couch_hu).astype(np.uint8)
    image = a.hu.astype(np.float32)
    for k, height in enumerate(z):
        yy, xx = np.meshgrid(y, x, indexing="ij")
        world = np.stack([xx.ravel(), yy.ravel(), np.full(xx.size, height), np.ones(xx.size)])
        at = (inverse @ world)[:3].reshape(3, *xx.shape)
        near = np.clip(np.rint(at), -1, np.array(a.hu.shape)[:, None, None]).astype(np.int64)
        valid = np.all((near >= 0) & (near < np.array(a.hu.shape)[:, None, None]), axis=0)
        hu[k] = np.rint(ndimage.map_coordinates(image, at, order=1, mode="nearest"))
        hu[k][~valid] = -1000
        picked = tuple(near[:, valid])
        codes[k][valid] = a.labels[picked]
        couch[k][valid] = is_couch[picked] > 0
    return hu, codes, couch


def _tissue_map(hu: npt.NDArray[np.int16], couch: npt.NDArray[np.bool_], voxel_ml: float) -> UInt8:
    """Structures from the CT alone: body = largest piece above air with its holes filled slice by slice."""
    smooth = ndimage.median_filter(hu, 3)
    solid = (smooth > AIR_HU) & ~ndimage.binary_dilation(couch, iterations=2)
    solid = ndimage.binary_opening(solid, iterations=1)
    pieces, n = ndimage.label(solid)
    if n == 0:
        raise ModelError("the CT holds no body", expected="Hounsfield units above air", kind="model.phantom")
    body = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    body = np.stack([ndimage.binary_fill_holes(plane) for plane in body])
    out = np.zeros(hu.shape, np.uint8)
    out[body] = CODE["muscle"]
    out[body & (smooth <= FAT_HU)] = CODE["adipose"]
    out[body & (smooth > SPONGIOSA_HU)] = CODE["marrow"]
    out[body & (smooth > BONE_HU)] = CODE["bone"]
    air = body & (smooth <= AIR_HU)
    out[air] = 0
    spaces, n = ndimage.label(air)
    sizes = np.bincount(spaces.ravel(), minlength=n + 1) * voxel_ml
    lung = sizes >= LUNG_ML
    lung[0] = False
    out[lung[spaces]] = CODE["lungs"]
    return out


def _lesion(name: str, mask: npt.NDArray[np.bool_], host: UInt8, spacing_mm: float) -> LesionShape:
    """A lesion ordered from the inside out by signed distance; it may grow 12 mm into tissue that no region holds."""
    margin = math.ceil(12.0 / spacing_mm)
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    box: Box = tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in found)  # type: ignore[assignment]
    part = mask[box]
    outside = ndimage.distance_transform_edt(~part, sampling=spacing_mm)
    level = (outside - ndimage.distance_transform_edt(part, sampling=spacing_mm)).astype(np.float32)
    free = np.isin(host[box], [CODE[c] for c in ("muscle", "adipose", "bone", "marrow")])
    return LesionShape(name, "as labelled", "lesion_soft", box, level, free)


def anatomy_from_labels(a: LabelledAnatomy, matrix: int, body: Body) -> tuple[Anatomy, Body]:
    """The anatomy on half voxels, and the body with the volumes that the labels have.

    Organs without a label keep their drawn volume and act in the kinetics; their activity counts as outside the field of view.

    Raises
    ------
    ModelError
        No kidney is labelled, a region name is unknown, or a region is empty on the new grid.
    """
    known = {s.region for s in STRUCTURES if s.region}
    wrong = [n for n in a.names.values() if n not in known and not n.startswith("lesion/")]
    if wrong:
        raise ModelError(f"region names {wrong}", expected=f"{sorted(known)} or lesion/<id>", kind="model.phantom")
    if not any(n.startswith("kidney_") for n in a.names.values()):
        raise ModelError("no kidney among the labels", expected="kidney_left or kidney_right", kind="model.phantom")
    grid = _grid(a, matrix)
    hu, codes, couch = _resampled(a, grid)
    host = _tissue_map(hu, couch, grid.voxel_ml)
    volumes = {k: v for k, v in body.volumes_ml.items() if not k.startswith("kidney_")}
    masks = {name: codes == code for code, name in a.names.items()}
    for name, mask in masks.items():
        if not mask.any():
            raise ModelError(
                f"region {name} is empty on the scan's half voxels", remedy="use a larger matrix", kind="model.phantom"
            )
        volumes[name] = float(mask.sum()) * grid.voxel_ml
        if name.startswith("kidney_"):
            split_kidney(host, mask, name.removeprefix("kidney_"), body.medulla_fraction, grid.spacing_mm)
        elif name.startswith("lesion/"):
            host[mask] = CODE["muscle"]
        else:
            host[mask] = next(s.code for s in STRUCTURES if s.region == name)
    lesions = tuple(_lesion(n, m, host, grid.spacing_mm) for n, m in masks.items() if n.startswith("lesion/"))
    segmented = frozenset(n for n in masks if not n.startswith("lesion/"))
    anatomy = Anatomy(grid, host, lesions, hu, a.source, segmented)
    return anatomy, replace(body, volumes_ml=volumes)
