"""The operator with the rights of the chart and no others: they suffice, and each is used."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from kubernetes import client, utils
from kubernetes.client.exceptions import ApiException

from conftest import RedisProcess
from fault_proxy import FaultProxy, Request
from kube_parts import ControlPlane, free_ports, wait_until
from operator_parts import Node, OperatorProcess, Runs, scrape
from render_manifests import helm_program, template
from simulated_worker import SimulatedWorker

pytestmark = pytest.mark.timeout(1800)  # the first test may have to wait for helm to be compiled

Workers = Callable[..., SimulatedWorker]
ACCOUNT = "esfinetune-operator"

APPLIED = (
    "jobs",
    "configmaps",
    "persistentvolumeclaims",
    "podmonitors",
    "scaledobjects",
    "triggerauthentications",
)

# Grants that no request shows, and why they are there.
NOT_SEEN = {
    ("esfinetunes/finalizers", "update"),  # asked for by an admission plugin, when a child names its owner
    *((resource, "create") for resource in APPLIED),  # asked for too when an apply, a PATCH, makes the object
}
OPTIONAL_KINDS = {
    "podmonitors": ("monitoring.coreos.com", "v1", "PodMonitor"),
    "scaledobjects": ("keda.sh", "v1alpha1", "ScaledObject"),
    "triggerauthentications": ("keda.sh", "v1alpha1", "TriggerAuthentication"),
}


@pytest.fixture(scope="module")
def optional_kinds(api: client.ApiClient) -> Iterator[None]:
    """The kinds of the Prometheus operator and of KEDA, without their controllers."""
    extensions = client.ApiextensionsV1Api(api)
    for plural, (group, version, kind) in OPTIONAL_KINDS.items():
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        extensions.create_custom_resource_definition(
            {
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {"name": f"{plural}.{group}"},
                "spec": {
                    "group": group,
                    "scope": "Namespaced",
                    "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
                    "versions": [
                        {
                            "name": version,
                            "served": True,
                            "storage": True,
                            "schema": {"openAPIV3Schema": schema},
                        }
                    ],
                },
            }
        )
    yield
    for plural, (group, _, _) in OPTIONAL_KINDS.items():
        extensions.delete_custom_resource_definition(f"{plural}.{group}")


class AccessLog(FaultProxy):
    """Notes what was refused, to kopf too, whose requests no metric counts."""

    def __init__(self, control_plane: ControlPlane, folder: Path) -> None:
        super().__init__(control_plane, folder)
        self.refused: list[str] = []

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        response = await super()._handle(request)
        if response.status in {401, 403}:
            self.refused.append(f"{request.method} {request.path}")
        return response


def install_rights(
    api: client.ApiClient, namespace: str, *values: str, suffix: str = ""
) -> list[dict[str, Any]]:
    """The chart's service account and its roles, or those whose names end so; all objects that were made."""
    rendered = yaml.safe_load_all(
        template(helm_program(), ("crds.install=false", *values), namespace=namespace)
    )
    kinds = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
    made = [each for each in rendered if each["kind"] in kinds and each["metadata"]["name"].endswith(suffix)]
    for each in made:
        if "Cluster" in each["kind"]:
            each["metadata"]["name"] += f"-{namespace}"
            if "roleRef" in each:
                each["roleRef"]["name"] += f"-{namespace}"
        utils.create_from_dict(api, each, namespace=each["metadata"].get("namespace", namespace))
    return made


def asked(request: Request) -> tuple[str, str]:
    """Resource and verb of a request, as RBAC names them."""
    found = re.fullmatch(
        r"/apis?/(?:[^/]+/)?v[^/]+(?:/namespaces/[^/]+)?/([^/]+)(?:/([^/]+))?(?:/([^/]+))?", request.path
    )
    if found is None:
        return request.path, request.method
    resource, name, subresource = found.groups()
    verbs = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
    verb = verbs.get(request.method) or ("watch" if request.is_watch else "get" if name else "list")
    return (f"{resource}/{subresource}" if subresource else resource), verb


def live(runs: Runs, worker_of: Workers) -> None:
    """A life in which every right is needed."""
    runs.create(
        ttlSecondsAfterFinished=2, workers__replicas=2, workers__autoscaling={"keda": {"itemsPerWorker": 2}}
    )
    runs.wait_for(phase="Running", workers__ready=2)
    runs.patch(workers__replicas=1)
    runs.wait_for(workers__ready=1)
    runs.core.delete_namespaced_config_map("run-spec", runs.namespace)
    runs.wait_children()
    runs.patch(suspend=True)
    runs.wait_for(phase="Suspended", workers__ready=0)
    runs.patch(suspend=False)
    runs.wait_for(phase="Running", workers__ready=1)
    worker = worker_of()
    while worker.generation():
        pass
    worker.leave()
    runs.wait_gone(seconds=40)


