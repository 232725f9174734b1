"""Commands that run until they are stopped: `tdt serve`, and waiting for Ctrl-C beside a page."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator

from flows.services import announced, environment, prefect_server, served_api, stopped_by_signals
from flows.settings import Settings, as_environment, make_folders
from tdt_core.errors import SettingsError

CONCURRENT_RUNS = 4


def serve_until_stopped(settings: Settings, *, ui: bool, port: int, say: Callable[[str], None]) -> None:
    """Serve the deployments of `flows.serve` until Ctrl-C or SIGTERM.

    Raises SettingsError when the same home is served already: two watchers would take one delivery in twice.
    """
    make_folders(settings)
    already = served_api(settings)
    if already:
        raise SettingsError(
            f"this home is served already, at {already}", remedy="use it, or stop it first", kind="settings.serving"
        )
    # the runs are processes of their own and must read the same settings
    with environment(as_environment(settings)), prefect_server(settings, ui=ui, port=port) as server:
        from prefect import serve

        from flows.serve import deployments

        say(f"inbox: {settings.inbox}, every {settings.watch_minutes:g} min")
        say(f"Prefect: {server.ui if ui or not server.embedded else server.api}")
        # Prefect's runner does not wait for its own end when it is told to stop; the server below is stopped by us either way
        warnings.filterwarnings("ignore", "coroutine 'Runner.astop' was never awaited", RuntimeWarning)
        with announced(settings, server.api), new_children_ended(), contextlib.suppress(KeyboardInterrupt):
            serve(*deployments(settings), limit=CONCURRENT_RUNS, print_starting_message=False)


@contextlib.contextmanager
def new_children_ended(grace_s: float = 10.0) -> Iterator[None]:
    """End the processes that the block has started and left behind: flow runs that a stopping runner does not wait for.

    A killed run loses nothing that is committed; the next look at the inbox takes its folder in again.
    """
    import psutil

    me = psutil.Process()
    before = {child.pid for child in me.children(recursive=True)}
    try:
        yield
    finally:
        left = [child for child in me.children(recursive=True) if child.pid not in before]
        for child in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate()
        _, alive = psutil.wait_procs(left, timeout=grace_s)
        for child in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def wait_for_ctrl_c() -> None:
    """Block until Ctrl-C or SIGTERM; the caller's blocks then end in order."""
    with stopped_by_signals(), contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
