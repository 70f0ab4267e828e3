"""Every rule of esft.spec.rules by example: one spec that keeps it and one that breaks it, each beside the border.

Both sides are held to the same examples: tests/unit/test_rules.py asks pydantic, tests/cluster/test_crd.py a real API
server.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from esft.spec import rules_by_path
from esft.spec.rules import Rule

Changes = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """Changes to a minimal spec on either side of a rule.

    Attributes:
        field: the field that the rule blames, without `spec.`.
        message: what is said of it, with the values of `broken`.
        kept: changes after which the rule holds.
        broken: changes after which this rule, and no other, does not.
    """

    field: str
    message: str
    kept: Changes
    broken: Changes

    def __str__(self) -> str:
        """Its name among the tests."""
        return f"{self.field} {self.message}"


TEST = {"size": 20, "seed": 1}
MINE = {"name": "mine"}
VOLUME = {"size": "1Gi"}
URI = "s3://bucket/runs"
KEDA = {"workers.autoscaling.keda": {}, "workers.replicas": 1}
PROMPTS = "evolution.promptsPerGeneration"
NO_TEST = "needs held-out evaluation, and there is no test split"
NO_SOURCE = "is needed when there is no source"
SAME_SEED = "must differ from task.train.seed (0), or training examples are tested on"

EXAMPLES: Sequence[Example] = (
    Example(PROMPTS, "must be at most task.train.size (200), got 201", {PROMPTS: 200}, {PROMPTS: 201}),
    Example("task.test.seed", SAME_SEED, {"task.test": TEST}, {"task.test": {"size": 20}}),
    Example(
        "task.test.seed",
        SAME_SEED,
        {"task.train": {"source": "file:///a"}, "task.test": {"source": "file:///b"}},
        {"task.train": {"source": "file:///a"}, "task.test": {"source": "file:///a"}},
    ),
    Example(
        "task.test.seed",
        SAME_SEED.replace("(0)", "(5)"),
        {"task.train": {"size": 9, "seed": 5}, "task.test": {"source": "file:///a", "seed": 5}},
        {"task.train": {"size": 9, "seed": 5}, "task.test": {"size": 20, "seed": 5}},
    ),
    Example("stop.targetScore", NO_TEST, {"stop.targetScore": 1, "task.test": TEST}, {"stop.targetScore": 1}),
    Example("stop.patience", NO_TEST, {"stop.patience": 1, "task.test": TEST}, {"stop.patience": 1}),
    Example(
        "workers.autoscaling.keda",
        "needs the operator's own Redis, whose queue it watches, and redis.urlSecretRef names another",
        KEDA,
        KEDA | {"redis.urlSecretRef": MINE},
    ),
    Example(
        "task.train.size", NO_SOURCE, {"task.train": {"source": "file:///a"}}, {"task.train": {"seed": 1}}
    ),
    Example("task.test.size", NO_SOURCE, {"task.test": {"source": "file:///a"}}, {"task.test": {"seed": 1}}),
    Example(
        "evolution.population",
        "must be even with antithetic sampling, got 3",
        {"evolution": {"sampling": "antithetic", "population": 2}},
        {"evolution": {"sampling": "antithetic", "population": 3}},
    ),
    Example(
        "checkpoint.storage.uri",
        "is needed when there is no volumeClaim",
        {"checkpoint.storage": {"uri": URI}},
        {"checkpoint.storage": {}},
    ),
    Example(
        "checkpoint.storage.uri",
        "excludes volumeClaim",
        {"checkpoint.storage": {"volumeClaim": VOLUME}},
        {"checkpoint.storage": {"volumeClaim": VOLUME, "uri": URI}},
    ),
    Example(
        "workers.minReplicas",
        "must be at most maxReplicas (8), got 9",
        {"workers.minReplicas": 8},
        {"workers.minReplicas": 9},
    ),
    Example(
        "workers.replicas",
        "must be from minReplicas (1) to maxReplicas (8), got 9",
        {"workers.replicas": 8},
        {"workers.replicas": 9},
    ),
    Example(
        "workers.replicas",
        "must be from minReplicas (1) to maxReplicas (8), got 0",
        {"workers": {"replicas": 0, "minReplicas": 0}},
        {"workers.replicas": 0},
    ),
    Example(
        "workers.minReplicas",
        "must be at most maxReplicas (8), got 9",
        {"workers": {"replicas": 8, "minReplicas": 8}},
        {"workers": {"replicas": 8, "minReplicas": 9}},
    ),
    Example(
        "workers.replicas",
        "is needed with autoscaling.keda, as an autoscaler leaves a run without a number alone",
        KEDA,
        {"workers.autoscaling.keda": {}},
    ),
    Example(
        "workers.autoscaling.keda",
        "excludes targetGenerationSeconds",
        KEDA,
        KEDA | {"workers.autoscaling.targetGenerationSeconds": 9},
    ),
)


def rules_told_by(example: Example) -> list[tuple[str, Rule[Any]]]:
    """The rules, with their objects' paths, that say what the example expects; values do not count."""
    return [
        (path, rule)
        for path, rule in rules_by_path()
        if f"{path}.{rule.field}" == f"spec.{example.field}"
        and example.message.startswith(rule.message.partition("[")[0])
    ]
