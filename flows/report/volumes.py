"""Dose volumes as they are looked at: view axes, isodose levels, planes and projections as colours and contour lines.

Arrays are first turned to a common view (axes rise to the head, posterior and left) by permuting and flipping axes, never by
resampling, so that voxel values stay what they are; an oblique grid is named as such. Colours are inferno for dose and viridis
for uncertainty: both rise in lightness and survive colour blindness and grey printing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from contourpy import contour_generator
from matplotlib import colormaps
from scipy import ndimage

from tdt_core.errors import GeometryError

Array = npt.NDArray[Any]
AXES = {"axial": 0, "coronal": 1, "sagittal": 2}
LETTERS = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "H", "F"), "sagittal": ("A", "P", "H", "F")}
"""Orientation letters of a plane: left, right, top, bottom."""
SUB_PIXELS = 3
REACH_MM = 140.0


@dataclass(frozen=True, eq=False)
class DoseView:
    """Dose volumes in view axes (head, posterior, left), cropped to the body.

    `spacing_mm` follows these axes. `oblique_deg` is the largest angle between a grid axis and its patient axis. `bands` holds
    the quantile maps that the state has: `dose_q05`, ..., `bed_q95`; BED is 0 where it is not defined.
    """

    dose: Array
    sd: Array
    ct: Array
    label: Array
    regions: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    oblique_deg: float
    bands: Mapping[str, Array] = field(default_factory=dict)


def view_of(dose: xr.Dataset) -> DoseView:
    """The dose dataset of a state in view axes. Raises GeometryError when the affine has no unique reading."""
    affine = np.asarray(dose.attrs["affine"], dtype=float).reshape(4, 4)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / spacing  # columns: directions of z, y, x array axes in LPS
    # world axis (L, P, H) that each array axis follows most closely
    world = np.abs(cosines).argmax(axis=0)
    if sorted(world) != [0, 1, 2]:
        raise GeometryError("two axes of the dose grid follow the same patient axis", expected="one axis each for L, P and H")
    order = [int(np.flatnonzero(world == w)[0]) for w in (2, 1, 0)]  # head, posterior, left
    flips = tuple(n for n, a in enumerate(order) if cosines[world[a], a] < 0)
    angle = math.degrees(math.acos(min(1.0, float(min(abs(cosines[world[a], a]) for a in range(3))))))
    names = tuple(json.loads(dose.attrs["regions"]))

    def turned(name: str) -> Array:
        return np.flip(np.transpose(dose[name].values, order), axis=flips)

    ct = turned("ct_hu")
    label = turned("label")
    keep = _body_box(ct, label)
    return DoseView(
        dose=turned("dose_mean_gy")[keep].astype(float),
        sd=turned("dose_sd_gy")[keep].astype(float),
        ct=ct[keep].astype(float),
        label=label[keep],
        regions=names,
        spacing_mm=tuple(float(spacing[a]) for a in order),  # type: ignore[arg-type]
        oblique_deg=angle,
        bands={
            f"{what}_{q}": np.nan_to_num(turned(f"{what}_{q}_gy")[keep].astype(float))
            for what in ("dose", "bed")
            for q in ("q05", "q50", "q95")
            if f"{what}_{q}_gy" in dose
        },
    )


def _body_box(ct: Array, label: Array) -> tuple[slice, ...]:
    """Bounding box of the largest connected thing denser than fat-air border, with a margin of two voxels."""
    body = ndimage.binary_opening((ct > -400) | (label > 0))
    parts, count = ndimage.label(body)
    if count == 0:
        return tuple(slice(None) for _ in range(3))
    largest = int(np.bincount(parts.ravel())[1:].argmax()) + 1
    found = ndimage.find_objects((parts == largest).astype(np.uint8))[0]
    return tuple(slice(max(s.start - 2, 0), min(s.stop + 2, n)) for s, n in zip(found, ct.shape, strict=True))


def isodose_levels(top_gy: float, floor_gy: float, most: int = 8) -> list[float]:
    """Numbers of the 1-2-5 series from `floor_gy` to `top_gy`, rising; the highest `most` of them."""
    if not top_gy > 0:
        return []
    floor = max(floor_gy, 1e-3 * top_gy)
    powers = range(math.floor(math.log10(floor)), math.floor(math.log10(top_gy)) + 1)
    levels = [float(f"{m * 10.0**p:.3g}") for p in powers for m in (1, 2, 5) if floor <= m * 10.0**p <= top_gy]
    return levels[-most:] or [float(f"{top_gy / 2:.1g}")]


def levels_for(view: DoseView, summary: Mapping[str, Any]) -> list[float]:
    """Isodose levels of a state: up to the highest voxel dose, down to where the organ at risk still shows.

    The lowest is about 3 % of the highest dose, or a fifth of the organ's mean where lesions outshine it; whole-body
    background mostly stays uncoloured.
    """
    top = float(view.dose.max()) * 0.95
    means = [r["dose_gy"]["mean"] for r in summary.get("doses") or [] if r["region"] == organ_in_focus(view, summary)]
    return isodose_levels(top, min([0.03 * top, *(m / 5 for m in means)]))


@cache
def palette(name: str, low: float, high: float) -> Array:
    return np.asarray(colormaps[name](np.linspace(low, high, 256)))[:, :3]


def level_colours(count: int) -> list[str]:
    """Hex colours of the isodose lines, dark to light."""
    table = palette("inferno", 0.38, 0.97)
    picks = [table[round(i)] for i in np.linspace(0, 255, max(count, 1))]
    return [hex_colour(rgb) for rgb in picks]


def hex_colour(rgb: Array) -> str:
    return "#" + "".join(f"{round(255 * float(c)):02x}" for c in rgb)


def plane_of(volume: Array, view: str, index: int) -> Array:
    """A plane as it is looked at: head up (or anterior up), patient's right on the left."""
    plane = np.take(volume, index, axis=AXES[view])
    return np.asarray(plane if view == "axial" else plane[::-1])


