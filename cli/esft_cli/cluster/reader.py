"""Asks the API server for a run and what belongs to it, with errors for people.

Read with whatever rights the caller has: who may read the run but not its pods or Events sees what is left.
"""

import difflib
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, TypeVar

from esft.status.clock import parse_time
from esft.status.snapshot import RunEvent, Snapshot, Worker
from esft_cli.cluster.connection import Connection
from esft_cli.cluster.objects import event_of, snapshot_of, worker_of
from esft_operator.clients.cluster import ClusterError, ForbiddenError
from esft_operator.decide.build.child import COMPONENT_LABEL, WORKER_COMPONENT
from esft_operator.kinds import EVENTS, PODS, RUNS
from esft_operator.names import selector, workers_name
from esft_operator.resource import Manifest

_MOST_EVENTS: Final = 8
_MOST_NAMES: Final = 10

Found = TypeVar("Found")


class RunMissingError(ClusterError):
    """There is no such run."""


class Reader:
    """Reads the run of a name in the connection's namespace, again and again."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._cluster = connection.cluster
        self.name = name

    def read(self) -> Snapshot:
        """The run, its worker pods and its latest Events.

        Raises:
            RunMissingError: there is no such run.
            ClusterError: the API server refuses to show the run, or does not answer.
        """
        body = self._run()
        notes: list[str] = []
        workers = self._or_note(lambda: self._workers(body), "pods", notes)
        events = self._or_note(lambda: self._events(body), "events", notes)
        return snapshot_of(body, workers=workers, events=events, notes=notes)

    def read_workers(self) -> Snapshot:
        """The run and its worker pods, which are needed this time.

        Raises:
            ClusterError: as `read`; also when pods may not be listed.
        """
        body = self._run()
        try:
            return snapshot_of(body, workers=self._workers(body))
        except ForbiddenError as error:
            raise forbidden("list pods", self._connection.namespace) from error
        except ClusterError as error:
            raise self._explained(error) from error

    def _run(self) -> Manifest:
        namespace = self._connection.namespace
        try:
            body = self._cluster.get(RUNS, namespace, self.name)
        except ClusterError as error:
            raise self._explained(error) from error
        if body is None:
            raise self._missing()
        return body

    def _workers(self, body: Manifest) -> list[Worker]:
        labels = f"{selector(self.name, body['metadata']['uid'])},{COMPONENT_LABEL}={WORKER_COMPONENT}"
        found = self._cluster.list(PODS, self._connection.namespace, selector=labels)
        return sorted((worker_of(pod) for pod in found), key=lambda worker: worker.name)

    def _events(self, body: Manifest) -> list[RunEvent]:
        """Of the run, and warnings about its Job: that is where a quota shows."""
        of_run = self._events_about(f"involvedObject.uid={body['metadata']['uid']}")
        of_job = self._events_about(
            f"involvedObject.kind=Job,involvedObject.name={workers_name(self.name)},type=Warning"
        )
        created = parse_time(body["metadata"]["creationTimestamp"])
        job = [event for event in of_job if event.time >= created]
        return sorted([*of_run, *job], key=lambda event: event.time)[-_MOST_EVENTS:]

    def _events_about(self, fields: str) -> list[RunEvent]:
        found = self._cluster.list(EVENTS, self._connection.namespace, fields=fields)
        return [
            event_of(body)
            for body in sorted(found, key=lambda body: int(body["metadata"]["resourceVersion"]))
        ]

    def _or_note(self, ask: Callable[[], list[Found]], what: str, notes: list[str]) -> list[Found]:
        try:
            return ask()
        except ForbiddenError:
            namespace = self._connection.namespace
            notes.append(
                f"You may not list {what} in namespace {namespace}, so there are none here. "
                "Fix: ask for the ClusterRole `view` there."
            )
            return []
        except ClusterError as error:
            raise self._explained(error) from error

    def _missing(self) -> ClusterError:
        """The error that says what there is instead."""
        namespace, status = self._connection.namespace, HTTPStatus.NOT_FOUND
        try:
            names = sorted(run["metadata"]["name"] for run in self._cluster.list(RUNS, namespace))
        except ForbiddenError:
            names = []
        except ClusterError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise self._explained(error) from error
            return ClusterError(
                f"the cluster {self._connection.server} does not know the kind ESFineTune. "
                "Fix: install the operator: docs/install.md",
                status=status,
            )
        return RunMissingError(
            f"there is no ESFineTune {self.name} in namespace {namespace}. {_instead(self.name, names)}",
            status=status,
        )

    def _explained(self, error: ClusterError) -> ClusterError:
        """The error in words for someone who did not write the request."""
        server, namespace = self._connection.server, self._connection.namespace
        if isinstance(error, ForbiddenError):
            return forbidden(
                "read ESFineTunes", namespace, ", which esfinetune-view is part of (docs/install.md)"
            )
        if error.status == HTTPStatus.UNAUTHORIZED:
            return ClusterError(
                f"the cluster {server} does not know you. Fix: log in again, or use another --context",
                status=error.status,
            )
        if error.status == 0:
            return ClusterError(
                f"the cluster {server} does not answer: {_cause(error)}. Fix: see whether "
                "`kubectl version` reaches it, or use another --context",
                status=0,
            )
        return error


def forbidden(what: str, namespace: str, more: str = "") -> ForbiddenError:
    """The error for someone who may not do something (`list pods`) in a namespace; `more` ends its sentence."""
    text = f"you may not {what} in namespace {namespace}. Fix: ask for the ClusterRole `view` there{more}"
    return ForbiddenError(text, status=HTTPStatus.FORBIDDEN)


def is_passing(error: ClusterError) -> bool:
    """Whether asking again later may help: no answer, or one that says so."""
    return (
        error.status in {0, HTTPStatus.TOO_MANY_REQUESTS} or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    )


def _instead(name: str, names: list[str]) -> str:
    if not names:
        return (
            "Fix: name the run's namespace with -n; for a run on this machine, name its folder, as runs/NAME"
        )
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"Fix: is it {close[0]}? Or name its namespace with -n"
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"Fix: name one of {', '.join(names[:_MOST_NAMES])}{more}, or its namespace with -n"


def _cause(error: BaseException) -> str:
    """The innermost thing that went wrong, on one line."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return " ".join(str(error).split()) or type(error).__name__
