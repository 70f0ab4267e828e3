import copy
from typing import Any

import pytest

from esft.errors import SpecError
from esft_operator.decide.template import merge

BASE: dict[str, Any] = {
    "metadata": {"labels": {"esfinetune.dev/run-uid": "u"}, "annotations": {"tool": "own"}},
    "spec": {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "worker",
                "image": "own",
                "args": ["--run", "u"],
                "env": [{"name": "ESFT_REDIS_URL", "value": "secret"}, {"name": "HOME", "value": "/scratch"}],
                "envFrom": [{"secretRef": {"name": "hf-token"}}],
                "ports": [{"name": "metrics", "containerPort": 9090, "protocol": "TCP"}],
                "volumeMounts": [{"name": "esft-own", "mountPath": "/scratch"}],
                "securityContext": {"readOnlyRootFilesystem": True},
            }
        ],
        "volumes": [{"name": "esft-own", "emptyDir": {}}],
    },
}


def merged(template: dict[str, Any]) -> dict[str, Any]:
    return merge(BASE, template)


def merged_worker(**fields: Any) -> dict[str, Any]:
    result: dict[str, Any] = merged(worker(**fields))["spec"]["containers"][0]
    return result


def worker(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "worker", **fields}]}}


def test_an_empty_template_changes_nothing() -> None:
    assert merged({}) == merged({"spec": {}, "metadata": {}}) == BASE


def test_merging_leaves_both_sides_as_they_are() -> None:
    base, template = copy.deepcopy(BASE), worker(env=[{"name": "A", "value": "1"}], image=None)
    given = copy.deepcopy(template)
    merge(base, template)
    assert base == BASE
    assert template == given


@pytest.mark.parametrize(
    "pod",
    [
        {"nodeSelector": {"gpu": "h100", "ports": "fast"}},
        {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]},
        {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}},
        {"priorityClassName": "batch", "runtimeClassName": "nvidia", "schedulerName": "own"},
        {"serviceAccountName": "trainer", "automountServiceAccountToken": True},
        {"imagePullSecrets": [{"name": "registry"}]},
        {"terminationGracePeriodSeconds": 300},
        {"initContainers": [{"name": "fetch", "image": "curl", "args": ["x"], "env": [{"name": "ESFT_X"}]}]},
        {
            "topologySpreadConstraints": [
                {"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": policy}
                for policy in ("DoNotSchedule", "ScheduleAnyway")
            ]
        },
        {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]},
        {"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["hub"]}]},
        {"schedulingGates": [{"name": "example.com/quota"}]},
    ],
)
def test_fields_that_the_operator_does_not_set_pass_through(pod: dict[str, Any]) -> None:
    assert merged({"spec": pod})["spec"] == BASE["spec"] | pod


def test_resources_are_added_to_the_worker() -> None:
    resources = {"limits": {"nvidia.com/gpu": 1}, "requests": {"memory": "64Gi"}}
    assert merged_worker(resources=resources) == BASE["spec"]["containers"][0] | {"resources": resources}


def test_sidecars_come_after_the_worker_and_may_use_its_volumes() -> None:
    sidecar = {
        "name": "upload",
        "image": "rclone",
        "args": ["sync"],
        "volumeMounts": [{"name": "esft-own", "mountPath": "/scratch"}],
    }
    assert merged({"spec": {"containers": [sidecar]}})["spec"]["containers"] == [
        BASE["spec"]["containers"][0],
        sidecar,
    ]


def test_entries_are_merged_by_their_key_and_keep_their_order() -> None:
    env = [{"name": "EXTRA", "value": "1"}, {"name": "HOME", "value": "/home/me"}]
    assert merged_worker(env=env)["env"] == [
        {"name": "ESFT_REDIS_URL", "value": "secret"},
        {"name": "HOME", "value": "/home/me"},
        {"name": "EXTRA", "value": "1"},
    ]


def test_a_variable_may_get_its_value_from_elsewhere() -> None:
    source = {"fieldRef": {"fieldPath": "metadata.annotations['home']"}}
    env = [{"name": "HOME", "value": None, "valueFrom": source}]
    assert merged_worker(env=env)["env"][1] == {"name": "HOME", "valueFrom": source}


