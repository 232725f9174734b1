"""Commands on evidence that was taken in: evidence, retract."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli_common import AsJson, print_json, print_table, say, settings_and_store
from flows.cli_twin import PatientArgument


def evidence(patient: PatientArgument, as_json: AsJson = False) -> None:
    """Everything that was ever delivered for a patient, and what of it stands, was replaced or was retracted."""
    from flows.evidence import findings, listed

    _, store = settings_and_store()
    rows = listed(store, patient)
    notes = findings(store, patient)
    if as_json:
        print_json({"pid": patient, "items": rows, "findings": notes})
        return
    print_table(
        f"Evidence of {patient}",
        ("item", "kind", "hours", "what", "stated", "status", "reason"),
        [
            (
                r["item"][:12],
                r["kind"],
                "" if r["time_h"] is None else f"{r['time_h']:.1f}",
                r["what"],
                f"{r['version'][:16]}Z",
                r["status"],
                r["reason"],
            )
            for r in rows
        ],
    )
    say("hours after the first therapy; of a SPECT at the middle of its acquisition, of a PET at its start, as in reports")
    for words in notes:
        say(f"note: {words}")


def retract(
    patient: PatientArgument,
    items: Annotated[list[str], typer.Argument(help="Items as `tdt evidence` prints them, or their first digits.")],
    reason: Annotated[str, typer.Option(help="Why they do not hold; kept in the record.")],
    name: Annotated[str, typer.Option(help="Who says so; kept in the record.")],
    undo: Annotated[bool, typer.Option("--undo", help="Put retracted items in force again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take back a scan, a segmentation, a laboratory result, a sample, an administration; the chain follows as a branch."""
    from flows import progress
    from flows.evidence import findings
    from flows.evidence import retract as take_back
    from flows.loop import finish
    from flows.settings import load_settings
    from flows.site import open_site

    settings_and_store()  # an error where there is no home: nothing is made here
    site = open_site(load_settings())
    with progress.shown():
        outcome = take_back(site, patient, items, reason=reason, by=name, undo=undo)
        finish(site, outcome["pid"], outcome["new"])
    notes = findings(site.store, patient)
    if as_json:
        print_json({**outcome, "findings": notes})
        return
    for state in outcome["new"]:
        say(f"new state {state[:12]}")
    say(f"the twin now rests on {outcome['states'][-1][:12]}; earlier states stay: tdt twin as-of {patient} TIME")
    for words in notes:
        say(f"note: {words}")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(evidence)
    app.command()(retract)
