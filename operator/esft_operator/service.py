"""The running operator: store, queue, follower and reconciler tied together on one event loop.

The event loop only moves keys about; whatever talks to the API server or to Redis does so in a few threads.
"""

import asyncio
import logging
import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from esft_operator.clients.cluster import Cluster
from esft_operator.metrics import OperatorMetrics
from esft_operator.names import Key
from esft_operator.observe.progress import Follower
from esft_operator.observe.store import Store, key_of
from esft_operator.reconciler import Reconciler
from esft_operator.settings import OperatorSettings
from esft_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

_CONCURRENCY: Final = 16
_TOO_OLD_FACTOR: Final = 3.0
_TOO_OLD_SECONDS: Final = 60.0


class Service:
    """Everything between kopf's events and the reconciler; methods belong to the event loop."""

    def __init__(self, settings: OperatorSettings, *, cluster: Cluster, metrics: OperatorMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._store = Store()
        self._follower = Follower(metrics, notify=self._news, poll_seconds=settings.poll_seconds)
        self._reconciler = Reconciler(
            settings, cluster=cluster, store=self._store, follower=self._follower, metrics=metrics
        )
        self._threads = ThreadPoolExecutor(_CONCURRENCY, thread_name_prefix="reconcile")
        self._queue = WorkQueue(self._process, concurrency=_CONCURRENCY)
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done_at = 0.0

    def start(self) -> None:
        """Begin to reconcile."""
        self._loop = asyncio.get_running_loop()
        self._done_at = self._loop.time()
        self._tasks = [
            asyncio.create_task(work, name=name)
            for name, work in (("queue", self._queue.run()), ("follower", self._follower.run()))
        ]

    async def stop(self) -> None:
        """Stop; what was under way is left to the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def saw_resource(self, event: str | None, body: Mapping[str, Any]) -> None:
        """A watch told of a resource."""
        key = key_of(body)
        if event == "DELETED":
            if self._store.drop_resource(key, body["metadata"]["uid"]):
                self._queue.forget(key)
                self._reconciler.forget(key)
        elif self._store.put_resource(body):
            self._queue.add(key)

    def saw_child(self, event: str | None, body: Mapping[str, Any]) -> None:
        """A watch told of a Job, a pod, a ConfigMap or a PersistentVolumeClaim."""
        key = self._store.saw_child(event, body)
        if key is not None and self._store.resource(key) is not None:
            self._queue.add(key)

    def problem(self) -> str | None:
        """Why this process should be started again; None when all is well."""
        loop = asyncio.get_running_loop()
        for task in self._tasks:
            if task.done():
                return f"the task {task.get_name()} has ended"
        limit = _TOO_OLD_FACTOR * self._settings.resync_seconds + _TOO_OLD_SECONDS
        age = loop.time() - self._done_at
        if self._store.keys() and age > limit:
            return f"nothing was reconciled for {age:.0f} s"
        return None

    async def _process(self, key: Key) -> float | None:
        """Reconcile one run, and see that it comes again at the latest with the next resync."""
        self._metrics.queued.set(self._queue.length)
        loop = asyncio.get_running_loop()
        try:
            again = await loop.run_in_executor(self._threads, self._reconciler.reconcile, key)
        finally:
            self._done_at = loop.time()  # a failure is no standstill: a restart would not mend it
        if self._store.resource(key) is None:
            return None
        resync = self._settings.resync_seconds * random.uniform(0.9, 1.0)
        return resync if again is None else min(again, resync)

    def _news(self, key: Key) -> None:
        """The follower, in a thread, saw something new."""
        self._reconciler.note_news(key)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._queue.add, key)
