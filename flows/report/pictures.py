"""Dose pictures: CT in grey, dose as a colour wash, isodose lines and outlines as vector lines, orientation letters, scale bar.

Arrays are first turned to a common view (axes rise to the head, posterior and left) by permuting and flipping axes, never by
resampling, so that voxel values stay what they are; an oblique grid is named as such. Colours are inferno for dose and viridis
for uncertainty: both rise in lightness and survive colour blindness and grey printing.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from contourpy import contour_generator
from markupsafe import Markup, escape
from matplotlib import colormaps
from scipy import ndimage

from flows.report.style import name_of
from flows.report.svg import FONT, tick_label
from tdt_core.errors import GeometryError

Array = npt.NDArray[Any]
AXES = {"axial": 0, "coronal": 1, "sagittal": 2}
SUB_PIXELS = 3
OUTLINE = "#6fd3ff"
REACH_MM = 140.0


@dataclass(frozen=True, eq=False)
class DoseView:
    """Dose volumes in view axes (head, posterior, left), cropped to the body.

    `spacing_mm` follows these axes. `oblique_deg` is the largest angle between a grid axis and its patient axis.
    """

    dose: Array
    sd: Array
    ct: Array
    label: Array
    regions: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    oblique_deg: float


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


def isodose_levels(top_gy: float, count: int = 5) -> list[float]:
    """Up to `count` levels of the 1-2-5 series, the highest at or below `top_gy`."""
    if not top_gy > 0:
        return []
    levels: list[float] = []
    power = math.floor(math.log10(top_gy)) + 1
    while len(levels) < count:
        for m in (5, 2, 1):
            value = m * 10.0**power
            if value <= top_gy and len(levels) < count:
                levels.append(float(f"{value:.3g}"))
        power -= 1
    return levels[::-1]


@cache
def _palette(name: str, low: float, high: float) -> Array:
    return np.asarray(colormaps[name](np.linspace(low, high, 256)))[:, :3]


def level_colours(count: int) -> list[str]:
    """Hex colours of the isodose lines, dark to light."""
    table = _palette("inferno", 0.38, 0.97)
    picks = [table[round(i)] for i in np.linspace(0, 255, max(count, 1))]
    return [_hex(rgb) for rgb in picks]


def _hex(rgb: Array) -> str:
    return "#" + "".join(f"{round(255 * float(c)):02x}" for c in rgb)


def png_uri(rgb: Array) -> str:
    """An 8-bit RGB array (rows, columns, 3) as a PNG data address."""
    rows, columns, _ = rgb.shape
    raw = np.concatenate([np.zeros((rows, 1), np.uint8), rgb.astype(np.uint8).reshape(rows, -1)], axis=1).tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 6)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _plane(volume: Array, view: str, index: int) -> Array:
    """A plane as it is looked at: head up (or anterior up), patient's right on the left."""
    plane = np.take(volume, index, axis=AXES[view])
    return np.asarray(plane if view == "axial" else plane[::-1])


def _project(volume: Array, view: str, how: str) -> Array:
    axis = AXES[view]
    plane = volume.max(axis=axis) if how == "max" else volume.mean(axis=axis)
    return np.asarray(plane if view == "axial" else plane[::-1])


def _plane_spacing(view: DoseView, name: str) -> tuple[float, float]:
    dz, dy, dx = view.spacing_mm
    return {"axial": (dy, dx), "coronal": (dz, dx), "sagittal": (dz, dy)}[name]


def _finer(image: Array, spacing: tuple[float, float], order: int = 1) -> Array:
    """The image on square pixels, `SUB_PIXELS` per voxel of the finer side."""
    pixel = min(spacing) / SUB_PIXELS
    factors = tuple(s / pixel for s in spacing)
    return np.asarray(ndimage.zoom(image, factors, order=order, mode="nearest", grid_mode=True))


def _grey(image: Array, low: float, high: float, top: float = 0.86) -> Array:
    return np.asarray(np.clip((image - low) / (high - low), 0, 1)[..., None] * top * np.ones(3))


