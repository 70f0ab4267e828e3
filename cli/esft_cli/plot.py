"""`esft plot`: the curve of a run as a picture, also while the run goes on."""

from pathlib import Path
from typing import Annotated

import typer

from esft_cli.options import Folder


def plot(
    folder: Folder,
    *,
    to: Annotated[
        Path | None, typer.Option(help="PNG file to write. [default: DIR/fitness.png]", show_default=False)
    ] = None,
) -> None:
    """Draw fitness and held-out score of a run; it may be going on."""
    from esft_local.plot import draw, picture_title
    from esft_local.status import read_run

    spec, history, _ = read_run(folder)
    picture = to or folder / "fitness.png"
    draw(history, title=picture_title(spec), path=picture)
    typer.echo(picture)
