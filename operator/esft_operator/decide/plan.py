"""What to do about a run: one pure function from a situation to actions, status and events.

Level-based: it compares what is with what should be, and does not care what happened in between or how often it is
asked. An operator that was killed at any line of any action therefore converges when it is asked again.

Rejected: kopf's handlers of changes (on.create, on.update): they remember in annotations which handler has run, and a
step that is half done when the operator dies is theirs to describe.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from esft.errors import SpecError
from esft.generation import opened
from esft.layout import redis_key
from esft.policy import Policy
from esft.status import ESFineTuneStatus
from esft.status.clock import Clock, parse_time
from esft.status.report import Outcome
from esft.status.words import FAILED, INVALID_SPEC
from esft_operator.decide import build
from esft_operator.decide.actions import (
    Action,
    AddFinalizer,
    Apply,
    DeleteJob,
    DeleteResource,
    Event,
    FinishRun,
    GrantAccess,
    RemoveFinalizer,
    RemoveFromRedis,
    ReopenRun,
    SetPolicy,
)
from esft_operator.decide.outcome import awaits_redis, deadlines, is_to_continue, outcome_of
from esft_operator.decide.scaling import Load, desired_workers
from esft_operator.decide.summary import events_between, status_of
from esft_operator.decide.template import TemplateError
from esft_operator.names import workers_name
from esft_operator.observe.children import SCHEDULING_GRACE, Child
from esft_operator.observe.situation import Progress, Situation
from esft_operator.resource import Manifest, Run

DELETION_SECONDS: Final = 20.0  # after which a resource goes, whether or not Redis could be cleaned
_LEAVE_SECONDS: Final = 60.0  # how long workers may take to end by themselves when the run is over
_SETTLE_SECONDS: Final = 15.0  # how long a finished Job may be ahead of what Redis said last


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    Attributes:
        actions: in this order; when one fails, the rest is left to the next time.
        status: to be written where it differs; None to leave the status alone.
        events: to be posted.
        again_at: when time alone will change the plan; None when it will not.
    """

    actions: tuple[Action, ...] = ()
    status: ESFineTuneStatus | None = None
    events: tuple[Event, ...] = ()
    again_at: datetime | None = None


def plan(situation: Situation) -> Plan:
    """Decide what to do about a run."""
    resource = situation.resource
    if resource.deleted_at is not None:
        return _deletion(situation, resource.deleted_at)
    if not resource.is_ours:
        return Plan()
    outcome = outcome_of(situation)
    try:
        actions = tuple(_actions(situation, outcome))
    except TemplateError as error:  # it can be put right
        actions = ()
        situation = replace(situation, failure=("TemplateRefused", str(error)))
    except SpecError as error:  # it cannot
        actions, outcome = (), Outcome(FAILED, INVALID_SPEC, str(error))
    desired = 0 if outcome is not None else wanted_workers(situation)
    is_active = outcome is None and not situation.is_suspended
    clock = Clock.of(resource.status, active=is_active, now=situation.now)
    status = status_of(situation, outcome=outcome, desired=desired, clock=clock)
    return Plan(
        actions=actions,
        status=status,
        events=tuple(events_between(resource.status, status)),
        again_at=_again_at(situation, outcome, status, clock),
    )


def wanted_workers(situation: Situation) -> int:
    """Workers that the run should have while it is not over."""
    run, progress = situation.run, situation.progress
    if run is None or run.spec.suspend:
        return 0
    state = progress.state
    load = Load(
        member_seconds=progress.ledger.member_seconds,
        generations_since_change=progress.ledger.generations_since_change,
        items=None if state is None else len(state.opening.items),
        is_last=state is not None and state.opening.generation >= run.spec.evolution.generations,
    )
    return desired_workers(run.spec, load, current=progress.ledger.workers_wanted)


def _actions(situation: Situation, outcome: Outcome | None) -> Iterator[Action]:
    if not situation.resource.has_finalizer:
        yield AddFinalizer()
    if outcome is not None:
        yield from _ending(situation, outcome)
    elif situation.run is not None:
        yield from _going_on(situation, situation.run)


def _going_on(situation: Situation, run: Run) -> Iterator[Action]:
    """Everything that a run needs which is not over; refused before anything is made."""
    observed, refresh = situation.observed, situation.refresh
    job = build.job(run, situation.defaults, parallelism=wanted_workers(situation))
    state, continues = situation.progress.state, is_to_continue(situation)
    if continues or (state is not None and not Policy.from_json(state.policy).says_as(run.policy)):
        yield SetPolicy(run.policy)
    if continues:
        reached = situation.progress.ledger.generation if state is None else state.opening.generation
        yield ReopenRun(opened(run.spec, reached, run.policy))
    config_map = build.config_map(run)
    if observed.config_map is None or observed.config_map.data != config_map["data"] or refresh:
        yield _apply(config_map, None if observed.config_map is None else observed.config_map.child, run)
    claim = build.volume_claim(run)
    if claim is not None and (observed.volume_claim is None or refresh):
        yield _apply(claim, observed.volume_claim, run)
    if _needs_access(situation, run):
        yield GrantAccess()
    if refresh:
        yield from _extras(situation, run)
    if run.spec.suspend:
        yield from _without_job(situation)
    else:
        yield from _with_job(situation, run, job)


