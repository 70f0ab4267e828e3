"""The commands of `esft` and the edge of its process: errors become one line and an exit code.

What a command needs is imported when it is called: `esft --help` loads neither redis nor pydantic.
"""

import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import esft
from esft.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EsftError
from esft_cli import local, observe
from esft_cli.outside import register_outside
from esft_cli.unexpected import unexpected


def main() -> None:
    """Console scripts `esft` and `kubectl-esft`."""
    arguments = sys.argv[1:]
    plugin = Path(sys.argv[0]).name.startswith("kubectl-")
    try:
        build_app(arguments)(args=arguments, prog_name="kubectl esft" if plugin else "esft")
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


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """The whole application; `arguments` tell which command of other packages has to be loaded."""
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback(help="Fine-tune language models with Evolution Strategies.")(_options)
    for command in (local.run, local.validate, observe.status, observe.logs, local.plot):
        app.command()(command)
    register_outside(app, arguments)
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