def _radiograph(ct: Array) -> Array:
    """A CT's mean density along the line of sight, as a faint radiograph behind a projection."""
    return np.asarray(np.clip(ct + 1000, 0, None))


def _wash(grey: Array, dose: Array, levels: Sequence[float], strength: float) -> Array:
    """Colour laid over grey; colour runs evenly from level to level, opacity grows from nothing below the first level."""
    stops = np.array([0.0, *levels, levels[-1] * 2])
    position = np.interp(dose, stops, np.arange(stops.size))  # 1 at the first level
    table = _palette("inferno", 0.38, 0.97)
    scaled = np.clip((position - 1) / max(len(levels) - 1, 1), 0, 1)
    colour = table[(255 * scaled).astype(int)]
    alpha = (strength * np.clip(position - 0.35, 0, 1) ** 1.5)[..., None]
    return np.asarray(grey * (1 - alpha) + colour * alpha)


def _lines(image: Array, level: float, spacing: tuple[float, float], scale: float) -> str:
    """Contour lines at one level as the `d` of an SVG path; pixel centres sit half a voxel in."""
    rows, columns = image.shape
    padded = np.pad(image, 1)
    x = (np.arange(-1, columns + 1) + 0.5) * spacing[1] * scale
    y = (np.arange(-1, rows + 1) + 0.5) * spacing[0] * scale
    lines: list[Array] = contour_generator(x, y, padded).lines(level)  # type: ignore[assignment]
    return "".join("M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in line) for line in lines if len(line) > 3)


def _letters(view: str) -> tuple[str, str, str, str]:
    """Orientation letters left, right, top, bottom."""
    return {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "H", "F"), "sagittal": ("A", "P", "H", "F")}[view]


def _panel(
    rgb: Array,
    view: str,
    spacing: tuple[float, float],
    shape: tuple[int, int],
    title: str,
    overlays: Sequence[str],
    label: str,
    px_per_mm: float,
) -> Markup:
    """An image with overlays, letters, a 5 cm bar and a title. Everything in pixels of the view box."""
    width, height = shape[1] * spacing[1] * px_per_mm, shape[0] * spacing[0] * px_per_mm
    image = (np.clip(rgb, 0, 1) * 255).astype(np.uint8)
    left, right, top, bottom = _letters(view)
    bar = 50 * px_per_mm

    def letter(x: float, y: float, words: str, anchor: str = "middle", size: float = 12) -> str:
        return (
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="#f4f7f9" text-anchor="{anchor}" '
            f'font-weight="600" stroke="#10161b" stroke-width="2.5" paint-order="stroke">{escape(words)}</text>'
        )

    body = [
        f'<image href="{png_uri(image)}" width="{width:.1f}" height="{height:.1f}" preserveAspectRatio="none"/>',
        *overlays,
        letter(11, height / 2 + 4, left),
        letter(width - 11, height / 2 + 4, right),
        letter(width / 2, 15, top),
        letter(width / 2, height - 6, bottom),
        f'<path d="M10 {height - 10:.1f}h{bar:.1f}m0 -3v6M10 {height - 13:.1f}v6" '
        'stroke="#f4f7f9" stroke-width="2" fill="none"/>',
        letter(10 + bar / 2, height - 15, "5 cm", size=10),
    ]
    svg = (
        f'<svg viewBox="0 0 {width:.1f} {height:.1f}" width="{width:.0f}" role="img" aria-label="{escape(label)}" {FONT} '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(body)}</svg>'
    )
    return Markup(f'<figure class="panel">{svg}<figcaption>{escape(title)}</figcaption></figure>')


def _isodoses(image: Array, levels: Sequence[float], spacing: tuple[float, float], px_per_mm: float, width: float) -> list[str]:
    parts = []
    for level, colour in zip(levels, level_colours(len(levels)), strict=True):
        d = _lines(image, level, spacing, px_per_mm)
        if d:
            parts.append(f'<path d="{d}" fill="none" stroke="#0b0f13" stroke-opacity="0.55" stroke-width="{width + 1.2:g}"/>')
            parts.append(
                f'<path d="{d}" fill="none" stroke="{colour}" stroke-width="{width:g}">'
                f"<title>{tick_label(level)} Gy</title></path>"
            )
    return parts


