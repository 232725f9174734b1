"""Progress as events: what does work emits them, what shows them subscribes. Nothing here changes a result.

A step that a worker process runs emits nothing; its parent emits before and after.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

START, DONE, NOTE = "start", "done", "note"


@dataclass(frozen=True)
class Event:
    """`kind` start, done or note; `task` in words; `seconds` for done. Words hold no identity."""

    kind: str
    task: str
    seconds: float = 0.0


Listener = Callable[[Event], None]
_listeners: list[Listener] = []


def emit(event: Event) -> None:
    """Tell every listener."""
    for listener in tuple(_listeners):
        listener(event)


def note(words: str) -> None:
    """Tell every listener one line."""
    emit(Event(NOTE, words))


@contextlib.contextmanager
def step(task: str) -> Iterator[None]:
    """A piece of work with a beginning and an end; an error ends it without `done`."""
    emit(Event(START, task))
    started = time.monotonic()
    yield
    emit(Event(DONE, task, time.monotonic() - started))


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Subscribe for the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Show events on standard error: a live line per running step on a terminal, plain lines elsewhere."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False)
    status = console.status("") if console.is_terminal else None
    running: list[str] = []

    def show(event: Event) -> None:
        if event.kind == START:
            running.append(event.task)
        elif event.kind == DONE:
            if event.task in running:
                running.remove(event.task)
            console.print(f"[green]done[/] {escape(event.task)} [dim]{event.seconds:.1f} s[/]")
        else:
            console.print(f"     {escape(event.task)}")
        if status is not None:
            status.update(escape(", ".join(running)) or "...")

    with status or contextlib.nullcontext(), listening(show):
        yield
