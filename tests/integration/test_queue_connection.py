"""Redis goes away and comes back, refuses, loses replies, restarts; and many workers use it at once."""

import contextlib
import itertools
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from esft.errors import QueueUnavailableError, RunNotFoundError, SpecError
from esft.queue import ClaimStatus, ItemResult, Opening, ReopenStatus, RunQueue, connect, redact
from queue_parts import create, reported

pytestmark = pytest.mark.integration

SECRET = "s3cret-p4ssword"  # noqa: S105 - made up


def opening(generation: int, items: int = 4) -> Opening:
    return Opening(generation, tuple(f"item:{index}" for index in range(items)), parameters="first")


# away and back


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Stand at the place of the server, so that a test knows when a client has come in vain."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.settimeout(30)
        listener.listen()
        try:
            yield listener
        finally:
            path.unlink()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
        b"-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to.\r\n",
        b"-ERR Error running script: @user_script:1: -OOM command not allowed when used memory.\r\n",
    ],
    ids=["closed", "loading", "replica", "masterdown", "misconf", "out of memory in a script"],
)
def test_a_client_waits_for_a_server_that_is_not_itself(
    start_redis: Callable[..., Any], answer: bytes
) -> None:
    server = start_redis()
    with connect(server.url, patience_seconds=30) as client, ThreadPoolExecutor(1) as executor:
        queue = RunQueue(client, "run")
        server.stop()
        with listening(server.socket) as listener:
            created = executor.submit(create, queue, opening(0))
            connection, _ = listener.accept()
            with connection:
                connection.recv(1_000_000)
                connection.sendall(answer)
        server.start()
        assert created.result(timeout=30)
        assert queue.state().todo == 4
    server.stop()


def test_a_blocked_reader_survives_a_restart(start_redis: Callable[..., Any]) -> None:
    server = start_redis("--appendonly", "yes")
    with connect(server.url, patience_seconds=30) as client, ThreadPoolExecutor(1) as executor:
        queue = RunQueue(client, "run")
        create(queue, opening(0, items=0))
        read = executor.submit(queue.updates, 0, block_milliseconds=60_000)
        wait_until(lambda: client.info("clients")["blocked_clients"] == 1)
        server.kill()
        with contextlib.suppress(FileNotFoundError):
            server.socket.unlink()
        with listening(server.socket) as listener:
            listener.accept()[0].close()
        server.start()
        wait_until(lambda: client.info("clients")["blocked_clients"] == 1)
        queue.commit(generation=0, record="r", opening=opening(1))
        assert [entry.record for entry in read.result(timeout=30)] == ["r"]
    server.stop()


def wait_until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_with_an_append_only_file_a_restart_keeps_everything(
    start_redis: Callable[..., Any], end: str
) -> None:
    server = start_redis("--appendonly", "yes")
    with connect(server.url, patience_seconds=30) as client:
        queue = RunQueue(client, "run")
        create(queue, opening(1), log=["zero"])
        queue.join("w", fingerprint="f", ttl_milliseconds=600_000)
        claim = queue.claim("w", generation=1, count=4, token="t", lease_milliseconds=600_000)
        results = [ItemResult(item, f"result of {item}", 7) for item in claim.items]
        queue.report("w", generation=1, results=results)
        queue.digest("w", generation=1, digest="aa")
        queue.commit(generation=1, record="one", opening=opening(2))
        held = queue.claim("w", generation=2, count=2, token="u", lease_milliseconds=600_000)
        queue.report("w", generation=2, results=[ItemResult("item:0", "r", 7)])
        before = (queue.state(), queue.updates(0), reported(queue, 2))
        getattr(server, end)()
        server.start()
        assert (queue.state(), queue.updates(0), reported(queue, 2)) == before
        assert queue.digest("other", generation=1, digest="bb") == "aa"
        again = queue.claim("w", generation=2, count=2, token="u", lease_milliseconds=600_000)
        assert again.items == held.items[1:]
    server.stop()


def test_a_server_that_lost_its_data_is_noticed(start_redis: Callable[..., Any]) -> None:
    server = start_redis()
    with connect(server.url, patience_seconds=30) as client, ThreadPoolExecutor(1) as executor:
        queue = RunQueue(client, "run")
        create(queue, opening(0))
        read = executor.submit(queue.updates, 0, block_milliseconds=60_000)
        wait_until(lambda: client.info("clients")["blocked_clients"] == 1)
        server.kill()
        server.start()
        with pytest.raises(RunNotFoundError, match="Redis lost its data"):
            read.result(timeout=30)
    server.stop()


