"""A whole `esft run` with real processes and a real Redis; only the model is a stand-in.

The worker below is a real process that speaks the real protocol: it claims, reports, closes generations,
writes checkpoints and drains. Its "weights" are a hash over the log, so that two runs have one digest exactly
when their logs are equal.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from esft.queue import RunQueue, connect
from esft.records import UpdateRecord
from esft_local.redis_server import EmbeddedRedis

pytestmark = pytest.mark.integration

WORKER = textwrap.dedent('''
    """Stand-in for the worker; what it is to do wrong stands in FAKE_* variables."""
    import argparse, hashlib, json, os, pathlib, signal, sys, threading, time

    parser = argparse.ArgumentParser()
    for name in ("--spec", "--run", "--checkpoints", "--name", "--threads"):
        parser.add_argument(name, required=True)
    parser.add_argument("--follow-stdin", action="store_true", required=True)
    options = parser.parse_args()
    stop = threading.Event()
    stubborn = "FAKE_STUBBORN" in os.environ
    signal.signal(signal.SIGTERM, lambda *_: stubborn or stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def log(level, event, **fields):
        print(json.dumps({"level": level, "event": event, **fields}), file=sys.stderr, flush=True)

    def follow():
        while os.read(0, 1024):  # not sys.stdin.buffer, whose lock would abort a process that exits meanwhile
            pass
        stubborn or stop.set()

    threading.Thread(target=follow, daemon=True).start()
    log("info", "making the model", done=1, total=2)

    from esft.document import load
    from esft.errors import RunNotFoundError
    from esft.generation import Commit, Extend, close, Item, Kind
    from esft.policy import Policy
    from esft.queue import ClaimStatus, ItemResult, RunQueue, connect
    from esft.records import MemberResult, UpdateRecord
    from esft.spec import fingerprint

    if os.environ.get("FAKE_EXIT") == "64":
        log("error", "spec.model.source: no such model. Fix: name another")
        sys.exit(64)
    if os.environ.get("FAKE_EXIT") == "70":
        log("error", "the GPU is on fire")
        sys.exit(70)
    spec = load(pathlib.Path(options.spec)).spec
    queue = RunQueue(connect(os.environ["ESFT_REDIS_URL"], patience_seconds=20), options.run)
    queue.join(options.name, fingerprint=fingerprint(spec), ttl_milliseconds=60_000)
    records, claims = [], 0
    seconds = float(os.environ.get("FAKE_ITEM_SECONDS", "0"))

    def digest():
        return hashlib.blake2b("".join(r.to_json() for r in records).encode(), digest_size=8).hexdigest()

    def measure(generation, item):
        if item.kind is Kind.CHECKPOINT:
            folder = pathlib.Path(options.checkpoints) / f"generation-{generation:06d}"
            folder.mkdir(exist_ok=True)
            (folder / "model.safetensors").write_text(digest())
            (folder / "config.json").write_text("{}")
            (folder / "esft_master.safetensors").write_text("private")
            (folder / "state.json").write_text(json.dumps({"generation": generation, "digest": digest()}))
            return "{}"
        value = int(hashlib.sha256(f"{generation} {item}".encode()).hexdigest()[:8], 16) / 2**32
        if item.kind is Kind.EVALUATION:
            value = 0.1 + generation / (2.0 * spec.evolution.generations)
        return MemberResult(reward=value, score=value, examples=4, tokens=10).to_json()

    while True:
        if stop.is_set():
            queue.leave(options.name)
            sys.exit(143)
        for entry in queue.updates(len(records)):
            records.append(UpdateRecord.from_json(entry.record))
        generation, claims = len(records), claims + 1
        claim = queue.claim(
            options.name, generation=generation, count=1, token=str(claims), lease_milliseconds=60_000
        )
        if claim.status is ClaimStatus.FINISHED:
            sys.exit(0)
        complete = claim.status is ClaimStatus.COMPLETE
        for item in claim.items:
            stop.wait(seconds)
            if stop.is_set():
                break
            result = ItemResult(item, measure(generation, Item.parse(item)), int(1000 * seconds))
            (outcome,) = queue.report(options.name, generation=generation, results=[result])
            complete = complete or outcome.complete
        if claim.status is ClaimStatus.WAIT:
            queue.updates(generation, block_milliseconds=min(200, claim.wait_milliseconds))
        if complete and (closing := queue.results(generation)):
            decision = close(spec, Policy.from_json(closing.policy), closing, records)
            if isinstance(decision, Extend):
                queue.reopen(decision.opening, instead_of=closing.parameters)
            elif isinstance(decision, Commit):
                queue.commit(
                    generation=generation, record=decision.record.to_json(), opening=decision.opening
                )
            else:
                evaluation = decision.evaluation
                queue.finish(
                    phase=decision.phase, reason=decision.reason, message=decision.message, ttl_seconds=60,
                    result=json.dumps({"digest": digest(), "kl_divergence": None, "evaluation":
                        {"score": evaluation.score, "reward": evaluation.reward, "examples": 4}}),
                )
''')

JOB = textwrap.dedent("""
    apiVersion: esfinetune.dev/v1alpha1
    kind: ESFineTune
    metadata: {name: pretend}
    spec:
      model: {source: "tiny://countdown", dtype: float32}
      task: {name: countdown, train: {size: 8}, test: {size: 4, seed: 1}}
      decoding: {maxNewTokens: 8}
      evolution: {generations: 6, population: 6, sigma: 0.1, learningRate: 0.1}
      evaluation: {everyGenerations: 2}
      monitoring: {kl: null}
      checkpoint: {everyGenerations: 3}
