"""Identity of a twin state: what it rests on, and nothing about when, where or by whom it was computed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import tdt_core
from tdt_core.codec import digest, to_plain
from tdt_core.errors import StoreError
from tdt_core.twin import SCHEMA_VERSION, Administration, Decision, JsonDict

NUMERIC_LIBRARIES = ("numpy", "scipy", "numba", "SimpleITK")

_NOT_SOURCE = {".pyc", ".pyo", ".nbi", ".nbc"}


def science_parts() -> dict[str, str]:
    """What the science digest covers: SHA-256 of each source and data file of `tdt_core`, versions of the libraries."""
    root = Path(tdt_core.__file__ or "").parent
    parts = {
        f"tdt_core/{path.relative_to(root).as_posix()}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix not in _NOT_SOURCE and "__pycache__" not in path.parts
    }
    return parts | {f"{name} version": metadata.version(name) for name in NUMERIC_LIBRARIES}


@cache
def science_digest() -> str:
    """SHA-256 over the sources and data of `tdt_core` and the versions of numpy, scipy, numba and SimpleITK.

    Read once per process, since that is the code that the process runs.
    """
    return digest(science_parts())


def state_identity(
    *,
    pid: str,
    parent: str | None,
    evidence_digests: Iterable[str],
    administrations: Iterable[Administration],
    decision: Decision | None,
    prior: Any,
    model: str,
    settings: Mapping[str, Any],
    root_seed: int,
    cycle: int,
    science: str | None = None,
) -> JsonDict:
    """What names a state, as plain JSON; its SHA-256 (`state_id`) is the name.

    Parameters
    ----------
    parent : id of the previous cycle's state under the same evidence set; None for the first cycle.
    evidence_digests : digests of all evidence up to and with this cycle, in any order and with repeats.
    administrations : all up to and with this cycle, in any order.
    decision : the decision on the parent's proposal, as far as there is one. Who claimed to sign and why does not change
        the science, but it is part of what the step was told, so it is part of the identity.
    prior, model, settings : what the fit was told, as plain data; no path, no time of day.
    science : the science digest; None takes that of the running code.

    Raises
    ------
    StoreError when a first cycle has no administration or evidence, or a value is no plain data.
    """
    digests = sorted(set(evidence_digests))
    if not digests:
        raise StoreError(f"cycle {cycle} rests on no evidence", expected="at least one digest", kind="store.identity")
    given = sorted((to_plain(a) for a in administrations), key=digest)
    given.sort(key=lambda a: float(a["time_h"]))
    identity: JsonDict = {
        "schema_version": SCHEMA_VERSION,
        "pid": pid,
        "cycle": int(cycle),
        "parent": parent,
        "evidence": digests,
        "administrations": [a for i, a in enumerate(given) if i == 0 or a != given[i - 1]],
        "decision": to_plain(decision),
        "prior": to_plain(prior),
        "model": model,
        "settings": to_plain(settings),
        "root_seed": int(root_seed),
        "science": science_digest() if science is None else science,
    }
    return identity


def state_id(identity: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the canonical JSON of an identity."""
    return digest(identity)
