"""What tests of the operator share: the real process, resources, and the node that this cluster does not have."""

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from kubernetes import client
from kubernetes.client.exceptions import ApiException

from kube_parts import wait_until

GROUP, VERSION, PLURAL = "esfinetune.dev", "v1alpha1", "esfinetunes"
CREDENTIALS_KEY = "a key for tests"
SECONDS = 20.0


def spec(**changes: Any) -> dict[str, Any]:
    """A small run; `evolution__generations=5` changes a field."""
    made: dict[str, Any] = {
        "model": {"source": "tiny://countdown", "dtype": "float32"},
        "task": {"name": "countdown", "train": {"size": 8, "seed": 0}, "test": {"size": 8, "seed": 1}},
        "evolution": {"generations": 3, "population": 4},
        "evaluation": {"everyGenerations": 1},
        "checkpoint": {"everyGenerations": 2},
        "workers": {"minReplicas": 1, "maxReplicas": 2},
    }
    for path, value in changes.items():
        holder = made
        *parents, last = path.split("__")
        for parent in parents:
            holder = holder.setdefault(parent, {})
        holder[last] = value
    return made


class Runs:
    """ESFineTunes of one namespace, and what belongs to them."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self.custom = client.CustomObjectsApi(api)
        self.core = client.CoreV1Api(api)
        self.batch = client.BatchV1Api(api)
        self.api = api

    def create(self, name: str = "run", *, metadata: Mapping[str, Any] | None = None, **changes: Any) -> Any:
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "ESFineTune",
            "metadata": {"name": name, **(metadata or {})},
            "spec": spec(**changes),
        }
        return self.custom.create_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, body)

    def get(self, name: str = "run") -> Any:
        return self.custom.get_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, name)

    def find(self, name: str = "run") -> Any:
        try:
            return self.get(name)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def patch(self, name: str = "run", **changes: Any) -> Any:
        """Merge patch of the spec; `workers__replicas=2` changes a field."""
        patch: dict[str, Any] = {}
        for path, value in changes.items():
            holder = patch
            *parents, last = path.split("__")
            for parent in parents:
                holder = holder.setdefault(parent, {})
            holder[last] = value
        return self.custom.patch_namespaced_custom_object(
            GROUP, VERSION, self.namespace, PLURAL, name, {"spec": patch}
        )

    def delete(self, name: str = "run") -> None:
        self.custom.delete_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, name)

    def status(self, name: str = "run") -> dict[str, Any]:
        found = self.find(name)
        return {} if found is None else found.get("status") or {}

    def condition(self, kind: str, name: str = "run") -> dict[str, Any]:
        conditions = self.status(name).get("conditions") or ()
        return next((each for each in conditions if each["type"] == kind), {})

    def wait_for(self, name: str = "run", *, seconds: float = SECONDS, **wanted: Any) -> dict[str, Any]:
        """Until the status has these values; `workers__desired=2` looks inside."""

        def reached() -> dict[str, Any] | None:
            status = self.status(name)
            return status if all(_inside(status, path) == value for path, value in wanted.items()) else None

        return wait_until(reached, seconds, lambda: f"{wanted} in {json.dumps(self.status(name))}")

    def wait_condition(
        self, kind: str, name: str = "run", *, seconds: float = SECONDS, **wanted: str
    ) -> dict[str, Any]:
        """Until a condition has these values, as `status="False", reason="Unschedulable"`."""

        def reached() -> dict[str, Any] | None:
            found = self.condition(kind, name)
            return found if found and all(found.get(key) == value for key, value in wanted.items()) else None

        return wait_until(reached, seconds, lambda: f"{kind} {wanted} in {self.status(name)}")

    def wait_gone(self, name: str = "run", *, seconds: float = SECONDS) -> None:
        wait_until(lambda: self.find(name) is None, seconds, lambda: f"{name} gone, but {self.find(name)}")

    def job(self, name: str = "run") -> Any:
        """The run's Job; None when there is none."""
        return _or_none(lambda: self.batch.read_namespaced_job(f"{name}-workers", self.namespace))

    def wait_job(self, name: str = "run", *, parallelism: int | None = None, seconds: float = SECONDS) -> Any:
        def there() -> Any:
            found = self.job(name)
            if found is None or found.metadata.deletion_timestamp is not None:
                return None
            return found if parallelism in {None, found.spec.parallelism} else None

        return wait_until(
            there, seconds, lambda: f"Job of {name} (parallelism {parallelism}): {self.status(name)}"
        )

    def pods(self, name: str = "run") -> list[Any]:
        selector = f"app.kubernetes.io/instance={name}"
        return list(self.core.list_namespaced_pod(self.namespace, label_selector=selector).items)

    def wait_pods(self, count: int, name: str = "run", *, seconds: float = SECONDS) -> list[Any]:
        def there() -> tuple[list[Any]] | None:
            found = self.pods(name)
            return (found,) if len(found) == count else None

        (found,) = wait_until(
            there,
            seconds,
            lambda: f"{count} pods of {name}, got {[pod.metadata.name for pod in self.pods(name)]}",
        )
        return found

    def set_pod_status(self, pod: Any, status: Mapping[str, Any]) -> None:
        """Be the kubelet."""
        self.core.patch_namespaced_pod_status(pod.metadata.name, self.namespace, {"status": dict(status)})

    def events(self, name: str = "run") -> list[str]:
        """Reasons of the Events about a run, oldest first."""
        found = self.core.list_namespaced_event(self.namespace, field_selector=f"involvedObject.name={name}")
        ours = [each for each in found.items if each.involved_object.kind == "ESFineTune"]
        return [each.reason for each in sorted(ours, key=lambda each: int(each.metadata.resource_version))]

    def children(self, name: str = "run") -> str | None:
        """Every child as text in which no name and no uid of the run stands; None until all are there."""
        found = self.find(name)
        try:
            made = self._children(name)
        except ApiException as error:
            if error.status == 404:
                return None
            raise
        if found is None or not made["secrets"] or "finalizers" not in found["metadata"]:
            return None
        text, uid = json.dumps(made, sort_keys=True), found["metadata"]["uid"]
        return text.replace(uid, "UID").replace(uid[:8], "UID8").replace(name, "NAME")

    def wait_children(self, name: str = "run", wanted: str | None = None, *, seconds: float = 40) -> str:
        """Until all children are there, and are those that are wanted."""

        def there() -> str | None:
            found = self.children(name)
            return found if wanted in {None, found} else None

        return wait_until(there, seconds, lambda: f"children of {name}: {self.children(name)}, not {wanted}")

    def _children(self, name: str) -> dict[str, Any]:
        job = self.api.sanitize_for_serialization(
            self.batch.read_namespaced_job(f"{name}-workers", self.namespace)
        )
        pod = job["spec"]["template"]
        for labels in (job["spec"]["selector"]["matchLabels"], pod["metadata"]["labels"]):
            for label in ("batch.kubernetes.io/controller-uid", "controller-uid"):
                labels.pop(label, None)
        config_map = self.core.read_namespaced_config_map(f"{name}-spec", self.namespace)
        claim = self.core.read_namespaced_persistent_volume_claim(f"{name}-checkpoints", self.namespace)
        secrets = self.core.list_namespaced_secret(
            self.namespace, label_selector=f"app.kubernetes.io/instance={name}"
        )
        return {
            "job": job["spec"],
            "config": config_map.data,
            "claim": self.api.sanitize_for_serialization(claim.spec),
            "secrets": sorted(each.metadata.name for each in secrets.items),
        }


