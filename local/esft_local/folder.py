"""The folder of a local run: all that is needed to go on after anything, and all that a run leaves.

    spec.yaml      the effective specification, overrides applied
    run.json       the run's uid, fingerprint, versions and wall time so far
    log.jsonl      the update log, each record as the queue committed it, synced before the next is read
    history.jsonl  the same for people: see history.py
    status.json    how it is: see status.py;  summary.json  how it ended: see summary.py; absent while it runs
    checkpoints/   written by workers;  model/  the final one;  fitness.png;  logs/

The log is the run. Redis may be lost, checkpoints may be lost: weights(g) = base + log[0..g). So the log is
append only, its records are kept verbatim, and nothing else is synced as often. Rejected: SQLite (one more
format, for a file that only grows) and relying on the append-only file of Redis (it belongs to a server that
may not be ours).
"""

import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import yaml

from esft.document import load
from esft.errors import SpecError
from esft.records import Evaluation, UpdateRecord
from esft.spec import ESFineTune, fingerprint, immutable_differences
from esft.status.ledger import Ledger
from esft.status.words import SUCCEEDED
from esft.versions import CURRENT, Versions, require_current
from esft_local.files import RunFolderError, append_line, explained, write_atomically
from esft_local.history import HistoryLine, ledger_of
from esft_local.summary import Summary

if TYPE_CHECKING:
    from esft.queue import Entry

_LOCK_SECONDS = 0.5
_SAVE_WALL_SECONDS = 5.0


@dataclass(slots=True)
class RunFolder:
    """A run's folder, held by this process alone; made by `RunFolder.open`.

    Attributes:
        path: the folder, absolute.
        spec: the effective specification.
        saved: the specification of the session before; None for a new run.
        uid: names the run in Redis; stays the same over sessions.
        generation: counts the changes of the specification, as metadata.generation of a resource does.
        log: the update records in order, as JSON.
        history: a line for each of them, and one for the final weights once they are measured.
        ledger: the fold of the history.
        wall_seconds: of all sessions so far.
    """

    path: Path
    spec: ESFineTune
    saved: ESFineTune | None
    uid: str
    generation: int
    log: list[str]
    history: list[HistoryLine]
    wall_seconds: float
    ledger: Ledger = field(init=False)
    _saved_wall_seconds: float = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        self.ledger = ledger_of(self.history)

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, spec: ESFineTune, *, new_uid: Callable[[], str]) -> Iterator[Self]:
        """Take the folder for this process and load what earlier sessions left; writes only the lock.

        Raises:
            RunFolderError: the folder cannot be used, is in use, or holds something else.
            SpecError: it holds a run with other settings.
            VersionError: it holds a run of a release that this one cannot go on with.
        """
        path = path.absolute()
        with explained(path):
            path.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            yield cls._load(path, spec, new_uid)

    @classmethod
    def _load(cls, path: Path, spec: ESFineTune, new_uid: Callable[[], str]) -> Self:
        new = cls(path, spec, saved=None, uid=new_uid(), generation=1, log=[], history=[], wall_seconds=0.0)
        if not (path / "run.json").exists():
            _refuse_foreign_content(path)
            return new
        state = read_state(path)
        require_current(Versions.of(state), f"the run in {path}")
        saved = load(path / "spec.yaml", ())
        log = read_log(path / "log.jsonl")
        if not log and immutable_differences(saved.spec, spec.spec):
            return new  # nothing was learned with the old settings, which may have been wrong
        _refuse_other_settings(path, saved, spec)
        return cls(
            path,
            spec,
            saved=saved,
            uid=state["uid"],
            generation=state["generation"] + (saved.spec != spec.spec),
            log=log,
            history=_matching_history(path / "history.jsonl", log),
            wall_seconds=state["wall_seconds"],
        )

    @property
    def checkpoints(self) -> Path:
        """Where workers write checkpoints."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """Where the logs of workers and of the runner are."""
        return self.path / "logs"

    def finished(self) -> Summary | None:
        """The summary of a run that has nothing left to do; None when there is something."""
        if self.saved is None:
            return None
        before, now = self.saved.spec, self.spec.spec
        same_end = before.evolution.generations == now.evolution.generations and before.stop == now.stop
        summary = read_summary(self.path)
        return summary if summary is not None and summary.phase == SUCCEEDED and same_end else None

    def begin(self) -> None:
        """Make the folder ready for a session: folders, specification, state; the old summary goes."""
        with explained(self.path):
            self.logs.mkdir(exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            (self.path / "summary.json").unlink(missing_ok=True)
        document = self.spec.model_dump(mode="json", by_alias=True)
        document["metadata"]["generation"] = self.generation
        write_atomically(self.path / "spec.yaml", yaml.safe_dump(document, sort_keys=False))
        _truncate_torn_line(self.path / "log.jsonl")
        self._rewrite_history()
        self._save_state()

    def append(self, entry: "Entry") -> None:
        """Add the next record of the log.

        Raises:
            RunFolderError: it cannot be written; the log on disk is as before.
        """
        record = UpdateRecord.from_json(entry.record)
        if record.generation != len(self.log):
            raise RunFolderError(f"{self.path}: got record {record.generation} after {len(self.log) - 1}")
        line = HistoryLine.of(record, entry.telemetry)
        append_line(self.path / "log.jsonl", entry.record)
        self.log.append(entry.record)
        del self.history[record.generation :]
        self.history.append(line)
        self.ledger = ledger_of([line], self.ledger)
        append_line(self.path / "history.jsonl", line.to_json())

    def measured_at_end(self, evaluation: Evaluation | None, kl_divergence: float | None) -> None:
        """Add the line of the final weights, which are saved and which no record holds."""
        del self.history[len(self.log) :]
        self.history.append(HistoryLine(len(self.log), None, evaluation, kl_divergence, checkpoint=True))
        self.ledger = self.ledger.final(evaluation, len(self.log))
        self._rewrite_history()

    def worked(self, seconds: float, *, save: bool = False) -> None:
        """Add to the wall time; it is saved now and then, and now if asked."""
        self.wall_seconds += seconds
        if save or self.wall_seconds - self._saved_wall_seconds > _SAVE_WALL_SECONDS:
            self._save_state()

    def write_summary(self, summary: Summary) -> None:
        """Write summary.json, the last file of a session."""
        write_atomically(self.path / "summary.json", summary.model_dump_json(indent=2) + "\n")

    def _save_state(self) -> None:
        self._saved_wall_seconds = self.wall_seconds
        state = {
            "uid": self.uid,
            "generation": self.generation,
            "fingerprint": fingerprint(self.spec.spec),
            "wall_seconds": round(self.wall_seconds, 3),
            **CURRENT.as_dict(),
        }
        write_atomically(self.path / "run.json", json.dumps(state, indent=2) + "\n")

    def _rewrite_history(self) -> None:
        write_atomically(self.path / "history.jsonl", "".join(f"{line.to_json()}\n" for line in self.history))


def read_summary(path: Path) -> Summary | None:
    """The summary in a run's folder; None when there is none.

    Raises:
        RunFolderError: there is a file that is not one.
    """
    file = path / "summary.json"
    try:
        return Summary.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunFolderError(f"{file}: not a summary of a run. Fix: delete the file and run again") from error


def read_history(path: Path) -> list[HistoryLine]:
    """The lines of history.jsonl, up to the first that is torn."""
    lines: list[HistoryLine] = []
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            lines.append(HistoryLine.from_json(text))  # noqa: PERF401 - what came before an error stays
    return lines


def in_use(path: Path) -> bool:
    """Whether a process holds the folder now, that is, whether the run is going on."""
    try:
        with (path / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the folder's lock; the system lets go of it however this process ends."""
    with explained(path):
        file = (path / "lock").open("ab")
    with file:
        _lock(file, path)
        yield


