"""The rules between fields that the API server checks: one table, the same rules as in core/esft/spec.

Pydantic says the same to whoever runs on one machine, with the values at hand; tests/cluster/test_crd.py holds the two
together. What may not change is not in the table: its rules follow from IMMUTABLE, one for each field, so that the
refusal names the field.

Absent and null are the same to `has()`, and not the same to `==`: an object with optional fields is never compared
as a whole, or taking the line `size: null` out of a file would be refused as a change.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from esft.spec import IMMUTABLE, RISING
from esft_operator.crd.schema import Schema, at

FORBIDDEN = "FieldValueForbidden"
REQUIRED = "FieldValueRequired"


@dataclass(frozen=True, slots=True)
class Rule:
    """A sentence that must be true of an object.

    Attributes:
        path: the object, as `spec.workers`; empty for the resource.
        cel: the sentence in CEL; `self` is the object.
        message: what is wrong and what to do.
        field: the field to change, as `.replicas`; empty for the object itself.
        reason: the kind of error; None: an invalid value.
    """

    path: str
    cel: str
    message: str
    field: str = ""
    reason: str | None = None

    def as_validation(self) -> dict[str, str]:
        """As an entry of x-kubernetes-validations."""
        entry = {"rule": self.cel, "message": self.message}
        if self.field:
            entry["fieldPath"] = self.field
        if self.reason:
            entry["reason"] = self.reason
        return entry


RULES = (
    Rule(
        "",
        "self.metadata.name.size() <= 52 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must be at most 52 lower-case letters, digits and -, as names of pods are made from it. "
        "Fix: choose a shorter or simpler name",
    ),
    Rule(
        "spec",
        "!has(self.evolution.promptsPerGeneration) || !has(self.task.train.size) "
        "|| self.evolution.promptsPerGeneration <= self.task.train.size",
        "evolution.promptsPerGeneration must be at most task.train.size. Fix: lower it, or leave it out for all",
        field=".evolution.promptsPerGeneration",
    ),
    Rule(
        "spec",
        "has(self.task.test) || !has(self.stop.targetScore)",
        "stop.targetScore needs held-out evaluation. Fix: add task.test, e.g. {size: 200, seed: 1}",
        field=".stop.targetScore",
    ),
    Rule(
        "spec",
        "has(self.task.test) || !has(self.stop.patience)",
        "stop.patience needs held-out evaluation. Fix: add task.test, e.g. {size: 200, seed: 1}",
        field=".stop.patience",
    ),
    Rule(
        "spec",
        "!has(self.workers.autoscaling.keda) || !has(self.redis.urlSecretRef)",
        "workers.autoscaling.keda needs the operator's own Redis, whose queue it watches. "
        "Fix: remove it, or redis.urlSecretRef",
        field=".workers.autoscaling.keda",
        reason=FORBIDDEN,
    ),
    Rule(
        "spec.task",
        "!has(self.test) || self.train.seed != self.test.seed || has(self.train.source) != has(self.test.source) "
        "|| (has(self.train.source) && self.train.source != self.test.source)",
        "task.test.seed must differ from task.train.seed, or training examples are tested on. "
        "Fix: set another seed, or another source",
        field=".test.seed",
    ),
    Rule(
        "spec.task.train",
        "has(self.size) || has(self.source)",
        "task.train.size is needed when there is no source. Fix: set size, or source",
        field=".size",
        reason=REQUIRED,
    ),
    Rule(
        "spec.task.test",
        "has(self.size) || has(self.source)",
        "task.test.size is needed when there is no source. Fix: set size, or source",
        field=".size",
        reason=REQUIRED,
    ),
    Rule(
        "spec.evolution",
        "self.sampling != 'antithetic' || self.population % 2 == 0",
        "evolution.population must be even with antithetic sampling. Fix: add one, or set sampling: gaussian",
        field=".population",
    ),
    Rule(
        "spec.evolution",
        "self.generations >= oldSelf.generations",
        "evolution.generations may only rise. Fix: set the old value or more; to end a run early, suspend or delete it",
        field=".generations",
        reason=FORBIDDEN,
    ),
    Rule(
        "spec.checkpoint.storage",
        "has(self.volumeClaim) || has(self.uri)",
        "checkpoint.storage.uri is needed when there is no volumeClaim. Fix: set volumeClaim, or uri",
        field=".uri",
        reason=REQUIRED,
    ),
    Rule(
        "spec.checkpoint.storage",
        "!has(self.volumeClaim) || !has(self.uri)",
        "checkpoint.storage.uri excludes volumeClaim. Fix: keep one of the two",
        field=".uri",
        reason=FORBIDDEN,
    ),
    Rule(
        "spec.workers",
        "self.minReplicas <= self.maxReplicas",
        "workers.minReplicas must be at most maxReplicas. Fix: lower it, or raise maxReplicas",
        field=".minReplicas",
    ),
    Rule(
        "spec.workers",
        "!has(self.replicas) || self.minReplicas > self.maxReplicas "
        "|| (self.minReplicas <= self.replicas && self.replicas <= self.maxReplicas)",
        "workers.replicas must be from minReplicas to maxReplicas. Fix: change it, or widen the range",
        field=".replicas",
    ),
    Rule(
        "spec.workers",
        "!has(self.autoscaling.keda) || has(self.replicas)",
        "workers.replicas is needed with autoscaling.keda, as an autoscaler leaves a run without a number alone. "
        "Fix: set the number to start with",
        field=".replicas",
        reason=REQUIRED,
    ),
    Rule(
        "spec.workers.autoscaling",
        "!has(self.keda) || !has(self.targetGenerationSeconds)",
        "workers.autoscaling.keda excludes targetGenerationSeconds. Fix: keep one of the two",
        field=".keda",
        reason=FORBIDDEN,
    ),
)


def add_rules(resource: Schema) -> None:
    """Put all rules where they belong in the resource's schema."""
    for rule in (*RULES, *_unchanging(resource)):
        at(resource, rule.path).setdefault("x-kubernetes-validations", []).append(rule.as_validation())


def _unchanging(resource: Schema) -> Iterator[Rule]:
    for section in IMMUTABLE:
        parent, _, name = f"spec.{section}".rpartition(".")
        yield from _field_stays(parent, name, at(resource, f"{parent}.{name}"))


def _field_stays(parent: str, name: str, field: Schema) -> Iterator[Rule]:
    """Rules on the object that holds the field, since a rule on an optional field does not see it come and go."""
    path = f"{parent}.{name}"
    if path in RISING:
        return
    inner = field.get("properties", {})
    if field.get("nullable"):
        same = f"has(self.{name}) == has(oldSelf.{name})"
        yield _stays(parent, name, same if inner else f"{same} && (!has(self.{name}) || {_equal(name)})")
    elif not inner:
        yield _stays(parent, name, _equal(name))
    for child, schema in inner.items():
        yield from _field_stays(path, child, schema)


def _equal(name: str) -> str:
    return f"self.{name} == oldSelf.{name}"


def _stays(parent: str, name: str, cel: str) -> Rule:
    shown = f"{parent}.{name}".removeprefix("spec.")
    message = (
        f"{shown} cannot change once the resource exists. Fix: set the old value again, or make a resource of another "
        "name for another run"
    )
    return Rule(parent, cel, message, field=f".{name}", reason=FORBIDDEN)
