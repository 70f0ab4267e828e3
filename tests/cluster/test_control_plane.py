"""The shared cluster is what its users take it for, and no other cluster is taken for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from kubernetes import client, config

from kube_parts import ClusterUnavailableError, ControlPlane, existing_cluster, wait_until


def kubeconfig_with_context(folder: Path, name: str) -> Path:
    path = folder / "kubeconfig"
    document = {
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": name, "context": {"cluster": "c", "user": "u"}}],
        "current-context": name,
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("name", ["esft-test", "esft-test-kind"])
def test_a_marked_context_is_used(tmp_path: Path, name: str) -> None:
    assert existing_cluster(kubeconfig_with_context(tmp_path, name)).server == "https://127.0.0.1:1"


@pytest.mark.parametrize("name", ["production", "esft-testing", "my-esft-test"])
def test_an_unmarked_context_is_refused_with_the_way_to_mark_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(ClusterUnavailableError, match=f"kubectl config rename-context {name} esft-test-"):
        existing_cluster(kubeconfig_with_context(tmp_path, name))


def test_no_kubeconfig_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterUnavailableError, match="refuse the context ''"):
        existing_cluster(tmp_path / "absent")


def test_a_condition_that_stays_false_is_described() -> None:
    with pytest.raises(AssertionError, match="the pod is Pending"):
        wait_until(lambda: False, 0, lambda: "the pod is Pending")


@pytest.mark.integration
def test_the_server_is_new_enough(api: client.ApiClient) -> None:
    version = client.VersionApi(api).get_code()
    assert (int(version.major), int(version.minor.rstrip("+"))) >= (1, 36)


@pytest.mark.integration
def test_what_an_object_owns_goes_with_it(api: client.ApiClient, namespace: str) -> None:
    core = client.CoreV1Api(api)
    owner = core.create_namespaced_config_map(namespace, {"metadata": {"name": "owner"}})
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid}
    core.create_namespaced_config_map(
        namespace, {"metadata": {"name": "owned", "ownerReferences": [reference]}}
    )
    core.delete_namespaced_config_map("owner", namespace)

    def names() -> set[str]:
        return {each.metadata.name for each in core.list_namespaced_config_map(namespace).items}

    wait_until(lambda: "owned" not in names(), 30, names)


@pytest.mark.integration
def test_a_job_gets_its_pods(api: client.ApiClient, namespace: str) -> None:
    container = {"name": "main", "image": "none"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    job = {"metadata": {"name": "job"}, "spec": {"parallelism": 2, "template": template}}
    client.BatchV1Api(api).create_namespaced_job(namespace, job)
    pods = client.CoreV1Api(api).list_namespaced_pod
    wait_until(lambda: len(pods(namespace).items) == 2, 20, lambda: pods(namespace).items)


@pytest.mark.integration
def test_a_service_account_has_its_rights_and_no_others(
    api: client.ApiClient,
    control_plane: ControlPlane,
    namespace: str,
    kubeconfig_of: Callable[[str], Path],
) -> None:
    client.CoreV1Api(api).create_namespaced_service_account(namespace, {"metadata": {"name": "reader"}})
    rbac = client.RbacAuthorizationV1Api(api)
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}
    rbac.create_namespaced_role(namespace, {"metadata": {"name": "reader"}, "rules": [rule]})
    rbac.create_namespaced_role_binding(
        namespace,
        {
            "metadata": {"name": "reader"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": namespace}],
        },
    )
    with config.new_client_from_config(str(kubeconfig_of("reader"))) as as_reader:
        core = client.CoreV1Api(as_reader)

        def may(read: Callable[[str], object]) -> bool:
            try:
                read(namespace)
            except client.ApiException as error:
                if error.status != 403:
                    raise
                return False
            return True

        wait_until(lambda: may(core.list_namespaced_config_map), 20, "the right to list ConfigMaps")
        assert not may(core.list_namespaced_secret)
