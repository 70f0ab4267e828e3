"""Turns an item of the queue into a result: which weights, which prompts, generate, grade.

Grading goes on in its own process while the model's thread takes the next item, so a result comes later. It starts
when the caller says so: during a round trip to Redis it would take the processor that the reply needs.
"""

import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from esft.errors import SpecError
from esft.generation import Item, Kind, Terms, prompt_indices, rollout_seed, shard_bounds
from esft.records import MemberResult
from esft.spec import ESFineTuneSpec
from esft_worker.engine import Rollout
from esft_worker.grading import Grader
from esft_worker.metrics import Stage, WorkerMetrics
from esft_worker.replica import Replica
from esft_worker.tasks import Example, Examples, Grade, SplitName

if TYPE_CHECKING:
    from concurrent.futures import Future

_LOGPROB_TOKENS_AT_ONCE = 4096
"""Tokens whose whole distributions are held at a time: 2.5 GB with a vocabulary of 150,000."""


@dataclass(slots=True)
class Scoring:
    """A rollout on its way to a result.

    Attributes:
        examples: how many prompts.
        tokens: how many tokens were generated.
        grade: starts the grading; None where there is nothing to grade.
    """

    examples: int
    tokens: int
    grade: "Callable[[], Future[list[Grade]]] | None"
    _grades: "Future[list[Grade]] | None" = None

    def start(self) -> None:
        """Start the grading, once; it goes on in its own process."""
        if self.grade is not None and self._grades is None:
            self._grades = self.grade()

    def done(self) -> bool:
        """Whether `result` returns at once."""
        return self.grade is None or (self._grades is not None and self._grades.done())

    def wait(self, *, seconds: float) -> None:
        """Wait for the grades, for some time."""
        self.start()
        if self._grades is not None:
            wait([self._grades], timeout=seconds)

    def result(self) -> MemberResult:
        """Wait for the grades and average them; NaN where there is nothing to grade.

        Raises:
            TaskError: the task's reward failed.
        """
        self.start()
        grades = [] if self._grades is None else self._grades.result()
        return MemberResult(
            reward=_mean([grade.reward for grade in grades]),
            score=_mean([grade.score for grade in grades]),
            examples=self.examples,
            tokens=self.tokens,
        )


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Evaluates members and held-out shards with a replica's model.

    Attributes:
        spec: of the run.
        replica: the weights, which each item has as it needs them.
        examples: of the task.
        grader: of the completions.
        metrics: of the worker.
        should_stop: asked between tokens.
    """

    spec: ESFineTuneSpec
    replica: Replica
    examples: Examples
    grader: Grader
    metrics: WorkerMetrics
    should_stop: Callable[[], bool]

    def perform(self, item: Item, *, generation: int, terms: Terms) -> Scoring:
        """Roll out a member or an evaluation shard, on the terms that its generation was opened with."""
        if item.kind is Kind.MEMBER:
            return self.member(item.index, generation=generation, sigma=terms.sigma)
        return self.evaluation(item.index, generation=generation, shards=terms.evaluation_shards)

    def member(self, member: int, *, generation: int, sigma: float) -> Scoring:
        """Score one member: perturb, generate, grade. A model without finite logits has fitness NaN.

        Raises:
            Drained: the worker was asked to stop.
        """
        indices = prompt_indices(self.spec, generation, available=len(self.examples.train))
        examples = [self.examples.train[index] for index in indices]
        with self.metrics.time(Stage.PERTURB):
            self.replica.weights.perturb(generation=generation, member=member, sigma=sigma)
        return self._graded(examples, self._generate(examples, generation), "train", list(indices))

    def evaluation(self, shard: int, *, generation: int, shards: int) -> Scoring:
        """Score one of `shards` shards of the held-out prompts with the unperturbed weights.

        Raises:
            SpecError: the unperturbed model gives NaN.
            Drained: the worker was asked to stop.
        """
        test = self.examples.test
        start, stop = shard_bounds(len(test), shard=shard, shards=shards)
        if start == stop:
            return Scoring(examples=0, tokens=0, grade=None)
        with self.metrics.time(Stage.PERTURB):
            self.replica.weights.restore()
        rollout = self._generate(test[start:stop], generation=0)
        if not rollout.finite:
            raise SpecError(_not_finite(generation))
        return self._graded(test[start:stop], rollout, "test", list(range(start, stop)))

    def divergence(self, *, prompts: int) -> str:
        """Mean KL divergence a token of the model from its base, on completions of the model itself, as JSON.

        Exact over the vocabulary at each position (Rao-Blackwellised): sum_v p(v) (log p(v) - log q(v)).
        """
        examples = self.examples.train[:prompts]
        self.replica.weights.restore()
        token_ids = self._generate(examples, generation=0).token_ids
        pairs = list(zip(examples, token_ids, strict=True))
        at_once = max(1, _LOGPROB_TOKENS_AT_ONCE // self.spec.decoding.max_new_tokens)
        total = 0.0
        for start in range(0, len(pairs), at_once):
            total += self._divergence_of(pairs[start : start + at_once])
        tokens = sum(map(len, token_ids))
        return json.dumps({"kl_divergence": total / tokens if tokens else None})

    def _divergence_of(self, pairs: Sequence[tuple[Example, tuple[int, ...]]]) -> float:
        """Sum over all tokens of the pairs, in nats; each model is written into the working weights once."""
        engine, weights = self.replica.engine, self.replica.weights
        with self.metrics.time(Stage.GENERATE):
            weights.restore()
            tuned = [engine.token_logprobs(example, ids) for example, ids in pairs]
            weights.restore_base()
            base = [engine.token_logprobs(example, ids) for example, ids in pairs]
        return sum(
            float(torch.sum(p.exp() * (p - q), dtype=torch.float64)) for p, q in zip(tuned, base, strict=True)
        )

    def check_base_model(self) -> None:
        """Generate once with the unperturbed weights.

        Raises:
            SpecError: they give NaN, or the prompts do not fit the model.
        """
        self.replica.weights.restore()
        if not self._generate(self.examples.train[:1], generation=0).finite:
            raise SpecError(_not_finite(self.replica.generation))

    def _generate(self, examples: Sequence[Example], generation: int) -> Rollout:
        with self.metrics.time(Stage.GENERATE):
            return self.replica.engine.rollout(
                examples, seed=rollout_seed(self.spec, generation), should_stop=self.should_stop
            )

    def _graded(
        self, examples: Sequence[Example], rollout: Rollout, split: SplitName, indices: Sequence[int]
    ) -> Scoring:
        grade = partial(self.grader.submit, split, indices, rollout.completions) if rollout.finite else None
        return Scoring(examples=len(examples), tokens=rollout.tokens, grade=grade)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _not_finite(generation: int) -> str:
    if generation == 0:
        return (
            "spec.model.source: the model gives NaN or infinite logits before any update. "
            "Fix: use spec.model.dtype: float32 or bfloat16, or another checkpoint of the model."
        )
    return (
        f"spec.evolution: the weights of generation {generation} give NaN or infinite logits. "
        "Fix: lower learningRate or sigma and start the run afresh."
    )
