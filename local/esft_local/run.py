"""A whole run on one machine: folder, Redis, workers and view, from wherever an earlier session stopped.

The runner computes nothing. It makes Redis hold what the folder knows, keeps workers running, and copies the
update log from Redis into the folder as it grows. So it may be stopped or killed at any moment: the same
command goes on from the folder's log, and a Redis that lost the run is filled from that log again.

Rejected: training in this process (a crash of the GPU would take the run's bookkeeping along, and a local run
would go other ways than a cluster's).
"""

import contextlib
import json
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from esft.errors import EXIT_FINISHED, QueueUnavailableError, RunNotFoundError
from esft.generation import opened
from esft.policy import Policy
from esft.queue import RunQueue, RunState, connect
from esft.records import Evaluation
from esft.spec import ESFineTune, fingerprint
from esft.status.report import Outcome, Reason
from esft.status.snapshot import Snapshot
from esft.status.words import FAILED, REDIS_UNAVAILABLE, SUCCEEDED, WORKERS_FAILED
from esft_local.devices import worker_environments
from esft_local.folder import RunFolder
from esft_local.interrupts import Interrupts
from esft_local.model import checkpoint_path, checkpoint_state, publish_model
from esft_local.plot import PictureError, draw, picture_title
from esft_local.redis_server import EmbeddedRedis
from esft_local.reporter import Reporter, View
from esft_local.summary import Summary
from esft_local.worker_log import LogTail, describe, stage_seconds
from esft_local.workers import WorkerPool

_CONNECT_PATIENCE_SECONDS = 10.0
_COMMAND_PATIENCE_SECONDS = 1.0  # short, so that the loop can be interrupted
_REDIS_AWAY_SECONDS = 600.0
_BLOCK_MILLISECONDS = 500
_DRAIN_SECONDS = 60.0
_LAST_WORK_SECONDS = 15.0
_TTL_SECONDS = 24 * 3600
_AWAY = (REDIS_UNAVAILABLE, "Redis does not answer; the session waits.")


@dataclass(frozen=True, slots=True)
class Options:
    """How to run, as far as it does not change the result.

    Attributes:
        workers: how many worker processes.
        threads: CPU threads of each.
        redis_url: a Redis to use; None for a private one.
        environment: of the workers; GPUs are dealt out on top.
        gpus: names of the GPUs to deal out; empty for none.
    """

    workers: int
    threads: int
    redis_url: str | None
    environment: Mapping[str, str]
    gpus: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """A session's end.

    Attributes:
        summary: of the run so far.
        exit_code: one of esft.errors.
        already_finished: there was nothing left to do.
        notes: what people should know besides.
    """

    summary: Summary
    exit_code: int
    already_finished: bool = False
    notes: Sequence[str] = ()


def run_locally(spec: ESFineTune, *, output: Path, options: Options, view: View) -> Ended:
    """Run to the end, or until interrupted.

    Raises:
        SpecError: the folder holds a run with other settings, or the Redis URL cannot be used.
        RunFolderError: the folder cannot be used.
        RedisServerError, QueueUnavailableError: there is no Redis.
    """
    started = time.monotonic()
    with RunFolder.open(output, spec, new_uid=lambda: str(uuid.uuid4())) as folder:
        finished = folder.finished()
        if finished is not None:
            return Ended(finished, EXIT_FINISHED, already_finished=True)
        reporter = Reporter(folder, size=options.workers)
        folder.begin()
        reporter.save(reporter.snapshot())
        with Interrupts() as interrupts:
            with view, _redis(options.redis_url) as url, _connected(url) as client:
                queue = RunQueue(client, folder.uid)
                pool = _pool(folder, options, url, queue)
                session = _Session(folder, queue, pool, view, interrupts, reporter)
                snapshot = session.run()
            folder.worked(time.monotonic() - started - session.counted_seconds, save=True)
            exit_code = interrupts.exit_code if snapshot.exit_code is None else snapshot.exit_code
            notes = _conclude(folder, snapshot, reporter)
            summary = Summary.of(
                snapshot,
                folder.history,
                spec=folder.spec,
                wall_seconds=folder.wall_seconds,
                workers=options.workers,
                stage_seconds=session.stage_seconds(),
            )
            folder.write_summary(summary)  # the last file: a run without it is not over
            return Ended(summary, exit_code, notes=notes)


