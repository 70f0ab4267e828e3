"""What a session says of its run: a snapshot for whoever watches it, and the same in status.json for the others.

The run depends on none of it: a file that cannot be written is written the next time, and nothing waits for the disk.
"""

import contextlib
import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Final, Protocol

from esft.queue import RunState
from esft.status import ESFineTuneStatus
from esft.status.report import Outcome, Reason, Stage, workers_verdict
from esft.status.snapshot import Live, Snapshot, Worker
from esft_local.files import RunFolderError, write_atomically
from esft_local.folder import RunFolder
from esft_local.status import GENERATION, STATUS_FILE, created_at, saved_snapshot, status_of

_SAVE_SECONDS: Final = 1.0
_RECENT: Final = 10  # generations that the speed is measured over
_CURVE: Final = 40  # generations that are drawn


class View(AbstractContextManager["View"], Protocol):
    """Shows snapshots; used as a context manager around the run."""

    def update(self, snapshot: Snapshot) -> None:
        """Show the run as it is now."""

    def say(self, text: str) -> None:
        """Tell people something once."""


class Reporter:
    """Makes snapshots of the run in a folder, each from the one before; `size` is how many workers are wanted."""

    def __init__(self, folder: RunFolder, *, size: int) -> None:
        self._folder = folder
        self._size = size
        self._began = datetime.now(UTC)
        self._seconds_before = folder.wall_seconds
        saved = saved_snapshot(folder.path, folder.uid)
        self._status = ESFineTuneStatus() if saved is None else saved.status
        self._saved_phase, self._saved_at = "", 0.0

    def snapshot(
        self,
        workers: Sequence[Worker] = (),
        *,
        state: RunState | None = None,
        activity: str = "",
        redis_problem: str | None = None,
        suspended: Reason | None = None,
        outcome: Outcome | None = None,
    ) -> Snapshot:
        """The run as it is now.

        Args:
            workers: those there are.
            state: what Redis said last.
            activity: what is going on, in words.
            redis_problem: why Redis cannot be asked.
            suspended: why the session ends although the run is not over.
            outcome: how the run has ended.
        """
        folder, before, goes_on = self._folder, self._status, outcome is None and suspended is None
        ready = sum(worker.state == "ready" for worker in workers)
        problems = [(worker.problem.reason, worker.problem.message) for worker in workers if worker.problem]
        stage = Stage(
            outcome=outcome,
            suspended=suspended,
            started=before.start_time is not None or ready > 0 or folder.ledger.generation > 0,
            redis_problem=redis_problem,
            failure=None,
            workers=workers_verdict(ready=ready, desired=self._size, problem=next(iter(problems), None)),
        )
        self._status = status_of(
            folder.spec,
            folder.ledger,
            stage,
            before=before,
            checkpoints=folder.checkpoints,
            workers=(self._size if goes_on else 0, ready),
            active=(self._began, self._seconds_before) if goes_on else (None, folder.wall_seconds),
            now=datetime.now(UTC),
        )
        return Snapshot(
            name=folder.spec.metadata.name,
            namespace=None,
            uid=folder.uid,
            generation=GENERATION,
            created_at=created_at(folder.path),
            status=self._status,
            workers=tuple(workers),
            live=_live(folder, state, activity),
        )

    def save(self, snapshot: Snapshot) -> None:
        """Write status.json when its phase is new or the last one is a second old; a full disk is no matter."""
        now = time.monotonic()
        if snapshot.phase == self._saved_phase and now - self._saved_at < _SAVE_SECONDS:
            return
        self._saved_phase, self._saved_at = snapshot.phase, now
        text = json.dumps(snapshot.as_dict(), indent=2) + "\n"
        with contextlib.suppress(RunFolderError):
            write_atomically(self._folder.path / STATUS_FILE, text, durable=False)


def with_digest(snapshot: Snapshot, digest: str | None) -> Snapshot:
    """The same run, with the digest of its final weights."""
    return snapshot.model_copy(update={"status": snapshot.status.model_copy(update={"digest": digest})})


def _live(folder: RunFolder, state: RunState | None, activity: str) -> Live:
    history = folder.history
    recent = [line for line in history[-_RECENT:] if line.seconds]
    seconds = sum(line.seconds or 0.0 for line in recent)
    if state is not None and state.opening.generation != len(folder.log):
        state = None
    return Live(
        now=activity,
        done=0 if state is None else state.done,
        items=0 if state is None else len(state.opening.items),
        members_per_second=sum(line.members for line in recent) / seconds if seconds else None,
        curve=tuple(
            line.fitness.mean for line in history[-_CURVE:] if line.fitness is not None and line.fitness.valid
        ),
    )
