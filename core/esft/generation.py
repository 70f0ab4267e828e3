"""What a generation consists of, and what its results lead to: the bridge between the algorithm and the queue.

Everything here is a pure function of the spec and of what was reported, so that every worker that closes a generation
comes to the same record and the same next opening. Rejected: a coordinator that decides; it would have to survive.
"""

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from esft.population import scheduled, update_record
from esft.queue import Opening
from esft.records import Evaluation, MemberResult, UpdateRecord
from esft.spec import ESFineTuneSpec
from esft.status import words

_MOST_SHARDS = 64
_SHARDS_OF_UNKNOWN_SIZE = 8


class Kind(StrEnum):
    """The kinds of work that a generation hands out."""

    CHECKPOINT = "checkpoint"
    MEMBER = "member"
    EVALUATION = "evaluation"
    DIVERGENCE = "divergence"


@dataclass(frozen=True, slots=True)
class Item:
    """One piece of work: `index` is the member or the evaluation shard, 0 for the kinds that come once."""

    kind: Kind
    index: int = 0

    def __str__(self) -> str:
        """The queue's name for it, `member:3` for instance."""
        return f"{self.kind}:{self.index}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Inverse of `str`."""
        kind, _, index = text.partition(":")
        return cls(Kind(kind), int(index))


@dataclass(frozen=True, slots=True)
class Commit:
    """The generation ends in an update; `opening` is the next one."""

    record: UpdateRecord
    opening: Opening


@dataclass(frozen=True, slots=True)
class Finish:
    """The run ends with the weights of this generation, without a further update."""

    phase: str
    reason: str
    message: str
    evaluation: Evaluation | None = None
    kl_divergence: float | None = None


def opening(spec: ESFineTuneSpec, generation: int) -> Opening:
    """The items of a generation, in the order in which they are handed out.

    The checkpoint comes first, so that it is written while other workers evaluate members; held-out shards come
    last and fill the tail of the generation. The last generation has no members: it only measures and saves.
    """
    evolution = spec.evolution
    ended = generation >= evolution.generations
    members = [] if ended else [str(Item(Kind.MEMBER, index)) for index in range(evolution.population)]
    items = [
        *([str(Item(Kind.CHECKPOINT))] if checkpoint_due(spec, generation) else []),
        *members,
        *(str(Item(Kind.EVALUATION, index)) for index in range(evaluation_shards(spec, generation))),
        *([str(Item(Kind.DIVERGENCE))] if divergence_due(spec, generation) else []),
    ]
    sigma = scheduled(evolution.sigma, evolution.schedule.sigma, generation, evolution.generations)
    return Opening(
        generation=generation,
        items=tuple(items),
        optional=tuple(members),
        optional_needed=math.ceil(len(members) * spec.workers.quorum),
        parameters=json.dumps({"sigma": sigma}),
    )


def sigma_of(opening: Opening) -> float:
    """The noise scale of the generation's members, as fixed when it was opened."""
    sigma: float = json.loads(opening.parameters)["sigma"]
    return sigma


def evaluation_due(spec: ESFineTuneSpec, generation: int) -> bool:
    """Whether weights(generation) are evaluated on the held-out split."""
    if spec.task.test is None:
        return False
    return _due(generation, spec.evaluation.every_generations) or generation >= spec.evolution.generations


def evaluation_shards(spec: ESFineTuneSpec, generation: int) -> int:
    """Into how many items the held-out split is cut: about one batch each, so that workers share it evenly."""
    if not evaluation_due(spec, generation) or spec.task.test is None:
        return 0
    size = spec.task.test.size
    if size is None:
        return _SHARDS_OF_UNKNOWN_SIZE
    return max(1, min(_MOST_SHARDS, math.ceil(size / spec.decoding.batch_size)))


def shard_bounds(size: int, *, shard: int, shards: int) -> tuple[int, int]:
    """First example and the one past the last of a shard; the shards cover `size` examples evenly."""
    return shard * size // shards, (shard + 1) * size // shards


def checkpoint_due(spec: ESFineTuneSpec, generation: int) -> bool:
    """Whether weights(generation) are saved; where a score may stop the run, each generation it is measured at is."""
    if generation == 0:
        return False
    may_stop = spec.stop.target_score is not None or spec.stop.patience is not None
    return (
        _due(generation, spec.checkpoint.every_generations)
        or generation >= spec.evolution.generations
        or (may_stop and evaluation_due(spec, generation))
    )


