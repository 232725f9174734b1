"""What a report says of daughters that leave the ligand."""

from __future__ import annotations

from flows.report.style import percent
from tdt_core.twin import TwinState


def daughters(state: TwinState) -> list[str]:
    """The rows `daughters` of the summary in words, one paragraph for each."""
    told = []
    for row in state.summary.get("daughters") or []:
        words = (
            f"{row['daughter']}: {percent(row['leaving'])} leaves the ligand where {row['parent']} decays ({row['status']}). "
        )
        if row["followed"]:
            out, lost = (row[k]["mean"] for k in ("excreted_share", "without_region_share"))
            words += (
                "It is followed: absorbed dose is where it decays. Where it goes is assumed, and its spread is part of the "
                f"intervals. Of all that {row['parent']} makes in the regions, {percent(out)} is excreted beyond its parent"
            )
            words += f", and {percent(lost)} decays where the patient has no region." if abs(lost) > 1e-3 else "."
        else:
            words += "This model does not follow it: all of it is taken to decay where its parent does (assumed)."
        told.append(words)
    return told
