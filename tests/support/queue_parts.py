"""What the tests of the queue share: a clock in the test's hand, small openings, a worker with few arguments."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from esft.queue import Claim, ClaimStatus, ItemResult, Opening, RunQueue, RunState
from esft.queue.replies import text
from esft.versions import CURRENT, Versions


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


def create(
    queue: RunQueue,
    first: Opening | None = None,
    *,
    log: Sequence[str] = (),
    fingerprint: str = "f",
    policy: str = "p",
    version: int = 1,
    versions: Versions = CURRENT,
) -> bool:
    """Create a run, whose first open generation is the small one that follows the log unless another is given."""
    created = queue.create(
        fingerprint=fingerprint,
        policy=policy,
        policy_version=version,
        log=log,
        opening=first or opening(len(log)),
    )
    if created:
        begin_with(queue, versions)
    return created


def begin_with(queue: RunQueue, versions: Versions) -> None:
    """Let a run be as if software of these versions had created it."""
    queue._redis.hset(queue.keys[0], mapping={"contract": versions.contract, "release": versions.release})


def claimed(*items: str, status: ClaimStatus = ClaimStatus.ITEMS, generation: int = 0) -> Claim:
    """What a claim gives in a run of `create` without a wait."""
    return Claim(status, items, generation, 0, parameters=opening().parameters, policy="p")


def reported(queue: RunQueue, generation: int = 0) -> dict[str, str]:
    """The results of the open generation so far, which the queue gives out only when they are enough to close it."""
    assert queue.state().opening.generation == generation
    results = queue._redis.hgetall(f"esft:{{{queue.run}}}:results")
    return {text(item): text(result) for item, result in results.items()}


def make_first_release(queue: RunQueue) -> None:
    """Leave of a run what release 0.1.0 wrote, which knew neither versions nor policies."""
    unknown = ("contract", "release", "policy", "policy_version", "parameters")
    assert queue._redis.hdel(f"esft:{{{queue.run}}}:run", *unknown) == len(unknown)


class Worker:
    """A worker's calls with the arguments that a test does not care about."""

    def __init__(self, queue: RunQueue, name: str, ttl: int = 60_000) -> None:
        self.queue, self.name, self.ttl, self.tokens = queue, name, ttl, 0
        self.join()

    def join(self) -> RunState:
        return self.queue.join(self.name, fingerprint="f", ttl_milliseconds=self.ttl)

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
        (outcome,) = self.queue.report(
            self.name, generation=generation, results=[ItemResult(item, result, milliseconds)]
        )
        return outcome.accepted, outcome.complete

    def drain(self, generation: int = 0) -> None:
        for item in self.claim(100, generation=generation).items:
            self.report(item, generation=generation)


def counts(state: RunState) -> tuple[int, int, int]:
    return state.done, state.outstanding, state.todo
