"""`tdt identify`: what a state's data determine, what its prior does, and what is assumed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli_common import AsJson, print_json, print_table, resolved, say, settings_and_store


def identify(
    state: Annotated[str, typer.Argument(help="Pseudonym of a patient, for the newest state, or a state id.")],
    quantity: Annotated[str, typer.Option(help="Regions or organs whose dose is profiled; empty: kidneys, lesions.")] = "",
    parameter: Annotated[str, typer.Option(help="Parameters to profile as well, separated by commas.")] = "",
    picture: Annotated[Path | None, typer.Option(help="SVG file for a picture of the profiles.")] = None,
    as_json: AsJson = False,
) -> None:
    """Profile doses and parameters of a state: what its data bound, what only its prior does. Nothing is kept."""
    from flows import identify as told_of
    from flows.ladder import find

    _, store = settings_and_store()
    told = told_of.identified(store, find(store, state), _names(quantity), _names(parameter))
    if picture is not None:
        resolved(picture).write_text(told_of.picture(told), encoding="utf-8")
    if as_json:
        print_json(told)
        return
    say(f"State {told['state'][:12]}, cycle {told['cycle']} of {told['pid']}, {told['model']}. Research use only.")
    by_name = {(p["name"], p["basis"]): p for p in told["profiles"]}
    rows = []
    for name in dict.fromkeys(p["name"] for p in told["profiles"]):
        own, data = by_name[name, "posterior"], by_name[name, "likelihood"]
        rows.append(
            (
                name,
                f"{own['best']:.3g} {own['unit']}",
                told_of.interval(own, "laplace"),
                told_of.interval(own),
                told_of.interval(data),
                data["identified"],
                "" if own["variance_removed"] is None else f"{own['label']} ({own['variance_removed']:.0%})",
            )
        )
    columns = ("of", "best", "Laplace", "profile", "by this cycle's data alone", "data bound", "variance removed")
    print_table(f"90 % intervals; absorbed dose of {told['activity_mbq']:.0f} MBq of {told['product']}", columns, rows)
    least = sorted(told["parameters"], key=lambda p: p["variance_removed"])
    print_table(
        "Parameters, the least learned first",
        ("parameter", "variance removed", ""),
        [(p["name"], f"{p['variance_removed']:.0%}", p["label"]) for p in least],
    )
    share = f"{told['learned_from']:.0%}"
    say(f"90 %: where 2J rises by {told['rise_90']:.1f}.")
    say(
        f"learned: all data up to now have removed at least {share} of the population's variance (of ln dose, or of the "
        "parameter in the fit's own space); assumed: less, so that most of it still rests on the population."
    )
    if picture is not None:
        say(f"picture: {picture}")


def _names(words: str) -> list[str]:
    return [name.strip() for name in words.split(",") if name.strip()]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(identify)