@pytest.mark.parametrize("scope", ["namespaced", "cluster-wide"])
def test_the_charts_rights_suffice_and_each_is_used(  # noqa: PLR0913, PLR0917
    scope: str,
    optional_kinds: None,
    control_plane: ControlPlane,
    api: client.ApiClient,
    runs: Runs,
    node: Node,
    worker_of: Workers,
    make_operator: Callable[..., OperatorProcess],
    kubeconfig_of: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    values = [f"watchNamespaces={{{runs.namespace}}}"] if scope == "namespaced" else []
    made = install_rights(api, runs.namespace, *values)
    account = ControlPlane(kubeconfig_of(ACCOUNT), control_plane.server)
    (port,) = free_ports(1)
    with AccessLog(account, tmp_path) as proxy:
        operator = make_operator(
            kubeconfig=proxy.kubeconfig,
            ESFT_NAMESPACES=runs.namespace if scope == "namespaced" else "",
            ESFT_METRICS_PORT=str(port),
        )
        live(runs, worker_of)
        series = scrape(port)
        operator.stop()
        seen = {asked(request) for request in proxy.requests}
    ours = [line for line in operator.errors() if line.get("namespace") == runs.namespace]
    assert [line for line in ours if "orbidden" in json.dumps(line)] == []
    assert any(name.startswith("esft_operator_api_requests_total") for name in series)
    if scope == "namespaced":  # in namespaces that are going, of other tests, nothing may be made
        assert proxy.refused == []
        assert [name for name in series if 'status="403"' in name] == []
    granted = {
        (resource, verb)
        for role in made
        if role["kind"] in {"Role", "ClusterRole"} and "operator" in role["metadata"]["name"]
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted - seen - NOT_SEEN == set()


def test_secrets_and_pods_are_out_of_reach(
    api: client.ApiClient, runs: Runs, kubeconfig_of: Callable[[str], Path], control_plane: ControlPlane
) -> None:
    install_rights(api, runs.namespace, f"watchNamespaces={{{runs.namespace}}}")
    with ControlPlane(kubeconfig_of(ACCOUNT), control_plane.server).client() as account:
        review = client.AuthorizationV1Api(account).create_self_subject_access_review
        for resource, subresource, verbs in (
            ("secrets", "", ("get", "list", "watch", "update", "patch", "delete")),
            ("pods", "exec", ("create", "get")),
            ("pods", "log", ("get",)),
            ("pods", "", ("create", "delete", "patch")),
            ("roles", "", ("create", "escalate", "bind")),
        ):
            for verb in verbs:
                attributes = {
                    "namespace": runs.namespace,
                    "resource": resource,
                    "subresource": subresource,
                    "verb": verb,
                }
                answer = review({"spec": {"resourceAttributes": attributes}})
                assert not answer.status.allowed, (resource, subresource, verb)


def test_a_redis_of_the_users_own_needs_one_more_right(
    api: client.ApiClient,
    runs: Runs,
    node: Node,
    redis_server: RedisProcess,
    make_operator: Callable[..., OperatorProcess],
    kubeconfig_of: Callable[[str], Path],
) -> None:
    install_rights(api, runs.namespace, f"watchNamespaces={{{runs.namespace}}}")
    make_operator(kubeconfig=kubeconfig_of(ACCOUNT))
    runs.core.create_namespaced_secret(
        runs.namespace, {"metadata": {"name": "mine"}, "stringData": {"url": redis_server.url}}
    )
    runs.create(redis={"urlSecretRef": {"name": "mine"}})
    condition = runs.wait_condition("Healthy", status="False", reason="RedisUnavailable")
    assert "rbac.readableSecrets" in condition["message"]
    assert redis_server.url not in condition["message"]
    runs.wait_for(workers__ready=2)  # the workers do not need the operator's eyes
    readable = "rbac.readableSecrets[0]"
    install_rights(
        api,
        runs.namespace,
        f"watchNamespaces={{{runs.namespace}}}",
        f"{readable}.namespace={runs.namespace}",
        f"{readable}.name=mine",
        suffix="-secrets",
    )
    runs.wait_condition("Healthy", status="True")
    names = [each.metadata.name for each in runs.core.list_namespaced_secret(runs.namespace).items]
    assert [name for name in names if name.startswith("run-redis")] == []


def test_optional_children_are_left_out_where_their_kinds_are_not(
    api: client.ApiClient, operator: OperatorProcess, runs: Runs, node: Node
) -> None:
    runs.create(workers__replicas=1, workers__autoscaling={"keda": {"itemsPerWorker": 2}})
    runs.wait_for(workers__ready=1)
    runs.wait_condition("Healthy", status="True")


def test_optional_children_are_made_where_their_kinds_are(
    optional_kinds: None, operator: OperatorProcess, runs: Runs, node: Node
) -> None:
    runs.create(workers__replicas=1, workers__autoscaling={"keda": {"itemsPerWorker": 2}})
    for plural, (group, version, _) in OPTIONAL_KINDS.items():
        found = wait_until(lambda: named_child(runs, group, version, plural), 20, plural)  # noqa: B023 - used at once
        assert found["metadata"]["ownerReferences"][0]["kind"] == "ESFineTune"


def named_child(runs: Runs, group: str, version: str, plural: str) -> Any:
    try:
        return runs.custom.get_namespaced_custom_object(group, version, runs.namespace, plural, "run-workers")
    except ApiException as error:
        if error.status == 404:
            return None
        raise
