"""The commands about runs on this machine: run, validate, plot."""

import importlib.util
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from esft.errors import EXIT_FINISHED, EXIT_SPEC, EsftError
from esft_cli.unexpected import unexpected

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="YAML file with one ESFineTune.", show_default=False)
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a run.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Override a field below spec, e.g. evolution.sigma=0.01. May be repeated.",
        show_default=False,
    ),
]


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
    from esft.document import load  # noqa: PLC0415
    from esft_cli.outside import MissingPackageError  # noqa: PLC0415 - see esft_cli.app on imports
    from esft_cli.screens import screen_for_working, show_end  # noqa: PLC0415
    from esft_local.devices import available_cpus, available_gpus  # noqa: PLC0415
    from esft_local.run import Options, run_locally  # noqa: PLC0415

    spec = load(file, overrides or ())
    if importlib.util.find_spec("torch") is None:
        raise MissingPackageError(
            "a local run needs torch, which is not installed. Fix: pip install 'esfinetune[local]'"
        )
    folder = output or Path("runs") / spec.metadata.name
    gpus = available_gpus(os.environ)
    count = workers or min(spec.spec.workers.max_replicas, len(gpus) or available_cpus())
    options = Options(
        workers=count,
        threads=threads,
        redis_url=redis,
        environment=os.environ,
        gpus=gpus,
    )
    try:
        ended = run_locally(spec, output=folder, options=options, view=screen_for_working())
    except EsftError:
        raise
    except Exception as error:  # the process's edge, where the run's folder is known
        raise unexpected(error, logs=folder / "logs") from error
    again = resume_command(file, output=output, overrides=overrides or (), workers=workers, threads=threads)
    show_end(ended, folder=folder, resume_command=again)
    raise typer.Exit(ended.exit_code)


def validate(file: File, *, overrides: Overrides = None) -> None:
    """Check a file without running it: every problem with its line and its fix."""
    from esft_cli.validate import validate as problems_of  # noqa: PLC0415

    problems = problems_of(file, overrides or ())
    for problem in problems:
        typer.echo(problem.render(str(file)), err=True)
    if not problems:
        typer.echo(f"{file}: valid")
    raise typer.Exit(EXIT_SPEC if problems else EXIT_FINISHED)


def plot(
    folder: Folder,
    *,
    to: Annotated[
        Path | None, typer.Option(help="PNG file to write. [default: DIR/fitness.png]", show_default=False)
    ] = None,
) -> None:
    """Draw fitness and held-out score of a run; it may be going on."""
    from esft_local.plot import draw, picture_title  # noqa: PLC0415
    from esft_local.status import read_run  # noqa: PLC0415

    spec, history, _ = read_run(folder)
    picture = to or folder / "fitness.png"
    draw(history, title=picture_title(spec), path=picture)
    typer.echo(picture)


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
