"""`esft run`: a whole run on this machine, and the command to type to go on with one that was stopped."""

import importlib.util
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from esft.errors import EsftError
from esft_cli.extras import needs
from esft_cli.options import File, Overrides
from esft_cli.unexpected import unexpected


def run(
    file: File,
    *,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for everything the run leaves. [default: runs/NAME]", show_default=False),
    ] = None,
    overrides: Overrides = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4096,
            help="Worker processes. [default: one a GPU, else one a CPU; at most workers.maxReplicas]",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, max=1024, help="CPU threads of each worker; on a CPU, part of the result.")
    ] = 1,
    redis: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="ESFT_REDIS_URL",
            help="Redis to use instead of a private one. Put a password into the variable, not here.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a fine-tuning job on this machine. The same command again continues where it stopped."""
    from esft.document import load
    from esft_cli.screens import screen_for_working, show_end
    from esft_local.devices import available_cpus, available_gpus
    from esft_local.run import Options, run_locally

    spec = load(file, overrides or ())
    with needs("local", command="run"):
        if importlib.util.find_spec("torch") is None:  # the workers import it, which takes seconds
            raise ModuleNotFoundError(name="torch")
    folder = output or Path("runs") / spec.metadata.name
    gpus = available_gpus(os.environ)
    count = workers or min(spec.spec.workers.max_replicas, len(gpus) or available_cpus())
    options = Options(workers=count, threads=threads, redis_url=redis, environment=os.environ, gpus=gpus)
    try:
        ended = run_locally(spec, output=folder, options=options, view=screen_for_working())
    except EsftError:
        raise
    except Exception as error:  # the process's edge, where the run's folder is known
        raise unexpected(error, logs=folder / "logs") from error
    again = resume_command(file, output=output, overrides=overrides or (), workers=workers, threads=threads)
    show_end(ended, folder=folder, resume_command=again)
    raise typer.Exit(ended.exit_code)


def resume_command(
    file: Path, *, output: Path | None, overrides: Sequence[str], workers: int | None, threads: int
) -> str:
    """The command to type to go on; a Redis URL is left out, since it may hold a password."""
    words = ["esft", "run", str(file)]
    for override in overrides:
        words += ["--set", override]
    if output is not None:
        words += ["--output", str(output)]
    if workers is not None:
        words += ["--workers", str(workers)]
    if threads != 1:
        words += ["--threads", str(threads)]
    return shlex.join(words)
