"""What a generation consists of and what its results lead to."""

import json
import math
from typing import Any

import pytest

from esft.generation import (
    Commit,
    Extend,
    Finish,
    Item,
    Kind,
    Terms,
    close,
    opened,
    prompt_indices,
    rollout_seed,
    shard_bounds,
)
from esft.policy import Policy
from esft.queue import GenerationResults, Opening
from esft.records import Evaluation, MemberResult, UpdateRecord
from esft.spec import ESFineTuneSpec


def spec_of(**sections: dict[str, Any]) -> ESFineTuneSpec:
    document: dict[str, Any] = {
        "model": {"source": "tiny://countdown"},
        "task": {"name": "countdown", "train": {"size": 10}, "test": {"size": 100, "seed": 1}},
        "decoding": {"batchSize": 40},
        "evolution": {"generations": 10, "population": 4, "sigma": 0.5},
        "evaluation": {"everyGenerations": 4},
        "monitoring": {"kl": None},
        "checkpoint": {"everyGenerations": 5},
    }
    for section, values in sections.items():
        document[section] = values if document.get(section) is None else document[section] | values
    return ESFineTuneSpec.model_validate(document)


def opening(spec: ESFineTuneSpec, generation: int) -> Opening:
    return opened(spec, generation, Policy.of(spec))


def closed(
    spec: ESFineTuneSpec,
    generation: int,
    results: dict[str, str],
    *scores: float | None,
    now: ESFineTuneSpec | None = None,
) -> Commit | Extend | Finish:
    """Close a generation that was opened under `spec`; `now` is what the specification says by then."""
    policy = Policy.of(now or spec)
    closing = GenerationResults(opening(spec, generation).parameters, policy.to_json(), results)
    log = log_of(*(scores or [None] * generation))
    assert len(log) == generation
    return close(spec, policy, closing, log)


def scored(reward: float, *, examples: int = 10, score: float | None = None) -> str:
    return MemberResult(reward, reward if score is None else score, examples=examples, tokens=5).to_json()


def results_of(
    spec: ESFineTuneSpec, generation: int, *, reward: float = 1.0, score: float = 0.5
) -> dict[str, str]:
    results = {}
    for text in opening(spec, generation).items:
        item = Item.parse(text)
        match item.kind:
            case Kind.MEMBER:
                results[text] = scored(reward + item.index)
            case Kind.EVALUATION:
                results[text] = scored(score)
            case Kind.DIVERGENCE:
                results[text] = json.dumps({"kl_divergence": 0.25})
            case Kind.CHECKPOINT:
                results[text] = "{}"
    return results


def terms_of(spec: ESFineTuneSpec, generation: int) -> Terms:
    return Terms.from_json(opening(spec, generation).parameters)


def log_of(*scores: float | None) -> list[UpdateRecord]:
    return [
        UpdateRecord(
            generation=generation,
            sigma=0.5,
            step=0.1,
            exponent=0,
            coefficients=(0, 0, 0, 0),
            fitness=(0.0, 0.0, 0.0, 0.0),
            evaluation=None if score is None else Evaluation(score, score, 100),
        )
        for generation, score in enumerate(scores)
    ]


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        (0, ["member:0", "member:1", "member:2", "member:3", "evaluation:0", "evaluation:1", "evaluation:2"]),
        (1, ["member:0", "member:1", "member:2", "member:3"]),
        (5, ["checkpoint:0", "member:0", "member:1", "member:2", "member:3"]),
        (10, ["checkpoint:0", "evaluation:0", "evaluation:1", "evaluation:2"]),
    ],
)
def test_items_come_in_the_order_they_are_wanted(generation: int, expected: list[str]) -> None:
    assert list(opening(spec_of(), generation).items) == expected


def test_divergence_is_measured_when_due_and_not_of_the_base() -> None:
    spec = spec_of(monitoring={"kl": {"everyGenerations": 3, "prompts": 2}})
    due = [g for g in range(11) if "divergence:0" in opening(spec, g).items]
    assert due == [3, 6, 9]
    never = spec_of(monitoring={"kl": {"everyGenerations": 0}})
    assert not any("divergence:0" in opening(never, g).items for g in range(11))


