"""The whole resource, all its rules, and what may change during a run."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

from pydantic import ConfigDict, Field, JsonValue

from esft.problems import dotted, models_of
from esft.spec.base import Seconds, StrictModel
from esft.spec.operation import Checkpoint, Evaluation, Monitoring, RedisSpec, Stop, Workers
from esft.spec.rules import SPEC_RULES, Rule
from esft.spec.training import Decoding, Evolution, Model, TaskSpec

API_VERSION = "esfinetune.dev/v1alpha1"
KIND = "ESFineTune"

# What a run's weights follow from, where its checkpoints and its queue are, and who looks after it.
IMMUTABLE = ("model", "task", "decoding", "evolution", "checkpoint.storage", "redis", "managedBy")
RISING = frozenset({"spec.evolution.generations"})  # may not fall, as generations may have been made already

# Fields (`evolution.momentum`) that runs of an older version know nothing of, each with the value that means what those
# runs did: at that value a field says nothing. It stays what it is when the field's default changes.
ADDED_LATER: Final[Mapping[str, JsonValue]] = MappingProxyType({})


class ESFineTuneSpec(StrictModel):
    """One fine-tuning run."""

    rules = SPEC_RULES

    model: Model = Field(description="The language model to fine-tune.")
    task: TaskSpec = Field(description="What the model is to learn: prompts and a reward.")
    decoding: Decoding = Field(default=Decoding(), description="How completions are generated.")
    evolution: Evolution = Field(default=Evolution(), description="The Evolution Strategies algorithm.")
    evaluation: Evaluation = Field(default=Evaluation(), description="Held-out evaluation on the test split.")
    monitoring: Monitoring = Field(default=Monitoring(), description="What is measured besides fitness.")
    checkpoint: Checkpoint = Field(default=Checkpoint(), description="Checkpoints in Hugging Face format.")
    stop: Stop = Field(default=Stop(), description="Reasons to finish before the last generation.")
    workers: Workers = Field(default=Workers(), description="The pods that do the work.")
    redis: RedisSpec = Field(default=RedisSpec(), description="The Redis that holds the run's queue and log.")
    suspend: bool = Field(
        default=False,
        description="true: stop all workers and keep everything; false again: go on from there.",
    )
    managed_by: str | None = Field(
        default=None,
        max_length=63,
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9._~-]+$",
        description="Controller that looks after this resource, as DOMAIN/NAME; the operator leaves it "
        "alone then. null: the operator.",
        examples=["kueue.x-k8s.io/multikueue"],
    )
    active_deadline_seconds: Seconds | None = Field(
        default=None,
        description="Seconds the run may take, suspended time not counted, before it fails; null: no limit.",
    )
    pending_deadline_seconds: Seconds | None = Field(
        default=None,
        description="Seconds the run may wait for its first ready worker before it fails; null: no limit.",
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=2**31 - 1,
        description="Seconds after which a finished run's resource is deleted, with all it owns; null: "
        "never.",
    )


class Metadata(StrictModel):
    """The part of Kubernetes' ObjectMeta that matters here; the rest is kept as it is."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(
        min_length=1,
        max_length=52,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        description="Name of the run: lower-case letters, digits and `-`, short enough for the names made "
        "from it.",
        examples=["countdown-qwen"],
    )
    namespace: str | None = Field(
        default=None, max_length=63, description="Namespace; null: the current one."
    )
    generation: int | None = Field(
        default=None, ge=0, description="Counts the changes of the spec; whoever keeps the resource sets it."
    )


class ESFineTune(StrictModel):
    """The ESFineTune resource: one YAML document."""

    api_version: Literal["esfinetune.dev/v1alpha1"] = Field(
        description="Version of this schema.", examples=["esfinetune.dev/v1alpha1"]
    )
    kind: Literal["ESFineTune"] = Field(description="Kind of resource.", examples=["ESFineTune"])
    metadata: Metadata = Field(description="Name, namespace, labels and annotations.")
    spec: ESFineTuneSpec = Field(description="What to do.")
    status: dict[str, JsonValue] | None = Field(
        default=None,
        exclude=True,
        description="What the operator says; ignored, so that `kubectl get -o yaml` reads back.",
    )


def rules_by_path() -> Iterator[tuple[str, Rule[Any]]]:
    """All rules between fields, each with the object that must keep it: `spec.workers`, from the outside in."""
    for location, model in models_of(ESFineTuneSpec, ("spec",)):
        for rule in getattr(model, "rules", ()):
            yield dotted(location), rule


def fingerprint(spec: ESFineTuneSpec, added_later: Mapping[str, JsonValue] = ADDED_LATER) -> str:
    """Sixteen hex digits over what decides the result: a run of another fingerprint must not be resumed.

    Fields at their default count like all others, so that a version with another default does not take a run of other
    settings for the same one.
    """
    decisive = spec.model_dump(mode="json", include={"model", "task", "decoding", "evolution"})
    del decisive["evolution"]["generations"]
    stated = without_neutral(decisive, added_later)
    canonical = json.dumps(stated, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def without_neutral(
    fields: Mapping[str, Any], added_later: Mapping[str, JsonValue] = ADDED_LATER, *, path: str = ""
) -> dict[str, Any]:
    """The fields of a spec, in JSON's types, without those added later that say nothing.

    Args:
        fields: what the spec has at the path.
        added_later: neutral values by field; of an object that is neutral as a whole, the object.
        path: empty, or ending with a dot.
    """
    stated = {}
    for name, value in fields.items():
        field = f"{path}{name}"
        inner = without_neutral(value, added_later, path=f"{field}.") if isinstance(value, dict) else value
        if field not in added_later or inner != added_later[field]:
            stated[name] = inner
    return stated


def immutable_differences(old: ESFineTuneSpec, new: ESFineTuneSpec) -> list[str]:
    """Fields (`spec.evolution.sigma`) in IMMUTABLE that differ; RISING ones only when lowered."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    return [
        field
        for section in IMMUTABLE
        for field in _differences(f"spec.{section}", _at(before, section), _at(after, section))
        if not (field in RISING and _at({"spec": after}, field) >= _at({"spec": before}, field))
    ]


def _at(document: Any, path: str) -> Any:
    for name in path.split("."):
        document = document[name]
    return document


def _differences(path: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(f"{path}.{key}", old.get(key), new.get(key))
    elif old != new:
        yield path
