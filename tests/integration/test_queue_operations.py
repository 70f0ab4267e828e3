"""How a run begins and ends, its workers, keys and arguments, against a real server."""

import re
import time

import pytest
import redis
from redis.crc import key_slot

from esft.errors import RunNotFoundError, SpecError, VersionError
from esft.queue import ClaimStatus, Entry, ItemResult, RunQueue, RunState
from esft.queue.scripts import run_script
from esft.versions import FORMAT_VERSION, NOISE_VERSION, Versions
from queue_parts import (
    Clock,
    Worker,
    begin_with,
    claimed,
    counts,
    create,
    make_first_release,
    opening,
    reported,
)

pytestmark = pytest.mark.integration

COUNTERS = ("reported", "duplicates", "stale", "leases_expired", "backups", "digest_mismatches")

# create, join, state


def test_the_first_to_create_a_run_wins(queue: RunQueue) -> None:
    before = queue.state()
    assert not create(queue, log=["x"], fingerprint="other", policy="q", version=2)
    assert queue.state() == before


def test_a_new_run_is_running_with_everything_to_do(queue: RunQueue) -> None:
    assert queue.state() == RunState(
        phase="Running",
        reason="",
        message="",
        result=None,
        measures="",
        opening=opening(),
        policy="p",
        done=0,
        outstanding=0,
        todo=3,
        workers=0,
        counters=dict.fromkeys(COUNTERS, 0),
    )


def test_a_run_can_be_created_with_a_log(redis_client: redis.Redis) -> None:
    queue = RunQueue(redis_client, "resumed")
    log = ["zero", "one", "two"]
    assert create(queue, log=log)
    assert queue.updates(0) == [Entry(record=record, telemetry={}) for record in log]
    Worker(queue, "w").drain(generation=3)
    assert queue.commit(generation=3, record="three", opening=opening(4)) == "three"
    assert [entry.record for entry in queue.updates(2)] == ["two", "three"]
    with pytest.raises(ValueError, match="generation 5, but 3 is next"):
        create(queue, opening(5), log=log)


def test_join_registers_a_worker_and_returns_the_state(queue: RunQueue) -> None:
    state = queue.join("w", fingerprint="f", ttl_milliseconds=1000)
    assert state == queue.state()
    assert state.workers == 1


def test_join_refuses_another_specification(queue: RunQueue) -> None:
    with pytest.raises(SpecError, match=r"fingerprint f, here g"):
        queue.join("w", fingerprint="g", ttl_milliseconds=1000)
    assert queue.state().workers == 0


other_versions = pytest.mark.parametrize(
    "versions",
    [
        Versions(format=FORMAT_VERSION - 1, release="0.1.7"),
        Versions(format=FORMAT_VERSION + 1, release="3.0.0"),
        Versions(noise=NOISE_VERSION + 1, release="3.0.1"),
    ],
)


@other_versions
def test_join_refuses_other_versions_and_names_the_image(
    redis_client: redis.Redis, versions: Versions
) -> None:
    queue = RunQueue(redis_client, "other")
    create(queue, fingerprint="g", versions=versions)
    image = re.escape(f"esfinetune/worker:{versions.release} ")
    with pytest.raises(VersionError, match=rf"run other was begun by .* image {image}"):
        queue.join("w", fingerprint="f", ttl_milliseconds=1000)
    workers = "esft:{other}:workers"
    assert redis_client.zcard(workers) == 0
    reply = run_script(redis_client, "join", queue.keys, "", "w", "g", versions.contract, 1000)
    assert reply[0] == "ok", "to software of that contract"
    assert redis_client.zcard(workers) == 1


@other_versions
def test_the_state_of_other_versions_is_refused_and_names_the_image(
    redis_client: redis.Redis, versions: Versions
) -> None:
    queue = RunQueue(redis_client, "other")
    create(queue, versions=versions)
    assert_no_state_is_read(queue, versions.release)


def test_the_state_of_what_was_begun_before_there_were_versions_is_refused(queue: RunQueue) -> None:
    make_first_release(queue)
    assert_no_state_is_read(queue, "0.1.0")


def assert_no_state_is_read(queue: RunQueue, release: str) -> None:
    image = re.escape(f"esfinetune/worker:{release} ")
    with pytest.raises(VersionError, match=rf"begun by esfinetune {release} .* image {image}"):
        queue.state()
    with pytest.raises(VersionError, match=rf"begun by esfinetune {release} .* image {image}"):
        queue.finish(phase="Failed", reason="r", message="m", ttl_seconds=60)
    claim = queue.claim("w", generation=0, count=1, token="t", lease_milliseconds=1)
    assert claim.status is ClaimStatus.FINISHED, "its workers end all the same"


def test_join_refuses_what_was_begun_before_there_were_versions(
    queue: RunQueue, redis_client: redis.Redis
) -> None:
    worker = Worker(queue, "w")
    worker.claim(2)
    before = queue.state()
    run = redis_client.hgetall(queue.keys[0])
    make_first_release(queue)
    with pytest.raises(VersionError, match=r"\(no version\).* image esfinetune/worker:0\.1\.0 "):
        worker.join()
    redis_client.hset(queue.keys[0], mapping={name: run[name] for name in ("contract", "release", "policy")})
    assert queue.state() == before


def test_another_release_of_the_same_contract_may_join(queue: RunQueue) -> None:
    begin_with(queue, Versions(release="0.9.9"))
    assert queue.join("w", fingerprint="f", ttl_milliseconds=1000).workers == 1


