"""One report: a twin state and its dose volumes as a single HTML page that needs nothing else.

The page asks for no other file, runs no script and forbids both to itself by a content security policy whose only opening is
the hash of its own style sheet and pictures inside the page. Everything from data is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flows.report import figures, organs, pictures, sections, style, volumes, words
from flows.report.daughters import daughters
from tdt_core.twin import Decision, TwinState

BANNER = "Research use only. Not a medical device: nothing here may decide a patient's treatment."


def render_report(
    state: TwinState,
    dose: xr.Dataset,
    decision: Decision | None = None,
    provenance: Mapping[str, Any] | None = None,
    truth: Mapping[str, Any] | None = None,
    previous: TwinState | None = None,
    notes: Sequence[str] = (),
    superseded_by: str | None = None,
    shown: str = "",
) -> str:
    """The report of one state as self-contained HTML.

    Parameters
    ----------
    state : the state; its `summary` follows `docs/design/002`.
    dose : its dose volumes (`docs/design/002`, `dose.zarr`).
    decision : the answer to its proposal, when there is one.
    provenance : what is recorded beside the state (versions, commit, times), shown as given.
    truth : of a reference patient's cycle, `regions` -> `dose_gy`; adds the table of errors.
    previous : state of the cycle before; adds the forecast beside what came.
    notes : findings that the state itself does not hold (`flows.notes`), shown first among the warnings.
    superseded_by : id of the state that stands in place of this one, which then asks for nothing.
    shown : names what is shown beside the state (`flows.derived.shown_of`); kept in the page's head.

    Raises
    ------
    GeometryError : the dose grid has no readable orientation.
    """
    css = style_sheet()
    summary = state.summary
    organ_doses, lesions = sections.dose_rows(state)
    context = {
        "banner": BANNER,
        "css": Markup(css),
        "csp": content_security_policy(css),
        "state": state,
        "identity": json.dumps(state.identity, indent=1, sort_keys=True, ensure_ascii=False),
        "decision": decision,
        "proposal": state.proposal,
        "verdict": sections.verdict(state, decision, superseded_by),
        "superseded_by": superseded_by,
        "shown": shown,
        "tiles": sections.tiles(state),
        "administration": sections.administration(state),
        "forecast_for": words.forecast_for(state),
        "learned_words": words.learned_words(),
        "hollow_words": words.hollow_words(r["region"] for r in organ_doses),
        "organs": organ_doses,
        "lesion_doses": lesions,
        "organ_level": organs.organ_level(state),
        "limits": _limits(state),
        "outlook_words": words.outlook_words(state),
        "cycles": sections.cycle_table(state),
        "curves": _curves(state, log_y=False),
        "log_curves": _curves(state, log_y=True),
        "pictures": dose_pictures(summary, dose, words.planned(state)),
        "dvh": _dvh(state),
        "labs": _labs(state),
        "single_labs": [r for r in summary.get("labs") or [] if len(r["points"]) == 1],
        "risk": _risk(state),
        "risk_words": sections.risk_words(state),
        "fit": sections.fit_rows(state),
        "diagnostics": sections.diagnostics(state),
        "conservation": sections.conservation(state),
        "dose_engine": sections.dose_engine(state),
        "daughters": daughters(state),
        "forecast": _forecast(state, previous),
        "truth": sections.truth_rows(state, truth),
        "lesions": sections.lesion_rows(state),
        "acquisitions": sections.acquisitions(state),
        "assumed": summary.get("assumed") or [],
        "warnings": [*notes, *sections.warnings(state)],
        "provenance": sections.flattened(provenance),
    }
    return environment().get_template("report.html.j2").render(context)


@cache
def style_sheet() -> str:
    """The style sheet of all pages."""
    return resources.files("flows.report").joinpath("templates", "style.css").read_text(encoding="utf-8")


def content_security_policy(css: str) -> str:
    """A policy that allows this one style sheet and pictures in the page, nothing else."""
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


@cache
def environment() -> Environment:
    """Templates with the filters that they use."""
    made = Environment(
        loader=PackageLoader("flows.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters.update(
        number=style.number,
        interval=style.interval,
        percent=style.percent,
        plain=style.plain,
        activity=style.activity,
        hours=style.hours,
        region=style.name_of,
        unit=style.unit_text,
        quantity=sections.quantity_of,
    )
    made.globals["bar"] = figures.interval_bar
    return made


def _limits(state: TwinState) -> dict[str, Any]:
    return {
        quantity: {"rows": rows, "chart": figures.limit_bars(rows)}
        for quantity, rows in sections.limit_rows(state).items()
        if rows
    }


def _ordered(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    order = sections.in_order([r["region"] for r in rows])
    return sorted(rows, key=lambda r: order.index(r["region"]))


def _curves(state: TwinState, *, log_y: bool) -> list[Markup]:
    shown = []
    for curve in _ordered(state.summary.get("curves") or []):
        half_life = sections.late_half_life_h(curve)
        note = f"late T½ {style.number(half_life, 2)} h" if half_life else ""
        shown.append(figures.time_activity(curve, log_y=log_y, note=note, of=words.planned(state)))
    return shown


def _dvh(state: TwinState) -> list[Mapping[str, Any]]:
    of = f"of {planned}" if (planned := words.planned(state)) else "this cycle"
    return [{"curve": c, "chart": figures.dose_volume(c, of=of)} for c in _ordered(state.summary.get("dvh") or [])]


def _labs(state: TwinState) -> list[Markup]:
    times = list(state.ledger.administrations)
    order = list(figures.ORGAN_OF_LAB)
    rows = sorted(
        (r for r in state.summary.get("labs") or [] if len(r["points"]) > 1),
        key=lambda r: (order.index(r["analyte"]) if r["analyte"] in order else len(order), r["analyte"]),
    )
    return [figures.laboratory(r, times, sections.grade_lines(r["analyte"], r["unit"])) for r in rows]


def _risk(state: TwinState) -> Markup | None:
    proposal = state.proposal
    if proposal is None or not proposal.curve.get("any"):
        return None
    accepted = min((r["risk"] for r in proposal.limits), default=0.05)
    allowed = proposal.curve.get("range_mbq")
    return figures.risk_curve(proposal.curve, accepted, proposal.activity_mbq, tuple(allowed) if allowed else None)


def _forecast(state: TwinState, previous: TwinState | None) -> list[Markup]:
    pairs = sections.forecast_pairs(state, previous)
    groups = ([p for p in pairs if (style.organ_of(p["region"]) == "lesions") == lesion] for lesion in (False, True))
    return [figures.forecast_check(group) for group in groups if group]


def dose_pictures(summary: Mapping[str, Any], dose: xr.Dataset, planned: str = "") -> dict[str, Any]:
    """Projections, planes through the most loaded organ at risk and the hottest lesion, uncertainty.

    `summary` holds `doses` and, where organs have limits, `cumulative`. planned : what the maps forecast, where nothing was
    given yet.
    """
    view = volumes.view_of(dose)
    levels = volumes.levels_for(view, summary)
    if not levels:
        return {}
    organ, lesion = volumes.organ_in_focus(view, summary), volumes.lesion_in_focus(view, summary)
    floor = levels[0]
    of = planned or "this cycle"
    caption = f"Isodose lines, absorbed dose of {of}"
    shown: dict[str, Any] = {
        "mip": pictures.projections(view, levels),
        "legend": pictures.legend(levels, caption),
        "legend_row": pictures.legend(levels, caption, row=True),
        "oblique_deg": view.oblique_deg,
        "planes": [],
        "quantiles": [],
        "floor": floor,
    }
    for region in (organ, lesion):
        focus = volumes.focus_of(view, [region]) if region else None
        if region and focus:
            shown["planes"].append({"region": style.name_of(region), "panels": pictures.planes(view, focus, levels)})
    focus = volumes.focus_of(view, [organ or lesion or ""])
    if focus:
        top = volumes.uncertainty_top(view, floor)
        shown["sd"] = pictures.uncertainty(view, focus, floor, top)
        shown["bar"] = pictures.colour_bar(top, "Relative standard deviation of voxel dose")
        shown["quantiles"] = [
            pictures.quantiles(view, focus, levels, what) for what in ("dose", "bed") if f"{what}_q95" in view.bands
        ]
        shown["quantile_region"] = style.name_of(organ or lesion or "")
        shown["legend_quantiles"] = pictures.legend(levels, f"Isodose lines, absorbed dose and BED of {of}", row=True)
    return shown
