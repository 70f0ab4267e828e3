"""What the operator decides, in a world in memory; tests/cluster asks a real API server the same."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from esft.status.ledger import Ledger
from esft_operator.decide.actions import Apply, FinishRun
from esft_operator.decide.plan import Plan, plan
from esft_operator.observe.children import Child, Observed
from esft_operator.observe.situation import Progress, Situation
from esft_operator.resource import Run
from operator_situations import NOW, body, condition, job, situation, state
from operator_world import World, kinds_of

RUN = Run.from_body(body())
EVERYTHING = ["AddFinalizer", "Apply ConfigMap", "Apply PersistentVolumeClaim", "GrantAccess", "Apply Job"]


def job_of(decided: Plan) -> dict[str, Any]:
    (found,) = (
        each.manifest
        for each in decided.actions
        if isinstance(each, Apply) and each.manifest["kind"] == "Job"
    )
    return found


def test_a_new_run_gets_everything_in_order_and_then_nothing_more() -> None:
    decided = plan(situation(refresh=True))
    assert kinds_of(decided.actions) == EVERYTHING
    assert decided.status is not None
    assert decided.status.phase == "Pending"
    world = World()
    world.settle()
    before = len(world.actions), len(world.statuses)
    assert world.settle().actions == ()
    assert (len(world.actions), len(world.statuses)) == before
    assert world.reasons == []


def test_a_run_comes_to_its_end(world: World) -> None:
    for _ in range(4):
        world.train()
        world.settle()
    world.finish_job()
    world.settle()
    assert world.status.phase == "Succeeded"
    assert world.status.digest == "0123456789abcdef"
    assert world.status.progress is not None
    assert world.status.progress.summary == "3/3"
    assert world.status.evaluation is not None
    assert world.status.evaluation.count == 4
    assert world.reasons == ["Started", "CheckpointSaved", "CheckpointSaved", "Completed"]
    assert condition(world.status, "Failed") is None


def test_suspended_and_resumed(world: World) -> None:
    world.train()
    since = len(world.actions)
    world.change(suspend=True)
    decided = world.settle()
    assert "DeleteJob" in world.kinds(since)
    assert world.job is None
    assert world.status.phase == "Suspended"
    assert world.status.workers is not None
    assert world.status.workers.desired == 0
    assert decided.actions == ()  # not even access, however long it lasts
    world.change(suspend=False)
    world.settle()
    assert world.job is not None
    assert world.status.phase == "Running"
    assert world.reasons[-2:] == ["Suspended", "Resumed"]


def test_created_suspended() -> None:
    world = World(suspend=True)
    world.settle()
    assert world.kinds()[:3] == EVERYTHING[:3]
    assert "Apply Job" not in world.kinds()
    assert world.status.phase == "Suspended"
    world.change(suspend=False)
    world.settle()
    assert world.redis.has_user
    assert world.status.phase == "Pending"


@pytest.mark.parametrize(("replicas", "wanted"), [(1, 1), (2, 2)])
def test_parallelism_follows(replicas: int, wanted: int) -> None:
    made = body(workers__replicas=replicas)
    seen = Observed(job=job(RUN, parallelism=7))
    decided = plan(situation(made, observed=seen))
    assert job_of(decided)["spec"]["parallelism"] == wanted


def test_a_job_that_is_going_is_waited_for() -> None:
    for child in (Child("job-1", RUN.uid, terminating=True),):
        seen = Observed(job=job(RUN, child=child, template_hash="other"))
        assert not {"DeleteJob", "Apply Job"} & set(kinds_of(plan(situation(observed=seen)).actions))


def test_a_foreign_job_is_never_deleted() -> None:
    theirs = job(RUN, child=Child("theirs", "someone", terminating=False), template_hash=None)
    for changes in ({}, {"suspend": True}):
        decided = plan(situation(body(**changes), observed=Observed(job=theirs)))
        assert "DeleteJob" not in kinds_of(decided.actions)
        assert all(each.owned_uid is None for each in decided.actions if isinstance(each, Apply))


JOB_OVER = job(RUN, finished_at=NOW - timedelta(seconds=60))


@pytest.mark.parametrize(
    ("progress", "is_replaced"),
    [
        (Progress(asked=True, state=state(RUN, 1), ledger=Ledger(generation=1)), True),
        (Progress(asked=True), True),
        (Progress(), False),  # a restarted operator has not asked Redis yet
        (Progress(problem=("RedisUnavailable", "Redis is away")), False),
        (Progress(asked=True, problem=("RedisUnavailable", "Redis is away"), state=state(RUN, 1)), False),
    ],
)
def test_a_job_that_is_over_too_early_is_replaced_once_redis_was_asked(
    progress: Progress, *, is_replaced: bool
) -> None:
    decided = plan(situation(observed=Observed(job=JOB_OVER), progress=progress))
    assert ("DeleteJob" in kinds_of(decided.actions)) == is_replaced


def test_a_job_that_ended_this_moment_is_given_time() -> None:
    ended = job(RUN, finished_at=NOW)
    progress = Progress(asked=True, state=state(RUN, 3), ledger=Ledger(generation=3))
    decided = plan(situation(observed=Observed(job=ended), progress=progress))
    assert "DeleteJob" not in kinds_of(decided.actions)
    assert decided.again_at == NOW + timedelta(seconds=15)
    later = plan(situation(observed=Observed(job=ended), progress=progress, now=decided.again_at))
    assert "DeleteJob" in kinds_of(later.actions)


# Redis


def test_access_is_granted_again_when_redis_lost_the_run(world: World) -> None:
    world.train()
    world.settle()
    world.lose_redis()
    since = len(world.actions)
    world._look()  # the follower's next look, which finds nothing
    assert world._reconcile()[0].actions
    assert world.kinds(since) == ["GrantAccess"]
    assert world.redis.has_user
    world.train()
    world.settle()
    assert world.status.progress is not None
    assert world.status.progress.generation == 2


def test_a_redis_of_the_users_own_gets_no_user() -> None:
    made = body(redis__urlSecretRef={"name": "mine"})
    for progress in (
        Progress(asked=True),
        Progress(problem=("RedisUnavailable", "the operator may not read it")),
    ):
        decided = plan(situation(made, progress=progress, refresh=True))
        assert "GrantAccess" not in kinds_of(decided.actions)
        assert "Apply Job" in kinds_of(decided.actions)


def test_a_run_that_ended_while_no_operator_was_there(world: World) -> None:
    world.train()
    world.settle()
    world.train(9)
    world.finish_job()
    world.advance(3600)
    world.restart()
    since = len(world.actions)
    world.settle()
    assert world.status.phase == "Succeeded"
    assert "DeleteJob" not in world.kinds(since)


def test_the_end_in_redis_comes_before_a_deadline_that_passed_unseen(world: World) -> None:
    world.change(activeDeadlineSeconds=60)
    world.settle()
    world.train(9)
    world.advance(3600)
    world.restart()
    world.settle()
    assert world.status.phase == "Succeeded"


# whose it is, and what is refused


def test_another_controllers_run_is_left_alone() -> None:
    assert plan(situation(body(managedBy="example.com/other"))) == Plan()
    assert plan(situation(body(managedBy="esfinetune.dev/operator"))).actions


def test_an_invalid_specification_fails_the_run() -> None:
    made = body(evolution__parameters={"include": ["("]})
    decided = plan(situation(made, refresh=True))
    assert decided.status is not None
    assert decided.status.phase == "Failed"
    found = condition(decided.status, "Failed")
    assert found is not None
    assert found.reason == "InvalidSpec"
    assert "spec.evolution.parameters.include" in found.message
    assert kinds_of(decided.actions) == ["AddFinalizer"]


def test_a_refused_template_can_be_put_right() -> None:
    world = World(workers__template={"spec": {"restartPolicy": "Always"}})
    world.settle()
    assert world.status.phase == "Pending"
    found = condition(world.status, "Healthy")
    assert found is not None
    assert (found.status, found.reason) == ("False", "TemplateRefused")
    assert world.actions == []
    world.change(workers__template={})
    world.settle()
    assert world.job is not None
    assert world.reasons == ["TemplateRefused", "Recovered"]


def test_a_template_refused_later_leaves_the_run_going(world: World) -> None:
    assert world.job is not None
    before = world.job
    world.change(workers__template={"spec": {"restartPolicy": "Always"}})
    world.settle()
    assert world.job == before
    assert world.status.phase == "Running"


def test_storage_that_cannot_work_fails_the_run() -> None:
    world = World(checkpoint__storage={"uri": "s3://bucket/run"})
    world.settle()
    assert world.status.phase == "Failed"
    assert world.reasons == ["Failed"]


# time


def test_a_run_that_is_over_goes_after_its_time_to_live(world: World) -> None:
    world.change(ttlSecondsAfterFinished=30)
    world.train(9)
    world.finish_job()
    decided = world.settle()
    assert decided.again_at is not None
    world.now = decided.again_at
    world.settle()
    assert world.body is None


def test_an_invalid_specification_goes_after_its_time_to_live_too() -> None:
    made = body(evolution__parameters={"include": ["("]}, ttlSecondsAfterFinished=60)
    decided = plan(situation(made, refresh=True))
    assert decided.status is not None
    over = {**made, "status": decided.status.as_dict()}
    later = replace(situation(over), now=NOW + timedelta(seconds=61))
    assert "DeleteResource" in kinds_of(plan(later).actions)


def test_workers_that_do_not_leave_are_sent_away(world: World) -> None:
    world.train(9)
    decided = world.settle()
    assert world.job is not None
    assert decided.again_at is not None
    world.now = decided.again_at
    world.settle()
    assert world.job is None


@pytest.mark.parametrize(
    ("deadline", "reason", "starts"),
    [
        ("activeDeadlineSeconds", "DeadlineExceeded", True),
        ("activeDeadlineSeconds", "DeadlineExceeded", False),
        ("pendingDeadlineSeconds", "PendingDeadlineExceeded", False),
        ("pendingDeadlineSeconds", None, True),
    ],
)
def test_deadlines_count_active_time_only(deadline: str, reason: str | None, *, starts: bool) -> None:
    world = World(**{deadline: 100})
    world.settle()
    if starts:
        world.change_pods(ready=True)
        world.settle()
        world.train()
    world.advance(60)
    world.change(suspend=True)
    assert world.settle().again_at is None
    world.advance(10_000)
    world.settle()
    world.change(suspend=False)
    decided = world.settle()
    assert world.status.phase in {"Pending", "Running"}
    if reason is None:
        world.advance(10_000)
        world.settle()
        assert world.status.phase == "Running"
        return
    assert decided.again_at is not None
    assert 39 <= (decided.again_at - world.now).total_seconds() <= 41
    world.now = decided.again_at
    world.settle()
    found = condition(world.status, "Failed")
    assert found is not None
    assert found.reason == reason
    if starts:
        (told,) = (each for each in world.actions if isinstance(each, FinishRun))
        assert told.reason == reason


def test_kinds_that_a_cluster_may_not_have() -> None:
    keda = {"minReplicas": 0, "maxReplicas": 6, "replicas": 1, "autoscaling": {"keda": {}}}

    def made(changes: dict[str, Any], **has: bool) -> set[str]:
        now: Situation = situation(body(**changes), refresh=True, **has)
        return set(kinds_of(plan(now).actions)) - set(EVERYTHING)

    pair = {"Apply ScaledObject", "Apply TriggerAuthentication"}
    assert made({"workers": keda}) == set()
    assert made({}, has_pod_monitors=True, has_scaled_objects=True) == {"Apply PodMonitor"}
    assert made({"workers": keda}, has_scaled_objects=True) == pair
