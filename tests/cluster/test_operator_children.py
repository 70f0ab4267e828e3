"""What the operator makes for a run, and what it leaves alone."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from operator_parts import Node, OperatorProcess, Runs
from simulated_worker import SimulatedWorker

Workers = Callable[..., SimulatedWorker]


def delete_child(runs: Runs, kind: str) -> None:
    match kind:
        case "job":
            runs.batch.delete_namespaced_job("run-workers", runs.namespace, propagation_policy="Background")
        case "config map":
            runs.core.delete_namespaced_config_map("run-spec", runs.namespace)
        case "volume claim":
            runs.core.delete_namespaced_persistent_volume_claim("run-checkpoints", runs.namespace)
        case "secret":
            uid = runs.get()["metadata"]["uid"]
            runs.core.delete_namespaced_secret(f"run-redis-{uid[:8]}", runs.namespace)


@pytest.mark.parametrize("kind", ["job", "config map", "volume claim", "secret"])
def test_each_child_is_restored(operator: OperatorProcess, runs: Runs, kind: str) -> None:
    runs.create()
    before = runs.wait_children()
    delete_child(runs, kind)
    runs.wait_children(wanted=before)


def test_an_edited_config_map_is_put_right(operator: OperatorProcess, runs: Runs) -> None:
    runs.create()
    before = runs.wait_children()
    runs.core.patch_namespaced_config_map("run-spec", runs.namespace, {"data": {"esfinetune.yaml": "no"}})
    runs.wait_children(wanted=before)


@pytest.mark.parametrize("owner", [None, "someone"])
def test_a_foreign_job_of_our_name_is_never_touched(
    operator: OperatorProcess, runs: Runs, owner: str | None
) -> None:
    template = {
        "metadata": {"labels": {"theirs": "yes"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "theirs:1"}]},
    }
    metadata: dict[str, Any] = {"name": "run-workers"}
    if owner is not None:
        config = runs.core.create_namespaced_config_map(runs.namespace, {"metadata": {"name": owner}})
        metadata["ownerReferences"] = [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "name": owner,
                "uid": config.metadata.uid,
                "controller": True,
            }
        ]
    theirs = runs.batch.create_namespaced_job(
        runs.namespace,
        {"metadata": metadata, "spec": {"suspend": True, "template": template}},
    )
    runs.create()
    condition = runs.wait_condition("Healthy", status="False", reason="ChildConflict")
    assert "Job run-workers exists" in condition["message"]
    assert "Fix:" in condition["message"]
    now = runs.job()
    assert now.metadata.uid == theirs.metadata.uid
    assert now.spec == theirs.spec
    assert {each.manager for each in now.metadata.managed_fields} & {"esfinetune-operator"} == set()
    assert runs.events().count("ChildConflict") == 1
    runs.delete()
    runs.wait_gone()
    assert runs.job().metadata.uid == theirs.metadata.uid
    runs.create()
    runs.wait_condition("Healthy", status="False")
    runs.batch.delete_namespaced_job("run-workers", runs.namespace, propagation_policy="Background")
    runs.wait_condition("Healthy", status="True", seconds=40)
    assert runs.wait_job().metadata.owner_references[0].kind == "ESFineTune"


def test_kueues_labels_and_annotations_reach_the_job(operator: OperatorProcess, runs: Runs) -> None:
    runs.create(
        metadata={
            "labels": {"kueue.x-k8s.io/queue-name": "gpus", "team": "nlp"},
            "annotations": {"kueue.x-k8s.io/elastic-job": "true"},
        }
    )
    job = runs.wait_job()
    assert job.metadata.labels["kueue.x-k8s.io/queue-name"] == "gpus"
    assert "team" not in job.metadata.labels
    assert job.metadata.annotations["kueue.x-k8s.io/elastic-job"] == "true"


def test_a_suspension_by_kueue_is_not_undone(operator: OperatorProcess, runs: Runs, node: Node) -> None:
    runs.create(metadata={"labels": {"kueue.x-k8s.io/queue-name": "gpus"}})
    runs.wait_for(workers__ready=2)
    runs.batch.patch_namespaced_job("run-workers", runs.namespace, {"spec": {"suspend": True}})
    runs.wait_for(workers__ready=0)
    runs.patch(workers__maxReplicas=3)
    job = runs.wait_job(parallelism=3)
    assert job.spec.suspend is True


def test_the_template_reaches_the_pods(operator: OperatorProcess, runs: Runs) -> None:
    runs.create(
        workers__template={
            "metadata": {"labels": {"team": "nlp"}},
            "spec": {
                "nodeSelector": {"gpu": "h100"},
                "tolerations": [{"key": "spot", "operator": "Exists"}],
                "priorityClassName": "system-node-critical",
                "containers": [
                    {"name": "worker", "resources": {"limits": {"nvidia.com/gpu": "1"}}},
                ],
            },
        }
    )
    pod = runs.wait_job().spec.template
    assert pod.metadata.labels["team"] == "nlp"
    assert pod.spec.node_selector == {"gpu": "h100"}
    assert pod.spec.tolerations[0].key == "spot"
    assert pod.spec.containers[0].resources.limits == {"nvidia.com/gpu": "1"}


def test_a_template_that_is_refused_can_be_put_right(operator: OperatorProcess, runs: Runs) -> None:
    runs.create(workers__template={"spec": {"restartPolicy": "Always"}})
    condition = runs.wait_condition("Healthy", status="False", reason="TemplateRefused")
    assert condition["message"].startswith("spec.workers.template.spec.restartPolicy")
    assert runs.status()["phase"] == "Pending"
    assert runs.job() is None
    runs.patch(workers__template__spec=None)
    runs.wait_condition("Healthy", status="True")
    runs.wait_job()


def test_a_template_that_the_api_server_refuses_is_named(operator: OperatorProcess, runs: Runs) -> None:
    runs.create(
        workers__template={
            "spec": {"containers": [{"name": "worker", "resources": {"limits": {"cpu": "a lot"}}}]}
        }
    )
    condition = runs.wait_condition("Healthy", status="False", reason="ChildRefused")
    assert "quantities" in condition["message"] or "cpu" in condition["message"]


def test_storage_that_cannot_work_fails_the_run(operator: OperatorProcess, runs: Runs) -> None:
    runs.create(checkpoint__storage={"uri": "s3://bucket/runs"})
    runs.wait_for(phase="Failed")
    condition = runs.condition("Failed")
    assert condition["reason"] == "InvalidSpec"
    assert "spec.checkpoint.storage.uri" in condition["message"]


def test_what_the_schema_cannot_check_fails_the_run(operator: OperatorProcess, runs: Runs) -> None:
    runs.create(evolution__parameters={"include": ["("]})
    runs.wait_for(phase="Failed")
    assert "spec.evolution.parameters.include" in runs.condition("Failed")["message"]


def test_two_operators_do_no_damage(
    make_operator: Callable[..., OperatorProcess], runs: Runs, node: Node, worker_of: Workers
) -> None:
    first, second = make_operator(), make_operator()
    runs.create()
    runs.wait_for(phase="Running", workers__ready=2)
    before = runs.job().metadata.uid
    worker = worker_of()
    while worker.generation():
        pass
    worker.leave()
    status = runs.wait_for(phase="Succeeded", progress__summary="3/3")
    assert status["evaluation"]["count"] == 4
    assert runs.job().metadata.uid == before
    runs.delete()
    runs.wait_gone()
    for operator in (first, second):
        assert [line for line in operator.errors() if line["level"] in {"error", "text"}] == []


def test_kopf_leaves_no_trace(operator: OperatorProcess, runs: Runs, node: Node) -> None:
    runs.create()
    runs.wait_for(phase="Running")
    found = runs.get()["metadata"]
    assert found["finalizers"] == ["esfinetune.dev/finalizer"]
    assert "annotations" not in found
    for child in (*runs.pods(), runs.job()):
        written = json.dumps(runs.api.sanitize_for_serialization(child.metadata))
        assert "kopf" not in written
        assert "esfinetune.dev/finalizer" not in written
