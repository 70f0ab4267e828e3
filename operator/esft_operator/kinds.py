"""The kinds of objects that the operator makes, reads or watches, so that manifests and requests cannot disagree."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from esft.spec import API_VERSION, KIND


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of namespaced object and where the API server keeps it."""

    name: str
    api_version: str
    plural: str

    @property
    def type_meta(self) -> dict[str, str]:
        """What a manifest of the kind, or a reference to such an object, begins with."""
        return {"apiVersion": self.api_version, "kind": self.name}

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """URL path of an object, or of all of them in a namespace or (None) the cluster."""
        prefix = "/api" if "/" not in self.api_version else "/apis"
        segments = [prefix, self.api_version]
        if namespace is not None:
            segments += ["namespaces", quote(namespace)]
        segments += [self.plural, *(quote(segment) for segment in (name, subresource) if segment is not None)]
        return "/".join(segments)


RUNS: Final = Kind(KIND, API_VERSION, "esfinetunes")
JOBS: Final = Kind("Job", "batch/v1", "jobs")
PODS: Final = Kind("Pod", "v1", "pods")
CONFIG_MAPS: Final = Kind("ConfigMap", "v1", "configmaps")
VOLUME_CLAIMS: Final = Kind("PersistentVolumeClaim", "v1", "persistentvolumeclaims")
SECRETS: Final = Kind("Secret", "v1", "secrets")
EVENTS: Final = Kind("Event", "v1", "events")
POD_MONITORS: Final = Kind("PodMonitor", "monitoring.coreos.com/v1", "podmonitors")
SCALED_OBJECTS: Final = Kind("ScaledObject", "keda.sh/v1alpha1", "scaledobjects")
TRIGGER_AUTHENTICATIONS: Final = Kind("TriggerAuthentication", "keda.sh/v1alpha1", "triggerauthentications")

WATCHED: Final = (JOBS, PODS, CONFIG_MAPS, VOLUME_CLAIMS)  # children whose changes the operator acts on
_ALL: Final = (
    *(RUNS, SECRETS, EVENTS, POD_MONITORS, SCALED_OBJECTS, TRIGGER_AUTHENTICATIONS),
    *WATCHED,
)


def kind_of(manifest: Mapping[str, Any]) -> Kind:
    """The kind of a manifest."""
    return next(kind for kind in _ALL if kind.name == manifest["kind"])
