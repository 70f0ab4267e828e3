"""Reports, commits, the log and digests, against a real server."""

import threading
import time
from dataclasses import replace

import pytest
import redis

from esft.queue import Entry, GenerationResults, ItemResult, Opening, RunQueue
from esft.queue.types import ReportOutcome
from queue_parts import Clock, Worker, counts, create, opening, reported

pytestmark = pytest.mark.integration


# report


def test_a_report_counts_once(queue: RunQueue) -> None:
    one, two = Worker(queue, "one"), Worker(queue, "two")
    one.claim()
    assert one.report("a", result="first") == (True, False)
    assert one.report("a", result="again") == (True, False), "the reply may have been lost"
    assert two.report("a", result="second") == (False, False)
    state = queue.state()
    assert reported(queue) == {"a": "first"}
    assert (state.counters["reported"], state.counters["duplicates"]) == (1, 1)
    assert counts(state) == (1, 0, 2)


def test_the_last_report_says_complete_and_so_does_its_repetition(queue: RunQueue) -> None:
    worker = Worker(queue, "w")
    worker.claim(3)
    assert worker.report("b") == (True, False)
    assert worker.report("a") == (True, False)
    assert worker.report("c") == (True, True)
    assert worker.report("c") == (True, True)
    assert reported(queue) == {"a": "1", "b": "1", "c": "1"}


def test_a_report_after_the_lease_ended_still_counts(queue: RunQueue, clock: Clock) -> None:
    slow, other = Worker(queue, "slow"), Worker(queue, "other")
    slow.claim(2, lease=1000)
    clock.now += 1000
    assert other.claim().items == ("a",)
    assert slow.report("b") == (True, False), "waiting to be claimed again"
    assert slow.report("a") == (True, False), "held by another"
    assert counts(queue.state()) == (2, 0, 1)
    assert other.report("a") == (False, False)
    assert other.claim(3).items == ("c",)


def test_a_report_ends_both_leases(queue: RunQueue, clock: Clock) -> None:
    one, two = Worker(queue, "one"), Worker(queue, "two")
    one.claim(3)
    clock.now += 2001
    assert two.claim().items == ("c",)
    assert two.report("c") == (True, False)
    assert counts(queue.state()) == (1, 2, 0)
    assert queue.leave("two") == 0
    assert one.report("c") == (False, False)


def test_a_report_for_a_closed_generation_is_stale(queue: RunQueue) -> None:
    worker = Worker(queue, "w")
    worker.drain()
    queue.commit(generation=0, record="r", opening=opening(1))
    assert worker.report("a", generation=0) == (False, False)
    assert worker.report("a", generation=2) == (False, False)
    assert queue.state().counters["stale"] == 2
    worker.drain(generation=1)
    assert set(reported(queue, 1)) == {"a", "b", "c"}
    assert queue.results(0) is queue.results(2) is None


def test_a_report_of_no_item_is_stale(queue: RunQueue) -> None:
    assert Worker(queue, "w").report("z") == (False, False)
    assert queue.state().counters["stale"] == 1
    assert counts(queue.state()) == (0, 0, 3)


def test_each_result_of_a_report_counts_for_itself(queue: RunQueue) -> None:
    one, two = Worker(queue, "one"), Worker(queue, "two")
    one.claim(3)
    assert two.report("b", result="first") == (True, False)
    results = [ItemResult(item, "1", 100) for item in "azbac"]
    outcomes = queue.report("one", generation=0, results=results)
    assert outcomes == tuple(ReportOutcome(accepted, complete=True) for accepted in (1, 0, 0, 1, 1))
    assert reported(queue) == {"a": "1", "b": "first", "c": "1"}
    counters = queue.state().counters
    assert (counters["reported"], counters["stale"], counters["duplicates"]) == (3, 1, 1)


@pytest.mark.parametrize("order", ["cdabe", "abced"])
def test_results_are_given_out_when_they_are_enough(redis_client: redis.Redis, order: str) -> None:
    queue = RunQueue(redis_client, "enough")
    create(queue, opening(items="abcde", optional="cde", needed=2))
    worker = Worker(queue, "w")
    given: list[set[str] | None] = []
    for item in order:
        worker.report(item)
        closing = queue.results(0)
        given.append(None if closing is None else set(closing.results))
    assert given == [None, None, None, set(order[:4]), set(order)], (
        "a and b are needed, and two of the others"
    )


def test_text_comes_back_as_it_was(queue: RunQueue) -> None:
    text = '{"number": 0.1234567890123456789, "empty": [], "big": 12345678901234567, "ä": "\\u0000"}\n\u2028'
    worker = Worker(queue, "w")
    worker.drain()
    queue.commit(generation=0, record=text, opening=replace(opening(1, items="a"), parameters=text))
    queue.set_policy(text, version=2)
    claim = worker.claim(generation=1)
    assert (claim.parameters, claim.policy) == (text, text)
    worker.report("a", generation=1, result=text)
    assert queue.updates(0)[0].record == text
    assert queue.results(1) == GenerationResults(parameters=text, policy=text, results={"a": text})
    state = queue.finish(phase="Succeeded", reason="r", message=text, result=text, ttl_seconds=60)
    assert (state.message, state.result, state.opening.parameters) == (text, text, text)


