"""The commands of `esft` and the edge of its process: errors become one line and an exit code.

Each command is a module of its own. What it needs is imported when it is called: `esft --help` loads neither redis nor
pydantic, and a machine has the packages of those commands that are used on it.
"""

import os
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import typer

import esft
from esft.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EsftError
from esft_cli.export import export
from esft_cli.logs import logs
from esft_cli.make_model import make_model
from esft_cli.plot import plot
from esft_cli.run import run
from esft_cli.status import status
from esft_cli.unexpected import unexpected
from esft_cli.validate import validate


def main() -> None:
    """Console scripts `esft` and `kubectl-esft`."""
    plugin = Path(sys.argv[0]).name.startswith("kubectl-")
    try:
        build_app()(prog_name="kubectl esft" if plugin else "esft")
    except EsftError as error:
        typer.echo(textwrap.indent(str(error), "error: "), err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our output left, as in `esft status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_INTERNAL)
    except Exception as error:  # noqa: BLE001 - the process's edge
        typer.echo(f"error: {unexpected(error)}", err=True)
        sys.exit(EXIT_INTERNAL)


def build_app() -> typer.Typer:
    """The whole application."""
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback(help="Fine-tune language models with Evolution Strategies.")(_options)
    for command in (run, validate, status, logs, plot, export, make_model):
        app.command()(command)
    return app


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - so Typer calls it
    if wanted:
        typer.echo(f"esft {esft.__version__}")
        raise typer.Exit


def _options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and leave.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Options of `esft` itself."""
