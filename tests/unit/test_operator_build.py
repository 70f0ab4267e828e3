"""What the operator builds for a run beside its Job: owned, applicable, and read back as it was meant."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kubernetes import client

from esft.document import parse
from esft.errors import SpecError
from esft.layout import redis_key
from esft.queue.scripts import run_keys
from esft.spec import ESFineTuneSpec, fingerprint
from esft_operator import names
from esft_operator.decide import build
from esft_operator.resource import Manifest, Run
from operator_manifests import DEFAULTS, SHARED, SPEC, UID, make_run

KEDA = {
    "workers": {
        "minReplicas": 0,
        "maxReplicas": 6,
        "replicas": 1,
        "autoscaling": {"keda": {"itemsPerWorker": 4}},
    }
}


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


class TestKeda:
    def test_is_absent_unless_asked_for(self) -> None:
        assert build.scaled_object(make_run()) is None
        assert build.trigger_authentication(make_run()) is None

    def test_the_list_is_the_queues(self) -> None:
        assert redis_key(UID, "todo") in run_keys(UID)

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
                    "metadata": {"listName": redis_key(UID, "todo"), "listLength": "4"},
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
