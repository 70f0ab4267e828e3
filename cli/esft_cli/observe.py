"""The commands that watch a run, wherever it goes on: status, logs.

What asks a cluster comes from the operator's package, by entry points; without it these commands know folders only.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from esft.errors import EsftError
from esft_cli.outside import load_for_cluster

Target = Annotated[
    str,
    typer.Argument(
        metavar="NAME|DIR", help="Name of a run in a cluster, or output folder of a run.", show_default=False
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", help="Namespace in the cluster. [default: the context's]", show_default=False
    ),
]
Context = Annotated[
    str | None,
    typer.Option(help="Context of the kubeconfig. [default: the current one]", show_default=False),
]


class Format(StrEnum):
    """How to print: for people or for programs."""

    TEXT = "text"
    JSON = "json"


class NotInAClusterError(EsftError):
    """Something that only runs in a cluster have was asked of a folder."""


def status(
    target: Target,
    *,
    namespace: Namespace = None,
    context: Context = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="In a cluster: go on showing it until the run is over.")
    ] = False,
    output: Annotated[
        Format, typer.Option("--output", "-o", help="For people or for programs.")
    ] = Format.TEXT,
) -> None:
    """Show how far a run is, on this machine or in a cluster."""
    as_json = output is Format.JSON
    if not is_folder(target, namespace=namespace, context=context):
        show = load_for_cluster("status")
        raise typer.Exit(show(target, namespace=namespace, context=context, watch=watch, as_json=as_json))
    if watch:
        raise NotInAClusterError(
            f"--watch: {target} is a folder; `esft run` shows a run on this machine while it goes on. "
            "Fix: leave --watch out, or give --namespace for a run in a cluster"
        )
    _local_status(Path(target), as_json=as_json)


def logs(
    target: Target,
    *,
    namespace: Namespace = None,
    context: Context = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run is over, with workers yet to come.")
    ] = False,
    worker: Annotated[
        str | None, typer.Option(metavar="POD", help="Of one worker only.", show_default=False)
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The lines as they are: JSON.")] = False,
) -> None:
    """Show what the workers of a run in a cluster say."""
    if is_folder(target, namespace=namespace, context=context):
        raise NotInAClusterError(
            f"{target} is a folder: the logs of a run on this machine are the files {Path(target) / 'logs'}/*.log"
        )
    show = load_for_cluster("logs")
    raise typer.Exit(
        show(target, namespace=namespace, context=context, follow=follow, worker=worker, raw=raw)
    )


def is_folder(target: str, *, namespace: str | None, context: str | None) -> bool:
    """Whether a folder is meant: it is there or looks like a path, and nothing says that it is in a cluster."""
    if namespace is not None or context is not None:
        return False
    return os.sep in target or Path(target).exists()


def _local_status(folder: Path, *, as_json: bool) -> None:
    from esft_cli.screens import show_once  # noqa: PLC0415 - see esft_cli.app on imports
    from esft_local.status import read_status  # noqa: PLC0415

    show_once(read_status(folder), as_json=as_json)
