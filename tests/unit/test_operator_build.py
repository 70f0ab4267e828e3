import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kubernetes import client

from esft.document import parse
from esft.errors import SpecError
from esft.queue.scripts import run_keys
from esft.spec import ESFineTuneSpec, fingerprint
from esft_operator import names
from esft_operator.decide import build
from esft_operator.decide.build.keda import todo_key
from esft_operator.resource import Manifest, Run
from esft_operator.settings import WorkerDefaults

UID = "0f5b1e0a-1111-2222-3333-444455556666"
DEFAULTS = WorkerDefaults(image="worker:1")
SPEC: dict[str, Any] = {
    "model": {"source": "hf://Qwen/Qwen2.5-1.5B-Instruct"},
    "task": {"name": "countdown", "train": {"size": 200}, "test": {"size": 100, "seed": 1}},
}
KEDA = {
    "workers": {
        "minReplicas": 0,
        "maxReplicas": 6,
        "replicas": 1,
        "autoscaling": {"keda": {"itemsPerWorker": 4}},
    }
}
SHARED = {"checkpoint": {"storage": {"uri": "file:///data/run"}}}


def make_run(
    spec: dict[str, Any] | None = None,
    *,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
) -> Run:
    metadata = {"name": "tune", "namespace": "team", "uid": UID, "labels": labels, "annotations": annotations}
    return Run.from_body({"metadata": metadata, "spec": SPEC | (spec or {})})


def make_job(spec: dict[str, Any] | None = None, *, parallelism: int = 2, **metadata: Any) -> Manifest:
    return build.job(make_run(spec, **metadata), DEFAULTS, parallelism=parallelism)


def pod_of(job: Manifest) -> Manifest:
    pod: Manifest = job["spec"]["template"]["spec"]
    return pod


def worker_of(job: Manifest) -> Manifest:
    (worker,) = pod_of(job)["containers"]
    return dict(worker)


def arguments_of(job: Manifest) -> dict[str, str]:
    arguments = worker_of(job)["args"]
    return dict(zip(arguments[::2], arguments[1::2], strict=True))


def mounts_of(job: Manifest) -> dict[str, str]:
    return {mount["mountPath"]: mount["name"] for mount in worker_of(job)["volumeMounts"]}


def volumes_of(job: Manifest) -> dict[str, Manifest]:
    return {volume["name"]: volume for volume in pod_of(job)["volumes"]}


def environment_of(job: Manifest) -> dict[str, Manifest]:
    return {variable["name"]: variable for variable in worker_of(job)["env"]}


