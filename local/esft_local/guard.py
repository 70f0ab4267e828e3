"""Keep a server running for as long as the process that started this one lives; then remove its folder.

Run as a script: `python guard.py FOLDER COMMAND...`, with a pipe as stdin. The command is started again when
it dies. When the pipe closes, which happens however its other end goes, SIGKILL included, the command is
ended and FOLDER removed.

Why a process of its own: it outlives a killed runner and so can clean up after it, on any POSIX system, and
having one thread it may set PR_SET_PDEATHSIG between fork and exec, so that on Linux the server does not
outlive a killed guard either. Rejected: that flag alone, set from the runner (Linux only, bound to the thread
that forked, leaves the folder behind), and atexit (does not run after SIGKILL).

Limits: only the standard library may be imported here, since Python starts this file with `-I -S`.
"""

import ctypes
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_POLL_SECONDS = 0.05
_RESTART_SECONDS = 0.1
_STOP_SECONDS = 10.0
_QUICK_DEATH_SECONDS = 1.0
_QUICK_DEATHS = 5
_PR_SET_PDEATHSIG = 1


def main(folder: str, command: Sequence[str]) -> int:
    """Guard the command; return 0 when stdin closed, 70 when the command dies as soon as it starts."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    before_exec = _die_with_parent()
    quick_deaths = 0
    try:
        while quick_deaths < _QUICK_DEATHS:
            started = time.monotonic()
            server = subprocess.Popen(  # one thread here: the fork is safe
                command,
                stdin=subprocess.DEVNULL,
                preexec_fn=before_exec,  # noqa: PLW1509
            )
            try:
                if _stdin_closed_before_end_of(server):
                    return 0
            finally:
                _end(server)
            quick = time.monotonic() - started < _QUICK_DEATH_SECONDS
            quick_deaths = quick_deaths + 1 if quick else 0
            time.sleep(_RESTART_SECONDS)
        return 70
    finally:
        if quick_deaths < _QUICK_DEATHS:  # else the starter reads why, and removes the folder
            shutil.rmtree(Path(folder), ignore_errors=True)


def _stdin_closed_before_end_of(server: subprocess.Popen[bytes]) -> bool:
    while server.poll() is None:
        readable, _, _ = select.select([sys.stdin], [], [], _POLL_SECONDS)
        if readable and not sys.stdin.buffer.read(1):
            return True
    return False


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _die_with_parent() -> Callable[[], None] | None:
    """A function for the child to call before exec, where the system knows how; see prctl(2)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
