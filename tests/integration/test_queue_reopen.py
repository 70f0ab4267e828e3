"""A run that has succeeded goes further: reopen, against a real server."""

import pytest
import redis

from esft.errors import RunNotFoundError
from esft.queue import ClaimStatus, ReopenStatus, RunQueue
from queue_parts import Clock, Worker, counts, opening

pytestmark = pytest.mark.integration


def succeed(queue: RunQueue, *, reason: str = "GenerationsDone") -> None:
    queue.finish(phase="Succeeded", reason=reason, message="m", result="{}", ttl_seconds=60)


@pytest.mark.parametrize("reason", ["GenerationsDone", "TargetScoreReached"])
def test_a_run_that_has_succeeded_goes_on_at_its_generation(
    queue: RunQueue, redis_client: redis.Redis, reason: str
) -> None:
    worker = Worker(queue, "w")
    worker.drain()
    queue.digest("w", generation=0, digest="aa")
    queue.commit(generation=0, record="zero", opening=opening(1))
    worker.drain(generation=1)
    succeed(queue, reason=reason)
    queue.leave("w")
    longer = opening(1, items="defg", optional="defg", needed=4)

    assert queue.reopen(longer) is ReopenStatus.REOPENED

    state = queue.state()
    assert (state.phase, state.reason, state.message, state.result) == ("Running", "", "", None)
    assert (state.opening, counts(state)) == (longer, (0, 0, 4))
    assert all(redis_client.ttl(key) == -1 for key in redis_client.keys())  # noqa: SIM118 - not a dict
    fresh = Worker(queue, "fresh")
    fresh.drain(generation=1)
    assert fresh.claim(generation=1).status is ClaimStatus.COMPLETE
    assert queue.commit(generation=1, record="one", opening=opening(2)) == "one"
    assert [entry.record for entry in queue.updates(0)] == ["zero", "one"]
    assert queue.digest("fresh", generation=0, digest="bb") == "aa"


def test_reopening_again_changes_nothing(queue: RunQueue) -> None:
    succeed(queue)
    assert queue.reopen(opening(items="xy")) is ReopenStatus.REOPENED
    Worker(queue, "w").claim()
    before = queue.state()
    assert queue.reopen(opening(items="xy")) is ReopenStatus.RUNNING
    assert queue.state() == before


@pytest.mark.parametrize(
    ("phase", "generation", "status"),
    [
        ("Failed", 0, ReopenStatus.FAILED),
        ("Succeeded", 1, ReopenStatus.OTHER_GENERATION),
        (None, 0, ReopenStatus.RUNNING),
    ],
)
def test_a_run_that_cannot_go_on_stays_as_it_is(
    queue: RunQueue, redis_client: redis.Redis, phase: str | None, generation: int, status: ReopenStatus
) -> None:
    if phase:
        queue.finish(phase=phase, reason="r", message="m", ttl_seconds=60)
    before = queue.state()
    assert queue.reopen(opening(generation)) is status
    assert queue.state() == before
    assert (redis_client.ttl(queue.keys[0]) > 0) == (phase is not None)


def test_reopening_waits_for_the_workers_of_the_former_opening(queue: RunQueue, clock: Clock) -> None:
    leaving, slow, dead = (Worker(queue, name, ttl=1000) for name in ("leaving", "slow", "dead"))
    succeed(queue)
    assert leaving.claim().status is ClaimStatus.FINISHED
    queue.leave("leaving")
    assert queue.reopen(opening()) is ReopenStatus.OCCUPIED
    clock.now += 900
    queue.heartbeat(slow.name, ttl_milliseconds=1000)  # in the middle of an item: has not seen the end
    clock.now += 900
    assert queue.workers() == {"slow": "{}"}, f"{dead.name} has dropped out"
    assert queue.reopen(opening()) is ReopenStatus.OCCUPIED
    assert slow.report("a") == (False, False)
    queue.leave("slow")
    assert queue.reopen(opening()) is ReopenStatus.REOPENED
    assert counts(queue.state()) == (0, 0, 3)


def test_a_run_that_went_on_can_end_again(queue: RunQueue, redis_client: redis.Redis) -> None:
    succeed(queue)
    queue.reopen(opening())
    Worker(queue, "w").drain()
    state = queue.finish(phase="Failed", reason="again", message="", ttl_seconds=60)
    assert (state.phase, state.reason, state.result) == ("Failed", "again", None)
    assert all(0 < redis_client.ttl(key) <= 60 for key in redis_client.keys())  # noqa: SIM118


def test_an_absent_run_is_not_made_by_reopening(redis_client: redis.Redis) -> None:
    with pytest.raises(RunNotFoundError):
        RunQueue(redis_client, "absent").reopen(opening())
    assert redis_client.keys() == []
