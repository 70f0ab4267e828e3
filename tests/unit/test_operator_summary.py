"""What people see of a run: conditions, Events, messages."""

import json
import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from esft.records import FitnessStatistics
from esft.status import ESFineTuneStatus
from esft.status.clock import Clock
from esft.status.ledger import Ledger
from esft.status.report import Outcome
from esft_operator.decide.actions import Event
from esft_operator.decide.summary import events_between, status_of
from esft_operator.observe.children import Observed, PodView
from esft_operator.observe.situation import Progress, Situation
from esft_operator.resource import Run
from operator_situations import NOW, body, condition, entry, finished, job, pod, situation, state

RUN = Run.from_body(body())
DONE = Outcome("Succeeded", "GenerationsDone", "All 3 generations done.", "0123456789abcdef")
LOST = Outcome("Failed", "DeadlineExceeded", "Too late.")
RUNNING = Progress(asked=True, state=state(RUN, 1), ledger=Ledger(generation=1))
READY = (pod("a", ready=True), pod("b", ready=True))
OLD, NEW = NOW - timedelta(seconds=60), NOW - timedelta(seconds=30)
FAILED = ("WorkersFailing", "the disk is full")


def status(
    *,
    outcome: Outcome | None = None,
    desired: int = 2,
    before: ESFineTuneStatus | None = None,
    pods: tuple[PodView, ...] = (),
    generation: int = 1,
    changes: dict[str, Any] | None = None,
    **fields: Any,
) -> ESFineTuneStatus:
    made = body(**changes or {})
    made["metadata"]["generation"] = generation
    if before is not None:
        made["status"] = json.loads(before.model_dump_json(by_alias=True, exclude_none=True))
    seen = Observed(job=job(RUN), pods=pods)
    now: Situation = situation(made, **{"observed": seen, "progress": RUNNING, **fields})
    found = status_of(now, outcome=outcome, desired=desired, clock=Clock(0.0, now.now))
    ESFineTuneStatus.model_validate(found.as_dict(), by_alias=True)
    return found


def reason(found: ESFineTuneStatus, kind: str) -> tuple[str, str]:
    seen = condition(found, kind)
    assert seen is not None
    return seen.status, seen.reason


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, ("False", "Starting")),
        ({"pods": (pod(),)}, ("False", "Starting")),
        ({"pods": READY}, ("True", "AllReady")),
        ({"pods": READY, "desired": 1}, ("True", "AllReady")),  # one too many is leaving
        ({"pods": READY[:1]}, ("False", "Starting")),
        ({"desired": 0}, ("False", "ScaledToZero")),
        ({"changes": {"suspend": True}, "desired": 0}, ("False", "Suspended")),
        ({"outcome": DONE, "desired": 0}, ("False", "Finished")),
        ({"pods": (pod(problem=("ImagePullFailed", "x")),)}, ("False", "ImagePullFailed")),
        ({"pods": (pod(problem=("Unschedulable", "x")),)}, ("False", "Starting")),  # made this moment
        ({"pods": (pod(problem=("Unschedulable", "x"), created_at=OLD),)}, ("False", "Unschedulable")),
        ({"pods": (pod(problem=("ImagePullFailed", "x"), terminating=True),)}, ("False", "Starting")),
        # one that has failed counts until one that was made later works
        (
            {"pods": (pod("a", ended=True, problem=FAILED, created_at=OLD), pod("b"))},
            ("False", "WorkersFailing"),
        ),
        (
            {"pods": (pod("a", ended=True, problem=FAILED, created_at=OLD), pod("b", ready=True))},
            ("False", "Starting"),
        ),
        (
            {"pods": (pod("a", ended=True, problem=FAILED), pod("b", ready=True, created_at=OLD))},
            ("False", "WorkersFailing"),
        ),
        # with enough others it is no matter
        ({"pods": (*READY, pod("c", ended=True, problem=FAILED))}, ("True", "AllReady")),
    ],
)
def test_workers_ready(fields: dict[str, Any], wanted: tuple[str, str]) -> None:
    found = status(**fields)
    expected = ("False", "NoPods") if wanted[1] == "Starting" and not _living(fields) else wanted
    assert reason(found, "WorkersReady") == expected


def _living(fields: dict[str, Any]) -> bool:
    return any(not each.ended for each in fields.get("pods", ()))


