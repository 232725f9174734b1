"""The page of a simulation: time-activity curves and what they rest on; one self-contained HTML file, no script."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from flows.report import svg
from flows.report.render import content_security_policy
from flows.report.style import ORGAN_COLOURS, colour_of, name_of, number
from flows.simulate import RESEARCH, Outcome, nuclides_of, parts_of, tia_rows
from flows.simulate_input import REFERENCE, TYPICAL, Virtual
from flows.simulate_parameters import counts_in_words, parameter_rows, status_counts
from tdt_core.kinetics.parameter_tables import GIVEN

FloatArray = npt.NDArray[np.float64]

OVERVIEW = 8
"""Curves in one frame; more cannot be told apart."""
DECADES = 4.0
WIDTH, FRAME_HEIGHT, HEAD, LINE = 760, 360, 30, 16
"""Of the frame of an overview and of the picture around it, px."""
SHOWN = ("calibrated", "assumed", GIVEN)
BASIS = {
    TYPICAL: "The patient has the medians of a population, some of them fitted to what cohorts reported.",
    REFERENCE: "The numbers are the model's own and were not fitted to cohorts here.",
}
OTHERS = ("#b3568f", "#7a7a2a", "#9e2a2b", "#2f9ccf", "#c44e00", "#1d2a35")

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{{ csp }}"><title>Simulation of {{ model }}</title>
<style>{{ css }}</style></head><body><div class="research">{{ research }}</div><main>
<header class="title"><h1>Simulated time-activity curves</h1><span class="mono">{{ model }}</span></header>
<dl class="facts">{% for name, value in facts %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% for name, chart, small, rows, parts in nuclides %}
<h2>{{ name }}: regions with receptors</h2>{{ chart }}
<p class="note">Activity in the region with its blood, decay included, on a logarithmic scale; the {{ shown }} with most
decays.</p>
<h2>{{ name }}: every region</h2><div class="grid">{% for picture in small %}{{ picture }}{% endfor %}</div>
<h2>{{ name }}: time-integrated activity</h2>
<div class="scroll"><table class="dense"><tr><th>Region</th><th class="r">MBq h</th>
<th class="r">h, per administered activity{{ " of the parent" if parts }}</th><th class="r">of all decays</th>
{% for part in parts %}<th class="r">{{ part }}, MBq h</th>{% endfor %}</tr>
{% for r in rows %}<tr><td>{{ r.region | region }}</td><td class="r">{{ r.tia_mbq_h | number }}</td>
<td class="r">{{ r.hours | number }}</td><td class="r">{{ (100 * r.share) | number }} %</td>
{% for part in parts %}<td class="r">{{ r[part] | number }}</td>{% endfor %}</tr>{% endfor %}</table></div>
{% endfor %}
<h2>What it rests on</h2>
<p>{{ counts }} parameters. {{ basis }} Calibrated, assumed and given ones:</p>
<div class="scroll"><table class="dense"><tr><th>Quantity</th><th class="r">Value</th><th>Unit</th><th>Status</th>
<th>Source</th></tr>
{% for r in doubtful %}<tr><td class="mono">{{ r.name }}</td><td class="r">{{ r.value | number }}</td><td>{{ r.unit }}</td>
<td>{{ r.status }}</td><td>{{ r.source }}</td></tr>{% endfor %}</table></div>
<p class="note">All quantities with their rules stand in parameters.csv.</p>
</main></body></html>
"""


def _range(activity: FloatArray) -> tuple[float, float]:
    """Of a logarithmic axis: a little above the top, and down to where the curves end."""
    top = float(activity.max(initial=0.0)) or 1.0
    low = float(activity[:, -1].min(initial=top))
    return max(min(0.7 * low, 0.1 * top), top * 10 ** (-2 * DECADES)), 1.4 * top


def _colours(regions: Sequence[str]) -> list[str]:
    """The colour that a region has on every page; those that have none of their own take one that is left."""
    own = [colour_of(r) for r in regions]
    left = iter(c for c in OTHERS if c not in own)
    return [next(left, c) if c == ORGAN_COLOURS["rest"] else c for c in own]


