"""The chart's start script of Redis on a real server: users of runs outlive a restart, the password may change."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from esft.errors import QueueAccessError
from esft.queue import connect, define_user
from esft_local.redis_server import find_redis_server

pytestmark = pytest.mark.integration

SCRIPTS = Path(__file__).parents[2] / "charts" / "esfinetune" / "files"
RUN, USER = "0f5b1e0a", "esft-0f5b1e0a"

Start = Callable[[str], contextlib.AbstractContextManager[subprocess.Popen[bytes]]]


def environment(password: str) -> dict[str, str]:
    programs = find_redis_server(os.environ).parent
    return {"PATH": f"{programs}:{os.environ['PATH']}", "REDISCLI_AUTH": password}


def url(folder: Path, user: str, password: str) -> str:
    return f"unix://{user}:{password}@{folder / 'redis.sock'}"


def rights_of_run(client: redis.Redis) -> set[str]:
    """In no order: the server writes them in another one each time."""
    (line,) = (line for line in client.acl_list() if line.startswith(f"user {USER} "))
    return set(line.split())


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("r")  # short: a socket's path has to fit into 108 bytes


@pytest.fixture
def start(folder: Path) -> Start:
    @contextlib.contextmanager
    def running(password: str) -> Iterator[subprocess.Popen[bytes]]:
        options = ["--port", "0", "--unixsocket", str(folder / "redis.sock")]
        command = ["sh", str(SCRIPTS / "redis-start.sh"), str(folder), *options]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(command, env=environment(password), stdout=log, stderr=log)
        try:
            with connect(url(folder, "default", password), patience_seconds=20) as client:
                assert client.ping()
            yield process
        finally:
            process.terminate()
            process.wait(timeout=20)

    return running


def test_a_run_s_user_and_the_data_outlive_a_restart_with_another_password(folder: Path, start: Start):
    with start("first"), connect(url(folder, "default", "first"), patience_seconds=5) as client:
        define_user(client, user=USER, password="of-the-run", run=RUN)
        client.set(f"esft:{{{RUN}}}:state", "kept")
        rights = rights_of_run(client)
    with start("second"):
        with connect(url(folder, USER, "of-the-run"), patience_seconds=5) as client:
            assert client.exists(f"esft:{{{RUN}}}:state")
            with pytest.raises(QueueAccessError):
                client.exists("esft:{another}:state")
        with connect(url(folder, "default", "second"), patience_seconds=5) as client:
            assert rights_of_run(client) == rights
        with (
            redis.Redis.from_url(url(folder, "default", "first")) as client,
            pytest.raises(redis.exceptions.AuthenticationError),
        ):
            client.ping()


def test_nothing_is_evicted_and_every_write_is_kept(folder: Path, start: Start):
    with start("secret"), connect(url(folder, "default", "secret"), patience_seconds=5) as client:
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted


def test_the_password_is_neither_on_the_command_line_nor_in_a_file(folder: Path, start: Start):
    with start("very-secret") as process:
        assert b"very-secret" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        readable = [path for path in folder.rglob("*") if path.is_file()]
        assert all(b"very-secret" not in path.read_bytes() for path in readable)


def test_without_a_password_there_is_no_server(folder: Path):
    command = ["sh", str(SCRIPTS / "redis-start.sh"), str(folder)]
    ended = subprocess.run(
        command, env=environment(""), capture_output=True, text=True, check=False, timeout=20
    )
    assert ended.returncode != 0
    assert "REDISCLI_AUTH: is not set" in ended.stderr


def test_a_file_of_users_that_a_crash_has_damaged_is_mended(folder: Path, start: Start):
    (folder / "users.acl").write_bytes(b"\0\0\0\nuser kept on nopass ~* +@all\nus")
    with start("secret"), connect(url(folder, "default", "secret"), patience_seconds=5) as client:
        assert sorted(client.acl_users()) == ["default", "kept"]


def test_a_probe_tells_ready_from_alive(folder: Path, start: Start):
    def ping(what: str, password: str) -> bool:
        command = ["sh", str(SCRIPTS / "redis-ping.sh"), what, "-s", str(folder / "redis.sock")]
        return subprocess.run(command, env=environment(password), check=False).returncode == 0

    assert not ping("alive", "secret")  # nobody there
    with start("secret"):
        assert ping("ready", "secret")
        # An answer that is not PONG, as of a server that still reads its file.
        assert not ping("ready", "wrong")
        assert ping("alive", "wrong")
