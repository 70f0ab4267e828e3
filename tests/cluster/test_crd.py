"""The CRD's schema as a real API server takes it: the same defaults, bounds and rules as pydantic's."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from kubernetes import client
from pydantic import ValidationError

from crd import ROOT, definition
from crd_parts import MINIMAL, Resources, Spec, causes, changed, pydantic_s
from esft.spec import ESFineTuneSpec
from esft_operator.resource import without_nulls
from rule_examples import EXAMPLES, MINE, VOLUME, Example, rules_told_by

pytestmark = pytest.mark.integration

Try = Callable[..., dict[str, Any]]

FILES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.fixture(scope="module")
def trial(crd: None, api: client.ApiClient) -> Callable[..., dict[str, Any]]:
    """Create a run as far as the API server's opinion of it, and no further."""
    resources = Resources(api, "default")
    return lambda spec, name="run": resources.create(spec, name, dry_run="All")


def test_is_established_and_structural(crd: None, api: client.ApiClient) -> None:
    name = definition()["metadata"]["name"]
    status = client.ApiextensionsV1Api(api).read_custom_resource_definition(name).status
    conditions = {each.type: each.status for each in status.conditions}
    assert conditions["Established"] == "True"
    assert "NonStructuralSchema" not in conditions
    assert status.accepted_names.short_names == ["esft"]


FULL_CHOICES = {
    "monitoring": {},
    "checkpoint": {"storage": {"volumeClaim": VOLUME}},
    "workers": {"replicas": 2, "autoscaling": {"keda": {}}},
    "evolution": {"schedule": {}, "anchor": {}, "parameters": {}},
    "task.test": {"seed": 1, "size": 1},
    "model.credentialsSecretRef": {"name": "token"},
}


@pytest.mark.parametrize(
    "spec",
    [MINIMAL, changed(FULL_CHOICES), *(yaml.safe_load(path.read_text())["spec"] for path in FILES)],
    ids=["minimal", "choices", *(path.stem for path in FILES)],
)
def test_defaults_are_pydantic_s(trial: Try, spec: Spec) -> None:
    assert trial(spec)["spec"] == pydantic_s(spec)


def test_redis_secret_has_a_default_key(trial: Try) -> None:
    redis = trial(changed({"redis.urlSecretRef": MINE}))["spec"]["redis"]
    assert redis == {"urlSecretRef": {"name": "mine", "key": "url"}}


def test_null_may_be_written_wherever_it_is_the_default(trial: Try) -> None:
    spec = ESFineTuneSpec.model_validate(MINIMAL).model_dump(mode="json")
    assert spec["workers"]["replicas"] is None
    assert without_nulls(trial(spec)["spec"]) == pydantic_s(MINIMAL)


def test_null_turns_off_what_is_on_by_default(trial: Try) -> None:
    assert trial(changed({"monitoring.kl": None}))["spec"]["monitoring"] == {"kl": None}


def test_free_objects_keep_everything(trial: Try) -> None:
    options = {"numbers": [3, 4], "style": {"of": ["any", 1, None, {"depth": 0.5}]}}
    template = {"spec": {"containers": [{"name": "worker", "resources": {"limits": {"cpu": 2}}}]}}
    spec = trial(changed({"task.options": options, "workers.template": template}))["spec"]
    assert (spec["task"]["options"], spec["workers"]["template"]) == (options, template)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.source", "Qwen/Qwen2.5"),
        ("model.dtype", "bf16"),
        ("model.revision", ""),
        ("task.name", "not a name"),
        ("task.train.size", 0),
        ("task.train.size", "200"),
        ("task.options", {str(number): 0 for number in range(65)}),
        ("decoding.temperature", 2.1),
        ("evolution.sigma", 0),
        ("evolution.anchor.l2", 1),
        ("evolution.seed", 2**32),
        ("evolution.parameters.include", []),
        ("evolution.parameters.include", ["x"] * 65),
        ("evolution.parameters.include", ["x" * 257]),
        ("checkpoint.storage.volumeClaim.size", "50GB"),
        ("workers.quorum", 0),
        ("workers.replicas", -1),
        ("workers.autoscaling.keda", {"itemsPerWorker": 0}),
        ("managedBy", "kueue"),
        ("suspend", "true"),
        ("ttlSecondsAfterFinished", -1),
    ],
)
def test_bounds_are_pydantic_s(trial: Try, path: str, value: object) -> None:
    spec = changed({path: value})
    assert any(field.startswith(f"spec.{path}") for field in causes(lambda: trial(spec)))
    with pytest.raises(ValidationError):
        ESFineTuneSpec.model_validate(spec)


@pytest.mark.parametrize("path", ["evolution.learning_rate", "evolution.sigmas", "extra"])
def test_an_unknown_field_is_named(trial: Try, path: str) -> None:
    with pytest.raises(client.ApiException, match=f'unknown field \\\\"spec.{path}') as caught:
        trial(changed({path: 1}))
    assert caught.value.status == 400


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_a_rule_that_is_kept_lets_pass(trial: Try, example: Example) -> None:
    spec = changed(example.kept)
    assert trial(spec)["spec"] == pydantic_s(spec)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_a_rule_that_is_broken_says_what_pydantic_says_without_values(trial: Try, example: Example) -> None:
    ((_, rule),) = rules_told_by(example)
    said = rule.without_values()
    found = causes(lambda: trial(changed(example.broken)))
    ((field, message),) = found.items()
    assert field == f"spec.{example.field}"
    assert message.endswith(f"{example.field} {said.message}. Fix: {said.fix}")


def test_two_faults_of_one_object_are_both_named(trial: Try) -> None:
    found = causes(lambda: trial(changed({"stop": {"targetScore": 1, "patience": 1}})))
    assert set(found) == {"spec.stop.targetScore", "spec.stop.patience"}


@pytest.mark.parametrize("name", ["a", "a-1", "x" * 52])
def test_names_that_pods_can_have_are_accepted(trial: Try, name: str) -> None:
    assert trial(MINIMAL, name)["metadata"]["name"] == name


@pytest.mark.parametrize("name", ["x" * 53, "a.b"])
def test_names_that_pods_cannot_have_are_refused(trial: Try, name: str) -> None:
    ((_, message),) = causes(lambda: trial(MINIMAL, name)).items()
    assert "metadata.name must be at most 52" in message