""")


class Job:
    """A folder with a job file and the stand-in worker, and `esft` to run it with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "job.yaml"
        self.file.write_text(JOB)
        package = folder / "fake" / "esft_worker"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(WORKER)
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, output: str = "out", **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "esft_cli", "run", str(self.file), "--output", str(self.folder / output),
             "--workers", "2", *arguments],
            env={**os.environ, "PYTHONPATH": str(self.folder / "fake"), "OMP_NUM_THREADS": "1", **variables},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *arguments: str, output: str = "out", **variables: str) -> tuple[int, str, str]:
        process = self.start(*arguments, output=output, **variables)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def summary(self, output: str = "out") -> Mapping[str, Any]:
        return json.loads((self.folder / output / "summary.json").read_text())

    def status(self, output: str = "out") -> Mapping[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "esft_cli", "status", str(self.folder / output), "--output", "json"],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return json.loads(done.stdout)

    def log(self, output: str = "out") -> list[str]:
        file = self.folder / output / "log.jsonl"
        return file.read_text().splitlines() if file.exists() else []

    def uid(self, output: str = "out") -> str:
        return json.loads((self.folder / output / "run.json").read_text())["uid"]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], str]:
    """Log and digest of a run that nothing disturbs."""
    job = Job(tmp_path_factory.mktemp("undisturbed"))
    code, _, err = job.run()
    assert code == 0, err
    return job.log(), job.summary()["digest"]


