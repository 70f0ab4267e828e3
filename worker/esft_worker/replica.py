"""A replica: a model together with its place in the update log.

Weights never travel between workers. Each holds a replica and moves it along the log by itself; the digest after
each update shows that all replicas are still the same.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from esft.records import UpdateRecord
from esft_worker.checkpoint import CheckpointState, CheckpointStore, read_log, read_masters, seconds_to_read
from esft_worker.engine import Engine
from esft_worker.weights import Weights

logger = logging.getLogger(__name__)

_RECORDS_AT_ONCE = 16
"""Updates in one pass over the weights: beyond, the memory traffic saved is nothing beside making the noise."""


class Replica:
    """Weights(generation) of a run, made from the base model or a checkpoint, and the log."""

    def __init__(
        self,
        *,
        engine: Engine,
        make_weights: Callable[[torch.nn.Module], Weights],
        checkpoints: CheckpointStore,
        load_engine: Callable[[Path], Engine],
        fingerprint: str,
    ) -> None:
        """Start at the base model.

        Args:
            engine: holds the base model.
            make_weights: takes over the base model's parameters.
            checkpoints: where checkpoints of this run are found and saved.
            load_engine: loads the model of a checkpoint folder.
            fingerprint: of the run's immutable settings; other checkpoints are not used.
        """
        self.engine = engine
        self.weights = make_weights(engine.model)
        self.log: list[UpdateRecord] = []
        self._checkpoints = checkpoints
        self._load_engine = load_engine
        self._fingerprint = fingerprint

    @property
    def generation(self) -> int:
        """How many updates these weights have had."""
        return len(self.log)

    def apply(self, records: Sequence[UpdateRecord]) -> float:
        """Apply records in order; those that are applied already are passed over. Returns the last update's norm."""
        due = [record for record in records if record.generation >= self.generation]
        norm = 0.0
        for start in range(0, len(due), _RECORDS_AT_ONCE):
            some = due[start : start + _RECORDS_AT_ONCE]
            norm = self.weights.apply(some)
            self.log += some
            if len(due) > _RECORDS_AT_ONCE:
                logger.info("replaying", extra={"generation": self.generation, "of": due[-1].generation + 1})
        return norm

    def rebuild(self, log: Sequence[UpdateRecord]) -> None:
        """Make the weights anew from the base model and the whole log."""
        self.log = []
        self.weights.reset()
        self.apply(log)

    def restore_checkpoint(self) -> None:
        """Jump to the newest checkpoint of this run whose digest holds; without one, stay at the base model.

        Its masters are read from it, or made anew from its log, whichever is predicted to take less time.
        """
        for path, state in self._checkpoints.candidates(fingerprint=self._fingerprint):
            try:
                log = read_log(path)
                replays = self._replaying_is_faster(path, log)
                if replays:
                    self.rebuild(log)
                else:
                    self.weights.load_masters(self._masters_of(path))
            except (OSError, ValueError, KeyError) as error:
                logger.warning("checkpoint passed over", extra={"path": str(path), "reason": str(error)})
                continue
            if len(log) == state.generation and self.weights.digest() == state.digest:
                self.log = log
                logger.info(
                    "checkpoint replayed" if replays else "checkpoint loaded",
                    extra={"path": str(path), "generation": state.generation},
                )
                return
            logger.warning(
                "checkpoint passed over", extra={"path": str(path), "reason": "its digest does not hold"}
            )
        self.rebuild([])

    def _replaying_is_faster(self, path: Path, log: Sequence[UpdateRecord]) -> bool:
        replay, read = self.weights.seconds_to_apply(log), seconds_to_read(path)
        logger.debug("a checkpoint's cost", extra={"replay_seconds": replay, "read_seconds": read})
        return replay < read

    def save_checkpoint(self, *, writer: str, keep: int) -> Path:
        """Write weights(generation) as one of the newest `keep` checkpoints; leaves the working weights unperturbed."""
        self.weights.restore()
        state = CheckpointState(self.generation, self.weights.digest(), self._fingerprint)
        exact = all(
            parameter.dtype == torch.float32
            for parameter in self.engine.model.parameters()
            if parameter.dtype.is_floating_point
        )
        return self._checkpoints.save(
            state,
            save_model=self.engine.save,
            masters={} if exact else self.weights.masters(),
            log=self.log,
            writer=writer,
            keep=keep,
        )

    def _masters_of(self, path: Path) -> dict[str, torch.Tensor]:
        masters = read_masters(path)
        if masters is not None:
            return masters
        parameters = dict(self._load_engine(path).model.named_parameters())
        return {name: parameters[name].detach() for name in self.weights.names}