def project(volume: Array, view: str, how: str) -> Array:
    axis = AXES[view]
    plane = volume.max(axis=axis) if how == "max" else volume.mean(axis=axis)
    return np.asarray(plane if view == "axial" else plane[::-1])


def plane_spacing(view: DoseView, name: str) -> tuple[float, float]:
    dz, dy, dx = view.spacing_mm
    return {"axial": (dy, dx), "coronal": (dz, dx), "sagittal": (dz, dy)}[name]


def _finer(image: Array, spacing: tuple[float, float], order: int = 1) -> Array:
    """The image on square pixels, `SUB_PIXELS` per voxel of the finer side."""
    pixel = min(spacing) / SUB_PIXELS
    factors = tuple(s / pixel for s in spacing)
    return np.asarray(ndimage.zoom(image, factors, order=order, mode="nearest", grid_mode=True))


def _grey(image: Array, low: float, high: float, top: float = 0.86) -> Array:
    return np.asarray(np.clip((image - low) / (high - low), 0, 1)[..., None] * top * np.ones(3))


def _wash(grey: Array, dose: Array, levels: Sequence[float], strength: float) -> Array:
    """Colour laid over grey; colour runs evenly from level to level, opacity grows from nothing just below the first."""
    stops = np.array([0.0, *levels, levels[-1] * 2])
    position = np.interp(dose, stops, np.arange(stops.size))  # 1 at the first level
    table = palette("inferno", 0.38, 0.97)
    scaled = np.clip((position - 1) / max(len(levels) - 1, 1), 0, 1)
    colour = table[(255 * scaled).astype(int)]
    alpha = (strength * np.clip((position - 0.7) / 0.5, 0, 1))[..., None]
    return np.asarray(grey * (1 - alpha) + colour * alpha)


def contours(image: Array, level: float, spacing_mm: tuple[float, float]) -> list[Array]:
    """Lines at one level, each (n, 2) of mm from the upper left corner, right and down; voxel centres sit half a voxel in."""
    rows, columns = image.shape
    x = (np.arange(-1, columns + 1) + 0.5) * spacing_mm[1]
    y = (np.arange(-1, rows + 1) + 0.5) * spacing_mm[0]
    found = contour_generator(x, y, np.pad(image, 1)).lines(level)
    return [np.asarray(line) for line in found if len(line) > 3]


def dose_picture(view: DoseView, name: str, index: int, levels: Sequence[float], strength: float = 0.42) -> Array:
    """(rows, columns, 3) colours of one plane: CT in grey under the dose as a wash."""
    spacing = plane_spacing(view, name)
    grey = _grey(_finer(plane_of(view.ct, name, index), spacing), -160, 260)
    return _wash(grey, _finer(plane_of(view.dose, name, index), spacing), levels, strength)