def test_join_again_gives_the_former_leases_back(queue: RunQueue) -> None:
    worker = Worker(queue, "w")
    assert worker.claim(2).items == ("a", "b")
    assert counts(worker.join()) == (0, 0, 3)
    assert worker.claim().items == ("a",)


def test_every_operation_on_an_absent_run_says_so(redis_client: redis.Redis) -> None:
    queue = RunQueue(redis_client, "absent")
    operations = [
        lambda: queue.join("w", fingerprint="f", ttl_milliseconds=1),
        lambda: queue.heartbeat("w", ttl_milliseconds=1),
        lambda: queue.leave("w"),
        lambda: queue.claim("w", generation=0, count=1, token="t", lease_milliseconds=None),
        lambda: queue.report("w", generation=0, results=[ItemResult("a", "", 1)]),
        lambda: queue.results(0),
        lambda: queue.commit(generation=0, record="", opening=opening(1)),
        lambda: queue.updates(0),
        lambda: queue.updates(0, block_milliseconds=1000),
        lambda: queue.digest("w", generation=0, digest="d"),
        lambda: queue.finish(phase="Failed", reason="", message="", ttl_seconds=1),
        lambda: queue.set_policy("p", version=1),
        lambda: queue.reopen(opening(), instead_of="other"),
        queue.state,
    ]
    for operation in operations:
        with pytest.raises(RunNotFoundError, match="no run absent"):
            operation()
    assert redis_client.keys() == []


def test_two_runs_do_not_see_each_other(queue: RunQueue, redis_client: redis.Redis) -> None:
    other = RunQueue(redis_client, "run-2")
    assert create(other, opening(items="xyz"), fingerprint="g")
    Worker(queue, "w").drain()
    queue.commit(generation=0, record="r", opening=opening(1))
    assert counts(other.state()) == (0, 0, 3)
    assert other.updates(0) == []
    other.delete()
    assert queue.state().opening.generation == 1


# heartbeat, leave


def test_heartbeat_keeps_a_worker(queue: RunQueue, clock: Clock) -> None:
    Worker(queue, "w", ttl=1000)
    clock.now += 999
    queue.heartbeat("w", ttl_milliseconds=1000)
    clock.now += 999
    assert queue.state().workers == 1
    clock.now += 1
    assert queue.state().workers == 0


def test_heartbeat_brings_a_worker_back(queue: RunQueue, clock: Clock) -> None:
    Worker(queue, "w", ttl=1000)
    clock.now += 5000
    Worker(queue, "other").claim()
    queue.heartbeat("w", ttl_milliseconds=1000)
    assert queue.state().workers == 2


def test_leave_gives_the_items_back_to_the_front(queue: RunQueue) -> None:
    leaving, other = Worker(queue, "w"), Worker(queue, "other")
    assert leaving.claim(2).items == ("a", "b")
    assert queue.leave("w") == 2
    assert queue.leave("w") == 0
    assert queue.state().workers == 1
    assert queue.state().counters["leases_expired"] == 0
    assert other.claim(3).items == ("a", "b", "c")


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
    for item in "ab":
        one.report(item)
    queue.finish(phase="Failed", reason="Deadline", message="", ttl_seconds=600)
    assert one.claim() == claimed(status=ClaimStatus.FINISHED)
    assert one.report("a") == (False, False)
    assert queue.commit(generation=0, record="r", opening=opening(1)) is None
    assert queue.updates(0) == []
    queue.heartbeat("late", ttl_milliseconds=1000)
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
    operations = [
        worker.claim,
        worker.join,
        lambda: worker.report("a"),
        lambda: queue.leave("w"),
        lambda: queue.set_policy("p", version=2),
    ]
    for operation in operations:
        with pytest.raises(RunNotFoundError):
            operation()
    assert redis_client.keys() == []


def test_a_re_created_run_knows_nothing_of_its_predecessor(queue: RunQueue) -> None:
    Worker(queue, "w").drain()
    queue.digest("w", generation=0, digest="aa")
    queue.commit(generation=0, record="r", opening=opening(1))
    queue.delete()
    assert create(queue, policy="new")
    assert queue.updates(0) == []
    assert queue.digest("w", generation=0, digest="bb") == "bb"
    assert queue.state().workers == 0
    assert queue.state().policy == "new"


def test_what_is_left_of_a_run_does_not_spoil_the_next(redis_client: redis.Redis) -> None:
    queue = RunQueue(redis_client, "run-9")
    redis_client.xadd("esft:{run-9}:log", {"record": "old"}, id="7-0")
    assert create(queue)
    Worker(queue, "w").drain()
    assert queue.commit(generation=0, record="r", opening=opening(1)) == "r"
    assert [entry.record for entry in queue.updates(0)] == ["r"]


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
        assert other.results(0) == queue.results(0)
        assert reported(other) == {"a": "1", "b": "1", "c": "1"}
        assert other.commit(generation=0, record="r", opening=opening(1)) == "r"
        assert [entry.record for entry in other.updates(0)] == ["r"]
        assert worker.claim(generation=1) == claimed("a", generation=1)
        assert worker.claim() == claimed(status=ClaimStatus.BEHIND, generation=1)


def test_without_a_clock_the_servers_is_used(redis_client: redis.Redis) -> None:
    queue = RunQueue(redis_client, "timed")
    create(queue)
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


def test_measures_of_the_newest_generation_stay(queue: RunQueue) -> None:
    assert queue.state().measures == ""
    queue.digest("a", generation=2, digest="x", measures='{"update_norm": 2}')
    queue.digest("b", generation=1, digest="y", measures='{"update_norm": 1}')
    queue.digest("b", generation=2, digest="x")
    assert queue.state().measures == '{"update_norm": 2}'
