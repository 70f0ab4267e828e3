import math
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from esft.population import noise_source, quantise, scheduled, shape, update_record
from esft.records import UpdateRecord

NAN, INF = math.nan, math.inf
SHAPINGS = ("zscore", "centeredRank", "raw")
ROOT = math.sqrt(1.5)

any_fitness = st.lists(st.floats(), max_size=40)
finite_fitness = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("fitness", "zscore", "centred", "raw"),
    [
        pytest.param((), (), (), (), id="nobody"),
        pytest.param((3.0,), (0,), (0,), (3.0,), id="one member"),
        pytest.param((2.0, 2.0, 2.0), (0, 0, 0), (0, 0, 0), (2, 2, 2), id="all equal"),
        pytest.param((0.1, 0.1, 0.1), (0, 0, 0), (0, 0, 0), (0.1, 0.1, 0.1), id="all equal, inexact mean"),
        pytest.param((1.0, 3.0, 2.0), (-ROOT, ROOT, 0), (-0.5, 0.5, 0), (1, 3, 2), id="three"),
        pytest.param((0.0, 1.0), (-1, 1), (-0.5, 0.5), (0, 1), id="two"),
        pytest.param((0.0, 1.0, 1.0, 2.0), None, (-0.5, 0, 0, 0.5), (0, 1, 1, 2), id="a tie"),
        pytest.param((1.0, 1.0, 0.0), None, (0.25, 0.25, -0.5), (1, 1, 0), id="a tie at the top"),
        pytest.param((NAN, 3.0, 1.0), (0, 1, -1), (0, 0.5, -0.5), (0, 3, 1), id="one missing"),
        pytest.param((INF, 3.0, 1.0, -INF), (0, 1, -1, 0), (0, 0.5, -0.5, 0), (0, 3, 1, 0), id="infinite"),
        pytest.param((NAN, NAN), (0, 0), (0, 0), (0, 0), id="none valid"),
        pytest.param((NAN, 5.0), (0, 0), (0, 0), (0, 5), id="one valid"),
        pytest.param((-1.7e308, 1.7e308), (-1, 1), (-0.5, 0.5), (-1.7e308, 1.7e308), id="huge"),
        pytest.param((5e-324, 0.0), (1, -1), (0.5, -0.5), (5e-324, 0), id="subnormal"),
        pytest.param((1.0, math.nextafter(1.0, 2.0)), (-1, 1), (-0.5, 0.5), None, id="neighbours"),
        pytest.param((0.0, -0.0), (0, 0), (0, 0), (0, 0), id="signed zeros"),
    ],
)
def test_shapes(fitness, zscore, centred, raw):
    for shaping, expected in zip(SHAPINGS, (zscore, centred, raw), strict=True):
        if expected is not None:
            assert shape(fitness, shaping) == pytest.approx(expected, rel=1e-15, abs=0), shaping


@given(any_fitness, st.sampled_from(SHAPINGS))
def test_shaping_is_total(fitness, shaping):
    weights = shape(fitness, shaping)
    assert len(weights) == len(fitness)
    assert all(map(math.isfinite, weights))
    assert all(
        weight == 0 for weight, value in zip(weights, fitness, strict=True) if not math.isfinite(value)
    )


@given(any_fitness, st.sampled_from(SHAPINGS), st.randoms(use_true_random=False))
def test_shaping_does_not_depend_on_the_order_of_members(fitness, shaping, shuffler: random.Random):
    order = list(range(len(fitness)))
    shuffler.shuffle(order)
    weights = shape(fitness, shaping)
    assert shape([fitness[i] for i in order], shaping) == tuple(weights[i] for i in order)


@given(finite_fitness)
def test_zscores_have_mean_0_and_deviation_1(fitness):
    weights = shape(fitness, "zscore")
    assert math.fsum(weights) == pytest.approx(0, abs=1e-9)
    if len(set(fitness)) > 1:
        assert math.fsum(weight**2 for weight in weights) == pytest.approx(len(weights))


@given(finite_fitness)
def test_better_members_never_weigh_less(fitness):
    for shaping in SHAPINGS:
        by_fitness = [weight for _, weight in sorted(zip(fitness, shape(fitness, shaping), strict=True))]
        assert by_fitness == sorted(by_fitness)


@given(finite_fitness)
def test_ranks_are_centred(fitness):
    weights = shape(fitness, "centeredRank")
    assert math.fsum(weights) == pytest.approx(0, abs=1e-12)
    assert all(-0.5 <= weight <= 0.5 for weight in weights)


