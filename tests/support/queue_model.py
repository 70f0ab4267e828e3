"""What the queue should be, in a few plain containers: the model that its state machine compares with."""

from collections.abc import Callable
from dataclasses import dataclass, field

from esft.queue import ClaimStatus, ItemResult, Opening, ReopenStatus

MOST_REQUIRED = 2
MOST_OPTIONAL = 4


def make_opening(generation: int, shape: tuple[int, int, int], parameters: str) -> Opening:
    required, optional, needed = shape
    members = tuple(f"member:{index}" for index in range(optional))
    shards = tuple(f"evaluation:{index}" for index in range(required))
    # Optional ones between the required ones, so that order and kind are not the same.
    return Opening(
        generation=generation,
        items=shards[:1] + members + shards[1:],
        optional=members,
        optional_needed=needed,
        parameters=parameters,
    )


@dataclass
class Holder:
    worker: str
    token: str
    since: int
    deadline: int


@dataclass
class Model:
    """What the queue should be, in a few plain containers."""

    opening: Opening
    policy: str
    policy_version: int
    former_parameters: str = ""
    now: int = 1_750_000_000_000
    phase: str = "Running"
    todo: list[str] = field(default_factory=list)
    leases: dict[str, list[Holder]] = field(default_factory=dict)
    results: dict[str, tuple[str, str]] = field(default_factory=dict)  # item -> (worker, result)
    workers: dict[str, int] = field(default_factory=dict)  # name -> when it drops out
    log: list[str] = field(default_factory=list)
    digests: dict[int, str] = field(default_factory=dict)
    rebuilt: set[int] = field(default_factory=set)  # generations whose digest is that of a rebuilt replica
    mismatches: set[tuple[int, str, str]] = field(default_factory=set)
    counters: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("reported", "duplicates", "stale", "leases_expired", "backups"), 0
        )
    )
    mean: float = 0.0

    @property
    def finished(self) -> bool:
        return self.phase != "Running"

    @property
    def living(self) -> int:
        return sum(expiry > self.now for expiry in self.workers.values())

    def open(self, opening: Opening) -> None:
        self.former_parameters, self.opening = self.opening.parameters, opening
        self.todo, self.leases, self.results = list(opening.items), {}, {}

    @property
    def late_after(self) -> float:
        return max(2000, 2 * self.mean)

    def release(self, ended: Callable[[Holder], bool]) -> int:
        count, orphans = 0, []
        for item in self.opening.items:
            holders = self.leases.get(item, [])
            kept = [holder for holder in holders if not ended(holder)]
            count += len(holders) - len(kept)
            if kept:
                self.leases[item] = kept
            elif holders:
                del self.leases[item]
                orphans.append(item)
        self.todo = orphans + self.todo
        return count

    def sweep(self) -> None:
        silent = {worker for worker, expiry in self.workers.items() if expiry <= self.now}
        for worker in silent:
            del self.workers[worker]
        self.counters["leases_expired"] += self.release(
            lambda holder: holder.deadline <= self.now or holder.worker in silent
        )

    @property
    def sufficient(self) -> bool:
        optional = set(self.opening.optional)
        return (
            all(item in self.results for item in self.opening.items if item not in optional)
            and len(optional & set(self.results)) >= self.opening.optional_needed
        )

    @property
    def closable(self) -> bool:
        return (
            self.sufficient
            and not self.todo
            and all(self.now - holders[0].since > self.late_after for holders in self.leases.values())
        )

    def set_policy(self, policy: str, version: int) -> bool:
        if version < self.policy_version:
            return False
        self.policy, self.policy_version = policy, version
        return True

    def reopen(self, opening: Opening, instead_of: str) -> ReopenStatus:
        same = opening.generation == self.opening.generation
        if not self.finished:
            if not same or not instead_of or instead_of != self.opening.parameters:
                return ReopenStatus.RUNNING
            self.open(opening)
            return ReopenStatus.REOPENED
        if self.phase != "Succeeded":
            return ReopenStatus.FAILED
        if not same:
            return ReopenStatus.OTHER_GENERATION
        if self.living:
            return ReopenStatus.OCCUPIED
        self.phase = "Running"
        self.open(opening)
        return ReopenStatus.REOPENED

    def claim(
        self, worker: str, count: int, token: str, lease: int | None
    ) -> tuple[ClaimStatus, tuple[str, ...]]:
        if self.finished:
            return ClaimStatus.FINISHED, ()
        self.sweep()
        held = tuple(
            item
            for item in self.opening.items
            if any((holder.worker, holder.token) == (worker, token) for holder in self.leases.get(item, []))
        )
        if held:
            return ClaimStatus.ITEMS, held
        if self.closable:
            return ClaimStatus.COMPLETE, ()
        items = tuple(sorted(self.todo[:count], key=self.opening.items.index))
        del self.todo[:count]
        if not items:
            items = self.backup(worker)
        for item in items:
            length = lease or self.lease_length(len(items))
            self.leases.setdefault(item, []).append(Holder(worker, token, self.now, self.now + length))
        return (ClaimStatus.ITEMS if items else ClaimStatus.WAIT), items

    def lease_length(self, items: int) -> int:
        if not self.counters["reported"]:
            return 600_000
        return max(30_000, int(-(-4 * self.mean * items // 1)))

    def backup(self, worker: str) -> tuple[str, ...]:
        late = [
            (holders[0].since, -self.opening.items.index(item), item)
            for item, holders in self.leases.items()
            if len(holders) == 1
            and holders[0].worker != worker
            and self.now - holders[0].since > self.late_after
        ]
        if not late:
            return ()
        self.counters["backups"] += 1
        return (min(late)[2],)

    def report(self, worker: str, generation: int, reported: ItemResult) -> bool:
        item = reported.item
        if self.finished or generation != self.opening.generation or item not in self.opening.items:
            self.counters["stale"] += 1
            return False
        if item in self.results:
            accepted = self.results[item][0] == worker
            self.counters["duplicates"] += not accepted
            return accepted
        self.results[item] = worker, reported.result
        if not self.leases.pop(item, None):
            self.todo.remove(item)
        self.counters["reported"] += 1
        weight = min(self.counters["reported"], 64)
        self.mean = float(f"{self.mean + (reported.milliseconds - self.mean) / weight:.3f}")
        return True
