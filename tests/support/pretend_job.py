"""A job for tests of `esft run` with real processes and a real Redis; only the model is a stand-in.

The worker below is a real process that speaks the real protocol: it claims, reports, closes generations,
writes checkpoints and drains. Its "weights" are a hash over the log, so that two runs have one digest exactly
when their logs are equal.
"""

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
