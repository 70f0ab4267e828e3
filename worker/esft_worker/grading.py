"""Grades completions in a process of its own: the model's thread goes on, and a stuck reward can be ended.

A reward is other people's code. In a thread it would share the interpreter's lock with the model, and nothing
could end it: a regular expression that backtracks for hours does not even let other threads run. So one child
process builds the task for itself and grades one batch after the other, over pipes. A batch that takes too
long ends the child; one that kills it is tried once more.

Limits: one child, so a reward that is slower than the model holds it up.

Rejected: `multiprocessing` and process pools (a worker that dies breaks the pool, one that hangs cannot be
ended alone, and their start imports the parent's main module, torch and all); fork (unsafe beside CUDA and
threads).
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import IO, Any, Final, Self, TypeVar, cast

from esft.errors import EsftError
from esft.spec import TaskSpec
from esft_worker.tasks import Examples, Grade, SplitName, TaskError

START_TIMEOUT_SECONDS: Final = 300.0
"""For importing the task and building its examples, which may read a large file."""

OVERRUN_SECONDS: Final = 2.0
"""How long after its time the child may take to end itself before it is killed."""

CLOSE_SECONDS: Final = 3.0
"""How long the child may take to end once its input is closed before it is killed."""


ResultT = TypeVar("ResultT")


class GradingProcessError(EsftError):
    """The grading process died twice on one batch or one start: it ran out of memory, say."""


class Grader:
    """Grades batches in the order they are submitted. Thread-safe; a context manager.

    The child starts with `start` or the first batch, and again whenever it is needed and gone.
    """

    def __init__(self, task: TaskSpec, examples: Examples) -> None:
        """Hold what is graded; nothing is started yet.

        Args:
            task: what the child builds the task from.
            examples: what this process built from it; the child's have to be the same.
        """
        self._task = task
        self._examples = examples
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grader")
        self._lock = threading.Lock()  # of the three fields below, which `close` shares with the thread
        self._child: _Child | None = None
        self._asking = False
        self._closed = False
        self._grade_timeout_seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Future[None]:
        """Start the child ahead of the first batch.

        Returns:
            A future that is done when the child is ready. It raises what `submit`'s does.
        """
        return self._thread.submit(self._twice, self._start, "to start")

    def submit(
        self, split: SplitName, indices: Sequence[int], completions: Sequence[str]
    ) -> Future[list[Grade]]:
        """Grade a batch.

        Args:
            split: whose examples they are.
            indices: the examples' in the split.
            completions: a completion for each of them.

        Returns:
            A future of a grade for each completion. It raises TaskError where the reward raised, took longer
            than the task's `grade_timeout_seconds`, or gave something other than finite numbers;
            GradingProcessError where the child died twice; CancelledError where the grader was closed.

        Raises:
            ValueError: the indices are not of this split, or not as many as the completions.
            RuntimeError: the grader was closed before.
        """
        size = len(self._examples.of(split))
        if len(indices) != len(completions) or not all(0 <= index < size for index in indices):
            raise ValueError(
                f"{len(completions)} completions for the indices {list(indices)} in {size} examples of {split}"
            )
        request = {"split": split, "indices": list(indices), "completions": list(completions)}
        doing = f"to grade {len(indices)} completions of spec.task.{split}"
        return self._thread.submit(self._twice, lambda: self._grade(request, doing), doing)

    def close(self) -> None:
        """End the child and drop what is not graded yet: those futures raise CancelledError. Idempotent."""
        with self._lock:
            self._closed = True
            if self._asking and self._child is not None:
                self._child.kill()
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._child is not None:
            self._child.close()
            self._child = None

    def _twice(self, action: Callable[[], ResultT], doing: str) -> ResultT:
        """Do what needs the child, and once more with a fresh one if it dies."""
        try:
            return action()
        except _ChildDiedError:
            pass
        try:
            return action()
        except _ChildDiedError as death:
            raise GradingProcessError(
                f"the process that runs task {self._task.name} {death} {doing}, twice. "
                "Fix: see its last words in the log; where memory ran out, raise the worker's limit."
            ) from death

    def _start(self) -> None:
        with self._lock:
            if self._closed:
                raise CancelledError
            if self._child is not None:
                return
            self._child = _Child()
        greeting = {"path": sys.path, "task": self._task.model_dump(mode="json")}
        try:
            ready = self._ask(greeting, timeout=START_TIMEOUT_SECONDS, doing="to start")
        except TaskError:
            self._discard()
            raise
        self._grade_timeout_seconds = ready["grade_timeout_seconds"]
        if ready["fingerprint"] != self._examples.fingerprint:
            self._discard()
            raise TaskError(
                f"spec.task.name: {self._task.name} made other examples in the grading process than in the "
                "worker. Fix: let `examples` depend on nothing but the options and the split."
            )

    def _grade(self, request: dict[str, Any], doing: str) -> list[Grade]:
        self._start()
        reply = self._ask(request, timeout=self._grade_timeout_seconds, doing=doing)
        return [Grade(reward=reward, score=score) for reward, score in reply["grades"]]

    def _ask(self, message: dict[str, Any], *, timeout: float, doing: str) -> dict[str, Any]:
        """Have the child answer.

        Raises:
            TaskError: it reported an error, or took longer than `timeout` seconds.
            CancelledError: the grader was closed.
            _ChildDiedError: it died.
        """
        with self._lock:
            child = self._child
            if self._closed or child is None:
                raise CancelledError
            self._asking = True
        began = time.monotonic()
        try:
            reply = child.ask(message, timeout=timeout + OVERRUN_SECONDS)
        except _ChildDiedError as death:
            self._discard()
            if self._closed:
                raise CancelledError from death
            if time.monotonic() - began < timeout:
                raise
            raise TaskError(
                f"spec.task.name: {self._task.name} took more than {timeout:g} s {doing}. "
                "Fix: make it faster (the log shows where it was), or give its class a longer "
                "grade_timeout_seconds."
            ) from death
        finally:
            with self._lock:
                self._asking = False
        if "error" in reply:
            raise TaskError(reply["error"])
        return reply

    def _discard(self) -> None:
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.close()


class _ChildDiedError(Exception):
    """The child ended without an answer; the message says how, after "the process"."""


class _Child:
    """The grading process, seen from the worker: one line to it, one line from it."""

    def __init__(self) -> None:
        """Start it in a session of its own: what happens at the terminal, such as Ctrl-C, is the worker's."""
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-P", "-m", "esft_worker.tasks.grading_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._stdin = cast("IO[bytes]", self._process.stdin)
        self._stdout = cast("IO[bytes]", self._process.stdout)

    def ask(self, message: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        """Send a message and wait for the answer; a child that has none in `timeout` seconds is killed.

        Raises:
            _ChildDiedError: the child is gone, killed or not.
        """
        killer = threading.Timer(timeout, self.kill)
        killer.daemon = True
        killer.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                self._stdin.write(json.dumps(message).encode("ascii") + b"\n")
                self._stdin.flush()
            line = self._stdout.readline()
        finally:
            killer.cancel()
        if not line.endswith(b"\n"):
            self.kill()
            raise _ChildDiedError(_ending(self._process.wait()))
        reply: dict[str, Any] = json.loads(line)
        return reply

    def kill(self) -> None:
        """End the child, and what its task may have started, at once. Does not wait."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let the child end, kill it if it does not, and free what it held."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self._process.wait(timeout=CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._stdout.close()


def _ending(returncode: int) -> str:
    if returncode < 0:
        return f"was ended by signal {-returncode} ({signal.strsignal(-returncode)})"
    return f"ended with exit code {returncode}"
