"""What `esft status` and `esft logs` read in a cluster: pods, Events, statuses, lines of logs."""

import json
import logging
from typing import Any

import pytest

from esft.logs import JsonFormatter
from esft.status.snapshot import Problem, Snapshot, Worker
from esft_cli.cluster.log_lines import LogLine, merged, readable, short_name, split_lines
from esft_cli.cluster.objects import event_of, snapshot_of, worker_of
from esft_cli.cluster.reader import is_passing
from esft_cli.view import page
from esft_operator.clients.cluster import ClusterError
from snapshots import NOW, body, condition, ended, event, pod, text_of


@pytest.mark.parametrize(
    ("resource", "phase", "reason", "exit_code"),
    [
        (ended("Succeeded", "Complete", "GenerationsDone"), "Succeeded", "GenerationsDone", 0),
        (ended("Failed", "Failed", "DeadlineExceeded"), "Failed", "DeadlineExceeded", 70),
        (ended("Failed", "Failed", "InvalidSpec"), "Failed", "InvalidSpec", 64),
        (ended("Failed", "Failed", "NoFitness"), "Failed", "NoFitness", 64),
        (ended("Suspended", "Suspended", "SuspendRequested"), "Suspended", "SuspendRequested", None),
        (body(), "Running", "Running", None),
        (body("Succeeded", observedGeneration=0), "Succeeded", "", None),  # generations was just raised
        (body(None), "Unseen", "NoOperator", None),
        (body(None) | {"spec": {"managedBy": "example.com/other"}}, "Unseen", "ManagedByOther", None),
        (body(None) | {"status": {"phase": "Exploded", "added": 1}}, "Unseen", "NoOperator", None),
    ],
)
def test_phases(resource: dict[str, Any], phase: str, reason: str, exit_code: int | None) -> None:
    found = snapshot_of(resource)
    assert (found.phase, found.reason[0], found.exit_code) == (phase, reason, exit_code)
    assert text_of(page(found, now=NOW))


def test_a_status_of_another_version_is_handed_on_as_it_is() -> None:
    found = snapshot_of(body(None) | {"status": {"phase": "Exploded"}})
    assert "another version" in found.notes[0]
    assert found.as_dict()["status"] == {"phase": "Exploded"}
    assert Snapshot.from_dict(found.as_dict()).notes == found.notes
    newer = snapshot_of(body("Running", later={"than": "this"}))
    assert newer.notes == ()
    assert newer.phase == "Running"


@pytest.mark.parametrize("reason", ["Finished", "Suspended"])
def test_no_workers_are_no_reason_to_worry_when_none_are_wanted(reason: str) -> None:
    found = snapshot_of(body("Succeeded", condition("WorkersReady", "False", reason, "")))
    assert found.attention == []


@pytest.mark.parametrize(
    ("status", "metadata", "state", "has_log"),
    [
        ({"phase": "Pending"}, {}, "starting", False),
        ({"phase": "Running"}, {}, "starting", True),
        ({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}, {}, "ready", True),
        ({"phase": "Running"}, {"deletionTimestamp": "2026-05-01T12:00:00Z"}, "leaving", True),
        ({"phase": "Succeeded"}, {}, "done", True),
        ({"phase": "Failed", "reason": "Evicted"}, {}, "failed", True),
    ],
)
def test_states_of_pods(
    status: dict[str, Any], metadata: dict[str, str], state: str, *, has_log: bool
) -> None:
    made = worker_of(
        {
            "metadata": {"name": "a", "creationTimestamp": "2026-05-01T11:00:00Z", **metadata},
            "status": status,
        }
    )
    assert (made.state, made.has_log, made.node) == (state, has_log, None)


def test_a_drained_worker_is_no_problem() -> None:
    def with_code(code: int) -> Worker:
        state = {"terminated": {"exitCode": code, "reason": "Error", "message": ""}}
        status = {"phase": "Failed", "containerStatuses": [{"name": "worker", "state": state}]}
        metadata = {"name": "a", "creationTimestamp": "2026-05-01T11:00:00Z"}
        return worker_of({"metadata": metadata, "spec": {"nodeName": "n"}, "status": status})

    assert (with_code(143).state, with_code(143).problem) == ("drained", None)
    assert with_code(70).state == "failed"
    assert with_code(70).problem == Problem(
        reason="WorkersFailing", message="the worker ended with exit code 70 (Error)"
    )


