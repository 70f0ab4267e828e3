"""Replies of the scripts, turned into the types of the queue. They are bytes or text, as the client was made."""

from collections.abc import Mapping
from typing import Any

from esft.queue.types import Entry, Opening, RunState
from esft.versions import CURRENT, another_version

_COUNTERS = ("reported", "duplicates", "stale", "leases_expired", "backups", "digest_mismatches")


def text(value: bytes | str) -> str:
    """Return the text of a reply."""
    return value.decode("utf-8") if isinstance(value, bytes) else value


def pairs(flat: list[Any]) -> dict[str, str]:
    """Return what Redis lists as names and values in turn."""
    texts = list(map(text, flat))
    return dict(zip(texts[::2], texts[1::2], strict=True))


def run_state(reply: list[Any]) -> RunState:
    """Parse what state() of common.lua returns.

    Raises:
        VersionError: the run was created with versions of another contract.
    """
    _, fields, done, outstanding, todo, workers = reply
    run = pairs(fields)
    if run.get("contract") != CURRENT.contract:
        raise another_version("the run in Redis", run.get("contract", ""), run.get("release", ""))
    return RunState(
        phase=run["phase"],
        reason=run["reason"],
        message=run["message"],
        result=run.get("result"),
        measures=run["measures"],
        opening=Opening.from_json(run["opening"]),
        policy=run["policy"],
        done=done,
        outstanding=outstanding,
        todo=todo,
        workers=workers,
        counters={name: int(run[name]) for name in _COUNTERS},
    )


def entry(fields: Mapping[Any, Any]) -> Entry:
    """Parse one entry of the log."""
    values = {text(name): text(value) for name, value in fields.items()}
    record = values.pop("record")
    return Entry(record=record, telemetry={name: float(value) for name, value in values.items()})
