"""The status of a run on one machine: what its session says, and what its folder shows afterwards."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from esft.errors import VersionError
from esft.generation import opened as opened_under
from esft.policy import Policy
from esft.queue import RunState
from esft.status.report import Outcome
from esft.status.snapshot import Problem, Snapshot, Worker
from esft_cli.cluster.objects import snapshot_of
from esft_local.files import RunFolderError
from esft_local.folder import RunFolder
from esft_local.reporter import Reporter
from esft_local.status import read_run, read_status
from run_folders import entry, opened, spec_of
from snapshots import body, condition, event, pod

DONE = Outcome("Succeeded", "GenerationsDone", "All 4 generations done.", "ab" * 8)
WORKING = (
    Worker(name="worker-0", state="ready", created_at=datetime(2026, 5, 1, 11, tzinfo=UTC)),
    Worker(
        name="worker-1.1",
        state="starting",
        created_at=datetime(2026, 5, 1, 11, 1, tzinfo=UTC),
        problem=Problem(reason="WorkersFailing", message="worker-1 ended with SIGKILL: out of memory"),
    ),
)


def state_of(folder: RunFolder, *, done: int) -> RunState:
    policy = Policy.of(folder.spec.spec)
    opened_now = opened_under(folder.spec.spec, len(folder.log), policy)
    return RunState(
        phase="Running",
        reason="",
        message="",
        result=None,
        measures="",
        opening=opened_now,
        policy=policy.to_json(),
        done=done,
        outstanding=0,
        todo=len(opened_now.items) - done,
        workers=1,
        counters={},
    )


def verdicts(snapshot: Snapshot) -> dict[str, tuple[str, str]]:
    return {found.type: (found.status, found.reason) for found in snapshot.status.conditions or ()}


def keys(data: Any) -> Any:
    """The keys of an object, and of those in it; of a list those of all its entries."""
    if isinstance(data, dict):
        return {key: keys(value) for key, value in data.items()}
    if isinstance(data, list):
        merged: dict[str, Any] = {}
        for found in data:
            merged |= keys(found) if isinstance(found, dict) else {}
        return [merged]
    return None


def test_both_worlds_have_one_json(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        for generation in range(4):
            folder.append(entry(generation, score=0.2, checkpoint=generation == 2))
        reporter = Reporter(folder, size=2)
        reporter.snapshot(WORKING)
        ended = reporter.snapshot(WORKING, outcome=DONE)
        reporter.save(ended)
    local = read_status(tmp_path).as_dict()
    observed = {"observedGeneration": 1}
    conditions = [
        condition(kind, "False", "Finished", "") | observed
        for kind in ("WorkersReady", "Progressing", "Healthy", "Suspended", "Complete")
    ]
    resource = body(
        "Succeeded",
        *conditions,
        digest="ab" * 8,
        startTime="2026-05-01T11:00:00Z",
        completionTime="2026-05-01T11:30:00Z",
    )
    del resource["status"]["activeSince"], resource["status"]["progress"]["estimatedRemainingSeconds"]
    problem = Problem(reason="ImagePullFailed", message="no such image")
    cluster = snapshot_of(resource, workers=[pod("a"), pod("b", "starting", problem=problem)]).as_dict()
    assert keys(local) == keys(cluster)
    assert local["workers"][0] == {
        "name": "worker-0",
        "state": "ready",
        "node": None,
        "createdAt": "2026-05-01T11:00:00Z",
        "problem": None,
        "ready": True,
    }
    assert {*snapshot_of(resource, events=[event()]).as_dict()["events"][0]} == {
        "time",
        "type",
        "reason",
        "message",
        "count",
    }


def test_a_session_says_how_its_run_is(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        reporter = Reporter(folder, size=2)
        first = reporter.snapshot(activity="starting the workers")
        assert (first.phase, first.reason[0], first.live and first.live.now) == (
            "Pending",
            "WaitingForWorkers",
            "starting the workers",
        )
        folder.append(entry(0, score=0.2))
        folder.append(entry(1))
        found = reporter.snapshot(WORKING, state=state_of(folder, done=1))
        away = reporter.snapshot(WORKING, redis_problem=("RedisUnavailable", "Redis does not answer."))
    assert verdicts(found) == {
        "WorkersReady": ("False", "WorkersFailing"),
        "Progressing": ("True", "Running"),
        "Healthy": ("True", "AsExpected"),
        "Suspended": ("False", "NotSuspended"),
    }
    assert "out of memory" in found.attention[0].message
    status = found.status
    assert status.progress is not None
    assert (status.progress.summary, status.progress.estimated_remaining_seconds) == ("2/4", 4.0)
    assert status.workers is not None
    assert (status.workers.ready, status.workers.desired) == (1, 2)
    assert found.live is not None
    assert (found.live.done, found.live.items) == (1, 2)
    assert found.live.members_per_second == pytest.approx(1.0)
    assert found.live.curve == (0.5, 0.5)
    assert (first.live and first.live.members_per_second) is None
    assert verdicts(away)["Progressing"] == ("Unknown", "RedisUnavailable")
    assert verdicts(away)["Healthy"] == ("False", "RedisUnavailable")


@pytest.mark.parametrize(
    ("reason", "exit_code"), [("NoFitness", 64), ("InvalidSpec", 64), ("WorkersFailed", 70)]
)
def test_the_end_gives_the_exit_code(tmp_path: Path, reason: str, exit_code: int) -> None:
    with opened(tmp_path) as folder:
        ended = Reporter(folder, size=2).snapshot(outcome=Outcome("Failed", reason, "m"))
    assert (ended.phase, ended.exit_code) == ("Failed", exit_code)
    assert verdicts(ended)["Failed"] == ("True", reason)


def test_a_status_is_saved_at_each_turn_and_once_a_second(tmp_path: Path) -> None:
    def shown() -> tuple[str, str]:
        found = read_status(tmp_path)
        assert found.status.progress is not None
        return found.phase, json.loads((tmp_path / "status.json").read_text())["status"]["progress"][
            "summary"
        ]

    with opened(tmp_path) as folder:
        reporter = Reporter(folder, size=2)
        reporter.save(reporter.snapshot())
        assert shown() == ("Pending", "0/4")
        reporter.save(reporter.snapshot(WORKING))
        assert shown() == ("Running", "0/4")
        folder.append(entry(0))
        reporter.save(reporter.snapshot(WORKING))
        assert shown() == ("Running", "0/4")  # not so soon
        reporter.save(reporter.snapshot(suspended=("Interrupted", "Stopped.")))
        assert shown() == ("Suspended", "1/4")
    with opened(tmp_path) as folder:
        again = Reporter(folder, size=2)
        again.save(again.snapshot())
        assert shown() == ("Running", "1/4")
        assert read_status(tmp_path).status.start_time is not None


def test_a_status_that_cannot_be_saved_is_no_matter(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        (tmp_path / "status.json").mkdir()
        reporter = Reporter(folder, size=2)
        reporter.save(reporter.snapshot(WORKING))
        folder.append(entry(0, score=0.2))
        assert read_status(tmp_path).status.progress is not None
    assert [path.name for path in tmp_path.glob(".status*")] == []


@pytest.mark.parametrize("left", ["status", "no status", "torn status", "another run's status"])
def test_a_run_that_goes_on_and_one_that_was_killed(tmp_path: Path, left: str) -> None:
    file = tmp_path / "status.json"
    with opened(tmp_path) as folder:
        folder.worked(12.5, save=True)
        reporter = Reporter(folder, size=2)
        reporter.save(reporter.snapshot(WORKING))
        folder.append(entry(0, score=0.2))  # the status is late
        match left:
            case "no status":
                file.unlink()
            case "torn status":
                file.write_text(file.read_text()[:100])
            case "another run's status":
                file.write_text(file.read_text().replace("uid-1", "uid-0"))
        going = read_status(tmp_path)
    killed = read_status(tmp_path)
    assert going.phase == "Running"
    assert (killed.phase, *verdicts(killed)["Suspended"]) == ("Suspended", "True", "Killed")
    assert killed.reason == ("Killed", "The session ended without a word; the same command goes on.")
    assert killed.workers == ()
    assert (killed.status.active_since, killed.status.active_seconds) == (None, 12.5)
    for found in (going, killed):
        assert found.status.progress is not None
        assert found.status.progress.summary == "1/4"
        assert found.status.fitness is not None
        assert found.status.fitness.mean == 0.5
        assert found.status.evaluation is not None
        assert found.status.evaluation.last == 0.2
    assert killed == read_status(tmp_path)  # as long as nothing changes


def test_the_log_counts_where_a_killed_session_did_not_get_to_the_history(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        folder.append(entry(0, score=0.2))
        folder.append(entry(1, checkpoint=True))
    history = tmp_path / "history.jsonl"
    history.write_text(history.read_text().splitlines(keepends=True)[0])
    status = read_status(tmp_path).status
    assert status.progress is not None
    assert status.progress.generation == 2
    assert status.checkpoint is not None
    assert status.checkpoint.uri == f"file://{tmp_path}/checkpoints/generation-000001"


def test_progress_is_not_taken_back_by_a_history_that_is_behind(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        for generation in range(3):
            folder.append(entry(generation, score=0.2))
        reporter = Reporter(folder, size=2)
        reporter.save(reporter.snapshot(WORKING))
    os.truncate(tmp_path / "history.jsonl", 0)
    killed = read_status(tmp_path).status
    assert killed.progress is not None
    assert killed.progress.summary == "3/4"
    assert killed.evaluation is not None


def test_another_folder_is_refused_with_the_fix(tmp_path: Path) -> None:
    for read in (read_status, read_run):
        with pytest.raises(RunFolderError, match="holds no run"):
            read(tmp_path)


def test_a_resumed_run_keeps_the_times_of_what_has_not_changed(tmp_path: Path) -> None:
    with opened(tmp_path, spec_of()) as folder:
        reporter = Reporter(folder, size=2)
        saved = reporter.snapshot(WORKING)
        reporter.save(saved)
    document = json.loads((tmp_path / "status.json").read_text())
    for found in document["status"]["conditions"]:
        found["lastTransitionTime"] = "2026-05-01T11:00:00Z"
    (tmp_path / "status.json").write_text(json.dumps(document))
    with opened(tmp_path) as folder:
        resumed = Reporter(folder, size=2).snapshot(WORKING[:1])
    assert {found.last_transition_time for found in resumed.status.conditions or ()} == {
        "2026-05-01T11:00:00Z"
    }
    assert resumed.created_at == saved.created_at


def test_the_folder_of_another_release_is_refused_and_its_image_named(tmp_path: Path) -> None:
    """Whoever asks: `esft run` and `esft status` alike."""
    with opened(tmp_path):
        pass
    state = json.loads((tmp_path / "run.json").read_text())
    for name in ("format", "noise", "release", "generation"):
        del state[name]  # as release 0.1.0 wrote it
    (tmp_path / "run.json").write_text(json.dumps(state))
    with pytest.raises(VersionError, match=r"image esfinetune/worker:0\.1\.0"):
        read_status(tmp_path)
    with pytest.raises(VersionError, match=r"image esfinetune/worker:0\.1\.0"), opened(tmp_path):
        pass
