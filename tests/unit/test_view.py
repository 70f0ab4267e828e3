"""What is shown of a run, on one machine and in a cluster: tables, panels, lines, JSON."""

import io
import json
from datetime import UTC, datetime

import pytest
from rich.console import Console

from esft.status.snapshot import Live, Problem, Snapshot
from esft_cli.cluster.objects import snapshot_of
from esft_cli.screens import JsonScreen, LineScreen, LiveScreen
from esft_cli.view import changes, page, panel, sparkline, summary_line
from snapshots import NOW, body, condition, ended, event, pod, text_of


def test_a_page_shows_all_that_there_is() -> None:
    problem = Problem(
        reason="Unschedulable", message="0/3 nodes are available:\n  3 Insufficient nvidia.com/gpu."
    )
    found = snapshot_of(
        body(
            "Running",
            condition("Progressing", "True", "Running", "Members are being evaluated."),
            condition("WorkersReady", "False", "Unschedulable", "Pod countdown-workers-c: no GPU"),
            condition("Healthy", "False", "RedisUnavailable", "Redis does not answer"),
            digest="0123456789abcdef",
        ),
        workers=[
            pod("countdown-workers-a"),
            pod("countdown-workers-b"),
            pod(
                "countdown-workers-c",
                "starting",
                node=None,
                created_at=datetime(2026, 5, 1, 11, 59, tzinfo=UTC),
                problem=problem,
            ),
        ],
        events=[event(), event("e-2", "RedisUnavailable", type="Warning", message="gone", count=3)],
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
        pod("countdown-workers-z", problem=Problem(reason="ImagePullFailed", message="no such image" * 20)),
    ]
    events = [event(f"e-{number}", f"Reason{number}", message="word " * 100) for number in range(8)]
    shown = text_of(panel(snapshot_of(body(), workers=pods, events=events), now=NOW, height=28), width=100)
    assert "countdown  (namespace research)" in shown
    assert "ImagePullFailed: no such image" in shown
    assert shown.count("countdown-workers-0") == 3
    assert shown.count(" drained ") == 3
    assert "and 17 more workers, 2 more that have ended" in shown
    assert "Reason4" not in shown
    assert "Reason5" in shown
    assert shown.count("\n") < 28


def test_a_narrow_terminal_cuts_no_names() -> None:
    shown = text_of(page(snapshot_of(body(), workers=[pod("countdown-workers-abcde")]), now=NOW), width=50)
    assert "countdown-workers-abcde" in shown


def test_lines_say_what_has_changed() -> None:
    first = snapshot_of(body(), events=[event()])
    lines = list(changes(None, first))
    assert "\n".join(lines) == (
        "countdown: Running, generation 12/500 (2.4%), fitness 0.4213 (best 0.5000), "
        "score 0.1000 -> 0.2000 (best 0.2100), 2/3 workers, about 1:02:05 left"
    )
    assert list(changes(first, first)) == []
    unhealthy = condition("Healthy", "False", "RedisUnavailable", "Redis does not answer")
    progressing = condition("Progressing", "True", "Running", "")
    then = snapshot_of(
        body("Running", progressing, unhealthy),
        events=[event(), event("e-2", "RedisUnavailable", message="Redis does\nnot answer")],
    )
    assert list(changes(first, then)) == [
        "  Healthy: Redis does not answer (RedisUnavailable)",
        "  RedisUnavailable: Redis does not answer",
    ]
    assert summary_line(snapshot_of(body(None))) == "countdown: Unseen (NoOperator)"


def test_screens_write_once_for_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    found, other = snapshot_of(body()), snapshot_of(body("Suspended"))
    console = Console(file=io.StringIO(), width=40)
    with LineScreen(console) as lines:
        for each in (found, found, other):
            lines.update(each)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("\n") == 2
    with JsonScreen() as screen:
        for each in (found, found, other):
            screen.update(each)
    written = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["status"]["phase"] for each in written] == ["Running", "Suspended"]


def test_a_terminal_gets_a_panel_that_is_drawn_anew() -> None:
    console = Console(file=io.StringIO(), width=100, height=40, force_terminal=True, color_system=None)
    with LiveScreen(console) as screen:
        screen.update(snapshot_of(body()))
        screen.update(snapshot_of(ended("Succeeded", "Complete", "GenerationsDone")))
    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue()
    assert written.index("Running: Members") < written.index("\x1b[2K") < written.rindex("(GenerationsDone)")
    assert written.endswith("\x1b[?25h")  # the cursor is back


