"""How a run ended, in one small file that programs read: summary.json."""

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict

from esft.spec import ESFineTune
from esft.spec.base import StrictModel
from esft.status.snapshot import Snapshot
from esft_local.history import HistoryLine


class ScoreSummary(StrictModel):
    """The held-out score over a run; `final` is the latest one measured, `best` the highest."""

    base: float
    final: float
    best: float
    best_generation: int


class Summary(BaseModel):
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

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    phase: str
    reason: str
    message: str
    generations: int
    planned: int
    digest: str | None
    score: ScoreSummary | None
    members_evaluated: int
    wall_seconds: float
    training_seconds: float
    worker_seconds: float
    stage_seconds: dict[str, float]
    leases_expired: int
    workers: int
    seed: int

    @classmethod
    def of(
        cls,
        snapshot: Snapshot,
        history: Sequence[HistoryLine],
        *,
        spec: ESFineTune,
        wall_seconds: float,
        workers: int,
        stage_seconds: dict[str, float],
    ) -> Self:
        """Sum up a run's last snapshot and its history."""
        reason, message = snapshot.reason
        score, digest = snapshot.status.evaluation, snapshot.status.digest
        return cls(
            name=snapshot.name,
            phase=snapshot.phase,
            reason=reason,
            message=message,
            generations=sum(1 for line in history if line.fitness is not None),
            planned=spec.spec.evolution.generations,
            digest=digest,
            score=None
            if score is None
            else ScoreSummary(
                base=score.base, final=score.last, best=score.best, best_generation=score.best_generation
            ),
            members_evaluated=sum(line.members for line in history),
            wall_seconds=round(wall_seconds, 3),
            training_seconds=round(sum(line.seconds or 0.0 for line in history), 3),
            worker_seconds=round(sum(line.worker_seconds or 0.0 for line in history), 3),
            stage_seconds=stage_seconds,
            leases_expired=sum(line.leases_expired or 0 for line in history),
            workers=workers,
            seed=spec.spec.evolution.seed,
        )