class _Session:
    """One `esft run`, from the first worker's start to the last one's end."""

    def __init__(
        self,
        folder: RunFolder,
        queue: RunQueue,
        pool: WorkerPool,
        view: View,
        interrupts: Interrupts,
        reporter: Reporter,
    ) -> None:
        self._folder = folder
        self._spec = folder.spec.spec
        self._policy = Policy.of(folder.spec.spec, version=folder.generation)
        self._queue = queue
        self._pool = pool
        self._view = view
        self._interrupts = interrupts
        self._reporter = reporter
        self._registered: frozenset[str] = frozenset()
        self._started = time.monotonic()
        self._away_since: float | None = None
        self._activity = "starting the workers"
        self._state: RunState | None = None
        self._tails = [LogTail(log) for log in pool.logs]
        self._whole_logs = [LogTail(log) for log in pool.logs]
        self.counted_seconds = 0.0

    def run(self) -> Snapshot:
        """Work until the run's phase is final or a signal comes; no worker runs when this returns its end."""
        self._attach()
        try:
            self._pool.start()
            last = self._follow()
            if last is None:
                self._view.say("Stopping: the workers hand their work back. Ctrl-C again ends them at once.")
            else:
                self._show("waiting for the workers to end")
                self._pool.wait(seconds=_LAST_WORK_SECONDS, hurry=lambda: self._interrupts.requested)
        finally:
            self._show("draining the workers")
            self._pool.drain(seconds=_DRAIN_SECONDS, hurry=lambda: self._interrupts.hurry)
        if last is not None:
            return self._final(last)
        with contextlib.suppress(QueueUnavailableError, RunNotFoundError):
            self._read_log()
        done = f"{len(self._folder.log)} of {self._spec.evolution.generations} generations are done"
        return self._show(suspended=("Interrupted", f"Stopped: {done}."))

    def _attach(self) -> None:
        """Make Redis hold the run as the folder knows it, or further on."""
        try:
            state = self._queue.state()
        except RunNotFoundError:
            self._create()
            return
        if self._agrees():
            self._read_log()
        if state.finished or len(self._folder.log) != state.opening.generation:
            self._queue.delete()
            self._create()
        else:
            self._queue.set_policy(self._policy.to_json(), version=self._policy.version)

    def _agrees(self) -> bool:
        """Whether the last record that both have is the same."""
        log = self._folder.log
        if not log:
            return True
        entries = self._queue.updates(len(log) - 1, count=1)
        return bool(entries) and entries[0].record == log[-1]

    def _create(self) -> None:
        """Fill Redis from the folder, with the generation opened as it was before Redis lost it."""
        log, before = self._folder.log, self._state
        opening = opened(self._spec, len(log), self._policy)
        if before is not None and not before.finished and before.opening.generation == len(log):
            opening = before.opening
        self._queue.create(
            fingerprint=fingerprint(self._spec),
            policy=self._policy.to_json(),
            policy_version=self._policy.version,
            log=log,
            opening=opening,
        )

    def _follow(self) -> RunState | None:
        """Copy the log until the run ends; its last state, or None when interrupted."""
        while not self._interrupts.requested:
            try:
                state = self._step()
            except RunNotFoundError:
                self._view.say("Redis lost the run: filling it again from the folder's log.")
                with contextlib.suppress(QueueUnavailableError):
                    self._create()
            except QueueUnavailableError as error:
                self._redis_is_away(error)
            else:
                self._away_since = None
                if state.finished:
                    return state
            self._show(self._activity)
        return None

    def _step(self) -> RunState:
        """One round of the loop: new records, workers, state."""
        if self._read_log(block_milliseconds=_BLOCK_MILLISECONDS):
            self._activity = ""
        elif self._activity:
            self._activity = self._latest_event() or self._activity
        self._count_time()
        progress = 0 if self._state is None else self._state.counters["reported"]
        failure = self._pool.poll(progress)
        workers_are_done = self._pool.finished
        state = self._state = self._queue.state()
        if state.opening.generation < len(self._folder.log):  # an older copy of Redis' data came back
            self._queue.delete()
            self._create()
        elif state.finished:
            self._read_log()
        elif failure is not None:
            return self._fail(*failure)
        elif workers_are_done:
            return self._fail(WORKERS_FAILED, "all workers ended although the run is not finished")
        return state

    def _fail(self, reason: str, message: str) -> RunState:
        return self._queue.finish(phase=FAILED, reason=reason, message=message, ttl_seconds=_TTL_SECONDS)

    def _read_log(self, *, block_milliseconds: int = 0) -> bool:
        """Copy what is new; whether there was anything."""
        before = len(self._folder.log)
        while entries := self._queue.updates(len(self._folder.log), block_milliseconds=block_milliseconds):
            for entry in entries:
                self._folder.append(entry)
            block_milliseconds = 0
        return len(self._folder.log) > before

    def _redis_is_away(self, error: QueueUnavailableError) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
        away = time.monotonic() - self._away_since
        if away > _REDIS_AWAY_SECONDS:
            raise error
        self._activity = f"Redis does not answer, for {away:.0f} s now; waiting"
        self._count_time()

    def _count_time(self) -> None:
        elapsed = time.monotonic() - self._started
        self._folder.worked(elapsed - self.counted_seconds)
        self.counted_seconds = elapsed

    def stage_seconds(self) -> dict[str, float]:
        """Seconds by stage, of this session's workers that ended in order."""
        return stage_seconds(event for log in self._whole_logs for event in log.events())

    def _latest_event(self) -> str:
        events = [event for tail in self._tails for event in tail.events()]
        return describe(events[-1]) if events else ""

    def _show(
        self, activity: str = "", *, suspended: Reason | None = None, outcome: Outcome | None = None
    ) -> Snapshot:
        """Show the run as it is now; its end is saved when the results are."""
        if self._state is not None and self._away_since is None:
            with contextlib.suppress(QueueUnavailableError, RunNotFoundError):
                self._registered = self._queue.workers()
        snapshot = self._reporter.snapshot(
            self._pool.workers(self._registered),
            state=self._state,
            activity=activity,
            redis_problem=None if self._away_since is None else _AWAY,
            suspended=suspended,
            outcome=outcome,
        )
        self._view.update(snapshot)
        if outcome is None:
            self._reporter.save(snapshot)
        return snapshot

    def _final(self, state: RunState) -> Snapshot:
        digest, folder = None, self._folder
        if state.phase == SUCCEEDED:
            result: dict[str, Any] = json.loads(state.result) if state.result else {}
            measured = result.get("evaluation")
            folder.measured_at_end(measured and Evaluation.from_dict(measured), result.get("kl_divergence"))
            checkpoint = checkpoint_path(folder.checkpoints, len(folder.log))
            digest = checkpoint_state(checkpoint)["digest"]
        return self._show(outcome=Outcome(state.phase, state.reason, state.message, digest))


