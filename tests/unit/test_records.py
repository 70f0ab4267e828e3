"""Records keep every number exactly and say equal things in equal text."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.records import Evaluation, MemberResult, UpdateRecord, fitness_statistics

RECORD = UpdateRecord(
    generation=3,
    sigma=0.1,
    step=0.0005 / 3,
    exponent=-23,
    coefficients=(2**24, -(2**24), 0),
    fitness=(0.1, 1 / 3, math.nan),
    evaluation=Evaluation(score=0.25, reward=1 / 7, examples=512),
    kl_divergence=1e-9,
)


def test_a_record_survives_json_exactly() -> None:
    again = UpdateRecord.from_json(RECORD.to_json())
    assert again.to_json() == RECORD.to_json()
    assert again.coefficients == RECORD.coefficients
    assert again.step == RECORD.step
    assert again.fitness[:2] == RECORD.fitness[:2]
    assert math.isnan(again.fitness[2])
    assert again.evaluation == RECORD.evaluation


def test_a_record_is_one_line_of_about_16_characters_a_member() -> None:
    population = 1000
    record = UpdateRecord(0, 0.1, 0.1, 0, (1,) * population, (0.5,) * population)
    assert "\n" not in record.to_json()
    assert len(record.to_json()) < 16 * population + 300


@given(st.floats(), st.floats(), st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_result_survives_json(reward: float, score: float, examples: int, tokens: int) -> None:
    text = MemberResult(reward, score, examples, tokens).to_json()
    json.loads(text, parse_constant=pytest.fail)
    again = MemberResult.from_json(text)
    assert again.reward == reward or (math.isnan(again.reward) and not math.isfinite(reward))
    assert (again.examples, again.tokens) == (examples, tokens)


def test_statistics_leave_out_members_without_fitness() -> None:
    statistics = fitness_statistics((1.0, math.nan, 3.0))
    assert (statistics.mean, statistics.best, statistics.worst, statistics.std) == (2.0, 3.0, 1.0, 1.0)
    assert statistics.valid == 2
    assert math.isnan(fitness_statistics((math.nan,)).mean)
