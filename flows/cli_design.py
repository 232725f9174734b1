"""`tdt design`: which measurements of the next cycle, or of one under way, would tell most of a dose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from flows.cli_common import AsJson, print_json, print_table, say, settings_and_store


def design_of_state(
    state: Annotated[str, typer.Argument(help="Pseudonym of a patient, for the newest state, or a state id.")],
    scans: Annotated[int, typer.Option(min=0, help="Number of scans that can be had.")] = 2,
    blood: Annotated[int, typer.Option(min=0, help="Number of blood samples that can be had.")] = 0,
    readings: Annotated[int, typer.Option(min=0, help="Number of readings of the whole body that can be had.")] = 0,
    pet: Annotated[bool, typer.Option("--pet", help="With a PET of the imaging agent before the therapy.")] = False,
    under_way: Annotated[
        bool, typer.Option("--under-way", help="More of the state's own cycle, after its last scan, not the next one.")
    ] = False,
    quantity: Annotated[str, typer.Option(help="Region or organ whose absorbed dose shall be told.")] = "kidneys",
    hours: Annotated[str, typer.Option(help="Hours at which a scan can be had, separated by commas.")] = "",
    blood_hours: Annotated[str, typer.Option(help="The same of blood samples.")] = "",
    reading_hours: Annotated[str, typer.Option(help="The same of readings.")] = "",
    best: Annotated[int, typer.Option(min=1, help="How many sets are shown.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Rank scans, blood samples and readings by what they are expected to tell of a dose. Nothing is kept."""
    from flows.design import BLOOD_HOURS, HOURS, READING_HOURS, Wanted, designed
    from flows.ladder import find

    wanted = Wanted(
        scans,
        _hours(hours, HOURS),
        blood,
        _hours(blood_hours, BLOOD_HOURS),
        readings,
        _hours(reading_hours, READING_HOURS),
        pet,
    )
    _, store = settings_and_store()
    told = designed(store.load(find(store, state)), wanted, quantity, best, under_way)
    if as_json:
        print_json(told)
        return
    say(f"Cycle {told['cycle']} of {told['pid']} with {told['product']}, after state {told['state'][:12]}. Research use only.")
    say(f"Absorbed dose of {quantity} before any of these: one sd is {told['sd_without']:.1%} ({told['sd_of']}).")
    rows = [
        (
            ", ".join([*s["scans"], *s["samples"]]),
            f"{s['sd_after']:.1%}",
            f"{s['variance_removed']:.1%}",
            "=" if s["equal_to_best"] else "",
        )
        for s in [*told["sets"], told["worst"]]
    ]
    rows[-1] = (f"{rows[-1][0]} (the least telling)", *rows[-1][1:])
    columns = ("sd left", f"variance removed of {told['sd_without']:.1%} squared")
    print_table(f"Sets out of {len(told['offered'])} offered", ("measurements", *columns, "as good as the first"), rows)
    if told["equal_sets"] > 1:
        say(
            f"=: {told['equal_sets']} of {told['sets_compared']} sets leave the same variance as the first within the noise of "
            f"{told['draws']} draws ({told['noise']:.1%}, two sd); their order says nothing."
        )
    single = [(s["name"], f"{s['sd_after']:.1%}", f"{s['variance_removed']:.1%}") for s in told["alone"][:best]]
    print_table("One alone", ("measurement", *columns), single)


def _hours(words: str, otherwise: Sequence[float]) -> list[float]:
    """Hours from the command line. Raises UsageError for what is no number."""
    from tdt_core.errors import UsageError

    try:
        return [float(t) for t in words.split(",") if t.strip()] or list(otherwise)
    except ValueError:
        raise UsageError(f"hours {words!r}", expected="numbers separated by commas", kind="usage.design") from None


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("design")(design_of_state)
