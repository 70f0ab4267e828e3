"""How many workers a run should have: pure, damped, within bounds.

More workers than members are of no use, and the tail of a generation is no reason to send workers away: they would be
missed at the start of the next, seconds later. So the bound is the population, not what is left of one generation,
except in the last one, which only measures and saves.
"""

import math
from dataclasses import dataclass
from typing import Final

from esft.spec import ESFineTuneSpec

_TOLERANCE: Final = 0.15  # part of the target by which a generation may be off before the number changes
_FACTOR: Final = 2.0  # the most that one step changes the number by
_GENERATIONS_BETWEEN: Final = 2  # measured at the new size before the next step


@dataclass(frozen=True, slots=True)
class Load:
    """What sizing looks at.

    Attributes:
        member_seconds: work in a generation, summed over its items, averaged over the latest ones; None before any.
        generations_since_change: closed since the number of workers last changed.
        items: in the open generation; None when that is not known.
        is_last: whether the open generation is the last, which only measures and saves.
    """

    member_seconds: float | None
    generations_since_change: int
    items: int | None
    is_last: bool


def desired_workers(spec: ESFineTuneSpec, load: Load, *, current: int) -> int:
    """Workers wanted while the run goes on, from `minReplicas` to `maxReplicas`; `current` until now, 0 at first."""
    workers = spec.workers
    if workers.autoscaling.target_generation_seconds is not None:
        wanted = _for_target(workers.autoscaling.target_generation_seconds, load, current=current)
    else:
        wanted = workers.max_replicas if workers.replicas is None else workers.replicas
    useful = min(max(workers.min_replicas, wanted), workers.max_replicas, _most_useful(spec, load))
    return max(useful, min(workers.min_replicas, 1))


def _most_useful(spec: ESFineTuneSpec, load: Load) -> int:
    items = spec.evolution.population
    if load.is_last and load.items is not None:
        items = load.items
    return math.ceil(items / spec.workers.claim_size)


def _for_target(target_seconds: int, load: Load, *, current: int) -> int:
    """Workers that make a generation take about that long; at least one, since without any nothing is measured."""
    if load.member_seconds is None:
        return max(1, current)
    exact = load.member_seconds / target_seconds
    if current == 0:
        return max(1, math.ceil(exact))
    on_target = abs(exact / current - 1) <= _TOLERANCE or math.ceil(exact) == current
    if on_target or load.generations_since_change < _GENERATIONS_BETWEEN:
        return current
    step = min(max(exact, current / _FACTOR), current * _FACTOR)
    return max(1, math.ceil(step))
