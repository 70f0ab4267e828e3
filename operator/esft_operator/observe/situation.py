"""Everything that a decision may depend on, in one value: a plan is a function of this and of nothing else."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from pydantic import ValidationError

from esft.queue import RunState
from esft.status import ESFineTuneStatus
from esft.status.clock import parse_time
from esft.status.ledger import Ledger
from esft.status.report import Reason
from esft_operator.names import FINALIZER, MANAGER
from esft_operator.observe.children import Observed
from esft_operator.resource import Run
from esft_operator.settings import WorkerDefaults


@dataclass(frozen=True, slots=True)
class Resource:
    """An ESFineTune as the API server has it, whether or not its specification can be used.

    Attributes:
        generation: of the specification (metadata.generation).
        deleted_at: when it was asked to go; None while it is to stay.
        is_ours: whether `spec.managedBy` leaves it to this operator.
        ttl_seconds: `spec.ttlSecondsAfterFinished`, which counts for a specification that cannot be used, too.
        redis_secret: name and key of the Secret with a Redis URL of the user's own; None for the operator's Redis.
    """

    name: str
    namespace: str
    uid: str
    version: str
    generation: int
    deleted_at: datetime | None
    has_finalizer: bool
    is_ours: bool
    ttl_seconds: int | None
    redis_secret: tuple[str, str] | None
    status: ESFineTuneStatus

    @property
    def about(self) -> dict[str, str]:
        """Which one it is: for log lines, and for the API server."""
        return {"namespace": self.namespace, "name": self.name, "uid": self.uid}

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Read a resource; a status that another version wrote counts as none."""
        metadata, spec = body["metadata"], body.get("spec") or {}
        deleted = metadata.get("deletionTimestamp")
        secret = (spec.get("redis") or {}).get("urlSecretRef")
        return cls(
            name=metadata["name"],
            namespace=metadata["namespace"],
            uid=metadata["uid"],
            version=metadata["resourceVersion"],
            generation=metadata.get("generation", 0),
            deleted_at=None if deleted is None else parse_time(deleted),
            has_finalizer=FINALIZER in (metadata.get("finalizers") or ()),
            is_ours=spec.get("managedBy") in {None, MANAGER},
            ttl_seconds=spec.get("ttlSecondsAfterFinished"),
            redis_secret=None if secret is None else (secret["name"], secret.get("key", "url")),
            status=_status(body.get("status") or {}),
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """What Redis says of a run.

    Attributes:
        problem: why Redis could not be asked, or what it holds cannot be used; None when all is well.
        asked: whether there was an answer since the operator started.
        state: of the run, as of the latest answer; None when Redis held no such run.
        ledger: the fold of its log.
    """

    problem: Reason | None = None
    asked: bool = False
    state: RunState | None = None
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def digest(self) -> str | None:
        """Of the final weights, once workers have ended the run with success."""
        result = None if self.state is None else self.state.result
        digest: str | None = json.loads(result).get("digest") if result else None
        return digest


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a plan depends on.

    Attributes:
        run: the parsed resource; None when its specification cannot be used.
        spec_error: why not.
        failure: why the latest actions did not go through, as the condition Healthy says it.
        refresh: whether what the operator does not watch is to be made sure of, too.
        now: the time.
    """

    resource: Resource
    run: Run | None
    spec_error: str | None
    observed: Observed
    progress: Progress
    defaults: WorkerDefaults
    now: datetime
    failure: Reason | None = None
    refresh: bool = False
    has_pod_monitors: bool = False
    has_scaled_objects: bool = False

    @property
    def is_suspended(self) -> bool:
        """Whether the specification says so."""
        return self.run is not None and self.run.spec.suspend


def _status(data: Mapping[str, Any]) -> ESFineTuneStatus:
    try:
        return ESFineTuneStatus.model_validate(data, by_alias=True, by_name=False)
    except ValidationError:
        return ESFineTuneStatus()
