"""The rules between fields, each said once: the models check them, the CRD and docs/spec.md are generated from them.

A rule stands with the innermost object that knows all its fields; that model names its rules in `rules`. The API
server cannot put values into its messages, so a template has brackets around what needs them: `[told|otherwise]` is
`told`, filled in, where the values are known, and `otherwise`, or nothing, where they are not.

Rejected: CEL alone, evaluated in Python too. It would be another dependency, and mypy could not read the rules.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from esft.spec.operation import Autoscaling, Storage, Workers
    from esft.spec.resource import ESFineTuneSpec
    from esft.spec.training import DataSpec, Evolution

Reason = Literal["FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired"]
Model = TypeVar("Model")

_BRACKETS: Final = re.compile(r"\[([^|\]]*)\|?([^\]]*)\]")


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule about several fields; `field` is the one to change, dotted, from the model on."""

    field: str
    message: str
    fix: str


@dataclass(frozen=True, slots=True)
class Rule(Generic[Model]):
    """What must be true of an object.

    Attributes:
        field: the field to change, dotted, from the object on.
        holds: whether an object keeps the rule.
        cel: the same in CEL, for the API server; `self` is the object.
        message: template of what is wrong, to be read after the field.
        fix: template of what to do, an imperative without a full stop.
        sentence: the rule as docs/spec.md says it.
        reason: the kind of error, as the API server tells it.
        values: what the templates name, of an object that breaks the rule.
    """

    field: str
    holds: Callable[[Model], bool]
    cel: str
    message: str
    fix: str
    sentence: str
    reason: Reason = "FieldValueInvalid"
    values: Callable[[Model], Mapping[str, object]] = lambda _: {}

    def violation(self, model: Model) -> Violation:
        """What a model that breaks the rule is told, with its values."""
        values = self.values(model)

        def told(template: str) -> str:
            return _BRACKETS.sub(lambda brackets: brackets[1].format_map(values), template)

        return Violation(self.field, told(self.message), told(self.fix))

    def without_values(self) -> Violation:
        """What is said where no values are known."""
        return Violation(self.field, _BRACKETS.sub(r"\2", self.message), _BRACKETS.sub(r"\2", self.fix))


_NO_TEST = "needs held-out evaluation, and there is no test split"
_ADD_TEST = "add `task.test`, e.g. {size: 200, seed: 1}"

SPEC_RULES: tuple[Rule["ESFineTuneSpec"], ...] = (
    Rule(
        "evolution.promptsPerGeneration",
        holds=lambda spec: (
            spec.evolution.prompts_per_generation is None
            or spec.task.train.size is None
            or spec.evolution.prompts_per_generation <= spec.task.train.size
        ),
        cel="!has(self.evolution.promptsPerGeneration) || !has(self.task.train.size) "
        "|| self.evolution.promptsPerGeneration <= self.task.train.size",
        message="must be at most task.train.size[ ({size})][, got {prompts}]",
        fix="[set it to {size} or less|lower it], or leave it out for all",
        sentence="`evolution.promptsPerGeneration` is at most `task.train.size`, where that is given.",
        values=lambda spec: {
            "size": spec.task.train.size,
            "prompts": spec.evolution.prompts_per_generation,
        },
    ),
    Rule(
        "task.test.seed",
        holds=lambda spec: (
            spec.task.test is None
            or (spec.task.test.source, spec.task.test.seed) != (spec.task.train.source, spec.task.train.seed)
        ),
        cel="!has(self.task.test) || self.task.train.seed != self.task.test.seed "
        "|| has(self.task.train.source) != has(self.task.test.source) "
        "|| (has(self.task.train.source) && self.task.train.source != self.task.test.source)",
        message="must differ from task.train.seed[ ({seed})], or training examples are tested on",
        fix="set [`seed: {other}`|another seed], or another source",
        sentence="`task.test` differs from `task.train` in `source` or `seed`.",
        values=lambda spec: {"seed": spec.task.train.seed, "other": spec.task.train.seed ^ 1},
    ),
    Rule(
        "stop.targetScore",
        holds=lambda spec: spec.task.test is not None or spec.stop.target_score is None,
        cel="has(self.task.test) || !has(self.stop.targetScore)",
        message=_NO_TEST,
        fix=_ADD_TEST,
        sentence="`stop.targetScore` needs `task.test`.",
    ),
    Rule(
        "stop.patience",
        holds=lambda spec: spec.task.test is not None or spec.stop.patience is None,
        cel="has(self.task.test) || !has(self.stop.patience)",
        message=_NO_TEST,
        fix=_ADD_TEST,
        sentence="`stop.patience` needs `task.test`.",
    ),
    Rule(
        "workers.autoscaling.keda",
        holds=lambda spec: spec.workers.autoscaling.keda is None or spec.redis.url_secret_ref is None,
        cel="!has(self.workers.autoscaling.keda) || !has(self.redis.urlSecretRef)",
        message="needs the operator's own Redis, whose queue it watches, and redis.urlSecretRef names another",
        fix="remove one of the two",
        sentence="`workers.autoscaling.keda` needs the operator's own Redis: no `redis.urlSecretRef`.",
        reason="FieldValueForbidden",
    ),
)

