"""The queue's invariants, tried on a real server by hypothesis with any order of calls that it can think of.

The machine does to the server what workers, crashes, lost replies and racing commits do, with the clock in
its hand, and compares with a plain model after every step: no item is lost, nothing counts twice, the log has
no gap and never changes, an item has two holders at most, the counters are right, and a fresh worker can
always end the generation.
"""

import itertools
from dataclasses import replace
from typing import ClassVar

import hypothesis.strategies as st
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from esft.errors import SpecError, VersionError
from esft.queue import Claim, ClaimStatus, GenerationResults, ItemResult, Opening, RunQueue, observe
from esft.versions import CURRENT, FORMAT_VERSION, Versions
from queue_model import MOST_OPTIONAL, MOST_REQUIRED, Model, make_opening
from queue_parts import begin_with, create, reported

# When it fails, finding the shortest example takes up to 5 minutes.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

WORKERS = ("one", "two", "three", "four")
TTL = 20_000

workers = st.sampled_from(WORKERS)
lost_reply = st.booleans()
openings = st.builds(
    lambda required, optional, needed: (required, optional, min(needed, optional)),
    st.integers(0, MOST_REQUIRED),
    st.integers(0, MOST_OPTIONAL),
    st.integers(0, MOST_OPTIONAL),
)
some_items = st.lists(
    st.sampled_from(make_opening(0, (MOST_REQUIRED, MOST_OPTIONAL, 0), "").items), min_size=1, max_size=3
)