def worker_command(folder: RunFolder, name: str, *, threads: int) -> Sequence[str]:
    """The command line of one worker; the Redis URL is not on it but in its environment."""
    return [
        *(sys.executable, "-m", "esft_worker"),
        *("--spec", str(folder.path / "spec.yaml")),
        *("--run", folder.uid),
        *("--checkpoints", str(folder.checkpoints)),
        *("--name", name),
        *("--threads", str(threads)),
        "--follow-stdin",
    ]


def _pool(folder: RunFolder, options: Options, url: str, queue: RunQueue) -> WorkerPool:
    environment = {**options.environment, "ESFT_REDIS_URL": url}
    return WorkerPool(
        command=lambda name: worker_command(folder, name, threads=options.threads),
        environments=worker_environments(environment, options.gpus, options.workers),
        logs=folder.logs,
        leave=queue.leave,
    )


@contextlib.contextmanager
def _connected(url: str) -> Iterator[redis.Redis]:
    """A client that gives up soon, since the session's loop does its own waiting."""
    connect(url, patience_seconds=_CONNECT_PATIENCE_SECONDS).close()
    with contextlib.closing(connect(url, patience_seconds=_COMMAND_PATIENCE_SECONDS)) as client:
        yield client


@contextlib.contextmanager
def _redis(url: str | None) -> Iterator[str]:
    """URL of the given Redis, or of a private one that lives as long as the block."""
    if url is not None:
        yield url
        return
    with EmbeddedRedis() as server:
        yield server.url


def _conclude(folder: RunFolder, snapshot: Snapshot, reporter: Reporter) -> Sequence[str]:
    """Leave the results in the folder; what people should know besides."""
    notes = []
    if snapshot.phase == SUCCEEDED:
        publish_model(checkpoint_path(folder.checkpoints, len(folder.log)), folder.path / "model")
    if folder.history:
        try:
            draw(folder.history, title=picture_title(folder.spec), path=folder.path / "fitness.png")
        except PictureError as error:
            notes.append(str(error))
    reporter.save(snapshot)
    return notes
