"""What the scenarios run in: a cluster of their own, the project's images, the chart, and digests to compare with.

One process brings it up and takes it down; all that the others need to know are the places below. Everything is under
runs/, and survives in part: the images' layers, so that only the first time takes minutes.

Rejected: the state folder of `make cluster`, which is the developer's and may hold anything.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import yaml

from kube_parts import wait_until

ROOT: Final = Path(__file__).parents[2]
STATE: Final = ROOT / "runs" / "e2e-cluster"
OUTPUT: Final = ROOT / "runs" / "e2e"
KUBECONFIG: Final = STATE / "kubeconfig"
HACK: Final = ROOT / "hack" / "cluster"
EXAMPLE: Final = ROOT / "examples" / "countdown-tiny.yaml"

SYSTEM: Final = "esfinetune-system"
REDIS_POD: Final = "esfinetune-redis-0"
OPERATOR: Final = "deployment/esfinetune-operator"
API_ADDRESS: Final = "10.243.0.1/32"
BASE_IMAGE: Final = "docker.io/library/python:3.11-slim-bookworm"
IMAGE: Final = "localhost/esfinetune/{}"
TAG: Final = "e2e"

# What torch loads only where there is a GPU (Dockerfile, LEAVE_OUT): 2.3 GB less to write and to load.
FOR_GPUS_ALONE: Final = (
    "triton*",
    "nvidia/cudnn/lib/libcudnn_*",
    "nvidia/cu13/lib/*cusolver*",
    "nvidia/cu13/lib/*nvperf*",
    "nvidia/nvshmem/lib/*.bc",
)

# The example in small, long enough to be disturbed several times.
SMALLER: Final = {
    "evolution.generations": 48,
    "evolution.population": 16,
    "evolution.promptsPerGeneration": 512,  # so that new pods are ready before the run is over
    "evaluation.everyGenerations": 8,
    "checkpoint.everyGenerations": 5,
    "workers.claimSize": 2,
}
REFERENCE_SECONDS: Final = 1200.0


class UnusableError(Exception):
    """The environment cannot be brought up; the message says why and what to do."""


def run(*command: str | Path, check: bool = True, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run a program with the cluster's settings; what it said is in the error when it failed."""
    environment = {**os.environ, "KUBECONFIG": str(KUBECONFIG), "CLUSTER_STATE": str(STATE)}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    if check and done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise UnusableError(f"{' '.join(map(str, command))} ended with exit code {done.returncode}:\n{said}")
    return done


def kubectl(*arguments: str | Path, check: bool = True) -> str:
    """What kubectl answers."""
    return run(_program("kubectl"), *arguments, check=check).stdout


def reference_digest(name: str) -> str:
    """The final digest of the undisturbed local run `name`, once it is there."""
    folder = OUTPUT / "reference" / name

    def summary() -> dict[str, Any] | None:
        if (folder / "failed").exists():
            raise AssertionError(f"the local run {name} failed: {(folder / 'failed').read_text()}")
        path = folder / "summary.json"
        return json.loads(path.read_text()) if path.exists() else None

    found = wait_until(summary, REFERENCE_SECONDS, f"the end of the local run {name} in {folder}")
    assert found["phase"] == "Succeeded", found
    return str(found["digest"])


def model_folder() -> Path:
    """The tiny model that the local runs made on this machine."""
    from esft_worker import tiny  # noqa: PLC0415 - imports torch, which takes seconds

    folder = f"tiny-countdown-{tiny.recipe_hash(tiny.RECIPES['countdown'])}"
    path = Path.home() / ".cache" / "esfinetune" / folder
    wait_until(path.is_dir, REFERENCE_SECONDS, f"{path}, which the local runs make")
    return path


