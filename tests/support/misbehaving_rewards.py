"""Rewards that misbehave in every way we could think of, as the text of a module, and a grading process for them."""

import os
import select
from contextlib import contextmanager

from esft.spec import DataSpec, TaskSpec
from esft_worker.grading import Grader
from esft_worker.tasks import build_task

TIMEOUT = 60

REWARDS = """
import os, re, signal, subprocess, sys, time
from pathlib import Path
from esft_worker.tasks import Example, Grade, Task

class Patient(Task):
    "Does as the completion says; a word after a space is a file's name."

    def examples(self, split, *, held_out=()):
        return [Example(f"{split.name} {place}") for place in range(split.size)]

    def grade(self, example, completion):
        act, _, path = completion.partition(" ")
        return Grade(*getattr(self, act)(example, path))

    def place(self, example, path):
        return float(example.prompt.split()[1]), 0.0 if example.prompt.startswith("train") else 1.0

    def length(self, example, path):
        return len(path), sum(map(ord, path))

    def number(self, example, path):
        return 1, True

    def process(self, example, path):
        return os.getpid(), os.getsid(0)

    def wait(self, example, path):
        Path(path).write_text("waiting")
        return float(Path(path).read_text()), 0.0

    def fail(self, example, path):
        raise ValueError("first\\nsecond " + "x" * 1000)

    def exit(self, example, path):
        sys.exit(3)

    def nan(self, example, path):
        return float("nan"), 0.0

    def infinite(self, example, path):
        return 1.0, float("-inf")

    def text(self, example, path):
        return "1", 0.0

    def huge(self, example, path):
        return 10**400, 0.0

    def hang(self, example, path):
        Path(path).write_text(str(os.getpid()))
        time.sleep(3600)

    def backtrack(self, example, path):
        Path(path).write_text(str(os.getpid()))
        re.match("(a+)+$", "a" * 64 + "b")

    def die(self, example, path):
        os.kill(os.getpid(), signal.SIGKILL)

    def die_once(self, example, path):
        if not Path(path).exists():
            Path(path).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 1.0, 1.0

    def leave(self, example, path):
        "Ends, and leaves a process behind that holds all it held."
        pid = os.fork()
        if pid:
            Path(path).write_text(str(pid))
            os._exit(1)
        time.sleep(3600)

    def noise(self, example, path):
        print("printed")
        os.write(1, b"written\\n")
        subprocess.run(["echo", "echoed"], check=True)
        return 1.0, float(sys.stdin.read() == "")

    def alarm(self, example, path):
        "Ends itself by a signal, as math graders do."
        def ring(*_):
            raise TimeoutError
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        try:
            time.sleep(3600)
        except TimeoutError:
            return 0.5, 0.0

class NoGrade(Patient):
    def grade(self, example, completion):
        return 1.0

class Hasty(Patient):
    grade_timeout_seconds = 0.5

class Fickle(Patient):
    def examples(self, split, *, held_out=()):
        return [Example(f"process {os.getpid()}")]
"""


def task_of(name="Patient"):
    return TaskSpec(name=f"rewards:{name}", train=DataSpec(size=8), test=DataSpec(size=4, seed=1))


@contextmanager
def grading(name="Patient"):
    task = task_of(name)
    with Grader(task, build_task(task)[1]) as grader:
        yield grader


def grade(grader, *completions):
    return grader.submit("train", list(range(len(completions))), completions).result(TIMEOUT)


def pid_of(grader):
    return int(grade(grader, "process")[0].reward)


@contextmanager
def exit_of(pid):
    """Give a function that waits until the process has ended, be it a child of ours or not."""
    descriptor = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        yield lambda seconds: bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def pipe(path):
    """Make a named pipe, which a reward and a test wait for each other with: reading waits for a writer."""
    os.mkfifo(path)
    return path
