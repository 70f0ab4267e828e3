"""The worker as a process: signals, standard input, exit codes, metrics."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from esft import document
from esft.queue import RunQueue, connect
from esft.spec import ESFineTuneSpec
from random_models import save_random_model
from simulated_worker import create_run

pytestmark = pytest.mark.integration

PROGRAM = ("-m", "esft_worker")


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A run that is far from over when it is stopped."""
    model = save_random_model(tmp_path / "model")
    spec = {
        "model": {"source": f"file://{model}", "dtype": "float32"},
        "task": {"name": "sample_tasks:ManyOnes", "train": {"size": 8}},
        "decoding": {"maxNewTokens": 8},
        "evolution": {"generations": 100_000, "population": 8, "sigma": 0.01},
        "monitoring": {"kl": None},
    }
    path = tmp_path / "job.yaml"
    head = {"apiVersion": "esfinetune.dev/v1alpha1", "kind": "ESFineTune", "metadata": {"name": "job"}}
    path.write_text(yaml.safe_dump({**head, "spec": spec}))
    return path


@pytest.fixture
def queue(redis_url: str, redis_client: Any) -> Iterator[RunQueue]:
    with connect(redis_url, patience_seconds=20) as client:
        yield RunQueue(client, "process")


@pytest.fixture
def start(job: Path, redis_url: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started = []

    def start(*options: str, url: str = redis_url, program: Sequence[str] = PROGRAM) -> subprocess.Popen[str]:
        command = [sys.executable, *program, "--spec", str(job), "--run", "process", "--name", "w"]
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1] / "support"),
            "ESFT_REDIS_URL": url,
        }
        process = subprocess.Popen(
            [*command, "--checkpoints", str(tmp_path / "checkpoints"), *options],
            env=environment,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def spec_of(job: Path) -> ESFineTuneSpec:
    return document.load(job).spec


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the worker made no progress"
        time.sleep(0.02)


def create(queue: RunQueue, job: Path) -> None:
    spec = spec_of(job)
    create_run(queue, spec)


def ends(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and log lines."""
    _, stderr = process.communicate(timeout=60)
    return process.returncode, [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("how", ["SIGTERM", "end of standard input"])
def test_a_worker_that_is_asked_to_stop_gives_its_leases_back_and_exits_143(
    start: Callable[..., subprocess.Popen[str]], queue: RunQueue, job: Path, how: str
) -> None:
    create(queue, job)
    process = start("--follow-stdin")
    wait_for(lambda: queue.state().counters["reported"] > 10, process)
    if how == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    elif process.stdin is not None:
        process.stdin.close()
        process.stdin = None
    code, log = ends(process)
    assert code == 143
    assert log[-1]["event"] == "drained"
    state = queue.state()
    assert (state.phase, state.outstanding, state.workers) == ("Running", 0, 0)


def test_a_worker_whose_runner_and_redis_are_gone_ends_by_itself(
    start: Callable[..., subprocess.Popen[str]], unused_port: int
) -> None:
    patient = "import esft_worker.__main__ as worker; worker.ORPHAN_SECONDS = 1.0; worker.main()"
    process = start("--follow-stdin", url=f"redis://127.0.0.1:{unused_port}", program=("-c", patient))
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    code, log = ends(process)
    assert code == 143
    assert log[-1]["event"] == "ended without having drained"


def test_ctrl_c_of_the_terminal_is_left_to_the_runner(
    start: Callable[..., subprocess.Popen[str]], queue: RunQueue, job: Path
) -> None:
    create(queue, job)
    process = start()
    wait_for(lambda: queue.state().counters["reported"] > 2, process)
    process.send_signal(signal.SIGINT)
    before = queue.state().counters["reported"]
    wait_for(lambda: queue.state().counters["reported"] > before + 10, process)
    process.terminate()
    assert ends(process)[0] == 143


def test_a_spec_that_cannot_work_fails_the_run_with_its_message(
    start: Callable[..., subprocess.Popen[str]], queue: RunQueue, job: Path
) -> None:
    create(queue, job)
    (job.parent / "model" / "config.json").unlink()
    code, log = ends(start())
    assert code == 64
    state = queue.state()
    assert (state.phase, state.reason) == ("Failed", "InvalidSpec")
    assert state.message.startswith("spec.model.source: ")
    assert log[-1] == log[-1] | {"level": "error", "event": state.message}


def test_a_finished_run_ends_the_worker_with_0(
    start: Callable[..., subprocess.Popen[str]], queue: RunQueue, job: Path
) -> None:
    create(queue, job)
    queue.finish(phase="Succeeded", reason="Done", message="Done.", ttl_seconds=60)
    assert ends(start())[0] == 0


@pytest.mark.parametrize(("url", "code"), [("", 64), ("http://:hunter2@host", 64)])
def test_a_bad_redis_url_is_one_line_without_the_password(
    start: Callable[..., subprocess.Popen[str]], url: str, code: int
) -> None:
    process = start(url=url)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert "hunter2" not in stderr
    assert "Traceback" not in stderr


def test_the_reason_of_a_failed_run_is_left_for_kubernetes(
    start: Callable[..., subprocess.Popen[str]], queue: RunQueue, job: Path, tmp_path: Path
) -> None:
    create(queue, job)
    (job.parent / "model" / "config.json").unlink()
    reason = tmp_path / "termination-log"
    assert ends(start("--termination-log", str(reason)))[0] == 64
    assert reason.read_text() == queue.state().message


def test_the_reason_of_a_failed_worker_is_left_for_kubernetes(
    start: Callable[..., subprocess.Popen[str]], start_redis: Callable[..., Any], tmp_path: Path
) -> None:
    server = start_redis("--requirepass", "right")
    reason = tmp_path / "termination-log"
    process = start("--termination-log", str(reason), url=f"unix://:hunter2@{server.socket}")
    assert ends(process)[0] == 70
    assert reason.read_text().startswith(
        f"Redis at unix://***@{server.socket} refused the user name or password"
    )
    server.stop()


def test_a_reason_that_cannot_be_left_changes_nothing(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    code, log = ends(start("--termination-log", str(tmp_path / "nowhere" / "file"), url=""))
    assert code == 64
    assert [line["level"] for line in log] == ["error", "warning"]


def test_a_worker_that_did_nothing_wrong_leaves_no_reason(
    start: Callable[..., subprocess.Popen[str]], queue: RunQueue, job: Path, tmp_path: Path
) -> None:
    create(queue, job)
    queue.finish(phase="Succeeded", reason="Done", message="Done.", ttl_seconds=60)
    reason = tmp_path / "termination-log"
    assert ends(start("--termination-log", str(reason)))[0] == 0
    assert not reason.exists()


def test_metrics_are_served(
    start: Callable[..., subprocess.Popen[str]], queue: RunQueue, job: Path, unused_port: int
) -> None:
    create(queue, job)
    process = start("--metrics-port", str(unused_port))
    wait_for(lambda: queue.state().opening.generation > 1, process)
    with urllib.request.urlopen(f"http://127.0.0.1:{unused_port}/metrics", timeout=10) as answer:
        values = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#")
    assert float(values["esft_worker_generation"]) >= 1
    assert float(values["esft_worker_members_total"]) >= 8
    assert float(values["esft_worker_tokens_total"]) > 0
    assert float(values['esft_worker_stage_seconds_total{stage="generate"}']) > 0
