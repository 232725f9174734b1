"""`tdt simulate`: a whole-body model under a schedule, on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli_common import AsJson, print_json, print_table, resolved, say


def simulate(
    model: Annotated[
        str,
        typer.Argument(
            help="psma, sstr; psma_lumped, psma_reduced: fewer organs; psma_albumin; psma_reference: a numerical case."
        ),
    ] = "psma",
    product: Annotated[str | None, typer.Option(help="Product: fills in ligand, nuclide, activity and amount.")] = None,
    ligand: Annotated[str | None, typer.Option(help="Ligand, such as PSMA-617.")] = None,
    nuclide: Annotated[str | None, typer.Option(help="Nuclide, such as Lu-177.")] = None,
    activity_mbq: Annotated[float | None, typer.Option(help="Activity at the start of the administration, MBq.")] = None,
    amount_nmol: Annotated[float | None, typer.Option(help="Ligand, hot and cold together, nmol.")] = None,
    at: Annotated[float, typer.Option(help="Start of the administration, h.")] = 0.0,
    duration_h: Annotated[float, typer.Option(help="Hours of an infusion; 0 is a bolus.")] = 0.0,
    residual_mbq: Annotated[float, typer.Option(help="Activity left in the vial, MBq.")] = 0.0,
    schedule: Annotated[
        Path | None,
        typer.Option(help="CSV of several administrations: time_h, product or ligand and nuclide, activity_mbq, amount_nmol."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="organ.quantity=number, with a unit or in the model's; repeatable.")
    ] = None,
    lesion: Annotated[
        list[str] | None, typer.Option(help="id=volume_ml, then ,quantity=number as with --set; repeatable.")
    ] = None,
    patient: Annotated[
        str | None,
        typer.Option(help="typical (calibrated to clinical levels; default of psma and sstr) or reference (the model's own)."),
    ] = None,
    without: Annotated[list[str] | None, typer.Option(help="Organ that the patient does not have; repeatable.")] = None,
    release: Annotated[str | None, typer.Option(help="Released ligand is lost or recycled.")] = None,
    plasma_binding: Annotated[str | None, typer.Option(help="none, free_fraction or albumin.")] = None,
    turnover: Annotated[
        str | None, typer.Option(help="Receptors that go inside are replaced at once (none) or at a rate (explicit).")
    ] = None,
    daughters: Annotated[
        str | None, typer.Option(help="Bi-213 of Ac-225, Bi-212 of Pb-212: with the parent (none) or followed.")
    ] = None,
    times: Annotated[str | None, typer.Option(help="Hours of the table of activities, such as 1,4,24,72.")] = None,
    until: Annotated[float | None, typer.Option(help="Or the last hour of a grid; default 168 h after the last start.")] = None,
    parameters: Annotated[
        Path | None, typer.Option(help="Table of parameters, .csv or .json, such as a run writes; --set goes before it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder for activity.csv, tia.csv, parameters.csv, .json, curves.html, .svg.")
    ] = None,
    show_parameters: Annotated[
        bool, typer.Option("--show-parameters", help="Print the parameters and simulate nothing.")
    ] = False,
    export_parameters: Annotated[Path | None, typer.Option(help="All quantities into a new .csv or .json file.")] = None,
    as_json: AsJson = False,
) -> None:
    """A whole-body model under a schedule: activity over time, time-integrated activity, and what it rests on."""
    from flows import simulate as work
    from flows.simulate_input import as_input, read_times
    from flows.simulate_parameters import Table, parameter_rows, patient_of, read_table, tabled

    if out is not None:
        work.check_folder(resolved(out))
    if export_parameters is not None:
        work.check_export(resolved(export_parameters))
    table = Table() if parameters is None else read_table(resolved(parameters))
    options = {"release": release, "plasma_binding": plasma_binding, "turnover": turnover, "daughters": daughters}
    virtual = patient_of(table, model, set_ or (), lesion or (), without or (), options, patient)
    one = {"product": product, "ligand": ligand, "nuclide": nuclide, "activity_mbq": activity_mbq, "amount_nmol": amount_nmol}
    given = _administrations(one, {"time_h": at, "duration_h": duration_h, "residual_mbq": residual_mbq}, schedule)
    if given:
        with as_input():
            virtual = virtual.with_ligands([a.ligand for a in given])
    if parameters is not None:
        virtual = tabled(virtual, table, virtual.ligands if virtual.model.ligand or virtual.several else ())
    if not virtual.ligands:
        virtual = virtual.with_ligands(())  # what is given for one ligand needs that ligand
    only_parameters = show_parameters or (export_parameters is not None and not given)
    outcome = None if only_parameters else work.run(virtual, given, None if times is None else read_times(times), until)
    files = []
    if export_parameters is not None:
        files.append(work.export_parameters(virtual, resolved(export_parameters)))
    if out is not None and outcome is not None:
        files += work.write(outcome, resolved(out))
    if as_json:
        told = {"parameters": parameter_rows(virtual)} if outcome is None else work.told(outcome)
        print_json(told | {"files": files})
        return
    if show_parameters:
        _print_parameters(virtual)
    if outcome is not None:
        _print_outcome(outcome)
    for file in files:
        say(f"written: {file}")


def _administrations(one: dict[str, Any], numbers: dict[str, Any], schedule: Path | None) -> tuple[Any, ...]:
    """Those of the options, or of the file; none where neither is given."""
    from flows.simulate_input import administration, read_schedule
    from tdt_core.errors import InputError

    named = any(value is not None for value in one.values()) or any(numbers.values())
    if schedule is None:
        return (administration(**one, **numbers),) if named else ()
    if named:
        raise InputError(
            "--schedule and an administration in options",
            expected="one of them",
            remedy="put that administration into the file as a row of its own",
            kind="input.schedule",
        )
    return read_schedule(resolved(schedule))


def _print_parameters(virtual: Any) -> None:
    from flows.report.style import number
    from flows.simulate import RESEARCH
    from flows.simulate_parameters import counts_in_words, parameter_rows, status_counts

    rows = [r for r in parameter_rows(virtual) if not r["rule"]]
    cells = [(r["name"], number(r["value"], 5), r["unit"], r["status"], r["source"]) for r in rows]
    print_table(
        f"Parameters of {virtual.model.name}, {virtual.patient} patient", ("name", "value", "unit", "status", "source"), cells
    )
    say(f"parameters: {counts_in_words(status_counts(virtual))}; what follows from them by rule: --export-parameters")
    say(RESEARCH)


def _print_outcome(outcome: Any) -> None:
    from flows.report.style import name_of, number
    from flows.simulate import RESEARCH, daughters_in, nuclides_of, parts_of, tia_rows
    from flows.simulate_page import schedule_in_words
    from flows.simulate_parameters import counts_in_words, status_counts

    for line in schedule_in_words(outcome):
        say(line)
    rows = {(r["nuclide"], r["region"]): r for r in tia_rows(outcome)}
    for name in nuclides_of(outcome):
        parts = parts_of(outcome, name)
        print_table(
            f"Time-integrated activity of {name} until {outcome.data.attrs['end_h']:.0f} h",
            (
                "region",
                "MBq h",
                "h",
                "of all decays",
                *(f"{part.partition('/')[2].replace('_', ' ')}, MBq h" for part in parts),
            ),
            [
                (
                    name_of(region),
                    number(r["tia_mbq_h"], 4),
                    number(r["hours"], 4),
                    f"{r['share']:.2%}",
                    *(number(rows[part, region]["tia_mbq_h"], 4) for part in parts),
                )
                for (nuclide, region), r in rows.items()
                if nuclide == name
            ],
        )
    say(
        "h: per administered activity; of a daughter, of its parent's"
        if daughters_in(outcome)
        else "h: per administered activity"
    )
    say(f"parameters: {counts_in_words(status_counts(outcome.virtual))}")
    for note in outcome.notes:
        say(f"note: {note}")
    say(RESEARCH)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(simulate)
