"""A run at one moment, for people and for programs, on one machine and in a cluster alike. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, PlainSerializer, ValidationError, computed_field

from esft.errors import EXIT_FINISHED, EXIT_INTERNAL, EXIT_SPEC
from esft.status import words
from esft.status.clock import Clock, timestamp
from esft.status.model import Condition, ESFineTuneStatus, StatusModel

_DECIDING: Final[Mapping[str | None, str]] = {
    words.SUCCEEDED: words.COMPLETE,
    words.FAILED: words.FAILED,
    words.SUSPENDED: words.SUSPENDED,
}
_AS_WANTED: Final = frozenset({words.FINISHED, words.SUSPENDED})  # reasons for which a run has no workers
_ANOTHER_VERSION: Final = "The status is another version's and cannot be shown; `-o json` has it as it is."

Moment = Annotated[datetime, PlainSerializer(timestamp, when_used="json")]


class Problem(StatusModel):
    """Why a worker does not work: reason and message, as in the condition WorkersReady."""

    reason: str
    message: str


class Worker(StatusModel):
    """A worker: a pod, or a process on this machine.

    Attributes:
        state: ready, starting, leaving (it was asked to), drained (it handed its work back), done or failed.
        node: where it runs; None before it has a place, and for a process.
        has_log: whether it has been started, ready or not.
    """

    name: str
    state: str
    node: str | None = None
    created_at: Moment
    problem: Problem | None = None
    has_log: bool = Field(default=True, exclude=True)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ready(self) -> bool:
        """Whether it works."""
        return self.state == "ready"

    @property
    def ended(self) -> bool:
        """Whether it has left."""
        return self.state in {"drained", "done", "failed"}


class RunEvent(StatusModel):
    """An Event about the run, or a warning about its Job; `time` is when it happened last."""

    time: Moment
    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    count: int = 1
    uid: str = Field(default="", exclude=True)


class Live(StatusModel):
    """What only the session that does the work knows from moment to moment.

    Attributes:
        now: what is going on, where there is something to say.
        done: items of the open generation that are reported, of `items`.
        members_per_second: over the latest generations; None before one was measured.
        curve: mean fitness of the latest generations.
    """

    now: str = ""
    done: int = 0
    items: int = 0
    members_per_second: float | None = None
    curve: tuple[float, ...] = ()


class Snapshot(StatusModel):
    """A run and what belongs to it.

    Attributes:
        namespace: in a cluster; None on one machine.
        uid: names the run in Redis.
        generation: metadata.generation of the specification; None where the API server gives none.
        status: what is understood of it: whoever reads may be older than whoever wrote.
        workers: by name; empty where they may not be read.
        events: oldest first; likewise.
        notes: what could not be read, as sentences.
        written: the status as it was written, where it was read.
        live: only in the session that does the work.
    """

    name: str
    namespace: str | None
    uid: str
    generation: int | None
    created_at: Moment
    status: ESFineTuneStatus
    workers: tuple[Worker, ...] = ()
    events: tuple[RunEvent, ...] = ()
    notes: tuple[str, ...] = ()
    written: dict[str, Any] | None = Field(default=None, exclude=True)
    live: Live | None = Field(default=None, exclude=True)

    @property
    def phase(self) -> str:
        """Pending, Running, Suspended, Succeeded or Failed; Unseen before anybody has looked at it."""
        return self.status.phase or "Unseen"

    @property
    def reason(self) -> tuple[str, str]:
        """One word and a sentence: why it is in that phase."""
        condition = self.status.condition(_DECIDING.get(self.status.phase, words.PROGRESSING))
        return ("", "") if condition is None else (condition.reason, condition.message)

    @property
    def attention(self) -> list[Condition]:
        """Conditions that are not as they should be while the run goes on, and an unhealthy one in any case."""
        found = [self.status.condition(kind) for kind in (words.WORKERS_READY, words.HEALTHY)]
        return [
            condition
            for condition in found
            if condition is not None and condition.status == "False" and condition.reason not in _AS_WANTED
        ]

    @property
    def exit_code(self) -> int | None:
        """How a command that waited for the run ends; None while it goes on.

        A status about an older specification may be about to change: `generations` was raised.
        """
        observed = self.status.observed_generation
        if observed is not None and observed < (self.generation or 0):
            return None
        if self.status.phase == words.SUCCEEDED:
            return EXIT_FINISHED
        if self.status.phase == words.FAILED:
            return EXIT_SPEC if self.reason[0] in words.USELESS_TO_REPEAT else EXIT_INTERNAL
        return None

    def active_seconds(self, now: datetime) -> float:
        """How long the run has been neither suspended nor over."""
        return Clock.of(self.status, active=False, now=now).before

    def as_dict(self) -> dict[str, Any]:
        """For programs: the status as it is, and what else is shown. Equal as long as nothing has changed."""
        status = self.status.as_dict() if self.written is None else self.written
        return {**self.model_dump(mode="json"), "status": status}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `as_dict`; a status that cannot be understood is kept as it is, and noted.

        Raises:
            LookupError, ValueError: it is not what `as_dict` gives.
        """
        status, notes = ESFineTuneStatus(), data["notes"]
        try:
            status = ESFineTuneStatus.model_validate(data["status"], by_alias=True, by_name=False)
        except ValidationError:
            notes = dict.fromkeys([*notes, _ANOTHER_VERSION])
        read = {**data, "status": status, "written": data["status"], "notes": tuple(notes)}
        return cls.model_validate(read, strict=False)
