"""The API server's objects as the parts of a snapshot. Pure.

What cannot be understood is left out rather than refused: this command line may be older than the operator.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from esft.errors import EXIT_DRAINED
from esft.status import Condition
from esft.status.clock import parse_time
from esft.status.snapshot import Problem, RunEvent, Snapshot, Worker
from esft.status.words import PROGRESSING
from esft_operator.names import MANAGER
from esft_operator.observe.children import PodView
from esft_operator.resource import Manifest

_HAS_BEEN_STARTED: Final = frozenset({"Running", "Succeeded", "Failed"})  # phases of pods


def snapshot_of(
    body: Manifest,
    *,
    workers: Sequence[Worker] = (),
    events: Sequence[RunEvent] = (),
    notes: Sequence[str] = (),
) -> Snapshot:
    """Put together a resource and what was read besides."""
    metadata = body["metadata"]
    found = Snapshot.from_dict(
        {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "generation": metadata.get("generation"),
            "createdAt": metadata["creationTimestamp"],
            "status": body.get("status") or {},
            "workers": tuple(workers),
            "events": tuple(events),
            "notes": notes,
        }
    )
    if found.status.phase is not None:
        return found
    status = found.status.model_copy(update={"conditions": (_why_unseen(body),)})
    return found.model_copy(update={"status": status})


def worker_of(body: Mapping[str, Any]) -> Worker:
    """Read a pod."""
    seen = PodView.of(body)
    return Worker(
        name=seen.name,
        state=_state(seen),
        node=body.get("spec", {}).get("nodeName"),
        created_at=seen.created_at,
        problem=None if seen.problem is None else Problem(reason=seen.problem[0], message=seen.problem[1]),
        has_log=(body.get("status") or {}).get("phase") in _HAS_BEEN_STARTED,
    )


def event_of(body: Mapping[str, Any]) -> RunEvent:
    """Read an Event of either API."""
    metadata = body["metadata"]
    series = body.get("series") or {}
    at = (
        series.get("lastObservedTime")
        or body.get("lastTimestamp")
        or body.get("eventTime")
        or metadata["creationTimestamp"]
    )
    return RunEvent(
        uid=metadata["uid"],
        time=parse_time(at),
        type="Warning" if body.get("type") == "Warning" else "Normal",
        reason=body.get("reason") or "",
        message=body.get("message") or "",
        count=series.get("count") or body.get("count") or 1,
    )


def _why_unseen(body: Manifest) -> Condition:
    manager = (body.get("spec") or {}).get("managedBy")
    reason, message = "ManagedByOther", f"spec.managedBy leaves it to {manager}."
    if manager in {None, MANAGER}:
        reason = "NoOperator"
        message = "No operator has looked at it yet. If that lasts, see whether one runs: docs/install.md."
    return Condition(
        type=PROGRESSING,
        status="Unknown",
        reason=reason,
        message=message,
        last_transition_time=body["metadata"]["creationTimestamp"],
    )


def _state(pod: PodView) -> str:
    if pod.ended:
        if pod.problem is not None:
            return "failed"
        return "drained" if pod.exit_code == EXIT_DRAINED else "done"
    if pod.terminating:
        return "leaving"
    return "ready" if pod.ready else "starting"
