"""Gathers the situation of a run: from the store, from Redis, and every now and then from the API server itself.

It keeps nothing that a restart would miss: a first look at a run makes sure of everything.
"""

import base64
import binascii
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from esft.errors import SpecError
from esft.status import words
from esft.status.ledger import Ledger
from esft.status.report import Reason
from esft_operator.clients.cluster import Cluster, ForbiddenError
from esft_operator.clients.redis_endpoint import Endpoint
from esft_operator.kinds import (
    CONFIG_MAPS,
    JOBS,
    POD_MONITORS,
    PODS,
    RUNS,
    SCALED_OBJECTS,
    SECRETS,
    VOLUME_CLAIMS,
)
from esft_operator.names import Key, config_map_name, selector, volume_claim_name, workers_name
from esft_operator.observe.progress import Follower
from esft_operator.observe.situation import Progress, Resource, Situation
from esft_operator.observe.store import Store
from esft_operator.resource import Run
from esft_operator.settings import OperatorSettings

_KINDS_SECONDS: Final = 300.0  # how long it is believed which kinds the API server serves
_NEVER: Final = float("-inf")


@dataclass(slots=True)
class _Memory:
    """What is remembered of a run between two looks at it."""

    uid: str
    spec_generation: int = -1
    refreshed_at: float = _NEVER
    endpoint: Endpoint | None = None
    problem: Reason | None = None
    was_away: bool = False


@dataclass(frozen=True, slots=True)
class Gathered:
    """A run's situation, and the Redis that it is in; None where that cannot be known."""

    situation: Situation
    endpoint: Endpoint | None


