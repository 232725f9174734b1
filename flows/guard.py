"""Runs a server that cannot outlive the process that wanted it: `python guard.py COMMAND...`.

The parent holds the writing end of this process's standard input. However the parent ends, also by SIGKILL, the kernel closes
that end, the read below returns, and the server's process group is ended: politely, then, after a grace time, for certain. On
Linux the server also dies when this guard is killed. Only the standard library, so that it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

GRACE_S = 8.0
PR_SET_PDEATHSIG = 1


def die_with_guard() -> None:
    """In the new server process: ask Linux to kill it when the guard dies; elsewhere there is no such call."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_group(server: subprocess.Popen[bytes], number: int) -> None:
    """Signal the server's whole process group; it may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, number)


def watch(server: subprocess.Popen[bytes]) -> None:
    """Wait for the parent's end of the pipe to close, then end the server."""
    while os.read(0, 4096):
        pass
    end_group(server, signal.SIGTERM)
    try:
        server.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        end_group(server, signal.SIGKILL)


def main(command: list[str]) -> int:
    """Run `command` until it ends or standard input closes; return its exit status."""
    # the terminal's Ctrl-C belongs to the parent, which then closes the pipe
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # preexec_fn is safe here: this process has one thread so far
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_guard)
    signal.signal(signal.SIGTERM, lambda *_: end_group(server, signal.SIGTERM))
    threading.Thread(target=watch, args=(server,), daemon=True).start()
    status = server.wait()
    end_group(server, signal.SIGKILL)
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
