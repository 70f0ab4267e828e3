"""What a run has come to so far, as the fold of its update log: each entry is looked at once, and none is skipped.

Pure. A restarted operator goes on from what the resource's status says, so the totals of a run of a million generations
need neither the whole log nor a store of the operator's own.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from esft.queue import Entry, RunState
from esft.records import Evaluation, FitnessStatistics, UpdateRecord
from esft.status import words
from esft.status.model import ESFineTuneStatus, EvaluationStatus, Fitness
from esft.wording import for_a_column

_WINDOW: Final = 8  # generations that averages remember


@dataclass(frozen=True, slots=True)
class Ledger:
    """The fold. All is of the generations that are closed.

    Attributes:
        generation: how many entries went in; the open generation's number.
        fitness: of the latest one; None where it is not made of numbers.
        score: held out, over all evaluations; None before the first.
        checkpoint: the newest generation whose weights are saved; None before any.
        generation_seconds: from opening to commit, averaged over the latest ones; None before any.
        member_seconds: work summed over items, likewise.
        workers_wanted: what was wanted when the latest entries came.
        generations_since_change: entries since `workers_wanted` last changed.
    """

    generation: int = 0
    fitness: Fitness | None = None
    score: EvaluationStatus | None = None
    checkpoint: int | None = None
    generation_seconds: float | None = None
    member_seconds: float | None = None
    workers_wanted: int = 0
    generations_since_change: int = 0

    @classmethod
    def from_status(cls, status: ESFineTuneStatus) -> Self:
        """Go on from a status; averages start anew."""
        return cls(
            generation=0 if status.progress is None else status.progress.generation,
            fitness=status.fitness,
            score=status.evaluation,
            checkpoint=None if status.checkpoint is None else status.checkpoint.generation,
            workers_wanted=0 if status.workers is None else status.workers.desired,
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
            record = UpdateRecord.from_json(entry.record)
            milliseconds = entry.telemetry.get("item_milliseconds")
            ledger = ledger.closed(
                record.generation,
                fitness=record.statistics,
                evaluation=record.evaluation,
                checkpoint=record.checkpoint,
                seconds=entry.telemetry.get("seconds"),
                member_seconds=None if milliseconds is None else milliseconds / 1000,
            )
        return ledger

    def closed(
        self,
        generation: int,
        *,
        fitness: FitnessStatistics,
        evaluation: Evaluation | None,
        checkpoint: bool,
        seconds: float | None,
        member_seconds: float | None,
    ) -> "Ledger":
        """With a generation that has closed; `evaluation` and `checkpoint` are of the weights that it started from."""
        return replace(
            self.measured(evaluation, generation),
            generation=generation + 1,
            fitness=_fitness(fitness),
            checkpoint=max(generation, self.checkpoint or 0) if checkpoint else self.checkpoint,
            generation_seconds=_averaged(self.generation_seconds, seconds),
            member_seconds=_averaged(self.member_seconds, member_seconds),
            generations_since_change=self.generations_since_change + 1,
        )

    def measured(self, evaluation: Evaluation | None, generation: int) -> "Ledger":
        """With an evaluation of weights(generation), if there was one; it counts once."""
        if evaluation is None or not math.isfinite(evaluation.score):
            return self
        score, before = evaluation.score, self.score
        if before is not None and generation <= before.last_generation:
            return self
        best = (score, generation) if before is None else (before.best, before.best_generation)
        if score > best[0]:
            best = (score, generation)
        return replace(
            self,
            score=EvaluationStatus(
                base=score if before is None else before.base,
                last=score,
                best=best[0],
                best_generation=best[1],
                last_generation=generation,
                count=1 if before is None else before.count + 1,
                summary=for_a_column(score),
            ),
        )

    def ended(self, state: RunState) -> "Ledger":
        """With what the run's result says of the final weights, which is not in the log."""
        result = json.loads(state.result) if state.result else {}
        if "generation" not in result:
            return self
        measured = result.get("evaluation")
        evaluation = None if measured is None else Evaluation.from_dict(measured)
        take = self.final if state.phase == words.SUCCEEDED else self.measured
        return take(evaluation, result["generation"])

    def final(self, evaluation: Evaluation | None, generation: int) -> "Ledger":
        """With the final weights of a run that has succeeded, which are always saved."""
        return replace(self.measured(evaluation, generation), checkpoint=generation)


def _fitness(found: FitnessStatistics) -> Fitness | None:
    if not all(map(math.isfinite, (found.mean, found.best, found.std))):
        return None
    return Fitness(mean=found.mean, best=found.best, std=found.std, summary=for_a_column(found.mean))


def _averaged(mean: float | None, value: float | None) -> float | None:
    """Exponentially, over about `_WINDOW` values."""
    if value is None:
        return mean
    return value if mean is None else mean + (value - mean) / _WINDOW
