"""Line charts as inline SVG text: crisp at any size, a few kilobytes each, readable by assistive software, no script.

Only presentation attributes are used, never `style=`, so that a page can forbid inline styles. Coordinates are pixels of the
view box; every number is rounded to 0.1 pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

INK, MUTED, GRID, PAPER = "#1d2a35", "#5a6976", "#e3e8ec", "#ffffff"
FONT = 'font-family="system-ui,-apple-system,Segoe UI,Roboto,Noto Sans,DejaVu Sans,sans-serif"'


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2, 2.5 or 5 times a power of ten) inside [low, high]."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside [low, high]; with fewer than two of them 1-2-5 numbers."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [10.0**p for p in powers if low * 0.999 <= 10.0**p <= high * 1.001]
    if len(tens) >= 2:
        return tens
    return [m * 10.0**p for p in powers for m in (1, 2, 5) if low * 0.999 <= m * 10.0**p <= high * 1.001]


def tick_label(value: float) -> str:
    """A tick's number without trailing zeros, thousands set apart."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.6g}".replace("-", "−")


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: float = 10,
    fill: str = MUTED,
    anchor: str = "start",
    weight: str = "",
    halo: str = "",
) -> str:
    """One line of text. `halo` draws an outline of that colour behind it so that it stays readable on lines."""
    extra = f' font-weight="{weight}"' if weight else ""
    if halo:
        extra += f' stroke="{halo}" stroke-width="3" stroke-linejoin="round" paint-order="stroke"'
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{fill}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'
    )


def rule(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, dash: str = "") -> str:
    """A straight line."""
    extra = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"{extra}/>'


def box(x: float, y: float, width: float, height: float, fill: str, opacity: float = 1.0, radius: float = 0) -> str:
    """A filled rectangle."""
    extra = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
    extra += f' rx="{radius:g}"' if radius else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" fill="{fill}"{extra}/>'


def document(width: float, height: float, body: Sequence[str], label: str, css_class: str = "chart") -> Markup:
    """A whole picture with a text alternative."""
    name = escape(label)
    return Markup(
        f'<svg class="{css_class}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{name}" {FONT} '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(body)}</svg>'
    )


@dataclass(frozen=True)
class Frame:
    """A plotting area with one linear x axis and a linear or logarithmic y axis."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: float = 300
    height: float = 194
    left: float = 40
    right: float = 10
    top: float = 34
    bottom: float = 32
    log_y: bool = False

    @property
    def x_edges(self) -> tuple[float, float]:
        """Left and right edge, px."""
        return self.left, self.width - self.right

    @property
    def y_edges(self) -> tuple[float, float]:
        """Top and bottom edge, px."""
        return self.top, self.height - self.bottom

    def x(self, value: float) -> float:
        """Pixel of an x value."""
        (low, high), (a, b) = self.x_range, self.x_edges
        return a + (b - a) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        """Pixel of a y value, clipped to the frame with a little play."""
        (low, high), (top, bottom) = self.y_range, self.y_edges
        if self.log_y:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low * 1e-3))
        part = (value - low) / (high - low)
        return bottom - (bottom - top) * min(max(part, -0.02), 1.02)

    def axes(self, x_title: str, y_title: str, x_ticks: Sequence[float] | None = None, y_count: int = 4) -> list[str]:
        """Grid, tick labels and axis titles. The y title stands on top, read without tilting the head."""
        (left, right), (top, bottom) = self.x_edges, self.y_edges
        parts = []
        for value in log_ticks(*self.y_range) if self.log_y else nice_ticks(*self.y_range, y_count):
            y = self.y(value)
            parts.append(rule(left, y, right, y, GRID))
            parts.append(text(left - 5, y + 3.5, tick_label(value), anchor="end"))
        for value in nice_ticks(*self.x_range) if x_ticks is None else x_ticks:
            x = self.x(value)
            parts.append(rule(x, bottom, x, bottom + 4, MUTED))
            parts.append(text(x, bottom + 14.5, tick_label(value), anchor="middle"))
        parts.append(rule(left, bottom, right, bottom, MUTED))
        parts.append(text((left + right) / 2, self.height - 4, x_title, anchor="middle"))
        parts.append(text(2, top - 9 if top > 18 else 9, y_title))
        return parts

    def line(self, xs: Sequence[float], ys: Sequence[float], colour: str, width: float = 1.8, dash: str = "") -> str:
        """A polyline."""
        points = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, ys, strict=True))
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        join = 'stroke-linejoin="round" stroke-linecap="round"'
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width:g}" {join}{extra}/>'

    def band(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str, opacity: float = 0.2) -> str:
        """The area between two curves."""
        forth = [f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, high, strict=True)]
        back = [f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, low, strict=True)][::-1]
        return f'<polygon points="{" ".join(forth + back)}" fill="{colour}" fill-opacity="{opacity:g}"/>'

    def point(self, x: float, y: float, sd: float, colour: str, *, shape: str = "dot", tip: str = "") -> str:
        """A measured value with its 1-sigma bar. shape: dot | cross (outlier) | ring | up | down (censored)."""
        px, py = self.x(x), self.y(y)
        parts = [f"<g><title>{escape(tip)}</title>"]
        if sd > 0:
            low, high = self.y(y - sd), self.y(y + sd)
            parts.append(rule(px, low, px, high, colour, 1.3))
            parts += [rule(px - 2.5, e, px + 2.5, e, colour, 1.3) for e in (low, high)]
        if shape == "cross":
            parts += [rule(px - 4, py - 4 * s, px + 4, py + 4 * s, colour, 2) for s in (-1, 1)]
        elif shape in ("up", "down"):
            s = 1 if shape == "down" else -1
            parts.append(
                f'<path d="M{px - 4:.1f} {py - 2 * s:.1f}h8l-4 {6 * s}z" fill="{PAPER}" stroke="{colour}" stroke-width="1.4"/>'
            )
        else:
            fill = PAPER if shape == "ring" else colour
            parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.1" fill="{fill}" stroke="{colour}" stroke-width="1.4"/>')
        return "".join(parts) + "</g>"
