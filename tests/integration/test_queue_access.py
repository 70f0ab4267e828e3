"""A run's own user in Redis, against a real server: all that its workers do, and nothing else."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import redis

import esft.queue
from esft.errors import QueueAccessError, QueueUnavailableError
from esft.queue import ReopenStatus, RunQueue, connect, define_user, observe, remove_user
from esft.queue.access import WORKER_COMMANDS
from queue_parts import Worker, create, opening

pytestmark = pytest.mark.integration

PASSWORD = "s3cret-p4ssword"  # noqa: S105 - made up


@pytest.fixture(scope="module")
def server(start_redis: Callable[..., Any]) -> Any:
    return start_redis()


@pytest.fixture
def operator(server: Any) -> Iterator[redis.Redis]:
    """Whoever may do everything."""
    with connect(server.url, patience_seconds=10) as client:
        client.flushall()
        define_user(client, user="esft-mine", password=PASSWORD, run="mine")
        yield client
        remove_user(client, user="esft-mine")


@pytest.fixture
def worker(server: Any, operator: redis.Redis) -> Iterator[redis.Redis]:
    with connect(url_of(server), patience_seconds=10) as client:
        yield client


def url_of(server: Any, user: str = "esft-mine") -> str:
    return f"unix://{user}:{PASSWORD}@{server.socket}"


def test_every_operation_of_its_own_run_is_allowed(operator: redis.Redis, worker: redis.Redis) -> None:
    operator.script_flush()
    queue = RunQueue(worker, "mine")
    assert create(queue, log=["zero"])
    one, two = Worker(queue, "one"), Worker(queue, "two")
    one.claim(2, generation=1)
    queue.leave("one")
    two.claim(1, generation=1)
    two.drain(generation=1)
    for item in queue.state().opening.items:
        two.report(item, generation=1)
    closing = queue.results(1)
    assert closing is not None
    assert closing.results.keys() == {"a", "b", "c"}
    assert queue.commit(generation=1, record="one", opening=opening(2)) == "one"
    assert queue.set_policy("q", version=2)
    wider = replace(opening(2), parameters="other")
    assert queue.reopen(wider, instead_of=opening(2).parameters) is ReopenStatus.REOPENED
    two.claim(3, generation=2)
    two.claim(1, generation=2)
    queue.digest("two", generation=2, digest="aa")
    queue.digest("one", generation=2, digest="bb", rebuilt=True)
    queue.digest("two", generation=2, digest="aa")
    queue.heartbeat("two", ttl_milliseconds=1000)
    assert queue.state().workers == 1
    assert len(queue.updates(0)) == 2
    assert queue.updates(2, block_milliseconds=1) == []
    queue.finish(phase="Succeeded", reason="r", message="m", result="{}", ttl_seconds=60)
    queue.digest("two", generation=2, digest="cc")
    queue.leave("two")
    assert queue.reopen(opening(2)) is ReopenStatus.REOPENED
    assert observe(worker, {"mine": 0})["mine"] is not None
    assert [entry["username"] for entry in operator.acl_log() if entry["context"] == "lua"] == []
    queue.delete()


def test_no_command_is_allowed_that_is_not_needed() -> None:
    scripts = [file.read_text() for file in files(esft.queue).iterdir() if file.name.endswith(".lua")]
    called = {name.lower() for script in scripts for name in re.findall(r"redis\.call\(\s*'(\w+)'", script)}
    by_the_client = {"eval", "evalsha", "exists", "llen", "ping", "select", "type", "xrange", "xread", "del"}
    assert set(WORKER_COMMANDS) == called | by_the_client
    assert len(WORKER_COMMANDS) == len(set(WORKER_COMMANDS))


@pytest.mark.parametrize(
    "deed",
    [
        lambda client: client.keys(),
        lambda client: client.scan(),
        lambda client: client.flushall(),
        lambda client: client.config_get("*"),
        lambda client: client.acl_list(),
        lambda client: client.execute_command("ACL SETUSER", "esft-mine", "allkeys"),
        lambda client: client.client_list(),
        lambda client: client.script_flush(),
        lambda client: client.publish("channel", "message"),
        lambda client: client.set("esft:{mine}:run", "x"),
        lambda client: RunQueue(client, "theirs").state(),
        lambda client: RunQueue(client, "theirs").delete(),
        lambda client: RunQueue(client, "theirs").updates(0),
        lambda client: observe(client, {"theirs": 0}),
        lambda client: create(RunQueue(client, "min")),
        lambda client: client.xread({"esft:{theirs}:log": "0-0"}, count=1),
        lambda client: client.eval("return redis.call('HGETALL', 'esft:{theirs}:run')", 0),
        lambda client: client.eval("return redis.call('KEYS', '*')", 0),
    ],
)
def test_everything_else_is_refused(
    operator: redis.Redis, worker: redis.Redis, deed: Callable[[redis.Redis], Any]
) -> None:
    theirs = RunQueue(operator, "theirs")
    create(theirs)
    before = theirs.state()
    with pytest.raises(QueueAccessError, match="denies this to the user in the URL") as caught:
        deed(worker)
    assert PASSWORD not in str(caught.value)
    assert theirs.state() == before


def test_defining_a_user_again_sets_it_to_just_that(server: Any, operator: redis.Redis) -> None:
    operator.execute_command("ACL SETUSER", "esft-mine", "nopass", "allkeys", "+@all")
    define_user(operator, user="esft-mine", password=PASSWORD, run="mine")
    user = operator.acl_getuser("esft-mine")
    assert [key.removeprefix("~") for key in user["keys"]] == ["esft:{mine}:*"]
    assert len(user["passwords"]) == 1
    assert PASSWORD not in str(user)
    with pytest.raises(QueueUnavailableError, match="refused"):
        connect(url_of(server).replace(PASSWORD, "other"), patience_seconds=10)


def test_a_removed_user_is_cut_off_at_once(operator: redis.Redis, worker: redis.Redis) -> None:
    queue = RunQueue(worker, "mine")
    create(queue)
    remove_user(operator, user="esft-mine")
    remove_user(operator, user="esft-mine")
    assert all(client["user"] != "esft-mine" for client in operator.client_list())
    started = time.monotonic()
    with pytest.raises(QueueUnavailableError, match="refused the user name or password"):
        queue.state()
    assert time.monotonic() - started < 5


def test_with_a_file_users_outlive_a_restart(start_redis: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "users.acl"
    file.touch()
    server = start_redis("--aclfile", str(file))
    with connect(server.url, patience_seconds=10) as client:
        define_user(client, user="esft-mine", password=PASSWORD, run="mine")
        define_user(client, user="esft-gone", password=PASSWORD, run="gone")
        remove_user(client, user="esft-gone")
    server.kill()
    server.start()
    with connect(url_of(server), patience_seconds=10) as client:
        assert create(RunQueue(client, "mine"))
    with pytest.raises(QueueUnavailableError):
        connect(url_of(server, "esft-gone"), patience_seconds=10)
    assert PASSWORD not in file.read_text()
    server.stop()


def test_a_client_that_may_not_manage_users_is_told_what_to_grant(worker: redis.Redis) -> None:
    with pytest.raises(QueueAccessError, match=r"Fix: .* \+acl\|setuser \+acl\|deluser \+acl\|save"):
        define_user(worker, user="esft-other", password=PASSWORD, run="other")
    with pytest.raises(QueueAccessError, match="manage its users"):
        remove_user(worker, user="esft-mine")


def test_these_rights_are_enough_to_manage_users(server: Any, operator: redis.Redis) -> None:
    rights = ["+acl|setuser", "+acl|deluser", "+acl|save", "+ping"]
    operator.execute_command("ACL SETUSER", "manager", "on", f">{PASSWORD}", *rights)
    with connect(url_of(server, "manager"), patience_seconds=10) as client:
        define_user(client, user="esft-other", password=PASSWORD, run="other")
        remove_user(client, user="esft-other")
    operator.execute_command("ACL DELUSER", "manager")


@pytest.mark.parametrize("run", ["", "*", "a}b", "a b", "a[b]", "a?", "a\\"])
def test_a_run_must_not_be_a_pattern(operator: redis.Redis, run: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        define_user(operator, user="esft-other", password=PASSWORD, run=run)