class Environment:
    """Brought up once for all scenarios. `tell` is called with a sentence about each step."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._stop = threading.Event()
        self._references = threading.Thread(target=self._make_references, daemon=True)
        self._local: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        """Cluster, images and chart; the digests to compare with are made meanwhile, and still when this returns."""
        if os.geteuid() != 0:
            raise UnusableError(
                "make e2e needs root, since it starts a Kubernetes node; everything else runs without."
            )
        self._step("the cluster of the last time is down", self._clean)
        self._references.start()
        self._step("cluster", lambda: run(HACK / "up", timeout=1800))
        self._step("base image", self._base_image)
        for target in ("operator", "worker"):
            self._step(f"image of the {target}", lambda target=target: _build(target))
        self._step("image of Redis", _build_redis)
        self._step("chart", _install_chart)

    def down(self) -> None:
        """Stop all that `up` has started."""
        self._stop.set()
        if self._local is not None:
            self._local.terminate()
        if self._references.ident is not None:
            self._references.join(timeout=60)
        run(HACK / "down", check=False)

    def _step(self, what: str, do: Callable[[], object]) -> None:
        start = time.monotonic()
        do()
        self._tell(f"{what}: {time.monotonic() - start:.0f} s")

    def _clean(self) -> None:
        """An empty cluster whose node still has its images."""
        run(HACK / "down", check=False)
        if run("ip", "-oneline", "address", "show", "to", API_ADDRESS).stdout:
            raise UnusableError(
                "another cluster of hack/cluster is running on this machine, and there can be one only. "
                "Fix: make cluster-down"
            )
        for left in (STATE / "etcd", STATE / "node" / "volumes", OUTPUT):
            shutil.rmtree(left, ignore_errors=True)
        OUTPUT.mkdir(parents=True)

    def _base_image(self) -> None:
        if run("buildah", "inspect", "--type", "image", BASE_IMAGE, check=False).returncode:
            run(HACK / "image-base", BASE_IMAGE)

    def _make_references(self) -> None:
        for name, settings in (("smaller", SMALLER), ("example", {})):
            folder = OUTPUT / "reference" / name
            folder.parent.mkdir(exist_ok=True)
            if name == "example" and (given := os.environ.get("ESFT_E2E_EXAMPLE")):
                shutil.copytree(given, folder)  # the output of `make demo`, which ran that very file
                continue
            options = [f"--set={path}={value}" for path, value in settings.items()]
            command = [
                "nice",
                sys.executable,
                "-m",
                "esft_cli",
                "run",
                EXAMPLE,
                f"--output={folder}",
                "--workers=2",
            ]
            log_path = folder.with_suffix(".log")
            with log_path.open("wb") as log:
                self._local = subprocess.Popen([*command, *options], cwd=ROOT, stdout=log, stderr=log)
                code = self._local.wait()
            if self._stop.is_set():
                return
            if code:
                folder.mkdir(exist_ok=True)
                (folder / "failed").write_text(f"exit code {code}; {log_path}")
                return


def smaller(**changes: Any) -> dict[str, Any]:
    """The example with less to do and its model from the namespace's claim; `workers__replicas=2` changes a field."""
    resource: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    resource["metadata"]["name"] = "run"
    settings = {
        **SMALLER,
        "model.source": "pvc://tiny/model",
        "workers.minReplicas": 1,
        "workers.maxReplicas": 3,
        "workers.replicas": 2,
        **{path.replace("__", "."): value for path, value in changes.items()},
    }
    for path, value in settings.items():
        holder = resource["spec"]
        *parents, last = path.split(".")
        for parent in parents:
            holder = holder.setdefault(parent, {})
        holder[last] = value
    return resource


def save_logs(namespace: str, label: str) -> Path:
    """Write what there is to know of a namespace to runs/e2e/LABEL."""
    folder = OUTPUT / label
    folder.mkdir(parents=True, exist_ok=True)
    everything = "esft,jobs,pods,pvc,configmaps,statefulsets,deployments"
    (folder / "objects.yaml").write_text(kubectl("-n", namespace, "get", everything, "-o=yaml", check=False))
    events = kubectl("-n", namespace, "get", "events", "--sort-by=.lastTimestamp", check=False)
    (folder / "events.txt").write_text(events)
    for pod in kubectl("-n", namespace, "get", "pods", "-o=name", check=False).split():
        for option, suffix in (("--previous=false", ""), ("--previous", ".previous")):
            log = kubectl("-n", namespace, "logs", pod, option, check=False)
            if log:
                (folder / f"{pod.removeprefix('pod/')}{suffix}.log").write_text(log)
    return folder


def _program(name: str) -> str:
    if name == "helm":
        return run(ROOT / "hack" / "helm" / "binary", timeout=1800).stdout.strip()
    return f"{run(HACK / 'binaries', 'node', timeout=1800).stdout.strip()}/{name}"


def _build(target: str) -> None:
    leave_out = {"LEAVE_OUT": " ".join(FOR_GPUS_ALONE), "C_COMPILER": ""} if target == "worker" else {}
    options = [part for name, value in leave_out.items() for part in ("--build-arg", f"{name}={value}")]
    tag = f"{IMAGE.format(target)}:{TAG}"
    run(HACK / "image-build", tag, ROOT, "--target", target, *options, timeout=1800)


def _build_redis() -> None:
    context = OUTPUT / "redis-image"
    context.mkdir(exist_ok=True)
    dockerfile = Path(__file__).parent / "redis.Dockerfile"
    run(HACK / "image-build", f"{IMAGE.format('redis')}:{TAG}", context, "-f", dockerfile)


def _install_chart() -> None:
    images = []
    for image in ("operator", "worker", "redis"):
        place = f"images.{image}"
        images += ["--set", f"{place}.repository={IMAGE.format(image)},{place}.pullPolicy=Never"]
        images += ["--set-string", f"{place}.tag={TAG}"]
    place = ["--kubeconfig", KUBECONFIG, "--namespace", SYSTEM, "--create-namespace"]
    run(
        _program("helm"),
        "install",
        "esfinetune",
        "charts/esfinetune",
        *place,
        *images,
        "--wait",
        "--timeout",
        "3m",
    )
