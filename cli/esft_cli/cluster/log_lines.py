"""Lines of workers' logs for people: taken apart, put in order, made readable. Pure.

A worker writes JSON (esft.logs). What does not come from there, as a crash of the interpreter, is shown as it is.
"""

import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from esft.status.clock import timestamp
from esft_operator.names import workers_name

_BOUND: Final = frozenset({"time", "level", "event", "worker", "run", "traceback"})
_COLOURS: Final = {"warning": "yellow", "error": "red", "critical": "red", "debug": "bright_black"}
_BEGINNING: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a container's log.

    Attributes:
        stamp: the time in front of it as the node wrote it, which tells lines apart.
        at: that time.
        text: the line as the program wrote it.
    """

    stamp: str
    at: datetime
    text: str

    @classmethod
    def parse(cls, line: str) -> Self:
        """Take a line apart; one without a time belongs to the beginning."""
        stamp, _, text = line.partition(" ")
        try:
            return cls(stamp, datetime.fromisoformat(stamp), text)
        except ValueError:
            return cls("", _BEGINNING, line)


Entry = tuple[str, LogLine]  # name of a pod and a line of it


def split_lines(pieces: Iterable[bytes], *, keep_rest: bool = True) -> Iterator[str]:
    """Whole lines of what comes in pieces; with `keep_rest`, a last one too whose end a broken connection kept back."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)
    if rest and keep_rest:
        yield rest.decode(errors="replace")


def merged(streams: Iterable[Iterable[Entry]]) -> Iterator[Entry]:
    """Lines of several pods, a stream each, in the order of their times; each pod's own order stays."""
    return heapq.merge(*streams, key=lambda entry: entry[1].at)


def readable(line: LogLine, *, worker: str) -> tuple[str, str | None]:
    """`2026-05-01T10:45:43Z worker info updated generation=3`, and the colour of typer's that its level asks for.

    A traceback stands on lines of its own.
    """
    fields = _fields(line.text)
    if fields is None:
        return f"{_clock(line.at)} {worker} {line.text}", None
    level = str(fields.get("level", ""))
    words = [_clock(_time(fields, line.at)), worker, level, str(fields.get("event", ""))]
    words += [f"{key}={_value(value)}" for key, value in fields.items() if key not in _BOUND]
    text = " ".join(filter(None, words))
    if "traceback" in fields:
        text += f"\n{fields['traceback']}"
    return text, _COLOURS.get(level)


def short_name(pod: str, run: str) -> str:
    """A worker's pod without what the names of all of them have in common."""
    return pod.removeprefix(f"{workers_name(run)}-")


def _fields(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "event" in found else None


def _time(fields: dict[str, Any], otherwise: datetime) -> datetime:
    try:
        return datetime.fromisoformat(fields["time"])
    except (KeyError, TypeError, ValueError):
        return otherwise


def _clock(moment: datetime) -> str:
    return timestamp(moment.astimezone(UTC)) if moment > _BEGINNING else "-"


def _value(value: Any) -> str:
    """As logfmt has it: quoted where it has spaces."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n') else text