def working(
    generation: int = 2, *, desired: int = 2, now: str = "", phase: str = "Running", speed: float | None = 5.0
) -> Snapshot:
    """A run on this machine, as the session that does the work sees it."""
    resource = body(phase)
    progress = resource["status"]["progress"]
    progress |= {
        "generation": generation,
        "planned": 10,
        "summary": f"{generation}/10",
        "percent": 10.0 * generation,
    }
    progress["estimatedRemainingSeconds"] = 15.0
    resource["status"] |= {"workers": {"desired": desired, "ready": 1, "selector": ""}}
    live = Live(now=now, done=5, items=10, members_per_second=speed, curve=(0.0, 0.5, 1.0))
    return snapshot_of(resource).model_copy(update={"namespace": None, "live": live})


def test_the_session_that_works_says_more() -> None:
    assert summary_line(working()) == (
        "countdown: Running, generation 2/10 (20.0%), fitness 0.4213 (best 0.5000), "
        "score 0.1000 -> 0.2000 (best 0.2100), 5.00 members/s, 1/2 workers, about 0:00:15 left"
    )
    assert "members/s" not in summary_line(working(speed=None))
    shown = text_of(panel(working(now="grading"), now=NOW, height=40), width=100)
    assert "namespace" not in shown
    for part in (
        "countdown",
        "2/10   20.0%   5/10 items   about 0:00:15 left",
        "mean 0.4213, best 0.5000, std 0.0312   ▁▅█",
        "0.1000 -> 0.2000",
        "1/2 ready, 5.00 members/s",
        "now         grading",
    ):
        assert part in shown


class Time:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def written_by(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_plain_lines_come_at_most_every_two_seconds_and_the_last_one_always() -> None:
    console, clock = Console(file=io.StringIO()), Time()
    with LineScreen(console, clock=clock) as screen:
        screen.update(working(0, now="making the model 1/2"))
        for step in range(1, 9):
            clock.now = step * 0.5
            screen.update(working(step))
    lines = written_by(console)
    assert lines[1] == "  making the model 1/2"
    generations = [line.split(", ")[1] for line in [lines[0], *lines[2:]]]
    assert generations == [f"generation {step}/10 ({10.0 * step}%)" for step in (0, 4, 8)]


def test_a_turn_is_told_at_once() -> None:
    console = Console(file=io.StringIO())
    with LineScreen(console, clock=Time()) as screen:
        for phase in ("Pending", "Running", "Suspended"):
            screen.update(working(phase=phase))
        assert [line.split(",")[0].split()[1] for line in written_by(console)] == [
            "Pending",
            "Running",
            "Suspended",
        ]


def test_what_is_going_on_is_told_now_and_then_until_the_first_generation_has_closed() -> None:
    console, clock = Console(file=io.StringIO()), Time()
    with LineScreen(console, clock=clock) as screen:
        for second in range(21):
            clock.now = float(second)
            screen.update(working(0, now=f"making the model {second}/99"))
        screen.update(working(1, now="grading"))
    told = [line for line in written_by(console) if line.startswith("  ")]
    assert told == [f"  making the model {second}/99" for second in (0, 10, 20)]


def test_nothing_is_said_twice() -> None:
    console, clock = Console(file=io.StringIO()), Time()
    with LineScreen(console, clock=clock) as screen:
        for step in range(5):
            clock.now = 60.0 * step
            screen.update(working(0, now="loading"))
    assert len(written_by(console)) == 2


def test_the_live_view_leaves_the_terminal_as_it_was() -> None:
    out = io.StringIO()
    with LiveScreen(Console(file=out, force_terminal=True), transient=True) as screen:
        screen.update(working())
        screen.say("[not markup]")
    text = out.getvalue()
    assert "[not markup]" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


@pytest.mark.parametrize(
    ("values", "bars"),
    [([], ""), ([1.0], "▁"), ([2.0, 2.0], "▁▁"), ([0.0, 1.0], "▁█"), ([0.0, 0.5, 1.0], "▁▅█")],
)
def test_sparkline(values: list[float], bars: str) -> None:
    assert sparkline(values) == bars


def test_a_terminal_without_such_letters_gets_no_curve() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with LiveScreen(Console(file=out, force_terminal=True, width=100, height=40)) as screen:
        screen.update(working())
    out.flush()
    assert b"mean 0.4213" in out.buffer.getvalue()  # type: ignore[attr-defined]
