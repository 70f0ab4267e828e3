"""Logs of all workers of a run: what there is in the order of its times, then what comes as it comes.

A log is asked for again from its last line when its connection breaks, and once more after its worker has ended, so
that a connection that broke at the end costs no line.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Final

from esft.status.snapshot import Snapshot, Worker
from esft_cli.cluster.log_lines import Entry, LogLine, merged, short_name, split_lines
from esft_cli.cluster.reader import Reader, RunMissingError, forbidden, is_passing
from esft_operator.clients.cluster import Cluster, ClusterError, ForbiddenError
from esft_operator.names import WORKER_CONTAINER

Say = Callable[[str], None]

_POLL_SECONDS: Final = 1.0
_WAITING_LINES: Final = 4096  # between those who read logs and the one who prints


class LogSource:
    """Reads the logs of one run's workers in a namespace; `say` tells people what cannot be read."""

    def __init__(self, cluster: Cluster, namespace: str, *, say: Say) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._say = say
        self._last: dict[str, LogLine] = {}  # of each pod, the last line that was read

    def lines(self, pod: str, *, follow: bool, is_last: bool) -> Iterator[Entry]:
        """Lines of a pod after the last one that was read; with `follow`, also what is still to come.

        With `is_last` nobody will read again, so a line that lacks its end is shown as it is.

        Raises:
            ClusterError: it cannot be read, or no longer.
        """
        before = self._last.get(pod)
        pieces = self._cluster.log(
            self._namespace,
            pod,
            WORKER_CONTAINER,
            follow=follow,
            since=None if before is None or not before.stamp else before.at,
        )
        for text in split_lines(pieces, keep_rest=is_last):
            line = LogLine.parse(text)
            if before is not None and line.stamp and line.stamp <= before.stamp:
                continue
            self._last[pod] = line
            yield pod, line

    def so_far(self, pod: str, *, is_last: bool) -> Iterator[Entry]:
        """What a pod has written until now; a log that cannot be read is mentioned and passed over.

        Raises:
            ForbiddenError: the caller may not read logs.
        """
        try:
            yield from self.lines(pod, follow=False, is_last=is_last)
        except ForbiddenError as error:
            raise forbidden("read logs of pods", self._namespace) from error
        except ClusterError as error:
            self._say(f"note: the log of {pod} cannot be read: {error}")


class Tail(threading.Thread):
    """Follows one pod's log until its worker has ended."""

    def __init__(self, source: LogSource, pod: str, into: "queue.Queue[Entry | ClusterError]") -> None:
        """Follow a pod of the source; lines, and what went wrong for good, go `into` the queue."""
        super().__init__(name=f"log of {pod}", daemon=True)  # Ctrl-C waits for nobody
        self.ended = threading.Event()
        """To be set when the pod has ended or is gone."""
        self._source = source
        self._pod = pod
        self._into = into

    def run(self) -> None:
        """Read again and again, and once more after the end."""
        is_last = False
        while not is_last:
            is_last = self.ended.is_set()
            try:
                for entry in self._source.lines(self._pod, follow=not is_last, is_last=is_last):
                    self._into.put(entry)
            except ClusterError as error:
                if error.status == HTTPStatus.NOT_FOUND:
                    return
                if is_last or isinstance(error, ForbiddenError):
                    self._into.put(error)
                    return
            self.ended.wait(_POLL_SECONDS)


def read_logs(reader: Reader, source: LogSource, *, worker: str | None, say: Say) -> Iterator[Entry]:
    """What all workers have written until now.

    Raises:
        ClusterError: there is no such run or worker, or it may not be read.
    """
    snapshot = reader.read_workers()
    pods = _chosen(snapshot, worker)
    if worker is not None and not pods:
        raise ClusterError(_no_such_worker(snapshot, worker), status=HTTPStatus.NOT_FOUND)
    if not pods:
        say(f"note: {_why_nothing(snapshot)}")
    for pod in pods:
        if not pod.has_log:
            say(f"note: {pod.name} has not started" + (f": {pod.problem.message}" if pod.problem else ""))
    yield from merged(source.so_far(pod.name, is_last=True) for pod in pods if pod.has_log)


