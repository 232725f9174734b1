"""`tdt ladder`: a state's evidence fitted by every rung of the ladder of kinetic models, and their average."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli_common import AsJson, print_json, print_table, say, settings_and_store


def ladder_of_state(
    state: Annotated[str, typer.Argument(help="State id or its first digits, or a pseudonym for the newest state.")],
    rungs: Annotated[str, typer.Option(help="Rungs to fit, separated by commas; empty: all.")] = "",
    by: Annotated[
        str, typer.Option(help="What weights rest on: evidence, left_out, or aicc (the evidence where it is not defined).")
    ] = "evidence",
    draws: Annotated[int, typer.Option(min=20, help="Draws of each rung and of the average.")] = 500,
    as_json: AsJson = False,
) -> None:
    """Fit the evidence of a state with every kinetic model, and compare and average them. Nothing is kept."""
    from flows.ladder import find, ladder, lines
    from flows.truth import KINDS
    from tdt_core.assimilation.selection import BASES
    from tdt_core.errors import UsageError

    if by not in BASES:
        raise UsageError(f"weights by {by!r}", expected=f"one of {', '.join(BASES)}", kind="usage.ladder")
    _, store = settings_and_store()
    names = [name.strip() for name in rungs.split(",") if name.strip()]
    told = ladder(store.load(find(store, state)), names, by, draws)
    if as_json:
        print_json(told)
        return
    say(f"State {told['state'][:12]}, cycle {told['cycle']} of {told['pid']}. Research use only.")
    scores, amounts, remarks = lines(told)
    columns = (
        "rung",
        "parameters (effective)",
        "data",
        "s",
        "-2 ln L",
        "AICc",
        "Akaike",
        "ln evidence",
        "ln left out",
        "weight",
        "identified",
        "least learned (shrinkage)",
    )
    print_table("Rungs", columns, scores)
    kinds = [k for k in KINDS if k in told["average"]]
    print_table(
        f"Time-integrated activity of {told['activity_mbq']:.0f} MBq, MBq h: median (90 % interval)", ("rung", *kinds), amounts
    )
    for words in remarks:
        say(words)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("ladder")(ladder_of_state)
