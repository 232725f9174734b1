"""Where the twin errs against the truth of a reference patient. Only phantoms have one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tdt_core.twin import TwinState

KINDS = {
    "kidneys": ("kidneys",),
    "glands": ("parotid_glands", "submandibular_glands", "lacrimal_glands"),
    "lesions": ("lesions",),
}


def read_truth(path: Path) -> dict[int, Mapping[str, Any]]:
    """Cycle number -> truth of that cycle, from `truth.json`."""
    data = json.loads(path.read_text())
    return {int(cycle["number"]): cycle["truth"] for cycle in data["cycles"]}


def kind_of(organ: str) -> str | None:
    """kidneys, glands or lesions; None for any other organ."""
    return next((kind for kind, organs in KINDS.items() if organ in organs), None)


def errors(state: TwinState, truth: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per region that both the state and the truth hold: dose, interval, relative error, whether it is covered."""
    rows = []
    for row in state.summary["doses"]:
        region = truth["regions"].get(row["region"])
        if region is None or not region.get("dose_gy"):
            continue
        q, true = row["dose_gy"], float(region["dose_gy"])
        rows.append(
            {
                "region": row["region"],
                "organ": row["organ"],
                "kind": kind_of(row["organ"]),
                "true_volume_ml": float(region["volume_ml"]),
                "true_gy": true,
                "q05_gy": q["q05"],
                "q50_gy": q["q50"],
                "q95_gy": q["q95"],
                "covered": q["q05"] <= true <= q["q95"],
                "relative_error": q["q50"] / true - 1.0,
                "half_width": 0.5 * (q["q95"] - q["q05"]) / q["q50"],
            }
        )
    return rows
