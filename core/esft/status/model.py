"""The status of an ESFineTune: what the operator writes and everybody else reads.

The CRD's status schema is generated from these models. They are apart from esft.spec because nobody writes a status
by hand: it has no rules between fields, and a reader takes what it knows and leaves the rest, so that a command line
may be older than the operator.

An object is written whole or not at all, so its fields are required; a field that a later version adds is optional, or
that version could not read what this one wrote. Write with `model_dump(mode="json", exclude_none=True)`.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from esft.spec.base import MAX_GENERATIONS, StrictModel
from esft.status.words import COMPLETE, FAILED

Phase = Literal["Pending", "Running", "Suspended", "Succeeded", "Failed"]
ConditionState = Literal["True", "False", "Unknown"]

Time = Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
Generation = Annotated[int, Field(ge=0, le=MAX_GENERATIONS)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
ShortText = Annotated[str, Field(max_length=64)]


class StatusModel(StrictModel):
    """As strict as the spec, but a field that this version does not know is left out."""

    model_config = ConfigDict(extra="ignore")


class Condition(StatusModel):
    """One aspect of the run's state, as Kubernetes' metav1.Condition."""

    type: str = Field(min_length=1, max_length=316, description="Which aspect: Complete, Failed, Healthy ...")
    status: ConditionState = Field(description="Whether it holds.")
    reason: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        description="Why, as one word for programs.",
    )
    message: str = Field(max_length=32_768, description="Why, as a sentence for people.")
    last_transition_time: Time = Field(description="When `status` last changed.")
    observed_generation: int | None = Field(
        default=None, ge=0, le=2**53 - 1, description="metadata.generation that it was decided for."
    )


class Progress(StatusModel):
    """How far the run is."""

    generation: Generation = Field(description="Updates made so far, which is the open generation's number.")
    planned: Generation = Field(description="Updates to make: spec.evolution.generations.")
    percent: float = Field(ge=0, le=100, description="Part of the planned updates that is made.")
    estimated_remaining_seconds: float | None = Field(
        default=None, ge=0, description="Estimate from the latest generations; absent while unknown."
    )
    summary: ShortText = Field(description="Both numbers for people, as 12/500.")


class Fitness(StatusModel):
    """Fitness of the members of the latest closed generation."""

    mean: float = Field(description="Mean over its members.")
    best: float = Field(description="Of its best member.")
    std: float = Field(description="Standard deviation over its members.")
    summary: ShortText = Field(description="The mean for people, as 0.4213.")


class EvaluationStatus(StatusModel):
    """Held-out scores of the unperturbed weights."""

    base: float = Field(description="Score of the base model.")
    last: float = Field(description="Score of the latest evaluation.")
    best: float = Field(description="Best score so far.")
    best_generation: Generation = Field(description="Generation whose weights scored best.")
    last_generation: Generation = Field(description="Generation that was evaluated last.")
    count: Count = Field(description="Evaluations so far.")
    summary: ShortText = Field(description="The latest score for people, as 0.4213.")


class WorkersStatus(StatusModel):
    """The pods that do the work; the scale subresource reads it."""

    desired: Count = Field(description="Workers that the operator asks for now.")
    ready: Count = Field(description="Workers that are ready.")
    selector: str = Field(max_length=1024, description="Label selector of the workers' pods.")


class CheckpointStatus(StatusModel):
    """The newest checkpoint."""

    generation: Generation = Field(description="Updates that its weights have.")
    uri: str = Field(max_length=2048, description="Where it is.")


class ESFineTuneStatus(StatusModel):
    """What the operator found and did."""

    observed_generation: int | None = Field(
        default=None, ge=0, le=2**53 - 1, description="metadata.generation that this status is about."
    )
    phase: Phase | None = Field(
        default=None,
        description="The conditions in one word: Pending, Running, Suspended, Succeeded or Failed.",
    )
    conditions: tuple[Condition, ...] | None = Field(
        default=None,
        strict=False,
        max_length=16,
        description="WorkersReady, Progressing, Healthy, Suspended, Complete and Failed, one entry each.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    progress: Progress | None = Field(default=None, description="How far the run is.")
    fitness: Fitness | None = Field(default=None, description="Fitness in the latest closed generation.")
    evaluation: EvaluationStatus | None = Field(
        default=None, description="Held-out scores; absent before the first evaluation."
    )
    workers: WorkersStatus | None = Field(default=None, description="The pods that do the work.")
    checkpoint: CheckpointStatus | None = Field(default=None, description="The newest checkpoint.")
    digest: str | None = Field(
        default=None,
        max_length=16,
        pattern="^[0-9a-f]{16}$",
        description="Checksum of the final weights, the same for every run of this spec on like hardware.",
    )
    start_time: Time | None = Field(default=None, description="When the first worker was ready.")
    completion_time: Time | None = Field(default=None, description="When the run succeeded or failed.")
    active_since: Time | None = Field(
        default=None, description="Since when the run is active without a pause; absent while suspended."
    )
    active_seconds: float | None = Field(
        default=None,
        ge=0,
        description="Seconds the run was active before activeSince; suspended time does not count.",
    )

    @property
    def end(self) -> Condition | None:
        """The condition Complete or Failed that holds; None while the run goes on."""
        ends = (self.condition(kind) for kind in (COMPLETE, FAILED))
        return next((found for found in ends if found is not None and found.status == "True"), None)

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type."""
        return next((found for found in self.conditions or () if found.type == kind), None)

    def as_dict(self) -> dict[str, Any]:
        """As it is written: camelCase, without what is absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
