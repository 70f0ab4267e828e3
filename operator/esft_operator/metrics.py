"""The operator's metrics: of the runs, by namespace and name, and of itself. Names: docs/install.md.

The series of a run go when its resource goes. The registry is the caller's.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Final, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from esft.queue import Entry, RunState
from esft.records import UpdateRecord
from esft.status import ESFineTuneStatus, Phase
from esft_operator.names import Key

_Series = TypeVar("_Series", bound=MetricWrapperBase)

_RUN: Final = ("namespace", "name")
_GENERATION_BUCKETS: Final = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
_RECONCILE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class OperatorMetrics:
    """All series, and what moves them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._by_run: list[MetricWrapperBase] = []

        def of_run(kind: type[_Series], name: str, text: str, *labels: str, **options: Any) -> _Series:
            series = kind(f"esfinetune_{name}", text, [*_RUN, *labels], registry=registry, **options)
            self._by_run.append(series)
            return series

        self._generation = of_run(Gauge, "generation", "The open generation: updates made so far.")
        self._planned = of_run(Gauge, "generations_total_planned", "Updates to make.")
        self._fitness = of_run(
            Gauge, "fitness", "Fitness of the members of the latest closed generation.", "stat"
        )
        self._score = of_run(Gauge, "evaluation_score", "Held-out score of the latest evaluation.", "split")
        self._duration = of_run(
            Histogram,
            "generation_duration_seconds",
            "Time from a generation's opening to its commit.",
            buckets=_GENERATION_BUCKETS,
        )
        self._divergence = of_run(Gauge, "kl_divergence", "KL divergence from the base model, nats a token.")
        self._norm = of_run(Gauge, "update_norm", "Euclidean norm of the latest update.")
        self._drift = of_run(
            Gauge, "weight_drift", "Distance from the base model, as a part of its own norm."
        )
        self._workers = of_run(
            Gauge, "workers", "Worker pods desired and ready; joined: registered in Redis.", "state"
        )
        self._members = of_run(
            Counter, "members_evaluated", "Members whose fitness counts, of closed generations."
        )
        self._expired = of_run(Counter, "leases_expired", "Leases that went to another worker.")
        self._mismatches = of_run(Counter, "digest_mismatches", "Digests that differed from the agreed one.")
        self._phase = of_run(Gauge, "phase", "1 for the phase the run is in, 0 for the others.", "phase")
        self._totals: dict[tuple[Key, str], int] = {}
        self._reconcile = Histogram(
            "esft_operator_reconcile_seconds",
            "Time a reconciliation took.",
            buckets=_RECONCILE_BUCKETS,
            registry=registry,
        )
        self._failures = Counter(
            "esft_operator_reconcile_failures", "Reconciliations that did not go through.", registry=registry
        )
        self._lag = Histogram(
            "esft_operator_status_lag_seconds",
            "Time from seeing news of a run to its status being written.",
            buckets=_RECONCILE_BUCKETS,
            registry=registry,
        )
        self.queued = Gauge("esft_operator_queued", "Runs that wait to be reconciled.", registry=registry)
        self._requests = Counter(
            "esft_operator_api_requests",
            "Requests to the API server.",
            ["method", "status"],
            registry=registry,
        )

    def closed(self, key: Key, entries: Sequence[Entry]) -> None:
        """Count generations that have closed."""
        for entry in entries:
            record = UpdateRecord.from_json(entry.record)
            statistics = record.statistics
            for stat in ("mean", "best", "worst", "std"):
                value = getattr(statistics, stat)
                if math.isfinite(value):
                    self._fitness.labels(*key, stat).set(value)
            if record.evaluation is not None and math.isfinite(record.evaluation.score):
                self._score.labels(*key, "test").set(record.evaluation.score)
            if record.kl_divergence is not None:
                self._divergence.labels(*key).set(record.kl_divergence)
            self._members.labels(*key).inc(statistics.valid)
            seconds = entry.telemetry.get("seconds")
            if seconds is not None:
                self._duration.labels(*key).observe(seconds)

    def seen(self, key: Key, state: RunState) -> None:
        """Take over what Redis counts."""
        self._generation.labels(*key).set(state.opening.generation)
        self._workers.labels(*key, "joined").set(state.workers)
        measures = json.loads(state.measures) if state.measures else {}
        for name, gauge in (("update_norm", self._norm), ("weight_drift", self._drift)):
            if name in measures:
                gauge.labels(*key).set(measures[name])
        for name, series in (("leases_expired", self._expired), ("digest_mismatches", self._mismatches)):
            total, before = state.counters[name], self._totals.get((key, name), 0)
            series.labels(*key).inc(max(0, total - before))
            self._totals[key, name] = total

    def wrote(self, key: Key, status: ESFineTuneStatus) -> None:
        """Take over what stands in a status."""
        for phase in get_args(Phase):
            self._phase.labels(*key, phase).set(float(phase == status.phase))
        if status.progress is not None:
            self._planned.labels(*key).set(status.progress.planned)
            self._generation.labels(*key).set(status.progress.generation)
        if status.evaluation is not None:
            self._score.labels(*key, "test").set(status.evaluation.last)
        if status.workers is not None:
            self._workers.labels(*key, "desired").set(status.workers.desired)
            self._workers.labels(*key, "ready").set(status.workers.ready)

    def forget(self, key: Key) -> None:
        """Drop every series of a run."""
        labels = dict(zip(_RUN, key, strict=True))
        for series in self._by_run:
            series.remove_by_labels(labels)
        for name in ("leases_expired", "digest_mismatches"):
            self._totals.pop((key, name), None)

    @contextmanager
    def reconciling(self) -> Iterator[None]:
        """Measure a reconciliation."""
        start = perf_counter()
        try:
            yield
        except Exception:
            self._failures.inc()
            raise
        finally:
            self._reconcile.observe(perf_counter() - start)

    def lagged(self, seconds: float) -> None:
        """Measure how late a status was."""
        self._lag.observe(seconds)

    def requested(self, method: str, status: int) -> None:
        """Count a request to the API server; status 0: it did not answer."""
        self._requests.labels(method, str(status)).inc()
