"""The history of a run: its lines, their fold, and the picture."""

import json
import math
from pathlib import Path

import pytest

from esft.records import Evaluation, FitnessStatistics, UpdateRecord
from esft.status.ledger import Ledger
from esft.wording import duration, improvement
from esft_local.history import HistoryLine, ledger_of
from esft_local.plot import PictureError, draw
from operator_situations import entry


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


def test_a_history_line_survives_its_own_json() -> None:
    for each in (line(3, score=0.25), HistoryLine(4, None, Evaluation(0.5, 0.5, 4), 0.01)):
        assert HistoryLine.from_json(each.to_json()) == each


def test_what_is_not_a_number_becomes_null() -> None:
    nothing = FitnessStatistics(math.nan, math.nan, math.nan, math.nan, valid=0)
    data = json.loads(HistoryLine(0, nothing, None, None).to_json())
    assert data["fitness"] == {"mean": None, "best": None, "worst": None, "std": None}
    assert data["members"] == 0


def test_the_best_score_is_the_first_of_equals() -> None:
    score = ledger_of([line(0, score=0.1), line(1, score=0.4), line(2), line(3, score=0.4)]).score
    assert score is not None
    assert (score.base, score.last, score.best, score.best_generation) == (0.1, 0.4, 0.4, 1)
    assert ledger_of([line(0)]).score is None


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


def test_the_fold_of_a_history_is_that_of_its_log() -> None:
    log = [entry(generation, score=score) for generation, score in enumerate([0.1, None, 0.4])]
    history = [HistoryLine.of(UpdateRecord.from_json(found.record), found.telemetry) for found in log]
    assert ledger_of(history) == Ledger().followed_by(log)
    assert ledger_of(history[2:], ledger_of(history[:2])) == ledger_of(history)
    final = ledger_of([*history, HistoryLine(3, None, Evaluation(0.5, 0.5, 4), None)])
    assert final.checkpoint == 3, "the final weights of a run that succeeded are saved"
    assert (final.generation, final.score and final.score.last_generation) == (3, 3)
