"""The command line: commands are thin and import what they need when they run, so that `tdt --help` stays quick.

Exit codes: 0 done; 1 failed (settings, installation, store, a computation without an answer); 2 wrong usage: an argument that
names nothing or contradicts another; 3 input refused or quarantined; 4 a check did not pass; 5 another process moved the same
twin first; 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import (
    cli_data,
    cli_design,
    cli_dose,
    cli_evidence,
    cli_identify,
    cli_ladder,
    cli_population,
    cli_simulate,
    cli_site,
    cli_twin,
)
from flows.cli_common import EXIT_REFUSED
from tdt_core.errors import ConflictError, InputError, TwinError, UsageError

EXIT_FAILED, EXIT_USAGE, EXIT_CONFLICT, EXIT_INTERRUPTED = 1, 2, 5, 130

app = typer.Typer(
    name="tdt",
    help="Theranostic digital twin: from images and labs to a signed prescription and the next twin state. "
    "[bold]Research use only.[/bold]",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("theranostic-digital-twin"))
        raise typer.Exit


@app.callback()
def settings_from_options(
    home: Annotated[Path | None, typer.Option(help="TDT_HOME for this command.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file instead of ./tdt.toml.")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options that stand before the command. They become environment, so that child processes see them too."""
    if home is not None:
        os.environ["TDT_HOME"] = str(home.expanduser().resolve())
    if config is not None:
        os.environ["TDT_CONFIG"] = str(config.expanduser().resolve())


cli_data.register(app)
cli_dose.register(app)
cli_simulate.register(app)
cli_twin.register(app)
cli_identify.register(app)
cli_ladder.register(app)
cli_design.register(app)
cli_population.register(app)
cli_evidence.register(app)
cli_site.register(app)


def exit_code(error: BaseException) -> int:
    """The exit code of an error that ended a command."""
    if isinstance(error, ConflictError):
        return EXIT_CONFLICT
    if isinstance(error, InputError):
        return EXIT_REFUSED
    if isinstance(error, UsageError):
        return EXIT_USAGE
    return EXIT_FAILED


def report_error(error: TwinError, as_json: bool) -> None:
    """Tell a person (stderr) or a script (one JSON object on stdout) what was found, expected and what to do."""
    if as_json:
        print(json.dumps({"error": error.as_dict()}))
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    console.print(f"[bold red]{escape(error.kind)}[/]  {escape(error.found)}", highlight=False)
    if error.expected:
        console.print(f"  expected: {escape(error.expected)}", highlight=False)
    if error.remedy:
        console.print(f"  do: {escape(error.remedy)}", highlight=False)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        result: Any = app(args=arguments, prog_name="tdt")
    except TwinError as error:
        report_error(error, "--json" in arguments)
        return exit_code(error)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_FAILED
    except KeyboardInterrupt:
        print("tdt: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return int(result or 0)
