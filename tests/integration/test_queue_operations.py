"""The contract of each operation of the queue, one by one, against a real server."""

import json
import threading
import time
from dataclasses import dataclass, replace

import pytest
import redis
from redis.crc import key_slot

from esft.errors import RunNotFoundError, SpecError
from esft.queue import Claim, ClaimStatus, Entry, Heartbeat, Opening, RunQueue, RunState

pytestmark = pytest.mark.integration

COUNTERS = ("reported", "duplicates", "stale", "leases_expired", "backups", "digest_mismatches")


@dataclass
class Clock:
    now: int = 1_750_000_000_000

    def __call__(self) -> int:
        return self.now


def opening(generation: int = 0, items: str = "abc", optional: str = "", needed: int = 0) -> Opening:
    return Opening(
        generation=generation,
        items=tuple(items),
        optional=tuple(optional),
        optional_needed=needed,
        parameters=json.dumps({"sigma": 0.001}),
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(redis_client: redis.Redis, clock: Clock) -> RunQueue:
    queue = RunQueue(redis_client, "run-1", clock=clock)
    assert queue.create(fingerprint="f", log=[], opening=opening())
    return queue


class Worker:
    """A worker's calls with the arguments that a test does not care about."""

    def __init__(self, queue: RunQueue, name: str, ttl: int = 60_000) -> None:
        self.queue, self.name, self.ttl, self.tokens = queue, name, ttl, 0
        self.join()

    def join(self) -> RunState:
        return self.queue.join(self.name, fingerprint="f", ttl_milliseconds=self.ttl, info="{}")

    def claim(
        self, count: int = 1, generation: int = 0, lease: int | None = 10_000, token: str = ""
    ) -> Claim:
        self.tokens += 1
        return self.queue.claim(
            self.name,
            generation=generation,
            count=count,
            token=token or f"token-{self.tokens}",
            lease_milliseconds=lease,
        )

    def report(
        self, item: str, generation: int = 0, result: str = "1", milliseconds: int = 100
    ) -> tuple[bool, bool]:
        outcome = self.queue.report(
            self.name, generation=generation, item=item, result=result, milliseconds=milliseconds
        )
        return outcome.accepted, outcome.complete

    def drain(self, generation: int = 0) -> None:
        for item in self.claim(100, generation=generation).items:
            self.report(item, generation=generation)


def counts(state: RunState) -> tuple[int, int, int]:
    return state.done, state.outstanding, state.todo


# create, join, state


def test_the_first_to_create_a_run_wins(queue: RunQueue) -> None:
    assert not queue.create(fingerprint="other", log=["x"], opening=opening(1))
    assert queue.state().opening == opening()


def test_a_new_run_is_running_with_everything_to_do(queue: RunQueue) -> None:
    assert queue.state() == RunState(
        phase="Running",
        reason="",
        message="",
        result=None,
        opening=opening(),
        done=0,
        outstanding=0,
        todo=3,
        workers=0,
        counters=dict.fromkeys(COUNTERS, 0),
    )


def test_a_run_can_be_created_with_a_log(redis_client: redis.Redis) -> None:
    queue = RunQueue(redis_client, "resumed")
    log = ["zero", "one", "two"]
    assert queue.create(fingerprint="f", log=log, opening=opening(3))
    assert queue.updates(0) == [Entry(record=record, telemetry={}) for record in log]
    Worker(queue, "w").drain(generation=3)
    assert queue.commit(generation=3, record="three", opening=opening(4)) == "three"
    assert [entry.record for entry in queue.updates(2)] == ["two", "three"]
    with pytest.raises(ValueError, match="generation 5, but 3 is next"):
        queue.create(fingerprint="f", log=log, opening=opening(5))


def test_join_registers_a_worker_and_returns_the_state(queue: RunQueue) -> None:
    state = queue.join("w", fingerprint="f", ttl_milliseconds=1000, info='{"gpu": "H200"}')
    assert state == queue.state()
    assert state.workers == 1
    assert queue.workers() == {"w": '{"gpu": "H200"}'}


def test_join_refuses_another_specification(queue: RunQueue) -> None:
    with pytest.raises(SpecError, match=r"fingerprint f, here g"):
        queue.join("w", fingerprint="g", ttl_milliseconds=1000, info="")
    assert queue.state().workers == 0


def test_join_again_gives_the_former_leases_back(queue: RunQueue) -> None:
    worker = Worker(queue, "w")
    assert worker.claim(2).items == ("a", "b")
    assert counts(worker.join()) == (0, 0, 3)
    assert worker.claim().items == ("a",)


def test_every_operation_on_an_absent_run_says_so(redis_client: redis.Redis) -> None:
    queue = RunQueue(redis_client, "absent")
    operations = [
        lambda: queue.join("w", fingerprint="f", ttl_milliseconds=1, info=""),
        lambda: queue.heartbeat("w", ttl_milliseconds=1),
        lambda: queue.leave("w"),
        lambda: queue.claim("w", generation=0, count=1, token="t", lease_milliseconds=None),
        lambda: queue.report("w", generation=0, item="a", result="", milliseconds=1),
        lambda: queue.results(0),
        lambda: queue.commit(generation=0, record="", opening=opening(1)),
        lambda: queue.updates(0),
        lambda: queue.updates(0, block_milliseconds=1000),
        lambda: queue.digest("w", generation=0, digest="d"),
        lambda: queue.finish(phase="Failed", reason="", message="", ttl_seconds=1),
        queue.state,
        queue.workers,
    ]
    for operation in operations:
        with pytest.raises(RunNotFoundError, match="no run absent"):
            operation()
    assert redis_client.keys() == []


def test_two_runs_do_not_see_each_other(queue: RunQueue, redis_client: redis.Redis) -> None:
    other = RunQueue(redis_client, "run-2")
    assert other.create(fingerprint="g", log=[], opening=opening(items="xyz"))
    Worker(queue, "w").drain()
    queue.commit(generation=0, record="r", opening=opening(1))
    assert counts(other.state()) == (0, 0, 3)
    assert other.updates(0) == []
    other.delete()
    assert queue.state().opening.generation == 1


# heartbeat, leave


def test_heartbeat_keeps_a_worker_and_tells_where_the_run_is(queue: RunQueue, clock: Clock) -> None:
    Worker(queue, "w", ttl=1000)
    clock.now += 999
    assert queue.heartbeat("w", ttl_milliseconds=1000) == Heartbeat(phase="Running", generation=0)
    clock.now += 999
    assert queue.state().workers == 1
    clock.now += 1
    assert queue.state().workers == 0
    assert queue.workers() == {}


def test_heartbeat_brings_a_worker_back(queue: RunQueue, clock: Clock) -> None:
    Worker(queue, "w", ttl=1000)
    clock.now += 5000
    Worker(queue, "other").claim()
    queue.heartbeat("w", ttl_milliseconds=1000)
    assert queue.workers() == {"other": "{}", "w": ""}


def test_leave_gives_the_items_back_to_the_front(queue: RunQueue) -> None:
    leaving, other = Worker(queue, "w"), Worker(queue, "other")
    assert leaving.claim(2).items == ("a", "b")
    assert queue.leave("w") == 2
    assert queue.leave("w") == 0
    assert queue.state().workers == 1
    assert queue.state().counters["leases_expired"] == 0
    assert other.claim(3).items == ("a", "b", "c")


# claim


def test_items_go_out_in_order_and_then_there_is_a_wait(queue: RunQueue) -> None:
    one, two = Worker(queue, "one"), Worker(queue, "two")
    assert one.claim(2) == Claim(ClaimStatus.ITEMS, ("a", "b"), 0, 0)
    assert two.claim(2) == Claim(ClaimStatus.ITEMS, ("c",), 0, 0)
    waiting = two.claim()
    assert waiting.status is ClaimStatus.WAIT
    assert waiting.items == ()
    assert counts(queue.state()) == (0, 3, 0)


def test_a_claim_for_another_generation_is_behind(queue: RunQueue) -> None:
    assert Worker(queue, "w").claim(generation=3) == Claim(ClaimStatus.BEHIND, (), 0, 0)


def test_a_claim_whose_reply_was_lost_can_be_repeated(queue: RunQueue) -> None:
    worker = Worker(queue, "w")
    first = worker.claim(2, token="t")
    assert worker.claim(2, token="t") == first
    assert counts(queue.state()) == (0, 2, 1)
    worker.report("a")
    assert worker.claim(2, token="t").items == ("b",)
    assert worker.claim(2, token="u").items == ("c",)


def test_a_repeated_claim_has_its_items_in_the_same_order(queue: RunQueue) -> None:
    one, two, three = (Worker(queue, name) for name in ("one", "two", "three"))
    one.claim()
    two.claim()
    queue.leave("one")
    queue.leave("two")
    assert three.claim(2, token="t").items == ("a", "b")
    assert three.claim(2, token="t").items == ("a", "b")


def test_the_same_token_of_two_workers_is_not_the_same_claim(queue: RunQueue) -> None:
    assert Worker(queue, "one").claim(token="t").items == ("a",)
    assert Worker(queue, "two").claim(token="t").items == ("b",)


def test_a_lease_ends_at_its_deadline(queue: RunQueue, clock: Clock) -> None:
    one, two = Worker(queue, "one"), Worker(queue, "two")
    one.claim(2, lease=1500)
    clock.now += 1499
    assert two.claim().items == ("c",)
    clock.now += 1
    assert two.claim(3).items == ("a", "b")
    assert queue.state().counters["leases_expired"] == 2


def test_a_lease_ends_with_the_silence_of_its_holder(queue: RunQueue, clock: Clock) -> None:
    Worker(queue, "silent", ttl=1000).claim(2, lease=600_000)
    other = Worker(queue, "other")
    clock.now += 999
    assert other.claim().items == ("c",)
    clock.now += 1
    assert other.claim(2).items == ("a", "b")
    assert queue.state().counters["leases_expired"] == 2


def test_a_holder_that_never_joined_keeps_its_lease_until_the_deadline(queue: RunQueue, clock: Clock) -> None:
    queue.claim("stranger", generation=0, count=1, token="t", lease_milliseconds=5000)
    other = Worker(queue, "other")
    assert other.claim(3).items == ("b", "c")
    clock.now += 5000
    assert other.claim(3).items == ("a",)


def test_a_lease_of_unknown_length_is_long_before_anything_was_measured(
    queue: RunQueue, clock: Clock
) -> None:
    Worker(queue, "one", ttl=3_600_000).claim(lease=None)
    two = Worker(queue, "two", ttl=3_600_000)
    two.claim(2, lease=3_600_000)
    clock.now += 600_000 - 1
    two.claim()
    assert queue.state().counters["leases_expired"] == 0
    clock.now += 1
    two.claim()
    assert queue.state().counters["leases_expired"] == 1


@pytest.mark.parametrize(("milliseconds", "lease"), [(100, 30_000), (20_000, 160_000)])
def test_a_lease_follows_the_measured_time(
    queue: RunQueue, clock: Clock, milliseconds: int, lease: int
) -> None:
    one, two = Worker(queue, "one", ttl=3_600_000), Worker(queue, "two", ttl=3_600_000)
    one.claim()
    one.report("a", milliseconds=milliseconds)
    assert one.claim(2, lease=None).items == ("b", "c")
    clock.now += lease - 1
    two.claim()
    assert queue.state().counters["leases_expired"] == 0
    clock.now += 1
    two.claim()
    assert queue.state().counters["leases_expired"] == 2


def test_a_late_item_gets_one_copy_and_no_more(queue: RunQueue, clock: Clock) -> None:
    one, two, three = (Worker(queue, name) for name in ("one", "two", "three"))
    one.claim(2)
    clock.now += 1
    one.claim()
    clock.now += 2001
    assert one.claim().status is ClaimStatus.WAIT, "never a copy to its own holder"
    assert two.claim(2).items == ("b",), "the oldest first; of those claimed together, the last"
    assert three.claim().items == ("a",)
    assert three.claim().items == ("c",)
    clock.now += 3000
    assert three.claim().status is ClaimStatus.WAIT, "one copy an item"
    assert queue.state().counters["backups"] == 3
    assert counts(queue.state()) == (0, 3, 0)


def test_lateness_follows_the_measured_time(queue: RunQueue, clock: Clock) -> None:
    one, two = Worker(queue, "one"), Worker(queue, "two")
    one.claim()
    one.report("a", milliseconds=4000)
    one.claim(2, lease=60_000)
    clock.now += 8000
    assert two.claim().status is ClaimStatus.WAIT
    clock.now += 1
    assert two.claim().items == ("c",)


def test_when_both_holders_are_gone_the_item_goes_out_once(queue: RunQueue, clock: Clock) -> None:
    one, two, three = (Worker(queue, name) for name in ("one", "two", "three"))
    one.claim(3, lease=5000)
    clock.now += 2001
    assert two.claim(lease=2999).items == ("c",)
    clock.now += 2999
    assert three.claim(10).items == ("a", "b", "c")
    assert queue.state().counters["leases_expired"] == 4


def test_when_one_of_two_holders_is_gone_the_other_keeps_the_item(queue: RunQueue, clock: Clock) -> None:
    one, two, three = (Worker(queue, name) for name in ("one", "two", "three"))
    one.claim(3, lease=5000)
    clock.now += 2001
    assert two.claim(lease=60_000).items == ("c",)
    clock.now += 2999
    assert three.claim(10).items == ("a", "b")
    assert three.claim().items == ("c",), "late again, and held by one"
    assert one.claim().status is ClaimStatus.WAIT
    assert queue.state().counters["leases_expired"] == 3, "counted once each"
    queue.leave("two")
    queue.leave("three")
    assert one.claim(10).items == ("a", "b", "c")


def test_the_hint_how_long_to_wait(queue: RunQueue, clock: Clock) -> None:
    one, two = Worker(queue, "one"), Worker(queue, "two")
    one.claim(3, lease=60_000)
    assert two.claim().wait_milliseconds == 1000, "capped"
    clock.now += 1600
    assert two.claim().wait_milliseconds == 401, "until it is late"
    clock.now += 401
    assert two.claim().items == ("c",)


def test_the_hint_how_long_to_wait_is_never_a_busy_loop(queue: RunQueue, clock: Clock) -> None:
    one, two = Worker(queue, "one"), Worker(queue, "two")
    one.claim(3, lease=1000)
    clock.now += 300
    assert two.claim().wait_milliseconds == 700, "until the lease ends"
    clock.now += 699
    assert two.claim().wait_milliseconds == 10


def test_a_generation_with_all_reported_is_complete_for_everyone(queue: RunQueue) -> None:
    Worker(queue, "w").drain()
    assert Worker(queue, "other").claim() == Claim(ClaimStatus.COMPLETE, (), 0, 0)


def test_a_generation_without_items_is_complete(redis_client: redis.Redis) -> None:
    queue = RunQueue(redis_client, "empty")
    queue.create(fingerprint="f", log=[], opening=opening(items=""))
    assert Worker(queue, "w").claim().status is ClaimStatus.COMPLETE
    assert queue.results(0) == {}
    assert queue.commit(generation=0, record="r", opening=opening(1, items="")) == "r"


def test_a_claim_may_take_very_many_items(redis_client: redis.Redis) -> None:
    queue = RunQueue(redis_client, "large")
    items = tuple(f"member:{index}" for index in range(20_000))
    queue.create(fingerprint="f", log=[], opening=Opening(generation=0, items=items))
    worker = Worker(queue, "w")
    assert worker.claim(20_000, token="t").items == items
    assert worker.claim(20_000, token="t").items == items


# report


def test_a_report_counts_once(queue: RunQueue) -> None:
    one, two = Worker(queue, "one"), Worker(queue, "two")
    one.claim()
    assert one.report("a", result="first") == (True, False)
    assert one.report("a", result="again") == (True, False), "the reply may have been lost"
    assert two.report("a", result="second") == (False, False)
    state = queue.state()
    assert queue.results(0) == {"a": "first"}
    assert (state.counters["reported"], state.counters["duplicates"]) == (1, 1)
    assert counts(state) == (1, 0, 2)


def test_the_last_report_says_complete_and_so_does_its_repetition(queue: RunQueue) -> None:
    worker = Worker(queue, "w")
    worker.claim(3)
    assert worker.report("b") == (True, False)
    assert worker.report("a") == (True, False)
    assert worker.report("c") == (True, True)
    assert worker.report("c") == (True, True)
    assert queue.results(0) == {"a": "1", "b": "1", "c": "1"}


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
    assert queue.results(1) == {}
    assert queue.results(0) == {}


def test_a_report_of_no_item_is_an_error(queue: RunQueue) -> None:
    with pytest.raises(ValueError, match="has no item 'z'"):
        Worker(queue, "w").report("z")
    assert counts(queue.state()) == (0, 0, 3)


def test_text_comes_back_as_it_was(queue: RunQueue) -> None:
    text = '{"number": 0.1234567890123456789, "empty": [], "big": 12345678901234567, "ä": "\\u0000"}\n\u2028'
    worker = Worker(queue, "w")
    worker.drain()
    queue.commit(generation=0, record=text, opening=replace(opening(1), parameters=text))
    worker.claim(generation=1)
    worker.report("a", generation=1, result=text)
    assert queue.updates(0)[0].record == text
    assert queue.results(1) == {"a": text}
    state = queue.finish(phase="Succeeded", reason="r", message=text, result=text, ttl_seconds=60)
    assert (state.message, state.result, state.opening.parameters) == (text, text, text)


def test_items_may_be_any_text(redis_client: redis.Redis) -> None:
    items = ("with space", "ünï\n", "[1, 2]", "{braces}", "1")
    queue = RunQueue(redis_client, "texts")
    queue.create(fingerprint="f", log=[], opening=Opening(generation=0, items=items, optional=items[:1]))
    worker = Worker(queue, "w")
    assert worker.claim(10).items == items
    for item in items:
        worker.report(item)
    assert set(queue.results(0)) == set(items)


# quorum


def quorum_queue(redis_client: redis.Redis, clock: Clock) -> RunQueue:
    queue = RunQueue(redis_client, "quorum", clock=clock)
    queue.create(fingerprint="f", log=[], opening=opening(items="xabcd", optional="abcd", needed=3))
    return queue


def test_a_quorum_waits_for_stragglers_until_they_are_late(redis_client: redis.Redis, clock: Clock) -> None:
    queue = quorum_queue(redis_client, clock)
    one, straggler = Worker(queue, "one"), Worker(queue, "straggler")
    one.claim(4)
    assert straggler.claim().items == ("d",)
    for item in "xab":
        assert one.report(item) == (True, False)
    clock.now += 1500
    assert one.report("c") == (True, False)
    clock.now += 500
    assert one.claim().status is ClaimStatus.WAIT
    clock.now += 1
    assert one.claim().status is ClaimStatus.COMPLETE
    assert one.report("c") == (True, True)
    assert queue.commit(generation=0, record="without d", opening=opening(1)) == "without d"
    assert straggler.report("d") == (False, False)


def test_a_quorum_never_leaves_out_what_is_required(redis_client: redis.Redis, clock: Clock) -> None:
    queue = quorum_queue(redis_client, clock)
    one, two = Worker(queue, "one"), Worker(queue, "two")
    one.claim(5)
    for item in "abcd":
        one.report(item)
    clock.now += 5000
    assert two.claim().items == ("x",), "late, so copied"
    with pytest.raises(ValueError, match="lacks results"):
        queue.commit(generation=0, record="r", opening=opening(1))
    assert two.report("x") == (True, True)


def test_a_quorum_does_not_close_over_unclaimed_items(redis_client: redis.Redis, clock: Clock) -> None:
    queue = quorum_queue(redis_client, clock)
    one = Worker(queue, "one")
    one.claim(4)
    for item in "xabc":
        assert one.report(item) == (True, False)
    clock.now += 5000
    assert one.claim().items == ("d",)


def test_too_few_for_the_quorum_is_not_complete(redis_client: redis.Redis, clock: Clock) -> None:
    queue = quorum_queue(redis_client, clock)
    one, two = Worker(queue, "one"), Worker(queue, "two")
    one.claim(5)
    for item in "xab":
        one.report(item)
    clock.now += 5000
    assert two.claim().items == ("d",)
    with pytest.raises(ValueError, match="lacks results"):
        queue.commit(generation=0, record="r", opening=opening(1))


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
    one.claim(2, lease=2500)
    two.claim(lease=60_000)
    clock.now += 2001
    assert two.claim().items == ("b",)
    clock.now += 499
    for item in "abc":
        two.report(item, milliseconds=200)
    one.claim()
    queue.commit(generation=0, record="r", opening=opening(1))
    two.drain(generation=1)
    clock.now += 250
    queue.commit(generation=1, record="s", opening=opening(2))
    assert [entry.telemetry for entry in queue.updates(0)] == [
        {"seconds": 2.5, "item_milliseconds": 600, "workers": 2, "leases_expired": 0, "backups": 1},
        {"seconds": 0.25, "item_milliseconds": 300, "workers": 2, "leases_expired": 0, "backups": 0},
    ]


def test_updates_come_in_order_and_in_pieces(redis_client: redis.Redis) -> None:
    queue = RunQueue(redis_client, "long")
    log = [str(index) for index in range(1000)]
    queue.create(fingerprint="f", log=log, opening=opening(1000))
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


def test_the_first_digest_is_the_agreed_one(queue: RunQueue) -> None:
    assert queue.digest("one", generation=0, digest="aa") == "aa"
    assert queue.digest("two", generation=0, digest="aa") == "aa"
    assert queue.digest("three", generation=0, digest="bb") == "aa"
    assert queue.digest("three", generation=0, digest="bb") == "aa"
    assert queue.digest("three", generation=1, digest="bb") == "bb"
    assert queue.state().counters["digest_mismatches"] == 1


# finish, delete


def test_finish_is_final(queue: RunQueue) -> None:
    first = queue.finish(
        phase="Succeeded", reason="TargetReached", message="m", result='{"x": 1}', ttl_seconds=60
    )
    assert (first.phase, first.reason, first.message, first.result) == (
        "Succeeded",
        "TargetReached",
        "m",
        '{"x": 1}',
    )
    assert queue.finish(phase="Failed", reason="x", message="y", ttl_seconds=1) == first
    assert queue.state() == first
    assert first.finished


def test_after_the_finish_nothing_more_happens(queue: RunQueue, redis_client: redis.Redis) -> None:
    one, two = Worker(queue, "one"), Worker(queue, "two")
    one.claim(2)
    two.claim()
    for item in "abc":
        one.report(item)
    queue.finish(phase="Failed", reason="Deadline", message="", ttl_seconds=600)
    assert one.claim() == Claim(ClaimStatus.FINISHED, (), 0, 0)
    assert one.report("a") == (False, False)
    assert queue.commit(generation=0, record="r", opening=opening(1)) is None
    assert queue.updates(0) == []
    assert queue.heartbeat("late", ttl_milliseconds=1000) == Heartbeat(phase="Failed", generation=0)
    assert Worker(queue, "later").join().workers == 2
    assert queue.leave("two") == 0
    assert queue.digest("one", generation=0, digest="aa") == "aa"
    assert queue.digest("two", generation=0, digest="bb") == "aa"
    assert_every_key_expires(redis_client, within=600)


def test_every_key_expires_after_the_finish(queue: RunQueue, redis_client: redis.Redis) -> None:
    one = Worker(queue, "one")
    one.drain()
    queue.digest("one", generation=0, digest="aa")
    queue.digest("two", generation=0, digest="bb")
    queue.commit(generation=0, record="r", opening=opening(1))
    one.claim(generation=1)
    one.report("a", generation=1)
    one.claim(generation=1)
    assert set(redis_client.keys()) == set(queue.keys), "all kinds of keys are there"
    queue.finish(phase="Succeeded", reason="", message="", ttl_seconds=600)
    queue.leave("one")
    assert_every_key_expires(redis_client, within=600)


def assert_every_key_expires(client: redis.Redis, within: int) -> None:
    for key in client.keys():  # noqa: SIM118 - not a dict
        assert 0 < client.ttl(key) <= within, key


def test_delete_leaves_no_key_and_none_comes_back(queue: RunQueue, redis_client: redis.Redis) -> None:
    worker = Worker(queue, "w")
    worker.claim()
    queue.digest("w", generation=0, digest="aa")
    queue.delete()
    queue.delete()
    assert redis_client.keys() == []
    for operation in (worker.claim, worker.join, lambda: worker.report("a"), lambda: queue.leave("w")):
        with pytest.raises(RunNotFoundError):
            operation()
    assert redis_client.keys() == []


def test_a_re_created_run_knows_nothing_of_its_predecessor(queue: RunQueue) -> None:
    Worker(queue, "w").drain()
    queue.digest("w", generation=0, digest="aa")
    queue.commit(generation=0, record="r", opening=opening(1))
    queue.delete()
    assert queue.create(fingerprint="g", log=[], opening=opening())
    assert queue.updates(0) == []
    assert queue.digest("w", generation=0, digest="bb") == "bb"
    assert queue.workers() == {}


# scripts and keys


def test_scripts_come_back_after_a_flush(queue: RunQueue, redis_client: redis.Redis) -> None:
    worker = Worker(queue, "w")
    redis_client.script_flush()
    assert worker.claim().items == ("a",)
    redis_client.script_flush()
    assert worker.report("a") == (True, False)


def test_all_keys_are_in_one_slot_of_a_cluster(queue: RunQueue) -> None:
    assert len({key_slot(key.encode()) for key in queue.keys}) == 1
    assert len(set(queue.keys)) == len(queue.keys)


def test_a_client_that_returns_bytes_will_do(queue: RunQueue, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=False) as client:
        other = RunQueue(client, queue.run)
        assert other.state() == queue.state()
        worker = Worker(other, "w")
        worker.drain()
        assert other.results(0) == {"a": "1", "b": "1", "c": "1"}
        assert other.commit(generation=0, record="r", opening=opening(1)) == "r"
        assert [entry.record for entry in other.updates(0)] == ["r"]
        assert other.workers() == {"w": "{}"}


def test_without_a_clock_the_servers_is_used(redis_client: redis.Redis) -> None:
    queue = RunQueue(redis_client, "timed")
    queue.create(fingerprint="f", log=[], opening=opening())
    worker = Worker(queue, "w", ttl=60_000)
    seconds, _ = redis_client.time()
    expiry = redis_client.zscore("esft:{timed}:workers", "w")
    assert abs(expiry / 1000 - seconds - 60) < 30
    assert worker.claim(lease=1).items == ("a",)
    deadline = time.monotonic() + 10
    while queue.state().counters["leases_expired"] == 0:
        assert time.monotonic() < deadline
        worker.claim(lease=60_000)


# arguments


@pytest.mark.parametrize("run", ["", "a{b", "a}b"])
def test_a_run_needs_a_uid_without_braces(redis_client: redis.Redis, run: str) -> None:
    with pytest.raises(ValueError, match="must not be empty nor contain braces"):
        RunQueue(redis_client, run)


def test_arguments_that_cannot_work_are_refused(queue: RunQueue) -> None:
    worker = Worker(queue, "w")
    with pytest.raises(ValueError, match="count is 0"):
        worker.claim(0)
    with pytest.raises(ValueError, match="lease_milliseconds is 0"):
        worker.claim(lease=0)
    with pytest.raises(ValueError, match="token 'a b'"):
        worker.claim(token="a b")
    with pytest.raises(ValueError, match="worker 'a b'"):
        queue.heartbeat("a b", ttl_milliseconds=1)
    with pytest.raises(ValueError, match="ttl_milliseconds is -1"):
        queue.heartbeat("w", ttl_milliseconds=-1)
    with pytest.raises(ValueError, match="milliseconds is -1"):
        worker.report("a", milliseconds=-1)
    with pytest.raises(ValueError, match="phase 'Running' is not final"):
        queue.finish(phase="Running", reason="", message="", ttl_seconds=1)
    with pytest.raises(ValueError, match="ttl_seconds is 0"):
        queue.finish(phase="Failed", reason="", message="", ttl_seconds=0)
