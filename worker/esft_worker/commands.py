"""Commands of `esft` that need torch; the command line finds them by the entry points `esfinetune.commands`."""

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from transformers.utils.logging import disable_progress_bar

from esft import document
from esft.errors import SpecError
from esft.records import UpdateRecord
from esft_worker import tiny
from esft_worker.assemble import Host, build_replica
from esft_worker.source import default_cache


def make_model(
    directory: Annotated[Path, typer.Argument(help="Folder to write; must not exist.", show_default=False)],
) -> None:
    """Train the tiny countdown model from scratch (about a minute): the one behind tiny://countdown."""
    if directory.exists():
        raise SpecError(f"{directory} exists already. Fix: name a new folder.")
    disable_progress_bar()
    with Progress(transient=True) as bar:
        task = bar.add_task("training tiny://countdown")
        tiny.build(directory, progress=lambda done, total: bar.update(task, completed=done, total=total))
    Console().print(f"Model written to {directory}; use it as model.source: file://{directory.absolute()}")


def export(
    folder: Annotated[Path, typer.Argument(help="Output folder of a run.", show_default=False)],
    generation: Annotated[
        int, typer.Option(min=0, help="Updates that the model has had; 0 is the base model.")
    ],
    to: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    *,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Rebuild the model of any generation from the base model and the run's log."""
    if to.exists():
        raise SpecError(f"{to} exists already. Fix: name a new folder.")
    disable_progress_bar()
    spec = document.load(folder / "spec.yaml").spec
    records = _read_log(folder / "log.jsonl")
    if generation > len(records):
        raise SpecError(
            f"--generation: {folder} has {len(records)} updates, so there is no generation {generation}. "
            f"Fix: name one from 0 to {len(records)}."
        )
    with tempfile.TemporaryDirectory() as no_checkpoints:
        host = Host(
            checkpoints=Path(no_checkpoints),
            cache=default_cache(),
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            threads=threads,
        )
        replica = build_replica(spec, host)
    with Progress(transient=True) as bar:
        for record in bar.track(records[:generation], description="replaying the log"):
            replica.apply([record])
    replica.weights.restore()
    replica.engine.save(str(to))
    Console().print(f"Generation {generation} written to {to}, digest {replica.weights.digest()}")


def _read_log(path: Path) -> list[UpdateRecord]:
    try:
        return [UpdateRecord.from_json(line) for line in path.read_text().splitlines()]
    except OSError as error:
        raise SpecError(
            f"{path} cannot be read ({error.strerror}). Fix: name the output folder of a run of `esft run`."
        ) from error
    except (ValueError, KeyError) as error:
        raise SpecError(
            f"{path} is not an update log: {error}. Fix: restore it, or start the run again."
        ) from error
