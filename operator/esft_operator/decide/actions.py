"""What a plan may ask for: data, so that a test can compare it; `execute.py` carries it out."""

from dataclasses import dataclass

from esft.policy import Policy
from esft.queue import Opening
from esft_operator.resource import Manifest


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event about the resource; reasons are those of docs/run.md."""

    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class AddFinalizer:
    """Hold the resource until its traces outside of Kubernetes are gone."""


@dataclass(frozen=True, slots=True)
class RemoveFinalizer:
    """Let the resource go."""


@dataclass(frozen=True, slots=True)
class GrantAccess:
    """Define the run's user in Redis, and the Secret with its URL."""


@dataclass(frozen=True, slots=True)
class RemoveFromRedis:
    """Remove the run's user, then its keys: in this order, so that no worker brings a key back.

    With `otherwise` it is the last try: if it fails, that is posted, and the rest goes on.
    """

    otherwise: Event | None = None


@dataclass(frozen=True, slots=True)
class Apply:
    """Make a child be like this. `owned_uid` is the uid of the child that was seen, None where none was."""

    manifest: Manifest
    owned_uid: str | None

    def __str__(self) -> str:
        """For the log."""
        return f"Apply {self.manifest['kind']} {self.manifest['metadata']['name']}"


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """Delete the Job with this uid; its workers hand their work back."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class FinishRun:
    """Tell the workers that the run has failed; they end by themselves."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class SetPolicy:
    """Tell the run what has changed in its specification; in force from its next generation."""

    policy: Policy


@dataclass(frozen=True, slots=True)
class ReopenRun:
    """Open a finished run again at the generation where it ended."""

    opening: Opening

    def __str__(self) -> str:
        """For the log, without its items."""
        return f"ReopenRun(generation={self.opening.generation})"


@dataclass(frozen=True, slots=True)
class DeleteResource:
    """Delete the resource itself: its time to live is over."""


Action = (
    AddFinalizer
    | RemoveFinalizer
    | GrantAccess
    | RemoveFromRedis
    | Apply
    | DeleteJob
    | FinishRun
    | SetPolicy
    | ReopenRun
    | DeleteResource
)
