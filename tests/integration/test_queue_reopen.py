"""A generation is opened again, of a run that has succeeded or that goes on: reopen, against a real server."""

from dataclasses import replace

import pytest
import redis

from esft.errors import RunNotFoundError
from esft.queue import ClaimStatus, GenerationResults, Opening, ReopenStatus, RunQueue
from queue_parts import Clock, Worker, counts, create, opening, reported

pytestmark = pytest.mark.integration


# after the run has succeeded


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

    assert queue.reopen(longer, instead_of="no matter") is ReopenStatus.REOPENED

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
    assert queue.state().workers == 1, f"{dead.name} has dropped out"
    assert queue.reopen(opening()) is ReopenStatus.OCCUPIED
    assert slow.report("a") == (False, False)
    queue.leave("slow")
    assert queue.reopen(opening()) is ReopenStatus.REOPENED
    assert counts(queue.state()) == (0, 0, 3)


# while the run goes on


def other_opening(generation: int = 0) -> Opening:
    return replace(opening(generation, items="adef", optional="def", needed=3), parameters="other")


def test_an_open_generation_is_replaced_and_what_it_had_is_forgotten(queue: RunQueue, clock: Clock) -> None:
    one, two = Worker(queue, "one"), Worker(queue, "two")
    one.claim(2, lease=600_000)
    two.claim(lease=1_000)
    one.report("a", milliseconds=50_000)
    clock.now += 1_000

    assert queue.reopen(other_opening(), instead_of=opening().parameters) is ReopenStatus.REOPENED

    state = queue.state()
    assert (state.phase, state.opening, state.workers) == ("Running", other_opening(), 2)
    assert (counts(state), reported(queue)) == ((0, 0, 4), {})
    assert one.claim(4).items == ("a", "d", "e", "f")
    assert queue.leave("two") == 0, "its lease went with the opening"
    for item in "def":
        assert one.report(item) == (True, False)
    with pytest.raises(ValueError, match="lacks results"):
        queue.commit(generation=0, record="r", opening=opening(1))
    assert one.report("a") == (True, True)
    assert queue.commit(generation=0, record="r", opening=opening(1)) == "r"
    (entry,) = queue.updates(0)
    assert entry.telemetry["item_milliseconds"] == 400, "of the items that count"
    assert queue.state().counters["leases_expired"] == 0


def test_replacing_the_opening_again_changes_nothing(queue: RunQueue) -> None:
    one, two = Worker(queue, "one"), Worker(queue, "two")
    assert queue.reopen(other_opening(), instead_of=opening().parameters) is ReopenStatus.REOPENED
    one.report("a")
    two.claim(2)
    before = queue.state()
    assert queue.reopen(other_opening(), instead_of=opening().parameters) is ReopenStatus.RUNNING
    assert queue.state() == before
    assert reported(queue) == {"a": "1"}


@pytest.mark.parametrize(
    ("generation", "instead_of"),
    [
        (0, ""),
        (0, "unknown"),
        (0, opening().parameters + " "),
        (1, opening().parameters),
    ],
)
def test_an_opening_is_replaced_only_by_who_knows_it(
    queue: RunQueue, generation: int, instead_of: str
) -> None:
    Worker(queue, "w").claim(2)
    before = queue.state()
    assert queue.reopen(other_opening(generation), instead_of=instead_of) is ReopenStatus.RUNNING
    assert queue.state() == before


@pytest.mark.parametrize("parameters", ["", "one"])
def test_an_opening_that_no_one_names_is_not_replaced(redis_client: redis.Redis, parameters: str) -> None:
    queue = RunQueue(redis_client, "unnamed")
    create(queue, replace(opening(), parameters=parameters))
    Worker(queue, "w").claim(2)
    before = queue.state()
    assert queue.reopen(other_opening(), instead_of="") is ReopenStatus.RUNNING
    assert queue.state() == before


def test_an_opening_is_not_replaced_by_one_that_a_repeated_call_would_replace(queue: RunQueue) -> None:
    worker = Worker(queue, "w")
    worker.claim(2)
    worker.report("a")
    before = queue.state()
    with pytest.raises(
        ValueError, match="the parameters of the former, so a repeated call would open it twice"
    ):
        queue.reopen(opening(items="def"), instead_of=opening().parameters)
    assert queue.state() == before
    assert reported(queue) == {"a": "1"}


def test_who_was_told_complete_and_overtaken_by_a_reopening_gets_no_results(queue: RunQueue) -> None:
    one = Worker(queue, "one")
    one.drain()
    assert one.claim().status is ClaimStatus.COMPLETE
    queue.reopen(other_opening(), instead_of=opening().parameters)
    assert queue.results(0) is None
    for item in "ade":
        one.report(item)
        assert queue.results(0) is None
    one.report("f")
    results = dict.fromkeys("adef", "1")
    assert queue.results(0) == GenerationResults(parameters="other", policy="p", results=results)


def test_one_who_is_late_replaces_no_later_generation(queue: RunQueue) -> None:
    Worker(queue, "w").drain()
    queue.commit(generation=0, record="r", opening=opening(1))  # with the same parameters
    before = queue.state()
    assert queue.reopen(other_opening(), instead_of=opening().parameters) is ReopenStatus.RUNNING
    assert queue.state() == before


def test_a_late_report_of_the_former_opening_does_no_harm(queue: RunQueue) -> None:
    one, late = Worker(queue, "one"), Worker(queue, "late")
    assert late.claim(3, token="t").items == ("a", "b", "c")
    queue.reopen(other_opening(), instead_of=opening().parameters)
    assert one.claim(3).items == ("a", "d", "e")
    assert late.report("b", milliseconds=90_000) == (False, False)
    assert (counts(queue.state()), reported(queue)) == ((0, 3, 1), {})
    assert queue.state().counters["stale"] == 1
    assert late.claim(3, token="t").items == ("f",), "the former claim holds nothing any more"
    assert late.report("a", result="first") == (True, False), "an item of both openings"
    assert one.report("a", result="second") == (False, False)
    for item in "def":
        one.report(item)
    assert reported(queue) == {"a": "first", "d": "1", "e": "1", "f": "1"}
    assert one.claim().status is ClaimStatus.COMPLETE


# its end, its absence


def test_a_run_that_went_on_can_end_again(queue: RunQueue, redis_client: redis.Redis) -> None:
    succeed(queue)
    queue.reopen(opening())
    Worker(queue, "w").drain()
    state = queue.finish(phase="Failed", reason="again", message="", ttl_seconds=60)
    assert (state.phase, state.reason, state.result) == ("Failed", "again", None)
    assert all(0 < redis_client.ttl(key) <= 60 for key in redis_client.keys())  # noqa: SIM118


def test_an_absent_run_is_not_made_by_reopening(redis_client: redis.Redis) -> None:
    for instead_of in ("", "other"):
        with pytest.raises(RunNotFoundError):
            RunQueue(redis_client, "absent").reopen(opening(), instead_of=instead_of)
    assert redis_client.keys() == []
