"""The task of "ES at Scale" (arXiv 2509.24372), to compare with: reach a target with each given number used once.

The reward is the paper's: 0.1 x format + answer. There are three styles of prompt because there are three
kinds of model: `chat` for instruction-tuned ones; `text` for plain continuation, as in the paper, where the
prompt opens the reasoning; `compact` for models of a few million parameters, which have no room for tags.
"""

from collections.abc import Collection, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, NamedTuple

from pydantic import Field

from esft.errors import SpecError
from esft_worker.tasks.base import Example, Grade, Message, Prompt, Split, Task, TaskOptions
from esft_worker.tasks.countdown_instances import Instance, InstanceKey, draw, generate, read_jsonl
from esft_worker.tasks.expression import Expression, parse

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


class CountdownOptions(TaskOptions):
    """`spec.task.options` of countdown."""

    style: Literal["chat", "text", "compact"] = Field(
        default="chat", description="Form of the prompt: messages of a chat, plain text, or for tiny models."
    )
    numbers: tuple[Annotated[int, Field(ge=2, le=6)], ...] = Field(
        default=(3, 4), min_length=1, max_length=5, description="How many numbers an instance may have."
    )
    max_number: int = Field(default=99, ge=1, le=9999, description="Largest number that may be given.")
    max_target: int = Field(default=100, ge=1, le=99_999, description="Largest target.")


class Countdown(Task[CountdownOptions]):
    """The countdown task; a grade's score is 1 for a right answer and 0 otherwise."""

    options_model: ClassVar[type[CountdownOptions]] = CountdownOptions

    def examples(self, split: Split, *, held_out: Sequence[Example] = ()) -> list[Example]:
        """Generate the split's instances, or draw them from its JSONL file; none is one of `held_out`."""
        exclude = {_instance(example).key for example in held_out}
        if split.source is not None:
            instances = _from_source(split, split.source, exclude=exclude)
        elif split.size is not None:
            instances = self._generated(split, split.size, exclude=exclude)
        else:
            raise SpecError(f"spec.task.{split.name}: has neither size nor source. Fix: set `size`.")
        return [self._example(instance) for instance in instances]

    def grade(self, example: Example, completion: str) -> Grade:
        """Grade as the paper does: 0.1 x format + answer, the answer being right or not."""
        instance = _instance(example)
        if self.options.style == "compact":
            judgement = judge(completion, instance)
            form = float(judgement.well_formed)
        else:
            response = THINK + completion if self.options.style == "text" else completion
            judgement = judge(last_answer(response), instance)
            form = format_score(response)
        correct = float(judgement.correct)
        return Grade(reward=FORMAT_WEIGHT * form + correct, score=correct)

    def _generated(self, split: Split, size: int, *, exclude: Collection[InstanceKey]) -> list[Instance]:
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
            beside = f", beside the {len(exclude)} of spec.task.test" if exclude else ""
            raise SpecError(
                f"spec.task.{split.name}.size: is {size}, but only {len(instances)} different instances "
                f"were found with numbers {list(options.numbers)}, maxNumber {options.max_number} and "
                f"maxTarget {options.max_target}{beside}. "
                "Fix: lower it, or raise maxNumber or maxTarget in spec.task.options."
            )
        return instances

    def _example(self, instance: Instance) -> Example:
        prompt: Prompt
        match self.options.style:
            case "chat":
                prompt = (Message("system", SYSTEM_PROMPT), Message("user", question(instance)))
            case "text":
                prompt = f"{SYSTEM_PROMPT}\n{question(instance)}\nLet me solve this step by step.\n{THINK}"
            case "compact":
                prompt = compact_prompt(instance.numbers, instance.target)
        return Example(prompt=prompt, data={"numbers": instance.numbers, "target": instance.target})


def question(instance: Instance) -> str:
    """Put an instance in words, as the paper does."""
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
    """Score the form of a response, whatever its content.

    Linear in the response's length, which the obvious regular expressions are not.

    Returns:
        1.0 where it is reasoning, a line break and an answer, each in its tags, and nothing else but one
        trailing line break; otherwise 0.1 for a pair of think tags plus 0.5 for a pair of answer tags.
    """
    text = response.removesuffix("\n")
    inside = text[len(THINK) : -len(ANSWER_END)]
    if text.startswith(THINK) and text.endswith(ANSWER_END) and f"{THINK_END}\n{ANSWER}" in inside:
        return 1.0
    return 0.1 * _has_pair(response, THINK, THINK_END) + 0.5 * _has_pair(response, ANSWER, ANSWER_END)


def last_answer(response: str) -> str:
    """Give what stands in the last pair of answer tags; pairs are matched from the left and do not nest.

    Returns:
        The text between the tags; empty where there is no pair.
    """
    answer = ""
    position = 0
    while (start := response.find(ANSWER, position)) >= 0:
        end = response.find(ANSWER_END, start + len(ANSWER))
        if end < 0:
            break
        answer = response[start + len(ANSWER) : end]
        position = end + len(ANSWER_END)
    return answer


class Judgement(NamedTuple):
    """Whether an answer is an expression, and one that solves its instance."""

    well_formed: bool
    correct: bool


@lru_cache(maxsize=16_384)  # the members of a generation give mostly the same answers
def judge(answer: str, instance: Instance) -> Judgement:
    """Judge an answer."""
    expression = parse(answer)
    return Judgement(well_formed=expression is not None, correct=is_correct(expression, instance))


def is_correct(answer: Expression | None, instance: Instance) -> bool:
    """Say whether an answer is an expression of exactly the given numbers whose value is the target."""
    if answer is None or sorted(answer.numbers) != sorted(instance.numbers):
        return False
    value = answer.value()
    return value is not None and -TOLERANCE < value - instance.target < TOLERANCE


def _from_source(split: Split, source: str, *, exclude: Collection[InstanceKey]) -> list[Instance]:
    field = f"spec.task.{split.name}"
    path = source.removeprefix("file://")
    if "://" in path or path.endswith(".parquet"):
        raise SpecError(
            f"{field}.source: {source} cannot be read: countdown reads JSONL files only. "
            'Fix: give file:///FILE.jsonl with lines such as {"numbers": [3, 5, 8], "target": 16}.'
        )
    instances = [instance for instance in read_jsonl(Path(path)) if instance.key not in exclude]
    if split.size is None:
        return instances
    if split.size > len(instances):
        beside = f" beside those of the {len(exclude)} of spec.task.test" if exclude else ""
        raise SpecError(
            f"{field}.size: is {split.size}, but {path} has only {len(instances)} instances{beside}. "
            "Fix: lower it, or leave it out to take them all."
        )
    return draw(instances, size=split.size, seed=split.seed)


def _has_pair(text: str, opening: str, closing: str) -> bool:
    start = text.find(opening)
    return start >= 0 and text.find(closing, start + len(opening)) >= 0


def _instance(example: Example) -> Instance:
    return Instance(numbers=example.data["numbers"], target=example.data["target"])
