"""Options of a benchmark from the command line, by the signature of its `run`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from tdt_core.errors import UsageError

CONVERT: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str, "str | None": str, "int | None": int}


def options(run: Callable[..., Any], words: Sequence[str]) -> dict[str, Any]:
    """`--name value` or `--name=value` pairs as keyword arguments of `run`. Raises UsageError for what it does not take."""
    known = inspect.signature(run).parameters
    found: dict[str, Any] = {}
    pending = list(words)
    while pending:
        word = pending.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or name not in known:
            raise UsageError(
                f"the benchmark takes no {word!r}",
                expected=", ".join(f"--{n.replace('_', '-')}" for n in known) or "no options",
                kind="usage.bench",
            )
        if not equals:
            if not pending:
                raise UsageError(f"{word} without a value", expected=f"{word} VALUE", kind="usage.bench")
            value = pending.pop(0)
        annotation = known[name].annotation
        kind = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "str")
        try:
            found[name] = CONVERT.get(kind, str)(value)
        except ValueError:
            raise UsageError(f"{word} is {value!r}", expected=kind, kind="usage.bench") from None
    return found
