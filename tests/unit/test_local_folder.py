"""The folder of a run: what it keeps, what it refuses, and what a crash may do to it."""

import errno
import json
import os
from pathlib import Path

import pytest

from esft.document import load
from esft.errors import SpecError
from esft.records import Evaluation
from esft.status.report import Outcome
from esft_local.files import RunFolderError, append_line, explained, write_atomically
from esft_local.folder import RunFolder, in_use, read_summary
from esft_local.reporter import Reporter
from esft_local.summary import Summary
from run_folders import entry, opened, spec_of


def test_a_second_session_finds_what_the_first_left(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as folder:
        for generation in range(3):
            folder.append(entry(generation, score=0.1))
        folder.worked(12.5, save=True)
        first = (folder.uid, list(folder.log), list(folder.history))
    with RunFolder.open(tmp_path / "run", spec_of(), new_uid=lambda: "uid-2") as folder:
        assert (folder.uid, folder.log, folder.history) == first
        assert folder.wall_seconds == 12.5
        assert folder.log == [entry(generation, score=0.1).record for generation in range(3)]
        assert folder.history[1].worker_seconds == 3.0
        assert folder.history[1].fitness is not None
        assert folder.history[1].fitness.mean == 0.5


def test_the_saved_specification_is_the_effective_one(tmp_path: Path) -> None:
    spec = spec_of(sigma=0.25)
    with opened(tmp_path, spec):
        pass
    assert load(tmp_path / "spec.yaml").spec == spec.spec


@pytest.mark.parametrize("torn", ['{"generation": 2, "sig', entry(2).record, "\0\0\0\0"])
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: str) -> None:
    with opened(tmp_path) as folder:
        folder.append(entry(0))
        folder.append(entry(1))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(torn)  # without the newline that ends a line
    with opened(tmp_path) as folder:
        assert len(folder.log) == 2
        folder.append(entry(2))
    with opened(tmp_path) as folder:
        assert len(folder.log) == 3