def legend(levels: Sequence[float], caption: str, *, row: bool = False) -> Markup:
    """Swatches of the isodose lines with their values, highest first; `row` lays them side by side."""
    rows = [
        f'<li><svg viewBox="0 0 26 12" width="26" height="12" aria-hidden="true"><rect width="26" height="12" fill="#20262b"/>'
        f'<path d="M2 6h22" stroke="{c}" stroke-width="3.5"/></svg> {tick_label(v)} Gy</li>'
        for v, c in zip(levels, level_colours(len(levels)), strict=True)
    ]
    return Markup(
        f'<div class="legend{" row" if row else ""}"><span>{escape(caption)}</span><ul>{"".join(rows[::-1])}</ul></div>'
    )


def projections(view: DoseView, levels: Sequence[float], height_px: float = 600) -> list[Markup]:
    """Coronal and sagittal maximum-intensity projections of the dose over the CT's mean projection."""
    extent = view.dose.shape[0] * view.spacing_mm[0]
    scale = min(height_px / extent, 1.15)
    panels = []
    for name in ("coronal", "sagittal"):
        spacing = _plane_spacing(view, name)
        dose = _project(view.dose, name, "max")
        back = _project(_radiograph(view.ct), name, "mean")
        grey = _grey(_finer(back, spacing), 0.0, float(np.percentile(back, 99.5)) or 1.0, 0.62)
        rgb = _wash(grey, _finer(dose, spacing), levels, 0.85)
        label = f"{name} maximum-intensity projection of absorbed dose with isodose lines"
        title = f"{name.capitalize()} MIP"
        lines = _isodoses(dose, levels, spacing, scale, 1.1)
        panels.append(_panel(rgb, name, spacing, dose.shape, title, lines, label, scale))
    return panels


def focus_of(view: DoseView, regions: Sequence[str]) -> tuple[int, int, int] | None:
    """Voxel of the highest smoothed dose inside the named regions; None when none of them is on the grid."""
    wanted = [n for n, name in enumerate(view.regions, start=1) if name in regions]
    mask = np.isin(view.label, wanted)
    if not mask.any():
        return None
    parts, count = ndimage.label(mask)
    sizes = ndimage.mean(view.dose, parts, range(1, count + 1)) * ndimage.sum(mask, parts, range(1, count + 1)) ** 0.5
    centre = ndimage.center_of_mass(parts == 1 + int(np.argmax(sizes)))
    return tuple(round(float(c)) for c in centre)  # type: ignore[return-value]


def _outlines(view: DoseView, name: str, index: int, spacing: tuple[float, float], scale: float) -> list[str]:
    labels = _plane(view.label, name, index)
    parts = []
    for n in np.unique(labels[labels > 0]):
        d = _lines((labels == n).astype(float), 0.5, spacing, scale)
        if d:
            words = escape(name_of(view.regions[int(n) - 1]))
            parts.append(
                f'<path d="{d}" fill="none" stroke="{OUTLINE}" stroke-width="1.1" stroke-dasharray="3 2">'
                f"<title>{words}</title></path>"
            )
    return parts


def around(view: DoseView, focus: tuple[int, int, int], reach_mm: float = REACH_MM) -> tuple[DoseView, tuple[int, int, int]]:
    """The slab of a view within `reach_mm` of the focus along the body, and the focus in it."""
    reach = round(reach_mm / view.spacing_mm[0])
    low, high = max(focus[0] - reach, 0), min(focus[0] + reach + 1, view.dose.shape[0])
    parts = {name: getattr(view, name)[low:high] for name in ("dose", "sd", "ct", "label")}
    return replace(view, **parts), (focus[0] - low, focus[1], focus[2])


def _scale(view: DoseView, names: Sequence[str], width_px: float) -> float:
    """Pixels per mm at which the planes stand side by side in `width_px`."""
    shape = dict(zip(("z", "y", "x"), (n * s for n, s in zip(view.dose.shape, view.spacing_mm, strict=True)), strict=True))
    across = {"axial": shape["x"], "coronal": shape["x"], "sagittal": shape["y"]}
    return float(min(width_px / sum(across[n] for n in names), 1.2))


