"""What `esft status` and `esft logs` show of a run in a cluster: parsed objects, tables, lines, JSON."""

import io
import json
import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console, RenderableType

from esft.logs import JsonFormatter
from esft_cli.cluster.log_lines import LogLine, merged, readable, short_name, split_lines
from esft_cli.cluster.reader import is_passing
from esft_cli.cluster.screens import JsonScreen, LineScreen, LiveScreen
from esft_cli.cluster.snapshot import RunEvent, Snapshot, WorkerPod
from esft_cli.cluster.view import changes, page, panel, summary_line
from esft_operator.clients.cluster import ClusterError

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def condition(kind: str, status: str, reason: str, message: str) -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-05-01T11:00:00Z",
    }


def body(phase: str | None = "Running", *conditions: dict[str, Any], **status: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "metadata": {
            "name": "countdown",
            "namespace": "research",
            "uid": "u-1",
            "generation": 1,
            "creationTimestamp": "2026-05-01T10:30:00Z",
        },
        "spec": {},
    }
    if phase is not None:
        made["status"] = {
            "phase": phase,
            "observedGeneration": 1,
            "conditions": list(conditions)
            or [condition("Progressing", "True", "Running", "Members are being evaluated.")],
            "progress": {
                "generation": 12,
                "planned": 500,
                "percent": 2.4,
                "estimatedRemainingSeconds": 3725.0,
                "summary": "12/500",
            },
            "fitness": {"mean": 0.4213, "best": 0.5, "std": 0.0312, "summary": "0.4213"},
            "evaluation": {
                "base": 0.1,
                "last": 0.2,
                "best": 0.21,
                "bestGeneration": 10,
                "lastGeneration": 12,
                "count": 3,
                "summary": "0.2000",
            },
            "workers": {"desired": 3, "ready": 2, "selector": "a=b"},
            "checkpoint": {"generation": 10, "uri": "pvc://countdown-checkpoints/generation-000010"},
            "activeSince": "2026-05-01T11:00:00Z",
            "activeSeconds": 60.0,
            **status,
        }
    return made


def ended(phase: str, kind: str, reason: str) -> dict[str, Any]:
    return body(phase, condition(kind, "True", reason, "a message"))


def pod(name: str, state: str = "ready", **changes: Any) -> WorkerPod:
    return WorkerPod(name, state, "node-1", datetime(2026, 5, 1, 11, tzinfo=UTC), **changes)


def event(uid: str = "e-1", reason: str = "Started", **changes: Any) -> RunEvent:
    made: dict[str, Any] = {"at": datetime(2026, 5, 1, 11, 59, 30, tzinfo=UTC), "warning": False}
    return RunEvent(uid=uid, reason=reason, **{**made, "message": "The first worker is ready.", **changes})


