"""Dose kernels on disk, named by what they are made of: a mapping that `tdt_core.dosimetry` takes as its `cache`.

The name of a file is the SHA-256 of the kernel's own name (nuclide, progeny, voxel, medium, grid), of every source and data
file that kernels come from, and of the versions of the libraries. Nothing is ever out of date: other code or data makes other
names. A file holds the SHA-256 of its content in front; a damaged one is taken as absent and made again. Everything can be
deleted at any time.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, MutableMapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.atomic import disk_errors, write_atomic
from storage.identity import science_parts
from tdt_core.codec import digest

_SUFFIX = ".kernel"
_SHA = 32
_MADE_OF = ("tdt_core/dosimetry/", "tdt_core/nuclides/", "tdt_core/data/", "tdt_core/parameters.py")
_LIBRARIES = ("icrp107-database",)


@cache
def kernel_digest() -> str:
    """SHA-256 over all that a kernel follows from besides its name."""
    parts = {k: v for k, v in science_parts().items() if k.startswith(_MADE_OF) or k.endswith(" version")}
    return digest(parts | {f"{name} version": metadata.version(name) for name in _LIBRARIES})


class KernelCache(MutableMapping[str, npt.NDArray[Any]]):
    """Arrays by name in one folder. Safe for several processes: files are whole or absent, and equal names hold equal bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, npt.NDArray[Any]] = {}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name in self._held:
            return self._held[name]
        try:
            data = self._path(name).read_bytes()
        except OSError:
            raise KeyError(name) from None
        if hashlib.sha256(data[_SHA:]).digest() != data[:_SHA]:
            raise KeyError(name)
        self._held[name] = np.load(io.BytesIO(data[_SHA:]), allow_pickle=False)
        return self._held[name]

    def __setitem__(self, name: str, value: npt.NDArray[Any]) -> None:
        array = np.ascontiguousarray(value)
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        content = buffer.getvalue()
        with disk_errors("keeping a dose kernel"):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path(name), hashlib.sha256(content).digest() + content)
        self._held[name] = array

    def __delitem__(self, name: str) -> None:
        known = self._held.pop(name, None) is not None
        path = self._path(name)
        if not path.exists() and not known:
            raise KeyError(name)
        path.unlink(missing_ok=True)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        try:
            self[name]
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        """Names seen by this object; those of files of other processes cannot be read back from their hash."""
        return iter(dict(self._held))

    def __len__(self) -> int:
        return len(self._held)

    def _path(self, name: str) -> Path:
        return self._folder / (hashlib.sha256(f"{kernel_digest()}|{name}".encode()).hexdigest() + _SUFFIX)
