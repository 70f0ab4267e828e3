"""Instances of the countdown game: generated from a seed, or read from a JSONL file.

An instance is made backwards: draw numbers, combine them at random until one value is left, and call that value the
target. So every instance can be solved, without a search. Intermediate values are natural numbers, which rules out
`8/(3-8/3)`-like puzzles; the grader accepts such answers all the same.

Only `random.Random.random` is used, the one method whose sequence Python promises to keep from version to version.
"""

import json
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from esft.errors import SpecError

InstanceKey = tuple[tuple[int, ...], int]

MAX_MISSES: Final = 50_000
"""Draws in a row that give nothing new before the instances count as used up."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One puzzle: reach `target` with each of `numbers` used exactly once."""

    numbers: tuple[int, ...]
    target: int

    @property
    def key(self) -> InstanceKey:
        """What makes two instances the same puzzle: the numbers whatever their order, and the target."""
        return tuple(sorted(self.numbers)), self.target


def generate(
    *,
    size: int,
    seed: int,
    counts: Sequence[int] = (3, 4),
    max_number: int = 99,
    max_target: int = 100,
    exclude: Collection[InstanceKey] = (),
) -> list[Instance]:
    """Make `size` different solvable instances; the first k are those of `size=k`.

    Args:
        size: number of instances.
        seed: what they derive from.
        counts: how many numbers an instance may have; each is as likely.
        max_number: numbers are drawn evenly from 1 to this.
        max_target: targets are from 1 to this.
        exclude: keys of instances not to make.

    Returns:
        `size` instances, or fewer where `MAX_MISSES` draws in a row found no further one.
    """
    seen = set(exclude)
    instances: list[Instance] = []
    draws = _draws(seed=seed, counts=counts, max_number=max_number, max_target=max_target)
    misses = 0
    while len(instances) < size and misses < MAX_MISSES:
        instance = next(draws)
        if instance is None or instance.key in seen:
            misses += 1
            continue
        misses = 0
        seen.add(instance.key)
        instances.append(instance)
    return instances


def read_jsonl(path: Path, *, size: int | None, exclude: Collection[InstanceKey] = ()) -> list[Instance]:
    """Read one instance a line, as `{"numbers": [3, 5, 8], "target": 16}`; other keys and blank lines are ignored.

    Args:
        path: the file, UTF-8.
        size: at most so many instances; None: all.
        exclude: keys of instances to leave out.

    Raises:
        SpecError: the file cannot be read or a line is wrong; the message starts with the file and the line.
    """
    instances: list[Instance] = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if size is not None and len(instances) >= size:
                    break
                if line.strip():
                    instance = _parse_line(line, where=f"{path}:{number}")
                    if instance.key not in exclude:
                        instances.append(instance)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{path}: is not UTF-8 text ({error.reason}). Save it as JSON lines in UTF-8."
        ) from error
    return instances


def _draws(
    *, seed: int, counts: Sequence[int], max_number: int, max_target: int
) -> Iterator[Instance | None]:
    """Draw instances without end; None for a draw whose target is out of range."""
    generator = random.Random(seed)  # noqa: S311 - not for secrets

    def below(bound: int) -> int:
        return int(generator.random() * bound)

    while True:
        numbers = tuple(1 + below(max_number) for _ in range(counts[below(len(counts))]))
        values = list(numbers)
        while len(values) > 1:
            left = values.pop(below(len(values)))
            right = values.pop(below(len(values)))
            value = _combine(below(4), max(left, right), min(left, right))
            if value is None:
                break
            values.append(value)
        solved = len(values) == 1 and values[0] <= max_target
        yield Instance(numbers=numbers, target=values[0]) if solved else None


def _combine(operation: int, larger: int, smaller: int) -> int | None:
    """Combine two natural numbers; None where the result is not one."""
    match operation:
        case 0:
            return larger + smaller
        case 1:
            return larger - smaller or None
        case 2:
            return larger * smaller
        case _:
            return larger // smaller if larger % smaller == 0 else None


def _parse_line(line: str, *, where: str) -> Instance:
    example = '{"numbers": [3, 5, 8], "target": 16}'
    try:
        data: Any = json.loads(line)
    except ValueError as error:
        raise SpecError(
            f"{where}: not JSON ({error}). Write one object a line, such as {example}."
        ) from error
    if not isinstance(data, dict):
        raise SpecError(f"{where}: not an object. Write one object a line, such as {example}.")
    numbers, target = data.get("numbers"), data.get("target")
    if not (
        isinstance(numbers, list) and len(numbers) > 1 and all(_is_natural(number) for number in numbers)
    ):
        raise SpecError(
            f'{where}: "numbers" has to be a list of two or more natural numbers, as in {example}.'
        )
    if isinstance(target, bool) or not isinstance(target, int):
        raise SpecError(f'{where}: "target" has to be an integer, as in {example}.')
    return Instance(numbers=tuple(numbers), target=target)


def _is_natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
