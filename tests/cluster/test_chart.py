"""The chart as Helm renders and installs it: what it asks for, what it refuses, and what outlives an upgrade."""

import json
import subprocess
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytest
import yaml
from kubernetes import client
from kubernetes.dynamic import DynamicClient

import esft
from esft_operator.settings import OperatorSettings, WorkerDefaults
from kube_parts import ControlPlane
from render_manifests import CHART, INSTALL, helm_program, render, template

# The first test may have to wait for helm to be compiled.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

OWN_REDIS = ("redis.enabled=false", "redis.externalUrlSecretRef.name=my-redis")
SECRETS = ("redis.passwordSecretRef.name=one", "credentialsKeySecretRef.name=two")
READABLE = tuple(
    f"rbac.readableSecrets[{index}].{field}={value}"
    for index, secret in enumerate([("team-a", "first"), ("team-a", "second"), ("team-b", "third")])
    for field, value in zip(("namespace", "name"), secret, strict=True)
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "defaults": (),
    "namespaced": ("watchNamespaces={team-a,team-b}", "crds.install=false"),
    "own-redis": OWN_REDIS,
    "secrets": SECRETS,
    "readable": READABLE,
    "all": (
        "imagePullSecrets[0].name=registry",
        "metrics.podMonitor.enabled=true",
        "metrics.podMonitor.labels.release=prometheus",
        "redis.storage.storageClassName=fast",
        "operator.tolerations[0].operator=Exists",
        "operator.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=zone",
        "redis.nodeSelector.disk=ssd",
    ),
}
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace"}
WORKLOADS = {"Deployment", "StatefulSet"}

Objects = list[dict[str, Any]]
Render = Callable[..., Objects]


@pytest.fixture(scope="module")
def helm() -> str:
    return helm_program()


@pytest.fixture(scope="module")
def rendered(helm: str) -> Render:
    return lambda *values, **options: list(yaml.safe_load_all(template(helm, values, **options)))


def of_kind(objects: Objects, *kinds: str) -> Objects:
    return [each for each in objects if each["kind"] in kinds]


def named(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in of_kind(objects, kind) if each["metadata"]["name"] == name)
    return found


def refusal(helm: str, *values: str) -> str:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        template(helm, values)
    return str(raised.value.stderr)


