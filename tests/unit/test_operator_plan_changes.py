"""What a change of the specification leads to: the run is told, its pods are replaced, or it goes on after its end."""

from dataclasses import replace
from typing import Any

import pytest

from esft.policy import Policy
from esft.status.ledger import Ledger
from esft_operator.decide.actions import ReopenRun, SetPolicy
from esft_operator.decide.plan import plan
from esft_operator.observe.situation import Progress
from esft_operator.resource import Run
from operator_situations import body, condition, situation, state
from operator_world import World


@pytest.mark.parametrize(
    "changes",
    [
        {"workers__template": {"spec": {"nodeSelector": {"gpu": "h100"}}}},
        {"workers__template": {"metadata": {"labels": {"team": "a"}}}},
    ],
)
def test_what_pods_cannot_change_replaces_the_job(world: World, changes: dict[str, Any]) -> None:
    assert world.job is not None
    before, since = world.job.child.uid, len(world.actions)
    world.change(**changes)
    world.settle()
    assert world.job.child.uid != before
    kinds = world.kinds(since)
    assert kinds.index("DeleteJob") < kinds.index("Apply Job")


POLICY_CHANGES = [
    {"evolution__generations": 5},
    {"evaluation__everyGenerations": 2},
    {"checkpoint__everyGenerations": 1},
    {"checkpoint__keep": 1},
    {"monitoring": {"kl": {"everyGenerations": 1, "prompts": 2}}},
    {"stop__patience": 2},
    {"workers__quorum": 0.5},
    {"workers__claimSize": 2},
    {"workers__leaseSeconds": 30},
]


@pytest.mark.parametrize("changes", POLICY_CHANGES)
def test_what_may_change_is_told_to_the_run_and_replaces_no_pod(changes: dict[str, Any]) -> None:
    world = World()
    world.settle()
    world.train(1)
    world.settle()
    pods, since = dict(world.pods), len(world.actions)
    world.change(**changes)
    world.settle()
    assert world.pods == pods
    told = [action.policy for action in world.actions[since:] if isinstance(action, SetPolicy)]
    assert told == [Run.from_body(world.body).policy]
    assert told[0].version == world.body["metadata"]["generation"]


def test_a_change_that_is_none_of_the_runs_business_is_not_told(world: World) -> None:
    world.train(1)
    world.change(workers__maxReplicas=4)
    world.settle()
    assert "SetPolicy" not in world.kinds()


@pytest.mark.parametrize(
    "changes",
    [
        {"workers__maxReplicas": 4},
        {"workers__replicas": 1},
        {"ttlSecondsAfterFinished": 9},
        {"activeDeadlineSeconds": 900},
        {"pendingDeadlineSeconds": 900},
    ],
)
def test_what_does_not_concern_pods_keeps_the_job(world: World, changes: dict[str, Any]) -> None:
    since = len(world.actions)
    world.change(**changes)
    world.settle()
    assert "DeleteJob" not in world.kinds(since)


def test_raised_while_it_runs(world: World) -> None:
    world.train()
    world.change(evolution__generations=5)
    world.settle()
    assert world.status.progress is not None
    assert world.status.progress.summary == "1/5"
    assert "ReopenRun" not in world.kinds()


def test_raised_while_suspended(world: World) -> None:
    world.change(suspend=True, evolution__generations=5)
    world.settle()
    assert world.status.phase == "Suspended"
    world.change(suspend=False)
    world.settle()
    assert world.status.progress is not None
    assert world.status.progress.planned == 5


@pytest.mark.parametrize("suspended", [False, True])
@pytest.mark.parametrize("is_recorded", [False, True])
def test_raised_after_the_end(world: World, *, is_recorded: bool, suspended: bool) -> None:
    world.train(4)
    world.finish_job()
    if is_recorded:
        world.settle()
        assert world.status.phase == "Succeeded"
    world.change(evolution__generations=5, suspend=suspended or None)
    world.settle()
    assert world.status.phase == ("Suspended" if suspended else "Running")
    assert condition(world.status, "Complete") is None
    assert world.status.completion_time is None
    assert world.redis.state is not None
    assert not world.redis.state.finished
    if is_recorded and not suspended:
        assert world.reasons[-1] == "Continued"
    world.change(suspend=None)
    world.settle()
    world.train(9)
    world.settle()
    assert world.status.phase == "Succeeded"
    assert world.status.progress is not None
    assert world.status.progress.summary == "5/5"


def test_a_run_that_goes_on_after_its_end_is_told_before_a_worker_closes_a_generation(world: World) -> None:
    world.train(4)
    world.settle()
    since = len(world.actions)
    world.change(evolution__generations=5)
    world.settle()
    assert world.kinds(since)[:2] == ["SetPolicy", "ReopenRun"]
    assert world.redis.state is not None
    assert Policy.from_json(world.redis.state.policy).generations == 5


@pytest.mark.parametrize("is_recorded", [False, True])
def test_a_run_that_goes_on_after_its_end_gets_another_job_once(world: World, *, is_recorded: bool) -> None:
    """One of the old Job's pods may have succeeded by now, after which Kubernetes starts no more."""
    world.train(4)
    if is_recorded:
        world.settle()
    assert world.job is not None
    before, since = world.job.child.uid, len(world.actions)
    world._look()
    world.change(evolution__generations=5)
    world.settle()
    assert world.job.child.uid != before
    assert world.kinds(since).count("DeleteJob") == 1
    assert world.kinds(since).index("ReopenRun") < world.kinds(since).index("DeleteJob")


def test_raised_after_the_end_with_redis_emptied_since(world: World) -> None:
    world.train(4)
    world.settle()
    world.lose_redis()
    world.change(evolution__generations=5)
    world.settle()
    assert world.status.phase == "Running"
    assert world.redis.has_user
    world.train(9)
    world.settle()
    assert world.status.phase == "Succeeded"


@pytest.mark.parametrize("reason", ["TargetScoreReached", "PatienceExhausted"])
def test_raised_after_an_early_end_changes_nothing(world: World, reason: str) -> None:
    world.train(2)
    assert world.redis.state is not None
    world.redis.state = replace(world.redis.state, phase="Succeeded", reason=reason, message="Good enough.")
    world.settle()
    world.change(evolution__generations=9)
    world.settle()
    found = condition(world.status, "Complete")
    assert found is not None
    assert found.reason == reason
    assert "ReopenRun" not in world.kinds()


def test_a_run_is_reopened_where_redis_says_it_ended_not_where_the_log_was_read_to() -> None:
    made = body(evolution__generations=9)
    ended = state(Run.from_body(made), 3, phase="Succeeded", reason="GenerationsDone")
    decided = plan(situation(made, progress=Progress(asked=True, state=ended, ledger=Ledger(generation=1))))
    (reopened,) = (each for each in decided.actions if isinstance(each, ReopenRun))
    assert reopened.opening.generation == 3
