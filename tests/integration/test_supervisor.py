"""A whole `esft run` with real processes and a real Redis: what it leaves, what it refuses, how it fails."""

import json
import re
import signal
from pathlib import Path

import pytest

from esft.records import UpdateRecord
from pretend_job import Job, wait_until, workers_of

pytestmark = pytest.mark.integration


def test_a_run_leaves_everything_it_promises(job: Job) -> None:
    code, out, err = job.run()
    assert code == 0, err
    folder = job.folder / "out"
    summary = job.summary()
    assert summary["phase"] == "Succeeded"
    assert summary["reason"] == "GenerationsDone"
    assert summary["generations"] == summary["planned"] == 6
    assert summary["members_evaluated"] == 36
    assert summary["workers"] == 2
    assert summary["score"] == {"base": 0.1, "final": 0.6, "best": 0.6, "bestGeneration": 6}
    assert re.fullmatch("[0-9a-f]{16}", summary["digest"])
    found = job.status()
    assert found == json.loads((folder / "status.json").read_text())
    status = found["status"]
    assert (status["phase"], status["digest"]) == ("Succeeded", summary["digest"])
    assert (status["evaluation"]["last"], status["evaluation"]["count"]) == (0.6, 4)
    assert status["checkpoint"]["uri"] == f"file://{folder / 'checkpoints' / 'generation-000006'}"
    assert [worker["state"] for worker in found["workers"]] == ["done", "done"]
    assert (folder / "model" / "model.safetensors").read_text() == summary["digest"]
    assert sorted(each.name for each in (folder / "model").iterdir()) == ["config.json", "model.safetensors"]
    weights = "checkpoints/generation-000006/model.safetensors"
    assert (folder / "model" / "model.safetensors").samefile(folder / weights)
    assert (folder / "fitness.png").read_bytes().startswith(b"\x89PNG")
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [line["generation"] for line in history] == list(range(7))
    assert [line["evaluation"] is not None for line in history] == [True, False] * 3 + [True]
    assert all(1 <= line["workers"] <= 2 and line["seconds"] >= 0 for line in history[:6])
    records = [UpdateRecord.from_json(line) for line in job.log()]
    assert [record.generation for record in records] == list(range(6))
    assert "6/6" in out
    assert "0.1000 -> 0.6000 (+50.0 points)" in out
    assert err == ""


def test_a_finished_run_says_so_and_does_nothing(job: Job) -> None:
    assert job.run()[0] == 0
    folder = job.folder / "out"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    code, out, _ = job.run()
    assert code == 0
    assert "finished already" in out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_raised_generations_continue_the_log(job: Job) -> None:
    assert job.run()[0] == 0
    first, uid, seconds = job.log(), job.uid(), job.summary()["wall_seconds"]
    code, _, err = job.run("--set", "evolution.generations=8")
    assert code == 0, err
    assert job.log()[:6] == first
    assert len(job.log()) == 8
    assert job.uid() == uid
    assert job.summary()["wall_seconds"] > seconds
    assert (job.folder / "out" / "model" / "model.safetensors").read_text() == job.summary()["digest"]


def test_other_settings_are_refused_by_name(job: Job) -> None:
    assert job.run()[0] == 0
    code, _, err = job.run("--set", "evolution.sigma=0.2")
    assert code == 64
    assert "spec.evolution.sigma" in err
    assert "--output" in err
    assert err.count("\n") == 1


def test_a_folder_is_for_one_run_at_a_time(job: Job) -> None:
    process = job.start(FAKE_ITEM_SECONDS="1")
    wait_until((job.folder / "out" / "run.json").exists)
    code, _, err = job.run()
    assert code == 70
    assert "another `esft run` is using this folder" in err
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err


def test_a_spec_that_cannot_work_fails_with_the_workers_own_words(job: Job) -> None:
    code, _, err = job.run(FAKE_EXIT="64")
    assert code == 64
    assert err == "error: spec.model.source: no such model. Fix: name another\n"
    assert job.summary()["phase"] == "Failed"
    assert job.run()[0] == 0  # what was wrong outside the spec may be right by now


def test_a_crash_loop_ends_with_the_last_error(job: Job) -> None:
    code, _, err = job.run(FAKE_EXIT="70")
    assert code == 70
    assert "the GPU is on fire" in err
    assert "5 times without progress" in err
    assert job.summary()["reason"] == "WorkersFailed"


def test_no_password_is_on_a_command_line(job: Job) -> None:
    process = job.start(FAKE_ITEM_SECONDS="0.05")
    wait_until(lambda: len(workers_of(job)) == 2)
    environment = Path(f"/proc/{next(iter(workers_of(job).values()))}/environ").read_text()
    url = next(line for line in environment.split("\0") if line.startswith("ESFT_REDIS_URL="))
    password = url.split("@")[0].rpartition(":")[2]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert password not in entry.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
