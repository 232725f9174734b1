"""Dose pictures of a report: CT in grey, dose as a colour wash, isodose lines and outlines as vector lines, orientation
letters, scale bar, legends. Each is one inline SVG with the raster inside it.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from markupsafe import Markup, escape

from flows.report.style import name_of
from flows.report.svg import FONT, tick_label
from flows.report.volumes import (
    AXES,
    LETTERS,
    Array,
    DoseView,
    around,
    contours,
    dose_picture,
    hex_colour,
    level_colours,
    palette,
    plane_of,
    plane_spacing,
    projection_picture,
    uncertainty_picture,
)

OUTLINE = "#6fd3ff"


def png_uri(rgb: Array) -> str:
    """An 8-bit RGB array (rows, columns, 3) as a PNG data address."""
    rows, columns, _ = rgb.shape
    raw = np.concatenate([np.zeros((rows, 1), np.uint8), rgb.astype(np.uint8).reshape(rows, -1)], axis=1).tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 6)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _path(image: Array, level: float, spacing: tuple[float, float], scale: float) -> str:
    """Contour lines at one level as the `d` of an SVG path."""
    lines = (scale * line for line in contours(image, level, spacing))
    return "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) for line in lines)


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
    left, right, top, bottom = LETTERS[view]
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
        d = _path(image, level, spacing, px_per_mm)
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
        spacing = plane_spacing(view, name)
        rgb, dose = projection_picture(view, name, levels)
        label = f"{name} maximum-intensity projection of absorbed dose with isodose lines"
        title = f"{name.capitalize()} MIP"
        lines = _isodoses(dose, levels, spacing, scale, 1.1)
        panels.append(_panel(rgb, name, spacing, dose.shape, title, lines, label, scale))
    return panels


def _outlines(view: DoseView, name: str, index: int, spacing: tuple[float, float], scale: float) -> list[str]:
    labels = plane_of(view.label, name, index)
    parts = []
    for n in np.unique(labels[labels > 0]):
        d = _path((labels == n).astype(float), 0.5, spacing, scale)
        if d:
            words = escape(name_of(view.regions[int(n) - 1]))
            parts.append(
                f'<path d="{d}" fill="none" stroke="{OUTLINE}" stroke-width="1.1" stroke-dasharray="3 2">'
                f"<title>{words}</title></path>"
            )
    return parts


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
        spacing = plane_spacing(view, name)
        dose = plane_of(view.dose, name, focus[axis])
        rgb = dose_picture(view, name, focus[axis], levels)
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
    panels = []
    for name in AXES:
        spacing = plane_spacing(view, name)
        index = focus[AXES[name]]
        rgb = uncertainty_picture(view, name, index, floor_gy, top)
        overlays = _outlines(view, name, index, spacing, px_per_mm)
        label = f"{name} plane of the relative standard deviation of absorbed dose"
        title = f"{name.capitalize()}, relative SD"
        panels.append(_panel(rgb, name, spacing, plane_of(view.dose, name, index).shape, title, overlays, label, px_per_mm))
    return panels


def quantiles(
    view: DoseView, focus: tuple[int, int, int], levels: Sequence[float], what: str, width_px: float = 850
) -> list[Markup]:
    """One coronal plane three times: 5 % quantile, median and 95 % quantile of every voxel's `dose` or `bed`."""
    view, focus = around(view, focus)
    px_per_mm = _scale(view, ["coronal"] * 3, width_px)
    spacing, index = plane_spacing(view, "coronal"), focus[AXES["coronal"]]
    words = {"dose": "absorbed dose", "bed": "BED"}[what]
    panels = []
    for q, title in (("q05", "5 % quantile"), ("q50", "median"), ("q95", "95 % quantile")):
        shown = replace(view, dose=view.bands[f"{what}_{q}"])
        dose = plane_of(shown.dose, "coronal", index)
        rgb = dose_picture(shown, "coronal", index, levels)
        lines = _isodoses(dose, levels, spacing, px_per_mm, 1.2)
        overlays = [*_outlines(view, "coronal", index, spacing, px_per_mm), *lines]
        label = f"coronal plane of the {title} of {words} with isodose lines"
        name = words[:1].upper() + words[1:]
        panels.append(_panel(rgb, "coronal", spacing, dose.shape, f"{name}, {title}", overlays, label, px_per_mm))
    return panels


def colour_bar(top: float, caption: str) -> Markup:
    """The scale of the uncertainty map, 0 to `top` in percent."""
    table = palette("viridis", 0.0, 1.0)
    stops = "".join(
        f'<rect x="{8 * n}" width="8.4" height="12" fill="{hex_colour(table[round(255 * n / 24)])}"/>' for n in range(25)
    )
    ticks = "".join(
        f'<text x="{200 * p:.0f}" y="25" font-size="10" fill="#5a6976" text-anchor="{a}">{100 * top * p:g} %</text>'
        for p, a in ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    )
    svg = f'<svg viewBox="0 0 200 28" width="200" role="img" aria-label="{escape(caption)}" {FONT}>{stops}{ticks}</svg>'
    return Markup(f'<div class="legend row"><span>{escape(caption)}</span>{svg}</div>')
