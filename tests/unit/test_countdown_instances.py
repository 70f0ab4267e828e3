import itertools
import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esft.errors import SpecError
from esft_worker.tasks import Split, load_examples, load_task
from esft_worker.tasks.countdown_instances import Instance, draw, generate, read_jsonl


def reachable(values):
    """All values that the numbers give, each used once: brute force, with negatives and fractions."""
    if len(values) == 1:
        return {values[0]}
    found = set()
    for first, second in itertools.combinations(range(len(values)), 2):
        rest = [value for place, value in enumerate(values) if place not in {first, second}]
        left, right = values[first], values[second]
        results = {left + right, left - right, right - left, left * right}
        results |= {left / right} if right else set()
        results |= {right / left} if left else set()
        for result in results:
            found |= reachable([*rest, result])
    return found


def test_golden_values():
    assert generate(size=4, seed=0) == [
        Instance((3, 96, 19), 13),
        Instance((34, 25, 60, 44), 7),
        Instance((39, 42, 65, 1), 62),
        Instance((91, 32, 50), 9),
    ]
    assert generate(size=3, seed=0, counts=(3,), max_number=12) == [
        Instance((4, 11, 12), 4),
        Instance((2, 6, 8), 1),
        Instance((1, 9, 5), 15),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_every_instance_can_be_solved(seed):
    for instance in generate(size=12, seed=seed, counts=(2, 3, 4), max_number=20, max_target=50):
        assert instance.target in reachable([Fraction(number) for number in instance.numbers]), instance


@settings(max_examples=30)
@given(
    seed=st.integers(min_value=0, max_value=2**64),
    size=st.integers(min_value=1, max_value=60),
    more=st.integers(min_value=0, max_value=60),
    ranges=st.fixed_dictionaries(
        {
            "counts": st.lists(st.integers(min_value=2, max_value=5), min_size=1, max_size=3),
            "max_number": st.integers(min_value=9, max_value=200),
            "max_target": st.integers(min_value=30, max_value=999),
        }
    ),
)
def test_prefix_bounds_and_distinctness(seed, size, more, ranges):
    fewer = generate(size=size, seed=seed, **ranges)
    instances = generate(size=size + more, seed=seed, **ranges)
    assert instances[:size] == fewer
    assert len(instances) == len({instance.key for instance in instances}) == size + more
    for instance in instances:
        assert len(instance.numbers) in ranges["counts"]
        assert all(1 <= number <= ranges["max_number"] for number in instance.numbers)
        assert 1 <= instance.target <= ranges["max_target"]


def test_exclusion_removes_and_keeps_the_order():
    instances = generate(size=40, seed=3)
    excluded = {instance.key for instance in instances[::2]}
    remaining = [instance for instance in instances if instance.key not in excluded]
    assert generate(size=len(remaining), seed=3, exclude=excluded) == remaining


def test_the_same_numbers_in_another_order_are_the_same_instance():
    assert Instance((3, 5, 8), 16).key == Instance((8, 3, 5), 16).key != Instance((3, 5, 8), 17).key


def test_generation_ends_when_the_instances_do():
    instances = generate(size=10**9, seed=0, counts=(2,), max_number=5, max_target=5)
    every = {
        (pair, target)
        for pair in itertools.combinations_with_replacement(range(1, 6), 2)
        for target in reachable([Fraction(number) for number in pair])
        if target.denominator == 1 and 1 <= target <= 5
    }
    assert {instance.key for instance in instances} == every


@pytest.mark.parametrize("seeds", [(0, 1), (5, 5)])
def test_train_has_nothing_of_test(seeds):
    task = load_task("countdown", {"numbers": [3], "maxNumber": 12, "style": "compact"})
    examples = load_examples(task, train=Split("train", 400, seeds[0]), test=Split("test", 500, seeds[1]))
    keys = [
        {(tuple(sorted(example.data["numbers"])), example.data["target"]) for example in split}
        for split in (examples.train, examples.test)
    ]
    assert [len(split) for split in keys] == [400, 500]
    assert not keys[0] & keys[1]
    test = generate(size=500, seed=seeds[1], counts=(3,), max_number=12)
    assert [example.data["numbers"] for example in examples.test] == [instance.numbers for instance in test]


def test_too_few_instances_is_one_clear_error():
    task = load_task("countdown", {"numbers": [2], "maxNumber": 5, "maxTarget": 5})
    train, test = Split("train", 20), Split("test", 20, seed=1)
    with pytest.raises(
        SpecError, match=r"^spec\.task\.train\.size: is 20, but only 5 .* beside the 20 of spec\.task\.test"
    ):
        load_examples(task, train=train, test=test)
    with pytest.raises(SpecError, match=r"^spec\.task\.test\.size: is 26, but only 25 "):
        load_examples(task, train=train, test=Split("test", 26))


def test_a_split_needs_size_or_source():
    with pytest.raises(SpecError, match=r"^spec\.task\.train: .* Fix: set `size`"):
        load_examples(load_task("countdown", {}), train=Split("train"), test=None)


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_reads_jsonl(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        '{"numbers": [3, 5, 8], "target": 16}',
        "",
        '{"target": 7, "numbers": [1, 7], "comment": "other keys are ignored"}',
        '{"numbers": [8, 5, 3], "target": 16}',
    )
    assert read_jsonl(path) == [Instance((3, 5, 8), 16), Instance((1, 7), 7)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", '"numbers" is not a list'),
        ('{"nums": [1, 2], "target": 3}', '"numbers" is not a list'),
        ('{"numbers": [1], "target": 3}', '"numbers" is not a list'),
        ('{"numbers": [1, "2"], "target": 3}', '"numbers" is not a list'),
        ('{"numbers": [1, -2], "target": 3}', '"numbers" is not a list'),
        ('{"numbers": [1, true], "target": 3}', '"numbers" is not a list'),
        ('{"numbers": [1, 2], "target": "3"}', '"target" is not an integer'),
        ('{"numbers": [1, 2], "target": 3.5}', '"target" is not an integer'),
        ('{"numbers": [1, 2]}', '"target" is not an integer'),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = write(tmp_path / "a.jsonl", '{"numbers": [3, 5, 8], "target": 16}', line)
    with pytest.raises(SpecError) as error:
        read_jsonl(path)
    assert str(error.value).startswith(f"{path}:2: {message}")
    assert 'Fix: write lines such as {"numbers": [3, 5, 8], "target": 16}.' in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"numbers": [1, 2], "target": 3, "name": "\xe9"}\n')
    with pytest.raises(SpecError, match=r"latin\.jsonl: is not text"):
        read_jsonl(tmp_path / "latin.jsonl")
    with pytest.raises(SpecError, match=r"missing\.jsonl: cannot be read: No such file or directory"):
        read_jsonl(tmp_path / "missing.jsonl")
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        read_jsonl(tmp_path)


@pytest.fixture
def ten(tmp_path):
    instances = generate(size=10, seed=0)
    lines = [json.dumps({"numbers": instance.numbers, "target": instance.target}) for instance in instances]
    return f"file://{write(tmp_path / 'ten.jsonl', *lines)}", instances


def test_a_source_is_taken_whole_or_drawn_from(ten):
    source, instances = ten
    task = load_task("countdown", {"style": "compact"})
    whole = load_examples(task, train=Split("train", source=source), test=None).train
    assert [example.data["numbers"] for example in whole] == [instance.numbers for instance in instances]
    drawn = load_examples(
        task, train=Split("train", 7, source=source), test=Split("test", 3, seed=1, source=source)
    )
    assert {example.prompt for example in (*drawn.train, *drawn.test)} == {
        example.prompt for example in whole
    }


def test_a_source_with_too_few_instances(ten):
    source, _ = ten
    test = Split("test", 3, source=source)
    with pytest.raises(
        SpecError, match=r"^spec\.task\.train\.size: is 8, but .* has only 7 instances beside"
    ):
        load_examples(load_task("countdown", {}), train=Split("train", 8, source=source), test=test)


@pytest.mark.parametrize("source", ["hf://org/name", "s3://bucket/a.jsonl", "file:///data/a.parquet"])
def test_sources_that_are_not_supported(source):
    with pytest.raises(SpecError, match=r"^spec\.task\.train\.source: .* reads JSONL files only"):
        load_examples(load_task("countdown", {}), train=Split("train", source=source), test=None)


@given(st.integers(min_value=0, max_value=9), st.integers(min_value=0, max_value=2**32))
def test_drawing_is_seeded_without_replacement_and_has_the_prefix_property(size, seed):
    instances = generate(size=10, seed=0)
    drawn = draw(instances, size=size, seed=seed)
    assert len(set(drawn)) == size
    assert draw(instances, size=10, seed=seed)[:size] == drawn


def test_drawing_is_golden():
    instances = [Instance((1, number), number) for number in range(1, 7)]
    assert [instance.target for instance in draw(instances, size=6, seed=0)] == [6, 5, 4, 3, 1, 2]
