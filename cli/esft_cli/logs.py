"""`esft logs`: what the workers of a run in a cluster say, in one stream and readable."""

from pathlib import Path
from typing import Annotated

import typer

from esft_cli.extras import needs
from esft_cli.options import Context, Namespace, NotInAClusterError, Target, is_folder


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
    with needs("operator", command="logs"):
        from esft_cli.cluster.logs import print_logs

    print_logs(target, namespace=namespace, context=context, follow=follow, worker=worker, raw=raw)
