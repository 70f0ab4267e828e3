"""`esft status`: how far a run is, wherever it goes on."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from esft_cli.extras import needs
from esft_cli.options import Context, Namespace, NotInAClusterError, Target, is_folder


def status(
    target: Target,
    *,
    namespace: Namespace = None,
    context: Context = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="In a cluster: go on showing it until the run is over.")
    ] = False,
    output: Annotated[
        Literal["text", "json"], typer.Option("--output", "-o", help="For people or for programs.")
    ] = "text",
) -> None:
    """Show how far a run is, on this machine or in a cluster."""
    as_json = output == "json"
    if not is_folder(target, namespace=namespace, context=context):
        with needs("operator", command="status"):
            from esft_cli.cluster.status import show_status

        raise typer.Exit(
            show_status(target, namespace=namespace, context=context, watch=watch, as_json=as_json)
        )
    if watch:
        raise NotInAClusterError(
            f"--watch: {target} is a folder; `esft run` shows a run on this machine while it goes on. "
            "Fix: leave --watch out, or give --namespace for a run in a cluster"
        )
    from esft_cli.screens import show_once
    from esft_local.status import read_status

    show_once(read_status(Path(target)), as_json=as_json)
