"""Runs rewards apart from the model: the process that `esft_worker.grading.Grader` starts as `python -m`.

It answers one line of JSON with another until there are no more: first `spec.task`, then batches of
completions. It ends by itself when its input does, so it does not outlive a worker that was killed.

The reward runs in the main thread, so that it may use signals, and whatever it prints goes to stderr. Another
thread reads the input, so as to notice its end even while a reward runs. A reward that takes too long meets
the watchdog of faulthandler, which prints where it is and needs no interpreter lock.
"""

import contextlib
import faulthandler
import json
import math
import numbers
import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import IO, Any, Final

from esft.errors import EsftError
from esft.spec import TaskSpec
from esft_worker.tasks.base import Examples, Grade, Task, TaskError
from esft_worker.tasks.registry import build_task, describe

ENDING_SECONDS: Final = 1.0
"""How long a batch may still run once the input has ended."""

_STDIN, _STDOUT, _STDERR = 0, 1, 2


def main() -> int:
    """Serve until the input ends. Ctrl-C is for the worker, and ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = _take_standard_streams()
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_to_the_end, args=(requests, lines), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        _serve(lines, replies)
    return 0


def _take_standard_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Keep stdin and stdout for the protocol; the task reads nothing and prints to stderr."""
    requests, replies = os.fdopen(os.dup(_STDIN), "rb"), os.fdopen(os.dup(_STDOUT), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, _STDIN)
    os.close(null)
    os.dup2(_STDERR, _STDOUT)
    return requests, replies


def _read_to_the_end(requests: IO[bytes], lines: "queue.SimpleQueue[bytes]") -> None:
    for line in requests:
        lines.put(line)
    lines.put(b"")
    time.sleep(ENDING_SECONDS)
    os._exit(0)


def _serve(lines: "queue.SimpleQueue[bytes]", replies: IO[bytes]) -> None:
    first = lines.get()
    if not first:
        return
    greeting = json.loads(first)
    sys.path[:] = greeting["path"]
    spec = TaskSpec.model_validate(greeting["task"])
    try:
        task, examples = build_task(spec)
    except EsftError as error:
        _send(replies, {"error": str(error)})
        return
    timeout = task.grade_timeout_seconds
    _send(replies, {"fingerprint": examples.fingerprint, "grade_timeout_seconds": timeout})
    while line := lines.get():
        request = json.loads(line)
        faulthandler.dump_traceback_later(timeout, exit=True, file=_STDERR)
        try:
            reply: dict[str, Any] = {"grades": _grade_batch(spec.name, task, examples, request)}
        except TaskError as error:
            reply = {"error": str(error)}
        finally:
            faulthandler.cancel_dump_traceback_later()
        _send(replies, reply)


def _send(replies: IO[bytes], message: dict[str, Any]) -> None:
    replies.write(json.dumps(message).encode("ascii") + b"\n")
    replies.flush()


def _grade_batch(
    name: str, task: Task[Any], examples: Examples, request: dict[str, Any]
) -> list[tuple[float, float]]:
    """Grade a batch.

    Returns:
        Reward and score of each completion.

    Raises:
        TaskError: the reward raised, or gave something other than finite numbers.
    """
    split = request["split"]
    grades = []
    for index, completion in zip(request["indices"], request["completions"], strict=True):
        which = f"example {index} of spec.task.{split}"
        try:
            grade = task.grade(examples.of(split)[index], completion)
        except (Exception, SystemExit) as error:  # the edge of other people's code
            traceback.print_exc()
            raise TaskError(
                f"spec.task.name: {name} raised {describe(error)} on {which}. "
                "Fix: see the traceback in the log."
            ) from error
        if not isinstance(grade, Grade):
            raise TaskError(f"spec.task.name: {name} gave no Grade, but {_shown(grade)}, on {which}.")
        reward = _finite(grade.reward, name, f"reward on {which}")
        score = _finite(grade.score, name, f"score on {which}")
        grades.append((reward, score))
    return grades


def _finite(value: object, name: str, what: str) -> float:
    if isinstance(value, numbers.Real):
        with contextlib.suppress(OverflowError):
            number = float(value)
            if math.isfinite(number):
                return number
    raise TaskError(f"spec.task.name: {name} gave {_shown(value)} as {what}. Fix: give a finite number.")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."  # noqa: PLR2004 - a line's worth


if __name__ == "__main__":
    sys.exit(main())