def latest_checkpoint(spec: ESFineTuneSpec, generation: int) -> int | None:
    """The newest generation up to this one whose weights are saved; None where there is none."""
    due = [generation - generation % spec.checkpoint.every_generations]
    if spec.task.test is not None:
        due.append(generation - generation % spec.evaluation.every_generations)
    due.append(min(generation, spec.evolution.generations))
    return max((each for each in due if checkpoint_due(spec, each)), default=None)


def divergence_due(spec: ESFineTuneSpec, generation: int) -> bool:
    """Whether the KL divergence from the base model is measured; at generation 0 it is zero."""
    kl = spec.monitoring.kl
    if kl is None or kl.every_generations == 0 or generation == 0:
        return False
    return _due(generation, kl.every_generations)


def prompt_indices(spec: ESFineTuneSpec, generation: int, *, available: int) -> Sequence[int]:
    """Which training examples every member of the generation is scored on."""
    wanted = spec.evolution.prompts_per_generation
    if wanted is None or wanted >= available:
        return range(available)
    return sorted(
        random.Random(f"prompts/{spec.evolution.seed}/{generation}").sample(range(available), wanted)
    )


def rollout_seed(spec: ESFineTuneSpec, generation: int) -> int:
    """Seed of sampled decoding: the same for every member, so that they differ by their weights alone."""
    digest = hashlib.blake2b(f"rollout/{spec.evolution.seed}/{generation}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def close(
    spec: ESFineTuneSpec, closing: Opening, results: Mapping[str, str], log: Sequence[UpdateRecord]
) -> Commit | Finish:
    """Decide what the reported results of a complete generation lead to.

    Args:
        spec: the run's.
        closing: the generation that is complete.
        results: what was reported for each item, as JSON of `MemberResult` where the item gives one.
        log: every record before this generation's.
    """
    generation = closing.generation
    evaluation = _evaluation(results)
    divergence = _divergence(results)
    if generation >= spec.evolution.generations:
        return Finish(
            words.SUCCEEDED,
            words.GENERATIONS_DONE,
            f"All {generation} generations done.",
            evaluation,
            divergence,
        )
    if evaluation is not None:
        stopped = _stop(spec, log, evaluation, generation)
        if stopped is not None:
            return Finish(words.SUCCEEDED, *stopped, evaluation, divergence)
    fitness = [_fitness(results.get(item)) for item in closing.optional]
    if all(math.isnan(value) for value in fitness):
        return Finish(
            words.FAILED,
            words.NO_FITNESS,
            f"No member of generation {generation} gave finite logits: spec.evolution.sigma or learningRate is too "
            "large for this model or dtype. Fix: lower them and start the run afresh.",
        )
    sigma = sigma_of(closing)
    record = update_record(
        spec.evolution,
        generation=generation,
        sigma=sigma,
        fitness=fitness,
        evaluation=evaluation,
    )
    return Commit(record=replace(record, kl_divergence=divergence), opening=opening(spec, generation + 1))


def _due(generation: int, every: int) -> bool:
    return generation % every == 0


def _fitness(result: str | None) -> float:
    return math.nan if result is None else MemberResult.from_json(result).reward


def _evaluation(results: Mapping[str, str]) -> Evaluation | None:
    parsed = (
        MemberResult.from_json(result)
        for item, result in sorted(results.items())
        if Item.parse(item).kind is Kind.EVALUATION
    )
    shards = [shard for shard in parsed if shard.examples]
    examples = sum(shard.examples for shard in shards)
    if not examples:
        return None
    return Evaluation(
        score=math.fsum(shard.score * shard.examples for shard in shards) / examples,
        reward=math.fsum(shard.reward * shard.examples for shard in shards) / examples,
        examples=examples,
    )


def _divergence(results: Mapping[str, str]) -> float | None:
    result = results.get(str(Item(Kind.DIVERGENCE)))
    if result is None:
        return None
    value: float | None = json.loads(result)["kl_divergence"]
    return value


def _stop(
    spec: ESFineTuneSpec, log: Sequence[UpdateRecord], evaluation: Evaluation, generation: int
) -> tuple[str, str] | None:
    """Reason and message where the held-out score ends the run early."""
    target, patience = spec.stop.target_score, spec.stop.patience
    if target is not None and generation > 0 and evaluation.score >= target:
        return (
            words.TARGET_SCORE_REACHED,
            f"Score {evaluation.score:.4f} reached targetScore {target} at {generation}.",
        )
    scores = [record.evaluation.score for record in log if record.evaluation is not None] + [evaluation.score]
    best = max(range(len(scores)), key=scores.__getitem__)
    if patience is not None and len(scores) - 1 - best >= patience:
        return words.PATIENCE_EXHAUSTED, f"No better score than {scores[best]:.4f} in {patience} evaluations."
    return None
