"""The client of the queue: one method an operation, each one Lua script and so atomic.

Every operation may be repeated when its reply was lost, which lets `esft.queue.connection` retry blindly: a
claim is known by its token, a report by its worker, and whatever is set once answers with what came first.

Rejected: Redis Streams consumer groups for the items (no priority for what was given back, no limit of two
holders, a crashed consumer's entries to be claimed one by one); MULTI with WATCH (retries under contention
just when a generation ends); a lock for the closing worker (a lock needs an owner, which may die; a
compare-and-set does not).
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

from esft.errors import RunNotFoundError, SpecError
from esft.queue import replies
from esft.queue.replies import text
from esft.queue.scripts import run_keys, run_script
from esft.queue.types import (
    RUNNING,
    Claim,
    ClaimStatus,
    Entry,
    GenerationResults,
    ItemResult,
    Opening,
    ReopenStatus,
    ReportOutcome,
    RunState,
)
from esft.versions import CURRENT, another_version

# A blocking read is made of shorter ones, each well within any sensible socket timeout.
_BLOCK_SLICE_MILLISECONDS = 1000


class RunQueue:
    """One run in Redis.

    Args:
        redis: a client, best one from `esft.queue.connect`.
        run: uid of the run, which all its keys are named after.
        clock: milliseconds since the epoch, for tests; the server's own clock when None.

    Every method raises `RunNotFoundError` when Redis holds no such run, save `create` and `delete`, and
    `QueueUnavailableError` when the client ran out of patience. Names of workers and tokens are words without
    white space.
    """

    def __init__(self, redis: redis.Redis, run: str, *, clock: Callable[[], int] | None = None) -> None:
        if not run or "{" in run or "}" in run:
            raise ValueError(f"run uid {run!r} must not be empty nor contain braces")
        self.run = run
        self.keys = run_keys(run)
        self._redis = redis
        self._clock = clock

    def create(
        self,
        *,
        fingerprint: str,
        policy: str,
        policy_version: int,
        log: Sequence[str],
        opening: Opening,
    ) -> bool:
        """Create the run with a log and an open generation, unless it exists.

        Args:
            fingerprint: what must agree between all who work on the run.
            policy: see `set_policy`.
            policy_version: likewise.
            log: records of the generations before; empty for a run from the start.
            opening: the first open generation; its number is `len(log)`.

        Returns:
            Whether this call created it (False also when it did and its reply was lost).
        """
        _require_generation(opening, len(log))
        agreed = (fingerprint, CURRENT.contract, CURRENT.release, policy, policy_version)
        return bool(self._run("create", *agreed, len(log), *log, *_opening_arguments(opening)))

    def set_policy(self, policy: str, *, version: int) -> bool:
        """Set the text that whoever claims or closes is given from now on, unless it is older than the present one.

        Returns:
            Whether it is the policy now.
        """
        return bool(self._run("policy", policy, version)[1])

    def join(self, worker: str, *, fingerprint: str, ttl_milliseconds: int) -> RunState:
        """Register a worker afresh: leases it held under the same name before go back to the queue.

        Args:
            worker: its name, unique among the living.
            fingerprint: as given to `create`.
            ttl_milliseconds: it drops out when it neither joins nor sends a heartbeat for so long.

        Raises:
            SpecError: the run was created with another fingerprint.
            VersionError: the run was created with versions of another contract.
        """
        _require_word("worker", worker)
        _require_positive("ttl_milliseconds", ttl_milliseconds)
        reply = self._run("join", worker, fingerprint, CURRENT.contract, ttl_milliseconds)
        if text(reply[0]) == "versions":
            raise another_version(f"run {self.run}", *map(text, reply[1:]))
        if text(reply[0]) == "other":
            raise SpecError(
                f"run {self.run} was created from another specification (fingerprint {text(reply[1])}, "
                f"here {fingerprint}): use the specification it was created from, or start a new run"
            )
        return replies.run_state(reply)

    def heartbeat(self, worker: str, *, ttl_milliseconds: int) -> None:
        """Keep a worker registered for another `ttl_milliseconds`, or register it again if it dropped out."""
        _require_word("worker", worker)
        _require_positive("ttl_milliseconds", ttl_milliseconds)
        self._run("heartbeat", worker, ttl_milliseconds)

    def leave(self, worker: str) -> int:
        """Unregister a worker and put its leased items at the front of the queue; return how many leases."""
        return int(self._run("leave", worker)[1])

    def claim(
        self, worker: str, *, generation: int, count: int, token: str, lease_milliseconds: int | None
    ) -> Claim:
        """Lease items of the open generation: what was given back first, then in the opening's order.

        When nothing is left and the generation cannot be closed, a copy of one late item is leased: one that
        a single other worker has had for more than max(2 s, 2 x mean item time).

        Args:
            worker: who claims.
            generation: the one whose weights it has.
            count: at most so many items.
            token: differs between a worker's claims; given again, returns what that claim still holds.
            lease_milliseconds: how long the claim holds; None: max(30 s, 4 x mean item time x items), or
                10 min before any item was reported.
        """
        _require_word("worker", worker)
        _require_word("token", token)
        _require_positive("count", count)
        if lease_milliseconds is not None:
            _require_positive("lease_milliseconds", lease_milliseconds)
        lease = "" if lease_milliseconds is None else lease_milliseconds
        reply = self._run("claim", worker, generation, count, token, lease)
        status, open_generation, wait, parameters, policy, *items = reply
        return Claim(
            status=ClaimStatus(text(status)),
            items=tuple(map(text, items)),
            generation=int(open_generation),
            wait_milliseconds=int(wait),
            parameters=text(parameters),
            policy=text(policy),
        )

    def report(
        self, worker: str, *, generation: int, results: Sequence[ItemResult]
    ) -> tuple[ReportOutcome, ...]:
        """Give results; the first one of an item counts, whether or not its worker still held the lease.

        Args:
            worker: who reports.
            generation: the one the items were claimed in; a report for another than the open one changes nothing.
            results: in one call, since a call costs more than a further result in it. One of an item that the
                opening does not have (the generation was opened again, with others) changes nothing.
        """
        _require_word("worker", worker)
        flat = (value for result in results for value in (result.item, result.result, result.milliseconds))
        _, complete, *accepted = self._run("report", worker, generation, *flat)
        return tuple(ReportOutcome(accepted=bool(flag), complete=bool(complete)) for flag in accepted)

    def results(self, generation: int) -> GenerationResults | None:
        """All that closing a generation takes; None when another worker closed it, or opened it again, meanwhile."""
        _, *reply = self._run("results", generation)
        if not reply:
            return None
        parameters, policy, *results = reply
        return GenerationResults(text(parameters), text(policy), replies.pairs(results))

    def commit(self, *, generation: int, record: str, opening: Opening) -> str | None:
        """Close the open generation: append its record to the log and open the next, if no one else did.

        Returns:
            The record that the log holds for `generation`: this one, or that of whoever came first. None when
            the run had finished before any was committed: the log stays as it is.

        Raises:
            ValueError: `generation` is not open yet, or not all that it needs is reported.
        """
        _require_generation(opening, generation + 1)
        reply = self._run("commit", generation, record, *_opening_arguments(opening))
        status = text(reply[0])
        if status == "finished":
            return None
        if status == "ahead":
            raise ValueError(f"generation {generation} of run {self.run} is not open yet: {int(reply[1])} is")
        if status == "incomplete":
            raise ValueError(f"generation {generation} of run {self.run} lacks results that it needs")
        return text(reply[1])

    def updates(self, start: int, *, block_milliseconds: int = 0, count: int = 256) -> list[Entry]:
        """Read the log from entry `start` on, in order.

        Args:
            start: number of the first entry wanted, which is its generation.
            block_milliseconds: how long to wait while there is none; 0 does not wait.
            count: at most so many.

        Returns:
            The entries; empty when there was none in that time.
        """
        log = self.keys[1]
        deadline = time.monotonic() + block_milliseconds / 1000
        while True:
            # XREAD only waits; XRANGE reads, since its reply has one shape in all protocols of redis-py.
            entries: Any = self._redis.xrange(log, min=f"{start + 1}-0", count=count)
            if entries:
                return [replies.entry(fields) for _, fields in entries]
            if not self._redis.exists(self.keys[0]):
                raise self._not_found()
            left = int((deadline - time.monotonic()) * 1000)
            if left <= 0:
                return []
            self._redis.xread({log: f"{start}-0"}, count=1, block=min(left, _BLOCK_SLICE_MILLISECONDS))

    def digest(
        self, worker: str, *, generation: int, digest: str, rebuilt: bool = False, measures: str = ""
    ) -> str:
        """Report a digest for a generation; return the agreed one, and count this one if it differs.

        The first digest is agreed on until a worker reports one of weights that it has just `rebuilt` from the base
        model and the log: the first of these counts more, since an error of memory does not survive a rebuild.

        `measures` is any text about these weights, for `state`; that of the newest generation stays.
        """
        return text(self._run("digest", worker, generation, digest, int(rebuilt), measures)[1])

    def finish(
        self, *, phase: str, reason: str, message: str, result: str | None = None, ttl_seconds: int
    ) -> RunState:
        """End the run, once and for all; a second call changes nothing and returns the first one's state.

        Args:
            phase: any but "Running".
            reason: one word for programs.
            message: a sentence for people.
            result: any text.
            ttl_seconds: every key of the run goes after so long.
        """
        if phase in {"", RUNNING}:
            raise ValueError(f"phase {phase!r} is not final")
        _require_positive("ttl_seconds", ttl_seconds)
        optional = () if result is None else (result,)
        return replies.run_state(self._run("finish", phase, reason, message, ttl_seconds, *optional))

    def reopen(self, opening: Opening, *, instead_of: str = "") -> ReopenStatus:
        """Open the open generation again, since the run is to go further than it was to when that was opened.

        What it had reported is forgotten. A run that has succeeded is "Running" again, and no key expires any
        more; but not while workers of the ended run are registered: they may be in the middle of an item of the
        former opening. They leave by themselves when they see the end, or drop out; call again then.

        Args:
            opening: what the generation consists of now; its number is that of the open one.
            instead_of: parameters of the opening that is to be replaced while the run goes on; other than its own.

        Returns:
            What it came to. A second call says RUNNING, and changes nothing.
        """
        if instead_of and opening.parameters == instead_of:
            raise ValueError(
                "the new opening has the parameters of the former, so a repeated call would open it twice"
            )
        return ReopenStatus(text(self._run("reopen", instead_of, *_opening_arguments(opening))[0]))

    def state(self) -> RunState:
        """Read the run's state; changes nothing."""
        return replies.run_state(self._run("state"))

    def workers(self) -> frozenset[str]:
        """Read the names of the registered workers."""
        return frozenset(map(text, self._run("workers")[1:]))

    def delete(self) -> None:
        """Remove every trace of the run; nothing that a worker still does brings a key of it back."""
        self._redis.delete(*self.keys)

    def _run(self, script: str, *arguments: str | int) -> Any:
        now = "" if self._clock is None else self._clock()
        reply = run_script(self._redis, script, self.keys, now, *arguments)
        if isinstance(reply, list) and text(reply[0]) == "absent":
            raise self._not_found()
        return reply

    def _not_found(self) -> RunNotFoundError:
        return RunNotFoundError(
            f"Redis holds no run {self.run}: it was never created, it was deleted or expired, "
            "or Redis lost its data"
        )


def _opening_arguments(opening: Opening) -> list[str | int]:
    optional = set(opening.optional)
    items = (("o" if item in optional else "r") + item for item in opening.items)
    return [opening.generation, opening.to_json(), opening.parameters, opening.optional_needed, *items]


def _require_word(name: str, value: str) -> None:
    if not value or any(character.isspace() for character in value):
        raise ValueError(f"{name} {value!r} must be a text without white space")


def _require_positive(name: str, value: int) -> None:
    if value <= 0:
        raise ValueError(f"{name} is {value}, but must be positive")


def _require_generation(opening: Opening, expected: int) -> None:
    if opening.generation != expected:
        raise ValueError(f"the opening is of generation {opening.generation}, but {expected} is next")