def test_lint_finds_nothing(helm: str) -> None:
    result = subprocess.run([helm, "lint", "--strict", CHART], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert "[WARNING]" not in result.stdout


def test_the_install_bundle_is_current(helm: str) -> None:
    assert INSTALL.read_text(encoding="utf-8") == render(helm), "run: python hack/render_manifests.py"


def test_the_install_bundle_holds_no_secret() -> None:
    assert of_kind(list(yaml.safe_load_all(INSTALL.read_text(encoding="utf-8"))), "Secret") == []


def test_the_images_are_those_of_this_version() -> None:
    assert (
        yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"] == esft.__version__
    )


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_roles_have_no_wildcard_and_no_way_into_pods_or_secrets(
    rendered: Render, values: tuple[str, ...]
) -> None:
    for role in of_kind(rendered(*values), "Role", "ClusterRole"):
        for rule in role["rules"]:
            assert "*" not in chain.from_iterable(rule.values())
            assert not any(resource.startswith("pods/") for resource in rule["resources"])
            if "secrets" in rule["resources"]:
                assert rule["verbs"] == ["create"] or (rule["verbs"] == ["get"] and rule["resourceNames"])


def test_listed_namespaces_take_no_right_elsewhere(rendered: Render) -> None:
    objects = rendered(*VARIANTS["namespaced"])
    assert of_kind(objects, *CLUSTER_WIDE) == []
    for kind in ("Role", "RoleBinding"):
        assert [each["metadata"]["namespace"] for each in of_kind(objects, kind)] == ["team-a", "team-b"]
    cluster = named(rendered(), "ClusterRole", "esfinetune-operator")["rules"]
    assert all(role["rules"] == cluster for role in of_kind(objects, "Role"))


def test_just_the_readable_secrets_can_be_read(rendered: Render) -> None:
    roles = of_kind(rendered(*READABLE), "Role")
    assert {role["metadata"]["namespace"]: role["rules"] for role in roles} == {
        place: [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": names, "verbs": ["get"]}]
        for place, names in {"team-a": ["first", "second"], "team-b": ["third"]}.items()
    }


def test_roles_of_people_come_with_the_kind(rendered: Render) -> None:
    view, edit = (named(rendered(), "ClusterRole", f"esfinetune-{which}") for which in ("view", "edit"))
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    assert {verb for rule in view["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}


@pytest.mark.parametrize(
    ("values", "namespaces", "redis_url"),
    [
        ((), (), "redis://default:[esfinetune-redis/password]@esfinetune-redis.ns.svc:6379/0"),
        (("watchNamespaces={a,b}",), ("a", "b"), None),
        (OWN_REDIS, (), "[my-redis/url]"),
        (SECRETS, (), "redis://default:[one/password]@esfinetune-redis.ns.svc:6379/0"),
    ],
    ids=["defaults", "namespaced", "own-redis", "secrets"],
)
def test_the_operator_gets_its_settings(
    rendered: Render, values: tuple[str, ...], namespaces: tuple[str, ...], redis_url: str | None
) -> None:
    """As the kubelet would make the environment; [NAME/KEY] stands for what a Secret has."""
    deployment = named(rendered(*values, namespace="ns"), "Deployment", "esfinetune-operator")
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    environment: dict[str, str] = {}
    for variable in deployment["spec"]["template"]["spec"]["containers"][0]["env"]:
        if "valueFrom" in variable:
            reference = variable["valueFrom"]["secretKeyRef"]
            environment[variable["name"]] = f"[{reference['name']}/{reference['key']}]"
        else:
            value = variable["value"]
            for name, known in environment.items():
                value = value.replace(f"$({name})", known)
            environment[variable["name"]] = value
    settings = OperatorSettings.from_environment(environment)
    assert settings.namespaces == namespaces
    assert settings.workers == WorkerDefaults(image_pull_policy="IfNotPresent")
    assert (settings.metrics_port, settings.health_port) == (9090, 8080)
    if redis_url is not None:
        assert settings.redis_url == redis_url


@pytest.mark.parametrize(
    ("values", "named_value"),
    [
        (("watchNamespace={a}",), "'watchNamespace' not allowed"),
        (("redis.storage.sise=1Gi",), "'sise' not allowed"),
        (("images.operator.registry=x",), "'registry' not allowed"),
        (("rbac.readableSecrets[0].name=x",), "namespace"),
        (("redis.enabled=false",), "redis.externalUrlSecretRef.name is empty. Fix:"),
        (("redis.externalUrlSecretRef.name=x",), "set redis.enabled=false"),
    ],
)
def test_what_cannot_work_is_refused(helm: str, values: tuple[str, ...], named_value: str) -> None:
    assert named_value in refusal(helm, *values)


def test_every_value_is_in_the_schema() -> None:
    """And the other way round, so that neither has something that does nothing."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def paths(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        for name, child in node.get("properties", {}).items():
            yield f"{prefix}{name}"
            yield from paths(child, f"{prefix}{name}.")

    def given(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for name, value in values.items():
            yield f"{prefix}{name}"
            if isinstance(value, dict):
                yield from given(value, f"{prefix}{name}.")

    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    known = {path for path in paths(schema) if path != "global" and not path.endswith("[]")}
    assert known <= set(given(values))


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_the_api_server_takes_it_all_and_pods_pass_the_restricted_level(
    rendered: Render, api: client.ApiClient, namespace: str, values: tuple[str, ...]
) -> None:
    core = client.CoreV1Api(api)
    enforced = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    core.patch_namespace(namespace, enforced)
    dynamic = DynamicClient(api)
    for each in rendered(*values, namespace=namespace):
        if each["kind"] not in {"PodMonitor", "CustomResourceDefinition"}:  # the latter: test_crd.py
            if "namespace" in each["metadata"]:
                each["metadata"]["namespace"] = namespace  # those of other namespaces are not there
            dynamic.resources.get(api_version=each["apiVersion"], kind=each["kind"]).server_side_apply(
                body=each,
                namespace=each["metadata"].get("namespace"),
                field_manager="helm",
                query_params=[("fieldValidation", "Strict"), ("dryRun", "All")],
            )
        if each["kind"] in WORKLOADS:
            pod = each["spec"]["template"]
            pod["metadata"]["name"] = "pod"
            for claim in each["spec"].get("volumeClaimTemplates", ()):
                pod["spec"]["volumes"].append({"name": claim["metadata"]["name"], "emptyDir": {}})
            pod["spec"].pop("serviceAccountName", None)  # not there: this is a dry run
            core.create_namespaced_pod(namespace, pod, dry_run="All", field_validation="Strict")


def test_random_secrets_outlive_an_upgrade_and_the_key_an_uninstall(
    helm: str, control_plane: ControlPlane, api: client.ApiClient, namespace: str
) -> None:
    def run(*command: str) -> None:
        place = ["--kubeconfig", control_plane.kubeconfig, "--namespace", namespace]
        done = subprocess.run([helm, *command, *place], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def secrets() -> dict[str, dict[str, str]]:
        found = client.CoreV1Api(api).list_namespaced_secret(
            namespace, label_selector="app.kubernetes.io/instance=es"
        )
        return {each.metadata.name: each.data for each in found.items}

    values = ("--set", f"crds.install=false,watchNamespaces={{{namespace}}}")
    run("install", "es", str(CHART), *values)
    first = secrets()
    assert {name: list(data) for name, data in first.items()} == {
        "es-redis": ["password"],
        "es-credentials": ["key"],
    }
    run("upgrade", "es", str(CHART), *values, "--set", "images.redis.tag=8.1-alpine")
    assert secrets() == first
    client.CoreV1Api(api).delete_namespaced_secret("es-redis", namespace)  # how docs/install.md changes it
    run("upgrade", "es", str(CHART), *values)
    assert secrets()["es-redis"] != first["es-redis"]
    run("uninstall", "es")
    assert secrets() == {"es-credentials": first["es-credentials"]}
    run("install", "es", str(CHART), *values)
    assert secrets()["es-credentials"] == first["es-credentials"]


def test_no_registry_host_is_written_down() -> None:
    images = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["images"]
    assert all("." not in image["repository"].split("/")[0] for image in images.values())
