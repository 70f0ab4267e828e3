import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from esft.errors import EsftError
from esft_operator import workqueue
from esft_operator.names import Key
from esft_operator.workqueue import WorkQueue

A, B, C = ("team", "a"), ("team", "b"), ("team", "c")
SOON = 0.01
NEVER = 60.0

Process = Callable[[Key], Awaitable[float | None]]


@contextlib.asynccontextmanager
async def running(process: Process, *, concurrency: int = 8) -> AsyncIterator[WorkQueue]:
    queue = WorkQueue(process, concurrency=concurrency)
    task = asyncio.create_task(queue.run())
    try:
        yield queue
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - a condition of any kind
            await asyncio.sleep(0)


def in_a_loop(test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await test()

    asyncio.run(run())


def test_a_key_that_is_added_twice_is_worked_on_once() -> None:
    seen: list[Key] = []

    async def process(key: Key) -> None:
        seen.append(key)

    async def test() -> None:
        async with running(process) as queue:
            for _ in range(5):
                queue.add(A)
            queue.add(B)
            assert queue.length == 2
            await until(lambda: len(seen) == 2 and queue.length == 0)
            await asyncio.sleep(SOON)
            assert seen == [A, B]

    in_a_loop(test)


def test_what_is_added_meanwhile_comes_again_and_never_at_the_same_time() -> None:
    seen: list[Key] = []
    working: set[Key] = set()
    go_on = asyncio.Event()

    async def process(key: Key) -> None:
        assert key not in working
        working.add(key)
        seen.append(key)
        await go_on.wait()
        working.discard(key)

    async def test() -> None:
        async with running(process) as queue:
            queue.add(A)
            await until(lambda: seen == [A])
            queue.add(A)
            queue.add(A)
            queue.add(B)
            await until(lambda: seen == [A, B])
            assert queue.length == 0  # A is due, and worked on
            go_on.set()
            await until(lambda: seen == [A, B, A])
            await asyncio.sleep(SOON)
            assert seen == [A, B, A]

    in_a_loop(test)


def test_no_more_at_a_time_than_allowed() -> None:
    working: set[Key] = set()
    most = 0
    done = 0

    async def process(key: Key) -> None:
        nonlocal most, done
        working.add(key)
        most = max(most, len(working))
        await asyncio.sleep(0)
        working.discard(key)
        done += 1

    async def test() -> None:
        async with running(process, concurrency=2) as queue:
            for number in range(20):
                queue.add(("team", str(number)))
            await until(lambda: done == 20)
        assert most == 2

    in_a_loop(test)


def test_a_busy_queue_still_comes_to_keys_that_are_due_later() -> None:
    seen: list[Key] = []
    go_on = asyncio.Event()

    async def process(key: Key) -> None:
        seen.append(key)
        if key != C:
            await go_on.wait()

    async def test() -> None:
        async with running(process, concurrency=2) as queue:
            queue.add(A)
            queue.add(B)
            queue.add(C, delay=SOON)
            await until(lambda: len(seen) == 2)
            await asyncio.sleep(2 * SOON)
            assert C not in seen
            go_on.set()
            await until(lambda: C in seen)

    in_a_loop(test)


@pytest.mark.parametrize(("first", "second"), [(NEVER, 0.0), (0.0, NEVER), (NEVER, SOON)])
def test_the_earlier_of_two_due_times_wins(first: float, second: float) -> None:
    seen: list[Key] = []

    async def process(key: Key) -> None:
        seen.append(key)

    async def test() -> None:
        async with running(process) as queue:
            queue.add(A, delay=first)
            queue.add(A, delay=second)
            await until(lambda: seen == [A])

    in_a_loop(test)


def test_a_key_comes_again_when_it_wants_to() -> None:
    seen: list[Key] = []

    async def process(key: Key) -> float | None:
        seen.append(key)
        return SOON if len(seen) < 3 else None

    async def test() -> None:
        async with running(process) as queue:
            queue.add(A)
            await until(lambda: len(seen) == 3)
            await asyncio.sleep(3 * SOON)
            assert len(seen) == 3

    in_a_loop(test)


def test_a_forgotten_key_does_not_come() -> None:
    seen: list[Key] = []

    async def process(key: Key) -> None:
        seen.append(key)

    async def test() -> None:
        async with running(process) as queue:
            queue.add(A, delay=SOON)
            queue.forget(A)
            queue.add(B, delay=2 * SOON)
            await until(lambda: seen == [B])

    in_a_loop(test)


@pytest.mark.parametrize("error", [EsftError("no"), ValueError("bug")])
def test_failures_are_tried_again_and_a_success_begins_anew(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(workqueue, "_FIRST_DELAY_SECONDS", SOON / 10)
    times: list[float] = []

    async def process(_key: Key) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) not in {4, 6}:
            raise error

    async def test() -> None:
        async with running(process) as queue:
            queue.add(A)
            await until(lambda: len(times) == 4)
            queue.add(A)
            await until(lambda: len(times) == 6)
        gaps = [after - before for before, after in itertools.pairwise(times)]
        for gap, wanted in zip(gaps[:3], (1, 2, 4), strict=True):
            assert gap >= wanted * SOON / 10
        assert gaps[4] >= SOON / 10

    in_a_loop(test)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0.5), (2, 1.0), (3, 2.0), (5, 8.0), (6, 10.0), (100, 10.0), (5000, 10.0)]
)
def test_the_delay_doubles_up_to_a_limit_however_long_it_fails(failures: int, seconds: float) -> None:
    async def test() -> None:
        queue = WorkQueue(lambda _key: asyncio.sleep(0), concurrency=1)
        queue._failures[A] = failures - 1
        before = asyncio.get_running_loop().time()
        queue._retry(A, "no")
        assert before + seconds <= queue._due[A] <= before + seconds + 1

    in_a_loop(test)


def test_one_key_that_fails_holds_up_no_other() -> None:
    seen: list[Key] = []

    async def process(key: Key) -> None:
        seen.append(key)
        if key == A:
            raise EsftError("no")

    async def test() -> None:
        async with running(process, concurrency=1) as queue:
            queue.add(A)
            queue.add(B)
            await until(lambda: B in seen)

    in_a_loop(test)


def test_what_is_worked_on_is_let_go_at_the_end() -> None:
    ended: list[str] = []

    async def process(_key: Key) -> None:
        try:
            await asyncio.sleep(NEVER)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def test() -> None:
        async with running(process) as queue:
            queue.add(A)
            await until(lambda: bool(queue._running))
            await asyncio.sleep(0)
        await until(lambda: ended == ["cancelled"])

    in_a_loop(test)
