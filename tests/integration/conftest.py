"""A run in the shared Redis, with the clock in the test's hand; and a whole run with stand-in workers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from esft.queue import RunQueue
from pretend_job import Job
from queue_parts import Clock, create


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(redis_client: redis.Redis, clock: Clock) -> RunQueue:
    queue = RunQueue(redis_client, "run-1", clock=clock)
    assert create(queue)
    return queue


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.communicate()
