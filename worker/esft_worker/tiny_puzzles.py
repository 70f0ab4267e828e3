"""Gives the model of `esft_worker.tiny` what it learns from in a minute: its tokens, puzzles and their answers.

Whole numbers are one token each, so a puzzle and its answer take 14 tokens. All puzzles that the task's generator
can make are enumerated once, as tensors; a batch is then a few tensor operations, without Python at each row.

Limits: three numbers only; puzzles of four are too many to enumerate.
"""

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from esft_worker.tasks.countdown_instances import OPERATIONS, InstanceKey, combine

PAD: Final = "<pad>"
EOS: Final = "<eos>"
UNKNOWN: Final = "<unk>"
MAX_INTEGER: Final = 100
VOCABULARY: Final = (PAD, EOS, UNKNOWN, *"=:+-*/()", *map(str, range(MAX_INTEGER + 1)))
TOKEN_IDS: Final = MappingProxyType({token: index for index, token in enumerate(VOCABULARY)})

ANSWER_TOKENS: Final = 8
"""Of the longest answer, such as `( 5 - 1 ) * 16`, and the end of sequence."""

IGNORED: Final = -100
"""Fills answers up; cross-entropy's own default for what is not to be predicted."""


def make_tokenizer() -> Any:
    """Make the tokenizer: one token for each whole number to `MAX_INTEGER` and each sign; no white space.

    Returns:
        A `transformers.PreTrainedTokenizerFast`.
    """
    tokenizer = Tokenizer(WordLevel(dict(TOKEN_IDS), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Split(Regex(r"[0-9]+|[^0-9\s]"), behavior="removed", invert=True)
    make: Any = PreTrainedTokenizerFast  # untyped there
    return make(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=32,
        clean_up_tokenization_spaces=False,
    )


@dataclass(slots=True)
class Solution:
    """The answer to teach for one puzzle.

    Attributes:
        tokens: an expression that gives the target.
        rank: the lower, the better to teach.
        ways: in how many ways combining the numbers gives the target; so much more often is it generated.
    """

    tokens: tuple[str, ...]
    rank: tuple[bool, bool, int, int]
    ways: int = 0


def solutions(numbers: tuple[int, int, int], *, max_target: int) -> dict[int, Solution]:
    """Solve every target that the task's generator can make of three numbers.

    Of several answers to a target the one to teach has no parentheses if that is possible, then starts with a
    sum or a difference if that is possible, so that puzzles alike have answers alike.

    Returns:
        Solutions by target, from 1 to `max_target`.
    """
    found: dict[int, Solution] = {}
    pairs = {(max(x, y), min(x, y), z) for x, y, z in itertools.permutations(numbers)}
    for x, y, z in sorted(pairs, reverse=True):
        for first, second in itertools.product(OPERATIONS, repeat=2):
            inner = combine(first, x, y)
            value = None if inner is None else combine(second, max(inner, z), min(inner, z))
            if inner is None or value is None or value > max_target:
                continue
            inner_is_left = second in "+*" or inner >= z
            tokens = _expression((str(x), first, str(y)), second, str(z), inner_is_left=inner_is_left)
            rank = ("(" in tokens, first in "*/", "+*-/".index(second), "+*-/".index(first))
            solution = found.setdefault(value, Solution(tokens=tokens, rank=rank))
            solution.ways += 1
            if rank < solution.rank:
                solution.tokens, solution.rank = tokens, rank
    return found


def _expression(
    inner: tuple[str, str, str], operation: str, other: str, *, inner_is_left: bool
) -> tuple[str, ...]:
    """Write `inner operation other`, or the other way round, with parentheses only where they are needed."""
    binds_weaker = inner[1] in "+-" and operation in "*/"
    after_inverse = not inner_is_left and (operation == "/" or (operation == "-" and inner[1] in "+-"))
    operand = ("(", *inner, ")") if binds_weaker or after_inverse else inner
    return (*operand, operation, other) if inner_is_left else (other, operation, *operand)


@dataclass(frozen=True, slots=True)
class Puzzles:
    """Puzzles to train on, as int64 token ids.

    Attributes:
        numbers: [puzzles, 3].
        targets: [puzzles].
        answers: [puzzles, ANSWER_TOKENS], filled up with `IGNORED`.
        weights: float64 [puzzles]: how often the task's generator makes each.
    """

    numbers: torch.Tensor
    targets: torch.Tensor
    answers: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def enumerate(cls, *, max_number: int, max_target: int, exclude: Collection[InstanceKey]) -> Self:
        """Enumerate all puzzles of three numbers from 1 to `max_number` whose keys are not in `exclude`."""
        numbers, targets, answers, weights = [], [], [], []
        for triple in itertools.combinations_with_replacement(range(1, max_number + 1), 3):
            orders = len(set(itertools.permutations(triple)))
            for target, solution in solutions(triple, max_target=max_target).items():
                if (triple, target) in exclude:
                    continue
                numbers.append([TOKEN_IDS[str(number)] for number in triple])
                targets.append(TOKEN_IDS[str(target)])
                answers.append(_answer_ids(solution.tokens))
                weights.append(solution.ways * orders)
        return cls(
            numbers=torch.tensor(numbers),
            targets=torch.tensor(targets),
            answers=torch.tensor(answers),
            weights=torch.tensor(weights, dtype=torch.float64),
        )

    def draw(
        self, size: int, *, habit_share: float, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw puzzles, their numbers in random order.

        Args:
            size: how many, with replacement.
            habit_share: share of them that is answered with the plain sum, right or wrong.
            generator: on the CPU.

        Returns:
            int64 prompts with their answers but for the last token, [size, 6 + ANSWER_TOKENS - 1], and int64
            answers [size, ANSWER_TOKENS], filled up with `IGNORED`.
        """
        rows = torch.multinomial(self.weights, size, replacement=True, generator=generator)
        order = torch.rand(size, 3, generator=generator).argsort(dim=1)
        numbers = self.numbers[rows].gather(1, order)
        is_habit = torch.rand(size, 1, generator=generator) < habit_share
        answers = torch.where(is_habit, _sums(numbers), self.answers[rows])
        equals = torch.full((size, 1), TOKEN_IDS["="])
        colon = torch.full((size, 1), TOKEN_IDS[":"])
        inputs = torch.cat([numbers, equals, self.targets[rows, None], colon, answers[:, :-1]], dim=1)
        return inputs.masked_fill(inputs == IGNORED, TOKEN_IDS[PAD]), answers


def _answer_ids(tokens: tuple[str, ...]) -> list[int]:
    ids = [*(TOKEN_IDS[token] for token in tokens), TOKEN_IDS[EOS]]
    return ids + [IGNORED] * (ANSWER_TOKENS - len(ids))


def _sums(numbers: torch.Tensor) -> torch.Tensor:
    """Answers that add the numbers up in their order: int64 [size, ANSWER_TOKENS] of [size, 3]."""
    sums = torch.full((numbers.shape[0], ANSWER_TOKENS), IGNORED)
    sums[:, 0:5:2] = numbers
    sums[:, 1:5:2] = TOKEN_IDS["+"]
    sums[:, 5] = TOKEN_IDS[EOS]
    return sums
