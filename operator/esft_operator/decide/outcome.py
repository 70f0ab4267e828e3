"""How a run ends, and what time has to do with it. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from esft.status import ESFineTuneStatus
from esft_operator.observe.children import parse_time
from esft_operator.observe.situation import Progress, Situation

SUCCEEDED: Final = "Succeeded"
FAILED: Final = "Failed"
INVALID_SPEC: Final = "InvalidSpec"
GENERATIONS_DONE: Final = "GenerationsDone"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run: phase Succeeded or Failed, a word for programs, a sentence for people."""

    phase: str
    reason: str
    message: str
    is_news_to_workers: bool = False
    """Whether the operator decided it (a deadline), so that the workers have to be told."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Time that a run has been active: neither suspended nor over.

    Attributes:
        before: seconds until it was last suspended.
        since: when it last became active; None while it is not.
    """

    before: float
    since: datetime | None

    @classmethod
    def of(cls, status: ESFineTuneStatus, *, active: bool, now: datetime) -> "Clock":
        """Go on from a status."""
        before = status.active_seconds or 0.0
        since = None if status.active_since is None else parse_time(status.active_since)
        if active:
            return cls(before, since or now)
        return cls(before + (0.0 if since is None else (now - since).total_seconds()), None)

    def seconds(self, now: datetime) -> float:
        """Active time so far."""
        return self.before + (0.0 if self.since is None else (now - self.since).total_seconds())


def outcome_of(situation: Situation) -> Outcome | None:
    """How the run has ended; None while it goes on, or is to go on since `generations` was raised.

    What Redis says comes before what the operator concludes by itself: a run may have come to its end in time while
    no operator was there to see it.
    """
    told = _recorded(situation) or _refused(situation) or _in_redis(situation)
    if told is not None or awaits_redis(situation.progress):
        return told
    return _of_the_job(situation) or _by_deadline(situation)


def awaits_redis(progress: Progress) -> bool:
    """Whether Redis has yet to be asked, or the log of a finished run to be read to its end."""
    if not progress.asked:
        return progress.problem is None
    state = progress.state
    return state is not None and state.finished and progress.ledger.generation < state.opening.generation


def deadlines(situation: Situation, clock: Clock) -> list[tuple[datetime, Outcome]]:
    """When the run fails unless something happens before, and how."""
    run, now = situation.run, situation.now
    if run is None or clock.since is None:
        return []
    found = []
    spec, used = run.spec, timedelta(seconds=clock.seconds(now))
    if spec.active_deadline_seconds is not None:
        limit = spec.active_deadline_seconds
        message = f"The run was active for activeDeadlineSeconds ({limit} s) without coming to its end."
        due = now - used + timedelta(seconds=limit)
        found.append((due, Outcome(FAILED, "DeadlineExceeded", message, is_news_to_workers=True)))
    if spec.pending_deadline_seconds is not None and not has_started(situation):
        limit = spec.pending_deadline_seconds
        message = f"No worker was ready within pendingDeadlineSeconds ({limit} s)."
        due = now - used + timedelta(seconds=limit)
        found.append((due, Outcome(FAILED, "PendingDeadlineExceeded", message, is_news_to_workers=True)))
    return found


def has_started(situation: Situation) -> bool:
    """Whether a worker has ever been ready."""
    return (
        situation.resource.status.start_time is not None
        or situation.observed.ready_pods > 0
        or situation.progress.ledger.generation > 0
    )


def is_recorded_end(status: ESFineTuneStatus) -> bool:
    """Whether the status says that the run is over."""
    return _recorded_end(status) is not None


def is_to_continue(situation: Situation) -> bool:
    """Whether a run that came to its last generation has more of them now."""
    run, state = situation.run, situation.progress.state
    if run is None:
        return False
    planned = run.spec.evolution.generations
    if state is not None:
        done = state.phase == SUCCEEDED and state.reason == GENERATIONS_DONE
        return done and state.opening.generation < planned
    return _recorded_end(situation.resource.status) is not None and _was_raised(situation)


def _recorded(situation: Situation) -> Outcome | None:
    """The end that the status has, unless more generations are wanted by now."""
    recorded = _recorded_end(situation.resource.status)
    if recorded is None or _was_raised(situation):
        return None
    return recorded


def _recorded_end(status: ESFineTuneStatus) -> Outcome | None:
    for condition in status.conditions or ():
        if condition.status == "True" and condition.type == "Complete":
            return Outcome(SUCCEEDED, condition.reason, condition.message)
        if condition.status == "True" and condition.type == "Failed":
            return Outcome(FAILED, condition.reason, condition.message)
    return None


def _was_raised(situation: Situation) -> bool:
    run, status = situation.run, situation.resource.status
    recorded = _recorded_end(status)
    return (
        run is not None
        and recorded is not None
        and recorded.reason == GENERATIONS_DONE
        and status.progress is not None
        and status.progress.planned < run.spec.evolution.generations
    )


def _refused(situation: Situation) -> Outcome | None:
    if situation.spec_error is None:
        return None
    return Outcome(FAILED, INVALID_SPEC, situation.spec_error)


def _in_redis(situation: Situation) -> Outcome | None:
    state = situation.progress.state
    if state is None or not state.finished or is_to_continue(situation) or awaits_redis(situation.progress):
        return None
    return Outcome(state.phase, state.reason, state.message)


def _of_the_job(situation: Situation) -> Outcome | None:
    """A worker that finds the specification unusable ends the run, whether or not it could say so in Redis."""
    for pod in situation.observed.pods:
        if pod.refused_spec:
            message = pod.problem[1] if pod.problem else "a worker found that the specification cannot work"
            return Outcome(FAILED, INVALID_SPEC, message, is_news_to_workers=True)
    job = situation.observed.job
    if job is None or job.failure is None or job.child.owner != situation.resource.uid:
        return None
    reason, message = job.failure
    return Outcome(FAILED, reason or "JobFailed", message or "the Job failed", is_news_to_workers=True)


def _by_deadline(situation: Situation) -> Outcome | None:
    run = situation.run
    if run is None or run.spec.suspend:
        return None
    clock = Clock.of(situation.resource.status, active=True, now=situation.now)
    passed = [each for each in deadlines(situation, clock) if each[0] <= situation.now]
    return min(passed, key=lambda each: each[0])[1] if passed else None
