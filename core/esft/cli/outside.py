"""Commands that other packages add to `esft`, by entry points of the group `esfinetune.commands`.

An entry point names a plain function with Typer annotations. Only the one that is called is imported, since
they may need torch; the help of the others is read from their source without running it.
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


class MissingPackageError(EsftError):
    """A command needs a package that is not installed."""


def register_outside(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Add the commands that are installed; load the one that `arguments` call."""
    for entry_point in sorted(entry_points(group=GROUP)):
        if entry_point.name in arguments[:1]:
            app.command(entry_point.name)(_load(entry_point))
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


def _load(entry_point: EntryPoint) -> Callable[..., Any]:
    try:
        function: Callable[..., Any] = entry_point.load()
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"`esft {entry_point.name}` needs {error.name}, which is not installed. "
            "Fix: pip install 'esfinetune[worker]'"
        ) from error
    return function


def _not_loaded() -> None:
    """Stand in for a command that is shown and not called."""