def test_a_broken_line_inside_the_log_is_refused_by_number(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        folder.append(entry(0))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write("garbage\n" + entry(2).record + "\n")
    with (
        pytest.raises(RunFolderError, match=r"log\.jsonl:2: not the update record of generation 1"),
        opened(tmp_path),
    ):
        pass


def test_a_log_with_a_gap_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        folder.append(entry(0))
        with pytest.raises(RunFolderError, match="got record 2 after 0"):
            folder.append(entry(2))
        assert len(folder.log) == 1


@pytest.mark.parametrize("left", [0, 10, 400])
def test_a_history_that_lags_behind_is_made_again(tmp_path: Path, left: int) -> None:
    with opened(tmp_path) as folder:
        for generation in range(3):
            folder.append(entry(generation, score=0.5))
    history = tmp_path / "history.jsonl"
    history.write_bytes(history.read_bytes()[:left])
    with opened(tmp_path) as folder:
        assert [line.generation for line in folder.history] == [0, 1, 2]
        assert [line.evaluation.score for line in folder.history if line.evaluation] == [0.5] * 3
    assert len(history.read_text().splitlines()) == 3


def test_before_the_first_update_other_settings_start_afresh(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with RunFolder.open(tmp_path, spec_of(sigma=0.5), new_uid=lambda: "uid-2") as folder:
        assert folder.spec.spec.evolution.sigma == 0.5
        assert folder.uid == "uid-2"


def test_other_settings_are_refused_by_field(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        folder.append(entry(0))
    with (
        pytest.raises(SpecError, match=r"another spec\.evolution\.sigma.*--output"),
        opened(tmp_path, spec_of(sigma=0.5)),
    ):
        pass


def test_generations_may_rise_but_not_fall(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        folder.append(entry(0))
    with opened(tmp_path, spec_of(generations=9)):
        pass
    with (
        pytest.raises(SpecError, match=r"spec\.evolution\.generations"),
        opened(tmp_path, spec_of(generations=3)),
    ):
        pass


def summary_of(folder: RunFolder, phase: str = "Succeeded") -> Summary:
    reporter = Reporter(folder, size=2)
    if phase == "Suspended":
        snapshot = reporter.snapshot(suspended=("Because", "Of this."))
    else:
        snapshot = reporter.snapshot(outcome=Outcome(phase, "Because", "Of this.", "ab" * 8))
    return Summary.of(
        snapshot,
        folder.history,
        spec=folder.spec,
        wall_seconds=1.5,
        workers=2,
        stage_seconds={"queue": 0.5},
    )


def test_a_finished_run_is_known_until_its_end_changes(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        summary = summary_of(folder)
        folder.write_summary(summary)
    with RunFolder.open(tmp_path, spec_of(), new_uid=str) as folder:
        assert folder.finished() == summary
    with RunFolder.open(tmp_path, spec_of(generations=9), new_uid=str) as folder:
        assert folder.finished() is None


@pytest.mark.parametrize("phase", ["Failed", "Suspended"])
def test_a_run_that_did_not_succeed_is_not_finished(tmp_path: Path, phase: str) -> None:
    with opened(tmp_path) as folder:
        summary = summary_of(folder, phase)
        assert (summary.phase, summary.reason, summary.message) == (phase, "Because", "Of this.")
        folder.write_summary(summary)
    with RunFolder.open(tmp_path, spec_of(), new_uid=str) as folder:
        assert folder.finished() is None
        folder.begin()
        assert read_summary(tmp_path) is None


def test_a_summary_adds_up_and_reads_back(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        for generation, score in enumerate([0.1, None, 0.4, 0.3]):
            folder.append(entry(generation, score=score))
        folder.measured_at_end(Evaluation(0.35, 0.35, 4), 0.01)
        summary = summary_of(folder)
        folder.write_summary(summary)
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        "name": "small",
        "phase": "Succeeded",
        "reason": "Because",
        "message": "Of this.",
        "generations": 4,
        "planned": 4,
        "digest": "ab" * 8,
        "score": {"base": 0.1, "final": 0.35, "best": 0.4, "bestGeneration": 2},
        "members_evaluated": 8,
        "wall_seconds": 1.5,
        "training_seconds": 8.0,
        "worker_seconds": 12.0,
        "stage_seconds": {"queue": 0.5},
        "leases_expired": 4,
        "workers": 2,
        "seed": 42,
    }
    assert read_summary(tmp_path) == summary
    with RunFolder.open(tmp_path, spec_of(generations=9), new_uid=str) as folder:
        assert len(folder.history) == 4  # generation 4 will be measured by its record


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path):
        assert in_use(tmp_path)
        with pytest.raises(RunFolderError, match="another `esft run`"), opened(tmp_path):
            pass
    assert not in_use(tmp_path)


def test_a_folder_with_other_content_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match=r"not empty \(thesis\.tex\)"), opened(tmp_path):
        pass
    assert {each.name for each in tmp_path.iterdir()} == {"thesis.tex", "lock"}


def test_a_file_in_place_of_the_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(RunFolderError, match="--output"), opened(tmp_path / "run"):
        pass


@pytest.mark.parametrize(("number", "fix"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "--output")])
def test_what_the_system_refuses_is_one_line_with_a_fix(tmp_path: Path, number: int, fix: str) -> None:
    with pytest.raises(RunFolderError, match=fix) as caught, explained(tmp_path):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(f"{tmp_path}: {os.strerror(number)}.")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_error() -> None:
    with pytest.raises(RunFolderError, match=r"No space left on device.*the run continues"):
        append_line(Path("/dev/full"), "x" * 100_000)


def test_an_atomic_write_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    (target / "inside").mkdir(parents=True)
    with pytest.raises(RunFolderError):
        write_atomically(target, "text")
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]
