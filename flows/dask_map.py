"""`map` over a Dask cluster for pieces that carry large arrays: in order, bounded in memory, and whole when workers die.

Results never depend on the number of workers, their order or their death: the caller cuts the work, a piece knows all that it
needs, and its result stands where its input stood.
"""

from __future__ import annotations

import asyncio
import logging
import operator
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows import progress
from tdt_core.errors import SettingsError, TwinError

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

HELD_BYTES = 500_000_000
SENDS = 6
"""How often a piece is sent before its workers' deaths are taken for its own doing."""
WORKER_WAIT_S = 120


def ordered_map(client: Client, held_bytes: float = HELD_BYTES) -> Callable[..., Iterator[Any]]:
    """`map` over the cluster: same arguments as the builtin, results in the order of the inputs, errors as raised.

    The function and its own data go once to every worker, an input goes to one. At most two pieces per thread are under way,
    of large ones fewer: `held_bytes` of inputs, but one at least. So inputs that are made when asked for (`tdt_core.lazy`) and
    results that are taken one by one never fill this process. What dies with a worker is sent again. A piece should take 0.1
    to 10 s. Work begins when the first result is asked for.
    """

    def cluster_map(function: Callable[..., Any], *inputs: Iterable[Any]) -> Iterator[Any]:
        results = _in_order(client, function, zip(*inputs, strict=False), held_bytes)
        return progress.counted(results, progress.words_of(function), min(operator.length_hint(column, 0) for column in inputs))

    return cluster_map


@dataclass(eq=False)
class _Piece:
    """One call under way: its arguments are kept until its result is there."""

    arguments: tuple[Any, ...]
    size: int
    future: Any = None
    sends: int = 0


def _in_order(
    client: Client, function: Callable[..., Any], inputs: Iterable[tuple[Any, ...]], held_bytes: float
) -> Iterator[Any]:
    sender, waiting = _Sender(client, function), deque[_Piece]()
    try:
        for arguments in inputs:
            piece = _Piece(arguments, _size(arguments))
            while waiting and (len(waiting) >= sender.ahead or sum(p.size for p in waiting) + piece.size > held_bytes):
                yield sender.result(waiting.popleft())
            sender.send(piece)
            waiting.append(piece)
            del arguments, piece
        while waiting:
            yield sender.result(waiting.popleft())
    finally:
        for left in waiting:
            left.future.cancel()


class _Sender:
    """Sends pieces of one function, again where a worker died with them."""

    def __init__(self, client: Client, function: Callable[..., Any]) -> None:
        from distributed import CancelledError as Cancelled
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        self._client, self._function, self._shared = client, function, None
        self._died = (KilledWorker, Cancelled, FutureCancelledError, CancelledError, asyncio.CancelledError)
        self.ahead = max(2, 2 * sum(client.nthreads().values()))  # type: ignore[no-untyped-call]

    def send(self, piece: _Piece) -> None:
        """Scatter the arguments to one worker and submit the call. A worker that dies meanwhile is waited for."""
        while True:
            piece.sends += 1
            try:
                if self._shared is None:
                    # neither the function's own data nor the inputs travel in the task graph through the scheduler's memory
                    self._shared = self._client.scatter(self._function, broadcast=True, hash=False)  # type: ignore[no-untyped-call]
                [held] = self._client.scatter([piece.arguments], hash=False)  # type: ignore[no-untyped-call]
                # pure=False: equal inputs are computed again rather than looked up by a hash of the function's name
                piece.future = self._client.submit(_apply, self._shared, held, pure=False, retries=2)
                return
            except (*self._died, OSError, TimeoutError) as error:
                self._recover(piece, error)

    def result(self, piece: _Piece) -> Any:
        """The result of a piece; sent again when it was lost with a worker. Raises what the function raised."""
        while True:
            try:
                result = piece.future.result()
            except self._died as error:
                self._recover(piece, error)
                self.send(piece)
                continue
            if isinstance(result, _Refusal):
                log.debug("%s", result.traceback)
                raise result.error
            return result

    def _recover(self, piece: _Piece, error: BaseException) -> None:
        """Wait for a worker, and let the function be scattered again."""
        if piece.sends >= SENDS:
            raise SettingsError(
                f"{piece.sends} Dask workers died with the same piece of work ({progress.words_of(self._function)})",
                expected="workers with memory for it",
                remedy="give workers more memory, or run fewer of them on the machine",
                kind="settings.workers",
            ) from error
        self._shared = None
        time.sleep(0.2 * piece.sends)
        self._client.wait_for_workers(1, timeout=WORKER_WAIT_S)


@dataclass(frozen=True)
class _Refusal:
    """An error of ours as the result of a piece: a worker prints the traceback of what it raises, and tries it again."""

    error: TwinError
    traceback: str


def _apply(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except TwinError as error:
        return _Refusal(error, traceback.format_exc())


def _size(arguments: tuple[Any, ...]) -> int:
    """Bytes of the arguments as they are sent; arrays are counted, not copied."""
    from distributed.protocol import pickle

    buffers: list[Any] = []
    head = pickle.dumps(arguments, buffer_callback=buffers.append)  # type: ignore[no-untyped-call]
    return len(head) + sum(int(b.raw().nbytes) for b in buffers)
