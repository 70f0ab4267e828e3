"""What people see of a run: its status, the conditions in it, and the Events when something turned. Pure.

A condition's time changes with its value only, and its message holds nothing that changes every generation, so that the
status of a run that goes well is written once a generation and no more.
"""

import math
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from esft.status import (
    CheckpointStatus,
    Condition,
    ConditionState,
    ESFineTuneStatus,
    EvaluationStatus,
    Fitness,
    Phase,
    Progress,
    WorkersStatus,
)
from esft_operator.decide import build
from esft_operator.decide.actions import Event
from esft_operator.decide.outcome import SUCCEEDED, Clock, Outcome, has_started
from esft_operator.names import job_name, selector
from esft_operator.observe.ledger import Ledger, final_digest
from esft_operator.observe.situation import Situation
from esft_operator.resource import Run

_MAX_MESSAGE: Final = 2048
_LONG_NUMBER: Final = 1e9  # that size and more is written with an exponent
_UNDER_WAY: Final = frozenset({"Pending", "Running"})

# Reasons of the condition WorkersReady that only a person can do something about.
WORKER_PROBLEMS: Final = frozenset({"Unschedulable", "ImagePullFailed", "ContainerFailed", "WorkersFailing"})
_WORKING: Final = frozenset({"AllReady", "Starting"})  # its reasons when no pod has a problem


def status_of(
    situation: Situation, *, outcome: Outcome | None, desired: int, clock: Clock
) -> ESFineTuneStatus:
    """The status that the resource should have.

    Args:
        situation: the run as it is.
        outcome: how it has ended; None while it goes on.
        desired: workers wanted.
        clock: its active time.
    """
    resource, before, now = situation.resource, situation.resource.status, situation.now
    ledger = situation.progress.ledger
    if outcome is not None and situation.progress.state is not None and situation.progress.state.finished:
        ledger = ledger.ended(situation.progress.state)
    completed = (before.completion_time or _time(now)) if outcome is not None else None
    return ESFineTuneStatus(
        observed_generation=resource.generation,
        phase=_phase(situation, outcome),
        conditions=_conditions(situation, outcome, desired),
        progress=_progress(situation, ledger, outcome),
        fitness=_fitness(ledger),
        evaluation=_evaluation(ledger),
        workers=WorkersStatus(
            desired=desired,
            ready=situation.observed.ready_pods,
            selector=selector(resource.name, resource.uid),
        ),
        checkpoint=_checkpoint(before, situation.run, ledger),
        digest=_digest(situation, outcome),
        start_time=before.start_time or (_time(now) if has_started(situation) else None),
        completion_time=completed,
        active_since=None if clock.since is None else _time(clock.since),
        active_seconds=round(clock.before, 3),
    )


def events_between(before: ESFineTuneStatus, after: ESFineTuneStatus) -> Iterator[Event]:
    """Events for what has turned; the reasons are documented in docs/run.md."""
    saved = after.checkpoint
    if saved is not None and (before.checkpoint is None or before.checkpoint.generation < saved.generation):
        yield Event("CheckpointSaved", f"Generation {saved.generation} is saved at {saved.uri}.")
    yield from _phase_events(before, after)
    old, new = _by_type(before), _by_type(after)
    yield from _worker_events(old.get("WorkersReady"), new["WorkersReady"])
    yield from _health_events(old.get("Healthy"), new["Healthy"])
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
    final = next(
        (each for each in after.conditions or () if each.type in {"Complete", "Failed"}),
        None,
    )
    match after.phase:
        case "Succeeded":
            yield Event("Completed", final.message if final else "")
        case "Failed":
            yield Event("Failed", final.message if final else "", warning=True)
        case "Suspended":
            yield Event("Suspended", "The workers hand their work back and end; everything is kept.")
        case _ if before.phase == "Suspended":
            yield Event("Resumed", "The run goes on where it was suspended.")
        case _ if before.phase == "Succeeded":
            yield Event("Continued", "More generations are wanted: the run goes on where it ended.")
        case "Running":
            yield Event("Started", "The first worker is ready.")


