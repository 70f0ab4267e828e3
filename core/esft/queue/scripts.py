"""The Lua scripts beside this module, and the keys that they get.

Every script gets every key of the run, in one fixed order: a run has a handful of keys, so there is nothing
to save by passing fewer, and deleting and expiring a run cannot forget one. `EVALSHA` first, `EVAL` of the
whole text when the server does not know it (restarted, or flushed): unlike `SCRIPT LOAD` and a second
`EVALSHA`, that leaves no moment in which the script can be lost again. Redis Functions would need Redis 7.
"""

import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

import redis
from redis.exceptions import NoScriptError

from esft.layout import redis_key

_KEYS = (
    "run",
    "log",
    "todo",
    "items",
    "leases",
    "results",
    "reporters",
    "workers",
    "digests",
    "mismatches",
)


def run_keys(run: str) -> tuple[str, ...]:
    """All keys that a run may have, in the order that common.lua names them; one slot of a Redis Cluster."""
    return tuple(redis_key(run, name) for name in _KEYS)


@cache
def source(name: str) -> tuple[str, str]:
    """A script's whole text and its SHA-1, which is its name on the server."""
    folder = files(__package__)
    text = (folder / "common.lua").read_text("utf-8") + (folder / f"{name}.lua").read_text("utf-8")
    return text, hashlib.sha1(text.encode("utf-8"), usedforsecurity=False).hexdigest()


def run_script(client: redis.Redis, name: str, keys: tuple[str, ...], *arguments: str | int) -> Any:
    """Run the script `name`.lua and return its reply."""
    text, sha = source(name)
    try:
        return client.evalsha(sha, len(keys), *keys, *arguments)
    except NoScriptError:
        return client.eval(text, len(keys), *keys, *arguments)
