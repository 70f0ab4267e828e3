"""A worker that speaks the real protocol with the real Redis and computes nothing: fitness is a hash.

For tests of what watches a run. Real workers are tested in tests/integration and hack/e2e; there is no node in these
tests that could run their pods.
"""

import hashlib
import json
from collections.abc import Sequence
from uuid import uuid4

import redis

from esft.errors import RunNotFoundError
from esft.generation import Commit, Extend, Item, Kind, close, opened
from esft.policy import Policy
from esft.queue import ClaimStatus, ItemResult, RunQueue, RunState
from esft.records import MemberResult, UpdateRecord
from esft.spec import ESFineTuneSpec, fingerprint

TTL_MILLISECONDS = 10_000


def create_run(queue: RunQueue, spec: ESFineTuneSpec, log: Sequence[str] = (), *, version: int = 1) -> None:
    """Create a run from its specification and the log of its generations so far."""
    policy = Policy.of(spec, version=version)
    queue.create(
        fingerprint=fingerprint(spec),
        policy=policy.to_json(),
        policy_version=version,
        log=log,
        opening=opened(spec, len(log), policy),
    )


class SimulatedWorker:
    """One worker of a run; `generation()` does what is left of the open one."""

    def __init__(
        self, client: redis.Redis, uid: str, spec: ESFineTuneSpec, name: str = "", *, version: int = 1
    ) -> None:
        self.queue = RunQueue(client, uid)
        self.spec = spec
        self.version = version
        self.name = name or f"simulated-{uuid4().hex[:6]}"
        self.log: list[UpdateRecord] = []
        self.join()

    def join(self) -> RunState:
        arguments = {
            "fingerprint": fingerprint(self.spec),
            "ttl_milliseconds": TTL_MILLISECONDS,
        }
        try:
            return self.queue.join(self.name, **arguments)
        except RunNotFoundError:
            records = [record.to_json() for record in self.log]
            create_run(self.queue, self.spec, records, version=self.version)
            return self.queue.join(self.name, **arguments)

    def leave(self) -> None:
        self.queue.leave(self.name)

    def generation(self, *, most: int = 1000) -> bool:
        """Do up to `most` items of the open generation and close it if that can be; False when the run is over."""
        self.follow()
        claim = self.queue.claim(
            self.name, generation=len(self.log), count=most, token=uuid4().hex, lease_milliseconds=None
        )
        if claim.status is ClaimStatus.FINISHED:
            return False
        complete = claim.status is ClaimStatus.COMPLETE
        if claim.items:
            results = [ItemResult(item, self.result(item), 1000) for item in claim.items]
            complete = self.queue.report(self.name, generation=len(self.log), results=results)[-1].complete
        return not complete or self.close()

    def finish(self) -> None:
        """Do whatever is left of the run."""
        while self.generation():
            pass
        self.leave()

    def policy(self) -> Policy:
        """What the run is told by now."""
        return Policy.from_json(self.queue.state().policy)

    def follow(self) -> None:
        while entries := self.queue.updates(len(self.log)):
            self.log += [UpdateRecord.from_json(entry.record) for entry in entries]

    def close(self) -> bool:
        generation = len(self.log)
        closing = self.queue.results(generation)
        if closing is None:
            return True
        decision = close(self.spec, Policy.from_json(closing.policy), closing, self.log)
        if isinstance(decision, Extend):
            self.queue.reopen(decision.opening, instead_of=closing.parameters)
            return True
        if isinstance(decision, Commit):
            self.queue.commit(
                generation=generation, record=decision.record.to_json(), opening=decision.opening
            )
            return True
        evaluation = decision.evaluation
        self.queue.finish(
            phase=decision.phase,
            reason=decision.reason,
            message=decision.message,
            result=json.dumps(
                {
                    "generation": generation,
                    "digest": f"{self.hash('digest'):016x}",
                    "evaluation": None if evaluation is None else evaluation.to_dict(),
                    "kl_divergence": None,
                }
            ),
            ttl_seconds=3600,
        )
        return False

    def result(self, item: str) -> str:
        match Item.parse(item).kind:
            case Kind.CHECKPOINT:
                return json.dumps({"path": "generation"})
            case Kind.DIVERGENCE:
                return json.dumps({"kl_divergence": 0.01})
        value = self.hash(item) / 2**64
        return MemberResult(reward=value, score=value, examples=8, tokens=64).to_json()

    def hash(self, text: str) -> int:
        key = f"{self.spec.evolution.seed}/{len(self.log)}/{text}"
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
