"""The one hierarchy of errors, and the exit code that each ends a process with.

A message says what was wrong, where (field or file) and what to do; it is shown to people as it is, on one
line and without a traceback. Exit codes are those of docs/run.md.
"""

from typing import ClassVar

EXIT_FINISHED = 0
EXIT_SPEC = 64
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
EXIT_DRAINED = 143


class EsftError(Exception):
    """Base of every error that this project raises on purpose."""

    exit_code: ClassVar[int] = EXIT_INTERNAL


class SpecError(EsftError):
    """The run cannot work as specified (wrong model, task or value): trying again is useless."""

    exit_code = EXIT_SPEC


class VersionError(EsftError):
    """Something was written by a release whose format or noise this one does not read: that one goes on with it."""


class QueueUnavailableError(EsftError):
    """Redis did not answer for longer than the client was told to wait."""


class QueueAccessError(EsftError):
    """Redis refuses what the user in its URL wants to do: that user lacks a right."""


class RunNotFoundError(EsftError):
    """Redis holds no run of that uid: it was never created, or Redis lost its data."""


class UnreadableRunError(EsftError):
    """What Redis holds of a run is not what this project writes: someone else wrote to its keys."""

    def __init__(self, run: str, cause: Exception) -> None:
        """Word it for the run's uid and for what went wrong in reading."""
        super().__init__(
            f"what Redis holds of run {run} cannot be read, since someone else has written to its keys: "
            f"{type(cause).__name__}: {cause}. Fix: delete the run and create it anew."
        )


class ReplicaDivergedError(EsftError):
    """A replica's weights differ from the others' again after it was rebuilt from the log."""
