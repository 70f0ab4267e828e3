"""The fold of a run's log: in one piece, in many, and on from what a status says."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from esft.queue import Entry
from esft.status import ESFineTuneStatus, Progress
from esft.status.ledger import Ledger
from operator_situations import entry

LOGS = st.lists(st.none() | st.floats(0, 1), max_size=12).map(
    lambda scores: [entry(generation, score=score) for generation, score in enumerate(scores)]
)


def status_of(ledger: Ledger) -> ESFineTuneStatus:
    progress = Progress(generation=ledger.generation, planned=100, percent=1.0, summary="")
    return ESFineTuneStatus(progress=progress, evaluation=ledger.score)


@given(LOGS, st.integers(0, 12))
def test_a_restart_in_between_changes_no_total(log: list[Entry], at: int) -> None:
    whole = Ledger().followed_by(log)
    half = Ledger().followed_by(log[:at])
    resumed = Ledger.from_status(status_of(half)).followed_by(log[at:])
    assert (resumed.generation, resumed.score) == (whole.generation, whole.score)
    assert Ledger().followed_by(log[:at]).followed_by(log[at:]) == whole


def test_scores() -> None:
    ledger = Ledger().followed_by([entry(0, score=0.5), entry(1), entry(2, score=0.9), entry(3, score=0.7)])
    score = ledger.score
    assert score is not None
    assert (score.base, score.last, score.best) == (0.5, 0.7, 0.9)
    assert (score.best_generation, score.last_generation, score.count) == (2, 3, 3)


def test_an_evaluation_counts_once() -> None:
    ledger = Ledger().followed_by([entry(0, score=0.5)])
    assert replace(ledger, generation=0).followed_by([entry(0, score=0.5)]).score == ledger.score


def test_averages_move_towards_what_is_new() -> None:
    ledger = Ledger().followed_by([entry(0, seconds=10.0)])
    assert (ledger.generation_seconds, ledger.member_seconds) == (10.0, 8.0)
    slower = ledger.followed_by([entry(generation, seconds=20.0) for generation in range(1, 40)])
    assert slower.generation_seconds is not None
    assert 19.5 < slower.generation_seconds <= 20.0


def test_sizing_waits_for_generations_at_the_new_size() -> None:
    ledger = Ledger().wanted(2).followed_by([entry(0), entry(1)])
    assert ledger.generations_since_change == 2
    assert ledger.wanted(2).generations_since_change == 2
    assert ledger.wanted(3).generations_since_change == 0


def test_the_newest_checkpoint_is_the_last_that_a_record_tells_of() -> None:
    log = [entry(generation, checkpoint=generation in {2, 4}) for generation in range(6)]
    assert [Ledger().followed_by(log[:end]).checkpoint for end in (2, 3, 4, 5, 6)] == [None, 2, 2, 4, 4]
    lost = replace(Ledger().followed_by(log), generation=2)
    assert lost.followed_by(log[2:3]).checkpoint == 4, "what is saved is saved"