def test_the_most_telling_pod_is_named() -> None:
    pods = (
        pod("b", problem=("ContainerFailed", "second")),
        pod("a", problem=("ImagePullFailed", "first")),
        pod("c", ended=True, problem=FAILED),
    )
    seen = condition(status(pods=pods), "WorkersReady")
    assert seen is not None
    assert seen.message == "Pod a: first"
    latest = (
        pod("a", ended=True, problem=("WorkersFailing", "older"), created_at=OLD),
        pod("b", ended=True, problem=("WorkersFailing", "newer"), created_at=NEW),
    )
    seen = condition(status(pods=latest), "WorkersReady")
    assert seen is not None
    assert seen.message == "Pod b: newer"


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, ("True", "Running")),
        ({"progress": Progress(asked=True)}, ("False", "WaitingForWorkers")),
        (
            {"progress": Progress(problem=("RedisUnavailable", "Redis is away"))},
            ("Unknown", "RedisUnavailable"),
        ),
        ({"changes": {"suspend": True}}, ("False", "Suspended")),
        ({"outcome": LOST}, ("False", "DeadlineExceeded")),
    ],
)
def test_progressing(fields: dict[str, Any], wanted: tuple[str, str]) -> None:
    assert reason(status(**fields), "Progressing") == wanted


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, ("True", "AsExpected")),
        ({"progress": Progress(problem=("RedisUnavailable", "away"))}, ("False", "RedisUnavailable")),
        (
            {"progress": Progress(problem=("AnotherVersion", "0.1.0"), asked=True)},
            ("False", "AnotherVersion"),
        ),
        (
            {"progress": Progress(problem=("RedisUnavailable", "away")), "outcome": DONE},
            ("True", "AsExpected"),
        ),
        ({"failure": ("ChildConflict", "theirs")}, ("False", "ChildConflict")),
        ({"failure": ("ChildConflict", "x"), "outcome": DONE}, ("False", "ChildConflict")),
    ],
)
def test_healthy(fields: dict[str, Any], wanted: tuple[str, str]) -> None:
    assert reason(status(**fields), "Healthy") == wanted


@pytest.mark.parametrize(
    ("fields", "phase", "ends"),
    [
        ({"progress": Progress(asked=True)}, "Pending", []),
        ({}, "Running", []),
        ({"changes": {"suspend": True}}, "Suspended", []),
        ({"outcome": DONE}, "Succeeded", ["Complete"]),
        ({"outcome": LOST}, "Failed", ["Failed"]),
        ({"outcome": LOST, "changes": {"suspend": True}}, "Failed", ["Failed"]),
    ],
)
def test_the_phase_sums_up_the_conditions(fields: dict[str, Any], phase: str, ends: list[str]) -> None:
    found = status(**fields)
    assert found.phase == phase
    types = [each.type for each in found.conditions or ()]
    assert types == ["WorkersReady", "Progressing", "Healthy", "Suspended", *ends]
    assert (found.completion_time is not None) == bool(ends)


def test_a_conditions_time_is_that_of_its_last_change_of_value() -> None:
    before = status(pods=READY[:1])
    later = {"now": NOW + timedelta(seconds=60), "before": before, "generation": 2}
    same = condition(status(**later, pods=(pod(problem=("ImagePullFailed", "x")),)), "WorkersReady")
    turned = condition(status(**later, pods=READY), "WorkersReady")
    assert same is not None
    assert turned is not None
    assert same.last_transition_time == "2026-03-01T12:00:00Z"
    assert turned.last_transition_time == "2026-03-01T12:01:00Z"
    assert same.observed_generation == turned.observed_generation == 2


def test_messages_are_cut() -> None:
    seen = condition(status(failure=("ChildRefused", "x" * 5000)), "Healthy")
    assert seen is not None
    assert len(seen.message) == 2048
    assert seen.message.endswith("…")


def ledger(generation: int, **fields: Any) -> dict[str, Any]:
    return {"progress": replace(RUNNING, ledger=Ledger(generation=generation, **fields))}


def closed(fitness: FitnessStatistics) -> dict[str, Any]:
    made = Ledger().closed(
        0, fitness=fitness, evaluation=None, checkpoint=False, seconds=2.0, member_seconds=8.0
    )
    return {"progress": replace(RUNNING, ledger=made)}


def test_progress() -> None:
    found = status(**ledger(1, generation_seconds=2.5))
    assert found.progress is not None
    assert found.progress.model_dump(by_alias=False) == {
        "generation": 1,
        "planned": 3,
        "percent": 33.3,
        "estimated_remaining_seconds": 5.0,
        "summary": "1/3",
    }
    over = status(outcome=DONE, **ledger(3, generation_seconds=2.5)).progress
    assert over is not None
    assert (over.percent, over.estimated_remaining_seconds) == (100.0, None)


@pytest.mark.parametrize(
    ("mean", "summary"),
    [(0.42137, "0.4214"), (-1.0, "-1.0000"), (1e60, "1.0000e+60"), (math.nan, None), (math.inf, None)],
)
def test_fitness(mean: float, summary: str | None) -> None:
    found = status(**closed(FitnessStatistics(mean, mean, mean, 0.0, 4))).fitness
    assert (None if found is None else found.summary) == summary