def overview(hours: FloatArray, activity: FloatArray, regions: Sequence[str], label: str) -> Markup:
    """Curves of several regions in one frame, each named at its end. activity (regions, times) MBq."""
    frame = svg.Frame(
        (float(hours[0]), float(hours[-1])), _range(activity), width=WIDTH, height=FRAME_HEIGHT, left=52, right=190, log_y=True
    )
    parts = frame.axes("hours", "MBq")
    ends = []
    for row, region, colour in zip(activity, regions, _colours(regions), strict=True):
        seen = row > frame.y_range[0]
        if seen.any():
            parts += [frame.line(xs, ys, colour) for xs, ys in _runs(hours, row, frame.y_range[0])]
            ends.append((frame.y(float(row[seen][-1])), name_of(region), colour))
    parts += _labels(ends, frame.x_edges[1] + 6, frame.y_edges)
    return svg.document(WIDTH, FRAME_HEIGHT, parts, label, "chart wide")


def _runs(hours: FloatArray, row: FloatArray, low: float) -> list[tuple[list[float], list[float]]]:
    """The parts of a curve above the bottom of a logarithmic axis, each from and to where it crosses it: between two cycles
    nothing joins the end of one to the start of the next."""
    edges = np.flatnonzero(np.diff((row > low).astype(int), prepend=0, append=0))
    runs = []
    for a, b in zip(edges[::2], edges[1::2], strict=True):
        xs, ys = hours[a:b].tolist(), row[a:b].tolist()
        for inside, outside, at in ((a, a - 1, 0), (b - 1, b, len(xs) + (a > 0))):
            if 0 <= outside < len(row):
                far, near = np.log(max(row[outside], low * 1e-6) / low), np.log(row[inside] / low)
                xs.insert(at, float(hours[inside] + (hours[outside] - hours[inside]) * near / (near - far)))
                ys.insert(at, low)
        runs.append((xs, ys))
    return runs


def _labels(ends: Sequence[tuple[float, str, str]], x: float, edges: tuple[float, float]) -> list[str]:
    """Names beside the ends of curves, pushed apart downwards, then back up from the bottom edge."""
    parts, rows, gap = [], sorted(ends), 14.0
    at: list[float] = []
    for y, _, _ in rows:
        at.append(max(y, at[-1] + gap if at else edges[0]))
    for k in range(len(at) - 1, -1, -1):
        at[k] = min(at[k], at[k + 1] - gap if k + 1 < len(at) else edges[1])
    for y, (_, words, colour) in zip(at, rows, strict=True):
        parts.append(svg.text(x, y + 3.5, words, size=11, fill=colour, weight="600"))
    return parts


def small(hours: FloatArray, activity: FloatArray, region: str) -> Markup:
    """One region on a linear scale."""
    top = float(activity.max(initial=0.0)) or 1.0
    frame = svg.Frame((float(hours[0]), float(hours[-1])), (0.0, 1.08 * top), left=52)
    parts = [svg.text(2, 12, name_of(region), size=12.5, fill=svg.INK, weight="600")]
    parts += frame.axes("hours", "MBq")
    parts.append(frame.line(hours.tolist(), activity.tolist(), colour_of(region)))
    return svg.document(frame.width, frame.height, parts, f"Simulated activity of {name_of(region)} over time")


def _ranked(outcome: Outcome, name: str) -> list[dict[str, Any]]:
    """Regions by the decays of a nuclide, most first; of a followed daughter with those of its parts in words."""
    rows = tia_rows(outcome)
    of_part = {(r["nuclide"], r["region"]): r["tia_mbq_h"] for r in rows}
    parts = parts_of(outcome, name)
    own = [r | {_words(part): of_part[part, r["region"]] for part in parts} for r in rows if r["nuclide"] == name]
    return sorted(own, key=lambda r: -r["tia_mbq_h"])


def _words(part: str) -> str:
    """`Bi-213/on_ligand` as `on ligand`."""
    return part.partition("/")[2].replace("_", " ")


def _shown(outcome: Outcome, name: str) -> xr.DataArray:
    """Activity of a nuclide from its first administration until little of it is left, MBq by region and time_h."""
    activity = outcome.data.activity_mbq.sel(label=name)
    whole = activity.sum("region").values
    left = np.flatnonzero(whole > 10**-DECADES * whole.max(initial=0.0))
    shown: xr.DataArray = activity.isel(time_h=slice(left[0], max(left[-1], left[0] + 1) + 1))
    return shown


