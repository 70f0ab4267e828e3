"""What a run's curve is drawn from: one line a generation, derived from update records and their telemetry.

The update log is the truth and history can always be made again from it; only telemetry (seconds, workers)
stands here alone. Kept apart from the log because the log must stay verbatim and small numbers of people's
interest should be readable with `jq` alone.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from esft.records import Evaluation, FitnessStatistics, UpdateRecord, finite_or_none, nan_if_none
from esft.status.ledger import Ledger


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """One generation, for people.

    Attributes:
        generation: g.
        fitness: statistics over its members; None for the last line of a finished run, which has no members.
        evaluation: held-out evaluation of weights(g), the weights that the generation started from.
        kl_divergence: in nats a token, of weights(g) from the base model.
        checkpoint: whether weights(g) were saved.
        sigma: scale of the noise; None without members.
        step: see UpdateRecord; None without members.
        seconds: from the generation's opening to its commit; None when not known any more.
        worker_seconds: time spent on its items, summed over workers; likewise.
        workers: how many were registered at the commit; likewise.
        leases_expired: leases that were given to another worker; likewise.
    """

    generation: int
    fitness: FitnessStatistics | None
    evaluation: Evaluation | None
    kl_divergence: float | None
    checkpoint: bool = False
    sigma: float | None = None
    step: float | None = None
    seconds: float | None = None
    worker_seconds: float | None = None
    workers: int | None = None
    leases_expired: int | None = None

    @classmethod
    def of(cls, record: UpdateRecord, telemetry: Mapping[str, float]) -> Self:
        """The line of a committed record; telemetry may lack any of its keys."""
        milliseconds = telemetry.get("item_milliseconds")
        return cls(
            generation=record.generation,
            fitness=record.statistics,
            evaluation=record.evaluation,
            kl_divergence=record.kl_divergence,
            checkpoint=record.checkpoint,
            sigma=record.sigma,
            step=record.step,
            seconds=telemetry.get("seconds"),
            worker_seconds=None if milliseconds is None else milliseconds / 1000,
            workers=_integer(telemetry.get("workers")),
            leases_expired=_integer(telemetry.get("leases_expired")),
        )

    @property
    def members(self) -> int:
        """How many members have a fitness."""
        return 0 if self.fitness is None else self.fitness.valid

    def to_json(self) -> str:
        """Serialise to one line; what is not a finite number becomes null."""
        data = asdict(self) | {"members": self.members}
        if self.fitness is not None:
            data["fitness"] = {
                name: finite_or_none(getattr(self.fitness, name)) for name in ("mean", "best", "worst", "std")
            }
        if self.evaluation is not None:
            data["evaluation"] = self.evaluation.to_dict()
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: the text is not a line of a history.
        """
        data: dict[str, Any] = json.loads(text)
        members, fitness = int(data.pop("members")), data["fitness"]
        if fitness is not None:
            values = {name: nan_if_none(value) for name, value in fitness.items()}
            data["fitness"] = FitnessStatistics(**values, valid=members)
        return cls(**data | {"evaluation": data["evaluation"] and Evaluation.from_dict(data["evaluation"])})


def ledger_of(history: Iterable[HistoryLine], after: Ledger | None = None) -> Ledger:
    """The fold of a history, the final weights' line included; it goes on from `after`."""
    ledger = after or Ledger()
    for line in history:
        if line.fitness is None:
            ledger = ledger.final(line.evaluation, line.generation)
        else:
            ledger = ledger.closed(
                line.generation,
                fitness=line.fitness,
                evaluation=line.evaluation,
                checkpoint=line.checkpoint,
                seconds=line.seconds,
                member_seconds=line.worker_seconds,
            )
    return ledger


def _integer(value: float | None) -> int | None:
    return None if value is None else int(value)
