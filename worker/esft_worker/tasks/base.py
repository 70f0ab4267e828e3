"""Defines what anyone may train on: a task is prompts to answer, and a reward for each answer.

A task is a class, not a pair of functions, so that its options are one validated model which both splits
share. Every process that takes part builds the examples for itself, hence `Task.examples` has to be a pure
function of the options and the split: a set's order, the time of day or an unseeded generator would give each
worker other prompts. `Examples.fingerprint` is how that is noticed.

Rejected: sending the examples from one process to the others (they would have to be serialisable, and a late
worker would need them again), and rewards for whole batches (a reward is a property of one completion).
"""

import functools
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from esft.errors import SpecError

Role = Literal["system", "user", "assistant"]
SplitName = Literal["train", "test"]


class TaskError(SpecError):
    """A task breaks its contract: its reward raised, hung or gave no number, or its examples vary."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat."""

    role: Role
    content: str


Prompt = str | tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt and what its grading needs.

    Attributes:
        prompt: plain text to continue, or the messages of a chat, for the tokenizer's chat template.
        data: whatever the task's `grade` wants to know (the right answer, say); the model does not see it.
    """

    prompt: Prompt
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grade:
    """What one completion is worth.

    Attributes:
        reward: what is maximised; finite.
        score: the task's measure for people, such as 1 for a right answer, the mean then being the accuracy;
            finite.
    """

    reward: float
    score: float


@dataclass(frozen=True, slots=True)
class Split:
    """Which examples to make: `spec.task.train` or `spec.task.test`.

    Attributes:
        name: `train` or `test`, for messages.
        size: number of examples; None only with `source`: all of it.
        seed: what the examples are generated, or drawn from the source, with.
        source: where to read the examples instead of generating them, such as `file:///data/train.jsonl`.
    """

    name: SplitName
    size: int | None = None
    seed: int = 0
    source: str | None = None


@dataclass(frozen=True)
class Examples:
    """The examples of a run; `test` is empty where the spec has no test split."""

    train: tuple[Example, ...]
    test: tuple[Example, ...] = ()

    def of(self, split: SplitName) -> tuple[Example, ...]:
        """Give the examples of one split."""
        return self.train if split == "train" else self.test

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of all prompts in order, 16 hexadecimal digits: equal wherever a run's examples are built."""
        prompts = [[_plain(example.prompt) for example in split] for split in (self.train, self.test)]
        return hashlib.blake2b(json.dumps(prompts).encode("ascii"), digest_size=8).hexdigest()


class TaskOptions(BaseModel):
    """Base of a task's options: camelCase in YAML, snake_case in Python, types and names as declared."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, strict=True)


OptionsT = TypeVar("OptionsT", bound=BaseModel)


class Task(ABC, Generic[OptionsT]):
    """Prompts and their reward. Subclasses set `options_model` and write `examples` and `grade`.

    Attributes:
        options_model: what `spec.task.options` is validated with.
        grade_timeout_seconds: how long grading one batch of completions may take before the run fails.
        options: the validated options.
    """

    options_model: ClassVar[type[BaseModel]] = TaskOptions
    grade_timeout_seconds: ClassVar[float] = 60.0

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @abstractmethod
    def examples(self, split: Split, *, held_out: Sequence[Example] = ()) -> Sequence[Example]:
        """Make a split's examples: the same ones in every process, in the same order.

        Args:
            split: what the spec asks for.
            held_out: the test split's examples, which the training split should not contain.

        Raises:
            SpecError: the split cannot be made; the message names the field and the fix.
        """

    @abstractmethod
    def grade(self, example: Example, completion: str) -> Grade:
        """Say what a completion of the example's prompt is worth.

        Args:
            example: one of `examples`.
            completion: what the model added to the prompt, without special tokens; any text, however bad.
        """


def _plain(prompt: Prompt) -> object:
    return prompt if isinstance(prompt, str) else [[message.role, message.content] for message in prompt]
