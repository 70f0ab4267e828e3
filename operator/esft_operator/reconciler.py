"""Reconciles one run: gathers what is known, asks the plan, carries it out, and writes down what people should see.

Called by the work queue in a thread, for one run at a time. It keeps nothing that a restart would miss: a first look
at a run makes sure of everything from the API server itself.
"""

import base64
import binascii
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from esft.errors import EsftError, QueueUnavailableError, SpecError
from esft_operator.actions import RemoveFinalizer
from esft_operator.cluster import (
    CONFIG_MAPS,
    JOBS,
    POD_MONITORS,
    PODS,
    RUNS,
    SCALED_OBJECTS,
    SECRETS,
    VOLUME_CLAIMS,
    Cluster,
    ClusterError,
    ForbiddenError,
    InvalidError,
)
from esft_operator.endpoint import Endpoint
from esft_operator.execute import Executor, ForeignChildError
from esft_operator.ledger import Ledger
from esft_operator.metrics import OperatorMetrics
from esft_operator.names import config_map_name, job_name, selector, volume_claim_name
from esft_operator.outcome import is_recorded_end
from esft_operator.plan import Plan, plan
from esft_operator.progress import Follower
from esft_operator.resource import Manifest, Run
from esft_operator.settings import OperatorSettings
from esft_operator.situation import Failure, Progress, Resource, Situation
from esft_operator.store import Store

logger = logging.getLogger(__name__)

Key = tuple[str, str]

_KINDS_SECONDS: Final = 300.0  # how long it is believed which kinds the API server serves
_DELETION_RETRY_SECONDS: Final = 2.0  # short, since a deletion has a deadline
_NOW_SECONDS: Final = 0.1
_PASSING_TRIES: Final = 3  # failures of a passing kind before people hear of them


@dataclass(slots=True)
class _Memory:
    """What is remembered of a run between two reconciliations; a restart may lose it."""

    uid: str
    spec_generation: int = -1
    refreshed_at: float = float("-inf")
    failures: int = 0
    news_at: float | None = None
    endpoint: Endpoint | None = None
    problem: str | None = None
    was_away: bool = False


