"""Whole runs by workers in this process: a real Redis, a small random model, rewards of sample_tasks.py."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from prometheus_client import CollectorRegistry

from esft.errors import RunNotFoundError
from esft.policy import Policy
from esft.queue import RunQueue
from esft.spec import ESFineTuneSpec
from esft_worker.assemble import Host, assembled_worker
from esft_worker.loop import Worker
from esft_worker.metrics import WorkerMetrics

GENERATIONS = 5


def spec_of(base: Path, reward: str = "ManyOnes", **sections: dict[str, Any]) -> ESFineTuneSpec:
    document: dict[str, Any] = {
        "model": {"source": f"file://{base}", "dtype": "float32"},
        "task": {"name": f"sample_tasks:{reward}", "train": {"size": 8}, "test": {"size": 12, "seed": 1}},
        "decoding": {"maxNewTokens": 6, "batchSize": 4},
        "evolution": {"generations": GENERATIONS, "population": 6, "sigma": 0.02, "learningRate": 0.05},
        "evaluation": {"everyGenerations": 2},
        "monitoring": {"kl": {"everyGenerations": 2, "prompts": 4}},
        "checkpoint": {"everyGenerations": 2, "keep": 2},
    }
    for section, values in sections.items():
        document[section] = document.get(section, {}) | values
    return ESFineTuneSpec.model_validate(document)


@contextmanager
def worker_of(
    spec: ESFineTuneSpec,
    queue: RunQueue,
    folder: Path,
    *,
    name: str = "worker-0",
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Worker]:
    host = Host(checkpoints=folder, cache=folder / "cache", device=torch.device("cpu"), threads=1)
    with assembled_worker(
        spec,
        host,
        policy=Policy.of(spec),
        name=name,
        queue=queue,
        metrics=WorkerMetrics(CollectorRegistry()),
        should_stop=should_stop,
    ) as worker:
        yield worker


def work(spec: ESFineTuneSpec, queue: RunQueue, folder: Path, **options: Any) -> dict[str, Any]:
    """Run one worker to the run's end; what the run ended with."""
    with worker_of(spec, queue, folder, **options) as worker:
        worker.run()
    state = queue.state()
    assert state.phase == "Succeeded", state.message
    result: dict[str, Any] = json.loads(state.result or "null")
    return result


def log_of(queue: RunQueue) -> list[str]:
    try:
        return [entry.record for entry in queue.updates(0)]
    except RunNotFoundError:
        return []


def once(
    condition: Callable[[], bool], action: Callable[[], None]
) -> tuple[Callable[[], bool], threading.Event]:
    """A `should_stop` that never stops, but acts the first time that the condition holds; and whether it has."""
    acted = threading.Event()

    def should_stop() -> bool:
        if not acted.is_set() and condition():
            acted.set()
            action()
        return False

    return should_stop, acted