DATA_RULES: tuple[Rule["DataSpec"], ...] = (
    Rule(
        "size",
        holds=lambda data: data.size is not None or data.source is not None,
        cel="has(self.size) || has(self.source)",
        message="is needed when there is no source",
        fix="set `size`, or `source`",
        sentence="A split of `task` has a `size`, a `source`, or both.",
        reason="FieldValueRequired",
    ),
)

EVOLUTION_RULES: tuple[Rule["Evolution"], ...] = (
    Rule(
        "population",
        holds=lambda evolution: evolution.sampling != "antithetic" or evolution.population % 2 == 0,
        cel="self.sampling != 'antithetic' || self.population % 2 == 0",
        message="must be even with antithetic sampling[, got {population}]",
        fix="set [it to {even}|an even number], or `sampling: gaussian`",
        sentence="`evolution.sampling: antithetic` needs an even `population`.",
        values=lambda evolution: {"population": evolution.population, "even": evolution.population + 1},
    ),
)

STORAGE_RULES: tuple[Rule["Storage"], ...] = (
    Rule(
        "uri",
        holds=lambda storage: storage.volume_claim is not None or storage.uri is not None,
        cel="has(self.volumeClaim) || has(self.uri)",
        message="is needed when there is no volumeClaim",
        fix="set `volumeClaim`, or `uri`",
        sentence="`checkpoint.storage` has a `volumeClaim` or a `uri`.",
        reason="FieldValueRequired",
    ),
    Rule(
        "uri",
        holds=lambda storage: storage.volume_claim is None or storage.uri is None,
        cel="!has(self.volumeClaim) || !has(self.uri)",
        message="excludes volumeClaim",
        fix="keep one of the two",
        sentence="`checkpoint.storage.uri` excludes `volumeClaim`.",
        reason="FieldValueForbidden",
    ),
)

WORKERS_RULES: tuple[Rule["Workers"], ...] = (
    Rule(
        "minReplicas",
        holds=lambda workers: workers.min_replicas <= workers.max_replicas,
        cel="self.minReplicas <= self.maxReplicas",
        message="must be at most maxReplicas[ ({high})][, got {low}]",
        fix="[set `maxReplicas: {low}` or more|lower it, or raise `maxReplicas`]",
        sentence="`workers.minReplicas` is at most `maxReplicas`.",
        values=lambda workers: {"high": workers.max_replicas, "low": workers.min_replicas},
    ),
    Rule(
        "replicas",
        holds=lambda workers: (
            workers.replicas is None
            or workers.min_replicas > workers.max_replicas
            or workers.min_replicas <= workers.replicas <= workers.max_replicas
        ),
        cel="!has(self.replicas) || self.minReplicas > self.maxReplicas "
        "|| (self.minReplicas <= self.replicas && self.replicas <= self.maxReplicas)",
        message="must be from minReplicas[ ({low})] to maxReplicas[ ({high})][, got {replicas}]",
        fix="change `replicas`, or widen the range",
        sentence="`workers.replicas` is from `minReplicas` to `maxReplicas`.",
        values=lambda workers: {
            "low": workers.min_replicas,
            "high": workers.max_replicas,
            "replicas": workers.replicas,
        },
    ),
    Rule(
        "replicas",
        holds=lambda workers: workers.autoscaling.keda is None or workers.replicas is not None,
        cel="!has(self.autoscaling.keda) || has(self.replicas)",
        message="is needed with autoscaling.keda, as an autoscaler leaves a run without a number alone",
        fix="set the number to start with[, e.g. `replicas: {start}`]",
        sentence="`workers.autoscaling.keda` needs `workers.replicas`, the number to start with.",
        reason="FieldValueRequired",
        values=lambda workers: {"start": max(workers.min_replicas, 1)},
    ),
)

AUTOSCALING_RULES: tuple[Rule["Autoscaling"], ...] = (
    Rule(
        "keda",
        holds=lambda autoscaling: autoscaling.keda is None or autoscaling.target_generation_seconds is None,
        cel="!has(self.keda) || !has(self.targetGenerationSeconds)",
        message="excludes targetGenerationSeconds",
        fix="keep one of the two",
        sentence="`workers.autoscaling.keda` excludes `targetGenerationSeconds`.",
        reason="FieldValueForbidden",
    ),
)