def _worker_events(old: Condition | None, new: Condition) -> Iterator[Event]:
    was_problem = old is not None and old.reason in WORKER_PROBLEMS
    if new.reason in WORKER_PROBLEMS and (old is None or old.reason != new.reason):
        yield Event(new.reason, new.message, warning=True)
    elif was_problem and old is not None and new.reason in _WORKING:
        yield Event("WorkersRecovered", f"No longer: {old.reason}.")


def _health_events(old: Condition | None, new: Condition) -> Iterator[Event]:
    if new.status == "False" and (old is None or (old.status, old.reason) != (new.status, new.reason)):
        yield Event(new.reason, new.message, warning=True)
    elif new.status == "True" and old is not None and old.status == "False":
        yield Event("Recovered", f"No longer: {old.reason}.")


def _phase(situation: Situation, outcome: Outcome | None) -> Phase:
    if outcome is not None:
        return "Succeeded" if outcome.phase == SUCCEEDED else "Failed"
    if situation.run is not None and situation.run.spec.suspend:
        return "Suspended"
    return "Running" if has_started(situation) else "Pending"


def _conditions(situation: Situation, outcome: Outcome | None, desired: int) -> tuple[Condition, ...]:
    values = {
        "WorkersReady": _workers_ready(situation, outcome, desired),
        "Progressing": _progressing(situation, outcome),
        "Healthy": _healthy(situation, outcome),
        "Suspended": _suspended(situation),
    }
    if outcome is not None:
        kind = "Complete" if outcome.phase == SUCCEEDED else "Failed"
        values[kind] = ("True", outcome.reason, outcome.message)
    before, now = _by_type(situation.resource.status), _time(situation.now)
    return tuple(
        _condition(kind, *value, before=before.get(kind), generation=situation.resource.generation, now=now)
        for kind, value in values.items()
    )


def _condition(
    kind: str,
    status: ConditionState,
    reason: str,
    message: str,
    *,
    before: Condition | None,
    generation: int,
    now: str,
) -> Condition:
    unchanged = before is not None and before.status == status
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 1] + "…",
        observed_generation=generation,
        last_transition_time=before.last_transition_time if before is not None and unchanged else now,
    )


def _workers_ready(
    situation: Situation, outcome: Outcome | None, desired: int
) -> tuple[ConditionState, str, str]:
    """The most telling thing about the pods, with what they say of themselves."""
    if outcome is not None:
        return "False", "Finished", "The run is over and needs no workers."
    if situation.run is None or situation.run.spec.suspend:
        return "False", "Suspended", "The run is suspended and has no workers."
    if desired == 0:
        return (
            "False",
            "ScaledToZero",
            "No worker is wanted. Fix: raise spec.workers.replicas or minReplicas.",
        )
    if situation.observed.ready_pods >= desired:
        return "True", "AllReady", "All workers that are wanted are ready."
    return "False", *(_pod_problem(situation) or _on_the_way(situation))


def _on_the_way(situation: Situation) -> tuple[str, str]:
    """Why not all workers are ready when none of them has a problem."""
    if situation.observed.job is not None and not situation.observed.living_pods:
        job = job_name(situation.resource.name)
        return "NoPods", f"Job {job} has no pods yet. If that lasts, `kubectl describe job {job}` says why."
    return "Starting", "Workers are starting."


def _pod_problem(situation: Situation) -> tuple[str, str] | None:
    """Why a pod does not start; else why the latest one failed, if none has been made since that works."""
    pods = [pod for pod in situation.observed.pods if not pod.terminating]
    stuck = [pod for pod in pods if pod.is_stuck(situation.now)]
    if stuck:
        pod = min(stuck, key=lambda each: each.name)
    else:
        newest_ready = max((pod.created_at for pod in pods if pod.ready), default=None)
        failed = [
            pod
            for pod in pods
            if pod.ended
            and pod.problem is not None
            and (newest_ready is None or pod.created_at > newest_ready)
        ]
        if not failed:
            return None
        pod = max(failed, key=lambda each: each.created_at)
    reason, message = pod.problem or ("", "")
    return reason, f"Pod {pod.name}: {message}"