def _lock(file: BinaryIO, path: Path) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS  # `in_use` takes it for an instant
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RunFolderError(
                    f"{path}: another `esft run` is using this folder. Fix: wait for it or stop it, "
                    "or choose another folder with --output"
                ) from None
            time.sleep(0.05)
        else:
            return


def _refuse_foreign_content(path: Path) -> None:
    known = {"lock", "spec.yaml", "history.jsonl", "logs", "checkpoints"}
    names = {entry.name for entry in path.iterdir()} - known
    foreign = sorted(name for name in names if not name.startswith("."))
    if foreign:
        raise RunFolderError(
            f"{path}: not empty ({foreign[0]}) and not the folder of a run. Fix: choose another with --output"
        )


def _refuse_other_settings(path: Path, saved: ESFineTune, spec: ESFineTune) -> None:
    fields = immutable_differences(saved.spec, spec.spec)
    if fields:
        raise SpecError(
            f"{path}: holds a run with another {', '.join(fields)}. "
            "Fix: give this run a folder of its own with --output DIR, or set the old value again"
        )


def read_state(path: Path) -> dict[str, Any]:
    """What run.json in a run's folder holds: uid, fingerprint, versions, wall_seconds.

    Raises:
        RunFolderError: it cannot be read.
    """
    file = path / "run.json"
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(
            f"{file}: not JSON ({error}). Fix: choose another folder with --output"
        ) from error
    return data


def read_log(file: Path) -> list[str]:
    """The complete lines of a log, checked; a torn last line is left out.

    Raises:
        RunFolderError: it cannot be read, or a line is not the update record of its generation.
    """
    with explained(file):
        content = file.read_bytes() if file.exists() else b""
    lines = content.split(b"\n")[:-1]  # what follows the last newline is empty or torn
    log: list[str] = []
    for number, line in enumerate(lines):
        try:
            if UpdateRecord.from_json(line).generation != number:
                raise ValueError(f"expected generation {number}")  # noqa: TRY301
            log.append(line.decode("utf-8"))
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"{file}:{number + 1}: not the update record of generation {number} ({error}). "
                "Fix: cut the file before that line and run again: the run continues from that generation"
            ) from error
    return log


def _truncate_torn_line(file: Path) -> None:
    with explained(file), file.open("ab+") as opened:
        opened.seek(0)
        opened.truncate(opened.read().rfind(b"\n") + 1)


def _matching_history(file: Path, log: list[str]) -> list[HistoryLine]:
    """The history of exactly this log: lines that are missing are made again, without telemetry."""
    lines = read_history(file)
    return [
        lines[number]
        if number < len(lines) and lines[number].generation == number and lines[number].fitness is not None
        else HistoryLine.of(UpdateRecord.from_json(record), {})
        for number, record in enumerate(log)
    ]
