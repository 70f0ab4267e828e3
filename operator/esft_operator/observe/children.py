"""What the operator sees of a run's children: the few fields that decisions need, taken from the API server's objects.

Pure. Whole pods are not kept: two hundred runs with dozens of pods each would fill the memory with what nobody reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Self

from esft.errors import EXIT_DRAINED, EXIT_SPEC
from esft.status.clock import parse_time
from esft.status.words import WORKERS_FAILING
from esft_operator.names import TEMPLATE_HASH_ANNOTATION, WORKER_CONTAINER

UNSCHEDULABLE: Final = "Unschedulable"
SCHEDULING_GRACE: Final = timedelta(seconds=10)
_MAX_MESSAGE = 1024

# Why a container waits, when it will not start by itself: the kubelet's own words.
_IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


@dataclass(frozen=True, slots=True)
class Child:
    """An object that bears one of our names.

    Attributes:
        owner: uid of its controller; None where it has none.
        terminating: whether it is being deleted.
    """

    uid: str
    owner: str | None
    terminating: bool

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Read any object."""
        metadata = body["metadata"]
        return cls(uid=metadata["uid"], owner=owner_of(body), terminating="deletionTimestamp" in metadata)


@dataclass(frozen=True, slots=True)
class JobView:
    """The Job of workers.

    Attributes:
        template_hash: of the pods it makes.
        parallelism: pods it is to keep.
        finished_at: when it completed or failed; None while it goes on.
        failure: reason and message when it failed.
    """

    child: Child
    template_hash: str | None
    parallelism: int
    finished_at: datetime | None
    failure: tuple[str, str] | None

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Read a batch/v1 Job."""
        status = body.get("status") or {}
        final = {
            condition["type"]: condition
            for condition in status.get("conditions") or ()
            if condition["type"] in {"Complete", "Failed"} and condition["status"] == "True"
        }
        failed = final.get("Failed")
        ended = next(iter(final.values()), None)
        return cls(
            child=Child.of(body),
            template_hash=(body["metadata"].get("annotations") or {}).get(TEMPLATE_HASH_ANNOTATION),
            parallelism=body["spec"].get("parallelism", 1),
            finished_at=None if ended is None else parse_time(ended["lastTransitionTime"]),
            failure=None if failed is None else (failed.get("reason", ""), failed.get("message", "")),
        )


@dataclass(frozen=True, slots=True)
class ConfigMapView:
    """The ConfigMap with the specification; `data` is compared with what it should hold."""

    child: Child
    data: Mapping[str, str]

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Read a ConfigMap."""
        return cls(child=Child.of(body), data=body.get("data") or {})


@dataclass(frozen=True, slots=True)
class PodView:
    """A worker pod.

    Attributes:
        ready: whether its worker runs and is ready.
        ended: whether it has succeeded or failed.
        terminating: whether it is being deleted.
        problem: reason and message when it will not start, or has failed.
        exit_code: of the worker, once it has ended.
    """

    name: str
    ready: bool
    ended: bool
    terminating: bool
    created_at: datetime
    problem: tuple[str, str] | None = None
    exit_code: int | None = None

    def is_stuck(self, now: datetime) -> bool:
        """Whether it will not start by itself. A pod that was made just now waits for its volume and its node."""
        if self.ended or self.problem is None:
            return False
        return self.problem[0] != UNSCHEDULABLE or now >= self.created_at + SCHEDULING_GRACE

    @property
    def refused_spec(self) -> bool:
        """Whether the worker found that the specification cannot work."""
        return self.exit_code == EXIT_SPEC

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Read a pod."""
        metadata, status = body["metadata"], body.get("status") or {}
        conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
        containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
        terminated = _terminated(containers)
        return cls(
            name=metadata["name"],
            ready=conditions.get("Ready", {}).get("status") == "True",
            ended=status.get("phase") in {"Succeeded", "Failed"},
            terminating="deletionTimestamp" in metadata,
            created_at=parse_time(metadata["creationTimestamp"]),
            problem=_problem(status, conditions, containers, terminated),
            exit_code=None if terminated is None else terminated["exitCode"],
        )


@dataclass(frozen=True, slots=True)
class Observed:
    """All children of one run; None for one that is not there."""

    job: JobView | None = None
    config_map: ConfigMapView | None = None
    volume_claim: Child | None = None
    pods: Sequence[PodView] = ()

    @property
    def ready_pods(self) -> int:
        """Workers that are ready."""
        return sum(pod.ready and not pod.terminating for pod in self.pods)

    @property
    def living_pods(self) -> int:
        """Pods that have not ended yet, wanted or not."""
        return sum(not pod.ended for pod in self.pods)


def owner_of(body: Mapping[str, Any]) -> str | None:
    """Uid of an object's controller."""
    references = body["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in references if owner.get("controller")), None)


def _terminated(containers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """How the worker ended."""
    for container in containers:
        ended = (container.get("state") or {}).get("terminated")
        if ended is not None and container["name"] == WORKER_CONTAINER:
            found: Mapping[str, Any] = ended
            return found
    return None


def _problem(
    status: Mapping[str, Any],
    conditions: Mapping[str, Mapping[str, Any]],
    containers: Sequence[Mapping[str, Any]],
    terminated: Mapping[str, Any] | None,
) -> tuple[str, str] | None:
    """Why the pod does not work, in one word and a sentence."""
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("reason") == "Unschedulable":
        return UNSCHEDULABLE, _cut(scheduled.get("message", ""))
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason"), waiting.get("message") or ""
        if reason in _IMAGE_REASONS:
            image = container.get("image", "")
            return "ImagePullFailed", _cut(f"{container['name']}: {reason} {image} {message}".rstrip())
        if reason in _CONFIG_REASONS or reason == "CrashLoopBackOff":
            return "ContainerFailed", _cut(f"{container['name']}: {reason} {message}".rstrip())
    # The pod's phase follows its container's end a moment later, and the run has failed by then.
    refused = terminated is not None and terminated["exitCode"] == EXIT_SPEC
    if refused or (status.get("phase") == "Failed" and not _was_drained(status, terminated)):
        return WORKERS_FAILING, _cut(_failure(status, terminated))
    return None


def _was_drained(status: Mapping[str, Any], terminated: Mapping[str, Any] | None) -> bool:
    """Whether the worker ended because it was asked to; not where the kubelet evicted a pod that uses too much."""
    return (
        terminated is not None
        and terminated["exitCode"] == EXIT_DRAINED
        and status.get("reason") != "Evicted"
    )


def _failure(status: Mapping[str, Any], terminated: Mapping[str, Any] | None) -> str:
    if terminated is None:
        return f"{status.get('reason', 'Failed')}: {status.get('message', 'the pod failed')}"
    message = (terminated.get("message") or "").strip()
    reason = terminated.get("reason", "Error")
    return message or f"the worker ended with exit code {terminated['exitCode']} ({reason})"


def _cut(text: str) -> str:
    """Short enough for a condition; the pod has the whole of it."""
    return text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 1] + "…"