def test_sources_of_variables_are_added_so_that_credentials_stay() -> None:
    more = [{"configMapRef": {"name": "proxy", "optional": None}}, {"secretRef": {"name": "hf-token"}}]
    assert merged_worker(envFrom=more)["envFrom"] == [
        {"secretRef": {"name": "hf-token"}},
        {"configMapRef": {"name": "proxy"}},
        {"secretRef": {"name": "hf-token"}},
    ]


def test_volumes_and_mounts_are_added() -> None:
    template = worker(volumeMounts=[{"name": "data", "mountPath": "/data"}])
    template["spec"]["volumes"] = [{"name": "data", "hostPath": {"path": "/mnt"}}]
    pod = merged(template)["spec"]
    assert [volume["name"] for volume in pod["volumes"]] == ["esft-own", "data"]
    assert [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]] == ["/scratch", "/data"]


def test_ports_differ_by_protocol_too() -> None:
    ports = [{"containerPort": 53}, {"containerPort": 53, "protocol": "UDP"}]
    assert merged_worker(ports=ports)["ports"][1:] == ports


def test_objects_are_merged_field_by_field() -> None:
    security = {"runAsUser": 0, "runAsNonRoot": None, "seccompProfile": {"type": "Unconfined"}}
    assert merged({"spec": {"securityContext": security}})["spec"]["securityContext"] == {
        "runAsUser": 0,
        "seccompProfile": {"type": "Unconfined"},
    }


def test_null_removes_a_field_and_leaves_no_trace_where_there_was_none() -> None:
    template = worker(securityContext=None, livenessProbe=None, lifecycle={"preStop": None})
    template["spec"]["tolerations"] = [{"key": "a", "value": None}]
    pod = merged(template)["spec"]
    assert pod["tolerations"] == [{"key": "a"}]
    assert pod["containers"][0]["lifecycle"] == {}
    assert {"securityContext", "livenessProbe"}.isdisjoint(pod["containers"][0])


def test_labels_named_like_lists_are_no_lists() -> None:
    metadata = {
        "labels": {"env": "prod", "containers": "two"},
        "annotations": {"tool": "theirs", "ports": ""},
    }
    result = merged({"metadata": metadata | {"creationTimestamp": None}})["metadata"]
    assert result == {
        "labels": {"esfinetune.dev/run-uid": "u", "env": "prod", "containers": "two"},
        "annotations": {"tool": "theirs", "ports": ""},
    }


def test_the_worker_may_have_another_image_and_command() -> None:
    changed = merged_worker(image="own:2", command=["nsys", "profile", "esft-worker"])
    assert (changed["image"], changed["command"], changed["args"]) == (
        "own:2",
        ["nsys", "profile", "esft-worker"],
        ["--run", "u"],
    )


CONTAINER = "spec.containers[worker]"