def test_a_deviation_that_overflows_is_not_shown() -> None:
    overflowed = FitnessStatistics(1e200, 1e200, -1e200, math.inf, 4)
    assert status(**closed(overflowed)).fitness is None


def test_evaluation_counts_the_final_one_once() -> None:
    entries = [entry(generation, score=0.1 * generation) for generation in range(3)]
    over = Progress(asked=True, state=finished(RUN, 3), ledger=Ledger().followed_by(entries))
    first = status(outcome=DONE, progress=over)
    assert first.evaluation is not None
    assert (first.evaluation.count, first.evaluation.last_generation) == (4, 3)
    assert first.digest == "0123456789abcdef"
    recorded = Progress(ledger=Ledger.from_status(first))
    again = status(outcome=DONE, progress=recorded, before=first)
    assert again.evaluation == first.evaluation
    assert again.digest == first.digest


def test_scores_may_be_of_any_size() -> None:
    huge = Ledger().followed_by([entry(0, score=1e300), entry(1, score=-1e300)]).score
    assert status(**ledger(2, score=huge)).evaluation == huge


@pytest.mark.parametrize(("saved", "wanted"), [(None, None), (2, 2)])
def test_checkpoint(saved: int | None, wanted: int | None) -> None:
    found = status(**ledger(3, checkpoint=saved)).checkpoint
    assert (None if found is None else found.generation) == wanted


def reasons(before: ESFineTuneStatus, after: ESFineTuneStatus) -> list[str]:
    assert list(events_between(after, after)) == []
    return [each.reason for each in events_between(before, after)]


NEW_RUN = ESFineTuneStatus()
PENDING = status(progress=Progress(asked=True))
UNDER_WAY = status(pods=READY)
PAUSED = status(changes={"suspend": True}, desired=0)
SUCCEEDED = status(outcome=DONE, desired=0)
STUCK = status(pods=(pod(problem=("ImagePullFailed", "x")),))
BROKEN = status(pods=READY, failure=("ChildConflict", "theirs"))


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        (NEW_RUN, PENDING, []),
        (PENDING, UNDER_WAY, ["Started"]),
        (NEW_RUN, UNDER_WAY, ["Started"]),
        (UNDER_WAY, PAUSED, ["Suspended"]),
        (PAUSED, PENDING, ["Resumed"]),
        (PAUSED, UNDER_WAY, ["Resumed"]),
        (UNDER_WAY, SUCCEEDED, ["Completed"]),
        (UNDER_WAY, status(outcome=LOST), ["Failed"]),
        (SUCCEEDED, UNDER_WAY, ["Continued"]),
        (SUCCEEDED, PAUSED, ["Suspended"]),
        (UNDER_WAY, STUCK, ["ImagePullFailed"]),
        (STUCK, UNDER_WAY, ["WorkersRecovered"]),
        (STUCK, status(pods=(pod(),)), ["WorkersRecovered"]),  # pulled, and starting
        (STUCK, status(pods=(pod(problem=("ContainerFailed", "y")),)), ["ContainerFailed"]),
        (STUCK, status(pods=(pod(problem=("ImagePullFailed", "y")),)), []),
        (STUCK, PAUSED, ["Suspended"]),
        (STUCK, SUCCEEDED, ["Completed"]),
        (UNDER_WAY, BROKEN, ["ChildConflict"]),
        (BROKEN, UNDER_WAY, ["Recovered"]),
        (BROKEN, status(pods=READY, failure=("Forbidden", "x")), ["Forbidden"]),
        (UNDER_WAY, status(pods=READY, desired=1), ["Scaled"]),
        (PAUSED, status(changes={"suspend": True}, desired=0), []),
    ],
)
def test_events(before: ESFineTuneStatus, after: ESFineTuneStatus, wanted: list[str]) -> None:
    assert reasons(before, after) == wanted


def test_a_checkpoint_is_told_of_once() -> None:
    saved = status(pods=READY, **ledger(2, checkpoint=2))
    later = status(pods=READY, before=saved, **ledger(3, checkpoint=2))
    (event,) = events_between(UNDER_WAY, saved)
    assert event == Event(
        "CheckpointSaved",
        "Generation 2 is saved at pvc://tune-checkpoints/checkpoints/generation-000002.",
    )
    assert list(events_between(saved, later)) == []


def test_only_bad_news_is_a_warning() -> None:
    def warnings(after: ESFineTuneStatus, before: ESFineTuneStatus = UNDER_WAY) -> set[bool]:
        return {each.warning for each in events_between(before, after)}

    for bad in (status(outcome=LOST), STUCK, BROKEN):
        assert warnings(bad) == {True}
    for good in (PAUSED, SUCCEEDED):
        assert warnings(good) == {False}
    assert warnings(UNDER_WAY, before=STUCK) == {False}
