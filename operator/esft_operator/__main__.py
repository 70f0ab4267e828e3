"""The operator process: environment, logs, metrics port; everything else is in `service` and `handlers`."""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping

import kopf
from prometheus_client import CollectorRegistry, start_http_server

from esft import logs
from esft.errors import EXIT_FINISHED, EsftError
from esft_operator.clients.cluster import connect
from esft_operator.handlers import kopf_settings, register
from esft_operator.metrics import OperatorMetrics
from esft_operator.service import Service
from esft_operator.settings import OperatorSettings

logger = logging.getLogger("esft_operator")


def main() -> None:
    """Console script `esft-operator`."""
    sys.exit(run(os.environ))


def run(environment: Mapping[str, str]) -> int:
    """Run until SIGTERM; returns the exit code."""
    logs.configure()
    try:
        settings = OperatorSettings.from_environment(environment)
        cluster = connect()
    except EsftError as error:
        logger.error(str(error))  # noqa: TRY400 - the message is the whole story
        return error.exit_code
    registry = CollectorRegistry()
    metrics = OperatorMetrics(registry)
    cluster.observe = metrics.requested
    if settings.metrics_port:
        start_http_server(settings.metrics_port, registry=registry)
    service = Service(settings, cluster=cluster, metrics=metrics)
    logger.info("starting", extra={"namespaces": settings.namespaces or "all"})
    asyncio.run(
        kopf.operator(
            registry=register(service),
            settings=kopf_settings(),
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
            liveness_endpoint=f"http://0.0.0.0:{settings.health_port}/healthz"
            if settings.health_port
            else None,
        )
    )
    return EXIT_FINISHED


if __name__ == "__main__":
    main()