def follow_logs(reader: Reader, source: LogSource, *, worker: str | None, say: Say) -> Iterator[Entry]:
    """What all workers have written and will write, until the run is over and they have left.

    Raises:
        ClusterError: as `read_logs`; a cluster that does not answer for a while is waited for.
    """
    snapshot = reader.read_workers()
    pods, is_gone, said = _chosen(snapshot, worker), False, ""
    yield from merged(source.so_far(pod.name, is_last=False) for pod in pods if pod.has_log)
    lines: queue.Queue[Entry | ClusterError] = queue.Queue(_WAITING_LINES)
    tails: dict[str, Tail] = {}
    while True:
        _look_after(tails, pods, source, lines)
        yield from _for_a_while(lines, say)
        is_busy = any(tail.is_alive() for tail in tails.values()) or not lines.empty()
        if not is_busy and (is_gone or snapshot.exit_code is not None):
            say(f"note: {_end(snapshot, is_gone=is_gone)}")
            return
        nothing = "" if is_busy else _why_nothing(snapshot)
        if nothing and nothing != said:
            say(f"note: {nothing}")
        said = nothing
        try:
            snapshot = snapshot if is_gone else reader.read_workers()
            pods = () if is_gone else _chosen(snapshot, worker)
        except RunMissingError:
            is_gone, pods = True, ()
        except ClusterError as error:
            if not is_passing(error):
                raise


def _look_after(
    tails: dict[str, Tail],
    pods: Sequence[Worker],
    source: LogSource,
    lines: "queue.Queue[Entry | ClusterError]",
) -> None:
    """Follow pods that have started since, and tell those who follow one that has ended."""
    for pod in pods:
        if pod.has_log and pod.name not in tails:
            tails[pod.name] = Tail(source, pod.name, lines)
            tails[pod.name].start()
    living = {pod.name for pod in pods if not pod.ended}
    for name, tail in tails.items():
        if name not in living:
            tail.ended.set()


def _for_a_while(lines: "queue.Queue[Entry | ClusterError]", say: Say) -> Iterator[Entry]:
    """What comes in the time between two looks at the run."""
    end = time.monotonic() + _POLL_SECONDS
    while (left := end - time.monotonic()) > 0:
        try:
            found = lines.get(timeout=left)
        except queue.Empty:
            return
        if isinstance(found, ForbiddenError):
            raise found
        if isinstance(found, ClusterError):
            say(f"note: {found}")
        else:
            yield found


def _chosen(snapshot: Snapshot, worker: str | None) -> Sequence[Worker]:
    """The pods that are wanted: all, or the one of that name, in full or short."""
    if worker is None:
        return snapshot.workers
    return [pod for pod in snapshot.workers if worker in {pod.name, short_name(pod.name, snapshot.name)}]


def _no_such_worker(snapshot: Snapshot, worker: str) -> str:
    names = ", ".join(pod.name for pod in snapshot.workers) or "none at all"
    return f"--worker: {snapshot.name} has no worker pod {worker}. Fix: name one of those there are: {names}"


def _why_nothing(snapshot: Snapshot) -> str:
    if snapshot.exit_code is not None:
        return f"{snapshot.name} is over ({snapshot.phase}) and its pods are gone, and their logs with them."
    reasons = [f"{condition.message} ({condition.reason})" for condition in snapshot.attention]
    reason = next(iter(reasons), snapshot.reason[1])
    return f"{snapshot.name} is {snapshot.phase} and no worker has started: {reason}"


def _end(snapshot: Snapshot, *, is_gone: bool) -> str:
    if is_gone:
        return f"{snapshot.name} was deleted."
    return f"{snapshot.name} is over: {snapshot.phase}: {snapshot.reason[1]}"
