"""The Job of a run: when it ends, when it is another one, and what its pods are given."""

import copy
import re
from typing import Any

import pytest

from esft.errors import SpecError
from esft_operator import names
from esft_operator.decide import build
from esft_operator.resource import Manifest
from esft_operator.settings import WorkerDefaults
from operator_manifests import DEFAULTS, SHARED, SPEC, UID, make_job, make_run


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
