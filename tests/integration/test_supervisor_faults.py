"""Killed workers, runners and servers, Ctrl-C and lost Redis: the same command ends in the same log and digest."""

import os
import random
import signal

import pytest
import redis

from esft.queue import RunQueue, connect
from esft_local.redis_server import EmbeddedRedis
from pretend_job import Job, is_redis, redis_of, wait_until, workers_of

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], str]:
    """Log and digest of a run that nothing disturbs."""
    job = Job(tmp_path_factory.mktemp("undisturbed"))
    code, _, err = job.run()
    assert code == 0, err
    return job.log(), job.summary()["digest"]


def test_killed_workers_are_replaced_and_change_nothing(job: Job, expected: tuple[list[str], str]) -> None:
    process = job.start(FAKE_ITEM_SECONDS="0.05")
    chooser = random.Random(1)
    killed = 0
    while process.poll() is None:
        alive = workers_of(job)
        if alive and killed < 6:
            name = chooser.choice(sorted(alive))
            try:
                os.kill(alive[name], signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed += 1
            reached = len(job.log())
            wait_until(lambda: process.poll() is not None or len(job.log()) > reached)  # noqa: B023
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert killed >= 3
    assert (job.log(), job.summary()["digest"]) == expected


def test_a_killed_redis_changes_nothing(job: Job, expected: tuple[list[str], str]) -> None:
    process = job.start(FAKE_ITEM_SECONDS="0.05")
    for generation in (1, 2, 3):
        wait_until(lambda: len(job.log()) >= generation)  # noqa: B023
        os.kill(redis_of(process.pid), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert (job.log(), job.summary()["digest"]) == expected


def test_ctrl_c_drains_and_the_same_command_continues(job: Job, expected: tuple[list[str], str]) -> None:
    process = job.start(FAKE_ITEM_SECONDS="0.05")
    wait_until(lambda: len(job.log()) >= 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"esft run {job.file} --output {job.folder / 'out'} --workers 2" in out
    assert job.summary()["phase"] == job.status()["status"]["phase"] == "Suspended"
    assert job.status()["workers"][0]["state"] == "drained"
    assert workers_of(job) == {}
    done = len(job.log())
    assert 2 <= done < 6
    code, _, err = job.run()
    assert code == 0, err
    assert (job.log(), job.summary()["digest"]) == expected


def test_a_second_ctrl_c_ends_workers_that_do_not_drain(job: Job) -> None:
    process = job.start(FAKE_ITEM_SECONDS="0.5", FAKE_STUBBORN="1")
    wait_until(lambda: len(workers_of(job)) == 2 and job.log())
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert any("Ctrl-C again" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)  # the drain alone would wait for a minute
    assert process.returncode == 130, err
    assert "To go on" in out
    assert workers_of(job) == {}


def test_a_killed_runner_leaves_no_process_and_the_run_goes_on(
    job: Job, expected: tuple[list[str], str]
) -> None:
    process = job.start(FAKE_ITEM_SECONDS="0.05")
    wait_until(lambda: len(job.log()) >= 2)
    server = redis_of(process.pid)
    process.kill()
    process.communicate()
    wait_until(lambda: workers_of(job) == {} and not is_redis(server))
    status = job.status()["status"]
    assert status["phase"] == "Suspended"
    assert "Killed" in {condition["reason"] for condition in status["conditions"]}
    assert status["progress"]["generation"] == len(job.log())
    code, _, err = job.run()
    assert code == 0, err
    assert (job.log(), job.summary()["digest"]) == expected


def test_a_redis_of_ones_own_that_loses_everything_is_filled_again(
    job: Job, expected: tuple[list[str], str]
) -> None:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        process = job.start(FAKE_ITEM_SECONDS="0.05", ESFT_REDIS_URL=server.url)
        wait_until(lambda: len(job.log()) >= 3)
        client.flushall()
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert (job.log(), job.summary()["digest"]) == expected


def test_a_redis_of_ones_own_that_kept_the_run_is_joined(job: Job, expected: tuple[list[str], str]) -> None:
    with EmbeddedRedis() as server:
        process = job.start(FAKE_ITEM_SECONDS="0.05", ESFT_REDIS_URL=server.url)
        wait_until(lambda: len(job.log()) >= 2)
        process.kill()
        process.communicate()
        wait_until(lambda: workers_of(job) == {})
        client = connect(server.url, patience_seconds=5)
        queue = RunQueue(client, job.uid())
        in_redis = [entry.record for entry in queue.updates(0)]
        reported = queue.state().counters["reported"]
        code, _, err = job.run(ESFT_REDIS_URL=server.url)
        assert code == 0, err
        assert job.log()[: len(in_redis)] == in_redis
        assert queue.state().counters["reported"] >= reported  # not created anew
        client.close()
        assert (job.log(), job.summary()["digest"]) == expected
