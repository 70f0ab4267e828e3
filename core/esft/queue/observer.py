"""Many runs at a glance, for who watches them all: one round trip for about a hundred.

State and new log entries of a run are read by one script and so belong to one moment: no state is ahead of the
entries that led to it. Two plain commands would leave a commit between them to be explained away.

A pipeline is sent once: unlike a command of `PatientRedis` it does not wait for a Redis that is away, since
who looks at all runs every few seconds will look again.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from esft.errors import UnreadableRunError, VersionError
from esft.queue import replies
from esft.queue.connection import raise_clearly
from esft.queue.scripts import run_keys, source
from esft.queue.types import Observation

_RUNS_A_PIPELINE = 100


def observe(
    client: redis.Redis, runs: Mapping[str, int], *, count: int = 64
) -> dict[str, Observation | UnreadableRunError | VersionError | None]:
    """Read the state of many runs, and what their logs have gained.

    Args:
        client: best one from `esft.queue.connect`.
        runs: uid of each run, and the number of the first log entry wanted.
        count: at most so many entries of each run. A log that is longer is read on with the next call; one that
            is shorter than the number asked for (Redis lost its last writes) gives no entries, and its state
            has a generation below that number.

    Returns:
        What was seen of each run; None where Redis holds none; an error, as a value, for a run whose keys cannot be
        read, since whoever may write to one run must not hide the others.

    Raises:
        QueueUnavailableError: Redis is away, at once; or it refuses the password.
        QueueAccessError: the client's user may not read one of the runs.
    """
    observed: dict[str, Observation | UnreadableRunError | VersionError | None] = {}
    uids = list(runs)
    for first in range(0, len(uids), _RUNS_A_PIPELINE):
        chunk = {uid: (runs[uid], count) for uid in uids[first : first + _RUNS_A_PIPELINE]}
        observed |= {uid: _read(uid, reply) for uid, reply in _replies(client, chunk).items()}
    return observed


def _replies(client: redis.Redis, runs: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Replies of the script for each run, in the order given."""
    text, sha = source("observe")
    replied: dict[str, Any] = dict.fromkeys(runs)
    missing = list(runs)
    lost = False
    while missing:
        with client.pipeline(transaction=False) as pipeline:
            for index, uid in enumerate(missing):
                keys = run_keys(uid)
                # The whole text, where the server has lost it, serves the commands behind it too.
                if lost and index == 0:
                    pipeline.eval(text, len(keys), *keys, "", *runs[uid])
                else:
                    pipeline.evalsha(sha, len(keys), *keys, "", *runs[uid])
            try:
                answers = pipeline.execute(raise_on_error=False)
            except RedisError as error:
                raise_clearly(client, error)
        replied |= zip(missing, answers, strict=True)
        for answer in answers:
            if isinstance(answer, RedisError) and not isinstance(answer, NoScriptError):
                with suppress(ResponseError):  # about the keys of this run alone
                    raise_clearly(client, answer)
        missing = [uid for uid in missing if isinstance(replied[uid], NoScriptError)]
        lost = True
    return replied


def _read(uid: str, reply: Any) -> Observation | UnreadableRunError | VersionError | None:
    if isinstance(reply, RedisError):
        return UnreadableRunError(uid, reply)
    try:
        return _observation(reply)
    except VersionError as error:
        return error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        return UnreadableRunError(uid, error)


def _observation(reply: list[Any]) -> Observation | None:
    state, *entries = reply
    if not isinstance(state, list):
        return None
    return Observation(
        state=replies.run_state(state),
        entries=[replies.entry(replies.pairs(fields)) for fields in entries[0]],
    )
