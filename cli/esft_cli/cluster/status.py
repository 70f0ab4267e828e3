"""What `esft status` does in a cluster: a run is read once, or again and again until it is over."""

import time
from typing import Final

from esft.errors import EXIT_FINISHED
from esft.status.snapshot import Snapshot
from esft_cli.cluster.connection import connect
from esft_cli.cluster.reader import Reader, RunMissingError, is_passing
from esft_cli.screens import Screen, screen_for_watching, show_once
from esft_operator.clients.cluster import ClusterError

_POLL_SECONDS: Final = 1.0


def show_status(name: str, *, namespace: str | None, context: str | None, watch: bool, as_json: bool) -> int:
    """Show a run, once or until it is over; the exit code. The options are described in esft_cli.status.

    Raises:
        ClusterError: there is no such run, no cluster, or no right to see it.
    """
    reader = Reader(connect(context=context, namespace=namespace), name)
    snapshot = reader.read()
    if watch:
        with screen_for_watching(as_json=as_json) as screen:
            return _watch(reader, snapshot, screen)
    show_once(snapshot, as_json=as_json)
    return EXIT_FINISHED


def _watch(reader: Reader, snapshot: Snapshot, screen: Screen) -> int:
    while True:
        screen.update(snapshot)
        if snapshot.exit_code is not None:
            return snapshot.exit_code
        time.sleep(_POLL_SECONDS)
        try:
            snapshot = reader.read()
        except RunMissingError as error:
            raise RunMissingError(
                f"{snapshot.namespace}/{snapshot.name} was deleted while it was {snapshot.phase}",
                status=error.status,
            ) from error
        except ClusterError as error:
            if not is_passing(error):
                raise
            snapshot = snapshot.model_copy(update={"notes": (str(error),)})
