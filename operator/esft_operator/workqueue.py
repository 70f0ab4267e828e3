"""Which runs wait to be reconciled: each at most once, one at a time, later again where time or a failure asks for it.

The pattern of every Kubernetes controller. Rejected: to reconcile within kopf's event handlers, whose queue is for each
object of each kind apart: a pod's event and its run's would be worked on at the same time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from esft.errors import EsftError
from esft_operator.names import Key, about

logger = logging.getLogger(__name__)

_FIRST_DELAY_SECONDS: Final = 0.5
_LONGEST_DELAY_SECONDS: Final = 10.0
_MOST_DOUBLINGS: Final = 16  # a power of the number of failures itself overflows after some hours


class WorkQueue:
    """A queue of keys with due times; to be used from one event loop.

    Args:
        process: reconciles one key; returns after how many seconds it wants to be called again, or None. When it
            raises, it is called again after a delay that doubles up to 10 s.
        concurrency: at most so many keys are worked on at a time.
    """

    def __init__(self, process: Callable[[Key], Awaitable[float | None]], *, concurrency: int) -> None:
        self._process = process
        self._concurrency = concurrency
        self._due: dict[Key, float] = {}
        self._running: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, key: Key, *, delay: float = 0.0) -> None:
        """Reconcile a key after a delay, or earlier where that was asked for before."""
        due = asyncio.get_running_loop().time() + delay
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._changed.set()

    def forget(self, key: Key) -> None:
        """Drop a key that is no more."""
        self._due.pop(key, None)
        self._failures.pop(key, None)

    @property
    def length(self) -> int:
        """Keys that are due and not worked on."""
        now = asyncio.get_running_loop().time()
        return sum(due <= now and key not in self._running for key, due in self._due.items())

    async def run(self) -> None:
        """Work until cancelled; then what is being worked on is let go."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._changed.clear()
                self._start_due(loop.time())
                times = [due for key, due in self._due.items() if key not in self._running]
                timeout = max(0.0, min(times) - loop.time()) if times and self._has_room else None
                try:
                    await asyncio.wait_for(self._changed.wait(), timeout)
                except TimeoutError:
                    continue
        finally:
            for task in self._tasks:
                task.cancel()

    @property
    def _has_room(self) -> bool:
        return len(self._running) < self._concurrency

    def _start_due(self, now: float) -> None:
        for key in sorted(self._due, key=self._due.__getitem__):
            if not self._has_room or self._due[key] > now:
                return
            if key not in self._running:
                del self._due[key]
                self._running.add(key)
                task = asyncio.create_task(self._work(key))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _work(self, key: Key) -> None:
        try:
            again = await self._process(key)
        except EsftError as error:
            self._retry(key, str(error))
        except Exception as error:
            logger.exception("reconciling failed", extra={"about": about(key)})
            self._retry(key, repr(error))
        else:
            self._failures.pop(key, None)
            if again is not None:
                self.add(key, delay=again)
        finally:
            self._running.discard(key)
            self._changed.set()

    def _retry(self, key: Key, reason: str) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(_LONGEST_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2 ** min(failures - 1, _MOST_DOUBLINGS))
        logger.warning("will try again", extra={"about": about(key), "reason": reason, "seconds": delay})
        self.add(key, delay=delay)
