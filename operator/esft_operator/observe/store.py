"""The operator's picture of the cluster: the latest of each resource, and of its children what decisions need.

Watches keep it current, and every resync of a run corrects it from the API server itself, since a watch may lose a
deletion. Rejected: kopf's indexes, which have no way to be corrected: an object that vanished while a watch was broken
(410 Gone) stays in them for ever.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from esft_operator.names import INSTANCE_LABEL, RUN_UID_LABEL, Key
from esft_operator.observe.children import Child, ConfigMapView, JobView, Observed, PodView

Body = Mapping[str, Any]

_DELETED: Final = "DELETED"


@dataclass(slots=True)
class _Family:
    """What is known of one run's children."""

    observed: Observed = field(default_factory=Observed)
    pods: dict[str, PodView] = field(default_factory=dict)


class Store:
    """Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._resources: dict[Key, Body] = {}
        self._families: dict[tuple[Key, str], _Family] = {}

    def keys(self) -> list[Key]:
        """All runs that there are."""
        with self._lock:
            return list(self._resources)

    def resource(self, key: Key) -> Body | None:
        """The latest of a resource; None when there is none."""
        with self._lock:
            return self._resources.get(key)

    def put_resource(self, body: Body) -> bool:
        """Take over a resource; whether it is newer than what was known."""
        key = key_of(body)
        with self._lock:
            known = self._resources.get(key)
            if known is not None and _same_or_older(body, known):
                return False
            if known is not None and known["metadata"]["uid"] != body["metadata"]["uid"]:
                self._families.pop((key, known["metadata"]["uid"]), None)
            self._resources[key] = _trimmed(body)
            return True

    def drop_resource(self, key: Key, uid: str) -> bool:
        """Forget a resource that is gone; whether that very one was known."""
        with self._lock:
            known = self._resources.get(key)
            if known is None or known["metadata"]["uid"] != uid:
                return False
            del self._resources[key]
            self._families.pop((key, uid), None)
            return True

    def observed(self, key: Key, uid: str) -> Observed:
        """The children of a run."""
        with self._lock:
            family = self._families.get((key, uid))
            if family is None:
                return Observed()
            return replace(family.observed, pods=tuple(family.pods.values()))

    def saw_child(self, event: str | None, body: Body) -> Key | None:
        """Take over an event of a child; the run whose it is."""
        key, uid = run_of_child(body)
        if key is None:
            return None
        with self._lock:
            family = self._families.setdefault((key, uid), _Family())
            _update(family, body, gone=event == _DELETED)
            known = self._resources.get(key)
            is_orphan = known is None or known["metadata"]["uid"] != uid
            if event == _DELETED and is_orphan and not family.pods:
                self._families.pop((key, uid), None)
        return key

    def put_children(self, key: Key, uid: str, bodies: Iterable[Body]) -> None:
        """Replace all that is known of a run's children by what the API server holds."""
        family = _Family()
        for body in bodies:
            _update(family, body, gone=False)
        with self._lock:
            self._families[key, uid] = family


def run_of_child(body: Body) -> tuple[Key | None, str]:
    """Which run a child belongs to, by its labels: key and uid."""
    metadata = body["metadata"]
    labels = metadata.get("labels") or {}
    name, uid = labels.get(INSTANCE_LABEL), labels.get(RUN_UID_LABEL)
    if not name or not uid:
        return None, ""
    return (metadata["namespace"], name), uid


def _update(family: _Family, body: Body, *, gone: bool) -> None:
    observed, name = family.observed, body["metadata"]["name"]
    match body["kind"]:
        case "Pod" if gone:
            family.pods.pop(name, None)
        case "Pod":
            family.pods[name] = PodView.of(body)
        case "Job":
            family.observed = replace(observed, job=None if gone else JobView.of(body))
        case "ConfigMap":
            family.observed = replace(observed, config_map=None if gone else ConfigMapView.of(body))
        case "PersistentVolumeClaim":
            family.observed = replace(observed, volume_claim=None if gone else Child.of(body))


def key_of(body: Body) -> Key:
    """Which run a resource is."""
    metadata = body["metadata"]
    return metadata["namespace"], metadata["name"]


def _same_or_older(body: Body, known: Body) -> bool:
    """Whether a resource brings nothing new: a watch and the replies to our own writes overtake each other.

    The versions of all resources of a kind are one sequence, so this holds for a successor of the same name, too.
    """
    return int(body["metadata"]["resourceVersion"]) <= int(known["metadata"]["resourceVersion"])


def _trimmed(body: Body) -> Body:
    """Without the bookkeeping of field managers, which is larger than the rest."""
    return {**body, "metadata": {k: v for k, v in body["metadata"].items() if k != "managedFields"}}