def test_patience_ends(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(QueueUnavailableError) as caught:
        connect(f"unix://:{SECRET}@{tmp_path}/none.sock", patience_seconds=0.2)
    assert 0.2 <= time.monotonic() - started < 5
    assert_one_clear_line(caught.value)
    assert f"unix://***@{tmp_path}/none.sock" in str(caught.value)
    assert "0.2 s" in str(caught.value)


def test_patience_ends_over_tcp() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        port = unused.getsockname()[1]
        with pytest.raises(QueueUnavailableError) as caught:
            connect(f"redis://:{SECRET}@127.0.0.1:{port}/0", patience_seconds=0.1)
    assert_one_clear_line(caught.value)


def test_a_server_that_never_answers_does_not_hold_a_client(tmp_path: Path) -> None:
    with listening(tmp_path / "s") as _:
        started = time.monotonic()
        with pytest.raises(QueueUnavailableError, match="imeout"):
            connect(f"unix://{tmp_path}/s", patience_seconds=0.1)
        assert time.monotonic() - started < 10


def test_an_error_that_stays_is_raised_at_once(redis_client: redis.Redis) -> None:
    redis_client.set("text", "x")
    started = time.monotonic()
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        redis_client.lpush("text", "y")
    assert time.monotonic() - started < 5


# passwords and URLs


def assert_one_clear_line(error: BaseException) -> None:
    """The password is nowhere, not even in what caused the error."""
    assert "\n" not in str(error)
    link: BaseException | None = error
    while link is not None:
        assert SECRET not in f"{link} {link!r}"
        link = link.__cause__ or link.__context__


def test_passwords(start_redis: Callable[..., Any]) -> None:
    server = start_redis("--requirepass", SECRET)
    path = server.socket
    for url in (
        f"unix://:{SECRET}@{path}",
        f"unix://{path}?password={SECRET}",
        f"unix://default:{SECRET}@{path}?db=1",
    ):
        with connect(url, patience_seconds=5) as client:
            assert client.ping()
    for url in (f"unix://:{SECRET}-wrong@{path}", f"unix://{path}"):
        started = time.monotonic()
        with pytest.raises(QueueUnavailableError, match="refused the user name or password") as caught:
            connect(url, patience_seconds=60)
        assert time.monotonic() - started < 10, "at once"
        assert_one_clear_line(caught.value)
    server.stop()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "no scheme"),
        ("localhost:6379", "no scheme"),
        (f"http://:{SECRET}@host", "no scheme"),
        (f"redis://:{SECRET}@", "no host"),
        ("redis:///0", "no host"),
        (f"redis://:{SECRET}@host:port", "malformed host or port"),
        (f"redis://:{SECRET}/x@host", "malformed host or port"),
        (f"redis://:{SECRET}#@host", "malformed host or port"),
        (f"redis://host/#{SECRET}@", "has a '#'"),
        (f"redis://:{SECRET}@host:99999", "malformed host or port"),
        (f"redis://:{SECRET}@host/zero", "database that is no number"),
        (f"unix:///a.sock?db=x&password={SECRET}", "database that is no number"),
        ("unix://", "absolute path"),
        ("unix://tmp/redis.sock", "absolute path"),
        (f"redis://:{SECRET}@host?sokket_timeout=3", "sokket_timeout"),
        (f"redis://:{SECRET}@host?socket_timeout=long", "socket_timeout"),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_the_fix(url: str, problem: str) -> None:
    with pytest.raises(SpecError, match=problem) as caught:
        connect(url, patience_seconds=60)
    assert_one_clear_line(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:secret@host/0", "redis://***@host/0"),
        ("rediss://user:secret@host", "rediss://***@host"),
        ("redis://:sec@ret@host", "redis://***@host"),
        ("redis://:sec://ret@host", "redis://***@host"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        ("unix:///s?password=sec@ret&db=1", "unix:///s?password=***&db=1"),
        ("rediss://host?ssl_password=secret", "rediss://host?ssl_password=***"),
        (":secret@host", "***@host"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert redact(url) == shown


# lost replies


class ReplyLoser:
    """Stands between client and server and, when told to, cuts the line instead of passing a reply on."""

    def __init__(self, server: Path, here: Path) -> None:
        self.lose_next = False
        self.lost = 0
        self._server = str(server)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(here))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # A blocked accept() ends with a shutdown, not with a close.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self._server)
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(1_000_000)
                    if not data:
                        return
                    if source is client:
                        server.sendall(data)
                    # "-NOSCRIPT" is no reply of an operation.
                    elif self.lose_next and not data.startswith(b"-"):
                        self.lose_next = False
                        self.lost += 1
                        return
                    else:
                        client.sendall(data)


def test_an_operation_whose_reply_is_lost_takes_place_once(
    redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    here = tmp_path / "s"
    loser = ReplyLoser(Path(redis_url.removeprefix("unix://")), here)
    with connect(f"unix://{here}", patience_seconds=30) as client:
        queue, direct = RunQueue(client, "run"), RunQueue(redis_client, "run")

        def losing(operation: Callable[..., Any], *args: Any, **arguments: Any) -> Any:
            before = loser.lost
            loser.lose_next = True
            reply = operation(*args, **arguments)
            assert loser.lost == before + 1
            return reply

        losing(create, queue, opening(0))
        assert losing(queue.join, "w", fingerprint="f", ttl_milliseconds=60_000).workers == 1
        claim = losing(queue.claim, "w", generation=0, count=2, token="t", lease_milliseconds=60_000)
        assert claim.items == ("item:0", "item:1")
        assert direct.state().outstanding == 2
        first = [ItemResult("item:0", "r", 1)]
        assert losing(queue.report, "w", generation=0, results=first)[0].accepted
        assert direct.state().done == 1
        losing(queue.leave, "w")
        assert direct.state().todo == 3
        assert losing(queue.set_policy, "q", version=2)
        other = replace(opening(0), parameters="other")
        assert losing(queue.reopen, other, instead_of="first") is ReopenStatus.RUNNING
        assert (direct.state().policy, direct.state().opening, direct.state().todo) == ("q", other, 4)
        claim = queue.claim("w", generation=0, count=9, token="u", lease_milliseconds=60_000)
        queue.report("w", generation=0, results=[ItemResult(item, "r", 1) for item in claim.items])
        assert losing(queue.commit, generation=0, record="record", opening=opening(1)) == "record"
        assert losing(queue.digest, "w", generation=0, digest="aa") == "aa"
        assert losing(queue.digest, "x", generation=0, digest="bb") == "aa"
        assert [entry.record for entry in losing(queue.updates, 0)] == ["record"]
        assert losing(queue.finish, phase="Failed", reason="r", message="m", ttl_seconds=60).phase == "Failed"
        counters = direct.state().counters
        assert {name: count for name, count in counters.items() if count} == {
            "reported": 5,
            "digest_mismatches": 1,
        }
    loser.close()


# many at once


def test_many_workers_at_once(redis_url: str, redis_client: redis.Redis) -> None:
    """Eight workers, some leaving in mid-item, close 15 generations: every item counts once in each."""
    generations, items = 15, 24
    main = RunQueue(redis_client, "race")
    create(main, opening(0, items))

    def work(number: int) -> None:
        whims = random.Random(number)
        name = f"w{number}"
        tokens = itertools.count()
        with connect(redis_url, patience_seconds=30) as client:
            queue = RunQueue(client, "race")
            queue.join(name, fingerprint="f", ttl_milliseconds=60_000)
            generation = 0
            while generation < generations:
                claim = queue.claim(
                    name,
                    generation=generation,
                    count=whims.randint(1, 3),
                    token=str(next(tokens)),
                    lease_milliseconds=None,
                )
                if claim.status is ClaimStatus.ITEMS:
                    for item in claim.items:
                        if whims.random() < 0.1:
                            queue.leave(name)
                            queue.join(name, fingerprint="f", ttl_milliseconds=60_000)
                            break
                        result = ItemResult(item, f"{generation} {item}", 1)
                        queue.report(name, generation=generation, results=[result])
                elif claim.status is ClaimStatus.COMPLETE:
                    closing = queue.results(generation)
                    if closing is not None:  # else another has just closed it
                        expected = {item: f"{generation} {item}" for item in opening(0, items).items}
                        assert closing.results == expected
                        queue.commit(
                            generation=generation,
                            record=f"{generation} by {name}",
                            opening=opening(generation + 1, items),
                        )
                else:
                    generation += len(queue.updates(generation, block_milliseconds=claim.wait_milliseconds))

    with ThreadPoolExecutor(8) as executor:
        for done in [executor.submit(work, number) for number in range(8)]:
            done.result(timeout=120)
    log = main.updates(0)
    assert [entry.record.split()[0] for entry in log] == [
        str(generation) for generation in range(generations)
    ]
    state = main.state()
    assert state.counters["reported"] == generations * items
    assert state.counters["backups"] == state.counters["leases_expired"] == 0
    assert all(entry.telemetry["item_milliseconds"] == items for entry in log)
