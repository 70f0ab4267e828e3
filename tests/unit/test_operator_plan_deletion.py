"""What is left of a run that is deleted, whatever it was doing and whoever was away: nothing."""

from datetime import timedelta
from typing import Any

import pytest

from esft_operator.decide.plan import DELETION_SECONDS, Plan, plan
from esft_operator.observe.children import Observed
from esft_operator.resource import Run
from operator_situations import NOW, body, job, pod, situation
from operator_world import World, kinds_of

RUN = Run.from_body(body())


@pytest.mark.parametrize("phase", ["new", "Running", "Suspended", "Succeeded", "Failed"])
def test_deletion_leaves_nothing_in_any_phase(world: World, phase: str) -> None:
    match phase:
        case "new":
            world = World()
            world._do(plan(situation()).actions[0])
        case "Suspended":
            world.change(suspend=True)
        case "Succeeded":
            world.train(9)
        case "Failed":
            world.finish_job(("PodFailurePolicy", "exit code 64"))
    if phase != "new":
        world.settle()
        assert world.status.phase == phase
    since = len(world.actions)
    world.delete()
    world.settle()
    assert world.body is None
    assert world.kinds(since)[-2:] == ["RemoveFromRedis", "RemoveFinalizer"]


def deleted(seconds: float, **changes: Any) -> dict[str, Any]:
    made = body(**changes)
    at = (NOW - timedelta(seconds=seconds)).replace(microsecond=0)
    made["metadata"] |= {
        "deletionTimestamp": at.isoformat().replace("+00:00", "Z"),
        "finalizers": ["esfinetune.dev/finalizer"],
    }
    return made


OWN = {"redis__urlSecretRef": {"name": "mine"}}
LIVING = Observed(job=job(RUN), pods=(pod(),))


@pytest.mark.parametrize(
    ("made", "observed", "wanted"),
    [
        (deleted(1), LIVING, ["DeleteJob", "RemoveFromRedis", "RemoveFinalizer"]),
        (deleted(1), Observed(), ["RemoveFromRedis", "RemoveFinalizer"]),
        (deleted(1, **OWN), LIVING, ["DeleteJob"]),  # a worker could write until it ends
        (
            deleted(1, **OWN),
            Observed(pods=(pod(ended=True),)),
            ["RemoveFromRedis", "RemoveFinalizer"],
        ),
        (
            deleted(DELETION_SECONDS + 1, **OWN),
            LIVING,
            ["DeleteJob", "RemoveFromRedis", "RemoveFinalizer"],
        ),
    ],
)
def test_deletion(made: dict[str, Any], observed: Observed, wanted: list[str]) -> None:
    decided = plan(situation(made, observed=observed))
    assert kinds_of(decided.actions) == wanted
    assert decided.status is None


def test_a_deletion_ends_though_redis_is_away(world: World) -> None:
    world.redis.is_away = True
    world.delete()
    world.settle()
    assert world.body is not None
    world.advance(DELETION_SECONDS + 1)
    world.settle()
    assert world.body is None
    assert world.reasons[-1] == "KeysLeftInRedis"


def test_a_deletion_that_no_operator_was_there_to_see_cleans_redis(world: World) -> None:
    world.train()
    world.settle()
    world.delete()
    world.advance(3600)
    world.restart()
    world.settle()
    assert world.body is None
    assert "RemoveFromRedis" in world.kinds()
    assert "KeysLeftInRedis" not in world.reasons


def test_a_deletion_without_our_finalizer_is_not_ours() -> None:
    made = deleted(1)
    made["metadata"]["finalizers"] = ["someone/else"]
    assert plan(situation(made)) == Plan()
