"""`tdt design`: which scans of the next cycle would tell most of a dose."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli_common import AsJson, print_json, print_table, say, settings_and_store


def design_of_state(
    state: Annotated[str, typer.Argument(help="Pseudonym of a patient, for the newest state, or a state id.")],
    scans: Annotated[int, typer.Option(min=1, help="Number of scans that can be had.")] = 2,
    quantity: Annotated[str, typer.Option(help="Region or organ whose absorbed dose the scans shall tell.")] = "kidneys",
    hours: Annotated[str, typer.Option(help="Hours at which a scan can be had, separated by commas.")] = "",
    best: Annotated[int, typer.Option(min=1, help="How many sets are shown.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Rank the times of the next cycle's scans by what they are expected to tell of a dose. Nothing is kept."""
    from flows.design import HOURS, designed
    from flows.ladder import find
    from tdt_core.errors import SettingsError

    try:
        offered = [float(t) for t in hours.split(",") if t.strip()] or list(HOURS)
    except ValueError:
        raise SettingsError(f"hours {hours!r}", expected="numbers separated by commas", kind="settings.design") from None
    _, store = settings_and_store()
    told = designed(store.load(find(store, state)), scans, quantity, offered, best)
    if as_json:
        print_json(told)
        return
    say(f"Cycle {told['cycle']} of {told['pid']} with {told['product']}, after state {told['state'][:12]}. Research use only.")
    say(f"Absorbed dose of {quantity} before any scan: one sd is {told['sd_without']:.0%}.")
    rows = [
        (", ".join(s["scans"]), f"{s['sd_after']:.1%}", f"{s['variance_removed']:.0%}") for s in [*told["sets"], told["worst"]]
    ]
    rows[-1] = (f"{rows[-1][0]} (the least telling)", *rows[-1][1:])
    print_table(f"{scans} of {len(told['offered'])} offered", ("scans at", "sd left", "variance removed"), rows)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("design")(design_of_state)
