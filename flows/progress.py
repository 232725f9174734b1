"""Progress as events: what does work emits them, what shows them subscribes. Nothing here changes a result.

A step that a worker process runs emits nothing; its parent emits before and after.
"""

from __future__ import annotations

import contextlib
import operator
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

START, DONE, NOTE, PART = "start", "done", "note", "part"
QUIET_S = 10.0
"""Where there is no terminal, at most one line of parts in so many seconds."""

_WORDS = {"energy": "dose maps", "_one_scan": "scans", "dvh_bands": "histograms"}

T = TypeVar("T")


@dataclass(frozen=True)
class Event:
    """`kind` start, done, note or part; `task` in words; `seconds` for done; `done` of `of` pieces for part (0: not known).

    Words hold no identity.
    """

    kind: str
    task: str
    seconds: float = 0.0
    done: int = 0
    of: int = 0


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


def counted(results: Iterable[T], task: str, of: int) -> Iterator[T]:
    """The results, each told as one more of `of` pieces."""
    for done, result in enumerate(results, start=1):
        emit(Event(PART, task, done=done, of=of))
        yield result


def counting_map(function: Callable[..., T], *inputs: Iterable[Any]) -> Iterator[T]:
    """`map` in this process that tells how far it is."""
    return counted(map(function, *inputs), words_of(function), min(operator.length_hint(column, 0) for column in inputs))


def words_of(function: Callable[..., Any]) -> str:
    """What a function that is mapped makes: its `task`, else from its name."""
    name = getattr(function, "__name__", type(function).__name__)
    return str(getattr(function, "task", _WORDS.get(name, name.strip("_").replace("_", " "))))


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
    part, told = "", time.monotonic()

    def show(event: Event) -> None:
        nonlocal part, told
        if event.kind == PART:
            part = f"{event.task}, {event.done}{f' of {event.of}' if event.of else ''}"
            if status is None and time.monotonic() - told > QUIET_S:
                told = time.monotonic()
                console.print(f"     {escape(part)}")
        elif event.kind == START:
            running.append(event.task)
            part = ""
        elif event.kind == DONE:
            if event.task in running:
                running.remove(event.task)
            part = ""
            console.print(f"[green]done[/] {escape(event.task)} [dim]{event.seconds:.1f} s[/]")
        else:
            console.print(f"     {escape(event.task)}")
        if status is not None:
            status.update(escape(", ".join(running) + (f" ({part})" if part else "")) or "...")

    with status or contextlib.nullcontext(), listening(show):
        yield