def with_shared_volume(path: str) -> dict[str, Any]:
    pod = {
        "containers": [{"name": "worker", "volumeMounts": [{"name": "data", "mountPath": path}]}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    }
    return {"workers": {"template": {"spec": pod}}}


def read_back(run: Run) -> ESFineTuneSpec:
    text = build.config_map(run)["data"]["esfinetune.yaml"]
    resource = parse(text, source="esfinetune.yaml", folder=Path("/"))
    assert resource.metadata.name == run.name
    return resource.spec


def all_children(run: Run) -> list[Manifest]:
    children = [
        build.config_map(run),
        build.volume_claim(run),
        build.redis_secret(run, url="redis://redis:6379/0"),
        build.job(run, DEFAULTS, parallelism=2),
        build.pod_monitor(run),
    ]
    return [child for child in children if child is not None]


def values_within(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from values_within(each)


class TestChildren:
    def test_each_has_one_owner_and_labels_to_be_found_by(self) -> None:
        for child in all_children(make_run()):
            metadata = child["metadata"]
            assert metadata["namespace"] == "team"
            assert metadata["ownerReferences"] == [
                {
                    "apiVersion": "esfinetune.dev/v1alpha1",
                    "kind": "ESFineTune",
                    "name": "tune",
                    "uid": UID,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ]
            assert names.child_labels("tune", UID).items() <= metadata["labels"].items()
            assert "app.kubernetes.io/component" in metadata["labels"]

    def test_they_can_be_applied(self) -> None:
        for child in all_children(
            make_run({"model": SPEC["model"] | {"credentialsSecretRef": {"name": "t"}}})
        ):
            assert None not in values_within(child)
            assert "status" not in child
            assert json.loads(json.dumps(child)) == child

    def test_they_are_of_the_types_that_kubernetes_knows(self) -> None:
        kinds = {"ConfigMap", "Job", "PersistentVolumeClaim", "Secret"}
        children = [child for child in all_children(make_run()) if child["kind"] in kinds]
        assert {child["kind"] for child in children} == kinds
        with client.ApiClient() as api:
            for child in children:
                typed = api.deserialize(json.dumps(child), f"V1{child['kind']}", "application/json")
                assert api.sanitize_for_serialization(typed) == child


class TestConfigMap:
    def test_is_read_back_as_the_same_run(self) -> None:
        run = make_run({"evolution": {"sigma": 1e-05, "generations": 7}, "monitoring": {"kl": None}})
        assert fingerprint(read_back(run)) == fingerprint(run.spec)
        assert read_back(run).evolution == run.spec.evolution
        assert read_back(run).monitoring.kl is None

    def test_states_defaults_too_as_a_worker_s_own_may_be_others(self) -> None:
        run = make_run()
        stated = yaml.safe_load(build.config_map(run)["data"]["esfinetune.yaml"])["spec"]
        for section in ("model", "task", "decoding", "evolution", "evaluation", "monitoring", "stop"):
            assert stated[section] == getattr(run.spec, section).model_dump(mode="json")

    @settings(deadline=None)
    @given(
        st.dictionaries(
            st.text(min_size=1),
            st.recursive(
                st.none()
                | st.booleans()
                | st.integers()
                | st.text()
                | st.sampled_from(["y", "1e-3", "~", "07", "a\nb"]),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
                max_leaves=8,
            )
            | st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer()),
            max_size=4,
        )
    )
    def test_whatever_the_options_they_are_read_back(self, options: dict[str, Any]) -> None:
        run = make_run({"task": SPEC["task"] | {"options": options}})
        assert read_back(run).task.options == run.spec.task.options

    def test_tells_workers_what_they_need(self) -> None:
        spec = {
            "workers": {"claimSize": 3, "leaseSeconds": 9, "quorum": 0.5},
            "stop": {"targetScore": 0.5},
            "checkpoint": {"everyGenerations": 2, "keep": 9},
            "evaluation": {"everyGenerations": 3},
        }
        given, read = make_run(spec).spec, read_back(make_run(spec))
        for section in ("workers", "stop", "checkpoint", "evaluation", "decoding", "model", "task"):
            assert getattr(read, section) == getattr(given, section)

    @pytest.mark.parametrize(
        "spec",
        [
            {"workers": {"minReplicas": 0, "maxReplicas": 3, "replicas": 2}},
            {"workers": {"autoscaling": {"targetGenerationSeconds": 60}}},
            {"workers": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}},
            {"suspend": True},
            {"managedBy": "example.com/other"},
            {"activeDeadlineSeconds": 1, "pendingDeadlineSeconds": 2, "ttlSecondsAfterFinished": 3},
            {"redis": {"urlSecretRef": {"name": "mine"}}},
            {"checkpoint": {"storage": {"volumeClaim": {"size": "1Ti"}}}},
        ],
    )
    def test_says_nothing_of_what_workers_must_not_depend_on(self, spec: dict[str, Any]) -> None:
        assert build.config_map(make_run(spec)) == build.config_map(make_run())


class TestStorage:
    def test_the_claim_is_as_specified(self) -> None:
        claim = {"size": "5Gi", "storageClassName": "fast", "accessMode": "ReadWriteOnce"}
        manifest = build.volume_claim(make_run({"checkpoint": {"storage": {"volumeClaim": claim}}}))
        assert manifest is not None
        assert manifest["spec"] == {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "5Gi"}},
            "storageClassName": "fast",
        }

    def test_without_a_class_the_cluster_chooses(self) -> None:
        manifest = build.volume_claim(make_run())
        assert manifest is not None
        assert "storageClassName" not in manifest["spec"]

    def test_a_uri_needs_no_claim(self) -> None:
        assert build.volume_claim(make_run(SHARED)) is None

    def test_a_checkpoint_has_a_place(self) -> None:
        assert build.checkpoint_uri(make_run(), 50) == "pvc://tune-checkpoints/checkpoints/generation-000050"
        assert build.checkpoint_uri(make_run(SHARED), 1_000_000) == "file:///data/run/generation-1000000"