def wait_until(condition: Callable[[], Any], *, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
    return value


def workers_of(job: Job) -> dict[str, int]:
    """Name and process id of the running workers of this job, from their command lines."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "esft_worker" in words and any(word.startswith(str(job.folder)) for word in words):
            found[words[words.index("--name") + 1]] = int(entry.parent.name)
    return found


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


def test_killed_workers_are_replaced_and_change_nothing(job: Job, expected: tuple[list[str], str]) -> None:
    process = job.start(FAKE_ITEM_SECONDS="0.05")
    chooser = random.Random(1)
    killed = 0
    while process.poll() is None:
        alive = workers_of(job)
        if alive and killed < 6:
            name = chooser.choice(sorted(alive))
            try:
                os.kill(alive[name], signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed += 1
            reached = len(job.log())
            wait_until(lambda: process.poll() is not None or len(job.log()) > reached)  # noqa: B023
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert killed >= 3
    assert (job.log(), job.summary()["digest"]) == expected


def test_a_killed_redis_changes_nothing(job: Job, expected: tuple[list[str], str]) -> None:
    process = job.start(FAKE_ITEM_SECONDS="0.05")
    for generation in (1, 2, 3):
        wait_until(lambda: len(job.log()) >= generation)  # noqa: B023
        os.kill(redis_of(process.pid), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert (job.log(), job.summary()["digest"]) == expected


def redis_of(runner: int) -> int:
    """The process of a runner's private Redis: a child of its guard."""
    return wait_until(
        lambda: next(
            (server for guard in children(runner) for server in children(guard) if is_redis(server)), None
        )
    )


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def is_redis(pid: int) -> bool:
    """Whether it runs: one that ended stays in /proc until its parent looks."""
    try:
        _, name, state = re.split(r"[()]", Path(f"/proc/{pid}/stat").read_text(), maxsplit=2)
    except FileNotFoundError:
        return False
    return name.startswith("redis-server") and not state.startswith(" Z")


def test_ctrl_c_drains_and_the_same_command_continues(job: Job, expected: tuple[list[str], str]) -> None:
    process = job.start(FAKE_ITEM_SECONDS="0.05")
    wait_until(lambda: len(job.log()) >= 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"esft run {job.file} --output {job.folder / 'out'} --workers 2" in out
    assert job.summary()["phase"] == job.status()["status"]["phase"] == "Suspended"
    assert job.status()["workers"][0]["state"] == "drained"
    assert workers_of(job) == {}
    done = len(job.log())
    assert 2 <= done < 6
    code, _, err = job.run()
    assert code == 0, err
    assert (job.log(), job.summary()["digest"]) == expected


def test_a_second_ctrl_c_ends_workers_that_do_not_drain(job: Job) -> None:
    process = job.start(FAKE_ITEM_SECONDS="0.5", FAKE_STUBBORN="1")
    wait_until(lambda: len(workers_of(job)) == 2 and job.log())
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert any("Ctrl-C again" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)  # the drain alone would wait for a minute
    assert process.returncode == 130, err
    assert "To go on" in out
    assert workers_of(job) == {}


def test_a_killed_runner_leaves_no_process_and_the_run_goes_on(
    job: Job, expected: tuple[list[str], str]
) -> None:
    process = job.start(FAKE_ITEM_SECONDS="0.05")
    wait_until(lambda: len(job.log()) >= 2)
    server = redis_of(process.pid)
    process.kill()
    process.communicate()
    wait_until(lambda: workers_of(job) == {} and not is_redis(server))
    status = job.status()["status"]
    assert status["phase"] == "Suspended"
    assert "Killed" in {condition["reason"] for condition in status["conditions"]}
    assert status["progress"]["generation"] == len(job.log())
    code, _, err = job.run()
    assert code == 0, err
    assert (job.log(), job.summary()["digest"]) == expected


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


def test_a_redis_of_ones_own_that_loses_everything_is_filled_again(
    job: Job, expected: tuple[list[str], str]
) -> None:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        process = job.start(FAKE_ITEM_SECONDS="0.05", ESFT_REDIS_URL=server.url)
        wait_until(lambda: len(job.log()) >= 3)
        client.flushall()
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert (job.log(), job.summary()["digest"]) == expected


def test_a_redis_of_ones_own_that_kept_the_run_is_joined(job: Job, expected: tuple[list[str], str]) -> None:
    with EmbeddedRedis() as server:
        process = job.start(FAKE_ITEM_SECONDS="0.05", ESFT_REDIS_URL=server.url)
        wait_until(lambda: len(job.log()) >= 2)
        process.kill()
        process.communicate()
        wait_until(lambda: workers_of(job) == {})
        client = connect(server.url, patience_seconds=5)
        queue = RunQueue(client, job.uid())
        in_redis = [entry.record for entry in queue.updates(0)]
        reported = queue.state().counters["reported"]
        code, _, err = job.run(ESFT_REDIS_URL=server.url)
        assert code == 0, err
        assert job.log()[: len(in_redis)] == in_redis
        assert queue.state().counters["reported"] >= reported  # not created anew
        client.close()
        assert (job.log(), job.summary()["digest"]) == expected


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
