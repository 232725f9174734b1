"""Organ level beside voxel level in a report: rows in the order of the page, kidney parts, how marrow dose was found."""

from __future__ import annotations

from typing import Any

from flows.report.sections import Row, in_order, is_side
from flows.report.style import colour_of, in_sentence, name_of, number, organ_of
from tdt_core.twin import TwinState

MARROW_METHODS = {"image": "by image", "blood": "by blood"}


def organ_level(state: TwinState) -> Row:
    """`method, rows, parts, marrow` for the template; empty for a state from before there was an organ level."""
    found: dict[str, Any] | None = state.summary.get("organ_level")
    if not found or not found["rows"]:
        return {}
    order = in_order([r["region"] for r in found["rows"]])
    rows = [
        {
            **row,
            "name": name_of(row["region"]),
            "colour": colour_of(row["region"]),
            "nested": is_side(row["region"]) and organ_of(row["region"]) in order,
            "difference": "–" if row["ratio"] is None else _signed(row["ratio"] - 1),
            "why": row["why"][:1].upper() + row["why"][1:],
        }
        for row in sorted(found["rows"], key=lambda r: order.index(r["region"]))
    ]
    parts = [
        {**part, "name": f"{name_of(part['region'])}, {part['part']}", "colour": colour_of(part["region"])}
        for part in found["kidney_parts"]
    ]
    return {"method": found["method"], "rows": rows, "parts": parts, "marrow": marrow_words(found["marrow"])}


def marrow_words(marrow: dict[str, Any] | None) -> str:
    """One sentence: the dose of red marrow, its method, its parts, what gives most of the cross-dose."""
    if marrow is None:
        return ""
    dose, own, cross = marrow["dose_gy"], marrow["self_gy"]["mean"], marrow["cross_gy"]["mean"]
    words = f"Red marrow {MARROW_METHODS[marrow['method']]} ({marrow['words']}): {number(dose['mean'])} Gy"
    words += f", 90 % interval {number(dose['q05'])} to {number(dose['q95'])}"
    words += f"; {number(own)} Gy from its own activity, {number(cross)} Gy from other regions"
    most = max(marrow["cross_by_source_gy"].items(), key=lambda x: x[1], default=None)
    if most and most[1] > 0:
        source = "the rest of the body" if most[0] == "rest" else in_sentence(most[0])
        words += f", the largest part from {source} ({number(most[1])} Gy)"
    if marrow["ratio"] is not None:
        words += f"; marrow-to-blood ratio {number(marrow['ratio'])}"
    elif marrow["method"] == "image":
        words += ". Fewer than two blood samples are in the evidence, so the blood method is not used"
    return words + "."


def _signed(share: float) -> str:
    return f"{100 * share:+.1f} %".replace("-", "−")
