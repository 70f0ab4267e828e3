"""The end of a run as its workers wrote it to Redis, where whoever has the run's password may write anything."""

import json
import re
from typing import Final

from esft.queue import RunState
from esft.status.ledger import Ledger

_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")
_DIGEST: Final = re.compile(r"[0-9a-f]{16}")


def check(state: RunState) -> None:
    """See that a run's end is as workers write it, before it gets into a status.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: it is not; a run's user may write to the run's keys.
    """
    if not state.finished:
        return
    if not _WORD.fullmatch(state.reason):
        raise ValueError(f"the reason of its end is {state.reason!r}, which is no word")
    Ledger().ended(state)
    digest = final_digest(state)
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise ValueError(f"its digest is {digest!r}")


def final_digest(state: RunState) -> str | None:
    """Digest of the final weights, once the run has succeeded."""
    digest: str | None = json.loads(state.result).get("digest") if state.result else None
    return digest