class Reconciler:
    """Brings every run to where it should be."""

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
        """Put the parts together; `clock` tells the time."""
        self._settings = settings
        self._cluster = cluster
        self._store = store
        self._follower = follower
        self._metrics = metrics
        self._clock = clock
        self._executor = Executor(cluster, settings)
        self._own_redis = Endpoint(settings.redis_url, credentials_key=settings.credentials_key)
        self._other_redis: dict[str, Endpoint] = {}
        self._memories: dict[Key, _Memory] = {}
        self._kinds = (False, False)
        self._kinds_asked_at = float("-inf")

    def note_news(self, key: Key) -> None:
        """Note when something new was seen of a run, to measure how late its status is."""
        memory = self._memories.get(key)
        if memory is not None and memory.news_at is None:
            memory.news_at = time.monotonic()

    def forget(self, key: Key) -> None:
        """A resource is gone: drop all that is known of it."""
        self._memories.pop(key, None)
        self._follower.forget(key)
        self._metrics.forget(key)

    def reconcile(self, key: Key) -> float | None:
        """Reconcile one run.

        Returns:
            After how many seconds time alone will change something; None when it will not.

        Raises:
            EsftError: something did not go through; it is to be tried again.
        """
        with self._metrics.reconciling():
            return self._reconcile(key)

    def _reconcile(self, key: Key) -> float | None:
        body = self._store.resource(key)
        if body is None:
            return None
        resource = Resource.of(body)
        memory = self._memory(key, resource)
        news_at, memory.news_at = memory.news_at, None
        refresh = self._is_due(memory, resource)
        if refresh:
            found = self._refresh(key, resource)
            if found is None:
                return None
            resource = found
        run, spec_error = _parsed(self._store.resource(key) or body)
        if refresh or memory.endpoint is None:
            memory.endpoint, memory.problem = self._endpoint(resource)
        endpoint, problem = memory.endpoint, memory.problem
        situation = self._situation(key, resource, run, spec_error, endpoint, problem, refresh=refresh)
        decided = plan(situation)
        error = self._carry_out(key, decided, resource, run, endpoint)
        if error is not None:
            memory.failures += 1
            memory.refreshed_at = float("-inf")
            if not _is_passing(error) or memory.failures >= _PASSING_TRIES:
                decided = plan(replace(situation, failure=_failure_of(error)))
        else:
            memory.failures = 0
            if refresh:
                memory.refreshed_at, memory.spec_generation = time.monotonic(), resource.generation
        self._tell(key, decided, resource)
        if news_at is not None and decided.status is not None:
            self._metrics.lagged(time.monotonic() - news_at)
        if error is not None and resource.deleted_at is None:
            raise error
        if self._is_back(memory, situation.progress):
            return _NOW_SECONDS
        return _DELETION_RETRY_SECONDS if error is not None else self._seconds_until(decided)

    def _situation(
        self,
        key: Key,
        resource: Resource,
        run: Run | None,
        spec_error: str | None,
        endpoint: Endpoint | None,
        problem: str | None,
        *,
        refresh: bool,
    ) -> Situation:
        pod_monitors, scaled_objects = self._optional_kinds()
        return Situation(
            resource=resource,
            run=run,
            spec_error=spec_error,
            observed=self._store.observed(key, resource.uid),
            progress=self._progress(key, resource, endpoint, problem),
            defaults=self._settings.workers,
            now=self._clock(),
            refresh=refresh,
            has_pod_monitors=pod_monitors,
            has_scaled_objects=scaled_objects,
        )

    def _carry_out(
        self, key: Key, decided: Plan, resource: Resource, run: Run | None, endpoint: Endpoint | None
    ) -> EsftError | None:
        """Execute the actions in order; the error that ended it early."""
        for action in decided.actions:
            try:
                changed = self._executor.execute(action, resource=resource, run=run, endpoint=endpoint)
            except EsftError as error:
                return error
            logger.info(
                type(action).__name__,
                extra={"about": resource.about},
            )
            if changed is not None:
                self._store.put_resource(changed)
            if isinstance(action, RemoveFinalizer):
                self._follower.forget(key)
        return None

    def _tell(self, key: Key, decided: Plan, resource: Resource) -> None:
        """Write the status where it differs, and post the events of what has turned."""
        status = decided.status
        if status is not None:
            if status != resource.status:
                written = self._executor.write_status(
                    resource, status.model_dump(mode="json", by_alias=True, exclude_none=True)
                )
                self._store.put_resource(written)
            self._metrics.wrote(key, status)
            self._follower.note_workers(key, 0 if status.workers is None else status.workers.desired)
        for event in decided.events:
            self._executor.post(resource, event)

    def _progress(
        self, key: Key, resource: Resource, endpoint: Endpoint | None, problem: str | None
    ) -> Progress:
        """What Redis says of a live run; of one that is over its status says all."""
        start = Ledger.from_status(resource.status)
        if endpoint is None:
            return Progress(problem=problem, ledger=start)
        if is_recorded_end(resource.status) or resource.deleted_at is not None or not resource.is_ours:
            self._follower.forget(key)
            return Progress(ledger=start)
        followed = self._follower.progress(key, resource.uid)
        if followed is None:
            self._follower.follow(key, resource.uid, endpoint, start=start)
        return followed or Progress(ledger=start)

    def _endpoint(self, resource: Resource) -> tuple[Endpoint | None, str | None]:
        """The run's Redis, or why it cannot be reached."""
        if resource.redis_secret is None:
            return self._own_redis, None
        name, key = resource.redis_secret
        place = f"Secret {resource.namespace}/{name}"
        try:
            secret = self._cluster.get(SECRETS, resource.namespace, name)
            if secret is None or key not in (secret.get("data") or {}):
                return (
                    None,
                    f"spec.redis.urlSecretRef: {place} has no key {key}. Fix: create it with the URL.",
                )
            url = base64.b64decode(secret["data"][key], validate=True).decode().strip()
        except ForbiddenError:
            return None, (
                f"spec.redis.urlSecretRef: the operator may not read {place}, so progress cannot be shown. "
                "Fix: let its service account `get` that one Secret (rbac.readableSecrets in the chart)."
            )
        except (binascii.Error, UnicodeDecodeError):
            return (
                None,
                f"spec.redis.urlSecretRef: key {key} of {place} is not text. Fix: store the URL as text.",
            )
        return self._other_redis.setdefault(url, Endpoint(url, credentials_key=None)), None

    def _refresh(self, key: Key, resource: Resource) -> Resource | None:
        """Read a run and its children from the API server itself; None when it is gone."""
        namespace, name = key
        body = self._cluster.get(RUNS, namespace, name)
        if body is None or body["metadata"]["uid"] != resource.uid:
            if self._store.drop_resource(key, resource.uid):
                self.forget(key)
            if body is not None:
                self._store.put_resource(body)
            return None
        self._store.put_resource(body)
        children: list[Manifest] = self._cluster.list(PODS, namespace, selector=selector(name, resource.uid))
        for kind, child in (
            (JOBS, job_name(name)),
            (CONFIG_MAPS, config_map_name(name)),
            (VOLUME_CLAIMS, volume_claim_name(name)),
        ):
            found = self._cluster.get(kind, namespace, child)
            if found is not None:
                children.append(found)
        self._store.put_children(key, resource.uid, children)
        return Resource.of(self._store.resource(key) or body)

    def _optional_kinds(self) -> tuple[bool, bool]:
        """Whether the API server serves PodMonitors and ScaledObjects."""
        if time.monotonic() - self._kinds_asked_at > _KINDS_SECONDS:
            self._kinds = (self._cluster.serves(POD_MONITORS), self._cluster.serves(SCALED_OBJECTS))
            self._kinds_asked_at = time.monotonic()
        return self._kinds

    def _memory(self, key: Key, resource: Resource) -> _Memory:
        memory = self._memories.get(key)
        if memory is None or memory.uid != resource.uid:
            if memory is not None:
                self.forget(key)
            memory = self._memories[key] = _Memory(resource.uid)
        return memory

    def _is_due(self, memory: _Memory, resource: Resource) -> bool:
        """Whether to make sure of everything: at first, when the specification changed, and every now and then."""
        age = time.monotonic() - memory.refreshed_at
        return age >= self._settings.resync_seconds or memory.spec_generation != resource.generation

    def _is_back(self, memory: _Memory, progress: Progress) -> bool:
        """Whether Redis was away and answers again: it may have forgotten the run's user, so that is made sure of."""
        was_away, memory.was_away = memory.was_away, progress.problem is not None
        if not was_away or memory.was_away:
            return False
        memory.refreshed_at = float("-inf")
        return True

    def _seconds_until(self, decided: Plan) -> float | None:
        if decided.again_at is None:
            return None
        return max(0.1, (decided.again_at - self._clock()).total_seconds())


def _parsed(body: Mapping[str, Any]) -> tuple[Run | None, str | None]:
    try:
        return Run.from_body(body), None
    except SpecError as error:
        return None, str(error)


def _is_passing(error: EsftError) -> bool:
    """Whether it will likely be over before anyone could do something about it."""
    if isinstance(error, QueueUnavailableError):
        return False  # the condition is for that
    return isinstance(error, ClusterError) and not isinstance(error, InvalidError | ForbiddenError)


def _failure_of(error: EsftError) -> Failure:
    reasons: dict[type[EsftError], str] = {
        ForeignChildError: "ChildConflict",
        InvalidError: "ChildRefused",
        ForbiddenError: "Forbidden",
        QueueUnavailableError: "RedisUnavailable",
    }
    return Failure(reasons.get(type(error), "ReconcileFailed"), str(error))
