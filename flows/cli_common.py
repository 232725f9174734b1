"""What the commands share: the store of the settings, tables for persons, one JSON object for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from flows.settings import Settings
    from storage.quality import RefusedInbox
    from storage.twins import TwinStore

EXIT_REFUSED = 3
"""The input was refused."""
EXIT_NO = 4
"""A check did not pass."""

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")]


def settings_and_store() -> tuple[Settings, TwinStore]:
    """The settings and the store they name. Raises StoreError where there is none yet."""
    from flows.settings import load_settings
    from storage.home import open_home
    from storage.twins import TwinStore

    settings = load_settings()
    return settings, TwinStore(open_home(settings.home, create=False))


def print_json(value: Any) -> None:
    """One JSON object on standard output; paths and times as text."""
    print(json.dumps(value, indent=1, sort_keys=False, default=str, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table for a person. Every cell is text, never markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    console = Console()
    # a script that reads the table through a pipe gets whole lines, not 80 columns
    if not console.is_terminal:
        console.width = 200
    console.print(table)


def say(words: str) -> None:
    """One line for a person, as it is."""
    print(words)


def refuse(refused: RefusedInbox, as_json: bool) -> NoReturn:
    """Say all reasons why a folder is refused, and end the command with `EXIT_REFUSED`."""
    if as_json:
        print_json({"error": refused.as_dict(), "report": refused.report.as_dict()})
    else:
        say("\n".join(refused.report.lines(paths=True)))
    raise typer.Exit(EXIT_REFUSED) from None


def say_markdown(words: str) -> None:
    """Markdown for a person, laid out."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(Markdown(words))


def resolved(folder: Path) -> Path:
    """A folder as given on the command line."""
    return folder.expanduser().resolve()
