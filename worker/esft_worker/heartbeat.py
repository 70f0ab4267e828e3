"""Keeps a busy worker from being taken for dead: a thread tells the queue that it lives."""

import logging
import threading
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from esft.errors import EsftError
from esft.queue import RunQueue

logger = logging.getLogger(__name__)


class Heartbeat:
    """A context manager; a beat that Redis does not answer is left to the next one."""

    def __init__(self, queue: RunQueue, worker: str, *, ttl_milliseconds: int) -> None:
        """Beat four times within the time after which the queue takes the worker for dead."""
        self._queue = queue
        self._worker = worker
        self._ttl_milliseconds = ttl_milliseconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join(timeout=1)

    def _beat(self) -> None:
        while not self._stopped.wait(self._ttl_milliseconds / 4000):
            try:
                self._queue.heartbeat(self._worker, ttl_milliseconds=self._ttl_milliseconds)
            except (EsftError, RedisError) as error:
                logger.warning("heartbeat failed", extra={"reason": str(error)})
