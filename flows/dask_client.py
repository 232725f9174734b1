"""The one place that makes a Dask client. Dask sees voxels, draws and virtual patients inside one step.

Results never depend on the number of workers: work is cut the same way whatever the cluster, each piece draws from its own
seed, and results come back in the order of the inputs.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from flows.settings import Settings
from tdt_core.errors import SettingsError

if TYPE_CHECKING:
    from distributed import Client

CONNECT_TIMEOUT_S = 20
THREAD_POOLS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


@contextlib.contextmanager
def dask_client(settings: Settings, *, workers: int | None = None, dashboard: bool = False) -> Iterator[Client]:
    """A client of the configured scheduler, else of a local cluster of single-threaded processes that ends with the block.

    One thread per worker, because numba and FFT kernels inside a task would otherwise fight for the cores.
    """
    import dask
    from distributed import Client, LocalCluster
    from distributed.system import MEMORY_LIMIT

    # Prefect's logging would show every line of the cluster's life
    logging.getLogger("distributed").setLevel(logging.ERROR)
    if settings.dask_scheduler:
        try:
            client = Client(settings.dask_scheduler, timeout=CONNECT_TIMEOUT_S, set_as_default=False)  # type: ignore[no-untyped-call]
        except (OSError, TimeoutError, ValueError) as error:
            raise SettingsError(
                f"no Dask scheduler answers at {settings.dask_scheduler}",
                remedy="start it, or unset dask_scheduler to use the embedded cluster",
                kind="settings.service",
            ) from error
        with client:
            yield client
        return

    count = settings.workers if workers is None else workers
    options = {
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.admin.tick.limit": "30 s",
        # set before the worker's interpreter starts: a thread pool cannot be made smaller afterwards
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(THREAD_POOLS, "1"),
        # numba reads this when a worker first imports it. Set before the spawn it would stand in this process for a moment, and
        # numba refuses to compile once its threads run with another number than the environment says
        "distributed.nanny.environ": {"NUMBA_NUM_THREADS": "1"},
    }
    with (
        tempfile.TemporaryDirectory(prefix="tdt-dask-", ignore_cleanup_errors=True) as scratch,
        dask.config.set(options),
        quiet(),
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=count,
            threads_per_worker=1,
            # by default each would get the share of one core, and be killed there, also where most cores are idle
            memory_limit=MEMORY_LIMIT // count,
            processes=True,
            host="127.0.0.1",
            # None would still open the default port 8787 for the scheduler's health page
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": dashboard},
            local_directory=scratch,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,  # type: ignore[no-untyped-call]
    ):
        yield client


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the cluster's own notes out of the log for the block. `silence_logs` lowers its handlers only, and the loggers
    still tell any handler that another library has put on the root. The scheduler calls what was scattered to a worker that
    died lost for good; `dask_map` sends it again."""
    levels = {logging.getLogger("distributed"): logging.ERROR, logging.getLogger("distributed.scheduler"): logging.CRITICAL}
    before = {logger: logger.level for logger in levels}
    for logger, level in levels.items():
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


def completed(client: Client, function: Callable[..., Any], items: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """`(position, result)` as each piece finishes, for progress; the caller puts them back in order."""
    from distributed import as_completed

    futures = client.map(function, list(items), pure=False, retries=2)
    position = {future.key: n for n, future in enumerate(futures)}
    finished = as_completed(futures, with_results=True, loop=client.loop)  # type: ignore[no-untyped-call]
    for future, result in finished:
        yield position[future.key], result
