"""`tdt dose`: dosimetry of one therapy cycle without a twin, on the command line."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli_common import AsJson, print_json, print_table, refuse, resolved, say


def dose(
    folder: Annotated[Path, typer.Argument(help="One therapy cycle: scans with CT, regions, administrations.json.")],
    out: Annotated[Path | None, typer.Option(help="New folder for the results; default FOLDER-dose beside FOLDER.")] = None,
    engine: Annotated[str, typer.Option(help="kernel, local, multimedium or mc.")] = "kernel",
    method: Annotated[
        str,
        typer.Option(
            help="Time integration per voxel: regional_shape, hierarchical, voxel_fit, trapezoid; of one scan madsen, "
            "hanscheid_2017, hanscheid_2018."
        ),
    ] = "regional_shape",
    scan: Annotated[int | None, typer.Option(min=1, help="Only this scan (1 is the first), for methods of one scan.")] = None,
    before_first: Annotated[
        str | None, typer.Option(help="Activity before the first scan: constant, linear, exponential; default the method's.")
    ] = None,
    cycle: Annotated[int | None, typer.Option(min=1, help="Which therapy, where FOLDER holds several.")] = None,
    draws: Annotated[int, typer.Option(min=20, max=10_000, help="Draws over the error budgets.")] = 200,
    decays: Annotated[float, typer.Option(min=1e3, max=1e12, help="Decays that Monte Carlo follows.")] = 2e6,
    seed: Annotated[int, typer.Option(min=0, help="Of draws and Monte Carlo.")] = 1,
    workers: Annotated[int, typer.Option(min=1, max=1024, help="Dask workers; 1 works in this process.")] = 1,
    identified: Annotated[
        bool, typer.Option("--identified", help="DICOM results name the patient and lie on the original CT.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Absorbed dose, BED and their uncertainty of one cycle, as maps, tables and a page; no twin is made or changed."""
    from flows import progress
    from flows.dose.calculate import DoseOptions, calculate, check_options
    from flows.dose.files import target_of, write
    from flows.dose.take_in import take_in
    from flows.inbox import existing
    from flows.settings import load_settings
    from storage.quality import RefusedInbox
    from storage.scratch import arrays_within

    source = existing(resolved(folder), named=True)
    target = target_of(source, None if out is None else resolved(out))
    options = DoseOptions(engine, method, before_first, draws, int(decays), seed, scan)
    check_options(options)
    try:
        with progress.shown():
            with progress.step("reading the folder"):
                taken = take_in(source, cycle)
            with _map(workers) as map_:
                found = calculate(taken, options, map_, arrays_within(load_settings().basis_bytes, target.parent))
            told, files = write(found, target, identified=identified)
    except RefusedInbox as refused:
        refuse(refused, as_json)
    if as_json:
        print_json(told | {"out": str(target), "files": files})
        return
    _print(told)
    say(f"written: {target} ({', '.join(files)})")


def _map(workers: int) -> Any:
    """A context that gives the map: plain, or that of a Dask client."""
    if workers == 1:
        from flows.progress import counting_map

        return nullcontext(counting_map)
    from contextlib import contextmanager

    from flows.dask_client import dask_client
    from flows.dask_map import ordered_map
    from flows.settings import load_settings

    @contextmanager
    def parallel() -> Any:
        settings = load_settings()
        with dask_client(settings, workers=workers) as client:
            yield ordered_map(client, settings.held_bytes)

    return parallel()


def _print(told: dict[str, Any]) -> None:
    from flows.cli_data import BANNER
    from flows.report.style import interval, name_of, number
    from flows.report.words import hollow_words

    say(BANNER)
    print_table(
        f"Cycle {told['cycle']}, {told['therapy']['net_activity_mbq']:.0f} MBq {told['therapy']['nuclide']}",
        ("region", "mL", "TIA, MBq h", "T½, h", "absorbed dose, Gy, mean", "90 %", "BED, Gy, mean"),
        [
            (
                name_of(r["region"]),
                number(r["volume_ml"]),
                number(r["tia_mbq_h"]["mean"], 4) if "tia_mbq_h" in r else "",
                number(r["effective_half_life_h"]) if "tia_mbq_h" in r else "",
                number(r["dose_gy"]["mean"]),
                interval(r["dose_gy"]),
                number(r["bed_gy"]["mean"]) if r["bed_gy"] else "",
            )
            for r in told["regions"]
        ],
    )
    if words := hollow_words(r["region"] for r in told["regions"]):
        say(words)
    for finding in told["findings"]:
        say(f"note: {finding}")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(dose)
