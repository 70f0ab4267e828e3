"""Checkpoints: a Hugging Face folder that anyone can load, plus what a worker needs to go on from it exactly.

A checkpoint is written to a temporary folder, flushed, and renamed, so that a folder with its final name is complete
whenever the process or the disk gives up. The update log is in it too: with a checkpoint and nothing else (no Redis)
a run goes on. Working weights in 16 bits are not enough to do so, hence the fp32 masters beside them.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from esft.errors import EsftError
from esft.layout import CHECKPOINT_NAME, LOG_FILE, MASTERS_FILE, STATE_FILE, checkpoint_name
from esft.records import UpdateRecord
from esft.versions import CURRENT, Versions, require_current
from esft_worker.file_modes import share

_SAMPLE = 2**25  # bytes


class CheckpointError(EsftError):
    """A checkpoint could not be written; the run goes on from what is there once the cause is gone."""


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """Which weights a checkpoint holds: those of `generation`, of the run with `fingerprint`, with `digest`."""

    generation: int
    digest: str
    fingerprint: str
    versions: Versions = CURRENT

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read the state file of a checkpoint.

        Raises:
            OSError, ValueError, KeyError, TypeError: it is missing or not one of ours.
        """
        data = json.loads((directory / STATE_FILE).read_text())
        return cls(data["generation"], data["digest"], data["fingerprint"], Versions.of(data))

    def to_json(self) -> str:
        """The text of the state file."""
        state = {"generation": self.generation, "digest": self.digest, "fingerprint": self.fingerprint}
        return json.dumps(state | self.versions.as_dict()) + "\n"


class CheckpointStore:
    """The checkpoints of one run under one folder; any number of workers may write to it at once."""

    def __init__(self, root: Path) -> None:
        """Use the folder `root`, made when needed."""
        self._root = root

    def save(
        self,
        state: CheckpointState,
        *,
        save_model: Callable[[str], None],
        masters: Mapping[str, torch.Tensor],
        log: Sequence[UpdateRecord],
        writer: str,
        keep: int,
    ) -> Path:
        """Write a checkpoint and drop the oldest ones, so that the newest `keep` are left.

        Args:
            state: what is saved.
            save_model: writes the Hugging Face folder.
            masters: fp32 masters by canonical name; empty where the model's own file holds them exactly.
            log: the records that lead to these weights.
            writer: the worker's name, unique among those that may write at the same time.
            keep: how many to keep.

        Raises:
            CheckpointError: the disk is full, read-only or gone.
        """
        final = self._root / checkpoint_name(state.generation)
        if final.exists():
            return final
        partial = self._root / f".{final.name}.{writer}"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            save_model(str(partial))
            if masters:
                save_file({name: tensor.cpu() for name, tensor in masters.items()}, partial / MASTERS_FILE)
            (partial / LOG_FILE).write_text("".join(record.to_json() + "\n" for record in log))
            (partial / STATE_FILE).write_text(state.to_json())
            share(partial, like=STATE_FILE)
            _flush(partial)
            _rename(partial, final)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(
                f"checkpoint {final} cannot be written: {error}. Fix: free space or make the folder writable; "
                "the run then goes on from where it is."
            ) from error
        self._prune(state.generation, keep=keep)
        return final

    def candidates(self, *, fingerprint: str) -> list[tuple[Path, CheckpointState]]:
        """Complete checkpoints of this very run, newest first; folders that are not are passed over.

        Raises:
            VersionError: there are none, but some of another version, whose fingerprints mean something else.
        """
        found, others = [], []
        for path in self._folders():
            try:
                state = CheckpointState.read(path)
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if state.versions.contract != CURRENT.contract:
                others.append((path, state))
            elif state.fingerprint == fingerprint:
                found.append((path, state))
        if others and not found:
            path, state = others[0]
            require_current(state.versions, f"checkpoint {path}")
        return sorted(found, key=lambda entry: entry[1].generation, reverse=True)

    def _folders(self) -> list[Path]:
        if not self._root.is_dir():
            return []
        return [path for path in self._root.iterdir() if CHECKPOINT_NAME.fullmatch(path.name)]

    def _prune(self, generation: int, *, keep: int) -> None:
        """Drop the oldest, and what killed writers left: a generation closes only after its checkpoint is done."""
        newest_last = sorted(self._folders(), key=_generation_of)
        partial = [
            path
            for path in self._root.iterdir()
            if path.name.startswith(".") and 0 <= _generation_of(path) < generation
        ]
        for path in [*newest_last[:-keep], *partial]:
            shutil.rmtree(path, ignore_errors=True)


def read_log(directory: Path) -> list[UpdateRecord]:
    """The update log that a checkpoint carries."""
    return [UpdateRecord.from_json(line) for line in (directory / LOG_FILE).read_text().splitlines()]


def read_masters(directory: Path) -> dict[str, torch.Tensor] | None:
    """The fp32 masters of a checkpoint by canonical name; None where the model's own file holds them."""
    path = directory / MASTERS_FILE
    return load_file(path) if path.exists() else None


def seconds_to_read(directory: Path) -> float:
    """Predict how long reading a checkpoint's masters takes, from the first megabytes of the file.

    Raises:
        OSError: there are none.
    """
    masters = directory / MASTERS_FILE
    files = [masters] if masters.exists() else list(directory.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in files)
    start = time.perf_counter()
    with max(files, key=lambda path: path.stat().st_size, default=masters).open("rb", buffering=0) as file:
        sample = len(file.read(_SAMPLE))
    return (time.perf_counter() - start) * size / max(sample, 1)


def _generation_of(path: Path) -> int:
    """That of a checkpoint, complete or not; -1 of anything else."""
    found = CHECKPOINT_NAME.match(path.name.removeprefix("."))
    return int(found.group(1)) if found else -1


def _rename(partial: Path, final: Path) -> None:
    """Give a complete folder its name; where another worker was first, its copy is as good."""
    try:
        partial.rename(final)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        shutil.rmtree(partial, ignore_errors=True)
    _sync(final.parent)


def _flush(directory: Path) -> None:
    """Force every file of the folder to disk, so that the rename never names an empty one."""
    for path in directory.rglob("*"):
        _sync(path)
    _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
