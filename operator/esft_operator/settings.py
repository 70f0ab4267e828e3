"""What a platform team sets for the operator: a typed record, read from the environment once, at the process's edge."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import esft
from esft.errors import SpecError

_MAX_PORT: Final = 65_535
_MAX_SECONDS: Final = 86_400
_LEAST_SECONDS: Final = 0.05  # with 0 the operator would do nothing but ask


@dataclass(frozen=True)
class WorkerDefaults:
    """What worker pods get unless `spec.workers.template` says otherwise."""

    image: str = f"esfinetune/worker:{esft.__version__}"
    """Image with the worker; its entry point is `esft-worker`."""

    image_pull_policy: str | None = None
    """Always, IfNotPresent or Never; None: the API server's default for the tag."""

    termination_grace_seconds: int = 60
    """How long a worker may take to hand its work back on SIGTERM."""


@dataclass(frozen=True)
class OperatorSettings:
    """How this operator runs; a sentence under each field says what it means."""

    redis_url: str
    """URL of the operator's own Redis, with a user that may define users; never shown."""

    credentials_key: str
    """Secret text that the passwords of runs are derived from; the same after a restart."""

    namespaces: tuple[str, ...] = ()
    """Namespaces that are looked after; empty: all of them."""

    workers: WorkerDefaults = WorkerDefaults()
    """Of the pods that the operator makes."""

    metrics_port: int = 9090
    """Port of /metrics; 0: none."""

    health_port: int = 8080
    """Port of /healthz, which fails when reconciling has stopped; 0: none."""

    resync_seconds: float = 120.0
    """Every resource is reconciled at least this often, whatever happened."""

    poll_seconds: float = 1.0
    """Time between two looks at the progress of the runs in Redis."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables `ESFT_*` (charts/esfinetune sets them).

        Raises:
            SpecError: one is missing or malformed; the message names it.
        """
        worker = WorkerDefaults(
            image=environment.get("ESFT_WORKER_IMAGE") or WorkerDefaults.image,
            image_pull_policy=environment.get("ESFT_WORKER_IMAGE_PULL_POLICY") or None,
            termination_grace_seconds=_whole(
                environment,
                "ESFT_WORKER_GRACE_SECONDS",
                WorkerDefaults.termination_grace_seconds,
                most=_MAX_SECONDS,
            ),
        )
        return cls(
            redis_url=_required(environment, "ESFT_REDIS_URL"),
            credentials_key=_required(environment, "ESFT_CREDENTIALS_KEY"),
            namespaces=tuple(
                filter(None, environment.get("ESFT_NAMESPACES", "").replace(" ", "").split(","))
            ),
            workers=worker,
            metrics_port=_whole(environment, "ESFT_METRICS_PORT", cls.metrics_port, most=_MAX_PORT),
            health_port=_whole(environment, "ESFT_HEALTH_PORT", cls.health_port, most=_MAX_PORT),
            resync_seconds=_number(
                environment, "ESFT_RESYNC_SECONDS", cls.resync_seconds, least=_LEAST_SECONDS
            ),
            poll_seconds=_number(environment, "ESFT_POLL_SECONDS", cls.poll_seconds, least=_LEAST_SECONDS),
        )


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name)
    if not value:
        raise SpecError(f"{name} is not set. Fix: set it in the operator's Deployment, from a Secret.")
    return value


def _number(environment: Mapping[str, str], name: str, default: float, *, least: float) -> float:
    text = environment.get(name) or str(default)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= _MAX_SECONDS:  # NaN fails too
        raise SpecError(
            f"{name}: must be a number from {least} to {_MAX_SECONDS}, got {text!r}. Fix: correct it in the Deployment."
        )
    return number


def _whole(environment: Mapping[str, str], name: str, default: int, *, most: int) -> int:
    text = environment.get(name) or str(default)
    if not (text.isascii() and text.isdigit()) or int(text) > most:
        raise SpecError(
            f"{name}: must be a whole number from 0 to {most}, got {text!r}. Fix: correct it in the Deployment."
        )
    return int(text)
