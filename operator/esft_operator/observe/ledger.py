"""What a run has come to so far, as the fold of its update log: each entry is looked at once, and none is skipped.

Pure. A restarted operator goes on from what the resource's status says, so the totals of a run of a million generations
need neither the whole log nor a store of the operator's own.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from esft.policy import Policy
from esft.queue import Entry, RunState
from esft.records import Evaluation, FitnessStatistics, UpdateRecord
from esft.status import ESFineTuneStatus

_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")
_DIGEST: Final = re.compile(r"[0-9a-f]{16}")
_WINDOW: Final = 8  # generations that averages remember


@dataclass(frozen=True, slots=True)
class Score:
    """Held-out score over the run; `count` evaluations, the latest of weights(`last_generation`)."""

    base: float
    last: float
    best: float
    best_generation: int
    last_generation: int
    count: int = 1

    def followed_by(self, score: float, generation: int) -> "Score":
        """With one more evaluation; one that was counted already changes nothing."""
        if generation <= self.last_generation:
            return self
        better = score > self.best
        return Score(
            base=self.base,
            last=score,
            best=score if better else self.best,
            best_generation=generation if better else self.best_generation,
            last_generation=generation,
            count=self.count + 1,
        )


@dataclass(frozen=True, slots=True)
class Ledger:
    """The fold. All is of the generations that are closed.

    Attributes:
        generation: how many entries went in; the open generation's number.
        fitness: of the latest one.
        score: of all evaluations; None before the first.
        checkpoint: the newest generation whose weights are saved; None before any.
        generation_seconds: from opening to commit, averaged over the latest ones; None before any.
        member_seconds: work summed over items, likewise.
        workers_wanted: what was wanted when the latest entries came.
        generations_since_change: entries since `workers_wanted` last changed.
    """

    generation: int = 0
    fitness: FitnessStatistics | None = None
    score: Score | None = None
    checkpoint: int | None = None
    generation_seconds: float | None = None
    member_seconds: float | None = None
    workers_wanted: int = 0
    generations_since_change: int = 0

    @classmethod
    def from_status(cls, status: ESFineTuneStatus) -> Self:
        """Go on from a status; averages start anew."""
        evaluation, fitness, workers = status.evaluation, status.fitness, status.workers
        return cls(
            generation=0 if status.progress is None else status.progress.generation,
            fitness=None
            if fitness is None
            else FitnessStatistics(
                mean=fitness.mean, best=fitness.best, worst=math.nan, std=fitness.std, valid=1
            ),
            score=None
            if evaluation is None
            else Score(
                base=evaluation.base,
                last=evaluation.last,
                best=evaluation.best,
                best_generation=evaluation.best_generation,
                last_generation=evaluation.last_generation,
                count=evaluation.count,
            ),
            checkpoint=None if status.checkpoint is None else status.checkpoint.generation,
            workers_wanted=0 if workers is None else workers.desired,
        )

    def wanted(self, workers: int) -> "Ledger":
        """Note how many workers are wanted from now on."""
        if workers == self.workers_wanted:
            return self
        return replace(self, workers_wanted=workers, generations_since_change=0)

    def followed_by(self, entries: Sequence[Entry]) -> "Ledger":
        """With the next entries of the log."""
        ledger = self
        for entry in entries:
            ledger = ledger._with(UpdateRecord.from_json(entry.record), entry)
        return ledger

    def _with(self, record: UpdateRecord, entry: Entry) -> "Ledger":
        milliseconds = entry.telemetry.get("item_milliseconds")
        return replace(
            self,
            generation=record.generation + 1,
            fitness=record.statistics,
            score=_scored(self.score, record.evaluation, record.generation),
            checkpoint=max(record.generation, self.checkpoint or 0) if record.checkpoint else self.checkpoint,
            generation_seconds=_averaged(self.generation_seconds, entry.telemetry.get("seconds")),
            member_seconds=_averaged(
                self.member_seconds, None if milliseconds is None else milliseconds / 1000
            ),
            generations_since_change=self.generations_since_change + 1,
        )

    def ended(self, state: RunState) -> "Ledger":
        """With what the run's result says of the final weights, which is not in the log."""
        result = json.loads(state.result) if state.result else {}
        if "generation" not in result:
            return self
        evaluation = result.get("evaluation")
        measured = None if evaluation is None else Evaluation.from_dict(evaluation)
        return replace(
            self,
            score=_scored(self.score, measured, result["generation"]),
            checkpoint=result["generation"] if state.phase == "Succeeded" else self.checkpoint,
        )


def check(state: RunState) -> None:
    """See that a run's policy and end are as they are written here, before anything is decided by them.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: it is not; a run's user may write to the run's keys.
    """
    Policy.from_json(state.policy)
    if not state.finished:
        return
    if not _WORD.fullmatch(state.reason):
        raise ValueError(f"the reason of its end is {state.reason!r}, which is no word")
    Ledger().ended(state)
    digest = final_digest(state)
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise ValueError(f"its digest is {digest!r}")


def final_digest(state: RunState) -> str | None:
    """Digest of the final weights, once the run has succeeded."""
    digest: str | None = json.loads(state.result).get("digest") if state.result else None
    return digest


def _scored(score: Score | None, evaluation: Evaluation | None, generation: int) -> Score | None:
    if evaluation is None or not math.isfinite(evaluation.score):
        return score
    if score is None:
        value = evaluation.score
        return Score(
            base=value, last=value, best=value, best_generation=generation, last_generation=generation
        )
    return score.followed_by(evaluation.score, generation)


def _averaged(mean: float | None, value: float | None) -> float | None:
    """Exponentially, over about `_WINDOW` values."""
    if value is None:
        return mean
    return value if mean is None else mean + (value - mean) / _WINDOW
