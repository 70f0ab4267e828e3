"""Time in a status: stamps as the API server writes them, and how long a run has been active. Pure."""

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from esft.status.model import ESFineTuneStatus


def parse_time(text: str) -> datetime:
    """A timestamp as the API server writes it."""
    return datetime.fromisoformat(text)


def timestamp(moment: datetime) -> str:
    """As the API server writes it: whole seconds, UTC."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Clock:
    """Time that a run has been active: neither suspended nor over.

    Attributes:
        before: seconds until it was last suspended.
        since: when it last became active; None while it is not.
    """

    before: float
    since: datetime | None

    @classmethod
    def of(cls, status: ESFineTuneStatus, *, active: bool, now: datetime) -> Self:
        """Go on from a status."""
        since = None if status.active_since is None else parse_time(status.active_since)
        clock = cls(status.active_seconds or 0.0, since)
        return cls(clock.before, since or now) if active else cls(clock.seconds(now), None)

    def seconds(self, now: datetime) -> float:
        """Active time so far."""
        return self.before + (0.0 if self.since is None else (now - self.since).total_seconds())
