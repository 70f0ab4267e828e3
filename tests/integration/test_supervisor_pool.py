"""The worker pool alone, with real processes and a clock of its own."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from esft.errors import QueueUnavailableError
from esft.status.report import Reason
from esft_local.workers import WorkerPool

pytestmark = pytest.mark.integration

FOREVER = [sys.executable, "-S", "-c", "import signal; signal.pause()"]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A pool, what its workers do, and what it told the queue."""

    def __init__(self, logs: Path) -> None:
        self.script: dict[str, Sequence[str]] = {}
        self.started: list[str] = []
        self.left: list[str] = []
        self.redis_is_away = False
        self.clock = Clock()
        self.pool = WorkerPool(
            command=self.command, environments=[{}, {}], logs=logs, leave=self.leave, clock=self.clock
        )

    def command(self, name: str) -> Sequence[str]:
        self.started.append(name)
        return self.script.get(name, FOREVER)

    def leave(self, name: str) -> None:
        if self.redis_is_away:
            raise QueueUnavailableError("away")
        self.left.append(name)

    def poll_until(self, condition: Callable[[], object], *, progress: int = 0) -> Reason | None:
        deadline = time.monotonic() + 30
        while True:
            failure = self.pool.poll(progress)
            if failure is not None or condition():
                return failure
            assert time.monotonic() < deadline, "the condition did not come true in time"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "logs")
    yield made
    made.pool.drain(seconds=0, hurry=lambda: True)


def shell(script: str) -> Sequence[str]:
    return ["/bin/sh", "-c", script]


def test_a_dead_worker_gets_a_new_name_and_its_leases_go_back(bench: Bench) -> None:
    bench.script["worker-0"] = shell("kill -9 $$")
    bench.pool.start()
    bench.left.clear()
    assert bench.poll_until(lambda: "worker-0.1" in bench.pool.pids) is None
    assert bench.left == ["worker-0"]
    assert sorted(bench.pool.pids) == ["worker-0.1", "worker-1"]
    assert bench.started == ["worker-0", "worker-1", "worker-0.1"]
    replaced, other = bench.pool.workers({"worker-1"})
    assert (replaced.name, replaced.state, other.name, other.state) == (
        "worker-0.1",
        "starting",
        "worker-1",
        "ready",
    )
    assert other.problem is None
    assert replaced.problem is not None
    assert replaced.problem.message == "worker-0 ended with SIGKILL: it wrote no message"
    bench.pool.poll(1)
    assert bench.pool.workers(())[0].problem is None  # the run has got on since


def test_leases_go_back_once_redis_is_there_again(bench: Bench) -> None:
    bench.script["worker-0"] = shell("exit 70")
    bench.redis_is_away = True
    bench.pool.start()
    assert bench.poll_until(lambda: "worker-0.1" in bench.pool.pids) is None
    assert bench.left == []
    bench.redis_is_away = False
    bench.pool.poll(0)
    assert bench.left == ["worker-0", "worker-1", "worker-0"]


def test_a_crash_loop_backs_off_and_then_fails_with_the_last_words(bench: Bench) -> None:
    for incarnation in ("worker-1", *(f"worker-1.{number}" for number in range(1, 9))):
        bench.script[incarnation] = shell("echo out of luck >&2; exit 70")
    bench.pool.start()
    assert bench.poll_until(lambda: "worker-1.1" in bench.started) is None  # at once
    waits = []
    for number in range(2, 5):
        name, before = f"worker-1.{number}", bench.clock.now
        assert bench.poll_until(lambda: not any("worker-1" in each for each in bench.pool.pids)) is None
        crashed = bench.pool.workers(bench.started)[1]
        assert (crashed.name, crashed.state) == (f"worker-1.{number - 1}", "failed")
        while name not in bench.started:
            bench.clock.now += 0.25
            assert bench.pool.poll(0) is None
        waits.append(bench.clock.now - before)
    assert waits == [0.5, 1.0, 2.0]
    failure = bench.poll_until(lambda: False)
    assert failure is not None
    reason, message = failure
    assert reason == "WorkersFailed"
    assert message.startswith(
        "worker-1.4 ended 5 times without progress, last with exit code 70: out of luck"
    )


def test_progress_forgives_crashes(bench: Bench) -> None:
    for number in range(12):
        bench.script[f"worker-1.{number}" if number else "worker-1"] = shell("exit 70")
    bench.pool.start()
    for number in range(1, 12):
        failure = bench.poll_until(lambda: f"worker-1.{number}" in bench.started, progress=number)  # noqa: B023
        assert failure is None


def test_a_spec_that_cannot_work_fails_at_once(bench: Bench) -> None:
    bench.script["worker-0"] = shell("""echo '{"level": "error", "event": "no such task"}' >&2; exit 64""")
    bench.pool.start()
    assert bench.poll_until(lambda: False) == ("InvalidSpec", "no such task")


def test_finished_workers_stay_finished(bench: Bench) -> None:
    bench.script["worker-0"] = bench.script["worker-1"] = shell("exit 0")
    bench.pool.start()
    assert bench.pool.wait(seconds=30)
    for _ in range(3):
        assert bench.pool.poll(0) is None
    assert bench.pool.finished
    assert bench.started == ["worker-0", "worker-1"]
    assert bench.pool.pids == {}
    assert [worker.state for worker in bench.pool.workers(bench.started)] == ["done", "done"]


def test_a_drained_worker_is_replaced_while_the_run_goes_on(bench: Bench) -> None:
    bench.script["worker-0"] = shell("exit 143")
    bench.pool.start()
    assert bench.poll_until(lambda: "worker-0.1" in bench.pool.pids) is None


def test_drain_asks_first_and_kills_what_does_not_listen(bench: Bench, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    bench.script["worker-0"] = shell(
        f"trap 'echo asked > {tmp_path}/asked; exit 143' TERM; touch {ready}0; while :; do sleep 0.01; done"
    )
    bench.script["worker-1"] = shell(f"trap '' TERM; touch {ready}1; while :; do sleep 0.01; done")
    bench.pool.start()
    bench.left.clear()
    bench.poll_until(lambda: Path(f"{ready}0").exists() and Path(f"{ready}1").exists())
    first = bench.pool.pids["worker-0"]
    bench.pool.drain(seconds=30, hurry=lambda: not Path(f"/proc/{first}").exists())
    assert (tmp_path / "asked").exists()
    assert bench.pool.pids == {}
    assert [worker.state for worker in bench.pool.workers(bench.started)] == ["drained", "failed"]
    assert bench.left == ["worker-1"]  # the other one has handed its leases back itself
