"""What a worker measures of itself, for Prometheus and for its last log line.

Names and meaning: docs/install.md. The registry is the caller's, so that two workers in one process (tests)
do not share counters.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge


class Stage(StrEnum):
    """Where a worker's time goes; `wait` is idle, `queue` is talking to Redis."""

    LOAD = "load"
    PERTURB = "perturb"
    GENERATE = "generate"
    GRADE = "grade"
    UPDATE = "update"
    CHECKPOINT = "checkpoint"
    QUEUE = "queue"
    WAIT = "wait"


class WorkerMetrics:
    """Counters of one worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the worker's series."""
        self._seconds = Counter(
            "esft_worker_stage_seconds", "Seconds spent by stage.", ["stage"], registry=registry
        )
        self._totals = dict.fromkeys(Stage, 0.0)
        self.members = Counter("esft_worker_members", "Members evaluated.", registry=registry)
        self.tokens = Counter("esft_worker_tokens", "Tokens generated.", registry=registry)
        self.generation = Gauge(
            "esft_worker_generation", "Updates that these weights have had.", registry=registry
        )
        self.rebuilds = Counter(
            "esft_worker_rebuilds",
            "Times the weights were made anew after a wrong digest.",
            registry=registry,
        )
        self.gpu_memory = Gauge(
            "esft_worker_gpu_memory_bytes", "Most GPU memory allocated at once.", registry=registry
        )
        for stage in Stage:
            self._seconds.labels(stage)

    @contextmanager
    def time(self, stage: Stage) -> Iterator[None]:
        """Add the time spent inside to a stage; stages are not nested."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self._seconds.labels(stage).inc(elapsed)
            self._totals[stage] += elapsed

    def seconds(self) -> dict[str, float]:
        """Seconds by stage since the start."""
        return {str(stage): round(total, 3) for stage, total in self._totals.items()}