@pytest.mark.parametrize(
    ("template", "refusal"),
    [
        (
            worker(env=[{"name": "ESFT_REDIS_URL", "value": "x"}]),
            f"{CONTAINER}.env[ESFT_REDIS_URL]: is set by",
        ),
        (worker(env=[{"name": "ESFT_NEW", "value": "x"}]), f"{CONTAINER}.env[ESFT_NEW]: is set by"),
        (worker(args=["--run", "other"]), f"{CONTAINER}.args: is set by"),
        (worker(args=None), f"{CONTAINER}.args: is set by"),
        (worker(restartPolicy="Always"), f"{CONTAINER}.restartPolicy: is set by"),
        (worker(terminationMessagePath="/x"), f"{CONTAINER}.terminationMessagePath: is set by"),
        (worker(ports=[{"containerPort": 9090, "name": "x"}]), f"{CONTAINER}.ports[9090]: is set by"),
        (
            worker(volumeMounts=[{"name": "a", "mountPath": "/scratch"}]),
            f"{CONTAINER}.volumeMounts[/scratch]: is set",
        ),
        (
            worker(volumeMounts=[{"name": "a", "mountPath": "/scratch/"}]),
            f"{CONTAINER}.volumeMounts[/scratch/]: is set",
        ),
        (
            worker(volumeMounts=[{"name": "a", "mountPath": "/x/../scratch/y"}]),
            "volumeMounts[/x/../scratch/y]: is set",
        ),
        (worker(env=None), f"{CONTAINER}.env: is null"),
        (worker(envFrom=None), f"{CONTAINER}.envFrom: is null"),
        (worker(env={"A": "1"}), f"{CONTAINER}.env: must be a list"),
        (worker(envFrom={"secretRef": {}}), f"{CONTAINER}.envFrom: must be a list"),
        (worker(envFrom=["hf-token"]), f"{CONTAINER}.envFrom[0]: must be an object"),
        (worker(env=[{"value": "1"}]), f"{CONTAINER}.env[0].name: must be text"),
        (worker(env=[{"name": 1}]), f"{CONTAINER}.env[0].name: must be text"),
        (worker(env=["A=1"]), f"{CONTAINER}.env[0]: must be an object"),
        (worker(env=[{"name": "A"}, {"name": "A"}]), f"{CONTAINER}.env[A]: is given twice"),
        (worker(ports=[{"containerPort": "9090"}]), f"{CONTAINER}.ports[0].containerPort: must be a whole"),
        (worker(securityContext=[]), f"{CONTAINER}.securityContext: must be an object"),
        (worker(**{"$patch": "delete"}), "spec.containers[0].$patch: is a directive"),
        ({"spec": {"$retainKeys": ["volumes"]}}, "spec.$retainKeys: is a directive"),
        ({"spec": {"affinity": {"$patch": "replace"}}}, "spec.affinity.$patch: is a directive"),
        ({"spec": {"volumes": [{"name": "esft-own"}]}}, "spec.volumes[esft-own]: is set by"),
        ({"spec": {"volumes": [{"name": "esft-more"}]}}, "spec.volumes[esft-more]: is set by"),
        ({"spec": {"volumes": None}}, "spec.volumes: is null"),
        ({"spec": {"containers": None}}, "spec.containers: is null"),
        ({"spec": {"containers": {"name": "worker"}}}, "spec.containers: must be a list"),
        ({"spec": {"containers": [{"image": "x"}]}}, "spec.containers[0].name: must be text"),
        ({"spec": {"containers": [None]}}, "spec.containers[0]: must be an object"),
        ({"spec": {"initContainers": "x"}}, "spec.initContainers: must be a list"),
        ({"spec": {"restartPolicy": "OnFailure"}}, "spec.restartPolicy: must be Never"),
        ({"spec": {"restartPolicy": None}}, "spec.restartPolicy: must be Never"),
        ({"spec": []}, "spec: must be an object"),
        ({"spec": None}, "spec: must be an object"),
        ({"containers": []}, "containers: is not a field of a pod template"),
        ({"metadata": "x"}, "metadata: must be an object"),
        ({"metadata": {"name": "x"}}, "metadata.name: has no meaning"),
        ({"metadata": {"namespace": "x"}}, "metadata.namespace: has no meaning"),
        ({"metadata": {"labels": None}}, "metadata.labels: is null"),
        ({"metadata": {"labels": ["a"]}}, "metadata.labels: must be an object"),
        ({"metadata": {"labels": {"esfinetune.dev/x": "1"}}}, "metadata.labels[esfinetune.dev/x]: is set by"),
        (
            {"metadata": {"labels": {"app.kubernetes.io/instance": None}}},
            "metadata.labels[app.kubernetes.io/instance]: is set by",
        ),
        (
            {"metadata": {"annotations": {"app.kubernetes.io/managed-by": "me"}}},
            "metadata.annotations[app.kubernetes.io/managed-by]: is set by",
        ),
    ],
)
def test_what_cannot_be_merged_is_refused_with_field_and_fix(template: dict[str, Any], refusal: str) -> None:
    with pytest.raises(SpecError) as caught:
        merged(template)
    message = str(caught.value)
    assert message.startswith("spec.workers.template.")
    assert refusal in message
    assert message.count(". Fix: ") == 1


def test_every_problem_is_in_one_message() -> None:
    template = worker(args=[], env=[{"name": "ESFT_A"}, {"value": "1"}]) | {"status": {}}
    template["spec"]["restartPolicy"] = "Always"
    with pytest.raises(SpecError) as caught:
        merged(template)
    problems = str(caught.value).split("; spec.")
    assert [problem.split(": ")[0].removeprefix("spec.") for problem in problems] == [
        "workers.template.spec.containers[worker].env[1].name",
        "workers.template.status",
        "workers.template.spec.restartPolicy",
        "workers.template.spec.containers[worker].args",
        "workers.template.spec.containers[worker].env[ESFT_A]",
    ]
    assert "\n" not in str(caught.value)
