"""What other packages do for `esft`, found by entry points, since core imports neither of them.

In the group `esfinetune.commands` an entry point is a whole command: a plain function with Typer annotations. Only the
one that is called is imported, since they may need torch; the help of the others is read from their source without
running it. In the group `esfinetune.cluster` it is the part of a command that asks a cluster (esft_cli.observe).
"""

import ast
import contextlib
import importlib.util
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import typer

from esft.errors import EsftError

GROUP = "esfinetune.commands"
CLUSTER_GROUP = "esfinetune.cluster"


class MissingPackageError(EsftError):
    """A command needs a package that is not installed."""


def register_outside(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Add the commands that are installed; load the one that `arguments` call."""
    for entry_point in sorted(entry_points(group=GROUP)):
        if entry_point.name in arguments[:1]:
            app.command(entry_point.name)(_load(entry_point, extra="worker"))
        else:
            app.command(entry_point.name, help=summary_of(entry_point))(_not_loaded)


def summary_of(entry_point: EntryPoint) -> str:
    """First paragraph of the function's docstring; the package's name if it cannot be read."""
    with contextlib.suppress(ImportError, OSError, SyntaxError, StopIteration):
        module = importlib.util.find_spec(entry_point.module)
        if module is not None and module.origin is not None:
            tree = ast.parse(Path(module.origin).read_text(encoding="utf-8"))
            function = next(
                node
                for node in tree.body
                if isinstance(node, ast.FunctionDef) and node.name == entry_point.attr
            )
            documented = ast.get_docstring(function)
            if documented:
                return documented.split("\n\n")[0]
    return f"From {entry_point.module}."


def load_for_cluster(name: str) -> Callable[..., Any]:
    """The function of that name in the group `esfinetune.cluster`.

    Raises:
        MissingPackageError: there is none, or it cannot be imported.
    """
    for entry_point in entry_points(group=CLUSTER_GROUP, name=name):
        return _load(entry_point, extra="operator")
    raise MissingPackageError(_missing(name, "the operator's package", extra="operator"))


def _load(entry_point: EntryPoint, *, extra: str) -> Callable[..., Any]:
    try:
        function: Callable[..., Any] = entry_point.load()
    except ModuleNotFoundError as error:
        missing = _missing(entry_point.name, error.name or str(error), extra=extra)
        raise MissingPackageError(missing) from error
    return function


def _missing(command: str, what: str, *, extra: str) -> str:
    return f"`esft {command}` needs {what}, which is not installed. Fix: pip install 'esfinetune[{extra}]'"


def _not_loaded() -> None:
    """Stand in for a command that is shown and not called."""