def _with_job(situation: Situation, run: Run, job: Manifest) -> Iterator[Action]:
    seen = situation.observed.job
    if seen is not None and seen.child.owner == run.uid:
        if seen.child.terminating:
            return
        is_outdated = seen.template_hash != build.template_hash(run, situation.defaults)
        if is_outdated or is_to_continue(situation) or _is_riddle(situation, seen.finished_at):
            yield DeleteJob(job["metadata"]["name"], seen.child.uid)
        elif seen.parallelism != job["spec"]["parallelism"] or situation.refresh:
            yield _apply(job, seen.child, run)
    else:
        yield _apply(job, None, run)


def _is_riddle(situation: Situation, finished_at: datetime | None) -> bool:
    """Whether the Job has finished and the run has not, though Redis has had the time to say so."""
    if finished_at is None or (situation.now - finished_at).total_seconds() < _SETTLE_SECONDS:
        return False
    return situation.progress.problem is None and not awaits_redis(situation.progress)


def _needs_access(situation: Situation, run: Run) -> bool:
    """Whether workers that are about to start may lack their user in the operator's Redis, or its password."""
    if situation.resource.redis_secret is not None:
        return False
    is_without = situation.observed.job is None or _has_lost(situation.progress)
    return situation.refresh or (is_without and not run.spec.suspend)


def _has_lost(progress: Progress) -> bool:
    """Whether Redis has forgotten a run that was under way, and with it perhaps the run's user."""
    return progress.asked and progress.state is None and progress.ledger.generation > 0


def _extras(situation: Situation, run: Run) -> Iterator[Action]:
    """Children of kinds that a cluster may not have."""
    if situation.has_pod_monitors:
        yield _apply(build.pod_monitor(run), None, run)
    if situation.has_scaled_objects:
        for manifest in (build.trigger_authentication(run), build.scaled_object(run)):
            if manifest is not None:
                yield _apply(manifest, None, run)


def _ending(situation: Situation, outcome: Outcome) -> Iterator[Action]:
    """A run that is over: tell the workers where they do not know, and see that they leave."""
    state, job, now = situation.progress.state, situation.observed.job, situation.now
    if outcome.is_news_to_workers and state is not None and not state.finished:
        yield FinishRun(outcome.reason, outcome.message)
    leaves_at, expires_at = _after_the_end(situation, situation.resource.status)
    if job is not None and job.finished_at is None and leaves_at is not None and leaves_at <= now:
        yield from _without_job(situation)
    if expires_at is not None and expires_at <= now:
        yield DeleteResource()


def _without_job(situation: Situation) -> Iterator[Action]:
    job, resource = situation.observed.job, situation.resource
    if job is not None and not job.child.terminating and job.child.owner == resource.uid:
        yield DeleteJob(workers_name(resource.name), job.child.uid)


def _deletion(situation: Situation, deleted_at: datetime) -> Plan:
    """Leave nothing behind, within a deadline; what Kubernetes holds goes by its owner references."""
    resource = situation.resource
    if not resource.has_finalizer:
        return Plan()
    stop = tuple(_without_job(situation))
    if (situation.now - deleted_at).total_seconds() >= DELETION_SECONDS:
        return Plan((*stop, RemoveFromRedis(otherwise=_keys_left(resource.uid)), RemoveFinalizer()))
    deadline = deleted_at + timedelta(seconds=DELETION_SECONDS)
    if resource.redis_secret is not None and situation.observed.living_pods:
        # In a Redis of the user's own a worker can write until it ends.
        return Plan(stop, again_at=deadline)
    return Plan((*stop, RemoveFromRedis(), RemoveFinalizer()), again_at=deadline)


def _keys_left(uid: str) -> Event:
    message = (
        f"Redis could not be cleaned within {DELETION_SECONDS:.0f} s of deletion; keys "
        f"{redis_key(uid, '*')} may be left there. Fix: delete them."
    )
    return Event("KeysLeftInRedis", message, warning=True)


def _apply(manifest: Manifest, seen: Child | None, run: Run) -> Apply:
    return Apply(manifest, seen.uid if seen is not None and seen.owner == run.uid else None)


def _after_the_end(situation: Situation, status: ESFineTuneStatus) -> tuple[datetime | None, datetime | None]:
    """When a finished run's workers are sent away, and when its resource is to go."""
    if status.completion_time is None:
        return None, None
    ended_at, lifetime = parse_time(status.completion_time), situation.resource.ttl_seconds
    expires_at = None if lifetime is None else ended_at + timedelta(seconds=lifetime)
    return ended_at + timedelta(seconds=_LEAVE_SECONDS), expires_at


def _again_at(
    situation: Situation, outcome: Outcome | None, status: ESFineTuneStatus, clock: Clock
) -> datetime | None:
    times: list[datetime | None] = []
    job = situation.observed.job
    if outcome is None:
        times += [due for due, _ in deadlines(situation, clock)]
        times += [pod.created_at + SCHEDULING_GRACE for pod in situation.observed.pods if pod.problem]
        if job is not None and job.finished_at is not None:
            times.append(job.finished_at + timedelta(seconds=_SETTLE_SECONDS))
    else:
        leaves_at, expires_at = _after_the_end(situation, status)
        times += [expires_at, leaves_at if job is not None and job.finished_at is None else None]
    return min((time for time in times if time is not None and time > situation.now), default=None)
