"""Puts a worker together from the spec: the one module that knows all its parts."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from esft.policy import Policy
from esft.queue import RunQueue
from esft.spec import ESFineTuneSpec, fingerprint
from esft_worker.checkpoint import CheckpointStore
from esft_worker.engine import Drained, TransformersEngine
from esft_worker.grading import Grader
from esft_worker.heartbeat import Heartbeat
from esft_worker.loop import WORKER_TTL_MILLISECONDS, Worker
from esft_worker.metrics import Stage, WorkerMetrics
from esft_worker.replica import Replica
from esft_worker.rollouts import Rollouts
from esft_worker.source import model_directory
from esft_worker.tasks import build_task
from esft_worker.weights import Weights

logger = logging.getLogger(__name__)

_PROGRESS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Host:
    """Where a process runs: what differs between two workers of one run, and changes no result.

    Attributes:
        checkpoints: folder that all workers of the run share.
        cache: folder for models that are made here.
        device: where the model runs.
        threads: CPU threads for the kernels; torch's own count is the process's setting.
        hub_token: access token for a hf:// model.
    """

    checkpoints: Path
    cache: Path
    device: torch.device
    threads: int
    hub_token: str | None = None


def load_engine(spec: ESFineTuneSpec, directory: Path, *, device: torch.device) -> TransformersEngine:
    """The engine that a spec asks for, with the model of a folder.

    Raises:
        SpecError: the folder holds no model that the engine can run.
    """
    return TransformersEngine(
        directory,
        dtype=spec.model.dtype,
        device=device,
        max_new_tokens=spec.decoding.max_new_tokens,
        temperature=spec.decoding.temperature,
        batch_size=spec.decoding.batch_size,
    )


def build_replica(
    spec: ESFineTuneSpec, host: Host, *, should_stop: Callable[[], bool] = lambda: False
) -> Replica:
    """Load the base model and take over its parameters.

    Raises:
        SpecError: there is no such model, or none of its parameters is selected.
        Drained: the worker was asked to stop while the model was made.
    """
    load = partial(load_engine, spec, device=host.device)

    def make_weights(model: torch.nn.Module) -> Weights:
        return Weights(
            model,
            seed=spec.evolution.seed,
            antithetic=spec.evolution.sampling == "antithetic",
            include=spec.evolution.parameters.include,
            exclude=spec.evolution.parameters.exclude,
            anchor_l2=spec.evolution.anchor.l2,
            threads=host.threads,
            masters=spec.workers.master_weights,
        )

    base = model_directory(
        spec.model.source,
        revision=spec.model.revision,
        token=host.hub_token,
        cache=host.cache,
        progress=_logged_progress(should_stop),
    )
    return Replica(
        engine=load(base),
        make_weights=make_weights,
        checkpoints=CheckpointStore(host.checkpoints),
        load_engine=load,
        fingerprint=fingerprint(spec),
    )


@contextmanager
def assembled_worker(
    spec: ESFineTuneSpec,
    host: Host,
    *,
    policy: Policy,
    name: str,
    queue: RunQueue,
    metrics: WorkerMetrics,
    should_stop: Callable[[], bool],
) -> Iterator[Worker]:
    """A worker that is ready to run, with its grading process and its heartbeat around it.

    Raises:
        SpecError: the model, the task or their fit is wrong.
    """
    with metrics.time(Stage.LOAD):
        _, examples = build_task(spec.task)
    with Grader(spec.task, examples) as grader:
        grader.start()
        with metrics.time(Stage.LOAD):
            replica = build_replica(spec, host, should_stop=should_stop)
        rollouts = Rollouts(
            spec,
            replica=replica,
            examples=examples,
            grader=grader,
            metrics=metrics,
            should_stop=should_stop,
        )
        rollouts.check_base_model()
        with Heartbeat(queue, name, ttl_milliseconds=WORKER_TTL_MILLISECONDS):
            yield Worker(
                spec,
                policy,
                name=name,
                queue=queue,
                replica=replica,
                rollouts=rollouts,
                metrics=metrics,
                should_stop=should_stop,
            )


def _logged_progress(should_stop: Callable[[], bool]) -> Callable[[int, int], None]:
    """Progress of making a model as a log line every few seconds; the making ends when the worker is to stop."""
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if should_stop():
            raise Drained
        if time.monotonic() - last >= _PROGRESS_SECONDS:
            last = time.monotonic()
            logger.info("model.building", extra={"done": done, "total": total})

    return progress
