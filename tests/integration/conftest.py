"""A run in the shared Redis, with the clock in the test's hand."""

import pytest
import redis

from esft.queue import RunQueue
from queue_parts import Clock, create


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(redis_client: redis.Redis, clock: Clock) -> RunQueue:
    queue = RunQueue(redis_client, "run-1", clock=clock)
    assert create(queue)
    return queue
