"""Large arrays that need not be in memory: a file that has no name, mapped, and gone with the process that made it."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from storage.atomic import disk_errors

Array32 = npt.NDArray[np.float32]


def arrays_within(limit_bytes: float, folder: Path) -> Callable[[tuple[int, ...]], Array32]:
    """Makes float32 arrays: in memory up to the limit, beyond it in a file in `folder`, whose pages the system may take back.

    The file has no name from the start, so that nothing is left of it however the process ends. Its room is taken at once: a
    mapped page for which the disk has none kills the process. Raises StoreError `store.full`, `store.readonly`.
    """

    def empty(shape: tuple[int, ...]) -> Array32:
        size = 4 * math.prod(shape)
        if size <= limit_bytes:
            return np.empty(shape, np.float32)
        with disk_errors("making room for dose maps"):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                os.posix_fallocate(file.fileno(), 0, size)
                return np.asarray(np.memmap(file, np.float32, "r+", shape=shape))

    return empty
