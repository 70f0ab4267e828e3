"""What a generation consists of, and what its results lead to: the bridge between the algorithm and the queue.

Everything here is a pure function of the spec, the policy and what was reported, so that every worker that closes a
generation comes to the same record and the same next opening. Rejected: a coordinator that decides; it would have to
survive.
"""

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Self

from esft.policy import Policy
from esft.population import scheduled, update_record
from esft.queue import GenerationResults, Opening
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
class Terms:
    """What performing and closing a generation takes besides the immutable part of the specification.

    Fixed when the generation is opened, and handed out with its items: all workers perform and close alike, whatever
    has changed since and whichever copy of the specification they were started with.

    Attributes:
        sigma: scale of the noise that members are perturbed with.
        learning_rate: of the update that closes it.
        members_needed: how many members must be scored before it may close; 0 in the last generation.
        evaluation_shards: into how many items the held-out split is cut; 0: no evaluation.
        kl_prompts: training prompts that the divergence is measured on; 0: it is not measured.
        checkpoint: whether its weights are saved.
        last: whether it only measures and saves, and its closing ends the run.
    """

    sigma: float
    learning_rate: float
    members_needed: int
    evaluation_shards: int
    kl_prompts: int
    checkpoint: bool
    last: bool

    @classmethod
    def of(cls, spec: ESFineTuneSpec, generation: int, policy: Policy) -> Self:
        """The terms of a generation that is opened under a policy."""
        evolution, schedule = spec.evolution, spec.evolution.schedule
        last = generation >= policy.generations
        evaluated = spec.task.test is not None and (last or _due(generation, policy.evaluate_every))
        may_stop = policy.target_score is not None or policy.patience is not None
        return cls(
            sigma=scheduled(evolution.sigma, schedule.sigma, generation, policy.generations),
            learning_rate=scheduled(
                evolution.learning_rate, schedule.learning_rate, generation, policy.generations
            ),
            members_needed=0 if last else math.ceil(evolution.population * policy.quorum),
            evaluation_shards=_shards(spec) if evaluated else 0,
            kl_prompts=policy.kl_prompts if divergence_due(policy, generation) else 0,
            checkpoint=generation > 0
            and (last or _due(generation, policy.checkpoint_every) or (may_stop and evaluated)),
            last=last,
        )

    def to_json(self) -> str:
        """Serialise to one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse what `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Commit:
    """The generation ends in an update; `opening` is the next one."""

    record: UpdateRecord
    opening: Opening


@dataclass(frozen=True, slots=True)
class Extend:
    """It was to be the last, and more are wanted by now: the same generation is opened again, with members."""

    opening: Opening


@dataclass(frozen=True, slots=True)
class Finish:
    """The run ends with the weights of this generation, without a further update."""

    phase: str
    reason: str
    message: str
    evaluation: Evaluation | None = None
    kl_divergence: float | None = None


def opening(spec: ESFineTuneSpec, generation: int, terms: Terms) -> Opening:
    """The items of a generation, in the order in which they are handed out.

    The checkpoint comes first, so that it is written while other workers evaluate members; held-out shards come
    last and fill the tail of the generation. The last generation has no members: it only measures and saves.
    """
    members = (
        [] if terms.last else [str(Item(Kind.MEMBER, index)) for index in range(spec.evolution.population)]
    )
    items = [
        *([str(Item(Kind.CHECKPOINT))] if terms.checkpoint else []),
        *members,
        *(str(Item(Kind.EVALUATION, shard)) for shard in range(terms.evaluation_shards)),
        *([str(Item(Kind.DIVERGENCE))] if terms.kl_prompts else []),
    ]
    return Opening(
        generation=generation,
        items=tuple(items),
        optional=tuple(members),
        optional_needed=terms.members_needed,
        parameters=terms.to_json(),
    )


def opened(spec: ESFineTuneSpec, generation: int, policy: Policy) -> Opening:
    """The generation as it is opened under a policy."""
    return opening(spec, generation, Terms.of(spec, generation, policy))


def divergence_due(policy: Policy, generation: int) -> bool:
    """Whether the KL divergence from the base model is measured; at generation 0 it is zero."""
    return policy.kl_every > 0 and generation > 0 and _due(generation, policy.kl_every)


def shard_bounds(size: int, *, shard: int, shards: int) -> tuple[int, int]:
    """First example and the one past the last of a shard; the shards cover `size` examples evenly."""
    return shard * size // shards, (shard + 1) * size // shards


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
    spec: ESFineTuneSpec,
    policy: Policy,
    closing: GenerationResults,
    log: Sequence[UpdateRecord],
) -> Commit | Extend | Finish:
    """Decide what the reported results of a complete generation lead to.

    Args:
        spec: the run's, of which only what is immutable counts.
        policy: in force now: it says whether the run stops, and what the next generation consists of.
        closing: the generation that is complete: its terms, and what was reported for each item, as JSON of
            `MemberResult` where the item gives one.
        log: every record before this generation's.
    """
    generation, terms, results = len(log), Terms.from_json(closing.parameters), closing.results
    evaluation, divergence = _evaluation(results), _divergence(results)
    if terms.last and generation < policy.generations:
        return Extend(opened(spec, generation, policy))
    if terms.last:
        message = f"All {generation} generations done."
        return Finish(words.SUCCEEDED, words.GENERATIONS_DONE, message, evaluation, divergence)
    if evaluation is not None and terms.checkpoint:  # a run ends with weights that are saved
        stopped = _stop(policy, log, evaluation, generation)
        if stopped is not None:
            return Finish(words.SUCCEEDED, *stopped, evaluation, divergence)
    members = (str(Item(Kind.MEMBER, index)) for index in range(spec.evolution.population))
    fitness = [_fitness(results.get(member)) for member in members]
    if all(math.isnan(value) for value in fitness):
        return Finish(
            words.FAILED,
            words.NO_FITNESS,
            f"No member of generation {generation} gave finite logits: spec.evolution.sigma or learningRate is too "
            "large for this model or dtype. Fix: lower them and start the run afresh.",
        )
    record = update_record(
        spec.evolution.shaping,
        generation=generation,
        sigma=terms.sigma,
        learning_rate=terms.learning_rate,
        fitness=fitness,
    )
    measured = replace(record, evaluation=evaluation, kl_divergence=divergence, checkpoint=terms.checkpoint)
    return Commit(record=measured, opening=opened(spec, generation + 1, policy))


def _shards(spec: ESFineTuneSpec) -> int:
    """Into how many items the held-out split is cut: about one batch each, so that workers share it evenly."""
    size = None if spec.task.test is None else spec.task.test.size
    if size is None:
        return _SHARDS_OF_UNKNOWN_SIZE
    return max(1, min(_MOST_SHARDS, math.ceil(size / spec.decoding.batch_size)))


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
    policy: Policy, log: Sequence[UpdateRecord], evaluation: Evaluation, generation: int
) -> tuple[str, str] | None:
    """Reason and message where the held-out score ends the run early."""
    target, patience = policy.target_score, policy.patience
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
