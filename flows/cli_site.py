"""Commands of the site: serve, mlflow, dashboard, doctor, trial, bench, test."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.bench import BENCHES
from flows.cli_common import EXIT_NO, AsJson, print_json, print_table, say

ROOT = Path(__file__).resolve().parents[1]
PortOption = Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 finds a free one.")]


def run_tests(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Also the long statistical and durability suites.")] = False,
) -> None:
    """Run the tests; further arguments go to pytest."""
    extra = list(context.args)
    command = [sys.executable, "-P", "-m", "pytest", "-q"]
    if not any(word in ("-n", "--numprocesses") or word.startswith(("-n", "--numprocesses=")) for word in extra):
        # loadgroup: the tests that share one server stay on one worker
        command += ["-n", "2", "--dist", "loadgroup"]
    if not everything:
        command += ["-m", "not long"]
    os.chdir(ROOT)
    sys.stdout.flush()
    os.execv(sys.executable, command + extra)


def serve(
    ui: Annotated[bool, typer.Option("--ui", help="Also show Prefect's own pages.")] = False,
    port: PortOption = 0,
) -> None:
    """Run all day: watch the inbox, take in each new complete cycle, wait for signatures. Ctrl-C ends it."""
    from flows.serving import serve_until_stopped
    from flows.settings import load_settings

    serve_until_stopped(load_settings(), ui=ui, port=port, say=say)


def mlflow(port: PortOption = 0) -> None:
    """Open MLflow's pages over this home's index. Ctrl-C ends it."""
    from flows.services import mlflow_server
    from flows.serving import wait_for_ctrl_c
    from flows.settings import load_settings

    settings = load_settings()
    if settings.mlflow_uri.startswith("http"):
        say(f"MLflow runs at {settings.mlflow_uri}")
        return
    with mlflow_server(settings, port) as url:
        say(f"MLflow: {url}")
        wait_for_ctrl_c()


def dashboard(
    port: PortOption = 0,
    show: Annotated[bool, typer.Option("--show/--no-show", help="Open a browser.")] = False,
) -> None:
    """Patients, states, the last report, dose slices and alarms in a browser. Ctrl-C ends it."""
    from flows.dashboard.app import serve_dashboard
    from flows.settings import load_settings, make_folders

    settings = load_settings()
    make_folders(settings)
    serve_dashboard(settings, port=port, show=show)


def doctor(as_json: AsJson = False) -> None:
    """Check pins, ports, folders, telemetry switches, tools and services. Exit code 4 when something must be mended."""
    from flows.doctor import as_plain, examine, healthy

    found = examine()
    if as_json:
        print_json(as_plain(found))
    else:
        marks = {"ok": "ok", "warning": "WARN", "error": "ERROR"}
        rows = [(marks[f.level], f.area, f.name, f.found, f.remedy) for f in found]
        print_table("tdt doctor", ("", "area", "what", "found", "do"), rows)
        say("fit for work" if healthy(found) else "something must be mended")
    if not healthy(found):
        raise typer.Exit(EXIT_NO)


trial = typer.Typer(help="Virtual trials.", no_args_is_help=True)


@trial.command("demo")
def trial_demo(
    patients: Annotated[int, typer.Option(min=2, help="Virtual patients.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Root seed.")] = 1,
    cycles: Annotated[int, typer.Option(min=1, max=6)] = 2,
    workers: Annotated[int | None, typer.Option(min=1, help="Dask workers; the results do not depend on it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Virtual patients in two arms, fixed activity and the twin's proposal: one zarr, MLflow runs, a summary page."""
    from flows import progress
    from flows.settings import load_settings
    from flows.trial import run_trial
    from tdt_core.trials import Design

    with progress.shown():
        told = run_trial(load_settings(workers=workers), Design(root_seed=seed, patients=patients, cycles=cycles))
    if as_json:
        print_json(told)
        return
    arms = told["design"]["arms"]
    rows = [
        (
            f"{row['endpoint']} [{row['unit']}]",
            *(f"{row['arms'][a]['mean']:.4g} ± {row['arms'][a]['standard_error']:.2g}" for a in arms),
            *(f"{row['differences'][a]['mean']:+.4g} ± {row['differences'][a]['standard_error']:.2g}" for a in arms[1:]),
        )
        for row in told["last_cycle"]
    ]
    print_table(
        f"Last cycle, mean ± Monte-Carlo standard error of {patients} virtual patients",
        ("endpoint", *arms, *(f"{a} - {arms[0]}" for a in arms[1:])),
        rows,
    )
    say(f"summary: {told['page']}")


def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(BENCHES)}.")],
    as_json: AsJson = False,
) -> None:
    """Run a benchmark. Further options are the benchmark's own, such as --patients 4 --seed 2."""
    from flows.bench import bench as find
    from flows.bench_options import options

    run, describe = find(name)
    figures = run(**options(run, context.args))
    if as_json:
        print_json(figures)
    else:
        say(describe(figures))


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(serve)
    app.command()(mlflow)
    app.command()(dashboard)
    app.command()(doctor)
    app.add_typer(trial, name="trial")
    open_ended = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(context_settings=open_ended)(bench)
    app.command("test", context_settings=open_ended)(run_tests)
