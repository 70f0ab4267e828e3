"""What the operator shows of runs and of itself: metrics, health, logs; and what it never shows."""

import json
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import RedisProcess
from esft_operator.clients.credentials import run_password
from kube_parts import free_ports, wait_until
from operator_parts import CREDENTIALS_KEY, Node, OperatorProcess, Runs, scrape
from simulated_worker import SimulatedWorker

Workers = Callable[..., SimulatedWorker]
PASSWORD = "a-password-for-tests"  # noqa: S105


@dataclass(frozen=True)
class Watched:
    operator: OperatorProcess
    metrics: int
    health: int

    def series(self, name: str, run: str = "run") -> dict[str, float]:
        """Series of a run by name and labels, without those that all of them have."""
        return {
            key: value
            for key, value in scrape(self.metrics).items()
            if f'name="{run}"' in key and name in key
        }

    def value(self, name: str, label: str = "") -> float:
        (value,) = (value for key, value in self.series(name).items() if label in key)
        return value


@pytest.fixture
def watched(make_operator: Callable[..., OperatorProcess]) -> Watched:
    """An operator that looks at Redis every two seconds only."""
    metrics, health = free_ports(2)
    operator = make_operator(
        ESFT_METRICS_PORT=str(metrics), ESFT_HEALTH_PORT=str(health), ESFT_POLL_SECONDS="2"
    )
    return Watched(operator, metrics, health)


def test_every_generation_is_counted_though_many_close_between_two_looks(
    watched: Watched, runs: Runs, node: Node, worker_of: Workers
) -> None:
    runs.create(evolution__generations=90, evolution__population=4, checkpoint__everyGenerations=50)
    runs.wait_for(phase="Running")
    worker = worker_of()
    for _ in range(80):  # more than one page of the log
        worker.generation()
    worker.queue.digest(
        worker.name, generation=80, digest="0" * 16, measures='{"update_norm": 0.5, "weight_drift": 0.01}'
    )
    runs.wait_for(progress__generation=80)
    wait_until(lambda: watched.series("update_norm"), 5, "the norm of the update")
    assert watched.value("esfinetune_generation_duration_seconds_count") == 80
    assert watched.value("esfinetune_members_evaluated_total") == 80 * 4
    assert watched.value("esfinetune_generation{") == 80
    assert watched.value("esfinetune_generations_total_planned") == 90
    assert watched.value("esfinetune_update_norm") == 0.5
    assert watched.value("esfinetune_weight_drift") == 0.01
    assert watched.value("esfinetune_evaluation_score", 'split="test"') > 0
    assert watched.value("esfinetune_fitness", 'stat="mean"') > 0
    assert watched.value("esfinetune_workers", 'state="desired"') == 2
    assert watched.value("esfinetune_workers", 'state="ready"') == 2
    assert watched.value("esfinetune_workers", 'state="joined"') == 1
    assert {key: value for key, value in watched.series("esfinetune_phase").items() if value} == {
        f'esfinetune_phase{{name="run",namespace="{runs.namespace}",phase="Running"}}': 1
    }


def test_series_go_with_the_resource(watched: Watched, runs: Runs, node: Node, worker_of: Workers) -> None:
    runs.create()
    runs.wait_for(phase="Running")
    worker_of().generation()
    runs.wait_for(progress__generation=1)
    assert len(watched.series("esfinetune_")) > 20
    runs.delete()
    runs.wait_gone()
    wait_until(lambda: not watched.series("esfinetune_"), 10, lambda: watched.series("esfinetune_"))
    own = scrape(watched.metrics)
    assert own["esft_operator_reconcile_seconds_count"] > 0
    assert any(key.startswith("esft_operator_api_requests_total") for key in own)


def test_health(watched: Watched, runs: Runs) -> None:
    runs.create()
    runs.wait_job()
    with urllib.request.urlopen(f"http://127.0.0.1:{watched.health}/healthz", timeout=5) as answer:
        assert json.load(answer) == {"reconciling": "ok"}


def test_no_secret_is_shown_and_logs_are_json(
    make_operator: Callable[..., OperatorProcess],
    runs: Runs,
    node: Node,
    worker_of: Workers,
    start_redis: Callable[..., RedisProcess],
) -> None:
    (port,) = free_ports(1)
    server = start_redis("--port", str(port), "--requirepass", PASSWORD)
    operator = make_operator(url=f"redis://default:{PASSWORD}@127.0.0.1:{port}/0")
    uid = runs.create()["metadata"]["uid"]
    runs.wait_for(phase="Running")
    worker = worker_of()
    worker.generation()
    runs.wait_for(progress__generation=1)
    command = Path(f"/proc/{operator.pid}/cmdline").read_text()
    server.stop()
    runs.wait_condition("Healthy", status="False", reason="RedisUnavailable")
    objects = [
        runs.get(),
        runs.api.sanitize_for_serialization(runs.job()),
        runs.api.sanitize_for_serialization(runs.core.list_namespaced_event(runs.namespace)),
        runs.api.sanitize_for_serialization(runs.core.list_namespaced_config_map(runs.namespace)),
        runs.api.sanitize_for_serialization(runs.core.list_namespaced_pod(runs.namespace)),
    ]
    lines = operator.lines()
    assert "text" not in {line["level"] for line in lines}
    about = [line for line in lines if "uid" in line]
    assert {(line["namespace"], line["name"], line["uid"]) for line in about} == {
        (runs.namespace, "run", uid)
    }
    everything = json.dumps([objects, lines]) + command
    for secret in (PASSWORD, CREDENTIALS_KEY, run_password(CREDENTIALS_KEY, uid)):
        assert secret not in everything
