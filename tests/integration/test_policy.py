"""What changes while a run goes on is in force from its next generation, whatever its workers were started with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from esft.errors import VersionError
from esft.generation import opened
from esft.policy import Policy
from esft.queue import RunQueue, connect
from esft.records import UpdateRecord
from esft.spec import ESFineTuneSpec
from random_models import save_random_model
from simulated_worker import create_run
from worker_runs import log_of, once, spec_of, work, worker_of

pytestmark = pytest.mark.integration

QUIET: dict[str, Any] = {"monitoring": {"kl": None}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def importable_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grading process finds sample_tasks where this one does."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))


@pytest.fixture
def queue(redis_client: redis.Redis, redis_url: str, request: pytest.FixtureRequest) -> Iterator[RunQueue]:
    with connect(redis_url, patience_seconds=20) as client:
        yield RunQueue(client, f"run-of-{request.node.name}")


def tell(queue: RunQueue, spec: ESFineTuneSpec, *, version: int) -> None:
    """What the operator does when a specification has changed."""
    assert queue.set_policy(Policy.of(spec, version=version).to_json(), version=version)


def records_of(queue: RunQueue) -> list[UpdateRecord]:
    return [UpdateRecord.from_json(text) for text in log_of(queue)]


@pytest.mark.parametrize("started_with", ["the old specification", "the new one"])
def test_more_generations_in_the_last_one_go_on_as_if_they_had_been_planned(
    model: Path, queue: RunQueue, tmp_path: Path, started_with: str
) -> None:
    short, long = (spec_of(model, evolution={"generations": count}, **QUIET) for count in (2, 4))
    expected = work(long, queue, tmp_path / "planned")
    log = log_of(queue)
    queue.delete()
    create_run(queue, short, log[:2])
    assert "member:0" not in queue.state().opening.items
    tell(queue, long, version=2)
    spec = short if started_with == "the old specification" else long
    assert work(spec, queue, tmp_path / "raised") == expected
    assert log_of(queue) == log


def test_shards_that_are_out_count_though_evaluation_is_not_due_any_more(
    model: Path, queue: RunQueue, tmp_path: Path
) -> None:
    before, after = (spec_of(model, evaluation={"everyGenerations": every}, **QUIET) for every in (2, 3))
    work(before, queue, tmp_path / "first")
    log = log_of(queue)
    queue.delete()
    create_run(queue, before, log[:2])
    tell(queue, after, version=2)
    work(after, queue, tmp_path / "second")
    evaluated = [record.evaluation and record.evaluation.examples for record in records_of(queue)]
    assert evaluated == [12, None, 12, 12, None]


def test_a_redis_that_lost_the_run_is_filled_with_the_sigma_that_the_generation_had(
    model: Path, queue: RunQueue, tmp_path: Path
) -> None:
    """The worker was started before `generations` was raised, which changes where the schedule has got to."""
    schedule = {"schedule": {"sigma": "linear", "learningRate": "linear"}}
    short, long = (spec_of(model, evolution={"generations": count} | schedule, **QUIET) for count in (4, 8))

    def run(folder: Path, *, lose: bool) -> list[str]:
        create_run(queue, short)
        raise_them, raised = once(lambda: len(log_of(queue)) == 1, lambda: tell(queue, long, version=2))
        lose_it, lost = once(lambda: lose and len(log_of(queue)) == 3, queue.delete)
        work(short, queue, folder, should_stop=lambda: raise_them() or lose_it())
        assert (raised.is_set(), lost.is_set()) == (True, lose)
        log = log_of(queue)
        queue.delete()
        return log

    undisturbed = run(tmp_path / "first", lose=False)
    assert run(tmp_path / "second", lose=True) == undisturbed
    sigmas = [UpdateRecord.from_json(text).sigma for text in undisturbed]
    assert sigmas[:2] == [0.02, 0.02 * 0.75]
    assert sigmas[2:] == [0.02 * (1 - generation / 8) for generation in range(2, 8)]


CHANGES: tuple[dict[str, Any], ...] = (
    {"evaluation": {"everyGenerations": 3}},
    {"evolution": {"generations": 7}},
    {"workers": {"claimSize": 3, "leaseSeconds": 20}, "checkpoint": {"everyGenerations": 3, "keep": 1}},
)


def test_the_same_changes_in_another_order_end_in_the_same_weights(
    model: Path, queue: RunQueue, tmp_path: Path
) -> None:
    digests = set()
    for order in ((0, 1, 2), (2, 1, 0)):
        create_run(queue, spec_of(model, **QUIET))
        told = [tell_after(queue, model, order[: count + 1], after=count) for count in range(3)]
        folder = tmp_path / "".join(map(str, order))
        result = work(
            spec_of(model, **QUIET), queue, folder, should_stop=lambda told=told: any(act() for act in told)
        )
        assert result["generation"] == 7
        assert [path.name for path in folder.glob("generation-*")] == ["generation-000007"]
        digests.add(result["digest"])
        queue.delete()
    assert len(digests) == 1


def tell_after(queue: RunQueue, model: Path, changes: tuple[int, ...], *, after: int) -> Any:
    """A `should_stop` that tells the run of the changes so far once so many generations are closed."""
    sections = dict(QUIET)
    for change in changes:
        sections |= CHANGES[change]
    spec = spec_of(model, **sections)
    act, _ = once(lambda: len(log_of(queue)) > after, lambda: tell(queue, spec, version=after + 2))
    return act


def test_what_a_worker_takes_at_once_follows_the_run(model: Path, queue: RunQueue, tmp_path: Path) -> None:
    spec = spec_of(model, **QUIET)
    create_run(queue, spec)
    tell(queue, spec_of(model, workers={"claimSize": 5}, **QUIET), version=2)
    most = 0

    def watch() -> bool:
        nonlocal most
        most = max(most, queue.state().outstanding)
        return False

    work(spec, queue, tmp_path, should_stop=watch)
    assert 5 <= most <= 7, "one claim, and at most two rollouts whose grades are under way"


def test_a_worker_started_with_a_newer_specification_waits_for_the_runs_own(
    model: Path, queue: RunQueue, tmp_path: Path
) -> None:
    """It may have been told by a ConfigMap before the operator has told Redis: all the same all close alike."""
    spec, newer = spec_of(model, **QUIET), spec_of(model, evaluation={"everyGenerations": 1}, **QUIET)
    create_run(queue, spec)
    with worker_of(newer, queue, tmp_path) as worker:
        worker.run()
    assert [record.evaluation is not None for record in records_of(queue)] == [True, False, True, False, True]


def test_a_run_of_another_version_is_refused_and_its_image_is_named(
    model: Path, queue: RunQueue, redis_client: redis.Redis, tmp_path: Path
) -> None:
    spec = spec_of(model, **QUIET)
    create_run(queue, spec)
    redis_client.hset(queue.keys[0], mapping={"contract": "format 9, noise 1", "release": "9.9.9"})
    with (
        worker_of(spec, queue, tmp_path) as worker,
        pytest.raises(VersionError, match=r"esfinetune/worker:9\.9\.9"),
    ):
        worker.run()


def test_the_opening_of_a_policy_is_the_same_however_it_was_written() -> None:
    spec = ESFineTuneSpec.model_validate(
        {"model": {"source": "tiny://countdown"}, "task": {"name": "countdown", "train": {"size": 8}}}
    )
    policy = Policy.of(spec, version=3)
    again = Policy.from_json(policy.to_json())
    assert again == policy
    assert opened(spec, 7, again) == opened(spec, 7, policy)
    assert Policy.from_json(policy.to_json().replace("{", '{"later": 1, ', 1)) == policy