def _overview_of(outcome: Outcome, name: str) -> Markup:
    """The organs with receptors that have most decays of a nuclide, in one frame."""
    binding = {o.name for o in outcome.virtual.model.organs if o.binds}
    top = [r["region"] for r in _ranked(outcome, name) if r["region"] in binding][:OVERVIEW]
    activity = _shown(outcome, name)
    words = f"Activity of {name} over time in {', '.join(top)}"
    return overview(activity.time_h.values, activity.sel(region=top).values, top, words)


def picture(outcome: Outcome) -> str:
    """The overview of every nuclide in one SVG file that stands alone: title, frames, what it rests on."""
    virtual, names = outcome.virtual, nuclides_of(outcome)
    foot = [*schedule_in_words(outcome), f"parameters: {counts_in_words(status_counts(virtual))}", RESEARCH]
    height = HEAD + len(names) * (FRAME_HEIGHT + HEAD) + LINE * len(foot) + LINE
    parts = [svg.box(0, 0, WIDTH, height, svg.PAPER)]
    parts.append(
        svg.text(10, 22, f"Simulated activity: {virtual.model.name}, {virtual.patient} patient", size=14, fill=svg.INK)
    )
    y = float(HEAD)
    for name in names:
        parts.append(svg.text(10, y + 18, f"{name} in regions with receptors", size=12, fill=svg.INK, weight="600"))
        frame = str(_overview_of(outcome, name)).replace(
            "<svg ", f'<svg y="{y + HEAD:g}" width="{WIDTH}" height="{FRAME_HEIGHT}" ', 1
        )
        parts.append(frame)
        y += FRAME_HEIGHT + HEAD
    parts += [svg.text(10, y + LINE * (k + 1), words, size=10) for k, words in enumerate(foot)]
    whole = str(svg.document(WIDTH, height, parts, f"Simulated time-activity curves of {virtual.model.name}"))
    return whole.replace("<svg ", f'<svg width="{WIDTH}" height="{height:g}" ', 1) + "\n"


def _of_nuclide(outcome: Outcome, name: str) -> tuple[str, Markup, list[Markup], list[dict[str, Any]], list[str]]:
    rows = _ranked(outcome, name)
    activity = _shown(outcome, name)
    hours = activity.time_h.values
    chart = _overview_of(outcome, name)
    return (
        name,
        chart,
        [small(hours, activity.sel(region=r["region"]).values, r["region"]) for r in rows],
        rows,
        [_words(part) for part in parts_of(outcome, name)],
    )


def schedule_in_words(outcome: Outcome) -> list[str]:
    """One line for each administration."""
    lines = []
    for a in outcome.schedule:
        how = f" over {a.duration_h:g} h" if a.duration_h else ""
        left = f", {a.residual_mbq:g} MBq left behind" if a.residual_mbq else ""
        what = f"{a.activity_mbq:g} MBq {a.nuclide} {a.ligand} with {a.amount_nmol:g} nmol"
        cold = f"{a.amount_nmol:g} nmol {a.ligand} without activity"
        lines.append(f"{what if a.nuclide else cold} at {a.time_h:g} h{how}{left}")
    return lines


def _further(virtual: Virtual) -> list[tuple[str, str]]:
    return [("Receptor turnover", virtual.model.turnover), ("Daughters", virtual.model.daughters)]


def render(outcome: Outcome) -> str:
    """The page."""
    virtual = outcome.virtual
    css = resources.files("flows.report").joinpath("templates", "style.css").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(number=number, region=name_of)
    return environment.from_string(TEMPLATE).render(
        csp=content_security_policy(css),
        css=Markup(css),
        research=RESEARCH,
        model=virtual.model.name,
        shown=OVERVIEW,
        facts=[
            ("Model", virtual.model.name),
            ("Patient", virtual.patient),
            ("Released ligand", virtual.model.release),
            ("Plasma binding", virtual.model.plasma_binding.replace("_", " ")),
            *((word, value) for word, value in _further(virtual) if value != "none"),
            *(("Administration", line) for line in schedule_in_words(outcome)),
            ("Integrated until", f"{outcome.data.attrs['end_h']:.6g} h"),
            *(("Note", note) for note in outcome.notes),
        ],
        nuclides=[_of_nuclide(outcome, name) for name in nuclides_of(outcome)],
        counts=counts_in_words(status_counts(virtual)),
        basis=BASIS[virtual.patient],
        doubtful=[r for r in parameter_rows(virtual) if not r["rule"] and r["status"] in SHOWN],
    )