def test_where_a_score_may_stop_the_run_its_weights_are_saved() -> None:
    spec = spec_of(stop={"patience": 1})
    assert [g for g in range(11) if "checkpoint:0" in opening(spec, g).items] == [4, 5, 8, 10]


def test_quorum_applies_to_members_alone() -> None:
    spec = spec_of(workers={"quorum": 0.7})
    assert opening(spec, 0).optional == ("member:0", "member:1", "member:2", "member:3")
    assert opening(spec, 0).optional_needed == 3
    assert opening(spec, 10).optional_needed == 0


def test_an_opening_fixes_sigma_by_its_schedule() -> None:
    spec = spec_of(evolution={"schedule": {"sigma": "linear"}})
    assert terms_of(spec, 0).sigma == 0.5
    assert terms_of(spec, 5).sigma == 0.25


def test_an_opening_fixes_the_learning_rate_by_its_schedule() -> None:
    spec = spec_of(evolution={"learningRate": 1.0, "schedule": {"learningRate": "linear"}})
    assert terms_of(spec, 5).learning_rate == 0.5
    longer = spec_of(evolution={"generations": 1000, "learningRate": 9.0})
    decision = closed(spec, 5, results_of(spec, 5), now=longer)
    assert isinstance(decision, Commit)
    assert decision.record.step == 0.5 / 4


def test_a_complete_generation_commits_its_fitness_in_member_order() -> None:
    spec = spec_of()
    decision = closed(spec, 1, results_of(spec, 1), 0.5)
    assert isinstance(decision, Commit)
    assert decision.record.fitness == (1.0, 2.0, 3.0, 4.0)
    assert decision.record.generation == 1
    assert decision.record.evaluation is None
    assert decision.opening == opening(spec, 2)


def test_a_record_depends_on_the_results_alone_not_on_their_order() -> None:
    spec = spec_of()
    results = results_of(spec, 4)
    backwards = dict(reversed(results.items()))
    assert closed(spec, 4, results) == closed(spec, 4, backwards)


def test_shards_are_weighed_by_their_examples() -> None:
    spec = spec_of()
    results = results_of(spec, 0)
    results["evaluation:0"] = scored(1.0, examples=30)
    results["evaluation:1"] = scored(0.0, examples=10)
    results["evaluation:2"] = MemberResult(math.nan, math.nan, examples=0, tokens=0).to_json()
    decision = closed(spec, 0, results)
    assert isinstance(decision, Commit)
    assert decision.record.evaluation == Evaluation(score=0.75, reward=0.75, examples=40)


def test_a_member_without_fitness_or_result_counts_for_nothing() -> None:
    spec = spec_of(workers={"quorum": 0.5})
    results = results_of(spec, 1)
    del results["member:0"]
    results["member:1"] = scored(math.nan)
    decision = closed(spec, 1, results, 0.5)
    assert isinstance(decision, Commit)
    assert decision.record.coefficients[:2] == (0, 0)
    assert decision.record.statistics.valid == 2


def test_no_fitness_at_all_fails_the_run_with_the_fix() -> None:
    spec = spec_of()
    results = {f"member:{index}": scored(math.nan) for index in range(4)}
    decision = closed(spec, 1, results, 0.5)
    assert isinstance(decision, Finish)
    assert (decision.phase, decision.reason) == ("Failed", "NoFitness")
    assert "spec.evolution.sigma" in decision.message


def test_the_last_generation_ends_the_run_with_its_evaluation() -> None:
    spec = spec_of()
    decision = closed(spec, 10, results_of(spec, 10, score=0.8))
    assert isinstance(decision, Finish)
    assert (decision.phase, decision.reason) == ("Succeeded", "GenerationsDone")
    assert decision.evaluation == Evaluation(0.8, 0.8, 30)


