"""`esft validate`: says what is wrong with a run's file before anything is started.

Plain functions; the command is wired in esft_cli. They need neither a cluster nor a GPU. What passes here
passes the API server, but for paths relative to the file.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from esft.document import DocumentError, load
from esft.problems import Problem


def validate(path: Path, overrides: Sequence[str] = ()) -> list[Problem]:
    """Problems of a file with its overrides, by line; none when it can be run."""
    try:
        load(path, overrides)
    except DocumentError as error:
        return list(error.problems)
    return []


def as_text(path: Path, problems: Sequence[Problem]) -> str:
    """For people: one line a problem, or one that says all is well."""
    if not problems:
        return f"{path}: valid"
    return "\n".join(problem.render(str(path)) for problem in problems)


def as_json(path: Path, problems: Sequence[Problem]) -> str:
    """For programs: `{"file": ..., "valid": ..., "problems": [{path, message, fix, ...}]}`."""
    return json.dumps(
        {"file": str(path), "valid": not problems, "problems": [asdict(problem) for problem in problems]}
    )
