"""The private Redis of a local run: reachable by its owner alone, kept running, gone afterwards."""

import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from esft_local.redis_server import EmbeddedRedis, RedisServerError, find_redis_server

pytestmark = pytest.mark.integration


def wait_until(condition: Callable[[], bool], *, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not is_zombie(pid)


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return False


def pid_of(server: EmbeddedRedis) -> int:
    wait_until(lambda: server.pid is not None)
    pid = server.pid
    assert pid is not None
    return pid


def answers(url: str) -> bool:
    client = redis.Redis.from_url(url)
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
    finally:
        client.close()


def test_only_its_owner_reaches_it() -> None:
    with EmbeddedRedis() as server:
        folder = server.folder
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "redis.conf").stat().st_mode) == 0o600
        password = server.url.split("@")[0].removeprefix("unix://:")
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                assert password.encode() not in entry.read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
        stranger = redis.Redis(unix_socket_path=str(folder / "redis.sock"))
        with pytest.raises(redis.AuthenticationError):
            stranger.get("anything")
        stranger.close()
        with redis.Redis.from_url(server.url) as client:
            assert client.config_get("port") in ({"port": "0"}, {b"port": b"0"})


def test_what_was_answered_survives_a_killed_server() -> None:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        for round_ in range(3):
            for number in range(200):
                client.set(f"key-{round_}-{number}", number)
            first = pid_of(server)
            os.kill(first, signal.SIGKILL)
            wait_until(lambda first=first: server.pid not in {first, None} and answers(server.url))
            assert client.dbsize() == 200 * (round_ + 1)


def test_nothing_is_left_after_exit() -> None:
    with EmbeddedRedis() as server:
        folder, pid = server.folder, pid_of(server)
        assert alive(pid)
    assert not alive(pid)
    assert not folder.exists()


RUNNER = textwrap.dedent("""
    import os, signal
    from esft_local.redis_server import EmbeddedRedis
    with EmbeddedRedis() as server:
        print(server.pid, server.folder, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
""")


def test_nothing_is_left_after_a_killed_runner() -> None:
    runner = subprocess.run(
        [sys.executable, "-c", RUNNER], capture_output=True, text=True, timeout=60, check=False
    )
    assert runner.returncode == -signal.SIGKILL
    pid, folder = runner.stdout.split()
    wait_until(lambda: not alive(int(pid)))
    wait_until(lambda: not Path(folder).exists())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs PR_SET_PDEATHSIG and /proc")
def test_the_server_does_not_outlive_its_guard() -> None:
    with EmbeddedRedis() as server:
        pid = pid_of(server)
        guard = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        os.kill(guard, signal.SIGKILL)
        wait_until(lambda: not alive(pid))


def test_a_long_temporary_folder_does_not_break_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with EmbeddedRedis() as server:
        assert answers(server.url)
    assert not any(deep.iterdir())


def test_a_program_that_does_not_start_is_one_clear_error(tmp_path: Path) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho 'no such luck' >&2\nexit 1\n")
    program.chmod(0o755)
    with (
        pytest.raises(RedisServerError, match="does not start: no such luck"),
        EmbeddedRedis(program=program),
    ):
        pass


def test_the_server_on_path_comes_first(tmp_path: Path) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_redis_server({"PATH": str(tmp_path)}) == program