class TestRedisSecret:
    @pytest.mark.parametrize(
        ("url", "address", "host", "port", "username", "password", "tls"),
        [
            ("redis://redis", "redis:6379", "redis", "6379", "", "", "disable"),
            (
                "rediss://u:p%40%2Fx@r.ns.svc:7000/0",
                "r.ns.svc:7000",
                "r.ns.svc",
                "7000",
                "u",
                "p@/x",
                "enable",
            ),
            ("redis://:p@[::1]:1", "[::1]:1", "::1", "1", "", "p", "disable"),
        ],
    )
    def test_has_the_url_and_its_parts(
        self, url: str, address: str, host: str, port: str, username: str, password: str, tls: str
    ) -> None:
        secret = build.redis_secret(make_run(), url=url)
        assert secret["metadata"]["name"] == names.redis_secret_name("tune", UID)
        assert secret["immutable"] is True
        assert secret["stringData"] == {
            "url": url,
            "address": address,
            "host": host,
            "port": port,
            "username": username,
            "password": password,
            "tls": tls,
        }

    def test_a_url_without_host_is_refused_and_not_shown(self) -> None:
        with pytest.raises(SpecError, match="no host that worker pods could reach") as caught:
            build.redis_secret(make_run(), url="unix:///run/secret.sock")
        assert "secret.sock" not in str(caught.value)


