"""What a claim gives, when leases end, and what a quorum leaves out, against a real server."""

import pytest
import redis

from esft.queue import ClaimStatus, Opening, RunQueue
from queue_parts import Clock, Worker, claimed, counts, create, opening, reported

pytestmark = pytest.mark.integration


# claim


def test_items_go_out_in_order_and_then_there_is_a_wait(queue: RunQueue) -> None:
    one, two = Worker(queue, "one"), Worker(queue, "two")
    assert one.claim(2) == claimed("a", "b")
    assert two.claim(2) == claimed("c")
    waiting = two.claim()
    assert waiting.status is ClaimStatus.WAIT
    assert waiting.items == ()
    assert counts(queue.state()) == (0, 3, 0)


def test_a_claim_for_another_generation_is_behind(queue: RunQueue) -> None:
    assert Worker(queue, "w").claim(generation=3) == claimed(status=ClaimStatus.BEHIND)


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
    assert Worker(queue, "other").claim() == claimed(status=ClaimStatus.COMPLETE)


def test_a_generation_without_items_is_complete(redis_client: redis.Redis) -> None:
    queue = RunQueue(redis_client, "empty")
    create(queue, opening(items=""))
    assert Worker(queue, "w").claim().status is ClaimStatus.COMPLETE
    assert reported(queue) == {}
    assert queue.commit(generation=0, record="r", opening=opening(1, items="")) == "r"


def test_a_claim_may_take_very_many_items(redis_client: redis.Redis) -> None:
    queue = RunQueue(redis_client, "large")
    items = tuple(f"member:{index}" for index in range(20_000))
    create(queue, Opening(generation=0, items=items))
    worker = Worker(queue, "w")
    assert worker.claim(20_000, token="t").items == items
    assert worker.claim(20_000, token="t").items == items


# quorum


def quorum_queue(redis_client: redis.Redis, clock: Clock) -> RunQueue:
    queue = RunQueue(redis_client, "quorum", clock=clock)
    create(queue, opening(items="xabcd", optional="abcd", needed=3))
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
