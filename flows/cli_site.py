"""Commands of the site: test, doctor, serve, MLflow UI, dashboard, trial, bench."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parents[1]


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


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("test", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(run_tests)
