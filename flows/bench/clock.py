"""How benchmarks of the solver tell time: the fastest of several runs, on a stated number of cores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def best(work: Callable[[], T], repeats: int) -> tuple[float, T]:
    """Shortest wall time of several runs (s), and what the last one gave."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - started)
    return min(seconds), found


@contextmanager
def cores(count: int) -> Iterator[None]:
    """The solver on so many cores."""
    import numba

    before = numba.get_num_threads()
    numba.set_num_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(before)
