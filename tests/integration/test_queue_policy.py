"""The policy of a run, which may change while it goes on, and whom it reaches, against a real server."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import redis

from esft.queue import ClaimStatus, ItemResult, ReopenStatus, RunQueue
from queue_parts import Worker, create, opening

pytestmark = pytest.mark.integration


@pytest.fixture
def queue(redis_client: redis.Redis) -> RunQueue:
    """A run that needs no results, so that whoever asks for those of the open generation is given them."""
    queue = RunQueue(redis_client, "run-1")
    assert create(queue, opening(optional="abc"))
    return queue


def policies(queue: RunQueue) -> list[str]:
    """What each call gives that gives the policy."""
    worker = Worker(queue, "w")
    generation = queue.state().opening.generation
    closing = queue.results(generation)
    assert closing is not None
    claims = [worker.claim(generation=generation), worker.claim(generation=generation + 1)]
    return [worker.join().policy, queue.state().policy, closing.policy, *(claim.policy for claim in claims)]


def test_the_policy_reaches_everyone_who_works_on_the_run(queue: RunQueue) -> None:
    assert policies(queue) == ["p"] * 5
    assert queue.set_policy("q", version=2)
    assert policies(queue) == ["q"] * 5


@pytest.mark.parametrize(
    ("version", "newer"), [(8, False), (1, False), (9, True), (10, True), (100_000, True)]
)
def test_an_older_policy_never_replaces_a_newer_one(
    redis_client: redis.Redis, version: int, newer: bool
) -> None:
    queue = RunQueue(redis_client, "versions")
    create(queue, opening(optional="abc"), policy="nine", version=9)
    assert queue.set_policy("other", version=version) == newer
    assert policies(queue) == ["other" if newer else "nine"] * 5
    assert queue.set_policy("again", version=9) == (version <= 9)


def test_setting_a_policy_again_is_the_same_as_once(queue: RunQueue) -> None:
    assert queue.set_policy("q", version=2)
    before = queue.state()
    assert queue.set_policy("q", version=2)
    assert not queue.set_policy("p", version=1)
    assert queue.state() == before


def test_the_policy_outlives_generations_and_the_end(queue: RunQueue, redis_client: redis.Redis) -> None:
    queue.set_policy("q", version=5)
    Worker(queue, "w").drain()
    queue.commit(generation=0, record="zero", opening=opening(1, optional="abc"))
    assert not queue.set_policy("older", version=4)
    assert policies(queue) == ["q"] * 5
    ended = queue.finish(phase="Succeeded", reason="r", message="m", ttl_seconds=60)
    assert ended.policy == "q"
    assert not queue.set_policy("older", version=4)
    assert policies(queue) == ["q"] * 5
    assert queue.set_policy("r", version=6), "before it is opened again"
    assert all(0 < redis_client.ttl(key) <= 60 for key in redis_client.keys())  # noqa: SIM118 - not a dict
    queue.leave("w")
    assert queue.reopen(opening(1, optional="abc")) is ReopenStatus.REOPENED
    assert policies(queue) == ["r"] * 5
    assert not queue.set_policy("q", version=5)
    other = replace(opening(1, items="z", optional="z"), parameters="other")
    assert queue.reopen(other, instead_of=opening().parameters) is ReopenStatus.REOPENED
    assert policies(queue) == ["r"] * 5


def test_every_claim_tells_the_parameters_of_the_open_generation(queue: RunQueue) -> None:
    one, two = Worker(queue, "one"), Worker(queue, "two")
    one.drain()
    queue.commit(generation=0, record="r", opening=replace(opening(1), parameters="new"))
    queue.set_policy("q", version=2)
    claims = [two.claim(generation=generation) for generation in (0, 2)]
    claims += [one.claim(3, generation=1, token="t"), one.claim(3, generation=1, token="t")]
    claims.append(two.claim(generation=1))
    for item in "abc":
        one.report(item, generation=1)
    claims.append(two.claim(generation=1))
    queue.finish(phase="Succeeded", reason="r", message="m", ttl_seconds=60)
    claims += [two.claim(generation=generation) for generation in (0, 1)]
    assert [claim.status.name for claim in claims] == (
        ["BEHIND", "BEHIND", "ITEMS", "ITEMS", "WAIT", "COMPLETE", "FINISHED", "FINISHED"]
    )
    assert {status.name for status in ClaimStatus} == {claim.status.name for claim in claims}
    assert {(claim.parameters, claim.policy) for claim in claims} == {("new", "q")}


def test_results_are_of_one_moment(redis_client: redis.Redis) -> None:
    queue = RunQueue(redis_client, "moments")
    first = replace(opening(optional="abc"), parameters="0")
    create(queue, first, policy="0", version=0)

    def change() -> None:
        for number in range(1, 300):
            queue.set_policy(str(number), version=number)
            queue.reopen(replace(first, parameters=str(number)), instead_of=str(number - 1))
            queue.report("w", generation=0, results=[ItemResult("a", str(number), 1)])

    with ThreadPoolExecutor(1) as executor:
        changing = executor.submit(change)
        while not changing.done():
            closing = queue.results(0)
            assert closing is not None
            assert closing.results in ({}, {"a": closing.parameters})
            assert int(closing.policy) - int(closing.parameters) in {0, 1}
        changing.result()
    assert queue.state().opening.parameters == "299"
