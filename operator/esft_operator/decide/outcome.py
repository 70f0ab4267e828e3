"""How a run ends, and what time has to do with it. Pure."""

from datetime import datetime, timedelta

from esft.status import report
from esft.status.clock import Clock
from esft.status.report import Outcome
from esft.status.words import COMPLETE, FAILED, GENERATIONS_DONE, INVALID_SPEC, SUCCEEDED
from esft_operator.observe.situation import Progress, Situation


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
    began_at, found = now - timedelta(seconds=clock.seconds(now)), []
    active, pending = run.spec.active_deadline_seconds, run.spec.pending_deadline_seconds
    if active is not None:
        message = f"The run was active for activeDeadlineSeconds ({active} s) without coming to its end."
        found.append((began_at + timedelta(seconds=active), _failed("DeadlineExceeded", message)))
    if pending is not None and not has_started(situation):
        message = f"No worker was ready within pendingDeadlineSeconds ({pending} s)."
        found.append((began_at + timedelta(seconds=pending), _failed("PendingDeadlineExceeded", message)))
    return found


def has_started(situation: Situation) -> bool:
    """Whether a worker has ever been ready."""
    ledger, ready = situation.progress.ledger, situation.observed.ready_pods
    return report.has_started(situation.resource.status, ledger, ready=ready)


def is_to_continue(situation: Situation) -> bool:
    """Whether a run that came to its last generation has more of them now."""
    run, state = situation.run, situation.progress.state
    if run is None:
        return False
    planned = run.spec.evolution.generations
    if state is not None:
        done = state.phase == SUCCEEDED and state.reason == GENERATIONS_DONE
        return done and state.opening.generation < planned
    return _was_raised(situation)


def _recorded(situation: Situation) -> Outcome | None:
    """The end that the status has, unless more generations are wanted by now."""
    status = situation.resource.status
    end = status.end
    if end is None or _was_raised(situation):
        return None
    return Outcome(SUCCEEDED if end.type == COMPLETE else FAILED, end.reason, end.message, status.digest)


def _was_raised(situation: Situation) -> bool:
    run, status = situation.run, situation.resource.status
    return (
        run is not None
        and status.end is not None
        and status.end.reason == GENERATIONS_DONE
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
    return Outcome(state.phase, state.reason, state.message, situation.progress.digest)


def _of_the_job(situation: Situation) -> Outcome | None:
    """A worker that finds the specification unusable ends the run, whether or not it could say so in Redis."""
    for pod in situation.observed.pods:
        if pod.refused_spec:
            message = pod.problem[1] if pod.problem else "a worker found that the specification cannot work"
            return _failed(INVALID_SPEC, message)
    job = situation.observed.job
    if job is None or job.failure is None or job.child.owner != situation.resource.uid:
        return None
    reason, message = job.failure
    return _failed(reason or "JobFailed", message or "the Job failed")


def _failed(reason: str, message: str) -> Outcome:
    return Outcome(FAILED, reason, message, is_news_to_workers=True)


def _by_deadline(situation: Situation) -> Outcome | None:
    run = situation.run
    if run is None or run.spec.suspend:
        return None
    clock = Clock.of(situation.resource.status, active=True, now=situation.now)
    passed = [deadline for deadline in deadlines(situation, clock) if deadline[0] <= situation.now]
    return min(passed, key=lambda deadline: deadline[0])[1] if passed else None