def test_events_of_both_kinds() -> None:
    metadata = {"uid": "e", "creationTimestamp": "2026-05-01T11:00:00Z"}
    old = event_of(
        {
            "metadata": metadata,
            "lastTimestamp": "2026-05-01T11:30:00Z",
            "type": "Warning",
            "reason": "A",
            "count": 2,
        }
    )
    new = event_of(
        {
            "metadata": metadata,
            "series": {"count": 5, "lastObservedTime": "2026-05-01T11:45:00.123456Z"},
            "eventTime": "2026-05-01T11:00:00.000000Z",
        }
    )
    assert (old.time.minute, old.type, old.count) == (30, "Warning", 2)
    assert (new.time.minute, new.type, new.count) == (45, "Normal", 5)


def test_json_for_programs() -> None:
    found = snapshot_of(
        body(), workers=[pod("a", problem=Problem(reason="ContainerFailed", message="m"))], events=[event()]
    )
    made = json.loads(json.dumps(found.as_dict()))
    assert made["status"]["progress"]["generation"] == 12
    assert made["workers"] == [
        {
            "name": "a",
            "state": "ready",
            "ready": True,
            "node": "node-1",
            "createdAt": "2026-05-01T11:00:00Z",
            "problem": {"reason": "ContainerFailed", "message": "m"},
        }
    ]
    assert made["events"][0]["reason"] == "Started"
    assert Snapshot.from_dict(made).as_dict() == made


@pytest.mark.parametrize(
    ("status", "passing"),
    [(0, True), (401, False), (403, False), (404, False), (429, True), (500, True), (503, True)],
)
def test_which_errors_pass(status: int, *, passing: bool) -> None:
    assert is_passing(ClusterError("", status=status)) is passing


def log_line(second: int, text: str) -> LogLine:
    return LogLine.parse(f"2026-05-01T12:00:{second:02}.123456789Z {text}")


def test_a_workers_line_is_readable() -> None:
    record = logging.makeLogRecord(
        {"levelname": "INFO", "msg": "checkpoint saved", "created": NOW.timestamp(), "generation": 3}
    )
    record.path, record.loss = "/a b/c", 0.1 + 0.2
    written = JsonFormatter(worker="run-workers-abcde", run="u").format(record)
    shown, _ = readable(log_line(1, written), worker="abcde")
    assert shown == ('2026-05-01T12:00:00Z abcde info checkpoint saved generation=3 path="/a b/c" loss=0.3')


def test_a_traceback_stands_on_lines_of_its_own() -> None:
    text = json.dumps({"level": "error", "event": "TypeError", "traceback": "Traceback:\n  a\nTypeError"})
    shown = readable(log_line(5, text), worker="a")
    assert shown == ("2026-05-01T12:00:05Z a error TypeError\nTraceback:\n  a\nTypeError", "red")


@pytest.mark.parametrize("text", ["Segmentation fault", "{broken", '{"no": "event"}', "[1]", ""])
def test_what_is_no_log_line_of_ours_is_shown_as_it_is(text: str) -> None:
    assert readable(log_line(7, text), worker="a") == (f"2026-05-01T12:00:07Z a {text}", None)


def test_lines_come_in_pieces() -> None:
    assert list(split_lines([b"a\nb", b"", b"c\n\xff\n", b"end"])) == ["a", "bc", "�", "end"]
    assert list(split_lines([b"a\nbro"], keep_rest=False)) == ["a"]
    assert list(split_lines([])) == []


def test_a_line_without_a_time() -> None:
    assert LogLine.parse("no time").text == "no time"
    assert readable(LogLine.parse("no time"), worker="a") == ("- a no time", None)


def test_logs_of_pods_are_put_in_the_order_of_their_times() -> None:
    first = [("a", log_line(1, "a1")), ("a", log_line(4, "a4"))]
    second = [("b", log_line(2, "b2")), ("b", log_line(4, "b4")), ("b", log_line(5, "b5"))]
    in_order = [(pod, line.text) for pod, line in merged([first, second])]
    assert in_order == [("a", "a1"), ("b", "b2"), ("a", "a4"), ("b", "b4"), ("b", "b5")]


def test_short_names() -> None:
    assert short_name("run-workers-abcde", "run") == "abcde"
    assert short_name("other-pod", "run") == "other-pod"
