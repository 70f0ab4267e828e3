"""What a specification may say, and in which words it is refused."""

import json

import pytest
from pydantic import ValidationError

from esft.problems import fields_of, models_of, problems_of
from esft.spec import DataSpec, ESFineTune, ESFineTuneSpec
from esft.spec.training import Decoding, Evolution
from spec_examples import COMPLETE, MINIMAL, changed, read


def problem_lines(document: dict) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        read(document)
    return [problem.sentence for problem in problems_of(caught.value, ESFineTuneSpec, prefix=("spec",))]


def test_the_complete_example_is_the_defaults():
    """The example that has every field says no more than the defaults do."""
    without = {
        "model": {"source": COMPLETE["model"]["source"], "credentialsSecretRef": {"name": "hf-token"}},
        "task": COMPLETE["task"],
    }
    assert read(COMPLETE) == read(without)


def test_writes_what_it_read():
    spec = read(COMPLETE)
    assert read(spec.model_dump(mode="json")) == spec
    assert ESFineTuneSpec.model_validate_json(spec.model_dump_json()) == spec
    dumped = spec.model_dump(mode="json", exclude_unset=True)
    assert json.loads(json.dumps(dumped)) == COMPLETE


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.source", "Qwen/Qwen2.5", "has the wrong form"),
        ("model.source", "file://relative", "has the wrong form"),
        ("model.source", "hf://only-one-part", "has the wrong form"),
        ("model.source", "tiny://Up", "has the wrong form"),
        ("model.dtype", "bf16", "must be one of float32, float16, bfloat16"),
        ("model.revision", "", "must be at least 1 characters long"),
        ("task.name", "not a name", "has the wrong form"),
        ("task.name", "caf\u00e9", "has the wrong form"),
        ("task.train.size", 0, "must be at least 1, got 0"),
        ("task.train.size", "200", "must be a whole number"),
        ("task.train.seed", 2**32, "must be at most 4294967295"),
        ("task.train.source", "data.jsonl", "has the wrong form"),
        ("decoding.temperature", -0.1, "must be at least 0, got -0.1"),
        ("decoding.maxNewTokens", 1.5, "must be a whole number, got 1.5"),
        ("decoding.max_new_tokens", 5, "is not a field. Fix: did you mean `maxNewTokens`?"),
        ("evolution.sigma", 0, "must be greater than 0, got 0"),
        ("evolution.sigma", float("nan"), "finite"),
        ("evolution.sigma", True, "must be a number, got true"),
        ("evolution.learningRate", -1, "must be at least 0"),
        ("evolution.population", 0, "must be at least 1"),
        ("evolution.population", 65_537, "must be at most 65536"),
        ("evolution.generations", 0, "must be at least 1"),
        ("evolution.anchor.l2", 1, "must be less than 1"),
        ("evolution.shaping", "z-score", "write `shaping: zscore`"),
        ("evolution.parameters.include", [], "must be at least 1 entries long"),
        ("evolution.parameters.include", ["("], "is not a regular expression"),
        ("evolution.parameters.exclude", ["x"] * 65, "must be at most 64 entries long"),
        ("evolution.parameters.exclude", "x", "must be a list"),
        ("checkpoint.storage.uri", "nfs://x/y", "has the wrong form"),
        ("checkpoint.storage.volumeClaim", {"size": "50GB"}, "has the wrong form"),
        ("stop.patience", 0, "must be at least 1"),
        ("workers.quorum", 0, "must be greater than 0"),
        ("workers.quorum", 1.1, "must be at most 1"),
        ("workers.claimSize", 0, "must be at least 1"),
        ("workers.leaseSeconds", 0, "must be at least 1"),
        ("workers.autoscaling.keda", {"itemsPerWorker": 0}, "must be at least 1"),
        ("workers.template", [], "must be an object"),
        ("suspend", "true", "remove the quotes: `suspend: true`"),
        ("managedBy", "kueue", "has the wrong form"),
        ("activeDeadlineSeconds", 2**31, "must be at most 2147483647"),
        ("ttlSecondsAfterFinished", -1, "must be at least 0"),
    ],
)
def test_refuses(path, value, message):
    (line,) = problem_lines(changed(path, value))
    assert line.startswith(f"spec.{path}")
    assert message in line
    assert ". Fix: " in line


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        (
            {"evolution": {"sampling": "antithetic", "population": 31}},
            "evolution.population",
            "set it to 32",
        ),
        (
            {"evolution": {"promptsPerGeneration": 201}},
            "evolution.promptsPerGeneration",
            "at most task.train.size (200)",
        ),
        ({"workers": {"minReplicas": 9}}, "workers.minReplicas", "at most maxReplicas (8), got 9"),
        ({"workers": {"replicas": 0}}, "workers.replicas", "from minReplicas (1) to maxReplicas (8), got 0"),
        ({"workers": {"replicas": 9}}, "workers.replicas", "got 9"),
        ({"workers": {"autoscaling": {"keda": {}}}}, "workers.replicas", "set the number to start with"),
        (
            {
                "workers": {
                    "replicas": 1,
                    "autoscaling": {"keda": {}, "targetGenerationSeconds": 60},
                },
            },
            "workers.autoscaling.keda",
            "excludes targetGenerationSeconds",
        ),
        (
            {
                "workers": {"replicas": 1, "autoscaling": {"keda": {}}},
                "redis": {"urlSecretRef": {"name": "mine"}},
            },
            "workers.autoscaling.keda",
            "needs the operator's own Redis",
        ),
        ({"stop": {"targetScore": 0.5}}, "stop.targetScore", "no test split"),
        ({"stop": {"patience": 3}}, "stop.patience", "no test split"),
        ({"task": {"name": "x", "train": {}}}, "task.train.size", "no source"),
        (
            {"task": {"name": "x", "train": {"size": 1}, "test": {"size": 1}}},
            "task.test.seed",
            "set `seed: 1`",
        ),
        ({"checkpoint": {"storage": {}}}, "checkpoint.storage.uri", "no volumeClaim"),
        (
            {"checkpoint": {"storage": {"uri": "s3://a/b", "volumeClaim": {"size": "1Gi"}}}},
            "checkpoint.storage.uri",
            "excludes volumeClaim",
        ),
    ],
)
def test_refuses_fields_that_contradict_each_other(changes, path, message):
    (line,) = problem_lines(MINIMAL | changes)
    assert line.startswith(f"spec.{path}: ")
    assert message in line


