"""kopf wiring, and nothing else: events of the cluster go into the store, and the run they concern into the queue.

Handlers of events alone: kopf then writes no annotation and no finalizer of its own on anything.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import kopf

from esft_operator.names import GROUP, MANAGED_BY, MANAGED_BY_LABEL, PLURAL, VERSION
from esft_operator.service import Service

_CHILDREN: Final = (
    ("batch", "v1", "jobs"),
    ("v1", "pods"),
    ("v1", "configmaps"),
    ("v1", "persistentvolumeclaims"),
)
_SELECTOR: Final = f"{MANAGED_BY_LABEL}={MANAGED_BY}"

Handler = Callable[..., Awaitable[None]]


def register(service: Service) -> kopf.OperatorRegistry:
    """A registry with every handler; they call the service."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login)
    kopf.on.startup(registry=registry, id="start")(_start(service))
    kopf.on.cleanup(registry=registry, id="stop")(_stop(service))
    kopf.on.probe(registry=registry, id="reconciling", errors=kopf.ErrorsMode.PERMANENT)(_probe(service))
    kopf.on.event(GROUP, VERSION, PLURAL, registry=registry, id="resource")(_resource(service))
    for child in _CHILDREN:
        kopf.on.event(*child, registry=registry, id="child")(_child(service))
    return registry


def kopf_settings() -> kopf.OperatorSettings:
    """How kopf is to watch: only what is ours, from streams that are given up when nothing comes."""
    settings = kopf.OperatorSettings()
    for child in _CHILDREN:
        settings.watching.label_selectors[child] = _SELECTOR
    settings.watching.server_timeout = 300
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 75
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = (1, 2, 4, 8)
    settings.queueing.error_delays = (1, 2, 4, 8, 16, 30)
    settings.scanning.disabled = True  # its permissions (namespaces, CRDs) are not needed
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.persistence.finalizer = f"{GROUP}/kopf"  # never set, and not ours, which kopf would take away
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    return settings


def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)


def _start(service: Service) -> Handler:
    async def start(**_: Any) -> None:
        service.start()

    return start


def _stop(service: Service) -> Handler:
    async def stop(**_: Any) -> None:
        await service.stop()

    return stop


def _probe(service: Service) -> Callable[..., Awaitable[str]]:
    async def probe(**_: Any) -> str:
        problem = service.problem()
        if problem is not None:
            raise kopf.PermanentError(problem)
        return "ok"

    return probe


def _resource(service: Service) -> Handler:
    async def resource(event: kopf.RawEvent, **_: Any) -> None:
        service.saw_resource(event["type"], event["object"])

    return resource


def _child(service: Service) -> Handler:
    async def child(event: kopf.RawEvent, **_: Any) -> None:
        service.saw_child(event["type"], event["object"])

    return child
