"""`esft validate`: what is wrong with a run's file, before anything is started.

It needs neither a cluster nor a GPU. What passes here passes the API server, but for paths relative to the file.
"""

import typer

from esft_cli.options import File, Overrides


def validate(file: File, *, overrides: Overrides = None) -> None:
    """Check a file without running it: every problem and its fix."""
    from esft.document import DocumentError, load

    try:
        load(file, overrides or ())
    except DocumentError as error:
        typer.echo(error, err=True)
        raise typer.Exit(error.exit_code) from error
    typer.echo(f"{file}: valid")
