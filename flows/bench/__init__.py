"""Benchmarks: the one place for numbers about speed and accuracy. `tdt bench NAME [--json]`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from tdt_core.errors import UsageError

BENCHES = {
    "assimilate": "flows.bench.assimilate",
    "credible": "flows.bench.credible",
    "design": "flows.bench.design",
    "dose": "flows.bench.dose",
    "engines": "flows.bench.engines",
    "estimators": "flows.bench.estimators",
    "ladder": "flows.bench.ladder",
    "learning": "flows.bench.learning",
    "loop": "flows.bench.loop",
    "lumping": "flows.bench.lumping",
    "population": "flows.bench.population",
    "reference": "flows.bench.reference",
    "single_scan": "flows.bench.single_scan",
    "solver": "flows.bench.solver",
    "spect": "flows.bench.spect",
}
"""Name -> module with `run(**options) -> dict of named figures` and `describe(figures) -> str`."""


def bench(name: str) -> tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], str]]:
    """`run` and `describe` of a benchmark. Raises UsageError for an unknown name."""
    if name not in BENCHES:
        raise UsageError(f"no benchmark named {name!r}", expected=", ".join(sorted(BENCHES)), kind="usage.bench")
    module = import_module(BENCHES[name])
    return module.run, module.describe
