"""One worker in this process, with a real Redis and a real (random) model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from esft.errors import ReplicaDivergedError, SpecError
from esft.queue import RunQueue, connect
from esft.records import UpdateRecord
from esft.spec import fingerprint
from esft_worker.checkpoint import CheckpointState, CheckpointStore
from esft_worker.engine import Drained
from esft_worker.tasks import TaskError
from random_models import save_random_model
from simulated_worker import create_run
from worker_runs import GENERATIONS, log_of, once, spec_of, work, worker_of

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def importable_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grading process finds sample_tasks where this one does."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))


@pytest.fixture
def queue(redis_client: Any, redis_url: str, request: pytest.FixtureRequest) -> Iterator[RunQueue]:
    with connect(redis_url, patience_seconds=20) as client:
        yield RunQueue(client, "run-of-" + request.node.name.replace(" ", ""))


def test_a_run_ends_with_log_checkpoints_and_evaluation(model: Path, queue: RunQueue, tmp_path: Path) -> None:
    spec = spec_of(model)
    result = work(spec, queue, tmp_path)
    records = [UpdateRecord.from_json(text) for text in log_of(queue)]
    assert [record.generation for record in records] == list(range(GENERATIONS))
    assert [record.evaluation is not None for record in records] == [True, False, True, False, True]
    assert [record.kl_divergence is not None for record in records] == [False, False, True, False, True]
    assert records[2].kl_divergence is not None
    assert records[2].kl_divergence > 0
    assert result["generation"] == GENERATIONS
    assert result["evaluation"]["examples"] == 12
    assert sorted(path.name for path in tmp_path.glob("generation-*")) == [
        "generation-000004",
        "generation-000005",
    ]
    assert CheckpointState.read(tmp_path / "generation-000005").digest == result["digest"]


@pytest.fixture(params=["checkpoint loaded", "checkpoint replayed"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a worker goes on from a checkpoint: the other way is predicted to take longer."""
    replaying = 1.0 if request.param == "checkpoint replayed" else 3.0
    monkeypatch.setattr("esft_worker.weights.Weights.seconds_to_apply", lambda *_: replaying)
    monkeypatch.setattr("esft_worker.replica.seconds_to_read", lambda *_: 2.0)
    return request.param


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_goes_on_exactly_without_redis(
    model: Path, queue: RunQueue, tmp_path: Path, dtype: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Stop after a checkpoint, lose Redis, go on from the checkpoint alone: the same log and digest."""
    caplog.set_level("INFO", logger="esft_worker.replica")
    spec = spec_of(model, model={"dtype": dtype})
    expected = work(spec, queue, tmp_path / "whole")
    expected_log = log_of(queue)
    queue.delete()
    with (
        worker_of(
            spec,
            queue,
            tmp_path / "parts",
            should_stop=(tmp_path / "parts/generation-000002").exists,
        ) as worker,
        pytest.raises(Drained),
    ):
        worker.run()
    assert 2 <= len(log_of(queue)) < GENERATIONS
    queue.delete()
    assert work(spec, queue, tmp_path / "parts") == expected
    assert log_of(queue) == expected_log
    assert way in caplog.messages


def test_a_late_worker_replays_the_log_from_the_base_model(
    model: Path, queue: RunQueue, tmp_path: Path
) -> None:
    spec = spec_of(model)
    expected = work(spec, queue, tmp_path / "first")
    log = log_of(queue)
    queue.delete()
    create_run(queue, spec, log[:3])
    assert work(spec, queue, tmp_path / "second") == expected
    assert log_of(queue) == log


def test_draining_hands_the_leases_back(model: Path, queue: RunQueue, tmp_path: Path) -> None:
    spec = spec_of(model, workers={"claimSize": 4})
    create_run(queue, spec)
    with worker_of(spec, queue, tmp_path, should_stop=lambda: queue.state().outstanding > 2) as worker:
        with pytest.raises(Drained):
            worker.run()
        state = queue.state()
    assert state.outstanding == 0
    assert state.todo + state.done == len(state.opening.items)
    assert queue.state().workers == 0


def test_a_redis_that_lost_the_run_is_filled_again(model: Path, queue: RunQueue, tmp_path: Path) -> None:
    spec = spec_of(model)
    expected = work(spec, queue, tmp_path / "first")
    log = log_of(queue)
    queue.delete()
    lose_the_run, lost = once(lambda: len(log_of(queue)) >= 2, queue.delete)
    assert work(spec, queue, tmp_path / "second", should_stop=lose_the_run) == expected
    assert lost.is_set()
    assert log_of(queue) == log


def test_a_redis_with_an_older_log_makes_the_worker_go_back(
    model: Path, queue: RunQueue, tmp_path: Path
) -> None:
    spec = spec_of(model)
    expected = work(spec, queue, tmp_path / "first")
    log = log_of(queue)
    queue.delete()

    def older_log() -> None:
        queue.delete()
        create_run(queue, spec, log[:1])

    rewind, rewound = once(lambda: len(log_of(queue)) >= 3, older_log)
    assert work(spec, queue, tmp_path / "second", should_stop=rewind) == expected
    assert rewound.is_set()
    assert log_of(queue) == log


def test_wrong_weights_are_noticed_and_made_anew(
    model: Path, queue: RunQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight changes (memory error) before a late worker replays the log."""
    spec = spec_of(model)
    expected = work(spec, queue, tmp_path / "first")
    log = log_of(queue)
    digest = queue.digest("reader", generation=3, digest="none")
    queue.delete()
    create_run(queue, spec, log[:3])
    queue.digest("healthy", generation=3, digest=digest)
    with worker_of(spec, queue, tmp_path / "second") as worker:
        replica = worker._replica
        restore_checkpoint = replica.restore_checkpoint

        def restore_and_flip() -> None:
            restore_checkpoint()
            next(iter(replica.weights.masters().values())).view(-1)[0] += 1.0

        monkeypatch.setattr(replica, "restore_checkpoint", restore_and_flip)
        worker.run()
    assert queue.state().counters["digest_mismatches"] == 1
    assert json.loads(queue.state().result or "null") == expected
    assert log_of(queue) == log


def test_a_faulty_worker_that_was_first_does_not_stop_the_others(
    model: Path, queue: RunQueue, tmp_path: Path
) -> None:
    spec = spec_of(model)
    expected = work(spec, queue, tmp_path / "first")
    queue.delete()
    create_run(queue, spec)
    queue.digest("faulty", generation=1, digest="0" * 16)
    assert work(spec, queue, tmp_path / "second") == expected
    assert queue.digest("faulty", generation=1, digest="0" * 16) != "0" * 16


def test_a_worker_that_differs_after_a_rebuild_stops(model: Path, queue: RunQueue, tmp_path: Path) -> None:
    spec = spec_of(model)
    create_run(queue, spec)
    queue.digest("other", generation=1, digest="0" * 16, rebuilt=True)
    with (
        worker_of(spec, queue, tmp_path) as worker,
        pytest.raises(ReplicaDivergedError, match="like hardware"),
    ):
        worker.run()


def test_other_settings_are_refused(model: Path, queue: RunQueue, tmp_path: Path) -> None:
    spec = spec_of(model)
    create_run(queue, spec_of(model, evolution={"seed": 7}))
    with worker_of(spec, queue, tmp_path) as worker, pytest.raises(SpecError, match="another specification"):
        worker.run()


@pytest.mark.usefixtures("way")
def test_a_checkpoint_of_other_settings_or_with_wrong_weights_is_not_used(
    model: Path, queue: RunQueue, tmp_path: Path
) -> None:
    spec = spec_of(model)
    expected = work(spec, queue, tmp_path)
    queue.delete()
    newest, older = (path for path, _ in CheckpointStore(tmp_path).candidates(fingerprint=fingerprint(spec)))
    state = json.loads((newest / "state.json").read_text())
    (newest / "state.json").write_text(json.dumps(state | {"digest": "0" * 16}))
    state = json.loads((older / "state.json").read_text())
    (older / "state.json").write_text(json.dumps(state | {"fingerprint": "another"}))
    with worker_of(spec, queue, tmp_path) as worker:
        worker._replica.restore_checkpoint()
        assert worker._replica.generation == 0
        base = worker._replica.weights.digest()
    assert base != expected["digest"]


def test_a_reward_that_raises_is_one_clear_error(model: Path, queue: RunQueue, tmp_path: Path) -> None:
    with worker_of(spec_of(model, "Raises"), queue, tmp_path) as worker, pytest.raises(TaskError) as caught:
        worker.run()
    assert "ZeroDivisionError: by zero" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_that_gives_nan_is_refused_before_any_work(
    model: Path, queue: RunQueue, tmp_path: Path
) -> None:
    broken = save_random_model(tmp_path / "broken")
    _fill_with_nan(broken)
    refused = pytest.raises(SpecError, match=r"spec\.model\.source: the model gives NaN")
    with refused, worker_of(spec_of(broken), queue, tmp_path):
        pass


def test_members_without_finite_logits_fail_the_run(model: Path, queue: RunQueue, tmp_path: Path) -> None:
    """Logits near the end of float16's range: noise of scale 1 takes every member over it."""
    save_random_model(tmp_path / "wild")
    _scale(tmp_path / "wild", 15_000.0, only="model.norm.weight")
    _scale(tmp_path / "wild", 0.001, only="embed_tokens")
    spec = spec_of(
        tmp_path / "wild", model={"dtype": "float16"}, evolution={"sigma": 1.0}, task={"test": None}
    )
    with worker_of(spec, queue, tmp_path) as worker:
        worker.run()
    state = queue.state()
    assert (state.phase, state.reason) == ("Failed", "NoFitness")
    assert "spec.evolution.sigma" in state.message


def test_sampled_decoding_and_prompt_subsets_are_deterministic(
    model: Path, queue: RunQueue, tmp_path: Path
) -> None:
    spec = spec_of(
        model,
        decoding={"temperature": 0.8},
        evolution={"promptsPerGeneration": 3, "sampling": "antithetic", "shaping": "centeredRank"},
    )
    first = work(spec, queue, tmp_path / "first")
    queue.delete()
    assert work(spec, queue, tmp_path / "second") == first


def test_early_stop_keeps_the_weights_that_were_measured(
    model: Path, queue: RunQueue, tmp_path: Path
) -> None:
    result = work(spec_of(model, stop={"targetScore": 0.0}), queue, tmp_path)
    assert queue.state().reason == "TargetScoreReached"
    assert result["generation"] == 2
    assert CheckpointState.read(tmp_path / "generation-000002").digest == result["digest"]


def _fill_with_nan(folder: Path) -> None:
    _scale(folder, float("nan"))


def _scale(folder: Path, factor: float, *, only: str = "") -> None:
    path = folder / "model.safetensors"
    scaled = {name: tensor * (factor if only in name else 1.0) for name, tensor in load_file(path).items()}
    save_file(scaled, path, metadata={"format": "pt"})