@pytest.mark.parametrize(
    ("coefficients", "integers", "exponent"),
    [
        ((), (), 0),
        ((0.0, -0.0), (0, 0), 0),
        ((1.0, -0.5), (2**23, -(2**22)), -23),
        ((-1.0, 2.0**-24), (-(2**23), 0), -23),
        ((math.nextafter(2.0, 0.0),), (2**24,), -23),
        ((5e-324, 1.5e-323), (1, 3), -1074),
        ((math.ldexp(1, 1023),), (2**23,), 1000),
    ],
)
def test_quantises(coefficients, integers, exponent):
    assert quantise(coefficients) == (integers, exponent)


@given(finite_fitness)
def test_quantised_coefficients_are_within_a_part_in_2_to_the_24(coefficients):
    integers, exponent = quantise(coefficients)
    largest = max(map(abs, coefficients))
    assert all(abs(each) <= 2**24 for each in integers)
    assert exponent >= -1074
    for integer, value in zip(integers, coefficients, strict=True):
        assert abs(math.ldexp(integer / 2, exponent) - value / 2) <= math.ldexp(largest, -25)


@given(finite_fitness)
def test_quantising_twice_changes_nothing(coefficients):
    once, exponent = quantise([value / 4 for value in coefficients])
    # Rounded up to a power of two, the largest takes a larger unit the next time.
    assume(max(map(abs, once)) < 2**24)
    restored = [math.ldexp(each, exponent) for each in once]
    integers, again = quantise(restored)
    assert [math.ldexp(each, again) for each in integers] == restored


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_refuses_to_quantise_what_is_not_finite(value):
    with pytest.raises(ValueError, match="finite"):
        quantise([1.0, value])


def test_gaussian_members_have_noise_of_their_own():
    assert [noise_source(member, antithetic=False) for member in range(3)] == [(0, 1), (1, 1), (2, 1)]


def test_antithetic_members_come_in_pairs_of_opposite_noise():
    sources = [noise_source(member, antithetic=True) for member in range(4)]
    assert sources == [(0, 1), (0, -1), (1, 1), (1, -1)]


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_schedules_start_at_the_initial_value(kind):
    assert scheduled(0.3, kind, 0, 500) == 0.3
    assert scheduled(0.3, kind, -1, 500) == 0.3
    assert scheduled(0.3, kind, 0, 0) == 0.3


def test_schedules_end_where_they_should():
    assert scheduled(0.3, "constant", 999, 500) == 0.3
    assert scheduled(0.3, "linear", 500, 500) == 0
    assert scheduled(0.3, "cosine", 500, 500) == 0
    assert scheduled(0.3, "cosine", 501, 500) == 0
    assert scheduled(0.3, "cosine", 499, 500) > 0
    assert scheduled(0.5, "linear", 250, 500) == 0.25


@given(st.integers(0, 1000))
def test_the_cosine_is_the_cosine(generation):
    expected = (1 + math.cos(math.pi * generation / 1000)) / 2
    assert scheduled(1.0, "cosine", generation, 1000) == pytest.approx(expected, abs=1e-15)


def test_the_cosine_never_rises():
    values = [scheduled(1.0, "cosine", generation, 1000) for generation in range(1001)]
    assert values == sorted(values, reverse=True)


def test_an_update_divides_by_the_members_that_have_a_fitness():
    record = update_record(
        "zscore", generation=7, sigma=0.001, learning_rate=0.6, fitness=(1.0, NAN, 0.0, INF)
    )
    assert record.step == 0.3
    assert record.coefficients == (2**23, 0, -(2**23), 0)
    assert record.exponent == -23
    assert record.fitness[0] == 1.0
    assert math.isnan(record.fitness[1])
    assert math.isnan(record.fitness[3]), "an infinite fitness is none, for statistics too"
    assert record.statistics.valid == 2
    assert (record.generation, record.sigma) == (7, 0.001)


def test_an_update_of_nobody_does_nothing():
    record = update_record("zscore", generation=0, sigma=0.001, learning_rate=0.1, fitness=[NAN] * 30)
    assert record.step == 0
    assert set(record.coefficients) == {0}


@pytest.mark.parametrize("shaping", SHAPINGS)
@given(fitness=any_fitness)
def test_every_record_survives_its_serialisation(shaping, fitness):
    record = update_record(shaping, generation=3, sigma=0.01, learning_rate=0.1, fitness=fitness)
    text = record.to_json()
    assert UpdateRecord.from_json(text).to_json() == text
    again = update_record(shaping, generation=3, sigma=0.01, learning_rate=0.1, fitness=fitness)
    assert again.to_json() == text
