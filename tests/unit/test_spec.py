import copy
import json

import pytest
from pydantic import Field, ValidationError

from esft.problems import fields_of, models_of, problems_of
from esft.spec import (
    DataSpec,
    ESFineTune,
    ESFineTuneSpec,
    fingerprint,
    immutable_differences,
)
from esft.spec.base import StrictModel
from esft.spec.training import Decoding, Evolution

MINIMAL = {
    "model": {"source": "hf://Qwen/Qwen2.5-1.5B-Instruct"},
    "task": {"name": "countdown", "train": {"size": 200}},
}
COMPLETE = {
    "model": {
        "source": "hf://Qwen/Qwen2.5-1.5B-Instruct",
        "revision": "main",
        "dtype": "bfloat16",
        "credentialsSecretRef": {"name": "hf-token"},
    },
    "task": {
        "name": "countdown",
        "options": {"numbers": [3, 4]},
        "train": {"size": 200, "seed": 0},
        "test": {"size": 2000, "seed": 1},
    },
    "decoding": {"maxNewTokens": 1024, "temperature": 0, "batchSize": 64},
    "evolution": {
        "generations": 500,
        "population": 30,
        "sigma": 0.001,
        "learningRate": 0.0005,
        "seed": 42,
        "sampling": "gaussian",
        "shaping": "zscore",
        "promptsPerGeneration": None,
        "schedule": {"sigma": "constant", "learningRate": "constant"},
        "anchor": {"l2": 0},
        "parameters": {"include": [".*"], "exclude": []},
    },
    "evaluation": {"everyGenerations": 5},
    "monitoring": {"kl": {"everyGenerations": 25, "prompts": 64}},
    "checkpoint": {"everyGenerations": 50, "keep": 3, "storage": {"volumeClaim": {"size": "50Gi"}}},
    "stop": {"targetScore": None, "patience": None},
    "workers": {
        "minReplicas": 1,
        "maxReplicas": 8,
        "replicas": None,
        "autoscaling": {"targetGenerationSeconds": None, "keda": None},
        "claimSize": 1,
        "leaseSeconds": None,
        "quorum": 1.0,
        "template": {},
    },
    "redis": {"urlSecretRef": None},
    "suspend": False,
    "managedBy": None,
    "activeDeadlineSeconds": None,
    "pendingDeadlineSeconds": None,
    "ttlSecondsAfterFinished": None,
}


def changed(path: str, value: object, base: dict = MINIMAL) -> dict:
    """A copy of a document with one field set."""
    document = copy.deepcopy(base)
    *parents, name = path.split(".")
    holder = document
    for parent in parents:
        holder = holder.setdefault(parent, {})
    holder[name] = value
    return document


def read(document: dict) -> ESFineTuneSpec:
    return ESFineTuneSpec.model_validate(document, by_alias=True, by_name=False)


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


DECISIVE = [
    ("model.revision", "v2"),
    ("model.dtype", "float32"),
    ("task.options", {"numbers": [3]}),
    ("task.train", {"size": 200, "seed": 5}),
    ("decoding.batchSize", 32),
    ("evolution.sigma", 0.002),
    ("evolution.seed", 43),
    ("evolution.schedule.sigma", "linear"),
    ("evolution.parameters.exclude", ["bias"]),
]
FREE = [
    ("evolution.generations", 501),
    ("evaluation.everyGenerations", 7),
    ("workers.replicas", 3),
    ("suspend", True),
    ("checkpoint.keep", 1),
    ("stop.targetScore", 0.9),
]


@pytest.mark.parametrize(("path", "value"), DECISIVE)
def test_the_fingerprint_tells_results_apart(path, value):
    assert fingerprint(read(changed(path, value, COMPLETE))) != fingerprint(read(COMPLETE))


@pytest.mark.parametrize(("path", "value"), FREE)
def test_the_fingerprint_ignores_what_may_change(path, value):
    assert fingerprint(read(changed(path, value, COMPLETE))) == fingerprint(read(COMPLETE))


def test_the_fingerprint_stays_what_it_was():
    """Another value here means that runs under way cannot be resumed by the new version."""
    assert fingerprint(read(MINIMAL)) == "a3f4b4d128ea32da"
    assert fingerprint(read(COMPLETE)) == "642f38e67bc3c815"


class Momentum(StrictModel):
    beta: float = 0.9
    nesterov: bool = True


class LaterEvolution(Evolution):
    """As a later version might have it: another default, and two more fields whose defaults are not neutral."""

    population: int = Field(default=64, ge=1)
    clip: float = 0.1
    momentum: Momentum = Momentum()


class LaterSpec(ESFineTuneSpec):
    evolution: LaterEvolution = LaterEvolution()


NEUTRAL = {
    "evolution.clip": 0.0,
    "evolution.momentum": {"beta": 0.0},
    "evolution.momentum.nesterov": False,
}
AS_BEFORE = {"population": 30, "clip": 0, "momentum": {"beta": 0, "nesterov": False}}


def later_fingerprint(**evolution: object) -> str:
    return fingerprint(LaterSpec.model_validate(MINIMAL | {"evolution": evolution}), NEUTRAL)


def test_a_later_version_knows_the_runs_of_an_older_one():
    assert later_fingerprint(**AS_BEFORE) == fingerprint(read(MINIMAL))


@pytest.mark.parametrize("field", AS_BEFORE)
def test_a_later_version_s_defaults_make_another_run(field):
    assert later_fingerprint(**{name: AS_BEFORE[name] for name in AS_BEFORE if name != field}) != fingerprint(
        read(MINIMAL)
    )


@pytest.mark.parametrize("momentum", [{"beta": 0}, {"nesterov": False}])
def test_a_field_added_to_a_later_object_counts_for_itself(momentum):
    assert later_fingerprint(**AS_BEFORE | {"momentum": momentum}) != fingerprint(read(MINIMAL))


def test_a_field_that_is_not_known_to_be_neutral_counts():
    spec = LaterSpec.model_validate(MINIMAL | {"evolution": AS_BEFORE})
    assert fingerprint(spec) != fingerprint(read(MINIMAL))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *DECISIVE,
        ("evolution.generations", 499),
        ("redis.urlSecretRef", {"name": "mine"}),
        ("checkpoint.storage.volumeClaim.size", "60Gi"),
        ("managedBy", "example.com/other"),
    ],
)
def test_names_immutable_fields_that_changed(path, value):
    differences = immutable_differences(read(COMPLETE), read(changed(path, value, COMPLETE)))
    assert len(differences) == 1
    assert differences[0].startswith(f"spec.{path}")


@pytest.mark.parametrize(("path", "value"), FREE)
def test_lets_mutable_fields_change(path, value):
    assert immutable_differences(read(COMPLETE), read(changed(path, value, COMPLETE))) == []


def test_names_the_innermost_field():
    old, new = read(MINIMAL), read(changed("evolution.schedule.sigma", "linear"))
    assert immutable_differences(old, new) == ["spec.evolution.schedule.sigma"]


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
