"""Reading a run's folder from outside, while it runs or afterwards; nothing is written.

`status.json` is what the session last said. The log is the truth: the file may be missing or late, and a session
that was killed leaves it saying that the run goes on.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from esft.document import load
from esft.records import UpdateRecord
from esft.spec import ESFineTune
from esft.status import ESFineTuneStatus, WorkersStatus, words
from esft.status.clock import Clock
from esft.status.ledger import Ledger
from esft.status.report import Standing, has_started, status_of
from esft.status.snapshot import Snapshot
from esft.versions import Versions, require_current
from esft_local.files import RunFolderError
from esft_local.folder import in_use, read_history, read_state
from esft_local.history import HistoryLine, ledger_of
from esft_local.model import checkpoint_path

STATUS_FILE: Final = "status.json"

_KILLED: Final = ("Killed", "The session ended without a word; the same command goes on.")


def read_status(path: Path) -> Snapshot:
    """A run as its folder shows it.

    Raises:
        RunFolderError: it holds no run.
        SpecError: its specification cannot be read.
        VersionError: it is one of another release.
    """
    spec, history, state = read_run(path)
    require_current(Versions.of(state), f"the run in {path}")
    is_held, saved = in_use(path), saved_snapshot(path, state["uid"])
    if saved is not None and (saved.status.end is not None or saved.phase == words.SUSPENDED):
        return saved
    before = ESFineTuneStatus() if saved is None else saved.status
    # What the log has counts, unless the history is behind; of two that are as far, it knows how long generations take.
    ledger = max(ledger_of(history), Ledger.from_status(before), key=lambda fold: fold.generation)
    last_said = (path / ("run.json" if saved is None else STATUS_FILE)).stat().st_mtime
    status = status_of(
        Standing(
            suspended=None if is_held else _KILLED,
            started=has_started(before, ledger),
            clock=Clock(state["wall_seconds"], None),
        ),
        ledger,
        spec.spec,
        before=before,
        workers=WorkersStatus(desired=0, ready=0, selector=""),
        metadata_generation=state["generation"],
        checkpoint_uri=lambda generation: (
            f"file://{checkpoint_path(path.absolute() / 'checkpoints', generation)}"
        ),
        now=datetime.fromtimestamp(last_said, UTC),
    )
    if saved is not None and is_held:  # the session itself knows its workers and its time
        reached = {
            name: getattr(status, name) for name in ("progress", "fitness", "evaluation", "checkpoint")
        }
        return saved.model_copy(update={"status": before.model_copy(update=reached), "written": None})
    return snapshot_of(path, spec, state["uid"], status, generation=state["generation"])


def snapshot_of(
    path: Path, spec: ESFineTune, uid: str, status: ESFineTuneStatus, *, generation: int, **fields: Any
) -> Snapshot:
    """The run in a folder, with that status. The lock tells its age: it is opened time and again, and never written."""
    return Snapshot(
        name=spec.metadata.name,
        namespace=None,
        uid=uid,
        generation=generation,
        created_at=datetime.fromtimestamp((path / "lock").stat().st_mtime, UTC),
        status=status,
        **fields,
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
    return load(path / "spec.yaml"), _history(path), read_state(path)


def _history(path: Path) -> list[HistoryLine]:
    """The run's history, with the generations of the log that a killed session had no time to add to it."""
    lines = read_history(path / "history.jsonl")
    log = path / "log.jsonl"
    records = log.read_bytes().split(b"\n")[len(lines) : -1] if log.exists() else []
    return lines + [HistoryLine.of(UpdateRecord.from_json(record), {}) for record in records]


def saved_snapshot(path: Path, uid: str) -> Snapshot | None:
    """What a session last said of the run with that uid; None where nothing is to be read."""
    try:
        found = Snapshot.from_dict(json.loads((path / STATUS_FILE).read_text(encoding="utf-8")))
    except (OSError, LookupError, TypeError, ValueError):
        return None
    return found if found.uid == uid else None
