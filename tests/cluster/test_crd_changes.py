"""What of a run may change, and what the API server refuses to change: the same as `immutable_differences` says."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes import client

from crd_parts import MINIMAL, Resources, Spec, causes, changed, pydantic_s
from esft.spec import IMMUTABLE, ESFineTuneSpec, immutable_differences
from esft_operator.resource import without_nulls

pytestmark = pytest.mark.integration

Try = Callable[[Spec], dict[str, Any]]

URI = "s3://bucket/runs"
VOLUME = {"size": "1Gi"}
MINE = {"name": "mine"}
TEST = {"size": 20, "seed": 1}


BEFORE: Spec = changed(
    {
        "model.credentialsSecretRef": {"name": "token"},
        "task.options": {"numbers": [3, 4]},
        "task.test": TEST,
        "evolution.promptsPerGeneration": 100,
        "checkpoint.storage.volumeClaim": VOLUME,
        "redis.urlSecretRef": MINE,
        "managedBy": "example.com/one",
    }
)
REFUSED: Spec = {
    "model.source": "hf://Qwen/Qwen3",
    "model.revision": "v2",
    "model.dtype": "float32",
    "model.credentialsSecretRef": ...,
    "model.credentialsSecretRef.name": "other",
    "task.name": "other",
    "task.options": {"numbers": [3, 5]},
    "task.train.size": 201,
    "task.train.seed": 7,
    "task.train.source": "file:///a",
    "task.test": ...,
    "task.test.size": 21,
    "task.test.seed": 8,
    "task.test.source": "file:///a",
    "decoding.maxNewTokens": 9,
    "decoding.temperature": 1,
    "decoding.batchSize": 9,
    "evolution.generations": 499,
    "evolution.population": 32,
    "evolution.sigma": 0.002,
    "evolution.learningRate": 0.1,
    "evolution.seed": 1,
    "evolution.sampling": "antithetic",
    "evolution.shaping": "raw",
    "evolution.promptsPerGeneration": ...,
    "evolution.schedule.sigma": "linear",
    "evolution.schedule.learningRate": "linear",
    "evolution.anchor.l2": 0.1,
    "evolution.parameters.include": ["a"],
    "evolution.parameters.exclude": ["a"],
    "checkpoint.storage.volumeClaim.size": "60Gi",
    "checkpoint.storage.volumeClaim.storageClassName": "fast",
    "checkpoint.storage.volumeClaim.accessMode": "ReadWriteOnce",
    "redis.urlSecretRef": ...,
    "redis.urlSecretRef.name": "other",
    "redis.urlSecretRef.key": "other",
    "managedBy": "example.com/two",
}
ALLOWED: Spec = {
    "evolution.generations": 501,
    "evaluation.everyGenerations": 7,
    "monitoring.kl": None,
    "monitoring.kl.everyGenerations": 0,
    "checkpoint.everyGenerations": 1,
    "checkpoint.keep": 1,
    "stop.targetScore": 0.9,
    "workers": {"replicas": 3, "autoscaling": {"targetGenerationSeconds": 5}},
    "suspend": True,
    "activeDeadlineSeconds": 1,
    "pendingDeadlineSeconds": 1,
    "ttlSecondsAfterFinished": 0,
}


@pytest.fixture
def resources(crd: None, api: client.ApiClient, namespace: str) -> Resources:
    return Resources(api, namespace)


@pytest.fixture(scope="module")
def try_to_change(crd: None, api: client.ApiClient) -> Iterator[Try]:
    """Offer the API server another spec for a run that exists, without making the change."""
    namespace = f"test-{uuid.uuid4().hex[:12]}"
    core = client.CoreV1Api(api)
    core.create_namespace({"metadata": {"name": namespace}})
    resources = Resources(api, namespace)
    existing = resources.create(BEFORE)
    yield lambda changes: resources.replace(existing, changed(changes, existing["spec"]), dry_run="All")
    core.delete_namespace(namespace)


@pytest.mark.parametrize(("path", "value"), REFUSED.items(), ids=REFUSED)
def test_a_change_is_refused_by_name(try_to_change: Try, path: str, value: object) -> None:
    ((field, message),) = causes(lambda: try_to_change({path: value})).items()
    assert field == f"spec.{path}"
    assert path in message
    assert ". Fix: " in message
    old, new = (ESFineTuneSpec.model_validate(spec) for spec in (BEFORE, changed({path: value}, BEFORE)))
    (difference,) = immutable_differences(old, new)
    assert difference.startswith(field)


@pytest.mark.parametrize(("path", "value"), ALLOWED.items(), ids=ALLOWED)
def test_a_change_is_allowed(try_to_change: Try, path: str, value: object) -> None:
    assert try_to_change({path: value})
    old, new = (ESFineTuneSpec.model_validate(spec) for spec in (BEFORE, changed({path: value}, BEFORE)))
    assert immutable_differences(old, new) == []


def test_every_immutable_section_is_tried() -> None:
    assert all(any(path.startswith(section) for path in REFUSED) for section in IMMUTABLE)
    assert {f"evolution.{name}" for name in pydantic_s(BEFORE)["evolution"]} <= {
        ".".join(path.split(".")[:2]) for path in REFUSED
    }


def test_optional_fields_cannot_be_added_later(resources: Resources) -> None:
    run = resources.create(MINIMAL)
    for path, value in {
        "task.test": TEST,
        "redis.urlSecretRef": MINE,
        "managedBy": "example.com/one",
        "evolution.promptsPerGeneration": 5,
        "model.credentialsSecretRef": MINE,
    }.items():
        assert set(causes(lambda p=path, v=value: resources.replace(run, changed({p: v}, run["spec"])))) == {
            f"spec.{path}"
        }


def test_the_kind_of_storage_cannot_change(resources: Resources) -> None:
    run = resources.create(MINIMAL)
    to_uri = changed({"checkpoint.storage": {"uri": URI}}, run["spec"])
    assert {"spec.checkpoint.storage.uri", "spec.checkpoint.storage.volumeClaim"} == set(
        causes(lambda: resources.replace(run, to_uri))
    )


def test_taking_nulls_out_of_a_file_changes_nothing(resources: Resources) -> None:
    everything = ESFineTuneSpec.model_validate(MINIMAL).model_dump(mode="json")
    run = resources.create(everything)
    again = resources.replace(run, pydantic_s(MINIMAL))
    assert again["spec"] == pydantic_s(MINIMAL)
    assert without_nulls(resources.replace(again, everything)["spec"]) == again["spec"]