class Gatherer:
    """Knows where everything in a situation comes from; `clock` tells the time."""

    def __init__(
        self,
        settings: OperatorSettings,
        *,
        cluster: Cluster,
        store: Store,
        follower: Follower,
        clock: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._store = store
        self._follower = follower
        self._clock = clock
        self._operator_redis = Endpoint(settings.redis_url, credentials_key=settings.credentials_key)
        self._user_redis: dict[str, Endpoint] = {}
        self._memories: dict[Key, _Memory] = {}
        self._kinds = (False, False)
        self._kinds_asked_at = _NEVER

    def gather(self, key: Key) -> Gathered | None:
        """The situation of a run; None when there is no such run any more.

        Raises:
            ClusterError: what had to be read from the API server could not be.
        """
        body = self._store.resource(key)
        if body is None:
            return None
        resource = Resource.of(body)
        memory = self._memory(key, resource)
        refresh = self._is_due(memory, resource)
        if refresh:
            body = self._refresh(key, resource)
            if body is None:
                return None
            resource = Resource.of(body)
        if refresh or memory.endpoint is None:
            memory.endpoint, memory.problem = self._endpoint(resource)
        run, spec_error = _parsed(body)
        pod_monitors, scaled_objects = self._optional_kinds()
        situation = Situation(
            resource=resource,
            run=run,
            spec_error=spec_error,
            observed=self._store.observed(key, resource.uid),
            progress=self._progress(key, resource, memory),
            defaults=self._settings.workers,
            now=self._clock(),
            refresh=refresh,
            has_pod_monitors=pod_monitors,
            has_scaled_objects=scaled_objects,
        )
        return Gathered(situation, memory.endpoint)

    def settled(self, key: Key, situation: Situation) -> bool:
        """What was planned has been done; whether it is to be looked at again at once.

        A Redis that was away and answers again may have forgotten the run's user, so that is made sure of.
        """
        memory = self._memories.get(key)
        if memory is None:  # the resource has gone meanwhile
            return False
        if situation.refresh:
            memory.refreshed_at, memory.spec_generation = time.monotonic(), situation.resource.generation
        was_away, memory.was_away = memory.was_away, situation.progress.problem is not None
        if was_away and not memory.was_away:
            self.doubt(key)
            return True
        return False

    def doubt(self, key: Key) -> None:
        """Make sure of everything at the next look."""
        memory = self._memories.get(key)
        if memory is not None:
            memory.refreshed_at = _NEVER

    def forget(self, key: Key) -> None:
        """A resource is gone."""
        self._memories.pop(key, None)
        self._follower.forget(key)

    def _memory(self, key: Key, resource: Resource) -> _Memory:
        memory = self._memories.get(key)
        if memory is None or memory.uid != resource.uid:
            memory = self._memories[key] = _Memory(resource.uid)
        return memory

    def _is_due(self, memory: _Memory, resource: Resource) -> bool:
        """Whether to make sure of everything: at first, when the specification changed, and every now and then."""
        age = time.monotonic() - memory.refreshed_at
        return age >= self._settings.resync_seconds or memory.spec_generation != resource.generation

    def _refresh(self, key: Key, resource: Resource) -> Mapping[str, Any] | None:
        """Read a run and its children from the API server itself; None when it is gone, or is another by now."""
        namespace, name = key
        body = self._cluster.get(RUNS, namespace, name)
        if body is None or body["metadata"]["uid"] != resource.uid:
            self._store.drop_resource(key, resource.uid)
            if body is not None:
                self._store.put_resource(body)
            return None
        self._store.put_resource(body)
        children = self._cluster.list(PODS, namespace, selector=selector(name, resource.uid))
        for kind, child_name in (
            (JOBS, workers_name(name)),
            (CONFIG_MAPS, config_map_name(name)),
            (VOLUME_CLAIMS, volume_claim_name(name)),
        ):
            child = self._cluster.get(kind, namespace, child_name)
            children += [] if child is None else [child]
        self._store.put_children(key, resource.uid, children)
        return self._store.resource(key)

    def _progress(self, key: Key, resource: Resource, memory: _Memory) -> Progress:
        """What Redis says of a live run; of one that is over its status says all."""
        start = Ledger.from_status(resource.status)
        if memory.endpoint is None:
            return Progress(problem=memory.problem, ledger=start)
        if resource.status.end is not None or resource.deleted_at is not None or not resource.is_ours:
            self._follower.forget(key)
            return Progress(ledger=start)
        return self._follower.follow(key, resource.uid, memory.endpoint, start=start)

    def _endpoint(self, resource: Resource) -> tuple[Endpoint | None, Reason | None]:
        """The run's Redis, or why it cannot be reached."""
        if resource.redis_secret is None:
            return self._operator_redis, None
        name, key = resource.redis_secret
        secret = f"Secret {resource.namespace}/{name}"
        try:
            data = (self._cluster.get(SECRETS, resource.namespace, name) or {}).get("data") or {}
            url = base64.b64decode(data[key], validate=True).decode().strip()
        except KeyError:
            problem = f"{secret} has no key {key}. Fix: create it with the URL."
        except ForbiddenError:
            problem = (
                f"the operator may not read {secret}, so progress cannot be shown. "
                "Fix: let its service account `get` that one Secret (rbac.readableSecrets in the chart)."
            )
        except (binascii.Error, UnicodeDecodeError):
            problem = f"key {key} of {secret} is not text. Fix: store the URL as text."
        else:
            return self._user_redis.setdefault(url, Endpoint(url, credentials_key=None)), None
        return None, (words.REDIS_UNAVAILABLE, f"spec.redis.urlSecretRef: {problem}")

    def _optional_kinds(self) -> tuple[bool, bool]:
        """Whether the API server serves PodMonitors and ScaledObjects."""
        if time.monotonic() - self._kinds_asked_at > _KINDS_SECONDS:
            self._kinds = (self._cluster.serves(POD_MONITORS), self._cluster.serves(SCALED_OBJECTS))
            self._kinds_asked_at = time.monotonic()
        return self._kinds


def _parsed(body: Mapping[str, Any]) -> tuple[Run | None, str | None]:
    try:
        return Run.from_body(body), None
    except SpecError as error:
        return None, str(error)
