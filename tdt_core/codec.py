"""Frozen dataclasses to canonical JSON and back, and the hash that names things.

Canonical JSON: UTF-8, keys sorted, no spaces, `repr` floats (shortest round trip), no NaN or infinity. Its SHA-256 is the
identity of evidence and of twin states, so it never changes for the same content.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from typing import Any, TypeVar

import numpy as np

from tdt_core.errors import StoreError

T = TypeVar("T")
LEFT_OUT_WHEN_NONE = "left_out_when_none"
"""Metadata of a dataclass field that came later: where it is None, JSON and digest are those from before it came."""


def to_plain(value: Any) -> Any:
    """Dataclasses, mappings, sequences and numpy scalars as plain JSON types. Raises StoreError on NaN or infinity."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = ((f, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {f.name: to_plain(v) for f, v in named if not (v is None and f.metadata.get(LEFT_OUT_WHEN_NONE))}
    if isinstance(value, typing.Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            raise StoreError(f"a value of {value} cannot be stored", expected="a finite number", kind="store.nonfinite")
        return value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise StoreError(f"a {type(value).__name__} cannot be stored as JSON", expected="plain data", kind="store.type")


def canonical_json(value: Any) -> str:
    """The one JSON text of a value."""
    return json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def from_plain(cls: type[T], data: Any) -> T:
    """Rebuild a dataclass of type `cls` from plain JSON types; unknown or missing fields raise StoreError."""
    return typing.cast(T, _build(cls, data))


def _build(tp: Any, data: Any) -> Any:
    if dataclasses.is_dataclass(tp) and isinstance(tp, type):
        hints = typing.get_type_hints(tp)
        names = {f.name for f in dataclasses.fields(tp)}
        unknown = set(data) - names
        if unknown:
            raise StoreError(
                f"{tp.__name__} has unknown fields {sorted(unknown)}",
                remedy="read it with the version of this software that wrote it, or a newer one",
                kind="store.schema",
            )
        try:
            return tp(**{k: _build(hints[k], v) for k, v in data.items()})
        except TypeError as e:
            raise StoreError(f"{tp.__name__} cannot be read: {e}", kind="store.schema") from e
    origin, args = typing.get_origin(tp), typing.get_args(tp)
    if origin in (typing.Union, types.UnionType):
        if data is None:
            return None
        return _build(next(a for a in args if a is not type(None)), data)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_build(args[0], v) for v in data)
        return tuple(_build(a, v) for a, v in zip(args, data, strict=True))
    if origin is list:
        return [_build(args[0], v) for v in data]
    if origin is not None and isinstance(origin, type) and issubclass(origin, typing.Mapping):
        return {k: _build(args[1], v) for k, v in data.items()}
    if tp is float and isinstance(data, int):
        return float(data)
    return data
