"""Reconciles one run: gathers what is known, asks the plan, carries it out, and writes down what people should see.

Called by the work queue in a thread, for one run at a time.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from esft.errors import EsftError, QueueUnavailableError
from esft.status import words
from esft.status.report import Reason
from esft_operator.clients.cluster import Cluster, ClusterError, ForbiddenError, InvalidError
from esft_operator.decide.actions import RemoveFinalizer, ReopenRun
from esft_operator.decide.plan import Plan, plan
from esft_operator.execute import Executor, ForeignChildError, WorkersLeavingError
from esft_operator.metrics import OperatorMetrics
from esft_operator.names import Key
from esft_operator.observe.gather import Gathered, Gatherer
from esft_operator.observe.progress import Follower
from esft_operator.observe.situation import Resource
from esft_operator.observe.store import Store
from esft_operator.settings import OperatorSettings

logger = logging.getLogger(__name__)

_DELETION_RETRY_SECONDS: Final = 2.0  # short, since a deletion has a deadline
_NOW_SECONDS: Final = 0.1
_PASSING_TRIES: Final = 3  # failures of a passing kind before people hear of them


class Reconciler:
    """Brings every run to where it should be; `clock` tells the time."""

    def __init__(
        self,
        settings: OperatorSettings,
        *,
        cluster: Cluster,
        store: Store,
        follower: Follower,
        metrics: OperatorMetrics,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._follower = follower
        self._metrics = metrics
        self._clock = clock
        self._gatherer = Gatherer(settings, cluster=cluster, store=store, follower=follower, clock=clock)
        self._executor = Executor(cluster, settings)
        self._failures: dict[Key, int] = {}
        self._news: dict[Key, float] = {}

    def note_news(self, key: Key) -> None:
        """Note when something new was seen of a run, to measure how late its status is."""
        self._news.setdefault(key, time.monotonic())

    def forget(self, key: Key) -> None:
        """A resource is gone: drop all that is known of it."""
        self._gatherer.forget(key)
        self._metrics.forget(key)
        self._failures.pop(key, None)
        self._news.pop(key, None)

    def reconcile(self, key: Key) -> float | None:
        """Reconcile one run.

        Returns:
            After how many seconds time alone will change something; None when it will not.

        Raises:
            EsftError: something did not go through; it is to be tried again.
        """
        with self._metrics.reconciling():
            news_at = self._news.pop(key, None)
            gathered = self._gatherer.gather(key)
            if gathered is None:
                if self._store.resource(key) is None:
                    self.forget(key)
                return _NOW_SECONDS
            decided, error = self._act(key, gathered)
            self._tell(key, decided, gathered.situation.resource)
            if news_at is not None and decided.status is not None:
                self._metrics.lagged(time.monotonic() - news_at)
            if error is None:
                return self._again(key, gathered, decided)
            if gathered.situation.resource.deleted_at is not None:
                return _DELETION_RETRY_SECONDS
            raise error

    def _act(self, key: Key, gathered: Gathered) -> tuple[Plan, EsftError | None]:
        """Plan and carry out; what was planned, with what people should know of the error that ended it early."""
        situation = gathered.situation
        decided = plan(situation)
        error = self._carry_out(key, decided, gathered)
        if error is None:
            self._failures.pop(key, None)
            return decided, None
        self._gatherer.doubt(key)
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        if _is_worth_telling(error, failures):
            decided = plan(replace(situation, failure=_failure_of(error)))
        return decided, error

    def _carry_out(self, key: Key, decided: Plan, gathered: Gathered) -> EsftError | None:
        """Execute the actions in order; the error that ended it early."""
        resource, run = gathered.situation.resource, gathered.situation.run
        for action in decided.actions:
            try:
                changed = self._executor.execute(
                    action, resource=resource, run=run, endpoint=gathered.endpoint
                )
            except EsftError as error:
                return error
            logger.info(str(action), extra={"about": resource.about})
            if changed is not None:
                self._store.put_resource(changed)
            if isinstance(action, RemoveFinalizer | ReopenRun):  # what was seen of it holds no more
                self._follower.forget(key)
        return None

    def _tell(self, key: Key, decided: Plan, resource: Resource) -> None:
        """Write the status where it differs, and post the events of what has turned."""
        status = decided.status
        if status is not None:
            if status != resource.status:
                written = self._executor.write_status(resource, status.as_dict())
                self._store.put_resource(written)
            self._metrics.wrote(key, status)
            self._follower.note_workers(key, 0 if status.workers is None else status.workers.desired)
        for event in decided.events:
            self._executor.post(resource, event)

    def _again(self, key: Key, gathered: Gathered, decided: Plan) -> float | None:
        if self._gatherer.settled(key, gathered.situation):
            return _NOW_SECONDS
        if decided.again_at is None:
            return None
        return max(_NOW_SECONDS, (decided.again_at - self._clock()).total_seconds())


def _is_worth_telling(error: EsftError, failures: int) -> bool:
    """Whether people should hear of it: not of what will likely be over before anyone could do something about it."""
    if isinstance(error, WorkersLeavingError):
        return False
    is_passing = isinstance(error, ClusterError) and not isinstance(error, InvalidError | ForbiddenError)
    return not is_passing or failures >= _PASSING_TRIES


def _failure_of(error: EsftError) -> Reason:
    reasons: dict[type[EsftError], str] = {
        ForeignChildError: "ChildConflict",
        InvalidError: "ChildRefused",
        ForbiddenError: "Forbidden",
        QueueUnavailableError: words.REDIS_UNAVAILABLE,
    }
    return reasons.get(type(error), "ReconcileFailed"), str(error)