RUNNING = {
    "phase": "Running",
    "conditions": [
        {"type": "PodScheduled", "status": "True"},
        {"type": "Ready", "status": "True"},
    ],
}


def terminated(exit_code: int, message: str = "") -> dict[str, Any]:
    """The status of a pod whose worker has ended."""
    state = {"exitCode": exit_code, "reason": "Error" if exit_code else "Completed", "message": message}
    return {
        "phase": "Failed" if exit_code else "Succeeded",
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [
            {
                "name": "worker",
                "ready": False,
                "restartCount": 0,
                "image": "worker",
                "imageID": "",
                "state": {"terminated": state},
            }
        ],
    }


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    """The status of a pod whose worker does not start."""
    return {
        "phase": "Pending",
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [
            {
                "name": "worker",
                "ready": False,
                "restartCount": 0,
                "image": "worker",
                "imageID": "",
                "state": {"waiting": {"reason": reason, "message": message}},
            }
        ],
    }


class Node(threading.Thread):
    """Stands in for the kubelet that this cluster has not: worker pods are ready as soon as they exist."""

    def __init__(self, runs: Runs) -> None:
        super().__init__(daemon=True)
        self.runs = runs
        self.stopped = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.join()

    def run(self) -> None:
        while not self.stopped.wait(0.1):
            found = self.runs.core.list_namespaced_pod(
                self.runs.namespace, label_selector="app.kubernetes.io/component=worker"
            )
            for pod in found.items:
                if pod.status.phase == "Pending":
                    _or_none(lambda pod=pod: self.runs.set_pod_status(pod, RUNNING))


class OperatorProcess:
    """The operator as it runs in its pod: a process of its own, with a kubeconfig and a Redis."""

    def __init__(self, folder: Path, kubeconfig: Path, redis_url: str, **environment: str) -> None:
        self.log = folder / "operator.log"
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ESFT_")},
            "KUBECONFIG": str(kubeconfig),
            "ESFT_REDIS_URL": redis_url,
            "ESFT_CREDENTIALS_KEY": CREDENTIALS_KEY,
            "ESFT_METRICS_PORT": "0",
            "ESFT_HEALTH_PORT": "0",
            "ESFT_POLL_SECONDS": "0.2",
            "ESFT_RESYNC_SECONDS": "5",
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self._is_wanted = False
        self.restarts = 0

    def restart_when_it_ends(self) -> None:
        """Do as the kubelet does with a container that ends."""
        self._is_wanted = True
        threading.Thread(target=self._restart, daemon=True).start()

    def _restart(self) -> None:
        while self._is_wanted and self.process is not None:
            self.process.wait()
            if self._is_wanted:
                self.restarts += 1
                self.start()

    def start(self) -> Self:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "esft_operator"], env=self._environment, stdout=log, stderr=log
            )
        return self

    def stop(self) -> int:
        """SIGTERM, as the kubelet sends it."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        return self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> int:
        self._is_wanted = False
        if self.process is None:
            return 0
        self.process.send_signal(how)
        code = self.process.wait(timeout=30)
        self.process = None
        return code

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def signal_kill(self) -> None:
        """Kill it and do not wait, as from another thread."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged."""
        found = []
        for line in self.log.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                found.append({"level": "text", "event": line})
        return found

    def actions(self, name: str) -> list[str]:
        """What it has done of one kind, as `DeleteJob`."""
        return [line["event"] for line in self.lines() if line["event"].startswith(name)]

    def errors(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["level"] not in {"info", "debug"}]


def scrape(port: int) -> dict[str, float]:
    """A /metrics page as numbers by series."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


def _inside(value: Any, path: str) -> Any:
    for part in path.split("__"):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _or_none(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except ApiException as error:
        if error.status == 404:
            return None
        raise
