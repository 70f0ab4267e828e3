"""A user of Redis for each run, which may touch the keys of its run and nothing else.

Workers run code of others (models, tasks, rewards), and one Redis holds all runs: with a user of its own, a run's pods
can neither read another run nor end it. A script has no more rights than the user who calls it.

Limits: one user may still fill the memory or hold the server up with a long script, as nothing in Redis bounds either.
Rejected: a database a run (no rights attached to it, none in a cluster); a category such as `@read` (far more than
what is needed, and another set in each version of Redis).
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import redis
from redis.exceptions import ResponseError

from esft.errors import QueueAccessError
from esft.layout import redis_key

WORKER_COMMANDS: Final = (
    # The client's own. `select` is for a URL with a database, `type` for KEDA, which measures the queue.
    *("eval", "evalsha", "exists", "llen", "ping", "select", "type", "xrange", "xread"),
    # What the scripts call, as that user.
    *("del", "expire", "persist", "pexpire", "pttl", "time"),
    *("hdel", "hget", "hgetall", "hincrby", "hlen", "hset", "hsetnx"),
    *("lpop", "lpush", "lrem", "rpush", "sadd", "xadd"),
    *("zadd", "zcount", "zrange", "zrangebyscore", "zrem"),
)
"""All that a worker's user may do, to keys of its own run."""

_RUN: Final = re.compile(r"[\w.:-]+", re.ASCII)  # the rest has a meaning in a pattern of keys
_NO_FILE: Final = "not configured to use an ACL file"
_GRANT: Final = "+acl|setuser +acl|deluser +acl|save"


def define_user(client: redis.Redis, *, user: str, password: str, run: str) -> None:
    """Create the user of a run, or set it to just these rights and this password.

    Redis keeps users in its memory. Where it has an ACL file they are written there too, and outlive a restart; else
    whoever runs Redis has to expect that this must be called again.

    Args:
        client: of a user that may manage users.
        user: its name, a word.
        password: sent as its SHA-256, so that neither a log of commands nor the ACL file has it.
        run: uid of the run.

    Raises:
        QueueAccessError: this client's user may not do so, or the server has no users.
        QueueUnavailableError: the client ran out of patience.
    """
    if not _RUN.fullmatch(run):
        raise ValueError(f"run uid {run!r} must be of letters, digits and -_.: only")
    digest = hashlib.sha256(password.encode("utf-8")).hexdigest()
    with _managing_users():
        client.acl_setuser(
            user,
            reset=True,
            reset_channels=True,
            enabled=True,
            hashed_passwords=f"+{digest}",
            keys=[redis_key(run, "*")],
            commands=[f"+{command}" for command in WORKER_COMMANDS],
        )
        _save(client)


def remove_user(client: redis.Redis, *, user: str) -> None:
    """Remove a user, if it exists; Redis closes its connections.

    Raises:
        QueueAccessError: this client's user may not do so, or the server has no users.
        QueueUnavailableError: the client ran out of patience.
    """
    with _managing_users():
        client.acl_deluser(user)
        _save(client)


def _save(client: redis.Redis) -> None:
    try:
        client.acl_save()
    except ResponseError as error:
        if _NO_FILE not in str(error):
            raise


@contextmanager
def _managing_users() -> Iterator[None]:
    try:
        yield
    except (ResponseError, QueueAccessError) as error:
        raise QueueAccessError(
            f"Redis did not let this client manage its users: {error}. Fix: use Redis 6.2 or newer, and give the "
            f"user in the URL the rights {_GRANT}."
        ) from error
