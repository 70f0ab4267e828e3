"""The status that a resource should have, and the Events when something in it turned. Pure."""

from collections.abc import Iterator
from typing import Final

from esft.status import Condition, ESFineTuneStatus, WorkersStatus, report, words
from esft.status.clock import Clock
from esft_operator.decide import build
from esft_operator.decide.actions import Event
from esft_operator.decide.outcome import has_started
from esft_operator.names import selector, workers_name
from esft_operator.observe.situation import Situation

_UNDER_WAY: Final = frozenset({words.PENDING, words.RUNNING})

# Reasons of the condition WorkersReady that only a person can do something about.
WORKER_PROBLEMS: Final = frozenset(
    {"Unschedulable", "ImagePullFailed", "ContainerFailed", words.WORKERS_FAILING}
)
_WORKING: Final = frozenset({words.ALL_READY, words.STARTING})  # its reasons when no pod has a problem


def status_of(
    situation: Situation, *, outcome: report.Outcome | None, desired: int, clock: Clock
) -> ESFineTuneStatus:
    """The status that the resource should have; `outcome` is None while the run goes on, `desired` counts workers."""
    resource, run = situation.resource, situation.run
    state, ledger = situation.progress.state, situation.progress.ledger
    if outcome is not None and state is not None and state.finished:
        ledger = ledger.ended(state)
    standing = report.Standing(
        outcome=outcome,
        suspended=("SuspendRequested", "spec.suspend is true.") if situation.is_suspended else None,
        started=has_started(situation),
        redis_problem=situation.progress.problem,
        failure=situation.failure,
        workers=_workers(situation, desired),
        clock=clock,
    )
    return report.status_of(
        standing,
        ledger,
        None if run is None else run.spec,
        before=resource.status,
        workers=WorkersStatus(
            desired=desired,
            ready=situation.observed.ready_pods,
            selector=selector(resource.name, resource.uid),
        ),
        metadata_generation=resource.generation,
        checkpoint_uri=lambda generation: "" if run is None else build.checkpoint_uri(run, generation),
        now=situation.now,
    )


def events_between(before: ESFineTuneStatus, after: ESFineTuneStatus) -> Iterator[Event]:
    """Events for what has turned; the reasons are documented in docs/run.md."""
    saved = after.checkpoint
    if saved is not None and (before.checkpoint is None or before.checkpoint.generation < saved.generation):
        yield Event("CheckpointSaved", f"Generation {saved.generation} is saved at {saved.uri}.")
    yield from _phase_events(before, after)
    for kind, events in ((words.WORKERS_READY, _worker_events), (words.HEALTHY, _health_events)):
        condition = after.condition(kind)
        if condition is not None:
            yield from events(before.condition(kind), condition)
    yield from _scaling_events(before, after)


def _scaling_events(before: ESFineTuneStatus, after: ESFineTuneStatus) -> Iterator[Event]:
    if before.workers is None or after.workers is None or not {before.phase, after.phase} <= _UNDER_WAY:
        return
    was, wanted = before.workers.desired, after.workers.desired
    if was != wanted:
        yield Event("Scaled", f"Workers wanted: {wanted} instead of {was}.")


def _phase_events(before: ESFineTuneStatus, after: ESFineTuneStatus) -> Iterator[Event]:
    if before.phase == after.phase:
        return
    message = after.end.message if after.end else ""
    match after.phase:
        case words.SUCCEEDED:
            yield Event("Completed", message)
        case words.FAILED:
            yield Event(words.FAILED, message, warning=True)
        case words.SUSPENDED:
            yield Event(words.SUSPENDED, "The workers hand their work back and end; everything is kept.")
        case _ if before.phase == words.SUSPENDED:
            yield Event("Resumed", "The run goes on where it was suspended.")
        case _ if before.phase == words.SUCCEEDED:
            yield Event("Continued", "More generations are wanted: the run goes on where it ended.")
        case words.RUNNING:
            yield Event("Started", "The first worker is ready.")


def _worker_events(old: Condition | None, new: Condition) -> Iterator[Event]:
    if new.reason in WORKER_PROBLEMS and (old is None or old.reason != new.reason):
        yield Event(new.reason, new.message, warning=True)
    elif old is not None and old.reason in WORKER_PROBLEMS and new.reason in _WORKING:
        yield Event("WorkersRecovered", f"No longer: {old.reason}.")


def _health_events(old: Condition | None, new: Condition) -> Iterator[Event]:
    if new.status == "False" and (old is None or (old.status, old.reason) != (new.status, new.reason)):
        yield Event(new.reason, new.message, warning=True)
    elif new.status == "True" and old is not None and old.status == "False":
        yield Event("Recovered", f"No longer: {old.reason}.")


def _workers(situation: Situation, desired: int) -> report.Verdict:
    """The most telling thing about the pods, with what they say of themselves."""
    if desired == 0:
        fix = "Fix: raise spec.workers.replicas or minReplicas."
        return "False", "ScaledToZero", f"No worker is wanted. {fix}"
    problem = _pod_problem(situation) or _no_pods(situation)
    return report.workers_verdict(ready=situation.observed.ready_pods, desired=desired, problem=problem)


def _no_pods(situation: Situation) -> report.Reason | None:
    if situation.observed.job is None or situation.observed.living_pods:
        return None
    job = workers_name(situation.resource.name)
    return "NoPods", f"Job {job} has no pods yet. If that lasts, `kubectl describe job {job}` says why."


def _pod_problem(situation: Situation) -> report.Reason | None:
    """Why a pod does not start; else why the latest one failed, if none has been made since that works."""
    pods = [pod for pod in situation.observed.pods if not pod.terminating]
    stuck = [pod for pod in pods if pod.is_stuck(situation.now)]
    if stuck:
        pod = min(stuck, key=lambda found: found.name)
    else:
        newest_ready = max((pod.created_at for pod in pods if pod.ready), default=None)
        failed = [
            pod
            for pod in pods
            if pod.ended and pod.problem and (newest_ready is None or pod.created_at > newest_ready)
        ]
        if not failed:
            return None
        pod = max(failed, key=lambda found: found.created_at)
    reason, message = pod.problem or ("", "")
    return reason, f"Pod {pod.name}: {message}"
