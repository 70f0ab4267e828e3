"""Countdown: reach a target with each given number used once, as in "ES at Scale" (arXiv 2509.24372).

The reward is the paper's: 0.1 x format + answer. Three styles of prompt exist because three kinds of model do: `chat`
for instruction-tuned ones, `text` for base models (the prompt then opens the reasoning itself, as in the paper), and
`compact` for models of a few million parameters, which have no room for tags.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from esft.errors import SpecError
from pydantic import Field

from esft_worker.tasks.base import Example, Grade, Message, Split, Task, TaskOptions
from esft_worker.tasks.countdown_instances import Instance, generate, read_jsonl
from esft_worker.tasks.expression import parse

FORMAT_WEIGHT: Final = 0.1
TOLERANCE: Final = Fraction(1, 100_000)

THINK: Final = "<think>"
THINK_END: Final = "</think>"
ANSWER: Final = "<answer>"
ANSWER_END: Final = "</answer>"

SYSTEM_PROMPT: Final = (
    "You are a helpful assistant. You first think about the reasoning process in your mind "
    "and then provide the user with the answer."
)

Style = Literal["chat", "text", "compact"]


class CountdownOptions(TaskOptions):
    """`spec.task.options` of countdown."""

    style: Style = Field(default="chat", description="Form of the prompt: chat, text or compact.")
    numbers: tuple[Annotated[int, Field(ge=2, le=6)], ...] = Field(
        default=(3, 4), min_length=1, max_length=5, description="How many numbers an instance may have."
    )
    max_number: int = Field(default=99, ge=1, le=9999, description="Largest number that is given.")
    max_target: int = Field(default=100, ge=1, le=99_999, description="Largest target.")


class Countdown(Task[CountdownOptions]):
    """The countdown task; a grade's score is 1 for a right answer and 0 otherwise."""

    options_model: ClassVar[type[CountdownOptions]] = CountdownOptions

    def examples(self, split: Split, *, held_out: Sequence[Example] = ()) -> list[Example]:
        """Generate the split's instances, or read them from its JSONL file; none is one of `held_out`."""
        exclude = {_instance(example).key for example in held_out}
        if split.source is not None:
            path = _jsonl_path(split.source, where=f"spec.task.{split.name}.source")
            instances = read_jsonl(path, size=split.size, exclude=exclude)
        elif split.size is None:
            raise SpecError(f"spec.task.{split.name}: needs a size, or a source to read the instances from.")
        else:
            instances = self._generated(split, size=split.size, exclude=exclude)
        return [self._example(instance) for instance in instances]

    def grade(self, example: Example, completion: str) -> Grade:
        """Grade as the paper does: 0.1 x format + answer, the answer being right or not."""
        instance = _instance(example)
        if self.options.style == "compact":
            well_formed = parse(completion) is not None
            return _grade(1.0 if well_formed else 0.0, correct=is_correct(completion, instance))
        response = THINK + completion if self.options.style == "text" else completion
        answer = last_answer(response)
        return _grade(format_score(response), correct=answer is not None and is_correct(answer, instance))

    def _generated(self, split: Split, *, size: int, exclude: set[Any]) -> list[Instance]:
        options = self.options
        instances = generate(
            size=size,
            seed=split.seed,
            counts=options.numbers,
            max_number=options.max_number,
            max_target=options.max_target,
            exclude=exclude,
        )
        if len(instances) < size:
            raise SpecError(
                f"spec.task.{split.name}.size: only {len(instances)} of {size} different instances exist or could "
                f"be found (beside {len(exclude)} of the other split) with numbers {list(options.numbers)}, "
                f"maxNumber {options.max_number} and maxTarget {options.max_target}. "
                "Ask for fewer, or raise spec.task.options.maxNumber or maxTarget."
            )
        return instances

    def _example(self, instance: Instance) -> Example:
        prompt: str | tuple[Message, ...]
        match self.options.style:
            case "chat":
                prompt = (
                    {"role": "system", "content": SYSTEM_PROMPT},
                    {"role": "user", "content": question(instance)},
                )
            case "text":
                prompt = f"{SYSTEM_PROMPT}\n{question(instance)}\nLet me solve this step by step.\n{THINK}"
            case "compact":
                prompt = compact_prompt(instance.numbers, instance.target)
        return Example(prompt=prompt, data={"numbers": instance.numbers, "target": instance.target})


def question(instance: Instance) -> str:
    """Put an instance as the paper does."""
    numbers = " ".join(map(str, instance.numbers))
    return (
        f"Using the numbers [{numbers}], create an equation that equals {instance.target}. "
        "You can use basic arithmetic operations (+, -, *, /) and each number can only be used once. "
        "Show your work in <think> </think> tags. And return the final answer in <answer> </answer> tags, "
        "for example <answer> (1 + 2) / 3 </answer>."
    )


def compact_prompt(numbers: Sequence[int], target: int) -> str:
    """Put an instance to a tiny model, which answers with the bare expression."""
    return f"{' '.join(map(str, numbers))} = {target} :"


def format_score(response: str) -> float:
    """Score the form of a response from 0 to 1, whatever its content.

    1.0 where it is reasoning, a line break and an answer, each in its tags, and nothing else (one trailing line
    break is allowed); otherwise 0.1 for a pair of think tags plus 0.5 for a pair of answer tags. Time is linear in the
    length, which the obvious regular expressions are not.
    """
    text = response.removesuffix("\n")
    if (
        text.startswith(THINK)
        and text.endswith(ANSWER_END)
        and f"{THINK_END}\n{ANSWER}" in text[len(THINK) : -len(ANSWER_END)]
    ):
        return 1.0
    return 0.1 * _has_pair(response, THINK, THINK_END) + 0.5 * _has_pair(response, ANSWER, ANSWER_END)


def last_answer(response: str) -> str | None:
    """Give what stands in the last pair of answer tags; pairs are matched from the left and do not nest."""
    answer = None
    position = 0
    while (start := response.find(ANSWER, position)) >= 0:
        end = response.find(ANSWER_END, start + len(ANSWER))
        if end < 0:
            break
        answer = response[start + len(ANSWER) : end]
        position = end + len(ANSWER_END)
    return answer


def is_correct(answer: str, instance: Instance) -> bool:
    """Say whether an answer is an expression of exactly the given numbers whose value is the target."""
    expression = parse(answer)
    if expression is None or sorted(expression.numbers) != sorted(instance.numbers):
        return False
    value = expression.value()
    return value is not None and abs(value - instance.target) < TOLERANCE


def _grade(form: float, *, correct: bool) -> Grade:
    return Grade(reward=FORMAT_WEIGHT * form + float(correct), score=float(correct))


def _has_pair(text: str, opening: str, closing: str) -> bool:
    start = text.find(opening)
    return start >= 0 and text.find(closing, start + len(opening)) >= 0


def _instance(example: Example) -> Instance:
    return Instance(numbers=example.data["numbers"], target=example.data["target"])


def _jsonl_path(source: str, *, where: str) -> Path:
    path = source.removeprefix("file://")
    if "://" in path or path.endswith(".parquet"):
        raise SpecError(
            f"{where}: {source!r} cannot be read; countdown reads JSON lines only. "
            'Give a file with lines such as {"numbers": [3, 5, 8], "target": 16}.'
        )
    return Path(path)