class QueueMachine(RuleBasedStateMachine):
    """Anything that may happen to a run, in any order."""

    client: ClassVar[redis.Redis]
    numbers: "ClassVar[itertools.count[int]]" = itertools.count()

    @initialize(
        shape=openings,
        records=st.integers(0, 2),
        version=st.sampled_from([1, 9]),
        parameters=st.sampled_from(["first text", ""]),
    )
    def create(self, shape: tuple[int, int, int], records: int, version: int, parameters: str) -> None:
        self.queue = RunQueue(self.client, f"machine-{next(self.numbers)}", clock=lambda: self.model.now)
        self.texts = itertools.chain([parameters], (f"text {number}" for number in itertools.count()))
        opening = self.new_opening(records, shape)
        log = [f"seeded {index}" for index in range(records)]
        self.model = Model(opening, policy="first", policy_version=version, log=log)
        self.model.open(opening)
        # The same tokens for all: a claim is known by its worker and its token.
        self.tokens = {worker: itertools.count() for worker in WORKERS}
        assert create(self.queue, opening, log=log, policy="first", version=version)
        for worker in WORKERS[:2]:
            self.join(worker, lost=False)
        assert not create(self.queue, fingerprint="g", policy="second", version=version + 1)

    def new_opening(self, generation: int, shape: tuple[int, int, int]) -> Opening:
        """Another opening: no two of a run have the same parameters."""
        return make_opening(generation, shape, next(self.texts))

    @rule(milliseconds=st.sampled_from([1, 499, 2_000, 2_001, 10_000, 31_000]))
    def time_passes(self, milliseconds: int) -> None:
        self.model.now += milliseconds

    @rule()
    def server_forgets_the_scripts(self) -> None:
        self.client.script_flush()

    @rule(worker=workers, lost=lost_reply)
    def join(self, worker: str, lost: bool) -> None:
        if not self.model.finished:
            self.model.release(lambda holder: holder.worker == worker)
            self.model.workers[worker] = self.model.now + TTL
        state = self.queue.join(worker, fingerprint="f", ttl_milliseconds=TTL)
        if lost:
            assert self.queue.join(worker, fingerprint="f", ttl_milliseconds=TTL) == state
        assert state == self.queue.state()

    @rule(worker=workers)
    def heartbeat(self, worker: str) -> None:
        if not self.model.finished or worker in self.model.workers:
            self.model.workers[worker] = self.model.now + TTL
        self.queue.heartbeat(worker, ttl_milliseconds=TTL)

    @rule(worker=workers)
    def leave(self, worker: str) -> None:
        count = 0
        if not self.model.finished:
            count = self.model.release(lambda holder: holder.worker == worker)
        self.model.workers.pop(worker, None)
        assert self.queue.leave(worker) == count

    @rule(
        worker=workers,
        count=st.integers(1, 4),
        lease=st.sampled_from([None, 500, 10_000, 60_000]),
        lost=lost_reply,
    )
    def claim(self, worker: str, count: int, lease: int | None, lost: bool) -> None:
        token = str(next(self.tokens[worker]))
        expected = self.model.claim(worker, count, token, lease)
        for _ in range(2 if lost else 1):
            claim = self.queue.claim(
                worker,
                generation=self.model.opening.generation,
                count=count,
                token=token,
                lease_milliseconds=lease,
            )
            assert (claim.status, claim.items) == expected
            self.claim_is_of_the_open_generation(claim)
            waits = claim.status is ClaimStatus.WAIT
            assert (10 <= claim.wait_milliseconds <= 1000) if waits else claim.wait_milliseconds == 0

    def claim_is_of_the_open_generation(self, claim: Claim) -> None:
        model = self.model
        assert claim.generation == model.opening.generation
        assert (claim.parameters, claim.policy) == (model.opening.parameters, model.policy)

    @rule(items=some_items, worker=workers, milliseconds=st.sampled_from([0, 333, 1_500]), lost=lost_reply)
    def report_anything(self, items: list[str], worker: str, milliseconds: int, lost: bool) -> None:
        self.report(worker, items, milliseconds, 2 if lost else 1)

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), milliseconds=st.sampled_from([333, 1_500, 9_000]), lost=lost_reply)
    def report_what_is_held(self, data: st.DataObject, milliseconds: int, lost: bool) -> None:
        item = data.draw(st.sampled_from(sorted(self.model.leases)))
        holder = data.draw(st.sampled_from(self.model.leases[item]))
        self.report(holder.worker, [item], milliseconds, 2 if lost else 1)

    def report(self, worker: str, items: list[str], milliseconds: int, times: int) -> None:
        generation = self.model.opening.generation
        results = [ItemResult(item, f"{item} by {worker}", milliseconds) for item in items]
        for _ in range(times):
            accepted = [self.model.report(worker, generation, result) for result in results]
            outcomes = self.queue.report(worker, generation=generation, results=results)
            assert [outcome.accepted for outcome in outcomes] == accepted
            complete = self.model.closable and not self.model.finished
            assert {outcome.complete for outcome in outcomes} == {complete}

    @rule(shape=openings, lost=lost_reply)
    def commit(self, shape: tuple[int, int, int], lost: bool) -> None:
        generation = self.model.opening.generation
        opening = self.new_opening(generation + 1, shape)
        record = f"record of {generation}"
        if self.model.finished:
            assert self.queue.commit(generation=generation, record=record, opening=opening) is None
            return
        if not self.model.sufficient:
            with pytest.raises(ValueError, match="lacks results"):
                self.queue.commit(generation=generation, record=record, opening=opening)
            return
        assert self.queue.commit(generation=generation, record=record, opening=opening) == record
        if lost:
            assert self.queue.commit(generation=generation, record=record, opening=opening) == record
        self.model.log.append(record)
        self.model.open(opening)

    @precondition(lambda self: self.model.log)
    @rule(data=st.data(), shape=openings)
    def commit_that_lost_the_race(self, data: st.DataObject, shape: tuple[int, int, int]) -> None:
        generation = data.draw(st.integers(max(0, len(self.model.log) - 2), len(self.model.log) - 1))
        committed = self.queue.commit(
            generation=generation, record="too late", opening=self.new_opening(generation + 1, shape)
        )
        assert committed == self.model.log[generation]

    @rule(
        stragglers=st.lists(workers, min_size=1, max_size=2),
        helpers=st.lists(workers, min_size=1, max_size=4),
        late=st.sampled_from([0, 1]),
    )
    def stragglers_are_helped(self, stragglers: list[str], helpers: list[str], late: int) -> None:
        for straggler in stragglers:
            self.claim(straggler, count=2, lease=60_000, lost=False)
            self.time_passes(1)
        self.time_passes(int(self.model.late_after) - 1 + late)
        for helper in helpers:
            self.claim(helper, count=1, lease=60_000, lost=True)

    @rule(worker=workers, offset=st.sampled_from([-1, 1]))
    def calls_that_come_to_nothing(self, worker: str, offset: int) -> None:
        model, generation = self.model, self.model.opening.generation + offset
        with pytest.raises(SpecError):
            self.queue.join(worker, fingerprint="g", ttl_milliseconds=TTL)
        begin_with(self.queue, Versions(format=FORMAT_VERSION - 1))
        with pytest.raises(VersionError):
            self.queue.join(worker, fingerprint="f", ttl_milliseconds=TTL)
        begin_with(self.queue, CURRENT)

        claim = self.queue.claim(worker, generation=generation, count=1, token="t", lease_milliseconds=1)
        assert claim.status is (ClaimStatus.FINISHED if model.finished else ClaimStatus.BEHIND)
        self.claim_is_of_the_open_generation(claim)

        stale = ItemResult("member:0", "stale", 1)
        model.report(worker, generation, stale)
        (outcome,) = self.queue.report(worker, generation=generation, results=[stale])
        assert (outcome.accepted, outcome.complete) == (False, False)
        assert self.queue.results(generation) is None

        future = model.opening.generation + 1
        with pytest.raises(ValueError, match="is not open yet"):
            self.queue.commit(generation=future, record="r", opening=self.new_opening(future + 1, (1, 1, 1)))

    @rule(worker=workers, digest=st.sampled_from(["aa", "bb"]), rebuilt=st.booleans(), lost=lost_reply)
    def digest(self, worker: str, digest: str, rebuilt: bool, lost: bool) -> None:
        generation = self.model.opening.generation
        if rebuilt and generation not in self.model.rebuilt:
            self.model.rebuilt.add(generation)
            self.model.digests[generation] = digest
        agreed = self.model.digests.setdefault(generation, digest)
        if agreed != digest:
            self.model.mismatches.add((generation, worker, digest))
        for _ in range(2 if lost else 1):
            reply = self.queue.digest(worker, generation=generation, digest=digest, rebuilt=rebuilt)
            assert reply == agreed

    @precondition(lambda self: len(self.model.log) > 1)
    @rule(phase=st.sampled_from(["Succeeded", "Failed"]))
    def finish(self, phase: str) -> None:
        before = self.queue.state()
        state = self.queue.finish(phase=phase, reason="Reason", message="", result="{}", ttl_seconds=600)
        if self.model.finished:
            assert state == before
        else:
            assert (state.phase, state.reason, state.result) == (phase, "Reason", "{}")
            self.model.phase = phase

    @rule(newer=st.sampled_from([-1, 0, 1, 9]), lost=lost_reply)
    def set_policy(self, newer: int, lost: bool) -> None:
        policy, version = next(self.texts), self.model.policy_version + newer
        for _ in range(2 if lost else 1):
            assert self.queue.set_policy(policy, version=version) == self.model.set_policy(policy, version)

    @precondition(lambda self: self.model.finished)
    @rule(shape=openings, offset=st.sampled_from([0, 0, 1]), leaving=st.booleans(), lost=lost_reply)
    def reopen_what_has_ended(
        self, shape: tuple[int, int, int], offset: int, leaving: bool, lost: bool
    ) -> None:
        if leaving:
            for worker in WORKERS:
                self.leave(worker)
        self.reopen(offset, shape, "", 2 if lost else 1)

    @rule(
        shape=openings,
        offset=st.sampled_from([0, 0, 0, 1]),
        instead_of=st.sampled_from(["present", "present", "former", ""]),
        lost=lost_reply,
    )
    def replace_the_opening(
        self, shape: tuple[int, int, int], offset: int, instead_of: str, lost: bool
    ) -> None:
        known = {"present": self.model.opening.parameters, "former": self.model.former_parameters}
        self.reopen(offset, shape, known.get(instead_of, ""), 2 if lost else 1)

    def reopen(self, offset: int, shape: tuple[int, int, int], instead_of: str, times: int) -> None:
        opening = self.new_opening(self.model.opening.generation + offset, shape)
        for _ in range(times):
            expected = self.model.reopen(opening, instead_of)
            assert self.queue.reopen(opening, instead_of=instead_of) is expected

    @invariant()
    def queue_is_as_the_model(self) -> None:
        model, state = self.model, self.queue.state()
        assert state.opening == model.opening
        assert (state.finished, state.policy) == (model.finished, model.policy)
        assert (state.done, state.outstanding, state.todo) == (
            len(model.results),
            len(model.leases),
            len(model.todo),
        )
        assert state.counters == {**model.counters, "digest_mismatches": len(model.mismatches)}
        assert state.workers == model.living
        results = {item: result for item, (_, result) in model.results.items()}
        assert reported(self.queue, model.opening.generation) == results
        enough = GenerationResults(model.opening.parameters, model.policy, results)
        closing = self.queue.results(model.opening.generation)
        assert closing == (enough if model.sufficient else None)

    @invariant()
    def no_item_is_lost_or_held_by_more_than_two(self) -> None:
        key = f"esft:{{{self.queue.run}}}:"
        reported = self.client.hkeys(key + "results")
        held = self.client.hgetall(key + "leases")
        waiting = self.client.lrange(key + "todo", 0, -1)
        assert sorted([*reported, *held, *waiting]) == sorted(self.model.opening.items)
        for holders in held.values():
            names = holders.split(" ")[2::4]
            assert len(names) in {1, 2}
            assert len(set(names)) == len(names)

    @invariant()
    def log_has_no_gap_and_never_changes(self) -> None:
        assert [entry.record for entry in self.queue.updates(0)] == self.model.log
        assert self.model.opening.generation == len(self.model.log)

    @invariant()
    def what_is_finished_expires_and_nothing_else(self) -> None:
        lifetimes = [self.client.ttl(key) for key in self.queue.keys if self.client.exists(key)]
        assert all(seconds > 0 if self.model.finished else seconds == -1 for seconds in lifetimes)

    @invariant()
    def an_observer_sees_state_and_log_of_one_moment(self) -> None:
        start = max(0, len(self.model.log) - 1)
        observation = observe(self.client, {self.queue.run: start})[self.queue.run]
        assert observation is not None
        # The observer has no clock of a test's, so its workers are all long gone.
        assert replace(observation.state, workers=self.model.living) == self.queue.state()
        assert [entry.record for entry in observation.entries] == self.model.log[start:]

    def teardown(self) -> None:
        """Whatever happened: when all others are gone, one fresh worker ends the generation."""
        if not hasattr(self, "queue"):
            return
        model, generation = self.model, self.model.opening.generation
        if not model.finished:
            model.now += 700_000_000
            self.queue.join("fresh", fingerprint="f", ttl_milliseconds=TTL)
            missing = set(model.opening.items) - set(model.results)
            while missing:
                claim = self.queue.claim(
                    "fresh",
                    generation=generation,
                    count=2,
                    token=f"fresh-{len(missing)}",
                    lease_milliseconds=1000,
                )
                if claim.status is ClaimStatus.COMPLETE:
                    break
                assert claim.items
                assert missing >= set(claim.items)
                missing -= set(claim.items)
                results = [ItemResult(item, "", 0) for item in claim.items]
                self.queue.report("fresh", generation=generation, results=results)
            assert not missing
            opening = self.new_opening(generation + 1, (1, 1, 1))
            assert self.queue.commit(generation=generation, record="last", opening=opening) == "last"
        self.queue.delete()
        assert self.client.keys(f"esft:{{{self.queue.run}}}:*") == []


def test_any_order_of_calls(redis_client: redis.Redis) -> None:
    class Machine(QueueMachine):
        client = redis_client

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=100,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
