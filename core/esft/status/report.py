"""What people see of a run: the fields of a status, from the fold of its log and from what is going on. Pure.

A condition's time changes with its value only, and its message holds nothing that changes every generation, so that the
status of a run that goes well is written once a generation and no more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from esft.spec import ESFineTuneSpec
from esft.status import words
from esft.status.clock import Clock, timestamp
from esft.status.ledger import Ledger
from esft.status.model import (
    CheckpointStatus,
    Condition,
    ConditionState,
    ESFineTuneStatus,
    Phase,
    Progress,
    WorkersStatus,
)

_MAX_MESSAGE: Final = 2048

Reason = tuple[str, str]  # one word for programs, a sentence for people
Verdict = tuple[ConditionState, str, str]  # of a condition: its value, and why

_STARTING: Final[Verdict] = ("False", words.STARTING, "Workers are starting.")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run: phase Succeeded or Failed, a word for programs, a sentence for people."""

    phase: str
    reason: str
    message: str
    digest: str | None = None
    """Of the final weights, once the run has succeeded."""
    is_news_to_workers: bool = False
    """Whether the operator decided it (a deadline), so that the workers have to be told."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stands: all that its phase and conditions follow from.

    Attributes:
        outcome: how it has ended; None while it goes on.
        suspended: why it is suspended; None while it is not.
        started: whether a worker has ever been ready.
        redis_problem: why Redis cannot be asked, or what it holds cannot be used.
        failure: what is wrong besides.
        workers: the condition WorkersReady, as far as workers are wanted.
        clock: its active time.
    """

    outcome: Outcome | None = None
    suspended: Reason | None = None
    started: bool = False
    redis_problem: Reason | None = None
    failure: Reason | None = None
    workers: Verdict = _STARTING
    clock: Clock = Clock(0.0, None)  # noqa: RUF009 - frozen

    @property
    def phase(self) -> Phase:
        """The conditions in one word."""
        if self.outcome is not None:
            return words.SUCCEEDED if self.outcome.phase == words.SUCCEEDED else words.FAILED
        if self.suspended is not None:
            return words.SUSPENDED
        return words.RUNNING if self.started else words.PENDING

    def conditions(
        self, *, before: ESFineTuneStatus, generation: int, now: datetime
    ) -> tuple[Condition, ...]:
        """All conditions, about that metadata.generation; one that has not changed keeps its time from `before`."""
        verdicts = {
            words.WORKERS_READY: self._workers_ready,
            words.PROGRESSING: self._progressing,
            words.HEALTHY: self._healthy,
            words.SUSPENDED: ("False", "NotSuspended", "Nothing suspends the run.")
            if self.suspended is None
            else ("True", *self.suspended),
        }
        if self.outcome is not None:
            kind = words.COMPLETE if self.phase == words.SUCCEEDED else words.FAILED
            verdicts[kind] = ("True", self.outcome.reason, self.outcome.message)
        return tuple(
            _condition(kind, verdict, before=before.condition(kind), generation=generation, now=now)
            for kind, verdict in verdicts.items()
        )

    @property
    def _workers_ready(self) -> Verdict:
        if self.outcome is not None:
            return "False", words.FINISHED, "The run is over and needs no workers."
        if self.suspended is not None:
            return "False", words.SUSPENDED, "The run is suspended and has no workers."
        return self.workers

    @property
    def _progressing(self) -> Verdict:
        if self.outcome is not None:
            return "False", self.outcome.reason, "The run is over."
        if self.suspended is not None:
            return "False", words.SUSPENDED, "The run is suspended."
        if self.redis_problem is not None:
            return "Unknown", self.redis_problem[0], "Nobody can tell: the condition Healthy says why."
        if not self.started:
            return "False", "WaitingForWorkers", "No worker has been ready yet."
        return "True", words.RUNNING, "Members are being evaluated."

    @property
    def _healthy(self) -> Verdict:
        if self.failure is not None:
            return "False", *self.failure
        if self.outcome is None and self.redis_problem is not None:
            return "False", *self.redis_problem
        return "True", "AsExpected", "Everything the run needs is in place."


def has_started(before: ESFineTuneStatus, ledger: Ledger, *, ready: int = 0) -> bool:
    """Whether a worker has ever been ready, by the status so far, the log, and how many are now."""
    return before.start_time is not None or ready > 0 or ledger.generation > 0


def workers_verdict(*, ready: int, desired: int, problem: Reason | None) -> Verdict:
    """The condition WorkersReady; `problem` says why not all are ready, where there is a reason to worry."""
    if ready >= desired:
        return "True", words.ALL_READY, "All workers that are wanted are ready."
    return _STARTING if problem is None else ("False", *problem)


def progress_of(ledger: Ledger, *, planned: int, over: bool) -> Progress:
    """How far a run of `planned` generations is; `over` once it has ended."""
    left = None
    if not over and ledger.generation_seconds is not None:
        left = round((planned - ledger.generation) * ledger.generation_seconds, 1)
    return Progress(
        generation=ledger.generation,
        planned=planned,
        percent=round(100 * ledger.generation / planned, 1),
        estimated_remaining_seconds=left,
        summary=f"{ledger.generation}/{planned}",
    )


def status_of(
    standing: Standing,
    ledger: Ledger,
    spec: ESFineTuneSpec | None,
    *,
    before: ESFineTuneStatus,
    workers: WorkersStatus,
    metadata_generation: int,
    checkpoint_uri: Callable[[int], str],
    now: datetime,
) -> ESFineTuneStatus:
    """The status that a run should have, after that of `before`; `spec` is None where it cannot be used."""
    outcome, progress, checkpoint = standing.outcome, before.progress, before.checkpoint
    if spec is not None:
        progress = progress_of(ledger, planned=spec.evolution.generations, over=outcome is not None)
        if ledger.checkpoint is not None:
            uri = checkpoint_uri(ledger.checkpoint)
            checkpoint = CheckpointStatus(generation=ledger.checkpoint, uri=uri)
    return ESFineTuneStatus(
        observed_generation=metadata_generation,
        phase=standing.phase,
        conditions=standing.conditions(before=before, generation=metadata_generation, now=now),
        progress=progress,
        fitness=ledger.fitness,
        evaluation=ledger.score,
        workers=workers,
        checkpoint=checkpoint,
        digest=None if outcome is None else outcome.digest,
        start_time=before.start_time or (timestamp(now) if standing.started else None),
        completion_time=None if outcome is None else before.completion_time or timestamp(now),
        active_since=None if standing.clock.since is None else timestamp(standing.clock.since),
        active_seconds=round(standing.clock.before, 3),
    )


def _condition(
    kind: str, verdict: Verdict, *, before: Condition | None, generation: int, now: datetime
) -> Condition:
    status, reason, message = verdict
    since = before.last_transition_time if before and before.status == status else timestamp(now)
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 1] + "…",
        observed_generation=generation,
        last_transition_time=since,
    )
