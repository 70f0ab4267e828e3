"""Keeps the workers of a run on one machine running, as the Job controller does in a cluster.

A worker that dies is replaced, and its leases go back to the queue at once instead of when they run out. Every
incarnation has another name (worker-0, worker-0.1, ...), so that the queue never takes a new process for the
dead one.

What is watched is polled from the run's loop: no thread, so no locks, and `poll` is where failures surface.
Rejected: multiprocessing (workers must start as they do in a pod, from a command line), a supervisor such as
honcho or circus (they know neither leases nor exit codes).
"""

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from esft.errors import EXIT_DRAINED, EXIT_FINISHED, EXIT_SPEC, QueueUnavailableError, RunNotFoundError
from esft.status.report import Reason
from esft.status.snapshot import Problem, Worker
from esft.status.words import INVALID_SPEC, WORKERS_FAILED, WORKERS_FAILING
from esft_local.worker_log import last_error

_CRASHES_WITHOUT_PROGRESS = 5
_FIRST_BACKOFF_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 30.0
_POLL_SECONDS = 0.05
_STATES = {EXIT_FINISHED: "done", EXIT_DRAINED: "drained"}  # how one that was asked to end has left


@dataclass(slots=True)
class _Slot:
    """One of the N workers: at most one process at a time."""

    index: int
    environment: Mapping[str, str]
    log: Path
    incarnation: int = 0
    process: subprocess.Popen[bytes] | None = None
    log_start: int = 0
    crashes: int = 0
    start_at: float = 0.0
    state: str = ""  # as of a Worker; empty before the first start
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    last_error: str = ""  # of the latest crash; empty once the run has got on

    @property
    def name(self) -> str:
        return f"worker-{self.index}" + (f".{self.incarnation}" if self.incarnation else "")

    @property
    def finished(self) -> bool:
        return self.state == "done"

    def seen(self, registered: Container[str]) -> Worker:
        if self.state == "starting" and self.name in registered:
            self.state = "ready"  # until it ends, as a pod: it leaves Redis a moment before
        has_problem = self.last_error and self.state != "ready"
        problem = Problem(reason=WORKERS_FAILING, message=self.last_error) if has_problem else None
        return Worker(name=self.name, state=self.state, created_at=self.started_at, problem=problem)


