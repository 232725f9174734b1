"""The summary page of a virtual trial: one self-contained HTML file, no script, no outside request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from flows.report import svg
from flows.report.render import BANNER, content_security_policy

ARM_COLOURS = ("#8a6d3b", "#0b62a8", "#00795c", "#b3568f")
TITLES = {
    "activity": "Activity given",
    "kidney_dose": "Kidney dose",
    "parotid_dose": "Parotid dose",
    "submandibular_dose": "Submandibular dose",
    "marrow_dose": "Red-marrow dose",
    "lesion_dose": "Mean lesion dose",
    "allowance_exceeded": "An organ exceeded its allowance",
    "not_given": "No recommendation, nothing given",
}

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{{ csp }}"><title>Virtual trial {{ trial[:12] }}</title>
<style>{{ css }}</style></head><body><div class="research">{{ banner }}</div><main>
<header class="title"><h1>Virtual trial</h1><span class="mono">{{ trial }}</span></header>
<p>{{ done }} virtual patients{% if failed %} ({{ failed }} more failed and are left out){% endif %}, {{ design.cycles }}
cycles of {{ design.product }}, arms {{ arms | join(" and ") }}. Every arm meets the same patients, the same drift between
cycles and the same measurement errors; all numbers are simulated.</p>
<p class="note">The patients' kinetics come from the population that the fitting model has as its prior. These figures say how a
policy works when the model is right, not that the model is right. An allowance is what is left of a limit, spread evenly over
the planned cycles that remain.</p>
<h2>Cycle {{ design.cycles }}</h2>{{ table(last) }}
{{ scatter }}
{% if activities %}{{ activities }}{% endif %}
<h2>Over the course</h2>{{ table(course) }}
<h2>What it rests on</h2><dl class="facts">
{% for name, value in facts %}<dt>{{ name }}</dt><dd class="mono">{{ value }}</dd>{% endfor %}</dl>
</main></body></html>
"""

TABLE = """<div class="scroll"><table><tr><th>Endpoint</th>{% for a in arms %}<th class="r">{{ a }}</th>{% endfor %}
{% for a in arms[1:] %}<th class="r sep">{{ a }} − {{ arms[0] }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>
<td>{{ titles.get(row.endpoint, row.endpoint) }}{% if row.unit != "1" %}, {{ row.unit }}{% endif %}</td>
{% for a in arms %}<td class="r">{{ value(row, row.arms[a]) }}</td>{% endfor %}
{% for a in arms[1:] %}<td class="r sep">{{ value(row, row.differences[a], True) }}</td>{% endfor %}
</tr>{% endfor %}</table></div>
<p class="note">Mean ± Monte-Carlo standard error; differences are within patients.</p>"""


def _value(row: Mapping[str, Any], estimate: Mapping[str, Any], signed: bool = False) -> str:
    sign = "+" if signed else ""
    if row["unit"] == "1":
        return f"{100 * estimate['mean']:{sign}.1f} ± {100 * estimate['standard_error']:.1f} %"
    digits = 0 if row["unit"] == "MBq" else 2
    return f"{estimate['mean']:{sign}.{digits}f} ± {estimate['standard_error']:.{digits}f}"


def scatter(kidney_gy: npt.NDArray[Any], lesion_gy: npt.NDArray[Any], arms: Sequence[str]) -> Markup:
    """Lesion dose against kidney dose, one dot per treated patient and arm; arrays are (patients, arms)."""
    treated = kidney_gy > 0
    top = float(np.quantile(kidney_gy[treated], 0.99)) if treated.any() else 1.0
    values = lesion_gy[treated] if treated.any() else np.ones(1)
    frame = svg.Frame(
        (0.0, 1.1 * top), (float(values.min()) * 0.8, float(values.max()) * 1.25), width=640, height=340, left=46, log_y=True
    )
    parts = frame.axes("kidney dose, Gy", "mean lesion dose, Gy")
    for a, name in enumerate(arms):
        colour = ARM_COLOURS[a % len(ARM_COLOURS)]
        for x, y in zip(kidney_gy[treated[:, a], a], lesion_gy[treated[:, a], a], strict=True):
            if x <= 1.1 * top:
                parts.append(
                    f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.6" fill="{colour}" fill-opacity="0.55"/>'
                )
        parts.append(svg.text(64 + 110 * a, 14, f"● {name}", size=12, fill=colour, weight="600"))
    return svg.document(640, 340, parts, "Mean lesion dose against kidney dose of every treated virtual patient, by arm")


def histogram(activity_mbq: npt.NDArray[Any], arm: str, allowed: tuple[float, float]) -> Markup:
    """How often an arm gave how much: (patients,) MBq, 0 where nothing was given."""
    low, high = allowed
    edges = np.linspace(low, high, 17)
    counts, _ = np.histogram(activity_mbq[activity_mbq > 0], edges)
    frame = svg.Frame((low, high), (0.0, max(float(counts.max()), 1.0) * 1.1), width=640, height=220, left=46)
    parts = frame.axes("activity, MBq", f"patients of arm {arm}")
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        y = frame.y(float(count))
        width = frame.x(right) - frame.x(left) - 1
        parts.append(svg.box(frame.x(left), y, width, frame.y_edges[1] - y, ARM_COLOURS[1], 0.75))
    none = int((activity_mbq == 0).sum())
    parts.append(svg.text(630, 14, f"nothing given: {none}", size=12, anchor="end"))
    return svg.document(640, 220, parts, f"Activities of arm {arm}; nothing given to {none} patients")


def render(
    trial: str,
    design: Mapping[str, Any],
    last: Sequence[Mapping[str, Any]],
    course: Sequence[Mapping[str, Any]],
    endpoints: Mapping[str, npt.NDArray[Any]],
    allowed_mbq: tuple[float, float],
    failed: int,
    facts: Sequence[tuple[str, str]],
) -> str:
    """The page. `endpoints` holds (patients, arms) arrays of the last cycle."""
    arms = list(design["arms"])
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    table = environment.from_string(TABLE)

    def drawn(rows: Sequence[Mapping[str, Any]]) -> Markup:
        return Markup(table.render(rows=rows, arms=arms, titles=TITLES, value=_value))

    css = resources.files("flows.report").joinpath("templates", "style.css").read_text(encoding="utf-8")
    adaptive = [a for a in arms if a != "fixed"]
    return environment.from_string(TEMPLATE).render(
        csp=content_security_policy(css),
        css=Markup(css),
        banner=BANNER,
        trial=trial,
        design=design,
        arms=arms,
        done=len(endpoints["activity"]),
        failed=failed,
        last=last,
        course=course,
        table=drawn,
        scatter=scatter(endpoints["kidney_dose"], endpoints["lesion_dose"], arms),
        activities=histogram(endpoints["activity"][:, arms.index(adaptive[0])], adaptive[0], allowed_mbq) if adaptive else "",
        facts=facts,
    )
