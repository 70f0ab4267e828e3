"""A run in a namespace of its own, as the scenarios see and disturb it."""

import contextlib
import fcntl
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

from e2e.environment import OPERATOR, OUTPUT, REDIS_POD, SYSTEM, kubectl, model_folder, run
from kube_parts import wait_until
from operator_parts import Runs

RUN_SECONDS = 900.0
STEP_SECONDS = 300.0
TINY_CLAIM = "tiny"


class Run(Runs):
    """The ESFineTunes of a namespace; the methods added here are about the one that is called `run`."""

    def apply(self, resource: dict[str, Any]) -> None:
        """kubectl apply."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(resource, file)
            file.flush()
            self.kubectl("apply", "-f", file.name)

    def kubectl(self, *arguments: str | Path, check: bool = True) -> str:
        """Within the namespace."""
        return kubectl("-n", self.namespace, *arguments, check=check)

    def generation(self) -> int:
        """Updates that the status knows of."""
        return int((self.status().get("progress") or {}).get("generation") or 0)

    def wait_generation(self, generation: int, *, seconds: float = STEP_SECONDS) -> None:
        """Until so many updates are made; the run must not be over by then."""

        def reached() -> bool:
            assert self.status().get("phase") not in {"Succeeded", "Failed"}, self.status()
            return self.generation() >= generation

        wait_until(reached, seconds, lambda: f"generation {generation} in {self.status()}")

    def wait_end(self, name: str = "run", *, seconds: float = RUN_SECONDS) -> dict[str, Any]:
        """Until it has succeeded; its status."""

        def over() -> dict[str, Any] | None:
            status = self.status(name)
            assert status.get("phase") != "Failed", status
            return status if status.get("phase") == "Succeeded" else None

        return wait_until(over, seconds, lambda: f"the end of {name}: {json.dumps(self.status(name))}")

    def ready_pods(self) -> list[str]:
        """Names of pods that work."""
        return [
            pod.metadata.name
            for pod in self.pods()
            if pod.metadata.deletion_timestamp is None
            and any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions or ())
        ]

    def wait_ready_pods(self, count: int, *, seconds: float = STEP_SECONDS) -> list[str]:
        """Until so many pods work."""

        def there() -> tuple[list[str]] | None:
            found = self.ready_pods()
            return (found,) if len(found) == count else None

        return wait_until(there, seconds, lambda: f"{count} ready pods, not {self.ready_pods()}")[0]

    def exit_codes(self) -> set[int]:
        """Of the containers that have ended."""
        containers = (each for pod in self.pods() for each in pod.status.container_statuses or ())
        return {each.state.terminated.exit_code for each in containers if each.state.terminated}

    def delete_pod(self, name: str, *, kill: bool = False) -> None:
        """As an eviction would, or as a node that is lost."""
        how = ("--grace-period=0", "--force") if kill else ("--wait=false",)
        self.kubectl("delete", "pod", name, *how)


def with_tiny_model(runs: Run) -> None:
    """A claim in the namespace that holds the tiny model, as one with models that many share would."""
    core = client.CoreV1Api(runs.api)
    name = f"{TINY_CLAIM}-{runs.namespace}"
    shared = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    volume = {
        "capacity": {"storage": "1Gi"},
        "claimRef": {"namespace": runs.namespace, "name": TINY_CLAIM},
        "hostPath": {"path": str(_shared_model()), "type": "Directory"},
        "persistentVolumeReclaimPolicy": "Retain",
    }
    claim = {"resources": {"requests": {"storage": "1Gi"}}, "volumeName": name}
    core.create_persistent_volume({"metadata": {"name": name}, "spec": volume | shared})
    core.create_namespaced_persistent_volume_claim(
        runs.namespace, {"metadata": {"name": TINY_CLAIM}, "spec": claim | shared}
    )


def _shared_model() -> Path:
    """A folder with the model in `model`, for everyone to read."""
    volume = OUTPUT / "model-volume"
    with (OUTPUT / "model-volume.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not volume.is_dir():
            run("cp", "-rL", model_folder(), OUTPUT / "model-copy")
            run("chmod", "-R", "a+rX", OUTPUT / "model-copy")
            volume.mkdir()
            (OUTPUT / "model-copy").rename(volume / "model")
    return volume


@contextlib.contextmanager
def operator_at_rest(*, disturbing: bool = False) -> Iterator[None]:
    """Hold the operator and Redis for oneself to disturb, or with others to rely on."""
    with (OUTPUT / "operator.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if disturbing else fcntl.LOCK_SH)
        yield


def delete_operator_pod() -> None:
    """Without waiting for its end; returns when there is a new one that works."""
    with operator_at_rest(disturbing=True):
        with (OUTPUT / "operator-before.log").open("a") as file:
            file.write(kubectl("-n", SYSTEM, "logs", OPERATOR, check=False))
        kubectl("-n", SYSTEM, "delete", "pods", "-l=app.kubernetes.io/component=operator", "--wait=false")
        kubectl("-n", SYSTEM, "rollout", "status", OPERATOR, "--timeout=300s")


def delete_redis_pod() -> None:
    """Its volume stays; returns when there is a new one that works."""
    with operator_at_rest(disturbing=True):
        before = _redis_uid()
        kubectl("-n", SYSTEM, "delete", "pod", REDIS_POD, "--grace-period=0", "--force")
        wait_until(lambda: _redis_uid() not in {"", before}, STEP_SECONDS, "a new Redis pod")
        kubectl("-n", SYSTEM, "wait", "--for=condition=Ready", f"pod/{REDIS_POD}", "--timeout=300s")


def redis(*command: str) -> list[str]:
    """Lines that the chart's Redis answers; the password is in its pod."""
    return kubectl("-n", SYSTEM, "exec", REDIS_POD, "--", "redis-cli", *command).split("\n")


def _redis_uid() -> str:
    return kubectl("-n", SYSTEM, "get", "pod", REDIS_POD, "-o=jsonpath={.metadata.uid}", check=False)


def succeeds(*command: str | Path) -> bool:
    """Whether a program ends with 0."""
    try:
        return run(*command, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
