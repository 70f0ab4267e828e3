"""Tasks from outside the project, named as package.module:Class, for tests that need a reward of their own."""

import time
from collections.abc import Sequence
from typing import Any

from esft_worker.tasks import Example, Grade, Split, Task


class ManyOnes(Task[Any]):
    """A reward that any random model can climb: the share of ones among a completion's characters."""

    def examples(self, split: Split, *, held_out: Sequence[Example] = ()) -> list[Example]:
        return [Example(prompt=f"{index} + {split.seed} =") for index in range(split.size or 1)]

    def grade(self, example: Example, completion: str) -> Grade:
        share = completion.count("1") / max(len(completion), 1)
        return Grade(reward=share, score=share)


class Raises(ManyOnes):
    def grade(self, example: Example, completion: str) -> Grade:
        raise ZeroDivisionError("by zero")


class Hangs(ManyOnes):
    grade_timeout_seconds = 1.0

    def grade(self, example: Example, completion: str) -> Grade:
        while True:
            time.sleep(1)
