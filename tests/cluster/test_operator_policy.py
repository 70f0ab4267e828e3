"""What may change in mid-run is told to the run in Redis: its workers go on by it, and its Job stays."""

from collections.abc import Callable
from typing import Any

import yaml

from kube_parts import wait_until
from operator_parts import Node, OperatorProcess, Runs
from simulated_worker import SimulatedWorker

Workers = Callable[..., SimulatedWorker]

CHANGES: tuple[tuple[dict[str, Any], str, Any], ...] = (
    ({"evolution__generations": 10}, "generations", 10),
    ({"evaluation__everyGenerations": 3}, "evaluate_every", 3),
    ({"workers__quorum": 0.5}, "quorum", 0.5),
    ({"checkpoint__keep": 1}, "checkpoints_kept", 1),
    ({"stop__patience": 9}, "patience", 9),
    ({"workers__claimSize": 2}, "claim_size", 2),
)


def version_in_config_map(runs: Runs) -> int:
    """Of the specification that a worker is started with now."""
    data = runs.core.read_namespaced_config_map("run-spec", runs.namespace).data
    return int(yaml.safe_load(data["esfinetune.yaml"])["metadata"]["generation"])


def test_a_change_is_in_the_policy_and_the_workers_stay(
    operator: OperatorProcess, runs: Runs, node: Node, worker_of: Workers
) -> None:
    runs.create(evolution__generations=8)
    runs.wait_for(phase="Running", workers__ready=2)
    job = runs.wait_job().metadata.uid
    pods = {pod.metadata.uid for pod in runs.pods()}
    worker = worker_of()  # it never reads another specification than its first
    for done, (changes, field, value) in enumerate(CHANGES, 1):
        worker.generation()
        version = runs.patch(**changes)["metadata"]["generation"]
        wait_until(lambda: worker.policy().version == version, 10, worker.policy)  # noqa: B023
        assert getattr(worker.policy(), field) == value
        wait_until(lambda: version_in_config_map(runs) == version, 10, "a ConfigMap of this version")  # noqa: B023
        runs.wait_for(progress__generation=done)
    assert {pod.metadata.uid for pod in runs.pods()} == pods
    worker.finish()
    status = runs.wait_for(phase="Succeeded", progress__summary="10/10")
    assert (
        status["evaluation"]["count"] == 7
    )  # of 0 and 1, of 2, which was open by then, of 3, 6 and 9, and of the last
    assert runs.wait_job().metadata.uid == job
    assert len(set(operator.actions("SetPolicy"))) == len(CHANGES)
    assert operator.actions("DeleteJob") == []
    assert operator.errors() == []


def test_generations_raised_in_the_last_one_lead_to_the_new_end(
    operator: OperatorProcess, runs: Runs, node: Node, worker_of: Workers
) -> None:
    runs.create(evolution__generations=1)
    runs.wait_for(phase="Running", workers__ready=2)
    job = runs.wait_job().metadata.uid
    worker = worker_of()
    worker.generation()
    runs.wait_for(progress__generation=1)
    assert "member:0" not in worker.queue.state().opening.items
    version = runs.patch(evolution__generations=3)["metadata"]["generation"]
    wait_until(lambda: worker.policy().version == version, 10, worker.policy)
    worker.finish()
    runs.wait_for(phase="Succeeded", progress__summary="3/3")
    assert runs.wait_job().metadata.uid == job
    assert "Continued" not in runs.events()
    assert operator.actions("DeleteJob") + operator.actions("ReopenRun") == []
