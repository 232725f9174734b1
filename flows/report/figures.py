"""The line charts of a report, each a pure function from rows of `docs/design/002` to inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from flows.report.style import activity, colour_of, hours, interval, name_of, number, unit_text
from flows.report.svg import GRID, INK, MUTED, PAPER, Frame, box, document, nice_ticks, rule, text, tick_label

Row = Mapping[str, Any]
SHAPES = {"outlier": "cross", "collapsed": "ring", "down-weighted": "cross", "below limit": "down"}
DANGER, ALLOWED = "#b3261e", "#e8f3ec"
GRADE_WIDTH, GRADE_HEIGHT = 42.0, 10.0
"""Room of the label of a reference line, px."""
POINT_ROOM, GRADE_ROOM = 0.04, 0.19
"""Room left of the first laboratory value, as a share of the days shown: for its mark alone, and for a column of labels."""


def _headroom(values: Sequence[float], part: float = 0.08) -> float:
    top = max((v for v in values if v is not None), default=1.0)
    return top * (1 + part) if top > 0 else 1.0


def time_activity(curve: Row, *, log_y: bool = False, note: str = "", of: str = "") -> Markup:
    """One region's activity over time: median, 90 % band, measured points with 1-sigma bars and the status of each.

    `of` names the administration on the time axis where it is not the one that was given.
    """
    times = curve["times_h"]
    colour = colour_of(curve["region"])
    points = curve["points"]
    seen = [p for p in points if p.get("activity_mbq") is not None]
    tops = [*curve["q95"], *(p["activity_mbq"] + p["sd_mbq"] for p in seen)]
    high = _headroom(tops)
    low = 0.0
    if log_y:
        tail = [v for v in (curve["q05"][-1], *(p["activity_mbq"] - p["sd_mbq"] for p in seen)) if v > 0]
        low = max(min(tail, default=high / 100) * 0.7, high * 1e-4)
        high *= 1.3
    frame = Frame((0.0, max(times)), (low, high), log_y=log_y)
    end = max(times)
    step = 24 if end <= 130 else 48 if end <= 260 else 96
    ticks = [float(t) for t in range(0, int(end) + 1, step)]
    parts = [text(2, 12, name_of(curve["region"]), size=12.5, fill=INK, weight="600")]
    if note:
        parts.append(text(frame.width - 10, 12, note, anchor="end", size=9.5))
    parts += frame.axes(f"hours after {of or 'administration'}", "MBq", ticks)
    # a logarithmic axis ends somewhere: what lies below is not drawn along its edge as if it were there
    in_band = [n for n, v in enumerate(curve["q95"]) if v > low or not log_y]
    on_line = [n for n, v in enumerate(curve["q50"]) if v > low or not log_y]
    xs, floor, ceiling = ([row[n] for n in in_band] for row in (times, curve["q05"], curve["q95"]))
    parts.append(frame.band(xs, floor, ceiling, colour))
    parts.append(frame.line([times[n] for n in on_line], [curve["q50"][n] for n in on_line], colour))
    for p in points:
        status = p.get("status", "active")
        if p.get("activity_mbq") is None:
            x, y = frame.x(p["time_h"]), frame.y_edges[1]
            mark = text(x, y - 20, "?", anchor="middle", weight="700", size=13, fill=INK, halo=PAPER)
            parts.append(f"<g><title>{hours(p['time_h'])}: missing</title>{mark}</g>")
            continue
        tip = f"{hours(p['time_h'])}: {number(p['activity_mbq'])} ± {number(p['sd_mbq'], 2)} MBq, {status}"
        mark = DANGER if SHAPES.get(status) == "cross" else colour
        shape, sd = SHAPES.get(status, "dot"), p["sd_mbq"]
        if log_y and p["activity_mbq"] < low:
            shape, sd = "down", 0.0
        parts.append(frame.point(p["time_h"], p["activity_mbq"], sd, mark, shape=shape, tip=tip))
    if not seen:
        words = "not measured: the model's prediction"
        # between title and plot, where no band, line or grid can cross it
        parts.append(text(frame.width - 10, frame.top - 9, words, anchor="end", size=9.5))
    label = f"Activity of {name_of(curve['region'])} over time with its 90 % band and {len(seen)} measured points"
    return document(frame.width, frame.height, parts, label)


def dose_volume(curve: Row, note: str = "", of: str = "this cycle") -> Markup:
    """One region's cumulative dose-volume histogram with its 90 % band and D90, D50, D2 marked.

    The line and the marks are the `mean` where the curve has one (that of a dose map), else the median over draws.
    """
    dose, middle = curve["dose_gy"], "mean" if "mean" in curve else "q50"
    colour = colour_of(curve["region"])
    used = [d for d, v in zip(dose, curve["q95"], strict=True) if v > 0.004]
    frame = Frame((0.0, max(used[-1] if used else dose[-1], 1e-6) * 1.03), (0.0, 100.0), height=184)
    inside = [n for n, d in enumerate(dose) if d <= frame.x_range[1]]
    xs = [dose[n] for n in inside]
    low, mid, high = ([100 * curve[k][n] for n in inside] for k in ("q05", middle, "q95"))
    parts = [text(2, 12, name_of(curve["region"]), size=12.5, fill=INK, weight="600")]
    if note:
        parts.append(text(frame.width - 10, 12, note, anchor="end", size=9.5))
    parts += frame.axes(f"absorbed dose {of}, Gy", "% of volume", y_count=4)
    parts.append(frame.band(xs, low, high, colour))
    parts.append(frame.line(xs, mid, colour))
    for key, level in (("d90", 90), ("d50", 50), ("d2", 2)):
        q = (curve.get("metrics") or {}).get(key)
        if q:
            tip = f"{key.upper()} {number(q[middle])} Gy ({interval(q)})"
            parts.append(frame.point(min(q[middle], frame.x_range[1]), level, 0, colour, shape="ring", tip=tip))
    return document(frame.width, frame.height, parts, f"Dose-volume histogram of {name_of(curve['region'])} with 90 % band")


def laboratory(row: Row, administrations_h: Sequence[float], grades: Sequence[tuple[float, str]] = ()) -> Markup:
    """One analyte over days: values, trend with its 90 % band, therapy days, and what lies ahead of the last value shaded.

    `grades` are (value, label) reference lines, drawn where they fall inside the picture.
    """
    points = row["points"]
    trend = row.get("trend")
    xs = [p["time_h"] / 24 for p in points] + [t / 24 for t in (trend or {"times_h": []})["times_h"]]
    low_x, high_x = min(xs), max(xs)
    if high_x <= low_x:
        low_x, high_x = low_x - 7, low_x + 7
    # room at the left, so that the first point lies on no tick label, nor on the label of a grade
    low_x -= (GRADE_ROOM if grades else POINT_ROOM) * (high_x - low_x)
    values = [p["value"] for p in points] + ([*trend["q95"], *trend["q05"]] if trend else [])
    frame = Frame((low_x, high_x), (min(0.0, *values), _headroom(values, 0.12)))
    colour = ORGAN_OF_LAB.get(row["analyte"], "#38516b")
    parts = [text(2, 12, name_of(row["analyte"]), size=12.5, fill=INK, weight="600")]
    if points:
        last = max(points, key=lambda p: p["time_h"])
        latest = f"{last['comparator']}{number(last['value'])} {unit_text(row['unit'])}".strip()
        parts.append(text(frame.width - 10, 12, latest, anchor="end", fill=INK, size=10.5))
        x = frame.x(last["time_h"] / 24)
        if trend and trend["times_h"][-1] > last["time_h"]:
            parts.append(box(x, frame.top, frame.x_edges[1] - x, frame.y_edges[1] - frame.top, "#f3f5f7"))
    parts += frame.axes("days from the first administration", unit_text(row["unit"]))
    for time in administrations_h:
        if low_x <= time / 24 <= high_x:
            x = frame.x(time / 24)
            parts.append(rule(x, frame.top, x, frame.y_edges[1], "#9aa7b2", 1, "2 3"))
    shown = sorted((frame.y(level), words) for level, words in grades if frame.y_range[0] < level < frame.y_range[1])
    places = beside([y for y, _ in shown], GRADE_HEIGHT)
    for (y, words), place in zip(shown, places, strict=True):
        parts.append(rule(frame.left, y, frame.x_edges[1], y, DANGER, 0.9, "5 3"))
        parts.append(text(frame.left + 4 + GRADE_WIDTH * place, y - 3, words, size=8.5, fill=DANGER, halo=PAPER))
    if trend:
        days = [t / 24 for t in trend["times_h"]]
        parts.append(frame.band(days, trend["q05"], trend["q95"], colour, 0.16))
        parts.append(frame.line(days, trend["q50"], colour, 1.4, "5 3"))
    for p in points:
        shape = {"<": "down", "<=": "down", ">": "up", ">=": "up"}.get(p["comparator"], "dot")
        tip = f"day {number(p['time_h'] / 24)}: {p['comparator']}{number(p['value'])} {unit_text(row['unit'])}"
        parts.append(frame.point(p["time_h"] / 24, p["value"], 0, colour, shape=shape, tip=tip))
    if trend and frame.x_edges[1] - frame.x(max(p["time_h"] for p in points) / 24) > 44:
        parts.append(text(frame.x_edges[1] - 4, frame.y_edges[1] - 5, "ahead", anchor="end", size=9, halo="#f3f5f7"))
    return document(frame.width, frame.height, parts, f"{name_of(row['analyte'])}: {len(points)} values and their trend")


def beside(heights: Sequence[float], least: float) -> list[int]:
    """Column of each label, from rising heights: the first one in which the label before lies at least that far away."""
    columns: list[float] = []
    places = []
    for y in heights:
        place = next((n for n, last in enumerate(columns) if y - last >= least), len(columns))
        columns[place : place + 1] = [y]
        places.append(place)
    return places


ORGAN_OF_LAB = {
    "haemoglobin": "#9e2a2b",
    "platelets": "#b0702d",
    "leukocytes": "#4b5fa8",
    "neutrophils": "#2f7f9c",
    "lymphocytes": "#6b4fa0",
    "creatinine": "#0b62a8",
    "egfr": "#0b62a8",
    "psa": "#00795c",
}


def risk_curve(curve: Row, accepted: float, proposed_mbq: float | None, allowed_mbq: tuple[float, float] | None) -> Markup:
    """Probability that any limit's allowance is exceeded against the next activity, with each limit's own curve."""
    xs = list(curve["activity_mbq"])
    overall = list(curve["any"])
    per_limit: Mapping[str, Sequence[float]] = curve.get("per_limit") or {}
    low, high = min(xs), max(xs)
    if allowed_mbq:
        low, high = min(low, allowed_mbq[0]), max(high, allowed_mbq[1])
    pad = 0.03 * (high - low) or 1.0
    top = min(max(max(overall) * 1.1, 3 * accepted), 1.0)
    frame = Frame((low - pad, high + pad), (0.0, 100 * top), 720, 300, left=42, right=128, top=30, bottom=38)
    parts = []
    if allowed_mbq:
        x1, x2 = (frame.x(v) for v in allowed_mbq)
        parts.append(box(x1, frame.top, x2 - x1, frame.y_edges[1] - frame.top, ALLOWED))
        # above the plot, where no curve, limit or proposal can cross it, and right of the axis' own title
        end = max(x2, frame.left + 320)
        parts.append(text(end, frame.top - 6, "product's allowed range", size=10, fill="#3d6b4f", anchor="end"))
    parts += frame.axes("activity of the next administration, MBq", "P(limit's allowance exceeded), %")
    y = frame.y(100 * accepted)
    parts.append(rule(frame.left, y, frame.x_edges[1], y, DANGER, 1.2, "6 4"))
    ends: list[tuple[float, str, str]] = [(y, f"accepted {tick_label(100 * accepted)} %", DANGER)]
    for name, chance in per_limit.items():
        colour = colour_of(name.split(" ")[0])
        dash = "4 3" if name.endswith("BED") else ""
        parts.append(frame.line(xs, [100 * c for c in chance], colour, 1.6, dash))
        ends.append((frame.y(100 * chance[-1]), _limit_name(name), colour))
    parts.append(frame.line(xs, [100 * c for c in overall], INK, 2.6))
    ends.append((frame.y(100 * overall[-1]) - 0.5, "any limit", INK))
    parts += _end_labels(ends, frame.x_edges[1] + 8, frame.y_edges)
    if proposed_mbq is not None:
        x = frame.x(proposed_mbq)
        right = x < 0.6 * frame.x_edges[1]
        parts.append(rule(x, frame.top, x, frame.y_edges[1], INK, 1.4))
        at_proposal = _interpolate(proposed_mbq, xs, overall)
        parts.append(f'<circle cx="{x:.1f}" cy="{frame.y(100 * at_proposal):.1f}" r="5" fill="{INK}"/>')
        words = f"proposed {activity(proposed_mbq)} MBq"
        parts.append(text(x + (7 if right else -7), frame.top + 28, words, size=12, fill=INK,
                          anchor="start" if right else "end", weight="600", halo=ALLOWED))  # fmt: skip
    return document(
        frame.width,
        frame.height,
        parts,
        "Probability of exceeding a limit against activity, per limit and overall",
        "chart wide",
    )


def _limit_name(name: str) -> str:
    words = name.rsplit(" ", 1)
    return f"{name_of(words[0])}{' ' + words[1] if len(words) > 1 else ''}"


def _interpolate(at: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    return float(np.interp(at, xs, ys))


def _end_labels(ends: Sequence[tuple[float, str, str]], x: float, edges: tuple[float, float]) -> list[str]:
    """Labels beside the ends of curves, pushed apart so that none covers another."""
    rows = sorted(ends)
    ys: list[float] = []
    for y, _, _ in rows:
        ys.append(max(y, ys[-1] + 13) if ys else max(y, edges[0] + 4))
    overflow = ys[-1] - (edges[1] + 4)
    if overflow > 0:
        for n in range(len(ys) - 1, -1, -1):
            room = edges[1] + 4 if n == len(ys) - 1 else ys[n + 1] - 13
            ys[n] = min(ys[n], room)
    return [text(x, y + 3.5, words, size=10.5, fill=c, weight="600") for y, (_, words, c) in zip(ys, rows, strict=True)]


def limit_bars(rows: Sequence[Row]) -> Markup:
    """Cumulative dose against each limit, as a share of the limit: interval bar, median, what the proposal would add.

    Rows hold `label, organ, limit_gy, cumulative_gy`, and optionally `after_gy` (a `Q` with the proposed cycle added) and
    `even_share` (fraction of the limit that an even spread over the planned cycles has used by now).
    """
    height_of, left, right, width = 46, 164, 16, 720
    top_share = max([1.12, *(float(r["cumulative_gy"]["q95"] / r["limit_gy"]) * 1.06 for r in rows)])
    height = 22 + height_of * len(rows) + 20

    def px(share: float) -> float:
        return left + (width - left - right) * min(share, top_share) / top_share

    parts = []
    for share in nice_ticks(0, top_share, 6):
        parts.append(rule(px(share), 18, px(share), height - 20, GRID))
        parts.append(text(px(share), height - 6, f"{100 * share:.0f} %", anchor="middle"))
    for n, row in enumerate(rows):
        y = 24 + n * height_of
        colour = colour_of(row["organ"], row["organ"])
        limit, q = row["limit_gy"], row["cumulative_gy"]
        parts.append(text(0, y + 13, row["label"], fill=INK, weight="600", size=12))
        amount = f"{number(q['q50'])} ({interval(q)}) of {tick_label(limit)} Gy"
        parts.append(text(0, y + 28, amount, size=9.5))
        parts.append(box(px(0), y + 2, px(top_share) - px(0), 20, "#f1f4f6", radius=2))
        parts.append(box(px(0), y + 2, px(q["q50"] / limit) - px(0), 20, colour, 0.55, 2))
        after = row.get("after_gy")
        if after:
            a = px(q["q50"] / limit)
            parts.append(box(a, y + 2, px(after["q50"] / limit) - a, 20, colour, 0.2))
            whisker = px(after["q05"] / limit), px(after["q95"] / limit)
            parts.append(rule(whisker[0], y + 28, whisker[1], y + 28, colour, 1.4, "3 2"))
            parts.append(text(whisker[1] + 5, y + 31.5, "with the proposed cycle", size=9))
        for edge in ("q05", "q95"):
            parts.append(rule(px(q[edge] / limit), y + 5, px(q[edge] / limit), y + 19, colour, 2))
        parts.append(rule(px(q["q05"] / limit), y + 12, px(q["q95"] / limit), y + 12, colour, 2))
        even = row.get("even_share")
        if even:
            parts.append(rule(px(even), y, px(even), y + 24, INK, 1.2, "2 2"))
    parts.append(rule(px(1), 14, px(1), height - 18, DANGER, 2))
    parts.append(text(px(1), 10, "limit", anchor="middle", fill=DANGER, weight="600", size=10.5))
    return document(
        width, height, parts, "Cumulative dose of each organ as a share of its limit, with 90 % intervals", "chart wide"
    )


def interval_bar(q: Row | None, top: float, colour: str, width: float = 150) -> Markup:
    """A 90 % interval with its mean on a common scale from 0 to `top`, for a table cell."""
    if not q or top <= 0:
        return Markup("")
    scale = (width - 8) / top
    low, mid, high = (4 + scale * min(q[k], top) for k in ("q05", "mean", "q95"))
    parts = [
        rule(4, 8, width - 4, 8, GRID, 1),
        box(low, 4, max(high - low, 1.5), 8, colour, 0.35, 2),
        rule(mid, 2, mid, 14, colour, 2.4),
    ]
    return document(width, 16, parts, f"90 % interval {interval(q)}", "bar")


def forecast_check(rows: Sequence[Row], width: float = 480) -> Markup:
    """Forecast made before this cycle beside what the cycle showed, Gy/GBq, on one scale.

    Rows hold `region`, `forecast` (Q) and `found` (Q).
    """
    left, step = 150, 30
    top = float(max(max(r["forecast"]["q95"], r["found"]["q95"]) for r in rows)) * 1.04
    height = step * len(rows) + 34

    def px(value: float) -> float:
        return left + (width - left - 16) * value / top

    parts = []
    for value in nice_ticks(0, top, 6):
        parts.append(rule(px(value), 4, px(value), height - 30, GRID))
        parts.append(text(px(value), height - 17, tick_label(value), anchor="middle"))
    parts.append(text((left + width) / 2, height - 3, "Gy per GBq", anchor="middle"))
    for n, row in enumerate(rows):
        y = 8 + n * step
        colour = colour_of(row["region"])
        parts.append(text(0, y + 13, name_of(row["region"]), fill=INK, weight="600", size=11.5))
        f, q = row["forecast"], row["found"]
        parts.append(box(px(f["q05"]), y + 1, px(f["q95"]) - px(f["q05"]), 7, "#8795a1", 0.45, 2))
        parts.append(rule(px(f["mean"]), y - 1, px(f["mean"]), y + 10, MUTED, 2))
        parts.append(box(px(q["q05"]), y + 11, px(q["q95"]) - px(q["q05"]), 7, colour, 0.5, 2))
        parts.append(rule(px(q["mean"]), y + 9, px(q["mean"]), y + 20, colour, 2.2))
    return document(width, height, parts, "Forecast before the cycle (grey) and what the cycle showed (colour), Gy per GBq")
