"""The page of a dosimetry: one self-contained HTML file, no script."""

from __future__ import annotations

from typing import Any

import xarray as xr
from markupsafe import Markup

from flows.dose.tables import Row
from flows.report import figures, style
from flows.report.render import BANNER, content_security_policy, dose_pictures, environment, style_sheet
from flows.report.sections import in_order, with_names
from flows.report.words import hollow_words


def render(told: Row, curves: list[Row], maps: xr.Dataset) -> str:
    """The page.

    Parameters
    ----------
    told : `tables.document`. curves : `tables.curve_rows`. maps : the dose dataset (`files.dataset`).
    """
    css = style_sheet()
    order = in_order([r["region"] for r in told["regions"]])
    rows = sorted((_row(r) for r in told["regions"]), key=lambda r: order.index(r["region"]))
    by_region = {c["region"]: c for c in curves}
    measured = [r for r in order if r in by_region]
    dvh = {d["region"]: d for d in told["dvh"]}
    return (
        environment()
        .get_template("dose.html.j2")
        .render(
            banner=BANNER,
            css=Markup(css),
            csp=content_security_policy(css),
            told=told,
            maps_are=f"by the engine {told['options']['engine']}",
            histogram_is="of the dose map",
            facts=_facts(told),
            findings=with_names(told["findings"], (r["region"] for r in told["regions"])),
            forecast_for="",
            hollow_words=hollow_words(by_region),
            organs=[r for r in rows if r["organ"] != "lesions"],
            lesion_doses=[r for r in rows if r["organ"] == "lesions"],
            scans=[r for r in rows if r.get("scans")],
            curves=[_curve(by_region[r], log_y=False) for r in measured],
            log_curves=[_curve(by_region[r], log_y=True) for r in measured],
            pictures=dose_pictures({"doses": told["regions"]}, maps),
            dvh=[{"curve": dvh[r], "chart": figures.dose_volume(dvh[r])} for r in order if r in dvh],
        )
    )


def _row(r: Row) -> Row:
    region = str(r["region"])
    return r | {
        "name": style.name_of(region),
        "colour": style.colour_of(region, r["organ"]),
        "nested": region.endswith(("_left", "_right")),
    }


def _curve(curve: Row, *, log_y: bool) -> Markup:
    return figures.time_activity(curve, log_y=log_y, note=f"tail T½ {style.number(curve['half_life_h'], 2)} h")


def _facts(told: Row) -> list[tuple[str, str]]:
    therapy, grid = told["therapy"], told["grid"]
    facts: list[tuple[str, Any]] = [
        ("Therapy", f"{therapy['product']}, {style.activity(therapy['net_activity_mbq'])} MBq after residual"),
        ("Nuclide", f"{therapy['nuclide']}, physical half-life {style.number(therapy['physical_half_life_h'], 4)} h"),
        ("Scans", ", ".join(f"{s['modality']} {style.number(s['time_h'])} h" for s in told["scans"])),
        ("Grid", f"{' × '.join(str(n) for n in grid['shape'])} voxels of "
                 f"{' × '.join(style.number(s) for s in grid['spacing_mm'])} mm (z, y, x)"),
        ("Dose engine", told["options"]["engine"]),
        ("Time integration", told["options"]["method"]),
        ("Energy escaped", style.percent(told["conservation"]["escaped_fraction"])),
        ("Energy balance off by", style.percent(told["conservation"]["balance_relative_difference"])),
        ("Result", told["id"][:16]),
    ]  # fmt: skip
    if told["monte_carlo"]:
        facts.insert(5, ("Decays followed", f"{told['monte_carlo']['decays']:g}"))
    return [(name, str(value)) for name, value in facts]