def test_items_may_be_any_text(redis_client: redis.Redis) -> None:
    items = ("with space", "ünï\n", "[1, 2]", "{braces}", "1")
    queue = RunQueue(redis_client, "texts")
    create(queue, Opening(generation=0, items=items, optional=items[:1]))
    worker = Worker(queue, "w")
    assert worker.claim(10).items == items
    for item in items:
        worker.report(item)
    assert set(reported(queue)) == set(items)


# commit, updates


def test_the_first_commit_wins(queue: RunQueue) -> None:
    Worker(queue, "w").drain()
    assert queue.commit(generation=0, record="first", opening=opening(1, items="de")) == "first"
    assert queue.commit(generation=0, record="second", opening=opening(1, items="fg")) == "first"
    assert queue.state().opening == opening(1, items="de")
    assert counts(queue.state()) == (0, 0, 2)
    assert [entry.record for entry in queue.updates(0)] == ["first"]


def test_an_old_commit_returns_its_own_record(queue: RunQueue) -> None:
    worker = Worker(queue, "w")
    for generation in range(3):
        worker.drain(generation)
        queue.commit(generation=generation, record=f"record {generation}", opening=opening(generation + 1))
    assert queue.commit(generation=1, record="late", opening=opening(2)) == "record 1"


def test_a_commit_needs_the_results(queue: RunQueue) -> None:
    with pytest.raises(ValueError, match="lacks results"):
        queue.commit(generation=0, record="r", opening=opening(1))
    with pytest.raises(ValueError, match="1 of run run-1 is not open yet: 0 is"):
        queue.commit(generation=1, record="r", opening=opening(2))
    with pytest.raises(ValueError, match="generation 2, but 1 is next"):
        queue.commit(generation=0, record="r", opening=opening(2))
    assert queue.updates(0) == []


def test_the_log_carries_telemetry(queue: RunQueue, clock: Clock) -> None:
    one, two = Worker(queue, "one"), Worker(queue, "two")
    one.claim(2, lease=2400)
    two.claim(lease=60_000)
    clock.now += 2001
    assert two.claim().items == ("b",)
    clock.now += 499
    assert two.claim().items == ("a",)
    for item in "abc":
        two.report(item, milliseconds=200)
    one.claim()
    queue.commit(generation=0, record="r", opening=opening(1))
    two.drain(generation=1)
    clock.now += 250
    queue.commit(generation=1, record="s", opening=opening(2))
    assert [entry.telemetry for entry in queue.updates(0)] == [
        {"seconds": 2.5, "item_milliseconds": 600, "workers": 2, "leases_expired": 2, "backups": 1},
        {"seconds": 0.25, "item_milliseconds": 300, "workers": 2, "leases_expired": 0, "backups": 0},
    ]


def test_updates_come_in_order_and_in_pieces(redis_client: redis.Redis) -> None:
    queue = RunQueue(redis_client, "long")
    log = [str(index) for index in range(1000)]
    create(queue, log=log)
    got: list[str] = []
    while entries := queue.updates(len(got), count=300):
        assert len(entries) <= 300
        got += [entry.record for entry in entries]
    assert got == log


def test_updates_block_until_there_is_something(queue: RunQueue, redis_url: str) -> None:
    got: list[Entry] = []
    # A socket timeout below the time to wait, as a client may have.
    with redis.Redis.from_url(redis_url, socket_timeout=1.5) as client:
        reader = RunQueue(client, "run-1")
        thread = threading.Thread(target=lambda: got.extend(reader.updates(0, block_milliseconds=60_000)))
        started = time.monotonic()
        thread.start()
        deadline = started + 30
        while reader_blocks(queue) < 2:  # the second slice: beyond the first one's time
            assert time.monotonic() < deadline
        Worker(queue, "w").drain()
        queue.commit(generation=0, record="r", opening=opening(1))
        thread.join(timeout=30)
    assert [entry.record for entry in got] == ["r"]
    assert time.monotonic() - started < 30


def reader_blocks(queue: RunQueue) -> int:
    return int(queue._redis.info("commandstats").get("cmdstat_xread", {}).get("calls", 0))


def test_updates_give_up_in_time(queue: RunQueue) -> None:
    started = time.monotonic()
    assert queue.updates(0, block_milliseconds=50) == []
    assert 0.04 <= time.monotonic() - started < 5


# digest


def test_the_first_digest_of_a_rebuilt_replica_counts_more(queue: RunQueue) -> None:
    assert queue.digest("broken", generation=0, digest="aa") == "aa"
    assert queue.digest("healthy", generation=0, digest="bb") == "aa"
    assert queue.digest("healthy", generation=0, digest="bb", rebuilt=True) == "bb"
    assert queue.digest("broken", generation=0, digest="aa") == "bb"
    assert queue.digest("broken", generation=0, digest="aa", rebuilt=True) == "bb"
    assert queue.digest("healthy", generation=1, digest="bb") == "bb"


def test_the_first_digest_is_the_agreed_one(queue: RunQueue) -> None:
    assert queue.digest("one", generation=0, digest="aa") == "aa"
    assert queue.digest("two", generation=0, digest="aa") == "aa"
    assert queue.digest("three", generation=0, digest="bb") == "aa"
    assert queue.digest("three", generation=0, digest="bb") == "aa"
    assert queue.digest("three", generation=1, digest="bb") == "bb"
    assert queue.state().counters["digest_mismatches"] == 1
