"""`esft make-model`: the tiny model as a folder, for runs that are to share one copy of it."""

from pathlib import Path
from typing import Annotated

import typer

from esft_cli.extras import needs
from esft_cli.options import new_folder
from esft_cli.progress import progress_bar


def make_model(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Folder to write; must not exist.", show_default=False, callback=new_folder
        ),
    ],
) -> None:
    """Train the model behind tiny://countdown from scratch. It takes about a minute."""
    with needs("worker", command="make-model"):
        from esft_worker import tiny

    with progress_bar("training tiny://countdown") as progress:
        tiny.build(directory, progress=progress)
    typer.echo(f"Model written to {directory}; use it as model.source: file://{directory.absolute()}")
