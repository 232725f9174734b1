"""Commands that take data in or make it: demo, run, check, phantom."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli_common import EXIT_REFUSED, AsJson, print_json, print_table, refuse, resolved, say

BANNER = "Research use only. Not a medical device."


def demo(
    seed: Annotated[int, typer.Option(help="Seed of the reference patient.")] = 1,
    cycles: Annotated[int, typer.Option(min=2, max=6, help="Therapy cycles.")] = 2,
    matrix: Annotated[
        int, typer.Option(help="Voxels of a scan across 460 mm: even; 64 to 128 are realistic, fewer are quick.")
    ] = 96,
    anatomy: Annotated[
        Path | None, typer.Option(help="Folder of a real labelled volume in place of a drawn body (see `phantom`).")
    ] = None,
    product: Annotated[str, typer.Option(help="Therapy product.")] = "Lu-177-PSMA-617",
    as_json: AsJson = False,
) -> None:
    """A reference patient through the whole loop, with reports, exports and the errors against the truth."""
    from flows import progress
    from flows.demo import run_demo

    with progress.shown():
        told = run_demo(
            seed=seed,
            matrix=matrix,
            cycles=cycles,
            anatomy=None if anatomy is None else resolved(anatomy),
            product=product,
        )
    if as_json:
        print_json(told)
        return
    say(BANNER)
    print_table(
        "Where the twin errs against the truth, Gy",
        ("cycle", "region", "truth", "median", "5 %", "95 %", "error", "in its 90 % interval"),
        [
            (
                r["cycle"],
                r["region"],
                f"{r['true_gy']:.2f}",
                f"{r['q50_gy']:.2f}",
                f"{r['q05_gy']:.2f}",
                f"{r['q95_gy']:.2f}",
                f"{r['relative_error']:+.0%}",
                "yes" if r["covered"] else "no",
            )
            for r in told["errors"]
        ],
    )
    _print_outcome(told, fresh=False)
    say("decisions between the cycles were made by a scripted clinician; no person signed anything")
    say(f'look further:  ./tdt --home "{told["home"]}" twin list   (or dashboard, mlflow, explain STATE, sign STATE)')


def _print_outcome(told: dict[str, Any], *, fresh: bool = True) -> None:
    for entry in told["states"]:
        say(
            f"cycle {entry['cycle']}  state {entry['state'][:12]}{'  new' if entry['new'] and fresh else ''}  {entry['report']}"
        )
    say(f"proposal: {told['proposal']}")


def run(
    folder: Annotated[Path, typer.Argument(help="One patient's folder: DICOM, labs, administrations.json.")],
    as_json: AsJson = False,
) -> None:
    """Take a patient's folder in: states, reports and exports of every new cycle, and a proposal."""
    from flows import inbox, progress
    from flows.answered import ABSTAINS, WAITS
    from flows.run import orchestrated, outcome_of, take_in
    from flows.settings import load_settings, make_folders
    from storage.quality import RefusedInbox
    from storage.twins import TwinStore

    settings = load_settings()
    source = inbox.existing(resolved(folder), named=True)  # before `orchestrated` makes TDT_HOME and the folders beside it
    try:
        with progress.shown(), orchestrated(settings) as server:
            taken = take_in(settings, server, source)
    except RefusedInbox as refused:
        refuse(refused, as_json)
    told = outcome_of(TwinStore(make_folders(settings)), taken)
    if as_json:
        print_json(told)
        return
    say(BANNER)
    _print_outcome(told)
    for number, lacks in told["waiting"].items():
        say(f"cycle {number} waits for {lacks}")
    for words in told["not_used"]:
        say(f"not used: {words}")
    for words in told["findings"]:
        say(f"note: {words}")
    if not told["new"]:
        say("no new state" if told["not_used"] else "nothing new: this evidence is assimilated already")
    if told["standing"] == ABSTAINS:
        say(f"{ABSTAINS}: what you decide yourself is recorded as changed or refused (docs/operations.md)")
    elif told["standing"] == WAITS:
        say(f'answer it:  ./tdt --home "{settings.home}" sign {told["newest"][:12]}')


def check(
    folder: Annotated[Path, typer.Argument(help="One patient's folder.")],
    as_json: AsJson = False,
) -> None:
    """The data-quality report of a folder, without changing anything. Exit code 3 when it would be refused."""
    from flows.settings import load_settings
    from storage.intake import check as examine
    from storage.vault import Vault

    settings = load_settings()
    vault = Vault.open(settings.vault, create=False) if (settings.vault / "key.json").exists() else None
    report = examine(resolved(folder), vault, ct_calibration_file=settings.ct_calibration)
    if as_json:
        print_json(report.as_dict())
    else:
        say("\n".join(report.lines(paths=True)))
    if not report.ok:
        raise typer.Exit(EXIT_REFUSED)


def phantom(
    out: Annotated[Path, typer.Argument(help="New or empty folder; gets `inbox` and `truth`.")],
    seed: Annotated[int, typer.Option(min=0, help="Any whole number; the same seed gives the same bytes.")] = 1,
    cycles: Annotated[int, typer.Option(min=2, max=6)] = 2,
    matrix: Annotated[
        int, typer.Option(help="Voxels of a scan across 460 mm: even; 64 to 128 are realistic, fewer are quick.")
    ] = 96,
    time_points: Annotated[int, typer.Option(min=3, max=4, help="SPECT scans per cycle.")] = 4,
    variant: Annotated[str, typer.Option(help="standard, one_kidney or no_spleen.")] = "standard",
    product: Annotated[str, typer.Option(help="Therapy product.")] = "Lu-177-PSMA-617",
    pet: Annotated[bool, typer.Option(help="Pre-therapy PET as cycle 0.")] = True,
    real_world: Annotated[bool, typer.Option("--real-world", help="SPECT in Bq/mL instead of counts.")] = False,
    anatomy: Annotated[
        Path | None,
        typer.Option(help="Folder of a real labelled volume: ct.nii.gz, labels.nii.gz, labels.json, or Interfile."),
    ] = None,
    images: Annotated[
        str, typer.Option(help="fast (blur and noise in the image) or physical (projections, counts, OSEM; minutes).")
    ] = "fast",
    noise: Annotated[str, typer.Option(help="Of fast SPECT images: assumed, or physical_chain as measured.")] = "assumed",
    as_json: AsJson = False,
) -> None:
    """Make a digital reference patient: the files a clinic would have, and the truth beside them."""
    from flows import progress
    from storage.phantom_files import write_reference_patient
    from tdt_core.phantom import PhantomSettings, reference_patient

    settings = PhantomSettings(
        seed=seed,
        cycles=cycles,
        matrix=matrix,
        time_points=time_points,
        pet=pet,
        variant=variant,  # type: ignore[arg-type]
        product=product,
        images=images,  # type: ignore[arg-type]
        noise=noise,  # type: ignore[arg-type]
    )
    labelled = None
    if anatomy is not None:
        from storage.anatomy_files import read_anatomy

        labelled = read_anatomy(resolved(anatomy))
    with (
        progress.shown(),
        progress.step(f"reference patient {seed}: {cycles} cycles"),
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        reference = reference_patient(settings, labelled, map=pool.map)
        inbox = write_reference_patient(resolved(out), reference, real_world=real_world)
    if as_json:
        print_json({"inbox": str(inbox), "truth": str(inbox.parent / "truth" / "truth.json")})
    else:
        say(f'take it in:  ./tdt run "{inbox}"')


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(demo)
    app.command()(run)
    app.command()(check)
    app.command()(phantom)
