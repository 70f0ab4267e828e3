"""Carries out what a plan asks for, one action at a time; each may be repeated without harm.

A child is never taken over: before the first apply it is looked at, and what has another owner stays untouched.
"""

import logging
from datetime import UTC, datetime

from esft.errors import EsftError, QueueUnavailableError
from esft.status.clock import timestamp
from esft_operator.clients.cluster import AlreadyExistsError, Cluster, ClusterError
from esft_operator.clients.credentials import run_url
from esft_operator.clients.redis_endpoint import Endpoint
from esft_operator.decide import build
from esft_operator.decide.actions import (
    Action,
    AddFinalizer,
    Apply,
    DeleteJob,
    DeleteResource,
    Event,
    FinishRun,
    GrantAccess,
    RemoveFinalizer,
    RemoveFromRedis,
    ReopenRun,
    SetPolicy,
)
from esft_operator.kinds import EVENTS, JOBS, RUNS, kind_of
from esft_operator.names import FIELD_MANAGER, FINALIZER
from esft_operator.observe.children import owner_of
from esft_operator.observe.situation import Resource
from esft_operator.resource import Manifest, Run
from esft_operator.settings import OperatorSettings

logger = logging.getLogger(__name__)


class ForeignChildError(EsftError):
    """An object has the name that a child should have, and another owner."""


class WorkersLeavingError(EsftError):
    """A run cannot be opened again while workers of its end are still registered; they leave by themselves."""


class Executor:
    """What actions are carried out with."""

    def __init__(self, cluster: Cluster, settings: OperatorSettings) -> None:
        self._cluster = cluster
        self._settings = settings

    def execute(
        self, action: Action, *, resource: Resource, run: Run | None, endpoint: Endpoint | None
    ) -> Manifest | None:
        """Carry out one action.

        Returns:
            The resource itself, where the action changed it.

        Raises:
            ClusterError, QueueUnavailableError: for now; the plan will ask again.
            ForeignChildError, WorkersLeavingError: until something else happens.
        """
        match action:
            case AddFinalizer():
                return self._set_finalizer(resource, present=True)
            case RemoveFinalizer():
                self._set_finalizer(resource, present=False)
            case Apply():
                self._apply(action, resource)
            case DeleteJob():
                self._cluster.delete(JOBS, resource.namespace, action.name, uid=action.uid)
            case DeleteResource():
                self._cluster.delete(RUNS, resource.namespace, resource.name, uid=resource.uid)
            case RemoveFromRedis(otherwise=Event() as event):
                try:
                    self._in_redis(action, run, resource, endpoint)
                except EsftError as error:
                    logger.warning("left in Redis", extra={"about": resource.about, "reason": str(error)})
                    self.post(resource, event)
            case _:
                self._in_redis(action, run, resource, endpoint)
        return None

    def _in_redis(
        self,
        action: GrantAccess | RemoveFromRedis | FinishRun | SetPolicy | ReopenRun,
        run: Run | None,
        resource: Resource,
        endpoint: Endpoint | None,
    ) -> None:
        if endpoint is None:
            raise QueueUnavailableError("the URL of the run's Redis cannot be read")
        match action:
            case GrantAccess():
                if run is not None and resource.redis_secret is None:
                    self._grant(run, endpoint)
            case RemoveFromRedis():
                endpoint.remove(resource.uid)
            case FinishRun():
                endpoint.finish(resource.uid, reason=action.reason, message=action.message)
            case SetPolicy():
                endpoint.set_policy(resource.uid, action.policy)
            case ReopenRun():
                if not endpoint.reopen(resource.uid, action.opening):
                    raise WorkersLeavingError("Workers of the finished run are still leaving.")

    def write_status(self, resource: Resource, status: Manifest) -> Manifest:
        """Write the whole status; what is not in it goes."""
        manifest = RUNS.type_meta | {"metadata": resource.about, "status": status}
        return self._cluster.apply(manifest, force=True, subresource="status")

    def post(self, resource: Resource, event: Event) -> None:
        """Post an Event; a lost one is no reason to fail."""
        now, version = timestamp(datetime.now(UTC)), {"resourceVersion": resource.version}
        manifest = EVENTS.type_meta | {
            "metadata": {"generateName": f"{resource.name}.", "namespace": resource.namespace},
            "involvedObject": RUNS.type_meta | resource.about | version,
            "type": "Warning" if event.warning else "Normal",
            "reason": event.reason,
            "message": event.message[:1024],
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": FIELD_MANAGER,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self._cluster.create(manifest)
        except ClusterError as error:
            logger.warning(
                "event lost", extra={"about": resource.about, "reason": event.reason, "error": str(error)}
            )

    def _set_finalizer(self, resource: Resource, *, present: bool) -> Manifest | None:
        """Add or remove our finalizer and leave the others alone; refused when the resource has changed since."""
        now = self._cluster.get(RUNS, resource.namespace, resource.name)
        if now is None or now["metadata"]["uid"] != resource.uid:
            return None
        others = [name for name in now["metadata"].get("finalizers") or () if name != FINALIZER]
        patch = {
            "metadata": {
                "finalizers": [*others, FINALIZER] if present else others,
                "resourceVersion": now["metadata"]["resourceVersion"],
            }
        }
        return self._cluster.merge(RUNS, resource.namespace, resource.name, patch)

    def _apply(self, action: Apply, resource: Resource) -> None:
        manifest, uid = action.manifest, action.owned_uid
        if uid is None:
            metadata = manifest["metadata"]
            found = self._cluster.get(kind_of(manifest), metadata["namespace"], metadata["name"])
            if found is None:
                self._cluster.apply(manifest, force=False)
                return
            if owner_of(found) != resource.uid:
                raise ForeignChildError(_foreign(manifest, found))
            uid = found["metadata"]["uid"]
        pinned = {**manifest, "metadata": {**manifest["metadata"], "uid": uid}}
        self._cluster.apply(pinned, force=True)

    def _grant(self, run: Run, endpoint: Endpoint) -> None:
        endpoint.grant(run.uid)
        url = run_url(endpoint.url, key=self._settings.credentials_key, uid=run.uid)
        try:
            self._cluster.create(build.redis_secret(run, url=url))
        except AlreadyExistsError:
            return  # its name has the run's uid, so it is the run's, and it is immutable


def _foreign(manifest: Manifest, found: Manifest) -> str:
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    references = found["metadata"].get("ownerReferences") or ()
    owners = [f"{owner['kind']} {owner['name']}" for owner in references]
    if "deletionTimestamp" in found["metadata"] or RUNS.name in " ".join(owners):
        return f"{kind} {name} of a run before this one has not gone yet; this run begins when it has."
    owner = f"belongs to {owners[0]}" if owners else "belongs to nobody"
    return (
        f"{kind} {name} exists and {owner}, so it is left alone. "
        f"Fix: delete or rename it, or give the run another name."
    )
