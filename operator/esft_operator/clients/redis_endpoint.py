"""One Redis as the operator uses it: looks at many runs in one round trip, lets each in, and ends each.

A Redis that is away is not waited for: the next look comes by itself, and what has to be done is planned again.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import redis

from esft.errors import QueueUnavailableError, RunNotFoundError, UnreadableRunError, VersionError
from esft.policy import Policy
from esft.queue import (
    Observation,
    Opening,
    ReopenStatus,
    RunQueue,
    connect,
    define_user,
    observe,
    remove_user,
)
from esft.status.words import FAILED
from esft_operator.clients.credentials import run_password
from esft_operator.names import redis_user

_PATIENCE_SECONDS: Final = 1.0
_FINISHED_KEYS_SECONDS: Final = 7 * 24 * 3600

Seen = Observation | UnreadableRunError | VersionError | None
_Result = TypeVar("_Result")


class Endpoint:
    """A Redis; safe to share between threads.

    Args:
        url: with the operator's own user, or of a user's own Redis.
        credentials_key: what the passwords of runs are derived from; None where the operator defines no users.

    Methods raise `QueueUnavailableError` when Redis does not answer.
    """

    def __init__(self, url: str, *, credentials_key: str | None) -> None:
        self.url = url
        self._credentials_key = credentials_key
        self._client: redis.Redis | None = None
        self._lock = threading.Lock()

    def observe(self, cursors: Mapping[str, int]) -> dict[str, Seen]:
        """State and new log entries of runs, by uid; None for a run that Redis does not hold."""
        return self._with(lambda client: observe(client, cursors))

    def grant(self, uid: str) -> None:
        """Define the run's user, or make it again what it should be."""
        if self._credentials_key is not None:
            password = run_password(self._credentials_key, uid)
            self._with(lambda client: define_user(client, user=redis_user(uid), password=password, run=uid))

    def remove(self, uid: str) -> None:
        """Remove the run's user and then its keys: whoever was still connected can bring nothing back."""
        if self._credentials_key is not None:
            self._with(lambda client: remove_user(client, user=redis_user(uid)))
        self._with(lambda client: RunQueue(client, uid).delete())

    def finish(self, uid: str, *, reason: str, message: str) -> None:
        """End the run as failed, so that its workers end; nothing where Redis holds no such run."""
        end = {"phase": FAILED, "reason": reason, "message": message}
        self._of_run(uid, lambda queue: queue.finish(**end, ttl_seconds=_FINISHED_KEYS_SECONDS))

    def set_policy(self, uid: str, policy: Policy) -> None:
        """Tell the run its policy; nothing where Redis holds no such run: who creates it brings the policy along."""
        self._of_run(uid, lambda queue: queue.set_policy(policy.to_json(), version=policy.version))

    def reopen(self, uid: str, opening: Opening) -> bool:
        """Open a finished run again; whether new workers may start, which is not while old ones are leaving.

        They may where its keys are gone: the first worker fills Redis from the newest checkpoint.
        """
        return self._of_run(uid, lambda queue: queue.reopen(opening)) is not ReopenStatus.OCCUPIED

    def _of_run(self, uid: str, operation: Callable[[RunQueue], _Result]) -> _Result | None:
        """Do something to a run; None where Redis holds no such run."""

        def attempt(client: redis.Redis) -> _Result | None:
            try:
                return operation(RunQueue(client, uid))
            except RunNotFoundError:
                return None

        return self._with(attempt)

    def _with(self, operation: Callable[[Any], _Result]) -> _Result:
        with self._lock:
            if self._client is None:
                self._client = connect(self.url, patience_seconds=_PATIENCE_SECONDS)
            client = self._client
        try:
            return operation(client)
        except QueueUnavailableError:
            with self._lock:
                self._client = None  # a Service may point to another pod by now
            raise
