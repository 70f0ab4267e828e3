"""kopf wiring, and nothing else: events of the cluster go into the store, and the run they concern into the queue.

Handlers of events alone: kopf then writes no annotation and no finalizer of its own on anything.
"""

from typing import Any

import kopf

from esft_operator.kinds import RUNS, WATCHED
from esft_operator.names import GROUP, MANAGED_BY, MANAGED_BY_LABEL
from esft_operator.service import Service


def register(service: Service) -> kopf.OperatorRegistry:
    """A registry with every handler; they call the service."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login)

    @kopf.on.startup(registry=registry, id="start")
    async def start(**_: Any) -> None:
        service.start()

    @kopf.on.cleanup(registry=registry, id="stop")
    async def stop(**_: Any) -> None:
        await service.stop()

    @kopf.on.probe(registry=registry, id="reconciling", errors=kopf.ErrorsMode.PERMANENT)
    async def probe(**_: Any) -> str:
        problem = service.problem()
        if problem is not None:
            raise kopf.PermanentError(problem)
        return "ok"

    @kopf.on.event(RUNS.api_version, RUNS.plural, registry=registry, id="resource")
    async def resource(event: kopf.RawEvent, **_: Any) -> None:
        service.saw_resource(event["type"], event["object"])

    async def child(event: kopf.RawEvent, **_: Any) -> None:
        service.saw_child(event["type"], event["object"])

    for kind in WATCHED:
        kopf.on.event(kind.api_version, kind.plural, registry=registry, id="child")(child)
    return registry


def kopf_settings() -> kopf.OperatorSettings:
    """How kopf is to watch: only what is ours, from streams that are given up when nothing comes."""
    settings = kopf.OperatorSettings()
    for kind in WATCHED:
        settings.watching.label_selectors[kind.api_version, kind.plural] = f"{MANAGED_BY_LABEL}={MANAGED_BY}"
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
