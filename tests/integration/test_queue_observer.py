"""Many runs at a glance, against a real server."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from esft.errors import QueueUnavailableError, UnreadableRunError, VersionError
from esft.queue import Entry, Observation, RunQueue, connect, observe
from esft.versions import FORMAT_VERSION, Versions
from queue_parts import Worker, create, make_first_release, opening

pytestmark = pytest.mark.integration


def make_runs(client: redis.Redis, number: int, *, records: int = 0) -> list[RunQueue]:
    queues = [RunQueue(client, f"run-{index}") for index in range(number)]
    for queue in queues:
        log = [f"{queue.run} record {index}" for index in range(records)]
        create(queue, log=log)
    return queues


def test_state_and_log_are_those_of_each_run(redis_client: redis.Redis) -> None:
    one, two, _ = make_runs(redis_client, 3, records=2)
    Worker(one, "w").drain(generation=2)
    one.commit(generation=2, record="three", opening=opening(3))
    two.finish(phase="Failed", reason="r", message="m", ttl_seconds=60)
    observed = observe(redis_client, {one.run: 0, two.run: 1, "absent": 0})
    assert observed == {
        one.run: Observation(one.state(), one.updates(0)),
        two.run: Observation(two.state(), [Entry("run-1 record 1", {})]),
        "absent": None,
    }
    last = observed[one.run]
    assert last is not None
    assert last.entries[-1].telemetry["workers"] == 1


def test_a_long_log_is_read_in_parts(redis_client: redis.Redis) -> None:
    (queue,) = make_runs(redis_client, 1, records=5)
    read: list[str] = []
    while observation := observe(redis_client, {queue.run: len(read)}, count=2)[queue.run]:
        if not observation.entries:
            break
        read += [entry.record for entry in observation.entries]
    assert read == [f"run-0 record {index}" for index in range(5)]


def test_a_log_that_lost_its_end_shows_by_the_state(redis_client: redis.Redis) -> None:
    (queue,) = make_runs(redis_client, 1, records=1)
    observation = observe(redis_client, {queue.run: 7})[queue.run]
    assert observation is not None
    assert (observation.entries, observation.state.opening.generation) == ([], 1)


def test_more_runs_than_a_pipeline_takes(redis_client: redis.Redis) -> None:
    queues = make_runs(redis_client, 205)
    queues[150].delete()
    redis_client.script_flush()
    observed = observe(redis_client, {queue.run: 0 for queue in queues})
    assert list(observed) == [queue.run for queue in queues]
    assert [run for run, observation in observed.items() if observation is None] == ["run-150"]


def test_no_runs_are_no_question(redis_client: redis.Redis) -> None:
    assert observe(redis_client, {}) == {}


def test_a_client_that_returns_bytes_will_do(redis_url: str, redis_client: redis.Redis) -> None:
    (queue,) = make_runs(redis_client, 1, records=1)
    with redis.Redis.from_url(redis_url, decode_responses=False) as client:
        assert observe(client, {queue.run: 0}) == observe(redis_client, {queue.run: 0})


def test_a_redis_that_is_away_is_said_at_once(start_redis: Callable[..., Any]) -> None:
    server = start_redis()
    with connect(server.url, patience_seconds=60) as client:
        make_runs(client, 1)
        server.stop()
        started = time.monotonic()
        with pytest.raises(QueueUnavailableError, match="is unavailable"):
            observe(client, {"run-0": 0})
        assert time.monotonic() - started < 10
        server.start()
        assert observe(client, {"run-0": 0}) == {"run-0": None}
    server.stop()


def test_a_reply_that_passes_is_said_as_such(start_redis: Callable[..., Any]) -> None:
    server = start_redis()
    with connect(server.url, patience_seconds=1) as client:
        make_runs(client, 1)
        client.config_set("replica-serve-stale-data", "no")
        client.slaveof("127.0.0.1", 1)  # a replica that has no master to follow
        with pytest.raises(QueueUnavailableError, match="MASTER is down"):
            observe(client, {"run-0": 0})
    server.stop()


def test_a_run_that_cannot_be_read_hides_no_other(redis_client: redis.Redis) -> None:
    redis_client.set("esft:{run-0}:run", "no hash")
    create(RunQueue(redis_client, "run-1"))
    seen = observe(redis_client, {"run-0": 0, "run-1": 0})
    assert isinstance(seen["run-0"], UnreadableRunError)
    assert "WRONGTYPE" in str(seen["run-0"])
    assert isinstance(seen["run-1"], Observation)


def test_a_run_of_another_contract_names_its_image_and_hides_no_other(redis_client: redis.Redis) -> None:
    first, later, ours = (RunQueue(redis_client, run) for run in ("first", "later", "ours"))
    create(first, log=["zero"])
    make_first_release(first)
    create(later, versions=Versions(format=FORMAT_VERSION + 1, release="3.0.0"))
    create(ours, log=["zero"], versions=Versions(release="0.9.9"))
    seen = observe(redis_client, {"first": 0, "later": 0, "ours": 0})
    for run, release in (("first", "0.1.0"), ("later", "3.0.0")):
        assert isinstance(seen[run], VersionError)
        assert f" image esfinetune/worker:{release} " in str(seen[run])
    assert seen["ours"] == Observation(ours.state(), ours.updates(0))
