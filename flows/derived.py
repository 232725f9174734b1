"""What can be made again from a state alone: report, RTDOSE and SEG exports, index entry."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import progress
from flows.notes import notes_of
from flows.reasons import reason_of
from flows.site import Site
from storage.atomic import write_atomic
from storage.evidence import digest_json
from storage.exports import export_state
from storage.twins import TwinStore
from tdt_core.twin import TwinState

if TYPE_CHECKING:
    import xarray

REPORT, TRUTH = "report.html", "truth.json"
HEAD_BYTES = 4_000
"""The mark stands within so many bytes of a page; a report without it is written again, no more."""
_SHOWN = re.compile(rb'<meta name="shown" content="([0-9a-f]{64})">')


def make(site: Site, state_id: str, truth: dict[str, Any] | None = None) -> Path:
    """Write `derived/<id>/report.html` and the exports (`storage.exports`); returns the folder. Again after a decision."""
    state, dose = site.store.load(state_id), site.store.open_dose(state_id)
    folder = _write_report(site, state, dose, truth)
    export_state(folder, state, dose)
    return folder


def report(site: Site, state_id: str) -> Path:
    """Write the report of a state without its exports; returns the folder."""
    return _write_report(site, site.store.load(state_id), site.store.open_dose(state_id), None)


def renew(site: Site, pid: str) -> None:
    """Write the reports again that show what no longer holds: of superseded states, and where findings came or went."""
    for state_id in outdated(site, pid):
        with progress.step(f"report of {state_id[:12]} again"):
            report(site, state_id)


def _write_report(site: Site, state: TwinState, dose: xarray.Dataset, truth: dict[str, Any] | None) -> Path:
    """Write the report; returns the folder. The truth of a reference patient is kept beside it for the next time."""
    from flows.report.render import render_report

    store, state_id = site.store, state.id
    folder = site.home.derived / state_id
    folder.mkdir(parents=True, exist_ok=True)
    if truth is not None:
        write_atomic(folder / TRUTH, json.dumps(truth).encode())
    elif (folder / TRUTH).is_file():
        truth = json.loads((folder / TRUTH).read_bytes())
    beside = beside_of(store, state_id)
    page = render_report(
        state,
        dose,
        decision=store.decision(state_id),
        provenance=({"reason": beside["reason"]} if beside["reason"] else {}) | dict(store.info(state_id).provenance),
        truth=truth,
        previous=store.load(state.parent) if state.parent is not None else None,
        notes=beside["notes"],
        superseded_by=beside["superseded_by"],
        shown=digest_json("shown", beside),
    )
    write_atomic(folder / REPORT, page.encode())
    return folder


def beside_of(store: TwinStore, state_id: str) -> dict[str, Any]:
    """What a report shows that is no part of the state and may change: decision, what supersedes it, why it came, notes."""
    record = store.decision_record(state_id)
    return {
        "decision": None if record is None else record.id,
        "superseded_by": store.superseded_by(state_id),
        "reason": reason_of(store, state_id),
        "notes": notes_of(store, state_id),
    }


def outdated(site: Site, pid: str) -> list[str]:
    """States of a patient whose report does not show what holds beside them now: superseded, decided, noted since."""
    found = []
    for state_id in site.store.state_ids(pid):
        page = site.home.derived / state_id / REPORT
        if page.is_file() and shown_in(page) != digest_json("shown", beside_of(site.store, state_id)):
            found.append(state_id)
    return found


def shown_in(page: Path) -> str:
    """What a report says that it shows (`render_report`), empty where it does not say."""
    with page.open("rb") as f:
        mark = _SHOWN.search(f.read(HEAD_BYTES))
    return mark[1].decode() if mark else ""
