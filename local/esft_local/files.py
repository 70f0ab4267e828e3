"""Writing files so that a crash leaves the old or the new content, and a full disk one clear sentence."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from esft.errors import EsftError

_FIXES = {
    errno.ENOSPC: "free some space and start the same command again: the run continues",
    errno.EDQUOT: "free some of your quota and start the same command again: the run continues",
    errno.EROFS: "choose a writable folder with --output",
    errno.EACCES: "choose a writable folder with --output",
    errno.EPERM: "choose a writable folder with --output",
    errno.ENOTDIR: "choose another folder with --output",
    errno.EEXIST: "choose another folder with --output",
    errno.EISDIR: "move that folder away, or choose another one with --output",
}


class RunFolderError(EsftError):
    """The folder of a run cannot be used: not writable, full, in use, or its content is not a run's."""


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a RunFolderError that says what to do about it."""
    try:
        yield
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else str(path)
        reason = error.strerror or str(error)
        fix = _FIXES.get(error.errno or 0, "see to it, and start the same command again: the run continues")
        raise RunFolderError(f"{where}: {reason}. Fix: {fix}") from error


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace the file's content in one step, on disk when this returns unless it need not be `durable`.

    Raises:
        RunFolderError: the system refuses; the old content is still there.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with explained(path):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append one line, on disk when this returns; a write that fails half-way is taken back.

    Raises:
        RunFolderError: the system refuses; the file is as before.
    """
    with explained(path), path.open("ab") as file:
        size = file.tell()
        try:
            file.write(line.encode("utf-8") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise


def sync_folder(path: Path) -> None:
    """Put the folder's own entries (new and renamed files) on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
