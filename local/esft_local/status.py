"""Reading a run's folder from outside, while it runs or afterwards; nothing is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esft.document import load
from esft.spec import ESFineTune
from esft_local.files import RunFolderError
from esft_local.folder import in_use, read_history, read_summary
from esft_local.history import HistoryLine, score_of
from esft_local.summary import SUSPENDED, Summary


@dataclass(frozen=True, slots=True)
class LocalStatus:
    """A run as its folder shows it.

    Attributes:
        spec: the effective specification.
        running: whether a session holds the folder now.
        history: a line for each generation so far.
        summary: of the latest session; None while it runs, or when it was killed.
    """

    spec: ESFineTune
    running: bool
    history: Sequence[HistoryLine]
    summary: Summary | None

    @property
    def phase(self) -> str:
        """Running, Suspended (the same command goes on), Succeeded or Failed."""
        if self.running:
            return "Running"
        return SUSPENDED if self.summary is None else self.summary.phase

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        if self.summary is not None and not self.running:
            return self.summary.as_dict()
        score = score_of(self.history)
        fitness = [line.fitness for line in self.history if line.fitness is not None]
        last = fitness[-1] if fitness else None
        return {
            "name": self.spec.metadata.name,
            "phase": self.phase,
            "reason": "" if self.running else "Killed",
            "message": "" if self.running else "The session ended without a word; the same command goes on.",
            "generations": len(fitness),
            "planned": self.spec.spec.evolution.generations,
            "fitness": None if last is None else {"mean": last.mean, "best": last.best, "std": last.std},
            "score": None
            if score is None
            else {
                "base": score.base,
                "last": score.final,
                "best": score.best,
                "bestGeneration": score.best_generation,
            },
        }


def read_status(path: Path) -> LocalStatus:
    """Read a run's folder.

    Raises:
        RunFolderError: it holds no run.
    """
    if not (path / "run.json").is_file():
        raise RunFolderError(
            f"{path}: holds no run. Fix: name the folder that was given to `esft run --output`"
        )
    running = in_use(path)
    return LocalStatus(
        spec=load(path / "spec.yaml"),
        running=running,
        history=read_history(path / "history.jsonl"),
        summary=None if running else read_summary(path),
    )
