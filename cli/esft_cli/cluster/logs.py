"""What `esft logs` does in a cluster: apart from its options, so that `esft --help` loads no client."""

from functools import partial

import typer
from rich.console import Console

from esft_cli.cluster.connection import connect
from esft_cli.cluster.log_lines import readable, short_name
from esft_cli.cluster.log_streams import LogSource, follow_logs, read_logs
from esft_cli.cluster.reader import Reader


def print_logs(
    name: str, *, namespace: str | None, context: str | None, follow: bool, worker: str | None, raw: bool
) -> None:
    """Print what a run's workers say; the options are described in esft_cli.logs.

    Raises:
        ClusterError: there is no such run, no cluster, or no right to see it.
    """
    connection = connect(context=context, namespace=namespace)
    say = partial(typer.echo, err=True)
    source = LogSource(connection.cluster, connection.namespace, say=say)
    entries = (follow_logs if follow else read_logs)(Reader(connection, name), source, worker=worker, say=say)
    colours = False if Console().no_color else None  # None: on a terminal
    for pod, line in entries:
        if raw:
            typer.echo(line.text)
        else:
            text, colour = readable(line, worker=short_name(pod, name))
            typer.secho(text, fg=colour, color=colours)
