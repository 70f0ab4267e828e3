"""What the tests of the queue share: a clock in the test's hand, small openings, a worker with few arguments."""

import json
from dataclasses import dataclass

from esft.queue import Claim, Opening, RunQueue, RunState


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