def text_of(shown: RenderableType, *, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def test_a_page_shows_all_that_there_is() -> None:
    problem = ("Unschedulable", "0/3 nodes are available:\n  3 Insufficient nvidia.com/gpu.")
    found = Snapshot.of(
        body(
            "Running",
            condition("Progressing", "True", "Running", "Members are being evaluated."),
            condition("WorkersReady", "False", "Unschedulable", "Pod countdown-workers-c: no GPU"),
            condition("Healthy", "False", "RedisUnavailable", "Redis does not answer"),
            digest="0123456789abcdef",
        ),
        pods=[
            pod("countdown-workers-a"),
            pod("countdown-workers-b"),
            WorkerPod(
                "countdown-workers-c", "starting", None, datetime(2026, 5, 1, 11, 59, tzinfo=UTC), problem
            ),
        ],
        events=[event(), event("e-2", "RedisUnavailable", warning=True, message="gone", count=3)],
    )
    assert text_of(page(found, now=NOW)) == (
        "countdown  (namespace research)\n"
        "phase       Running: Members are being evaluated.\n"
        "generation  12/500   2.4%   about 1:02:05 left\n"
        "fitness     mean 0.4213, best 0.5000, std 0.0312\n"
        "score       base 0.1000 -> 0.2000 (+10.0 points); best 0.2100 at generation 10\n"
        "workers     2/3 ready\n"
        "checkpoint  pvc://countdown-checkpoints/generation-000010\n"
        "digest      0123456789abcdef\n"
        "age         1:30:00, active for 1:01:00\n"
        "attention   WorkersReady: Pod countdown-workers-c: no GPU (Unschedulable)\n"
        "attention   Healthy: Redis does not answer (RedisUnavailable)\n"
        "\n"
        "WORKER               STATE     NODE    AGE      PROBLEM\n"
        "countdown-workers-c  starting  -       0:01:00  Unschedulable: 0/3 nodes are available: 3 Insufficient"
        " nvidia.com/gpu.\n"
        "countdown-workers-a  ready     node-1  1:00:00\n"
        "countdown-workers-b  ready     node-1  1:00:00\n"
        "\n"
        "AGO      EVENT             MESSAGE\n"
        "0:00:30  Started           The first worker is ready.\n"
        "0:00:30  RedisUnavailable  gone (x3)"
    )


def test_a_panel_has_room_for_some_pods_and_events_only() -> None:
    pods = [
        *(pod(f"countdown-workers-{number:02}") for number in range(20)),
        *(pod(f"countdown-workers-old-{number}", "drained") for number in range(5)),
        pod("countdown-workers-z", problem=("ImagePullFailed", "no such image" * 20)),
    ]
    events = [event(f"e-{number}", f"Reason{number}", message="word " * 100) for number in range(8)]
    shown = text_of(panel(Snapshot.of(body(), pods=pods, events=events), now=NOW, height=28), width=100)
    assert "esft status: research/countdown" in shown
    assert "ImagePullFailed: no such image" in shown
    assert shown.count("countdown-workers-0") == 3
    assert shown.count(" drained ") == 3
    assert "and 17 more workers, 2 more that have ended" in shown
    assert "Reason4" not in shown
    assert "Reason5" in shown
    assert shown.count("\n") < 28


def test_a_narrow_terminal_cuts_no_names() -> None:
    shown = text_of(page(Snapshot.of(body(), pods=[pod("countdown-workers-abcde")]), now=NOW), width=50)
    assert "countdown-workers-abcde" in shown


@pytest.mark.parametrize(
    ("resource", "phase", "reason", "exit_code"),
    [
        (ended("Succeeded", "Complete", "GenerationsDone"), "Succeeded", "GenerationsDone", 0),
        (ended("Failed", "Failed", "DeadlineExceeded"), "Failed", "DeadlineExceeded", 70),
        (ended("Failed", "Failed", "InvalidSpec"), "Failed", "InvalidSpec", 64),
        (ended("Suspended", "Suspended", "SuspendRequested"), "Suspended", "SuspendRequested", None),
        (body(), "Running", "Running", None),
        (body("Succeeded", observedGeneration=0), "Succeeded", "", None),  # generations was just raised
        (body(None), "Unseen", "NoOperator", None),
        (body(None) | {"spec": {"managedBy": "example.com/other"}}, "Unseen", "ManagedByOther", None),
        (body(None) | {"status": {"phase": "Exploded", "added": 1}}, "Unseen", "NoOperator", None),
    ],
)
def test_phases(resource: dict[str, Any], phase: str, reason: str, exit_code: int | None) -> None:
    found = Snapshot.of(resource)
    assert (found.phase, found.reason[0], found.exit_code) == (phase, reason, exit_code)
    assert text_of(page(found, now=NOW))


def test_a_status_of_another_version_is_handed_on_as_it_is() -> None:
    found = Snapshot.of(body(None) | {"status": {"phase": "Exploded"}})
    assert "another version" in found.notes[0]
    assert found.as_dict()["status"] == {"phase": "Exploded"}
    newer = Snapshot.of(body("Running", later={"than": "this"}))
    assert newer.notes == ()
    assert newer.phase == "Running"


@pytest.mark.parametrize("reason", ["Finished", "Suspended"])
def test_no_workers_are_no_reason_to_worry_when_none_are_wanted(reason: str) -> None:
    found = Snapshot.of(body("Succeeded", condition("WorkersReady", "False", reason, "")))
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
    made = WorkerPod.of(
        {
            "metadata": {"name": "a", "creationTimestamp": "2026-05-01T11:00:00Z", **metadata},
            "status": status,
        }
    )
    assert (made.state, made.has_log, made.node) == (state, has_log, None)


def test_a_drained_worker_is_no_problem() -> None:
    def with_code(code: int) -> WorkerPod:
        state = {"terminated": {"exitCode": code, "reason": "Error", "message": ""}}
        status = {"phase": "Failed", "containerStatuses": [{"name": "worker", "state": state}]}
        metadata = {"name": "a", "creationTimestamp": "2026-05-01T11:00:00Z"}
        return WorkerPod.of({"metadata": metadata, "spec": {"nodeName": "n"}, "status": status})

    assert (with_code(143).state, with_code(143).problem) == ("drained", None)
    assert with_code(70).state == "failed"
    assert with_code(70).problem == ("WorkersFailing", "the worker ended with exit code 70 (Error)")


def test_events_of_both_kinds() -> None:
    metadata = {"uid": "e", "creationTimestamp": "2026-05-01T11:00:00Z"}
    old = RunEvent.of(
        {
            "metadata": metadata,
            "lastTimestamp": "2026-05-01T11:30:00Z",
            "type": "Warning",
            "reason": "A",
            "count": 2,
        }
    )
    new = RunEvent.of(
        {
            "metadata": metadata,
            "series": {"count": 5, "lastObservedTime": "2026-05-01T11:45:00.123456Z"},
            "eventTime": "2026-05-01T11:00:00.000000Z",
        }
    )
    assert (old.at.minute, old.warning, old.count) == (30, True, 2)
    assert (new.at.minute, new.warning, new.count) == (45, False, 5)


def test_lines_say_what_has_changed() -> None:
    first = Snapshot.of(body(), events=[event()])
    lines = list(changes(None, first))
    assert "\n".join(lines) == (
        "countdown: Running, generation 12/500 (2.4%), fitness 0.4213 (best 0.5000), "
        "score 0.1000 -> 0.2000 (best 0.2100), 2/3 workers, about 1:02:05 left"
    )
    assert list(changes(first, first)) == []
    unhealthy = condition("Healthy", "False", "RedisUnavailable", "Redis does not answer")
    progressing = condition("Progressing", "True", "Running", "")
    then = Snapshot.of(
        body("Running", progressing, unhealthy),
        events=[event(), event("e-2", "RedisUnavailable", message="Redis does\nnot answer")],
    )
    assert list(changes(first, then)) == [
        "  Healthy: Redis does not answer (RedisUnavailable)",
        "  RedisUnavailable: Redis does not answer",
    ]
    assert summary_line(Snapshot.of(body(None))) == "countdown: Unseen (NoOperator)"


def test_screens_write_once_for_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    found, other = Snapshot.of(body()), Snapshot.of(body("Suspended"))
    console = Console(file=io.StringIO(), width=40)
    with LineScreen(console) as lines:
        for each in (found, found, other):
            lines.show(each)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("\n") == 2
    with JsonScreen() as screen:
        for each in (found, found, other):
            screen.show(each)
    written = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["status"]["phase"] for each in written] == ["Running", "Suspended"]


