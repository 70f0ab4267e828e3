import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.spec import ESFineTuneSpec
from esft_operator.decide.scaling import Load, desired_workers
from operator_situations import spec

NOTHING = Load(member_seconds=None, generations_since_change=0, items=None, is_last=False)
GENERATIONS = 40


def made(**workers: Any) -> ESFineTuneSpec:
    document = spec(evolution__population=30, workers=workers)
    return ESFineTuneSpec.model_validate(document, by_alias=True, by_name=False)


def aiming(seconds: int, **workers: Any) -> ESFineTuneSpec:
    return made(autoscaling={"targetGenerationSeconds": seconds}, **workers)


def load(work: float | None, *, since: int = 2, items: int | None = 30, is_last: bool = False) -> Load:
    return Load(work, since, items, is_last)


@pytest.mark.parametrize(
    ("workers", "wanted"),
    [
        ({"minReplicas": 1, "maxReplicas": 8}, 8),
        ({"minReplicas": 1, "maxReplicas": 8, "replicas": 3}, 3),
        ({"minReplicas": 0, "maxReplicas": 8, "replicas": 0}, 0),
        ({"minReplicas": 1, "maxReplicas": 100}, 30),  # members
        ({"minReplicas": 1, "maxReplicas": 100, "claimSize": 4}, 8),  # seed batches
        ({"minReplicas": 20, "maxReplicas": 100, "claimSize": 4}, 8),
        ({"minReplicas": 1, "maxReplicas": 8, "claimSize": 1000}, 1),
    ],
)
def test_without_a_target(workers: dict[str, Any], wanted: int) -> None:
    assert desired_workers(made(**workers), NOTHING, current=5) == wanted


@pytest.mark.parametrize(("items", "wanted"), [(2, 2), (1, 1), (None, 8), (200, 8)])
def test_the_last_generation_takes_as_many_as_it_has_items(items: int | None, wanted: int) -> None:
    assert desired_workers(made(maxReplicas=8), load(None, items=items, is_last=True), current=8) == wanted


@pytest.mark.parametrize(("low", "wanted"), [(0, 1), (1, 1), (3, 3)])
def test_before_anything_is_measured_there_is_someone_to_measure(low: int, wanted: int) -> None:
    assert desired_workers(aiming(10, minReplicas=low), NOTHING, current=0) == wanted
    assert desired_workers(aiming(10, minReplicas=low), load(0.0), current=0) == wanted


@pytest.mark.parametrize(
    ("work", "since", "current", "wanted"),
    [
        (None, 9, 5, 5),  # a restarted operator has no measurement, and leaves things as they are
        (40, 9, 0, 4),  # resumed
        (40, 9, 1, 2),  # at most twice as many at once
        (40, 9, 2, 4),
        (40, 1, 2, 2),  # the last change is not measured yet
        (40, 9, 4, 4),
        (44, 9, 4, 4),  # near enough
        (41, 9, 5, 5),
        (40, 9, 20, 10),  # at most half as many
        (1, 9, 2, 1),
        (1, 9, 1, 1),
        (10_000, 9, 8, 8),
    ],
)
def test_towards_a_target(work: float | None, since: int, current: int, wanted: int) -> None:
    found = desired_workers(aiming(10, minReplicas=0), load(work, since=since), current=current)
    assert found == min(wanted, 8)


@st.composite
def specs(draw: st.DrawFn) -> ESFineTuneSpec:
    high = draw(st.integers(1, 64))
    low = draw(st.integers(0, high))
    workers: dict[str, Any] = {
        "minReplicas": low,
        "maxReplicas": high,
        "claimSize": draw(st.integers(1, 9)),
    }
    if draw(st.booleans()):
        workers["autoscaling"] = {"targetGenerationSeconds": draw(st.integers(1, 1000))}
    elif draw(st.booleans()):
        workers["replicas"] = draw(st.integers(low, high))
    return made(**workers)


@given(
    specs(),
    st.none() | st.floats(0, 1e9),
    st.integers(0, 5),
    st.none() | st.integers(1, 40),
    st.booleans(),
    st.integers(0, 64),
)
def test_bounds(
    spec: ESFineTuneSpec, work: float | None, since: int, items: int | None, is_last: bool, current: int
) -> None:
    found = desired_workers(spec, Load(work, since, items, is_last), current=current)
    workers = spec.workers
    assert 0 <= found <= workers.max_replicas
    most = items if is_last and items is not None else spec.evolution.population
    assert found <= -(-most // workers.claim_size)
    if workers.min_replicas > 0 or workers.autoscaling.target_generation_seconds is not None:
        assert found >= 1


@given(
    target=st.integers(1, 1000),
    work=st.floats(0.001, 1e6),
    start=st.integers(0, 64),
    low=st.integers(0, 8),
    high=st.integers(8, 64),
)
def test_constant_work_is_converged_on_without_flapping(
    target: int, work: float, start: int, low: int, high: int
) -> None:
    spec = aiming(target, minReplicas=low, maxReplicas=high)
    sizes = [start]
    since = 2
    for _ in range(GENERATIONS):
        size = desired_workers(spec, load(work, since=since), current=sizes[-1])
        since = since + 1 if size == sizes[-1] else 0
        sizes.append(size)
    assert len(set(sizes[-20:])) == 1
    steps = [after - before for before, after in itertools.pairwise(sizes[1:]) if after != before]
    assert all(step > 0 for step in steps) or all(step < 0 for step in steps)
    final, exact = sizes[-1], work / target
    smallest, largest = max(1, low), min(high, 30)
    if exact <= smallest:
        assert final <= max(smallest, exact * 1.2 + 1)
    elif exact >= largest:
        assert final >= largest * 0.85
    else:
        assert exact * 0.85 <= final <= exact * 1.2 + 1
