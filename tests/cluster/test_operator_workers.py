"""How many workers a run has, and what its status says of those that do not work."""

from collections.abc import Callable
from typing import Any

import pytest

from esft.errors import EXIT_DRAINED
from kube_parts import wait_until
from operator_parts import RUNNING, Node, OperatorProcess, Runs, terminated, waiting
from simulated_worker import SimulatedWorker

Workers = Callable[..., SimulatedWorker]
SHOWN_WITHIN = 30  # seconds, as promised


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, 4),
        ({"workers__replicas": 3}, 3),
        ({"workers__maxReplicas": 9}, 6),  # no more than the population
        ({"workers__claimSize": 3}, 2),  # nor than there are seed batches
        ({"workers__minReplicas": 0, "workers__replicas": 0}, 0),
    ],
)
def test_workers_wanted(operator: OperatorProcess, runs: Runs, changes: dict[str, Any], wanted: int) -> None:
    base: dict[str, Any] = {"evolution__population": 6, "workers__minReplicas": 1, "workers__maxReplicas": 4}
    runs.create(**{**base, **changes})
    runs.wait_job(parallelism=wanted)
    runs.wait_for(workers__desired=wanted)


def test_kubectl_scale(operator: OperatorProcess, runs: Runs, node: Node) -> None:
    runs.create(workers__maxReplicas=4)
    job = runs.wait_job(parallelism=4).metadata.uid
    runs.custom.patch_namespaced_custom_object_scale(
        "esfinetune.dev", "v1alpha1", runs.namespace, "esfinetunes", "run", {"spec": {"replicas": 1}}
    )
    assert runs.wait_job(parallelism=1).metadata.uid == job
    runs.wait_for(workers__desired=1, workers__ready=1)
    scale = runs.custom.get_namespaced_custom_object_scale(
        "esfinetune.dev", "v1alpha1", runs.namespace, "esfinetunes", "run"
    )
    assert scale["status"]["replicas"] == 1
    runs.wait_pods(1)  # those that are not wanted any more take a moment to go
    selected = runs.core.list_namespaced_pod(runs.namespace, label_selector=scale["status"]["selector"])
    assert len(selected.items) == 1
    wait_until(lambda: "Scaled" in runs.events(), 5, runs.events)


def test_autoscaling_aims_at_the_time_of_a_generation(
    operator: OperatorProcess, runs: Runs, node: Node, worker_of: Workers
) -> None:
    runs.create(
        evolution__population=40,
        evolution__generations=30,
        workers__maxReplicas=20,
        workers__autoscaling={"targetGenerationSeconds": 10},
    )
    runs.wait_job(parallelism=1)
    runs.wait_for(phase="Running")
    worker = worker_of()  # says that each member, and each evaluation, took a second
    sizes = []
    for generation in range(1, 13):
        worker.generation()
        runs.wait_for(progress__generation=generation)
        sizes.append(runs.status()["workers"]["desired"])
    wait_until(lambda: runs.status()["workers"]["desired"] == sizes[-1], 5, "the last size")
    assert sizes == sorted(sizes)  # it grows, and does not flap
    assert sizes[-1] in {4, 5}  # about 41 seconds of work in 10
    assert len(set(sizes)) <= 4


def test_the_last_generation_needs_few_workers(
    operator: OperatorProcess, runs: Runs, node: Node, worker_of: Workers
) -> None:
    runs.create(evolution__generations=1, workers__maxReplicas=4)
    runs.wait_job(parallelism=4)
    runs.wait_for(phase="Running")
    worker_of().generation()
    runs.wait_job(parallelism=2)  # a checkpoint and one evaluation shard


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (waiting("ImagePullBackOff", "not found"), "ImagePullFailed", "ImagePullBackOff"),
        (waiting("CreateContainerConfigError", 'secret "x" not found'), "ContainerFailed", "not found"),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes are available: insufficient nvidia.com/gpu.",
                    }
                ],
            },
            "Unschedulable",
            "insufficient nvidia.com/gpu",
        ),
    ],
)
def test_a_pod_that_does_not_start_is_shown(
    operator: OperatorProcess, runs: Runs, status: dict[str, Any], reason: str, words: str
) -> None:
    runs.create()
    pod = runs.wait_pods(2)[0]
    runs.set_pod_status(pod, status)
    condition = runs.wait_condition("WorkersReady", status="False", reason=reason, seconds=SHOWN_WITHIN)
    assert words in condition["message"]
    assert pod.metadata.name in condition["message"]
    for each in runs.pods():
        runs.set_pod_status(each, RUNNING)
    runs.wait_condition("WorkersReady", status="True")
    wait_until(lambda: "WorkersRecovered" in runs.events(), 5, runs.events)
    assert runs.events().count(reason) == 1


def test_a_crash_loop_is_shown(operator: OperatorProcess, runs: Runs) -> None:
    runs.create()
    pod = runs.wait_pods(2)[0]
    runs.set_pod_status(pod, terminated(70, "the disk is full"))
    condition = runs.wait_condition("WorkersReady", reason="WorkersFailing", seconds=SHOWN_WITHIN)
    assert condition["message"] == f"Pod {pod.metadata.name}: the disk is full"
    assert runs.status()["phase"] == "Pending"


def test_a_worker_that_refuses_the_specification_fails_the_run(operator: OperatorProcess, runs: Runs) -> None:
    runs.create()
    runs.set_pod_status(runs.wait_pods(2)[0], terminated(64, "spec.model.source: there is no such model"))
    runs.wait_for(phase="Failed", workers__desired=0)
    condition = runs.condition("Failed")
    assert (condition["reason"], condition["message"]) == (
        "InvalidSpec",
        "spec.model.source: there is no such model",
    )
    assert runs.events().count("Failed") == 1


def test_a_drained_worker_is_no_failure(operator: OperatorProcess, runs: Runs, node: Node) -> None:
    runs.create()
    runs.wait_for(workers__ready=2)
    pod = runs.pods()[0]
    runs.core.delete_namespaced_pod(pod.metadata.name, runs.namespace)
    runs.wait_for(workers__ready=1)
    # As the kubelet ends it: only then is it replaced.
    runs.set_pod_status(pod, terminated(EXIT_DRAINED))
    runs.core.delete_namespaced_pod(pod.metadata.name, runs.namespace, grace_period_seconds=0)
    runs.wait_for(workers__ready=2)
    assert runs.condition("WorkersReady")["status"] == "True"
    assert runs.status()["phase"] == "Running"
