"""How a run ends: which of several reasons counts, and when time is one."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from esft.status import Condition, ESFineTuneStatus
from esft.status import Progress as ProgressStatus
from esft.status.clock import Clock
from esft.status.ledger import Ledger
from esft_operator.decide.outcome import (
    awaits_redis,
    deadlines,
    has_started,
    is_to_continue,
    outcome_of,
)
from esft_operator.observe.children import Child, Observed
from esft_operator.observe.situation import Progress, Situation
from esft_operator.resource import Run
from operator_situations import NOW, body, finished, job, pod, situation, state

RUN = Run.from_body(body())
STARTED = "2026-03-01T12:00:00Z"
RUNNING = Progress(asked=True, state=state(RUN, 1), ledger=Ledger(generation=1))
OVER = Progress(asked=True, state=finished(RUN, 3), ledger=Ledger(generation=3))
NO_FITNESS = state(RUN, 1, phase="Failed", reason="NoFitness", message="all NaN")
REFUSING = Observed(pods=(pod(ended=True, exit_code=64, problem=("WorkersFailing", "spec.model: no such")),))
JOB_FAILED = Observed(job=job(RUN, finished_at=NOW, failure=("PodFailurePolicy", "container exited with 64")))
LATE = {"activeDeadlineSeconds": 60}


def recorded(kind: str, reason: str = "GenerationsDone", *, planned: int = 3) -> dict[str, Any]:
    """A status that says that the run is over."""
    condition = Condition(
        type=kind,
        status="True",
        reason=reason,
        message="m",
        last_transition_time=STARTED,
        observed_generation=1,
    )
    progress = ProgressStatus(generation=3, planned=planned, percent=100.0, summary="3/3")
    status = ESFineTuneStatus(conditions=(condition,), progress=progress, completion_time=STARTED)
    return status.as_dict()


def made(
    progress: Progress = RUNNING,
    observed: Observed | None = None,
    *,
    status: dict[str, Any] | None = None,
    seconds: float = 0,
    **changes: Any,
) -> Situation:
    resource = body(**changes)
    resource["status"] = status or {"activeSince": STARTED}
    return situation(
        resource,
        progress=progress,
        observed=observed or Observed(),
        now=NOW + timedelta(seconds=seconds),
    )


@pytest.mark.parametrize(
    ("now", "wanted"),
    [
        (made(), None),
        (made(Progress(asked=True)), None),
        (made(OVER), ("Succeeded", "GenerationsDone", False)),
        (made(replace(OVER, ledger=Ledger(generation=2))), None),  # its log is not read to its end yet
        (made(replace(RUNNING, state=NO_FITNESS)), ("Failed", "NoFitness", False)),
        (made(observed=REFUSING), ("Failed", "InvalidSpec", True)),
        (made(observed=JOB_FAILED), ("Failed", "PodFailurePolicy", True)),
        (made(seconds=61, **LATE), ("Failed", "DeadlineExceeded", True)),
        (made(seconds=59, **LATE), None),
        (made(seconds=61, suspend=True, **LATE), None),
        # the earlier of two
        (
            made(Progress(asked=True), seconds=100, activeDeadlineSeconds=60, pendingDeadlineSeconds=30),
            ("Failed", "PendingDeadlineExceeded", True),
        ),
        # what Redis says comes first
        (made(OVER, REFUSING, seconds=61, **LATE), ("Succeeded", "GenerationsDone", False)),
        (made(Progress(), REFUSING), None),
        (made(Progress(), seconds=61, **LATE), None),
        (made(replace(OVER, ledger=Ledger(generation=2)), seconds=61, **LATE), None),
        # nobody can say when Redis answers again
        (
            made(Progress(problem=("RedisUnavailable", "away")), seconds=61, **LATE),
            ("Failed", "DeadlineExceeded", True),
        ),
        (made(Progress(problem=("RedisUnavailable", "away")), REFUSING), ("Failed", "InvalidSpec", True)),
        # what is written stays written
        (made(Progress(), status=recorded("Complete")), ("Succeeded", "GenerationsDone", False)),
        (
            made(Progress(), status=recorded("Failed", "DeadlineExceeded")),
            ("Failed", "DeadlineExceeded", False),
        ),
        (made(Progress(), REFUSING, status=recorded("Complete")), ("Succeeded", "GenerationsDone", False)),
        # unless more is wanted
        (made(Progress(), status=recorded("Complete"), evolution__generations=5), None),
        (made(OVER, evolution__generations=5), None),
        (
            made(Progress(), status=recorded("Complete", "TargetScoreReached"), evolution__generations=5),
            ("Succeeded", "TargetScoreReached", False),
        ),
        (
            made(Progress(), status=recorded("Failed", "NoFitness"), evolution__generations=5),
            ("Failed", "NoFitness", False),
        ),
    ],
)
def test_outcome(now: Situation, wanted: tuple[str, str, bool] | None) -> None:
    found = outcome_of(now)
    assert (None if found is None else (found.phase, found.reason, found.is_news_to_workers)) == wanted


def test_the_digest_comes_from_redis_and_stays_when_its_keys_have_gone() -> None:
    for now in (made(OVER), made(Progress(), status=recorded("Complete") | {"digest": "0123456789abcdef"})):
        found = outcome_of(now)
        assert found is not None
        assert found.digest == "0123456789abcdef"


def test_a_foreign_jobs_failure_is_none_of_ours() -> None:
    theirs = Observed(job=job(RUN, child=Child("j", "someone", terminating=False), failure=("x", "y")))
    assert outcome_of(made(observed=theirs)) is None


def test_a_specification_that_cannot_be_read_is_an_end() -> None:
    found = outcome_of(made(evolution__parameters={"include": ["("]}))
    assert found is not None
    assert (found.phase, found.reason) == ("Failed", "InvalidSpec")


def test_a_worker_that_refuses_says_why() -> None:
    found = outcome_of(made(observed=REFUSING))
    assert found is not None
    assert found.message == "spec.model: no such"


@pytest.mark.parametrize(
    ("progress", "wanted"),
    [
        (Progress(), True),
        (Progress(problem=("RedisUnavailable", "away")), False),
        (Progress(asked=True), False),
        (RUNNING, False),
        (OVER, False),
        (replace(OVER, ledger=Ledger(generation=1)), True),
        (replace(RUNNING, ledger=Ledger(generation=0)), False),
    ],
)
def test_what_redis_has_yet_to_say(progress: Progress, *, wanted: bool) -> None:
    assert awaits_redis(progress) == wanted


@pytest.mark.parametrize(
    ("now", "wanted"),
    [
        (made(OVER), False),
        (made(OVER, evolution__generations=4), True),
        (made(RUNNING, evolution__generations=4), False),
        (made(replace(RUNNING, state=NO_FITNESS), evolution__generations=4), False),
        (made(Progress(), status=recorded("Complete"), evolution__generations=4), True),
        (made(Progress(), status=recorded("Complete", planned=4), evolution__generations=4), False),
    ],
)
def test_whether_it_is_to_continue(now: Situation, *, wanted: bool) -> None:
    assert is_to_continue(now) == wanted


def clock(now: datetime = NOW, *, active: bool = True, **status: Any) -> Clock:
    return Clock.of(ESFineTuneStatus(**status), active=active, now=now)


def test_the_clock_stands_while_the_run_is_not_active() -> None:
    later = NOW + timedelta(seconds=10)
    assert clock() == Clock(0.0, NOW)
    assert clock(later, active_since=STARTED, active_seconds=5.0).seconds(later) == pytest.approx(15.25)
    stopped = clock(later, active=False, active_since=STARTED, active_seconds=5.0)
    assert stopped == Clock(pytest.approx(15.25), None)
    assert stopped.seconds(later + timedelta(days=1)) == pytest.approx(15.25)
    assert clock(later, active=False, active_seconds=15.25) == stopped
    assert clock(later, active_seconds=15.25) == Clock(15.25, later)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, {"DeadlineExceeded": 100, "PendingDeadlineExceeded": 50}),
        ({"observed": Observed(pods=(pod(ready=True),))}, {"DeadlineExceeded": 100}),
        ({"progress": RUNNING}, {"DeadlineExceeded": 100}),
    ],
)
def test_deadlines(fields: dict[str, Any], wanted: dict[str, int]) -> None:
    given: dict[str, Any] = {"progress": Progress(asked=True), **fields}
    now = made(activeDeadlineSeconds=130, pendingDeadlineSeconds=80, **given)
    found = deadlines(now, Clock(30.0, NOW))
    assert {each.reason: (due - NOW).total_seconds() for due, each in found} == wanted
    assert deadlines(now, Clock(30.0, None)) == []


def test_a_run_has_started_once_and_for_all() -> None:
    assert not has_started(made(Progress(asked=True)))
    assert has_started(made(Progress(asked=True), status={"startTime": STARTED}))
    assert not has_started(made(Progress(), Observed(pods=(pod(ready=True, terminating=True),))))


def test_whether_an_end_is_recorded() -> None:
    assert not ESFineTuneStatus().end
    assert ESFineTuneStatus.model_validate(recorded("Failed"), by_alias=True).end
