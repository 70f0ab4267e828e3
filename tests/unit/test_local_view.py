"""What is shown of a run: lines, panel, sparkline, picture."""

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from esft.records import Evaluation, FitnessStatistics
from esft.wording import duration, improvement
from esft_local.history import HistoryLine, score_of
from esft_local.plot import PictureError, draw
from esft_local.view import (
    LiveView,
    PlainView,
    Snapshot,
    panel,
    plain_line,
    sparkline,
)


def line(generation: int, *, score: float | None = None, mean: float = 0.5) -> HistoryLine:
    return HistoryLine(
        generation=generation,
        fitness=FitnessStatistics(mean=mean, best=mean + 0.1, worst=mean - 0.1, std=0.05, valid=10),
        evaluation=None if score is None else Evaluation(score, score, 4),
        kl_divergence=None,
        sigma=0.1,
        step=0.05,
        seconds=2.0,
        worker_seconds=3.5,
        workers=2,
        leases_expired=0,
    )


def snapshot(history: list[HistoryLine], *, elapsed: float = 60.0, activity: str = "") -> Snapshot:
    return Snapshot(
        name="small",
        planned=10,
        generation=len(history),
        done=5,
        items=10,
        history=history,
        alive=1,
        workers=2,
        elapsed_seconds=elapsed,
        activity=activity,
    )


def test_a_history_line_survives_its_own_json() -> None:
    for each in (line(3, score=0.25), HistoryLine(4, None, Evaluation(0.5, 0.5, 4), 0.01)):
        assert HistoryLine.from_json(each.to_json()) == each


def test_what_is_not_a_number_becomes_null() -> None:
    nothing = FitnessStatistics(math.nan, math.nan, math.nan, math.nan, valid=0)
    data = json.loads(HistoryLine(0, nothing, None, None).to_json())
    assert data["fitness"] == {"mean": None, "best": None, "worst": None, "std": None}
    assert data["members"] == 0


def test_the_best_score_is_the_first_of_equals() -> None:
    score = score_of([line(0, score=0.1), line(1, score=0.4), line(2), line(3, score=0.4)])
    assert score is not None
    assert (score.base, score.final, score.best, score.best_generation) == (0.1, 0.4, 0.4, 1)
    assert score_of([line(0)]) is None


def test_time_left_and_speed_come_from_the_latest_generations() -> None:
    shown = snapshot([line(0), line(1)])
    assert shown.seconds_left == pytest.approx((10 - 2 - 0.5) * 2.0)
    assert shown.members_per_second == pytest.approx(5.0)
    assert snapshot([]).seconds_left is None
    assert snapshot([]).members_per_second is None


def test_a_plain_line_says_all() -> None:
    assert plain_line(snapshot([line(0, score=0.1), line(1, score=0.25)])) == (
        "generation 2/10, fitness 0.5000 (best 0.6000), score 0.1000 -> 0.2500 (best 0.2500), "
        "5.00 members/s, 1/2 workers, about 0:00:15 left"
    )


def test_plain_lines_come_at_most_every_two_seconds_and_the_last_one_always() -> None:
    out = io.StringIO()
    history: list[HistoryLine] = []
    with PlainView(Console(file=out)) as view:
        view.update(snapshot([], elapsed=0.0, activity="making the model 1/2"))
        for step in range(1, 9):
            history.append(line(step - 1))
            view.update(snapshot(list(history), elapsed=step * 0.5))
    lines = out.getvalue().splitlines()
    assert lines[0] == "making the model 1/2"
    assert [text.split(",")[0] for text in lines[1:]] == ["generation 4/10", "generation 8/10"]


def test_nothing_is_said_twice() -> None:
    out = io.StringIO()
    with PlainView(Console(file=out)) as view:
        for step in range(5):
            view.update(snapshot([line(0)], elapsed=60.0 if step else 0.0))
    assert len(out.getvalue().splitlines()) <= 2


def test_the_panel_shows_every_row() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100)
    console.print(panel(snapshot([line(0, score=0.1), line(1)], activity="grading"), unicode=True))
    text = out.getvalue()
    for part in ("small", "2/10", "5/10 items", "mean 0.5000", "0.1000 -> 0.1000", "1/2 alive", "grading"):
        assert part in text


def test_the_live_view_leaves_the_terminal_as_it_was() -> None:
    out = io.StringIO()
    with LiveView(Console(file=out, force_terminal=True)) as view:
        view.update(snapshot([line(0)]))
        view.say("[not markup]")
    text = out.getvalue()
    assert "[not markup]" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


@pytest.mark.parametrize(
    ("values", "bars"),
    [([], ""), ([1.0], "▁"), ([2.0, 2.0], "▁▁"), ([0.0, 1.0], "▁█"), ([0.0, 0.5, 1.0], "▁▅█")],
)
def test_sparkline(values: list[float], bars: str) -> None:
    assert sparkline(values) == bars


def test_words_for_numbers() -> None:
    assert duration(3725.4) == "1:02:05"
    assert improvement(0.05, 0.3) == "+25.0 points"
    assert improvement(0.3, 0.25) == "-5.0 points"
    assert improvement(1.0, 12.0) == "+11"


@pytest.mark.parametrize(
    "history",
    [
        [line(0)],
        [line(0, score=0.1), line(1), HistoryLine(2, None, Evaluation(0.3, 0.3, 4), None)],
        [HistoryLine(0, None, Evaluation(0.3, 0.3, 4), None)],
    ],
)
def test_a_picture_has_the_size_of_a_readme(tmp_path: Path, history: list[HistoryLine]) -> None:
    draw(history, title="small\nsettings", path=tmp_path / "fitness.png")
    header = (tmp_path / "fitness.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")) == (1200, 600)
    assert [each.name for each in tmp_path.iterdir()] == ["fitness.png"]


def test_no_generation_no_picture(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="nothing to plot"):
        draw([], title="small", path=tmp_path / "fitness.png")
