"""Structured logs: one JSON object a line, for people with `jq` and for log collectors."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "about"}


class JsonFormatter(logging.Formatter):
    """Formats a record with its `extra` fields beside the message; `bound` fields stand on every line.

    The fields of an extra dictionary `about` are lifted out of it: `name` of a resource, which the logging package
    would otherwise take for the logger's.
    """

    def __init__(self, **bound: str) -> None:
        """Put `bound` (worker, run, namespace ...) on every line."""
        super().__init__()
        self._bound = bound

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **self._bound,
            **record.__dict__.get("about", {}),
            **{key: value for key, value in record.__dict__.items() if key not in _STANDARD},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(**bound: str) -> None:
    """Send this process's logs to standard error as JSON; call once, at the edge of the process."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(**bound))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in ("esft", "esft_local", "esft_cli", "esft_worker", "esft_operator"):
        logging.getLogger(package).setLevel(logging.INFO)
