"""`esft status` and `esft logs` as a process of its own, against a real API server, operator and Redis."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from fault_proxy import Answer, FaultProxy
from kube_parts import ControlPlane, wait_until
from kubelet_logs import KubeletLogs
from operator_parts import RUNNING, Node, OperatorProcess, Runs, terminated, waiting
from simulated_worker import SimulatedWorker

Workers = Callable[..., SimulatedWorker]
SECONDS = 30


class Esft:
    """Calls `esft` as a user of the kubeconfig."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "COLUMNS": "160", "TERM": "dumb"}
        self.namespace = namespace

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "esft_cli", *arguments, "--namespace", self.namespace]

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator["Running"]:
        with subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield Running(process)
            finally:
                process.kill()


class Running:
    """An `esft` that goes on, and the lines it has written so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=each, daemon=True)
            for each in ((process.stdout, self.lines), (process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    def wait_line(self, *parts: str) -> None:
        wait_until(
            lambda: any(all(part in line for part in parts) for line in self.lines + self.errors),
            SECONDS,
            lambda: f"{parts} in {self.lines}, {self.errors}",
        )

    def end(self) -> int:
        code = self.process.wait(timeout=SECONDS)
        for reader in self._readers:
            reader.join(timeout=SECONDS)
        return code

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        lines.extend(line.rstrip("\n") for line in stream)  # as they come


@pytest.fixture
def esft(control_plane: ControlPlane, namespace: str) -> Esft:
    return Esft(control_plane.kubeconfig, namespace)


@pytest.fixture
def kubelet(api: client.ApiClient, tmp_path: Path) -> Iterator[KubeletLogs]:
    with KubeletLogs(api, tmp_path) as running:
        yield running


def test_status_of_a_run_that_goes_on_and_ends(
    operator: OperatorProcess, runs: Runs, node: Node, worker_of: Workers, esft: Esft
) -> None:
    runs.create()
    runs.wait_for(phase="Running", workers__ready=2)
    worker = worker_of()
    worker.generation()
    runs.wait_for(progress__generation=1)
    wait_until(lambda: "Started" in runs.events(), 5, runs.events)
    shown = esft("status", "run")
    assert shown.returncode == 0, shown.stderr
    for part in (
        f"run  (namespace {runs.namespace})",
        "phase       Running: Members are being evaluated.",
        "generation  1/3   33.3%",
        "fitness     mean 0.",
        "score       base 0.",
        "workers     2/2 ready",
        "Started",
        "The first worker is ready.",
    ):
        assert part in shown.stdout
    assert shown.stdout.count(" ready ") >= 2
    made = json.loads(esft("status", "run", "-o", "json").stdout)
    assert made["status"]["progress"]["generation"] == 1
    assert [worker["ready"] for worker in made["workers"]] == [True, True]
    with (
        esft.running("status", "run", "--watch") as watched,
        esft.running("status", "run", "--watch", "-o", "json") as as_json,
    ):
        watched.wait_line("run: Running, generation 1/3 (33.3%)")
        as_json.wait_line('"summary":"1/3"')
        worker.generation()
        watched.wait_line("generation 2/3 (66.7%)")
        worker.finish()
        assert watched.end() == 0
        assert as_json.end() == 0
    assert "Succeeded (GenerationsDone), generation 3/3 (100.0%)" in "".join(watched.lines)
    assert len(watched.lines) == len(set(watched.lines))
    documents = [json.loads(line) for line in as_json.lines]
    assert documents[-1]["status"]["phase"] == "Succeeded"
    assert all(one != other for one, other in itertools.pairwise(documents))
    assert watched.errors == as_json.errors == []
    ended = esft("status", "run")
    assert f"digest      {runs.status()['digest']}" in ended.stdout


def test_watching_a_run_that_fails(operator: OperatorProcess, runs: Runs, esft: Esft) -> None:
    runs.create("late", pendingDeadlineSeconds=2)
    with esft.running("status", "late", "-w") as watched:
        assert watched.end() == 70
    assert "Failed (PendingDeadlineExceeded)" in "".join(watched.lines)
    runs.create("wrong")
    (pod, *_) = runs.wait_pods(2, "wrong")
    runs.set_pod_status(pod, terminated(64, "task.options: no such option"))
    runs.wait_for("wrong", phase="Failed")
    with esft.running("status", "wrong", "--watch") as watched:
        assert watched.end() == 64
    assert "Failed (InvalidSpec)" in "".join(watched.lines)


def test_what_keeps_workers_from_starting_is_shown(operator: OperatorProcess, runs: Runs, esft: Esft) -> None:
    runs.create()
    (pod, _) = runs.wait_pods(2)
    runs.set_pod_status(pod, waiting("ImagePullBackOff", "no such image"))
    runs.wait_condition("WorkersReady", reason="ImagePullFailed")
    wait_until(lambda: "ImagePullFailed" in runs.events(), 5, runs.events)
    shown = esft("status", "run").stdout
    assert f"attention   WorkersReady: Pod {pod.metadata.name}: worker: ImagePullBackOff worker" in shown
    assert f"{pod.metadata.name}  starting  -" in shown
    assert "ImagePullFailed: worker: ImagePullBackOff worker no such image" in shown


def test_watching_ends_with_the_run(operator: OperatorProcess, runs: Runs, esft: Esft) -> None:
    runs.create()
    runs.wait_for(phase="Pending")
    with esft.running("status", "run", "--watch") as watched:
        watched.wait_line("run: Pending")
        runs.delete()
        assert watched.end() == 70
    assert watched.errors == [f"error: {runs.namespace}/run was deleted while it was Pending"]


@pytest.mark.parametrize("arguments", [("status", "run", "--watch"), ("logs", "run", "-f")])
def test_ctrl_c(runs: Runs, esft: Esft, arguments: tuple[str, ...]) -> None:
    runs.create()
    with esft.running(*arguments) as running:
        running.wait_line("Unseen")
        running.process.send_signal(signal.SIGINT)
        assert running.end() == 130
    assert "Traceback" not in "".join(running.errors)


def test_a_cluster_that_goes_away_for_a_while_is_waited_for(
    control_plane: ControlPlane, runs: Runs, namespace: str, tmp_path: Path
) -> None:
    runs.create()
    with FaultProxy(control_plane, tmp_path) as proxy:
        esft = Esft(proxy.kubeconfig, namespace)
        with esft.running("status", "run", "--watch") as watched:
            watched.wait_line("run: Unseen")
            proxy.fault = lambda _request: Answer(reset=True)
            watched.wait_line("note: the cluster", "does not answer")
            proxy.fault = lambda _request: None
            runs.custom.patch_namespaced_custom_object_status(
                "esfinetune.dev",
                "v1alpha1",
                namespace,
                "esfinetunes",
                "run",
                {"status": {"phase": "Succeeded"}},
            )
            assert watched.end() == 0


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (404, "does not know the kind ESFineTune. Fix: install the operator"),
        (401, "does not know you. Fix: log in again"),
    ],
)
def test_a_cluster_that_knows_no_such_kind_or_person(
    control_plane: ControlPlane, runs: Runs, tmp_path: Path, status: int, wanted: str
) -> None:
    runs.create()
    with FaultProxy(control_plane, tmp_path) as proxy:
        proxy.fault = lambda request: Answer(status) if "esfinetune.dev" in request.path else None
        refused = Esft(proxy.kubeconfig, runs.namespace)("status", "run", "--watch")
    assert refused.returncode == 70
    assert wanted in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_errors_are_one_line_and_say_what_to_do(
    runs: Runs, esft: Esft, kubeconfig_of: Callable[[str], Path], tmp_path: Path
) -> None:
    runs.create("countdown-qwen")
    stranger = Esft(kubeconfig_of("default"), runs.namespace)
    nowhere = Esft(tmp_path / "none", runs.namespace)
    dead = tmp_path / "dead"
    dead.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    for call, arguments, wanted in [
        (esft, ("countdown-qwn",), "Fix: is it countdown-qwen?"),
        (esft, ("another",), f"no ESFineTune another in namespace {runs.namespace}. Fix: name one of countdown-qwen"),
        (stranger, ("countdown-qwen",), f"you may not read ESFineTunes in namespace {runs.namespace}"),
        (nowhere, ("countdown-qwen",), "there is no Kubernetes cluster to ask"),
        (Esft(dead, "n"), ("countdown-qwen",), "the cluster http://127.0.0.1:1 does not answer"),
        (esft, ("countdown-qwen", "--context", "other"), "--context: there is no context 'other'"),
    ]:  # fmt: skip
        for command in ("status", "logs"):
            done = call(command, *arguments)
            assert done.returncode == 70
            assert wanted in done.stderr
            assert done.stderr.startswith("error: ")
            assert done.stderr.count("\n") == 1, done.stderr
            assert done.stdout == ""


def test_the_rights_of_view_are_enough(
    operator: OperatorProcess,
    api: client.ApiClient,
    runs: Runs,
    node: Node,
    kubeconfig_of: Callable[[str], Path],
) -> None:
    runs.create()
    runs.wait_for(phase="Running", workers__ready=2)
    esft = Esft(kubeconfig_of("default"), runs.namespace)
    may_read(api, runs.namespace, "only-the-run", "esfinetune.dev", "esfinetunes")
    shown = wait_until(lambda: succeeded(esft("status", "run")), 10, "the right to read the run")
    assert "workers     2/2 ready" in shown.stdout
    assert "note: You may not list pods" in shown.stdout
    assert "note: You may not list events" in shown.stdout
    refused = esft("logs", "run")
    assert refused.stderr.startswith("error: you may not list pods")
    may_read(api, runs.namespace, "the-rest", "", "pods", "events")
    shown = wait_until(lambda: without_notes(esft("status", "run")), 10, "the right to read the rest")
    assert "WORKER" in shown.stdout
    refused = esft("logs", "run", "-f")
    assert refused.stderr.startswith("error: you may not read logs of pods")


def test_logs_of_all_workers(
    operator: OperatorProcess, runs: Runs, esft: Esft, kubelet: KubeletLogs, worker_of: Workers
) -> None:
    runs.create()
    one, two = runs.wait_pods(2)
    names = [pod.metadata.name for pod in (one, two)]
    short = [name.removeprefix("run-workers-") for name in names]
    silent = esft("logs", "run")
    assert silent.stdout == ""
    assert f"note: {names[0]} has not started" in silent.stderr
    with esft.running("logs", "run", "--follow") as followed:
        followed.wait_line("note: run is Pending and no worker has started")
        for pod in (one, two):
            kubelet.bind(pod)
            runs.set_pod_status(pod, RUNNING)
            kubelet.write(pod.metadata.name, json.dumps({"level": "info", "event": "ready", "device": "cpu"}))
        for name in short:
            followed.wait_line(f"Z {name} info ready device=cpu")
        kubelet.cut_after = 1
        for number in range(5):
            kubelet.write(names[0], json.dumps({"level": "info", "event": "updated", "generation": number}))
        kubelet.write(names[1], "Segmentation fault")
        followed.wait_line(f"{short[0]} info updated generation=4")
        followed.wait_line(f"{short[1]} Segmentation fault")
        runs.wait_for(phase="Running")
        worker_of().finish()
        kubelet.write(names[0], json.dumps({"level": "info", "event": "stopped"}))
        for pod in (one, two):
            kubelet.end(pod.metadata.name)
            runs.set_pod_status(pod, terminated(0))
        assert followed.end() == 0
    assert followed.errors[-1].startswith("note: run is over: Succeeded")
    assert len(followed.lines) == len(set(followed.lines)) == 9  # nothing twice, nothing lost
    at_once = esft("logs", "run")
    assert at_once.stderr == ""
    assert sorted(at_once.stdout.splitlines()) == sorted(followed.lines)
    of_one = esft("logs", "run", "--worker", short[1], "--raw").stdout.splitlines()
    assert of_one == [json.dumps({"level": "info", "event": "ready", "device": "cpu"}), "Segmentation fault"]
    assert names[0] in esft("logs", "run", "--worker", "nobody").stderr


def may_read(api: client.ApiClient, namespace: str, name: str, group: str, *resources: str) -> None:
    access = client.RbacAuthorizationV1Api(api)
    rules = [{"apiGroups": [group], "resources": list(resources), "verbs": ["get", "list"]}]
    access.create_namespaced_role(namespace, {"metadata": {"name": name}, "rules": rules})
    access.create_namespaced_role_binding(
        namespace,
        {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
        },
    )


def succeeded(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str] | None:
    return done if done.returncode == 0 else None


def without_notes(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str] | None:
    return done if "note:" not in done.stdout else None
