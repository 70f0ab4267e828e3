"""The API server takes what `build` makes, as it is, and pods pass the strictest level of its policy."""

import copy
from typing import Any

import pytest
from kubernetes import client
from kubernetes.dynamic import DynamicClient

from esft_operator.decide import build
from esft_operator.names import FIELD_MANAGER
from esft_operator.resource import Manifest, Run
from esft_operator.settings import WorkerDefaults

pytestmark = pytest.mark.integration

GPU_TEMPLATE = {
    "metadata": {"labels": {"team": "nlp"}},
    "spec": {
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "containers": [
            {
                "name": "worker",
                "resources": {"limits": {"nvidia.com/gpu": 1}},
                "env": [{"name": "EXTRA", "value": "1"}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }
        ],
        "volumes": [{"name": "data", "emptyDir": {}}],
    },
}


def make_run(namespace: str, workers: dict[str, Any] | None = None) -> Run:
    metadata = {"name": "tune", "namespace": namespace, "uid": "0f5b1e0a-1111-2222-3333-444455556666"}
    spec = {
        "model": {"source": "pvc://models/qwen", "credentialsSecretRef": {"name": "hf-token"}},
        "task": {"name": "countdown", "train": {"size": 200}},
        "workers": workers or {},
    }
    return Run.from_body({"metadata": metadata, "spec": spec})


def apply(api: client.ApiClient, manifest: Manifest) -> Any:
    """Server-side apply with strict validation, without an owner: there is none that the garbage collector knows."""
    manifest = copy.deepcopy(manifest)
    del manifest["metadata"]["ownerReferences"]
    resource = DynamicClient(api).resources.get(api_version=manifest["apiVersion"], kind=manifest["kind"])
    return resource.server_side_apply(
        body=manifest,
        namespace=manifest["metadata"]["namespace"],
        field_manager=FIELD_MANAGER,
        query_params=[("fieldValidation", "Strict")],
    )


def children_of(run: Run) -> list[Manifest]:
    children = [
        build.config_map(run),
        build.volume_claim(run),
        build.redis_secret(run, url="redis://user:password@redis:6379/0"),
        build.job(run, WorkerDefaults(), parallelism=0),
    ]
    return [child for child in children if child is not None]


@pytest.mark.parametrize("workers", [{}, {"template": GPU_TEMPLATE}], ids=["plain", "template"])
def test_children_are_applied_and_applying_them_again_changes_nothing(
    api: client.ApiClient, namespace: str, workers: dict[str, Any]
) -> None:
    for child in children_of(make_run(namespace, workers)):
        first, second = apply(api, child), apply(api, child)
        assert second.metadata.uid == first.metadata.uid
        assert second.metadata.generation == first.metadata.generation


def test_the_number_of_workers_changes_and_the_rest_of_the_job_stays(
    api: client.ApiClient, namespace: str
) -> None:
    run = make_run(namespace)
    apply(api, build.job(run, WorkerDefaults(), parallelism=0))
    job = apply(api, build.job(run, WorkerDefaults(), parallelism=3))
    assert job.spec.parallelism == 3
    assert "completions" not in job.spec.to_dict()


def test_pods_pass_the_restricted_level(api: client.ApiClient, namespace: str) -> None:
    core = client.CoreV1Api(api)
    enforced = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    core.patch_namespace(namespace, enforced)
    template = build.job(make_run(namespace), WorkerDefaults(), parallelism=1)["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] = {"name": "worker", **template["metadata"]}
    core.create_namespaced_pod(namespace, pod, dry_run="All", field_validation="Strict")
    del pod["spec"]["containers"][0]["securityContext"]
    with pytest.raises(client.ApiException, match="violates PodSecurity"):
        core.create_namespaced_pod(namespace, pod, dry_run="All")
