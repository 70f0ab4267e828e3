"""Connect to Redis so that it may go away and come back.

A command that fails for a passing reason (no connection, no answer, Redis loading its data or failing over)
is sent again, with exponential backoff, until patience runs out; all operations of `esft.queue` bear being
repeated.

redis-py's own `Retry` is switched off: it counts attempts and not time, and connecting retries within a
command that retries, so that its attempts multiply. `PatientRedis` has one loop and one deadline a command.
"""

import re
import time
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

import redis
from redis import exceptions
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from esft.errors import QueueAccessError, QueueUnavailableError, SpecError

_SOCKET_TIMEOUT_SECONDS = 10.0
_CONNECT_TIMEOUT_SECONDS = 5.0
_MINIMUM_TIMEOUT_SECONDS = 3.0  # longer than the blocking reads of RunQueue
_BACKOFF_BASE_SECONDS = 0.025
_BACKOFF_CAP_SECONDS = 2.0

_FORMS = "redis://[:PASSWORD@]HOST[:PORT][/DB], rediss://... (TLS) or unix:///PATH/TO/SOCKET[?db=DB]"

_PASSING_ERRORS = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
)
# The same for replies that redis-py has no class for, and those of a command within a script, which Redis
# before 7 wraps.
_PASSING_CODES = re.compile(r"\b(LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|OOM|MISCONF|BUSY|NOREPLICAS)\b")

# A right that is missing is missed by the command itself, or by one within a script.
_DENIED = re.compile(r"has no permissions to|The user executing the script can't")


class PatientRedis(redis.Redis):
    """A `redis.Redis` whose commands wait for a Redis that is away.

    Args:
        pool: the connections.
        patience_seconds: how long a command keeps trying.
        address: the URL as it may be shown.

    Commands raise `QueueUnavailableError` when patience ran out, or at once when Redis refuses the password; and
    `QueueAccessError` when the user lacks a right.
    """

    def __init__(self, pool: redis.ConnectionPool, *, patience_seconds: float, address: str) -> None:
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        self.patience_seconds = patience_seconds
        self.address = address

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Execute one command, again and again while it fails for a passing reason."""
        backoff = ExponentialBackoff(cap=_BACKOFF_CAP_SECONDS, base=_BACKOFF_BASE_SECONDS)
        deadline = time.monotonic() + self.patience_seconds
        failures = 0
        while True:
            try:
                return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
            except exceptions.RedisError as error:
                if not _passes(error):
                    raise_clearly(self, error)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise QueueUnavailableError(
                        f"Redis at {self.address} is unavailable "
                        f"(tried for {self.patience_seconds:g} s): {error}"
                    ) from error
                time.sleep(min(backoff.compute(failures), left))
                failures += 1


def raise_clearly(client: redis.Redis, error: exceptions.RedisError) -> NoReturn:
    """Raise an error that will not be waited for: as one of ours, where its cause is known, else as it is.

    Raises:
        QueueUnavailableError: Redis is away, or refused the password.
        QueueAccessError: the user lacks a right.
    """
    address = client.address if isinstance(client, PatientRedis) else "its address"
    if _passes(error):
        raise QueueUnavailableError(f"Redis at {address} is unavailable: {error}") from error
    if isinstance(error, exceptions.AuthenticationError):
        raise QueueUnavailableError(
            f"Redis at {address} refused the user name or password: correct them in the URL ({error})"
        ) from error
    if _DENIED.search(str(error)):
        raise QueueAccessError(
            f"Redis at {address} denies this to the user in the URL: {error}. "
            "Fix: give that user the rights in docs/protocol.md, Access."
        ) from error
    raise error


def connect(url: str, *, patience_seconds: float) -> redis.Redis:
    """Connect to Redis and see that it answers.

    Args:
        url: redis://, rediss:// or unix://, with password and database if need be.
        patience_seconds: how long this, and later each command, keeps trying while Redis is away. One attempt
            ends by itself after at most 10 s, or max(3 s, patience) if that is less.

    Returns:
        A client whose replies are text. It may be shared between threads.

    Raises:
        SpecError: the URL cannot be used as it is.
        QueueUnavailableError: Redis did not answer in that time, or refused the password.
    """
    address = redact(url)
    _check(url, address)
    timeout = max(_MINIMUM_TIMEOUT_SECONDS, patience_seconds)
    try:
        pool = redis.ConnectionPool.from_url(
            url,
            decode_responses=True,
            protocol=2,
            socket_timeout=min(_SOCKET_TIMEOUT_SECONDS, timeout),
            socket_connect_timeout=min(_CONNECT_TIMEOUT_SECONDS, timeout),
            retry=Retry(NoBackoff(), 0),
        )
        pool.connection_class(**pool.connection_kwargs)
    except (TypeError, ValueError) as error:
        raise SpecError(f"redis URL {address} has an option that cannot be used: {error}") from error
    client = PatientRedis(pool, patience_seconds=patience_seconds, address=address)
    client.ping()
    return client


def redact(url: str) -> str:
    """Return the URL as it may be shown: user name and password as `***`, however malformed it is."""
    url = re.sub(r"(?i)\b(\w*password|username)=[^&#]*", r"\1=***", url)
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    credentials, _, address = rest.rpartition("@")
    return f"{scheme}{separator}{'***@' if credentials else ''}{address}"


def _passes(error: exceptions.RedisError) -> bool:
    if isinstance(error, exceptions.AuthenticationError):
        return False  # though redis-py has it as a kind of ConnectionError
    return isinstance(error, _PASSING_ERRORS) or _PASSING_CODES.search(str(error)) is not None


def _check(url: str, address: str) -> None:
    """Refuse what redis-py would misread in silence."""
    problem = None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        problem = "has a malformed host or port (special characters of a password are percent-encoded)"
    else:
        unix = parts.scheme == "unix"
        database = parse_qs(parts.query).get("db", ["" if unix else parts.path.removeprefix("/")])[0]
        if parts.scheme not in {"redis", "rediss", "unix"}:
            problem = "has no scheme that belongs to Redis"
        elif parts.fragment:
            problem = "has a '#' (in a password, write %23)"
        elif unix and (parts.hostname or not parts.path):
            problem = "has no absolute path to a socket (mind the three slashes)"
        elif not unix and (not parts.hostname or port == 0):
            problem = "has no host, or port 0"
        elif database and not database.isdecimal():
            problem = "has a database that is no number"
    if problem:
        raise SpecError(f"redis URL {address!r} {problem}: write {_FORMS}")