def projection_picture(view: DoseView, name: str, levels: Sequence[float]) -> tuple[Array, Array]:
    """Colours of a maximum-intensity projection of dose over the CT's mean density, and the projected dose itself."""
    spacing = plane_spacing(view, name)
    dose = project(view.dose, name, "max")
    density = project(np.clip(view.ct + 1000, 0, None), name, "mean")
    grey = _grey(_finer(density, spacing), 0.0, float(np.percentile(density, 99.5)) or 1.0, 0.62)
    return _wash(grey, _finer(dose, spacing), levels, 0.85), dose


def uncertainty_picture(view: DoseView, name: str, index: int, floor_gy: float, top: float) -> Array:
    """Colours of one plane: relative standard deviation from 0 to `top` where the mean is at least `floor_gy`, else CT."""
    spacing = plane_spacing(view, name)
    dose, sd = plane_of(view.dose, name, index), plane_of(view.sd, name, index)
    relative = np.divide(sd, dose, out=np.zeros_like(sd), where=dose > 0)
    grey = _grey(_finer(plane_of(view.ct, name, index), spacing), -160, 260, 0.55)
    colour = palette("viridis", 0.0, 1.0)[(255 * np.clip(_finer(relative, spacing) / top, 0, 1)).astype(int)]
    shown = (_finer(dose, spacing) >= floor_gy)[..., None]
    return np.where(shown, 0.15 * grey + 0.85 * colour, grey)


def focus_of(view: DoseView, regions: Sequence[str]) -> tuple[int, int, int] | None:
    """Centre of the connected part with the most dose among the named regions; None when none of them is on the grid."""
    wanted = [n for n, name in enumerate(view.regions, start=1) if name in regions]
    mask = np.isin(view.label, wanted)
    if not mask.any():
        return None
    parts, count = ndimage.label(mask)
    sizes = ndimage.mean(view.dose, parts, range(1, count + 1)) * ndimage.sum(mask, parts, range(1, count + 1)) ** 0.5
    centre = ndimage.center_of_mass(parts == 1 + int(np.argmax(sizes)))
    return tuple(round(float(c)) for c in centre)  # type: ignore[return-value]


def around(view: DoseView, focus: tuple[int, int, int], reach_mm: float = REACH_MM) -> tuple[DoseView, tuple[int, int, int]]:
    """The slab of a view within `reach_mm` of the focus along the body, and the focus in it."""
    reach = round(reach_mm / view.spacing_mm[0])
    low, high = max(focus[0] - reach, 0), min(focus[0] + reach + 1, view.dose.shape[0])
    parts = {name: getattr(view, name)[low:high] for name in ("dose", "sd", "ct", "label")}
    bands = {name: array[low:high] for name, array in view.bands.items()}
    return replace(view, bands=bands, **parts), (focus[0] - low, focus[1], focus[2])


def uncertainty_top(view: DoseView, floor_gy: float) -> float:
    """Upper end of the relative-SD scale: the 98th percentile where dose is shown, rounded up to 5 %."""
    shown = view.dose >= floor_gy
    if not shown.any():
        return 0.05
    value = float(np.percentile(view.sd[shown] / view.dose[shown], 98))
    return min(max(math.ceil(value * 20) / 20, 0.05), 1.0)


def _hottest(rows: Sequence[Mapping[str, Any]], names: Sequence[str], *, lesions: bool) -> str | None:
    """The region on the grid with the highest mean dose, among lesions or among everything else."""
    rows = [r for r in rows if r["region"] in names and r["region"].startswith("lesion/") == lesions and r["dose_gy"]]
    return str(max(rows, key=lambda r: r["dose_gy"]["mean"])["region"]) if rows else None


def organ_in_focus(view: DoseView, summary: Mapping[str, Any]) -> str | None:
    """The region to look at first: the hottest of the organs that have a limit, else the hottest organ."""
    limited = {r["organ"] for r in summary.get("cumulative") or []}
    rows = summary.get("doses") or []
    at_risk = [r for r in rows if r["organ"] in limited]
    return _hottest(at_risk, view.regions, lesions=False) or _hottest(rows, view.regions, lesions=False)


def lesion_in_focus(view: DoseView, summary: Mapping[str, Any]) -> str | None:
    """The lesion with the highest mean dose on the grid."""
    return _hottest(summary.get("doses") or [], view.regions, lesions=True)
