"""How a run ended, in one small file that programs read: summary.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from esft.spec import ESFineTune
from esft_local.history import HistoryLine, Score, score_of

SUCCEEDED = "Succeeded"
FAILED = "Failed"
SUSPENDED = "Suspended"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What ended a session: the run's own final state, or Ctrl-C (phase Suspended)."""

    phase: str
    reason: str
    message: str
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """The content of summary.json.

    Attributes:
        phase: Succeeded, Failed, or Suspended (stopped by its user; the same command continues it).
        reason: one word for programs.
        message: one sentence for people.
        generations: updates made.
        planned: updates asked for.
        digest: checksum of the final weights, 16 hex digits; None unless Succeeded.
        score: held-out score; None when nothing was evaluated.
        members_evaluated: members with a fitness, over all generations.
        wall_seconds: over all sessions, from start to end of `esft run`.
        training_seconds: the same between opening and commit of each generation; start and end are left out.
        worker_seconds: time spent on items, summed over workers.
        stage_seconds: what workers spent on each stage (generate, perturb, queue ...), summed over those of the last
            session that came to an orderly end; see esft_worker.metrics.
        leases_expired: leases that were given to another worker.
        workers: how many this session was asked for.
        seed: of the noise.
    """

    name: str
    phase: str
    reason: str
    message: str
    generations: int
    planned: int
    digest: str | None
    score: Score | None
    members_evaluated: int
    wall_seconds: float
    training_seconds: float
    worker_seconds: float
    stage_seconds: Mapping[str, float]
    leases_expired: int
    workers: int
    seed: int

    @classmethod
    def of(
        cls,
        outcome: Outcome,
        history: Sequence[HistoryLine],
        *,
        spec: ESFineTune,
        wall_seconds: float,
        workers: int,
        stage_seconds: Mapping[str, float],
    ) -> Self:
        """Sum up a run's history."""
        return cls(
            name=spec.metadata.name,
            phase=outcome.phase,
            reason=outcome.reason,
            message=outcome.message,
            generations=sum(1 for line in history if line.fitness is not None),
            planned=spec.spec.evolution.generations,
            digest=outcome.digest,
            score=score_of(history),
            members_evaluated=sum(line.members for line in history),
            wall_seconds=round(wall_seconds, 3),
            training_seconds=round(sum(line.seconds or 0.0 for line in history), 3),
            worker_seconds=round(sum(line.worker_seconds or 0.0 for line in history), 3),
            stage_seconds=stage_seconds,
            leases_expired=sum(line.leases_expired or 0 for line in history),
            workers=workers,
            seed=spec.spec.evolution.seed,
        )

    def as_dict(self) -> dict[str, Any]:
        """The keys and values of summary.json."""
        score = self.score
        return {
            "name": self.name,
            "phase": self.phase,
            "reason": self.reason,
            "message": self.message,
            "generations": self.generations,
            "planned": self.planned,
            "digest": self.digest,
            "score": None
            if score is None
            else {
                "base": score.base,
                "final": score.final,
                "best": score.best,
                "bestGeneration": score.best_generation,
            },
            "members_evaluated": self.members_evaluated,
            "wall_seconds": self.wall_seconds,
            "training_seconds": self.training_seconds,
            "worker_seconds": self.worker_seconds,
            "stage_seconds": dict(self.stage_seconds),
            "leases_expired": self.leases_expired,
            "workers": self.workers,
            "seed": self.seed,
        }

    def to_json(self) -> str:
        """The text of summary.json."""
        return json.dumps(self.as_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: the text is not a summary.
        """
        data: dict[str, Any] = json.loads(text)
        score = data["score"]
        data["score"] = score and Score(
            base=score["base"],
            final=score["final"],
            best=score["best"],
            best_generation=score["bestGeneration"],
        )
        return cls(**data)
