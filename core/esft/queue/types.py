"""What goes into the queue and what comes out of it.

The queue knows nothing of Evolution Strategies: items, results, records and parameters are text that it
stores and hands on without looking inside.
"""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

RUNNING = "Running"


@dataclass(frozen=True, slots=True)
class Opening:
    """What an open generation consists of.

    Attributes:
        generation: its number; equals the length of the log while the generation is open.
        items: the work, each a different, non-empty text; handed out in this order.
        optional: those of `items` that a quorum may leave out.
        optional_needed: how many of `optional` must be reported before the generation may close.
        parameters: text for the workers, handed out with the items.

    Raises:
        ValueError: the parts contradict each other.
    """

    generation: int
    items: tuple[str, ...]
    optional: tuple[str, ...] = ()
    optional_needed: int = 0
    parameters: str = ""

    def __post_init__(self) -> None:
        if self.generation < 0:
            raise ValueError(f"generation {self.generation} is negative")
        if "" in self.items or len(set(self.items)) < len(self.items):
            raise ValueError("items must be non-empty and all different")
        if len(set(self.optional)) < len(self.optional) or not set(self.optional) <= set(self.items):
            raise ValueError("optional must be some of the items, each once")
        if not 0 <= self.optional_needed <= len(self.optional):
            raise ValueError(
                f"optional_needed is {self.optional_needed}, but {len(self.optional)} items are optional"
            )

    def to_json(self) -> str:
        """Serialise to one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse what `to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        return cls(**{**data, "items": tuple(data["items"]), "optional": tuple(data["optional"])})


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log.

    Attributes:
        record: the text that was committed.
        telemetry: measured by Redis, and no part of the result: `seconds` that the generation was open,
            `item_milliseconds` spent on its accepted items, `workers` registered at the end, `leases_expired`
            and `backups` handed out in it. Empty for the entries a run was created with.
    """

    record: str
    telemetry: dict[str, float]


@dataclass(frozen=True, slots=True)
class RunState:
    """A run at one moment.

    Attributes:
        phase: "Running", until `finish` sets a final one.
        reason: of the final phase, one word for programs; empty before.
        message: of the final phase, a sentence for people; empty before.
        result: the text given to `finish`, if any.
        measures: the text that came with the digest of the newest generation; empty before any.
        opening: the open generation.
        policy: the text that was set last.
        done: items of it that are reported.
        outstanding: items of it that are leased.
        todo: items of it that wait to be claimed; done + outstanding + todo = len(opening.items).
        workers: how many are registered.
        counters: since the run was created: `reported`, `duplicates`, `stale`, `leases_expired`, `backups`,
            `digest_mismatches`.
    """

    phase: str
    reason: str
    message: str
    result: str | None
    measures: str
    opening: Opening
    policy: str
    done: int
    outstanding: int
    todo: int
    workers: int
    counters: dict[str, int]

    @property
    def finished(self) -> bool:
        """Whether the phase is final."""
        return self.phase != RUNNING


@dataclass(frozen=True, slots=True)
class Observation:
    """A run and what its log has gained, both at one moment.

    Attributes:
        state: the run's state.
        entries: of the log, in order, from the number that was asked for on.
    """

    state: RunState
    entries: list[Entry]


class ClaimStatus(StrEnum):
    """What a claim came to."""

    ITEMS = "items"  # work to do
    WAIT = "wait"  # everything is handed out, and nothing of it is late
    COMPLETE = "complete"  # the generation can be closed: take the results and commit
    BEHIND = "behind"  # another generation is open: read the log first
    FINISHED = "finished"  # the run is over


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim.

    Attributes:
        status: what it came to.
        items: what the worker now holds, in the opening's order; empty unless the status is ITEMS.
        generation: the open one.
        wait_milliseconds: with WAIT, when to claim again at the latest; 0 otherwise.
        parameters: of the open generation's opening.
        policy: the text that was set last.
    """

    status: ClaimStatus
    items: tuple[str, ...]
    generation: int
    wait_milliseconds: int
    parameters: str
    policy: str


@dataclass(frozen=True, slots=True)
class GenerationResults:
    """All that closing a generation takes, of one moment.

    Attributes:
        parameters: of its opening.
        policy: the text that was set last.
        results: what was reported, by item.
    """

    parameters: str
    policy: str
    results: dict[str, str]


class ReopenStatus(StrEnum):
    """What the wish to open a generation again came to."""

    REOPENED = "reopened"
    RUNNING = "running"  # it has not finished and is open otherwise, or an earlier call opened it again
    FAILED = "failed"  # it finished with another phase than "Succeeded", which is final
    OTHER_GENERATION = "other"  # it ended with another generation than the opening's
    OCCUPIED = "occupied"  # workers of the ended run have not left yet


@dataclass(frozen=True, slots=True)
class ItemResult:
    """A result to report.

    Attributes:
        item: one of the opening's.
        result: any text.
        milliseconds: time that the item took, which leases and lateness are derived from.

    Raises:
        ValueError: the time is negative.
    """

    item: str
    result: str
    milliseconds: int

    def __post_init__(self) -> None:
        if self.milliseconds < 0:
            raise ValueError(f"milliseconds is {self.milliseconds}, but an item cannot take less than none")


@dataclass(frozen=True, slots=True)
class ReportOutcome:
    """The answer to the report of an item.

    Attributes:
        accepted: whether this worker's result is the one that counts.
        complete: whether the generation can be closed now.
    """

    accepted: bool
    complete: bool