@pytest.mark.parametrize(("score", "stops"), [(0.69, False), (0.7, True), (0.9, True)])
def test_target_score_ends_the_run_without_a_further_update(score: float, stops: bool) -> None:
    spec = spec_of(stop={"targetScore": 0.7})
    decision = closed(spec, 4, results_of(spec, 4, score=score), 0.1, None, None, None)
    assert isinstance(decision, Finish) is stops
    assert not stops or (decision.phase, decision.reason) == ("Succeeded", "TargetScoreReached")


def test_the_base_models_own_score_does_not_end_the_run() -> None:
    spec = spec_of(stop={"targetScore": 0.1})
    assert isinstance(closed(spec, 0, results_of(spec, 0)), Commit)


@pytest.mark.parametrize(
    ("before", "score", "stops"),
    [((0.5,), 0.4, False), ((0.5, 0.4), 0.5, True), ((0.5, 0.4), 0.6, False), ((0.3, 0.5), 0.5, False)],
)
def test_patience_counts_evaluations_without_a_better_score(
    before: tuple[float, ...], score: float, stops: bool
) -> None:
    spec = spec_of(stop={"patience": 2})
    decision = closed(spec, 8, results_of(spec, 8, score=score), *before, *[None] * (8 - len(before)))
    assert isinstance(decision, Finish) is stops


def test_what_changes_is_in_force_from_the_next_generation() -> None:
    """How the open generation is performed and closed was fixed when it was opened."""
    spec = spec_of()
    now = spec_of(
        evaluation={"everyGenerations": 1}, checkpoint={"everyGenerations": 1}, workers={"quorum": 0.5}
    )
    decision = closed(spec, 1, results_of(spec, 1), now=now)
    assert isinstance(decision, Commit)
    assert not decision.record.checkpoint
    assert decision.opening == opening(now, 2)
    assert "evaluation:0" in decision.opening.items
    assert decision.opening.optional_needed == 2


def test_more_generations_open_the_last_one_again_with_members() -> None:
    spec, longer = spec_of(), spec_of(evolution={"generations": 20})
    decision = closed(spec, 10, results_of(spec, 10), now=longer)
    assert decision == Extend(opening(longer, 10))
    assert isinstance(closed(longer, 10, results_of(longer, 10)), Commit)


def test_a_run_stops_with_weights_that_are_saved() -> None:
    """A reason to stop that is set while an evaluation is under way counts from the next one on."""
    spec, now = spec_of(), spec_of(stop={"targetScore": 0.1})
    decision = closed(spec, 4, results_of(spec, 4, score=0.9), now=now)
    assert isinstance(decision, Commit)
    assert not decision.record.checkpoint
    assert isinstance(closed(now, 8, results_of(now, 8, score=0.9)), Finish)


def test_a_record_says_whether_its_weights_are_saved() -> None:
    spec = spec_of()
    saved = [closed(spec, generation, results_of(spec, generation)) for generation in (4, 5)]
    assert [decision.record.checkpoint for decision in saved if isinstance(decision, Commit)] == [False, True]


def test_prompts_of_a_generation_are_drawn_without_repetition_and_by_seed() -> None:
    spec = spec_of(evolution={"promptsPerGeneration": 4})
    drawn = prompt_indices(spec, 3, available=10)
    assert len(set(drawn)) == 4
    assert drawn == prompt_indices(spec, 3, available=10)
    assert any(prompt_indices(spec, g, available=10) != drawn for g in range(3))
    assert list(prompt_indices(spec_of(), 3, available=10)) == list(range(10))


def test_shards_cover_every_example_once() -> None:
    for size in (0, 1, 5, 64, 100):
        for shards in (1, 3, 8):
            bounds = [shard_bounds(size, shard=shard, shards=shards) for shard in range(shards)]
            covered = [index for start, stop in bounds for index in range(start, stop)]
            assert covered == list(range(size))


def test_rollout_seeds_differ_by_generation_and_fit_torch() -> None:
    seeds = {rollout_seed(spec_of(), generation) for generation in range(100)}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