class TestJob:
    def test_runs_any_number_of_pods_until_one_says_that_the_run_is_over(self) -> None:
        spec = make_job(parallelism=5)["spec"]
        assert spec["parallelism"] == 5
        assert spec["backoffLimit"] == 2**31 - 1
        assert {"completions", "suspend", "ttlSecondsAfterFinished", "selector"}.isdisjoint(spec)

    def test_fails_on_a_bad_spec_and_ignores_drained_and_disrupted_pods(self) -> None:
        job = make_job()
        worker = {"containerName": "worker", "operator": "In"}
        assert job["spec"]["podFailurePolicy"]["rules"] == [
            {"action": "FailJob", "onExitCodes": worker | {"values": [64]}},
            {"action": "Ignore", "onExitCodes": worker | {"values": [143]}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        ]
        assert job["spec"]["podReplacementPolicy"] == "Failed"
        assert pod_of(job)["restartPolicy"] == "Never"

    def test_hands_kueue_what_is_kueues_and_nothing_else(self) -> None:
        queue, elastic = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/elastic-job"
        job = make_job(
            labels={queue: "gpus", "team": "nlp", names.RUN_UID_LABEL: "forged"},
            annotations={elastic: "true", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
        )
        labels, annotations = job["metadata"]["labels"], job["metadata"]["annotations"]
        assert labels[queue] == "gpus"
        assert labels[names.RUN_UID_LABEL] == UID
        assert "team" not in labels
        assert annotations.keys() == {elastic, names.TEMPLATE_HASH_ANNOTATION}
        assert queue not in job["spec"]["template"]["metadata"]["labels"]

    def test_pods_are_found_by_the_selector_and_the_monitor(self) -> None:
        run = make_run()
        labels = build.job(run, DEFAULTS, parallelism=1)["spec"]["template"]["metadata"]["labels"]
        monitor = build.pod_monitor(run)["spec"]
        wanted = dict(pair.split("=") for pair in names.selector(run.name, run.uid).split(","))
        assert monitor["selector"]["matchLabels"] == wanted
        assert wanted.items() <= labels.items()
        assert labels["app.kubernetes.io/component"] == "worker"


class TestTemplateHash:
    def test_is_the_jobs_annotation(self) -> None:
        found = make_job()["metadata"]["annotations"][names.TEMPLATE_HASH_ANNOTATION]
        assert re.fullmatch("[0-9a-f]{16}", found)
        assert found == build.template_hash(make_run(), DEFAULTS)

    @pytest.mark.parametrize(
        "spec",
        [
            {"workers": {"minReplicas": 0, "maxReplicas": 3, "replicas": 2}},
            {"suspend": True, "activeDeadlineSeconds": 1},
            {"checkpoint": {"storage": {"volumeClaim": {"size": "1Ti"}}}},
            {"evolution": {"generations": 501}},
            {"workers": {"claimSize": 2, "leaseSeconds": 9, "quorum": 0.5}},
            {"evaluation": {"everyGenerations": 7}, "monitoring": {"kl": {"prompts": 3}}},
            {"checkpoint": {"everyGenerations": 7, "keep": 1}, "stop": {"patience": 2}},
        ],
    )
    def test_stays_when_pods_may_stay(self, spec: dict[str, Any]) -> None:
        assert build.template_hash(make_run(spec), DEFAULTS) == build.template_hash(make_run(), DEFAULTS)

    @pytest.mark.parametrize(
        "spec",
        [
            {"evolution": {"sigma": 0.5}},
            {"workers": {"masterWeights": "host"}},
            {"workers": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}},
            {"redis": {"urlSecretRef": {"name": "mine"}}},
            SHARED | with_shared_volume("/data"),
        ],
    )
    def test_changes_when_pods_must(self, spec: dict[str, Any]) -> None:
        assert build.template_hash(make_run(spec), DEFAULTS) != build.template_hash(make_run(), DEFAULTS)

    def test_changes_with_the_image(self) -> None:
        other = WorkerDefaults(image="worker:2")
        assert build.template_hash(make_run(), other) != build.template_hash(make_run(), DEFAULTS)

    def test_does_not_depend_on_the_order_of_the_template(self) -> None:
        one = {"workers": {"template": {"spec": {"nodeSelector": {"a": "1", "b": "2"}, "hostNetwork": True}}}}
        two = {"workers": {"template": {"spec": {"hostNetwork": True, "nodeSelector": {"b": "2", "a": "1"}}}}}
        assert build.template_hash(make_run(one), DEFAULTS) == build.template_hash(make_run(two), DEFAULTS)


class TestPods:
    def test_the_worker_is_told_who_it_is_and_where_things_are(self) -> None:
        assert arguments_of(make_job()) == {
            "--spec": "/etc/esft/esfinetune.yaml",
            "--run": UID,
            "--checkpoints": "/var/lib/esft/checkpoints",
            "--name": "$(ESFT_POD_NAME)",
            "--cache": "/var/lib/esft/cache",
            "--metrics-port": "9090",
            "--termination-log": "/dev/termination-log",
        }

    def test_what_it_is_told_is_mounted(self) -> None:
        job = make_job()
        assert mounts_of(job) == {"/etc/esft": "esft-spec", "/var/lib/esft": "esft-run", "/tmp": "esft-tmp"}  # noqa: S108
        volumes = volumes_of(job)
        assert volumes["esft-spec"]["configMap"] == {"name": build.config_map(make_run())["metadata"]["name"]}
        assert volumes["esft-run"]["persistentVolumeClaim"] == {"claimName": "tune-checkpoints"}
        assert volumes["esft-tmp"]["emptyDir"] == {}

    def test_redis_is_the_runs_own_or_the_users(self) -> None:
        def reference(spec: dict[str, Any]) -> Any:
            return environment_of(make_job(spec))["ESFT_REDIS_URL"]["valueFrom"]["secretKeyRef"]

        assert reference({}) == {"name": names.redis_secret_name("tune", UID), "key": "url"}
        mine = {"name": "mine", "key": "uri"}
        assert reference({"redis": {"urlSecretRef": mine}}) == mine

    def test_credentials_of_the_model_are_variables(self) -> None:
        model = SPEC["model"] | {"credentialsSecretRef": {"name": "hf-token"}}
        assert worker_of(make_job({"model": model}))["envFrom"] == [{"secretRef": {"name": "hf-token"}}]
        assert "envFrom" not in worker_of(make_job())

    def test_caches_are_where_one_may_write(self) -> None:
        environment = environment_of(make_job())
        for name in ("HOME", "HF_HOME", "NUMBA_CACHE_DIR"):
            assert environment[name]["value"].startswith(("/tmp", "/var/lib/esft/cache"))  # noqa: S108

    def test_settings_of_the_operator_are_used(self) -> None:
        defaults = WorkerDefaults(image="own:3", image_pull_policy="Always", termination_grace_seconds=7)
        job = build.job(make_run(), defaults, parallelism=1)
        assert (worker_of(job)["image"], worker_of(job)["imagePullPolicy"]) == ("own:3", "Always")
        assert pod_of(job)["terminationGracePeriodSeconds"] == 7
        assert "imagePullPolicy" not in worker_of(make_job())

    def test_they_pass_the_restricted_level(self) -> None:
        pod, worker = pod_of(make_job()), worker_of(make_job())
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert worker["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }

    def test_no_resources_unless_the_template_has_some(self) -> None:
        resources = {"limits": {"nvidia.com/gpu": 1}}
        template = {"spec": {"containers": [{"name": "worker", "resources": resources}]}}
        assert "resources" not in worker_of(make_job())
        assert worker_of(make_job({"workers": {"template": template}}))["resources"] == resources

    def test_a_model_on_a_claim_is_mounted_to_be_read(self) -> None:
        job = make_job({"model": {"source": "pvc://models/qwen/1.5b"}})
        assert mounts_of(job)["/var/run/esft/claims/models"] == "esft-model"
        assert volumes_of(job)["esft-model"]["persistentVolumeClaim"] == {
            "claimName": "models",
            "readOnly": True,
        }

    def test_checkpoints_go_to_a_folder_that_the_template_mounts(self) -> None:
        job = make_job(SHARED | with_shared_volume("/data"))
        assert arguments_of(job)["--checkpoints"] == "/data/run"
        assert volumes_of(job)["esft-run"] == {"name": "esft-run", "emptyDir": {}}
        assert mounts_of(job)["/var/lib/esft"] == "esft-run"

    def test_a_folder_is_no_variable_to_kubernetes(self) -> None:
        storage = {"checkpoint": {"storage": {"uri": "file:///data/$(HOME)"}}}
        assert (
            arguments_of(make_job(storage | with_shared_volume("/data")))["--checkpoints"] == "/data/$$(HOME)"
        )

    @pytest.mark.parametrize(
        ("spec", "refusal"),
        [
            ({"model": {"source": "s3://bucket/model"}}, r"spec.model.source: s3:// is not supported yet"),
            (
                {"model": {"source": "pvc://../dir"}},
                r"spec.model.source: \.\. is not the name of a Persistent",
            ),
            ({"model": {"source": "pvc://My_Claim/dir"}}, r"spec.model.source: My_Claim is not the name"),
            (
                {"checkpoint": {"storage": {"uri": "s3://bucket/run"}}},
                r"spec.checkpoint.storage.uri: s3:// is not supported yet",
            ),
            (SHARED, r"spec.checkpoint.storage.uri: no volume that workers share is mounted at /data/run"),
            (SHARED | with_shared_volume("/data/runs"), r"is mounted at /data/run\."),
            ({"checkpoint": {"storage": {"uri": "file:///tmp/run"}}}, r"is mounted at /tmp/run"),
            (
                {"workers": {"template": {"spec": {"restartPolicy": "Always"}}}},
                r"spec.workers.template.spec.rest",
            ),
        ],
    )
    def test_what_no_pod_can_do_is_refused(self, spec: dict[str, Any], refusal: str) -> None:
        with pytest.raises(SpecError, match=refusal) as caught:
            make_job(spec)
        assert "Fix: " in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_building_leaves_the_run_as_it_is(self) -> None:
        run = make_run(with_shared_volume("/data"))
        before = copy.deepcopy(run)
        build.job(run, DEFAULTS, parallelism=1)["spec"]["template"]["spec"]["volumes"].clear()
        assert run == before


class TestKeda:
    def test_is_absent_unless_asked_for(self) -> None:
        assert build.scaled_object(make_run()) is None
        assert build.trigger_authentication(make_run()) is None

    def test_the_list_is_the_queues(self) -> None:
        assert todo_key(UID) in run_keys(UID)

    def test_sizes_the_resource_by_the_work_that_waits(self) -> None:
        manifest = build.scaled_object(make_run(KEDA))
        assert manifest is not None
        assert manifest["apiVersion"] == "keda.sh/v1alpha1"
        assert manifest["spec"] == {
            "scaleTargetRef": {"apiVersion": "esfinetune.dev/v1alpha1", "kind": "ESFineTune", "name": "tune"},
            "minReplicaCount": 0,
            "maxReplicaCount": 6,
            "triggers": [
                {
                    "type": "redis",
                    "metadata": {"listName": todo_key(UID), "listLength": "4"},
                    "authenticationRef": {"name": "tune-workers"},
                }
            ],
        }

    def test_reads_redis_with_the_runs_user(self) -> None:
        run = make_run(KEDA)
        manifest, secret = build.trigger_authentication(run), build.redis_secret(run, url="redis://redis")
        assert manifest is not None
        assert manifest["metadata"]["name"] == "tune-workers"
        references = manifest["spec"]["secretTargetRef"]
        assert {each["parameter"] for each in references} == {"address", "username", "password", "tls"}
        assert {each["name"] for each in references} == {secret["metadata"]["name"]}
        assert {each["key"] for each in references} <= secret["stringData"].keys()
