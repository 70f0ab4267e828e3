"""A run's access to Redis as a Secret, so that its pods and KEDA need none of the operator's."""

from typing import Final
from urllib.parse import unquote, urlsplit

from esft.errors import SpecError
from esft_operator.decide.build.child import child
from esft_operator.kinds import SECRETS
from esft_operator.names import redis_secret_name
from esft_operator.resource import Manifest, Run

_DEFAULT_PORT: Final = 6379


def redis_secret(run: Run, *, url: str) -> Manifest:
    """The Secret with the run's own access to Redis: the URL for workers, its parts for KEDA, which reads no URLs.

    Immutable: credentials follow from the uid, and so does the Secret's name. `tls` is in KEDA's words.

    Raises:
        SpecError: the URL names no host.
    """
    parts = urlsplit(url)
    if not parts.hostname:
        raise SpecError(
            "ESFT_REDIS_URL: has no host that worker pods could reach. "
            "Fix: set it to redis://HOST:PORT or rediss://HOST:PORT in the operator's Deployment."
        )
    host, port = parts.hostname, str(parts.port or _DEFAULT_PORT)
    return child(run, SECRETS, redis_secret_name(run.name, run.uid), component="redis") | {
        "type": "Opaque",
        "immutable": True,
        "stringData": {
            "url": url,
            "address": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "host": host,
            "port": port,
            "username": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
            "tls": "enable" if parts.scheme == "rediss" else "disable",
        },
    }
