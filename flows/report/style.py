"""How things are named, coloured and rounded on every page, so that a kidney is blue everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flows.report.svg import tick_label

# Okabe and Ito's colour-blind safe set, darkened where thin lines on white need it, plus three earth tones.
ORGAN_COLOURS = {
    "kidneys": "#0b62a8",
    "parotid_glands": "#d98200",
    "submandibular_glands": "#c44e00",
    "lacrimal_glands": "#b3568f",
    "liver": "#86622b",
    "spleen": "#6b4fa0",
    "red_marrow": "#9e2a2b",
    "bladder": "#2f9ccf",
    "prostate_bed": "#7a7a2a",
    "lungs": "#5f7f95",
    "lesions": "#00795c",
    "tumour_rest": "#4d9c88",
    "rest": "#6b7680",
}
LESION_SHADES = ("#00795c", "#3a9a52", "#0c5a5e", "#6aa33a", "#1f7f8c", "#4a6b1f")
ABBREVIATIONS = {"egfr": "eGFR", "psa": "PSA", "alp": "ALP", "ldh": "LDH", "ast": "AST", "alt": "ALT", "crp": "CRP"}
"""Of analytes."""
HOLLOW = ("bladder",)
"""Organs whose region is what they hold: the wall is not told from its contents."""
PLAIN = {**ABBREVIATIONS, "gi": "Gut", "bladder": "Bladder contents"}
THIN = "\u202f"


def colour_of(region: str, organ: str = "") -> str:
    """The colour of a region or organ; lesions take shades of one hue by a stable hash of their id."""
    if region.startswith("lesion/"):
        return LESION_SHADES[sum(map(ord, region)) % len(LESION_SHADES)]
    group = organ or organ_of(region)
    return ORGAN_COLOURS.get(group, ORGAN_COLOURS.get(region, ORGAN_COLOURS["rest"]))


def organ_of(region: str) -> str:
    """The organ that a region name belongs to, by the naming rule of `docs/design/001`."""
    if region.startswith("lesion/"):
        return "lesions"
    base = region.removesuffix("_left").removesuffix("_right")
    paired = {"kidney": "kidneys", "parotid": "parotid_glands", "submandibular": "submandibular_glands"}
    return {**paired, "lacrimal": "lacrimal_glands"}.get(base, base)


def name_of(region: str) -> str:
    """A region, organ or analyte in words."""
    if region in PLAIN:
        return PLAIN[region]
    if region.startswith("lesion/"):
        return f"Lesion {region.removeprefix('lesion/')}"
    for side in ("left", "right"):
        if region.endswith(f"_{side}"):
            return f"{side.capitalize()} {region.removesuffix(f'_{side}').replace('_', ' ')}"
    return region.replace("_", " ").capitalize()


def in_sentence(region: str) -> str:
    """A region, organ or analyte in words inside a sentence: small, but ids of lesions and abbreviations as they are."""
    name = name_of(region)
    return name if region.startswith("lesion/") or region in ABBREVIATIONS else name[:1].lower() + name[1:]


def contents(region: str) -> str:
    """A region as it is typed, with a word where its dose is that of an organ's contents."""
    return f"{region} (contents)" if region in HOLLOW else region


def number(value: Any, digits: int = 3) -> str:
    """A number with `digits` significant digits, thousands set apart, never in exponent form between 1e-4 and 1e7."""
    if value is None:
        return "–"
    value = float(value)
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))  # of the rounded value: 99.96 counts as 100
    if not -5 < size < 7:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    places = max(digits - 1 - size, 0)
    rounded = round(value, digits - 1 - size) if size >= digits else value
    return f"{rounded:,.{places}f}".replace(",", THIN).replace("-", "−")


def activity(value: float) -> str:
    """An activity in MBq as a prescription writes it: whole, never rounded to significant digits."""
    return f"{value:,.0f}".replace(",", THIN)


def plain(value: float | None) -> str:
    """A number as it was set, without trailing zeros: limits, ages, counts."""
    return "–" if value is None else tick_label(float(value))


def interval(q: Mapping[str, float] | None, digits: int = 3) -> str:
    """The 90 % interval of a `Q`."""
    return "–" if not q else f"{number(q['q05'], digits)} – {number(q['q95'], digits)}"


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction as a percentage; small ones as `< 0.1`."""
    if value is None or not math.isfinite(value):
        return "–"
    if 0 < value < 0.001:
        return "< 0.1 %"
    return f"{number(100 * value, digits)} %"


def unit_text(unit: str) -> str:
    """A UCUM unit as people write it."""
    known = {
        "10*9/L": "10⁹/L",
        "10*12/L": "10¹²/L",
        "mL/min/{1.73_m2}": "mL/min/1.73 m²",
        "mL/min/1.73m2": "mL/min/1.73 m²",
        "umol/L": "µmol/L",
        "ug/L": "µg/L",
        "1": "",
    }
    return known.get(unit, unit.replace("{", "").replace("}", ""))


def hours(value: float) -> str:
    """A time in hours, or days from two days on, with its unit."""
    if abs(value) < 48:
        return f"{plain(round(value, 2))} h"
    return f"{plain(round(value / 24, 1))} days"
