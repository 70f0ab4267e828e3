"""Follows all live runs in Redis: reads every log entry once, folds it, counts it, and says when something is new.

One look a second at each Redis, for all its runs at once. A look that shows the open generation further than the log
was read goes on reading, so a metric misses no generation however many close between two looks.

Rejected: blocking reads (XREAD on two hundred streams wakes for each entry; a look a second costs less and bounds how
often a status is written).
"""

import asyncio
import logging
import re
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from esft.errors import EsftError, UnreadableRunError, VersionError
from esft.policy import Policy
from esft.queue import Observation, RunState
from esft.status import words
from esft.status.ledger import Ledger
from esft_operator.clients.redis_endpoint import Endpoint, Seen
from esft_operator.metrics import OperatorMetrics
from esft_operator.names import Key, about
from esft_operator.observe.situation import Progress

logger = logging.getLogger(__name__)

_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")
_DIGEST: Final = re.compile(r"[0-9a-f]{16}")
_MOST_READS: Final = 16  # pages of the log in one look


@dataclass(slots=True)
class _Followed:
    """A run that is followed; `uid` tells a resource from one of the same name before it."""

    uid: str
    endpoint: Endpoint
    progress: Progress


class Follower:
    """Progress of all live runs.

    Args:
        metrics: told of every entry and every look.
        notify: called with the key of a run of which something is new; must not block.
        poll_seconds: between two looks at a Redis.
    """

    def __init__(
        self, metrics: OperatorMetrics, *, notify: Callable[[Key], None], poll_seconds: float
    ) -> None:
        self._metrics = metrics
        self._notify = notify
        self._poll_seconds = poll_seconds
        self._lock = threading.Lock()
        self._runs: dict[Key, _Followed] = {}

    def follow(self, key: Key, uid: str, endpoint: Endpoint, *, start: Ledger) -> Progress:
        """Follow a run from where `start` ends; one that is followed already goes on, in this Redis from now on.

        Returns:
            What is known of it.
        """
        with self._lock:
            followed = self._runs.get(key)
            if followed is None or followed.uid != uid:
                followed = self._runs[key] = _Followed(uid, endpoint, Progress(ledger=start))
            followed.endpoint = endpoint
            return followed.progress

    def forget(self, key: Key) -> None:
        """Follow it no more."""
        with self._lock:
            self._runs.pop(key, None)

    def note_workers(self, key: Key, wanted: int) -> None:
        """Note how many workers are wanted: sizing waits until that has been measured."""
        with self._lock:
            followed = self._runs.get(key)
            if followed is not None:
                ledger = followed.progress.ledger.wanted(wanted)
                followed.progress = replace(followed.progress, ledger=ledger)

    async def run(self) -> None:
        """Look until cancelled; a Redis that hangs holds up no other."""
        busy: dict[int, asyncio.Task[None]] = {}
        while True:
            for endpoint in self._endpoints():
                task = busy.get(id(endpoint))
                if task is None or task.done():
                    busy[id(endpoint)] = asyncio.create_task(asyncio.to_thread(self.look, endpoint))
            busy = {name: task for name, task in busy.items() if not task.done()}
            await asyncio.sleep(self._poll_seconds)

    def look(self, endpoint: Endpoint) -> None:
        """Look once at all runs of a Redis."""
        for _ in range(_MOST_READS):
            with self._lock:
                cursors = {
                    run.uid: run.progress.ledger.generation
                    for run in self._runs.values()
                    if run.endpoint is endpoint
                }
            try:
                seen = endpoint.observe(cursors)
            except EsftError as error:
                self._away(endpoint, str(error))
                return
            if not self._take(endpoint, seen):
                return

    def _endpoints(self) -> list[Endpoint]:
        with self._lock:
            return list({id(run.endpoint): run.endpoint for run in self._runs.values()}.values())

    def _take(self, endpoint: Endpoint, seen: dict[str, Seen]) -> bool:
        """Fold what was seen; whether a log has more."""
        more = False
        with self._lock:
            followed = [(key, run) for key, run in self._runs.items() if run.endpoint is endpoint]
        for key, run in followed:
            if run.uid not in seen:
                continue
            with self._lock:
                before = run.progress
                run.progress = after = self._after(key, run.uid, before, seen[run.uid])
            state = after.state
            more |= (
                after.problem is None
                and state is not None
                and after.ledger.generation < state.opening.generation
            )
            if _is_news(before, after):
                self._notify(key)
        return more

    def _after(self, key: Key, uid: str, before: Progress, seen: Seen) -> Progress:
        """Progress with what was seen; a run that cannot be read says so, and is no matter of the others."""
        match seen:
            case None:
                return replace(before, problem=None, asked=True, state=None)
            case UnreadableRunError():
                return replace(before, problem=("RunUnreadable", str(seen)), asked=True)
            case VersionError():
                return replace(before, problem=("AnotherVersion", str(seen)), asked=True)
        try:
            return self._folded(key, before, seen)
        except VersionError as error:
            return self._after(key, uid, before, error)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
            return self._after(key, uid, before, UnreadableRunError(uid, error))

    def _folded(self, key: Key, before: Progress, observation: Observation) -> Progress:
        state, ledger = observation.state, before.ledger
        _check(state)
        if state.opening.generation < ledger.generation:
            logger.warning(
                "Redis lost updates of a run",
                extra={"about": about(key), "generation": state.opening.generation},
            )
            ledger = replace(ledger, generation=state.opening.generation)
        else:
            ledger = ledger.followed_by(observation.entries)
        self._metrics.seen(key, state)
        self._metrics.closed(key, observation.entries)
        return Progress(problem=None, asked=True, state=state, ledger=ledger)

    def _away(self, endpoint: Endpoint, problem: str) -> None:
        with self._lock:
            followed = [(key, run) for key, run in self._runs.items() if run.endpoint is endpoint]
            for _, run in followed:
                run.progress = replace(run.progress, problem=(words.REDIS_UNAVAILABLE, problem))
        for key, _ in followed:
            self._notify(key)


def _is_news(before: Progress, after: Progress) -> bool:
    """Whether a status or an action may follow from the difference."""
    return _telling(before) != _telling(after)


def _telling(progress: Progress) -> tuple[object, ...]:
    phase = None if progress.state is None else progress.state.phase
    return progress.ledger.generation, progress.asked, progress.problem, phase


def _check(state: RunState) -> None:
    """See that a run's policy and end are as they are written here, before anything is decided by them.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: it is not; a run's user may write to the run's keys.
    """
    Policy.from_json(state.policy)
    if not state.finished:
        return
    if not _WORD.fullmatch(state.reason):
        raise ValueError(f"the reason of its end is {state.reason!r}, which is no word")
    Ledger().ended(state)
    digest = Progress(state=state).digest
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise ValueError(f"its digest is {digest!r}")
