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
    (
        _,
        contract,
        release,
        phase,
        reason,
        message,
        result,
        measures,
        opening,
        policy,
        done,
        outstanding,
        todo,
        workers,
        *counters,
    ) = reply
    if text(contract) != CURRENT.contract:
        raise another_version("the run in Redis", text(contract), text(release))
    return RunState(
        phase=text(phase),
        reason=text(reason),
        message=text(message),
        result=None if result is None else text(result),
        measures=text(measures),
        opening=Opening.from_json(text(opening)),
        policy=text(policy),
        done=int(done),
        outstanding=int(outstanding),
        todo=int(todo),
        workers=int(workers),
        counters=dict(zip(_COUNTERS, map(int, counters), strict=True)),
    )


def entry(fields: Mapping[Any, Any]) -> Entry:
    """Parse one entry of the log."""
    values = {text(name): text(value) for name, value in fields.items()}
    record = values.pop("record")
    return Entry(record=record, telemetry={name: float(value) for name, value in values.items()})