def _progressing(situation: Situation, outcome: Outcome | None) -> tuple[ConditionState, str, str]:
    if outcome is not None:
        return "False", outcome.reason, "The run is over."
    if situation.run is None or situation.run.spec.suspend:
        return "False", "Suspended", "The run is suspended."
    if situation.progress.problem is not None:
        return (
            "Unknown",
            "RedisUnavailable",
            "Redis does not answer, so nobody can tell; workers wait for it too.",
        )
    if not has_started(situation):
        return "False", "WaitingForWorkers", "No worker has been ready yet."
    return "True", "Running", "Members are being evaluated."


def _healthy(situation: Situation, outcome: Outcome | None) -> tuple[ConditionState, str, str]:
    if situation.failure is not None:
        return "False", situation.failure.reason, situation.failure.message
    if outcome is None and situation.progress.problem is not None:
        return "False", "RedisUnavailable", situation.progress.problem
    return "True", "AsExpected", "Everything the run needs is in place."


def _suspended(situation: Situation) -> tuple[ConditionState, str, str]:
    if situation.run is not None and situation.run.spec.suspend:
        return "True", "SuspendRequested", "spec.suspend is true."
    return "False", "NotSuspended", "spec.suspend is false."


def _progress(situation: Situation, ledger: Ledger, outcome: Outcome | None) -> Progress | None:
    before = situation.resource.status.progress
    if situation.run is None:
        return before
    planned = situation.run.spec.evolution.generations
    left = None
    if outcome is None and ledger.generation_seconds is not None:
        left = round((planned - ledger.generation) * ledger.generation_seconds, 1)
    return Progress(
        generation=ledger.generation,
        planned=planned,
        percent=round(100 * ledger.generation / planned, 1),
        estimated_remaining_seconds=left,
        summary=f"{ledger.generation}/{planned}",
    )


def _fitness(ledger: Ledger) -> Fitness | None:
    fitness = ledger.fitness
    if fitness is None or not all(map(math.isfinite, (fitness.mean, fitness.best, fitness.std))):
        return None
    return Fitness(mean=fitness.mean, best=fitness.best, std=fitness.std, summary=_short(fitness.mean))


def _evaluation(ledger: Ledger) -> EvaluationStatus | None:
    score = ledger.score
    if score is None:
        return None
    return EvaluationStatus(
        base=score.base,
        last=score.last,
        best=score.best,
        best_generation=score.best_generation,
        last_generation=score.last_generation,
        count=score.count,
        summary=_short(score.last),
    )


def _checkpoint(before: ESFineTuneStatus, run: Run | None, ledger: Ledger) -> CheckpointStatus | None:
    """The newest checkpoint: a generation that is closed has its own, whoever wrote it."""
    if run is None or ledger.checkpoint is None:
        return before.checkpoint
    return CheckpointStatus(generation=ledger.checkpoint, uri=build.checkpoint_uri(run, ledger.checkpoint))


def _digest(situation: Situation, outcome: Outcome | None) -> str | None:
    if outcome is None or outcome.phase != SUCCEEDED:
        return None
    state = situation.progress.state
    if state is not None and state.finished:
        return final_digest(state)
    return situation.resource.status.digest


def _by_type(status: ESFineTuneStatus) -> dict[str, Condition]:
    return {condition.type: condition for condition in status.conditions or ()}


def _short(value: float) -> str:
    """A number for a column."""
    return f"{value:.4f}" if abs(value) < _LONG_NUMBER else f"{value:.4e}"


def _time(moment: datetime) -> str:
    """As the API server writes it: whole seconds, UTC."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
