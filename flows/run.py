"""One folder through the loop, as `tdt run` and `tdt demo` do it: server, flow, what came of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import inbox, progress
from flows.services import PrefectServer, environment, prefect_server
from flows.settings import Settings, make_folders

if TYPE_CHECKING:
    from storage.twins import TwinStore


@contextlib.contextmanager
def orchestrated(settings: Settings) -> Iterator[PrefectServer]:
    """The Prefect server of a command: starting in the background from here on, stopped at the end of the block."""
    make_folders(settings)
    # the command reports an error itself, in words; Prefect would print its traceback first
    silent = {f"PREFECT_LOGGING_LOGGERS_PREFECT_{name}_RUNS_LEVEL": "CRITICAL" for name in ("FLOW", "TASK")}
    with environment(silent), prefect_server(settings, wait=False) as server:
        yield server


def take_in(settings: Settings, server: PrefectServer, folder: Path) -> dict[str, Any]:
    """Take one patient's folder in through the flow; returns what the flow returns.

    Raises InputError (a `RefusedInbox` with the full report) when the folder is refused; no twin has changed then.
    """
    link = inbox.alias(settings, folder)
    if server.waiting:
        with progress.step("orchestration server"):
            server.ready()
    else:
        server.ready()
    from flows.loop import take_in_patient

    outcome: dict[str, Any] = take_in_patient(str(link), str(settings.home))
    return outcome


def outcome_of(store: TwinStore, taken: dict[str, Any]) -> dict[str, Any]:
    """What a person or a script wants to know after a run: chain in order of cycles, newest proposal, files."""
    from flows.answered import standing_of
    from flows.evidence import findings, not_used
    from flows.explain import proposal_line
    from storage.deliveries import pool_of
    from storage.pool import waiting

    chain = sorted(store.log(taken["pid"]), key=lambda info: info.cycle)
    newest = store.load(chain[-1].id)
    decision = store.decision(newest.id)
    return {
        "pid": taken["pid"],
        "new": list(taken["new"]),
        "states": [
            {
                "cycle": info.cycle,
                "state": info.id,
                "report": str(store.home.derived / info.id / "report.html"),
                "new": info.id in taken["new"],
            }
            for info in chain
        ],
        "newest": newest.id,
        "proposal": proposal_line(newest),
        "waiting": {str(k): v for k, v in waiting(pool_of(store, taken["pid"]).cycles()).items()},
        "not_used": not_used(store, taken["pid"], taken["delivery"]),
        "findings": findings(store, taken["pid"]),
        "proposed_mbq": None if newest.proposal is None else newest.proposal.activity_mbq,
        "standing": standing_of(store, newest.id),
        "decision": None if decision is None else decision.kind,
    }