def planes(view: DoseView, focus: tuple[int, int, int], levels: Sequence[float], width_px: float = 850) -> list[Markup]:
    """Axial, coronal and sagittal plane through `focus` with isodose lines and region outlines."""
    view, focus = around(view, focus)
    px_per_mm = _scale(view, list(AXES), width_px)
    panels = []
    for name, axis in AXES.items():
        spacing = _plane_spacing(view, name)
        dose = _plane(view.dose, name, focus[axis])
        grey = _grey(_finer(_plane(view.ct, name, focus[axis]), spacing), -160, 260)
        rgb = _wash(grey, _finer(dose, spacing), levels, 0.42)
        overlays = [*_outlines(view, name, focus[axis], spacing, px_per_mm), *_isodoses(dose, levels, spacing, px_per_mm, 1.4)]
        label = f"{name} plane of absorbed dose with isodose lines and region outlines"
        panels.append(_panel(rgb, name, spacing, dose.shape, name.capitalize(), overlays, label, px_per_mm))
    return panels


def uncertainty(
    view: DoseView, focus: tuple[int, int, int], floor_gy: float, top: float, width_px: float = 850
) -> list[Markup]:
    """Relative standard deviation of voxel dose in the three planes, where the mean dose is above `floor_gy`."""
    view, focus = around(view, focus)
    px_per_mm = _scale(view, list(AXES), width_px)
    table = _palette("viridis", 0.0, 1.0)
    panels = []
    for name in AXES:
        spacing = _plane_spacing(view, name)
        index = focus[AXES[name]]
        dose, sd = _plane(view.dose, name, index), _plane(view.sd, name, index)
        relative = np.divide(sd, dose, out=np.zeros_like(sd), where=dose > 0)
        grey = _grey(_finer(_plane(view.ct, name, index), spacing), -160, 260, 0.55)
        colour = table[(255 * np.clip(_finer(relative, spacing) / top, 0, 1)).astype(int)]
        shown = (_finer(dose, spacing) >= floor_gy)[..., None]
        rgb = np.where(shown, 0.15 * grey + 0.85 * colour, grey)
        overlays = _outlines(view, name, index, spacing, px_per_mm)
        label = f"{name} plane of the relative standard deviation of absorbed dose"
        title = f"{name.capitalize()}, relative SD"
        panels.append(_panel(rgb, name, spacing, dose.shape, title, overlays, label, px_per_mm))
    return panels


def uncertainty_top(view: DoseView, floor_gy: float) -> float:
    """Upper end of the relative-SD scale: the 98th percentile where dose is shown, rounded up to 5 %."""
    shown = view.dose >= floor_gy
    if not shown.any():
        return 0.05
    value = float(np.percentile(view.sd[shown] / view.dose[shown], 98))
    return min(max(math.ceil(value * 20) / 20, 0.05), 1.0)


def colour_bar(top: float, caption: str) -> Markup:
    """The scale of the uncertainty map, 0 to `top` in percent."""
    table = _palette("viridis", 0.0, 1.0)
    stops = "".join(f'<rect x="{8 * n}" width="8.4" height="12" fill="{_hex(table[round(255 * n / 24)])}"/>' for n in range(25))
    ticks = "".join(
        f'<text x="{200 * p:.0f}" y="25" font-size="10" fill="#5a6976" text-anchor="{a}">{100 * top * p:g} %</text>'
        for p, a in ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    )
    svg = f'<svg viewBox="0 0 200 28" width="200" role="img" aria-label="{escape(caption)}" {FONT}>{stops}{ticks}</svg>'
    return Markup(f'<div class="legend row"><span>{escape(caption)}</span>{svg}</div>')


def hottest(doses: Sequence[Mapping[str, Any]], names: Sequence[str], *, lesions: bool) -> str | None:
    """The region on the grid with the highest mean dose, among lesions or among everything else."""
    rows = [r for r in doses if r["region"] in names and r["region"].startswith("lesion/") == lesions]
    return max(rows, key=lambda r: r["dose_gy"]["mean"])["region"] if rows else None
