"""How a run is carried out: measured, stored, stopped, staffed.

It may change while the run goes on, except for the places of its checkpoints and its queue: what is there already
would be lost to the run.
"""

from pydantic import Field

from esft.spec.base import (
    MAX_GENERATIONS,
    MAX_SECONDS,
    AccessMode,
    FreeObject,
    MasterWeights,
    SecretKeyRef,
    StrictModel,
)
from esft.spec.rules import AUTOSCALING_RULES, STORAGE_RULES, WORKERS_RULES


class Evaluation(StrictModel):
    """Held-out evaluation on the test split."""

    every_generations: int = Field(
        default=5,
        ge=1,
        le=MAX_GENERATIONS,
        description="Generations between two evaluations of the unperturbed weights; generation 0 is the "
        "base model.",
    )


class KLMonitoring(StrictModel):
    """Distance of the tuned model from the base model."""

    every_generations: int = Field(
        default=25,
        ge=0,
        le=MAX_GENERATIONS,
        description="Generations between measurements; 0: not measured.",
    )
    prompts: int = Field(default=64, ge=1, le=100_000, description="Training prompts to measure it on.")


class Monitoring(StrictModel):
    """What is measured besides fitness."""

    kl: KLMonitoring | None = Field(
        default=KLMonitoring(),
        description="Kullback-Leibler divergence of the tuned model from the base model; null: not measured. "
        "(`kubectl apply` leaves nulls out: write everyGenerations: 0 there.)",
    )


class VolumeClaim(StrictModel):
    """A PersistentVolumeClaim that the operator makes; locally, a folder of the run."""

    size: str = Field(
        max_length=32,
        pattern=r"^[1-9][0-9]*(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$",
        description="Size as a Kubernetes quantity; allow `keep` + 1 checkpoints of the whole model.",
        examples=["50Gi"],
    )
    storage_class_name: str | None = Field(
        default=None, min_length=1, max_length=253, description="StorageClass; null: the cluster's default."
    )
    access_mode: AccessMode = Field(
        default="ReadWriteMany",
        description="ReadWriteMany lets workers on several nodes share it; for a storage class without it, "
        "ReadWriteOnce keeps all workers on one node.",
    )


class Storage(StrictModel):
    """Where checkpoints are kept: exactly one of these."""

    rules = STORAGE_RULES

    volume_claim: VolumeClaim | None = Field(
        default=None, description="A volume that the operator makes for the run."
    )
    uri: str | None = Field(
        default=None,
        max_length=1024,
        pattern=r"^(s3://[^/\s]+/.+|file:///.+)$",
        description="A place that exists: s3://BUCKET/PREFIX, or file:///DIR that every worker sees.",
        examples=["s3://my-bucket/runs/countdown"],
    )


class Checkpoint(StrictModel):
    """Checkpoints in Hugging Face format."""

    every_generations: int = Field(
        default=50,
        ge=1,
        le=MAX_GENERATIONS,
        description="Generations between checkpoints; a late worker replays at most this many updates.",
    )
    keep: int = Field(
        default=3,
        ge=1,
        le=1000,
        description="Newest checkpoints to keep; older ones are deleted.",
    )
    storage: Storage = Field(
        default=Storage(volume_claim=VolumeClaim(size="50Gi")),
        description="Where checkpoints are kept: a volumeClaim (by default one of 50Gi) or a uri.",
    )


class Stop(StrictModel):
    """Reasons to finish before the last generation."""

    target_score: float | None = Field(
        default=None, description="Finish once a held-out evaluation scores at least this; null: never."
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        le=MAX_GENERATIONS,
        description="Finish after this many evaluations in a row without a new best score; null: never.",
    )


class Keda(StrictModel):
    """What KEDA goes by."""

    items_per_worker: int = Field(
        default=4,
        ge=1,
        le=65_536,
        description="Waiting members and evaluation shards for which KEDA adds one worker.",
    )


class Autoscaling(StrictModel):
    """Sizing of the workers by measurement, from minReplicas to maxReplicas: at most one of these."""

    rules = AUTOSCALING_RULES

    target_generation_seconds: int | None = Field(
        default=None,
        ge=1,
        le=MAX_SECONDS,
        description="The operator sizes the workers so that a generation takes about this many seconds; null: "
        "it leaves `replicas` to others.",
    )
    keda: Keda | None = Field(
        default=None,
        description="Let KEDA scale the workers through the scale subresource by the length of the run's "
        "queue; it starts from `replicas`. null: no ScaledObject is made.",
    )


class Workers(StrictModel):
    """The pods that do the work; any number may come or go at any time."""

    rules = WORKERS_RULES

    min_replicas: int = Field(
        default=1, ge=0, le=4096, description="Fewest workers; 0 lets the run be scaled to none."
    )
    max_replicas: int = Field(default=8, ge=1, le=4096, description="Most workers.")
    replicas: int | None = Field(
        default=None,
        ge=0,
        le=4096,
        description="Workers wanted now, as `kubectl scale`, an HPA or KEDA sets it; null: maxReplicas, "
        "unless autoscaling is on. There are never more workers than members.",
    )
    autoscaling: Autoscaling = Field(
        default=Autoscaling(),
        description="Sizing of the workers by measurement, from minReplicas to maxReplicas.",
    )
    claim_size: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="Members that a worker takes at once; raise it for very small models.",
    )
    master_weights: MasterWeights = Field(
        default="auto",
        description="Where a worker keeps its float32 master weights: `device` (4 bytes a weight of GPU memory), "
        "`split` (2 bytes there, 2 in host memory), `host` (all in host memory), or `auto`: the first that leaves "
        "room for rollouts. Results do not depend on it.",
    )
    lease_seconds: int | None = Field(
        default=None,
        ge=1,
        le=86_400,
        description="Seconds after which a member claimed by a silent worker goes to another one; null: "
        "from measured times.",
    )
    quorum: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Part of the population whose fitness closes a generation; below 1, stragglers are left "
        "out and the result depends on timing.",
    )
    template: FreeObject = Field(
        default={},
        description="A PodTemplateSpec merged over the operator's own; the container to change is called "
        "`worker`.",
    )


class RedisSpec(StrictModel):
    """The Redis that holds the run's queue and log."""

    url_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="Secret with the URL (redis:// or rediss://) of a Redis of yours; null: the operator's "
        "own.",
    )
