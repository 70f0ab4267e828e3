"""What workers log, read for people: how far they are, where their time went, why one failed.

A line is a JSON object (esft.logs), or whatever a library prints between them.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_TAIL_BYTES = 64 * 1024
_IN_WORDS = {"model.building": "making the model, which is kept for later runs"}


class LogTail:
    """Follows a log that another process appends to; it may not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._incomplete = b""

    def events(self) -> list[dict[str, Any]]:
        """The JSON objects that were added since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                added = file.read()
        except FileNotFoundError:
            return []
        self._offset += len(added)
        *lines, self._incomplete = (self._incomplete + added).split(b"\n")
        return [event for line in lines if (event := _parse(line)) is not None]


def stage_seconds(events: Iterable[dict[str, Any]]) -> dict[str, float]:
    """What the workers that ended in order said they spent on each stage, summed."""
    total: Counter[str] = Counter()
    for event in events:
        if event.get("event") == "stopped":
            total.update(event["seconds"])
    return {stage: round(seconds, 3) for stage, seconds in total.items()}


def last_error(path: Path, *, start: int) -> str | None:
    """The last error in a log from byte `start` on: a line of level error, else the last line there is."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - _TAIL_BYTES))
            lines = [line for line in file.read().split(b"\n") if line.strip()]
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        event = _parse(line)
        if event is not None and event.get("level") in {"error", "critical"}:
            return str(event.get("message") or event.get("event"))
    return lines[-1].decode("utf-8", errors="replace").strip() if lines else None


def describe(event: dict[str, Any]) -> str:
    """One short line for people: the event, and how far it is where it says so."""
    text = str(event.get("message") or event.get("event", ""))
    text = _IN_WORDS.get(text, text)
    if isinstance(event.get("done"), int) and isinstance(event.get("total"), int):
        text += f" {event['done']}/{event['total']}"
    return text


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
