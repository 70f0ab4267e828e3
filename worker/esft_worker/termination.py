"""Leaves the reason of a failure where Kubernetes looks for it.

`kubectl describe` shows the file as the container's message. Without it Kubernetes would fall back to the end
of the log, which is JSON, or a traceback.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from esft.queue import redact

logger = logging.getLogger(__name__)

_MOST_BYTES: Final = 4000  # Kubernetes cuts at 4096, in the middle of a character if need be


def write(path: Path | None, message: str) -> None:
    """Write the message as one line of at most 4000 bytes; a file that cannot be written changes nothing."""
    if path is None:
        return
    line = " ".join(message.split()).encode("utf-8")[:_MOST_BYTES].decode("utf-8", errors="ignore")
    try:
        path.write_text(line, encoding="utf-8")
    except OSError as error:
        logger.warning("the reason could not be left for Kubernetes", extra={"reason": str(error)})


def unexpected(error: Exception, environment: Mapping[str, str]) -> str:
    """What to say of an error that nobody foresaw: its kind and its text, which may hold a secret of ours."""
    message = f"{type(error).__name__}: {error}"
    if url := environment.get("ESFT_REDIS_URL"):
        message = message.replace(url, redact(url))
    if token := environment.get("HF_TOKEN"):
        message = message.replace(token, "***")
    return message
