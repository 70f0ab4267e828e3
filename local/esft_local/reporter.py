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
from esft.status import ESFineTuneStatus, WorkersStatus, report
from esft.status.clock import Clock
from esft.status.snapshot import Live, Snapshot, Worker
from esft_local.files import RunFolderError, write_atomically
from esft_local.folder import RunFolder
from esft_local.model import checkpoint_path
from esft_local.status import STATUS_FILE, saved_snapshot, snapshot_of

_SAVE_SECONDS: Final = 1.0
_RECENT: Final = 10  # generations that the speed is measured over
_CURVE: Final = 40  # generations that are drawn
_LEFT: Final = frozenset({"leaving", "drained", "done"})  # states of workers that are wanted no more


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
        redis_problem: report.Reason | None = None,
        suspended: report.Reason | None = None,
        outcome: report.Outcome | None = None,
    ) -> Snapshot:
        """The run as it is now, with what Redis said last and, in words, what is going on.

        `suspended` says why the session ends although the run is not over; `redis_problem`, why Redis cannot be asked.
        """
        folder, before = self._folder, self._status
        ledger, goes_on = folder.ledger, outcome is None and suspended is None
        ready = sum(worker.state == "ready" for worker in workers)
        desired = self._size - sum(worker.state in _LEFT for worker in workers)
        problems = [(worker.problem.reason, worker.problem.message) for worker in workers if worker.problem]
        standing = report.Standing(
            outcome=outcome,
            suspended=suspended,
            started=report.has_started(before, ledger, ready=ready),
            redis_problem=redis_problem,
            workers=report.workers_verdict(ready=ready, desired=desired, problem=next(iter(problems), None)),
            clock=Clock(self._seconds_before, self._began) if goes_on else Clock(folder.wall_seconds, None),
        )
        self._status = report.status_of(
            standing,
            ledger,
            folder.spec.spec,
            before=before,
            workers=WorkersStatus(desired=desired if goes_on else 0, ready=ready, selector=""),
            metadata_generation=folder.generation,
            checkpoint_uri=lambda generation: f"file://{checkpoint_path(folder.checkpoints, generation)}",
            now=datetime.now(UTC),
        )
        live = _live(folder, state, activity)
        return snapshot_of(
            folder.path,
            folder.spec,
            folder.uid,
            self._status,
            generation=folder.generation,
            workers=tuple(workers),
            live=live,
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