class WorkerPool:
    """N worker processes, kept running until the run ends.

    Args:
        command: gives the command line of the worker of a name.
        environments: one a worker; their number is N.
        logs: folder for worker-0.log, worker-1.log ...: stdout and stderr of all incarnations.
        leave: hands a dead worker's leases back; QueueUnavailableError makes it be called again later.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        command: Callable[[str], Sequence[str]],
        environments: Sequence[Mapping[str, str]],
        logs: Path,
        leave: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = command
        self._leave = leave
        self._clock = clock
        self._slots = [
            _Slot(index=index, environment=environment, log=logs / f"worker-{index}.log")
            for index, environment in enumerate(environments)
        ]
        self._departed: list[str] = []
        self._progress = -1

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each running worker, by name."""
        return {slot.name: slot.process.pid for slot in self._slots if slot.process is not None}

    @property
    def logs(self) -> list[Path]:
        """The log of each worker."""
        return [slot.log for slot in self._slots]

    def workers(self, registered: Container[str]) -> list[Worker]:
        """Each worker that was ever started, as it is now; `registered` names those that Redis knows."""
        return [slot.seen(registered) for slot in self._slots if slot.state]

    @property
    def finished(self) -> bool:
        """Whether every worker has ended on its own with exit code 0."""
        return all(slot.finished for slot in self._slots)

    def start(self) -> None:
        """Start every worker."""
        for slot in self._slots:
            self._departed.append(slot.name)  # an earlier session's worker may hold leases under this name
        self._hand_leases_back()
        for slot in self._slots:
            self._spawn(slot)

    def poll(self, progress: int) -> Reason | None:
        """Notice workers that ended and start those that are due.

        Args:
            progress: any number that rises while the run gets on (items reported); it forgives crashes.

        Returns:
            Why the run cannot go on, where that is so: a worker said that the spec cannot work, or workers
            crash again and again without progress.
        """
        if progress != self._progress:
            self._progress = progress
            for slot in self._slots:
                slot.crashes, slot.last_error = 0, ""
        failure = None
        for slot in self._slots:
            if slot.process is not None and slot.process.poll() is not None:
                failure = self._ended(slot) or failure
        self._hand_leases_back()
        if failure is None:
            for slot in self._slots:
                if slot.process is None and not slot.finished and self._clock() >= slot.start_at:
                    self._spawn(slot)
        return failure

    def wait(self, *, seconds: float, hurry: Callable[[], bool] = lambda: False) -> bool:
        """Wait for workers to end on their own, unless in a hurry; whether all have."""
        deadline = self._clock() + seconds
        return all(self._wait_for(slot, deadline, hurry) for slot in self._slots)

    def drain(self, *, seconds: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Ask every worker to hand its leases back and end; kill those that take longer."""
        running = [(slot, slot.process) for slot in self._slots if slot.process is not None]
        for slot, process in running:
            slot.state = "leaving"
            process.terminate()
            if process.stdin is not None:
                process.stdin.close()
        deadline = self._clock() + seconds
        for slot, process in running:
            if not self._wait_for(slot, deadline, hurry):
                process.kill()
                process.wait()
            slot.state = _STATES.get(process.returncode, "failed")
            if slot.state == "failed":
                self._departed.append(slot.name)
            slot.process = None
        self._hand_leases_back()

    def _spawn(self, slot: _Slot) -> None:
        slot.log.parent.mkdir(parents=True, exist_ok=True)
        slot.incarnation += bool(slot.state)
        slot.state, slot.started_at = "starting", datetime.now(UTC)
        with slot.log.open("ab") as log:
            slot.log_start = log.tell()
            slot.process = subprocess.Popen(
                self._command(slot.name),
                stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
                stdout=log,
                stderr=log,
                env=slot.environment,
                start_new_session=True,  # Ctrl-C is for the runner alone, which then drains
            )

    def _ended(self, slot: _Slot) -> Reason | None:
        process, slot.process = slot.process, None
        assert process is not None  # noqa: S101 - for the type checker; the caller polled it
        if process.stdin is not None:
            process.stdin.close()
        code = process.returncode
        slot.state = "done" if code == EXIT_FINISHED else "failed"
        if slot.finished:
            return None
        name = slot.name
        self._departed.append(name)
        slot.crashes += 1
        slot.start_at = self._clock() + _backoff(slot.crashes)
        message = last_error(slot.log, start=slot.log_start) or "it wrote no message"
        slot.last_error = f"{name} ended with {_exit_in_words(code)}: {message}"
        if code != EXIT_SPEC and slot.crashes < _CRASHES_WITHOUT_PROGRESS:
            return None
        if code == EXIT_SPEC:
            return INVALID_SPEC, message
        crashes = f"{name} ended {slot.crashes} times without progress, last with {_exit_in_words(code)}"
        return WORKERS_FAILED, f"{crashes}: {message} (see {slot.log})"

    def _hand_leases_back(self) -> None:
        while self._departed:
            try:
                with contextlib.suppress(RunNotFoundError):
                    self._leave(self._departed[0])
            except QueueUnavailableError:
                return
            self._departed.pop(0)

    def _wait_for(self, slot: _Slot, deadline: float, hurry: Callable[[], bool]) -> bool:
        while slot.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                slot.process.wait(_POLL_SECONDS)
                return True
            if hurry() or self._clock() > deadline:
                return False
        return True


def _backoff(crashes: int) -> float:
    """Seconds until the next start: none after a first crash, then doubling up to a cap."""
    if crashes <= 1:
        return 0.0
    return float(min(_LONGEST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** (crashes - 2)))


def _exit_in_words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