def test_a_terminal_gets_a_panel_that_is_drawn_anew() -> None:
    console = Console(file=io.StringIO(), width=100, height=40, force_terminal=True, color_system=None)
    with LiveScreen(console) as screen:
        screen.show(Snapshot.of(body()))
        screen.show(Snapshot.of(ended("Succeeded", "Complete", "GenerationsDone")))
    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue()
    assert written.index("Running: Members") < written.index("\x1b[2K") < written.rindex("(GenerationsDone)")
    assert written.endswith("\x1b[?25h")  # the cursor is back


def test_json_for_programs() -> None:
    found = Snapshot.of(body(), pods=[pod("a", problem=("ContainerFailed", "m"))], events=[event()])
    made = json.loads(json.dumps(found.as_dict()))
    assert made["status"]["progress"]["generation"] == 12
    assert made["pods"] == [
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
    shown = readable(log_line(1, written), worker="abcde")
    assert shown.text == (
        '2026-05-01T12:00:00Z abcde info checkpoint saved generation=3 path="/a b/c" loss=0.3'
    )


def test_a_traceback_stands_on_lines_of_its_own() -> None:
    text = json.dumps({"level": "error", "event": "TypeError", "traceback": "Traceback:\n  a\nTypeError"})
    shown = readable(log_line(5, text), worker="a")
    assert shown.text == "2026-05-01T12:00:05Z a error TypeError\nTraceback:\n  a\nTypeError"
    assert shown.colour == "red"


@pytest.mark.parametrize("text", ["Segmentation fault", "{broken", '{"no": "event"}', "[1]", ""])
def test_what_is_no_log_line_of_ours_is_shown_as_it_is(text: str) -> None:
    assert readable(log_line(7, text), worker="a").text == f"2026-05-01T12:00:07Z a {text}"


def test_lines_come_in_pieces() -> None:
    assert list(split_lines([b"a\nb", b"", b"c\n\xff\n", b"end"])) == ["a", "bc", "�", "end"]
    assert list(split_lines([b"a\nbro"], keep_rest=False)) == ["a"]
    assert list(split_lines([])) == []


def test_a_line_without_a_time() -> None:
    assert LogLine.parse("no time").text == "no time"
    assert readable(LogLine.parse("no time"), worker="a").text == "- a no time"


def test_logs_of_pods_are_put_in_the_order_of_their_times() -> None:
    first = [log_line(1, "a1"), log_line(4, "a4")]
    second = [log_line(2, "b2"), log_line(4, "b4"), log_line(5, "b5")]
    in_order = [(pod, line.text) for pod, line in merged([("a", first), ("b", second)])]
    assert in_order == [("a", "a1"), ("b", "b2"), ("a", "a4"), ("b", "b4"), ("b", "b5")]


def test_short_names() -> None:
    assert short_name("run-workers-abcde", "run") == "abcde"
    assert short_name("other-pod", "run") == "other-pod"
