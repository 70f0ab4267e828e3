"""What people see of a bug: one line that names the file where its traceback is."""

import tempfile
import traceback
from pathlib import Path

from esft.errors import EsftError


class UnexpectedError(EsftError):
    """An error that no code of ours raises on purpose."""


def unexpected(error: Exception, *, logs: Path | None = None) -> UnexpectedError:
    """Keep the traceback in `logs`/runner.log, or in a temporary file without such a folder."""
    text = "".join(traceback.format_exception(error))
    if logs is not None and logs.is_dir():
        log = str(logs / "runner.log")
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(text)
    else:
        with tempfile.NamedTemporaryFile("w", prefix="esft-", suffix=".log", delete=False) as temporary:
            temporary.write(text)
        log = temporary.name
    return UnexpectedError(f"{type(error).__name__}: {error} (a bug; see {log})")
