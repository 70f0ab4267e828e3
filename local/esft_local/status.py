"""The status of a run on one machine, in the same words as in a cluster, and reading it from the run's folder.

`status.json` is what the session last said, for whoever asks from outside. The log is the truth: the file may be
missing or late, and a session that was killed leaves it saying that the run goes on.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from esft.document import load
from esft.layout import checkpoint_name
from esft.spec import ESFineTune
from esft.status import ESFineTuneStatus, WorkersStatus, words
from esft.status.clock import timestamp
from esft.status.ledger import Ledger
from esft.status.report import Stage, checkpoint_of, fitness_of, progress_of, workers_verdict
from esft.status.snapshot import Snapshot
from esft_local.files import RunFolderError
from esft_local.folder import in_use, read_history, read_state
from esft_local.history import HistoryLine, ledger_of

STATUS_FILE: Final = "status.json"
GENERATION: Final = 1  # of the specification: a folder has one
STARTING: Final = workers_verdict(ready=0, desired=1, problem=None)

_KILLED: Final = ("Killed", "The session ended without a word; the same command goes on.")


def status_of(
    spec: ESFineTune,
    ledger: Ledger,
    stage: Stage,
    *,
    before: ESFineTuneStatus,
    checkpoints: Path,
    workers: tuple[int, int],
    active: tuple[datetime | None, float],
    now: datetime,
) -> ESFineTuneStatus:
    """The status of a run.

    Args:
        spec: the effective specification.
        ledger: the fold of its log.
        stage: what is going on.
        before: the status until now.
        checkpoints: the folder that has them.
        workers: how many are wanted, and are ready.
        active: since when there is a session, and the seconds of those before.
        now: the time.
    """
    outcome, (desired, ready), (since, seconds) = stage.outcome, workers, active
    succeeded = stage.phase == words.SUCCEEDED
    return ESFineTuneStatus(
        observed_generation=GENERATION,
        phase=stage.phase,
        conditions=stage.conditions(before=before, generation=GENERATION, now=now),
        progress=progress_of(ledger, planned=spec.spec.evolution.generations, over=outcome is not None),
        fitness=fitness_of(ledger),
        evaluation=ledger.score,
        workers=WorkersStatus(desired=desired, ready=ready, selector=""),
        checkpoint=checkpoint_of(
            before,
            spec.spec,
            ledger,
            succeeded=succeeded,
            uri=lambda generation: f"file://{checkpoints / checkpoint_name(generation)}",
        ),
        start_time=before.start_time or (timestamp(now) if stage.started else None),
        completion_time=None if outcome is None else timestamp(now),
        active_since=None if since is None else timestamp(since),
        active_seconds=round(seconds, 3),
    )


def read_status(path: Path) -> Snapshot:
    """A run as its folder shows it, while it goes on or afterwards; nothing is written.

    Raises:
        RunFolderError: it holds no run.
        SpecError: its specification cannot be read.
    """
    spec, history, state = read_run(path)
    is_held, saved = in_use(path), saved_snapshot(path, state["uid"])
    if saved is not None and (saved.status.end is not None or saved.phase == words.SUSPENDED):
        return saved
    before = ESFineTuneStatus() if saved is None else saved.status
    ledger = max(Ledger.from_status(before), ledger_of(history), key=lambda ledger: ledger.generation)
    if saved is not None and is_held:
        progress = progress_of(ledger, planned=spec.spec.evolution.generations, over=False)
        if before.progress is not None and progress.generation == before.progress.generation:
            return saved
        newer = {"progress": progress, "fitness": fitness_of(ledger), "evaluation": ledger.score}
        return saved.model_copy(update={"status": before.model_copy(update=newer), "written": None})
    stage = Stage(
        outcome=None,
        suspended=None if is_held else _KILLED,
        started=before.start_time is not None or ledger.generation > 0,
        redis_problem=None,
        failure=None,
        workers=STARTING,
    )
    status = status_of(
        spec,
        ledger,
        stage,
        before=before,
        checkpoints=path.absolute() / "checkpoints",
        workers=(0, 0),
        active=(None, state["wall_seconds"]),
        now=datetime.fromtimestamp((path / (STATUS_FILE if saved else "run.json")).stat().st_mtime, UTC),
    )
    return Snapshot(
        name=spec.metadata.name,
        namespace=None,
        uid=state["uid"],
        generation=GENERATION,
        created_at=created_at(path),
        status=status,
    )


def read_run(path: Path) -> tuple[ESFineTune, list[HistoryLine], dict[str, Any]]:
    """The effective specification of a run, its history, and what run.json holds.

    Raises:
        RunFolderError: the folder holds no run.
        SpecError: its specification cannot be read.
    """
    if not (path / "run.json").is_file():
        raise RunFolderError(
            f"{path}: holds no run. Fix: name the folder that was given to `esft run --output`"
        )
    return load(path / "spec.yaml"), read_history(path / "history.jsonl"), read_state(path)


def saved_snapshot(path: Path, uid: str) -> Snapshot | None:
    """What a session last said of the run with that uid; None where nothing is to be read."""
    try:
        found = Snapshot.from_dict(json.loads((path / STATUS_FILE).read_text(encoding="utf-8")))
    except (OSError, LookupError, TypeError, ValueError):
        return None
    return found if found.uid == uid else None


def created_at(path: Path) -> datetime:
    """When a run's folder was made: its lock is opened again and again, and never written to."""
    return datetime.fromtimestamp((path / "lock").stat().st_mtime, UTC)