def test_tells_all_contradictions_at_once():
    document = MINIMAL | {
        "stop": {"targetScore": 1, "patience": 1},
        "evolution": {"promptsPerGeneration": 500},
    }
    assert [line.partition(":")[0] for line in problem_lines(document)] == [
        "spec.evolution.promptsPerGeneration",
        "spec.stop.targetScore",
        "spec.stop.patience",
    ]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.source", "file:///models/my model"),
        ("model.source", "pvc://models/qwen/1.5b"),
        ("model.source", "s3://bucket/a/b"),
        ("model.source", "tiny://countdown"),
        ("task.name", "my_package.tasks:Sudoku"),
        ("task.train", {"source": "file:///data/train.jsonl"}),
        ("task.train", {"source": "hf://openai/gsm8k", "size": 10}),
        ("evolution.sigma", 1),
        ("evolution.learningRate", 0),
        ("evolution.promptsPerGeneration", 200),
        ("monitoring.kl", None),
        ("workers.minReplicas", 0),
        ("workers.replicas", 8),
        ("workers", {"minReplicas": 0, "replicas": 0, "autoscaling": {"keda": {"itemsPerWorker": 1}}}),
        ("workers.template", {"spec": {"containers": [{"name": "worker", "image": "x"}]}}),
        ("redis.urlSecretRef", {"name": "redis"}),
        ("managedBy", "kueue.x-k8s.io/multikueue"),
        ("ttlSecondsAfterFinished", 0),
    ],
)
def test_accepts(path, value):
    spec = read(changed(path, value)).model_dump(mode="json", exclude_unset=True)
    for name in path.split("."):
        spec = spec[name]
    assert spec == value


def test_python_may_use_its_own_names():
    assert Evolution(learning_rate=0.1).learning_rate == 0.1
    assert Decoding(max_new_tokens=3) == Decoding(maxNewTokens=3)


def test_a_spec_cannot_be_changed():
    with pytest.raises(ValidationError):
        read(MINIMAL).suspend = True


def resource(**metadata: object) -> dict:
    return {
        "apiVersion": "esfinetune.dev/v1alpha1",
        "kind": "ESFineTune",
        "metadata": {"name": "x"} | metadata,
        "spec": MINIMAL,
    }


def test_reads_back_what_the_api_server_gives():
    document = resource(uid="1", managedFields=[{}]) | {"status": {"phase": "Running"}}
    read_back = ESFineTune.model_validate(document)
    assert read_back.spec == read(MINIMAL)
    assert "status" not in read_back.model_dump()


@pytest.mark.parametrize("name", ["", "Upper", "a.b", "-a", "a-", "x" * 53])
def test_refuses_names_that_children_cannot_have(name):
    with pytest.raises(ValidationError):
        ESFineTune.model_validate(resource(name=name))


@pytest.mark.parametrize("model", {model.__name__: model for _, model in models_of(ESFineTuneSpec)}.values())
def test_every_field_teaches_and_is_bounded(model):
    """What the CRD needs: a description of each field, a limit to each string, list and number."""
    for name, field in model.model_json_schema()["properties"].items():
        assert fields_of(model)[name].description, name
        for option in field.get("anyOf", [field]):
            kind = option.get("type")
            if kind == "string":
                assert "maxLength" in option or "enum" in option, name
            if kind == "array":
                assert "maxItems" in option, name
                assert "maxLength" in option["items"], name
            if kind in ("integer", "number") and name != "targetScore":
                assert {"maximum", "exclusiveMaximum"} & option.keys(), name
                assert {"minimum", "exclusiveMinimum"} & option.keys(), name


def test_a_split_of_unknown_size_limits_no_prompts():
    train = DataSpec(source="hf://openai/gsm8k").model_dump()
    document = changed("evolution.promptsPerGeneration", 10_000, changed("task.train", train))
    assert read(document).evolution.prompts_per_generation == 10_000
