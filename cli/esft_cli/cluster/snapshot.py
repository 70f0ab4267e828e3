"""A run in a cluster at one moment, as far as people care: parsed from the API server's objects. Pure.

What cannot be understood is left out rather than refused: this command line may be older than the operator.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from pydantic import ValidationError

from esft.errors import EXIT_DRAINED, EXIT_FINISHED, EXIT_INTERNAL, EXIT_SPEC
from esft.status import Condition, ESFineTuneStatus
from esft_operator.decide.outcome import FAILED, INVALID_SPEC, SUCCEEDED, Clock
from esft_operator.names import MANAGER
from esft_operator.observe.children import PodView, parse_time
from esft_operator.resource import Manifest

_DECIDING: Final[Mapping[str | None, str]] = {
    "Succeeded": "Complete",
    "Failed": "Failed",
    "Suspended": "Suspended",
    "Running": "Progressing",
    "Pending": "Progressing",
}
_HAS_BEEN_STARTED: Final = frozenset({"Running", "Succeeded", "Failed"})  # phases of pods
_AS_WANTED: Final = frozenset({"Finished", "Suspended"})  # reasons for which a run has no workers


@dataclass(frozen=True, slots=True)
class WorkerPod:
    """A worker pod.

    Attributes:
        state: ready, starting, leaving (it is being deleted), drained (it handed its work back), done or failed.
        node: where it runs; None before it has a place.
        problem: reason and message, as in the condition WorkersReady; None where there is none.
        has_log: whether its worker has been started, ready or not.
    """

    name: str
    state: str
    node: str | None
    created_at: datetime
    problem: tuple[str, str] | None = None
    has_log: bool = True

    @property
    def ended(self) -> bool:
        """Whether it has left."""
        return self.state in {"drained", "done", "failed"}

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Read a pod."""
        seen = PodView.of(body)
        return cls(
            name=seen.name,
            state=_state(seen),
            node=body.get("spec", {}).get("nodeName"),
            created_at=seen.created_at,
            problem=seen.problem,
            has_log=(body.get("status") or {}).get("phase") in _HAS_BEEN_STARTED,
        )


@dataclass(frozen=True, slots=True)
class RunEvent:
    """An Event about the run, or a warning about its Job.

    Attributes:
        uid: of the Event.
        at: when it happened last.
    """

    uid: str
    at: datetime
    warning: bool
    reason: str
    message: str
    count: int = 1

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Read an Event of either API."""
        metadata = body["metadata"]
        series = body.get("series") or {}
        at = (
            series.get("lastObservedTime")
            or body.get("lastTimestamp")
            or body.get("eventTime")
            or metadata["creationTimestamp"]
        )
        return cls(
            uid=metadata["uid"],
            at=parse_time(at),
            warning=body.get("type") == "Warning",
            reason=body.get("reason") or "",
            message=body.get("message") or "",
            count=series.get("count") or body.get("count") or 1,
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run and what belongs to it.

    Attributes:
        body: the resource as it is.
        status: the part of it that is understood.
        pods: of its workers, by name; empty where they may not be read.
        events: oldest first; likewise.
        notes: what could not be read, as sentences.
    """

    body: Manifest
    status: ESFineTuneStatus
    pods: Sequence[WorkerPod] = ()
    events: Sequence[RunEvent] = ()
    notes: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        body: Manifest,
        *,
        pods: Sequence[WorkerPod] = (),
        events: Sequence[RunEvent] = (),
        notes: Sequence[str] = (),
    ) -> Self:
        """Read a resource."""
        try:
            status = ESFineTuneStatus.model_validate(body.get("status") or {}, by_alias=True, by_name=False)
        except ValidationError:
            status = ESFineTuneStatus()
            notes = (
                *notes,
                "The status is another version's and cannot be shown; `-o json` has it as it is.",
            )
        return cls(body, status, pods, events, notes)

    @property
    def name(self) -> str:
        """Of the run."""
        return str(self.body["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Of the run."""
        return str(self.body["metadata"]["namespace"])

    @property
    def created_at(self) -> datetime:
        """When the resource was made."""
        return parse_time(self.body["metadata"]["creationTimestamp"])

    @property
    def phase(self) -> str:
        """Pending, Running, Suspended, Succeeded or Failed; Unseen before any operator has looked at it."""
        return self.status.phase or "Unseen"

    @property
    def reason(self) -> tuple[str, str]:
        """One word and a sentence: why it is in that phase."""
        condition = self.condition(_DECIDING.get(self.status.phase, ""))
        if condition is not None:
            return condition.reason, condition.message
        manager = (self.body.get("spec") or {}).get("managedBy")
        if self.status.phase is None and manager not in {None, MANAGER}:
            return "ManagedByOther", f"spec.managedBy leaves it to {manager}."
        if self.status.phase is None:
            return (
                "NoOperator",
                "No operator has looked at it yet. If that lasts, see whether one runs: docs/install.md.",
            )
        return "", ""

    @property
    def attention(self) -> list[Condition]:
        """Conditions that are not as they should be while the run goes on, and an unhealthy one in any case."""
        found = []
        workers, healthy = self.condition("WorkersReady"), self.condition("Healthy")
        if workers is not None and workers.status == "False" and workers.reason not in _AS_WANTED:
            found.append(workers)
        if healthy is not None and healthy.status == "False":
            found.append(healthy)
        return found

    @property
    def exit_code(self) -> int | None:
        """How a command that waited for the run ends; None while it goes on.

        A status about an older specification may be about to change: `generations` was raised.
        """
        observed = self.status.observed_generation
        if observed is not None and observed < self.body["metadata"].get("generation", 0):
            return None
        if self.status.phase == SUCCEEDED:
            return EXIT_FINISHED
        if self.status.phase == FAILED:
            return EXIT_SPEC if self.reason[0] == INVALID_SPEC else EXIT_INTERNAL
        return None

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type."""
        return next((each for each in self.status.conditions or () if each.type == kind), None)

    def active_seconds(self, now: datetime) -> float:
        """How long the run has been neither suspended nor over."""
        return Clock.of(self.status, active=False, now=now).before

    def as_dict(self) -> dict[str, Any]:
        """For programs: the status as it is, and what else is shown. Equal as long as nothing has changed."""
        metadata = self.body["metadata"]
        return {
            "name": self.name,
            "namespace": self.namespace,
            "uid": metadata["uid"],
            "generation": metadata.get("generation"),
            "createdAt": metadata["creationTimestamp"],
            "status": self.body.get("status") or {},
            "pods": [
                {
                    "name": pod.name,
                    "state": pod.state,
                    "ready": pod.state == "ready",
                    "node": pod.node,
                    "createdAt": _time(pod.created_at),
                    "problem": None
                    if pod.problem is None
                    else {"reason": pod.problem[0], "message": pod.problem[1]},
                }
                for pod in self.pods
            ],
            "events": [
                {
                    "time": _time(event.at),
                    "type": "Warning" if event.warning else "Normal",
                    "reason": event.reason,
                    "message": event.message,
                    "count": event.count,
                }
                for event in self.events
            ],
            "notes": list(self.notes),
        }


def _state(pod: PodView) -> str:
    if pod.ended:
        if pod.problem is not None:
            return "failed"
        return "drained" if pod.exit_code == EXIT_DRAINED else "done"
    if pod.terminating:
        return "leaving"
    return "ready" if pod.ready else "starting"


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
