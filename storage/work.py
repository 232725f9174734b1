"""Intermediate results of one cycle on disk: steps hand over a folder, never arrays.

A record is `<name>.npz` (arrays, no pickles) and `<name>.json` (plain data), each replaced by rename, so that a killed step
leaves the record of its last run or none. Work folders hold nothing that cannot be computed again and are removed after commit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.atomic import write_atomic
from storage.home import Home
from tdt_core.codec import canonical_json
from tdt_core.errors import StoreError


class WorkFolder:
    """Work folder of one state id under TDT_HOME/work."""

    def __init__(self, home: Home, state_id: str) -> None:
        self.path: Path = home.root / "work" / state_id

    def save(self, name: str, arrays: Mapping[str, npt.NDArray[Any]], plain: Any) -> None:
        """Write one record."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(
            self.path / f"{name}.npz",
            lambda file: np.savez(file, **{key: np.asarray(value) for key, value in arrays.items()}),  # type: ignore[arg-type]
        )
        write_atomic(self.path / f"{name}.json", canonical_json(plain).encode())

    def load(self, name: str) -> tuple[dict[str, npt.NDArray[Any]], Any]:
        """Read one record. Raises StoreError when an earlier step did not write it."""
        try:
            plain = json.loads((self.path / f"{name}.json").read_bytes())
            with np.load(self.path / f"{name}.npz", allow_pickle=False) as data:
                return {key: data[key] for key in data.files}, plain
        except FileNotFoundError as e:
            raise StoreError(
                f"the step before did not leave its record {name!r}", remedy="run the cycle again", kind="store.work"
            ) from e

    def remove(self) -> None:
        """Remove the folder after commit."""
        shutil.rmtree(self.path, ignore_errors=True)
