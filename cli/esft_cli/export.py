"""`esft export`: the model of any generation, not only of those that were saved as a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from esft.errors import SpecError
from esft_cli.extras import needs
from esft_cli.options import Folder, new_folder
from esft_cli.progress import progress_bar


def export(
    folder: Folder,
    generation: Annotated[
        int, typer.Option(min=0, help="Updates that the model has had; 0 is the base model.")
    ],
    to: Annotated[Path, typer.Option(help="Folder to write; must not exist.", callback=new_folder)],
    *,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Rebuild the model of any generation from the run's log."""
    from esft.document import load
    from esft_local.folder import read_log

    spec = load(folder / "spec.yaml").spec
    log = read_log(folder / "log.jsonl")
    if generation > len(log):
        raise SpecError(
            f"--generation: {folder} has {len(log)} updates, so there is no generation {generation}. "
            f"Fix: name one from 0 to {len(log)}."
        )
    with needs("worker", command="export"):
        from esft_worker.export import export_generation

    with progress_bar("replaying the log") as progress:
        digest = export_generation(spec, log[:generation], to, threads=threads, progress=progress)
    typer.echo(f"Generation {generation} written to {to}, digest {digest}")
