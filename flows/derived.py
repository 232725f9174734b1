"""What can be made again from a state alone: report, RTDOSE and SEG exports, index entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.notes import notes_of
from flows.site import Site
from storage.atomic import write_atomic
from storage.exports import export_state


def make(site: Site, state_id: str, truth: dict[str, Any] | None = None) -> Path:
    """Write `derived/<id>/report.html` and the exports (`storage.exports`); returns the folder. Again after a decision."""
    from flows.report.render import render_report

    state, dose = site.store.load(state_id), site.store.open_dose(state_id)
    folder = site.home.derived / state_id
    folder.mkdir(parents=True, exist_ok=True)
    previous = site.store.load(state.parent) if state.parent is not None else None
    page = render_report(
        state,
        dose,
        decision=site.store.decision(state_id),
        provenance=site.store.info(state_id).provenance,
        truth=truth,
        previous=previous,
        notes=notes_of(site.store, state),
    )
    write_atomic(folder / "report.html", page.encode())
    export_state(folder, state, dose)
    return folder
