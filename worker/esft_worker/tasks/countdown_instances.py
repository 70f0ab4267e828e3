"""Makes countdown's instances: from a seed, so that every process has the same ones, or from a JSONL file.

An instance is made backwards: draw numbers, combine them at random until one value is left, and call that
value the target. So every instance can be solved, and none has to be searched for. Intermediate values are
natural numbers, so no instance needs a fraction on the way; the grader takes answers that have one.

Only `random.Random.random` is used, the one method whose sequence Python promises to keep between versions.
"""

import json
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from esft.errors import SpecError

InstanceKey = tuple[tuple[int, ...], int]

OPERATIONS: Final = "+-*/"

MAX_MISSES: Final = 20_000
"""Draws in a row that give nothing new before the instances count as used up."""

_LINE: Final = '{"numbers": [3, 5, 8], "target": 16}'


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
        counts: how many numbers an instance may have; each is drawn as often.
        max_number: numbers are drawn evenly from 1 to this.
        max_target: targets are from 1 to this.
        exclude: keys of instances not to make.

    Returns:
        `size` instances, or fewer where `MAX_MISSES` draws in a row gave no further one.
    """
    generator = random.Random(seed)
    seen = set(exclude)
    instances: list[Instance] = []
    misses = 0
    while len(instances) < size and misses < MAX_MISSES:
        count = counts[_below(len(counts), generator)]
        numbers = tuple(1 + _below(max_number, generator) for _ in range(count))
        target = _combine_all(numbers, generator)
        instance = Instance(numbers=numbers, target=target or 0)
        if target is None or target > max_target or instance.key in seen:
            misses += 1
            continue
        misses = 0
        seen.add(instance.key)
        instances.append(instance)
    return instances


def draw(instances: Sequence[Instance], *, size: int, seed: int) -> list[Instance]:
    """Draw `size` of the instances without replacement; the first k are those of `size=k`."""
    generator = random.Random(seed)
    pool = list(instances)
    for index in range(size):
        other = index + _below(len(pool) - index, generator)
        pool[index], pool[other] = pool[other], pool[index]
    return pool[:size]


def read_jsonl(path: Path) -> list[Instance]:
    """Read one instance a line, as `{"numbers": [3, 5, 8], "target": 16}`.

    Other keys and blank lines are ignored, and only the first of equal instances is kept.

    Raises:
        SpecError: the file cannot be read or a line is wrong; the message starts with the file and the line.
    """
    instances: dict[InstanceKey, Instance] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    instance = _parse_line(line, where=f"{path}:{number}")
                    instances.setdefault(instance.key, instance)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}. Fix: check the path.") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: is not text ({error.reason}). Fix: give a JSONL file in UTF-8.") from error
    return list(instances.values())


def _below(bound: int, generator: random.Random) -> int:
    return int(generator.random() * bound)


def _combine_all(numbers: Sequence[int], generator: random.Random) -> int | None:
    """Combine random pairs by random operations; None where a result is not a natural number."""
    values = list(numbers)
    while len(values) > 1:
        left = values.pop(_below(len(values), generator))
        right = values.pop(_below(len(values), generator))
        value = combine(OPERATIONS[_below(4, generator)], max(left, right), min(left, right))
        if value is None:
            return None
        values.append(value)
    return values[0]


def combine(operation: str, larger: int, smaller: int) -> int | None:
    """Combine two natural numbers by one of `OPERATIONS`; None where the result is not one."""
    match operation:
        case "+":
            return larger + smaller
        case "-":
            return larger - smaller or None
        case "*":
            return larger * smaller
        case _:
            return larger // smaller if larger % smaller == 0 else None


def _parse_line(line: str, *, where: str) -> Instance:
    try:
        data: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{where}: is not JSON ({error}). Fix: write lines such as {_LINE}.") from error
    numbers, target = (data.get("numbers"), data.get("target")) if isinstance(data, dict) else (None, None)
    if not (
        isinstance(numbers, list) and len(numbers) > 1 and all(_is_natural(number) for number in numbers)
    ):
        raise SpecError(
            f'{where}: "numbers" is not a list of two or more natural numbers. '
            f"Fix: write lines such as {_LINE}."
        )
    if isinstance(target, bool) or not isinstance(target, int):
        raise SpecError(f'{where}: "target" is not an integer. Fix: write lines such as {_LINE}.')
    return Instance(numbers=tuple(numbers), target=target)


def _is_natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
