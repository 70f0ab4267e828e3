"""What the operator costs, and how late it is, with many runs at once: `make bench-operator`.

A real API server with its controllers, a real Redis and the real operator, all on this machine; workers are simulated
with the real protocol (tests/simulated_worker.py), since what is measured is who watches them. Every run goes to its
end. The lag of a status is the time from a generation's commit in Redis to a watch of the resources showing it.
"""

import argparse
import base64
import contextlib
import heapq
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from kubernetes import client, config

from conftest import RedisProcess
from crd_parts import install_crd
from esft.document import parse
from esft.queue import connect
from kube_parts import find_programs, free_ports, own_control_plane, wait_until
from operator_parts import GROUP, PLURAL, RUNNING, VERSION, OperatorProcess, Runs, terminated
from rows import write
from simulated_worker import SimulatedWorker

NAMESPACE = "load"
LIMITS = {"lag_p99_seconds": 3, "operator_cores": 0.5, "operator_peak_megabytes": 300}


class Statuses:
    """Watches all resources, as kubectl would, in a process of its own: the load's own work must not make it late."""

    def __init__(self, kubeconfig: Path, file: Path) -> None:
        self.file = file
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=watch_all, args=(kubeconfig, file), daemon=True)
        self.process.start()

    def lines(self) -> list[tuple[str, str, int, float]]:
        """Name, phase, generation and time of everything that was seen, in order."""
        found = []
        for line in self.file.read_text().splitlines() if self.file.exists() else ():
            name, phase, generation, moment = line.split()
            found.append((name, phase, int(generation), float(moment)))
        return found

    def phases(self) -> dict[str, str]:
        """The latest phase of each run."""
        return {name: phase for name, phase, _, _ in self.lines()}

    def shown(self) -> dict[tuple[str, int], float]:
        """When each generation of each run first showed."""
        first: dict[tuple[str, int], float] = {}
        latest: dict[str, int] = defaultdict(int)
        for name, _, generation, moment in self.lines():
            for each in range(latest[name] + 1, generation + 1):
                first[name, each] = moment
            latest[name] = max(latest[name], generation)
        return first


def watch_all(kubeconfig: Path, file: Path) -> None:
    with config.new_client_from_config(str(kubeconfig)) as api, file.open("w", buffering=1) as out:
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/{PLURAL}?watch=true&timeoutSeconds=900"
        request = api.param_serialize("GET", path, header_params={}, auth_settings=["BearerToken"])
        answer = api.call_api(*request)
        for line in answer.response:
            now, body = time.time(), json.loads(line)["object"]
            status = body.get("status") or {}
            generation = (status.get("progress") or {}).get("generation", 0)
            out.write(f"{body['metadata']['name']} {status.get('phase', '-')} {generation} {now}\n")


class Process:
    """What a process uses, from /proc."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.started, self.cpu_before = time.monotonic(), self._cpu()

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def cores(self) -> float:
        """Processor seconds a second since this object was made."""
        return (self._cpu() - self.cpu_before) / (time.monotonic() - self.started)

    def peak_megabytes(self) -> float:
        """The most memory it ever had."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def drive(runs: Runs, names: list[str], *, seconds: float) -> dict[tuple[str, int], float]:
    """Be the workers of all runs until the last has ended; when each generation was committed."""
    committed: dict[tuple[str, int], float] = {}
    clients = {name: connected(runs, name) for name in names}
    start = time.monotonic()
    due = [(start + seconds * index / len(names), name) for index, name in enumerate(names)]
    heapq.heapify(due)
    while due:
        moment, name = heapq.heappop(due)
        time.sleep(max(0.0, moment - time.monotonic()))
        worker = clients[name]
        done = len(worker.log)
        goes_on = worker.generation()
        worker.follow()
        if len(worker.log) > done:
            committed[name, len(worker.log)] = time.time()
        if goes_on:
            heapq.heappush(due, (max(moment + seconds, time.monotonic()), name))
        else:
            worker.leave()
            for pod in runs.pods(name):
                runs.set_pod_status(pod, terminated(0))
    return committed


def connected(runs: Runs, name: str) -> SimulatedWorker:
    """A worker of a run, with what its pod would have been given."""
    uid = runs.get(name)["metadata"]["uid"]
    secret = runs.core.read_namespaced_secret(f"{name}-redis-{uid[:8]}", runs.namespace)
    redis = connect(base64.b64decode(secret.data["url"]).decode(), patience_seconds=30)
    text = runs.core.read_namespaced_config_map(f"{name}-spec", runs.namespace).data["esfinetune.yaml"]
    return SimulatedWorker(redis, uid, parse(text, source=name, folder=Path("/")).spec)


def be_the_node(runs: Runs, *, until: threading.Event) -> None:
    """Worker pods are ready as soon as they exist."""
    while not until.wait(0.5):
        for pod in runs.core.list_namespaced_pod(runs.namespace, field_selector="status.phase=Pending").items:
            with contextlib.suppress(client.ApiException):
                runs.set_pod_status(pod, RUNNING)


def measure(count: int, *, generations: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Run everything once."""
    redis = RedisProcess(folder, "--port", str(free_ports(1)[0]), "--appendonly", "yes")
    redis.url = f"redis://127.0.0.1:{redis._options[1]}/0"  # noqa: SLF001
    with contextlib.ExitStack() as stack:
        plane = stack.enter_context(own_control_plane(find_programs(), folder))
        api = stack.enter_context(plane.client())
        redis.start()
        stack.callback(redis.kill)
        install_crd(api)
        client.CoreV1Api(api).create_namespace({"metadata": {"name": NAMESPACE}})
        operator = OperatorProcess(
            folder, plane.kubeconfig, redis.url, ESFT_POLL_SECONDS="1", ESFT_RESYNC_SECONDS="60"
        )
        stack.callback(operator.kill)
        operator.start()
        runs = Runs(api, NAMESPACE)
        statuses = Statuses(plane.kubeconfig, folder / "statuses")
        stack.callback(statuses.process.kill)
        ended = threading.Event()
        node = threading.Thread(
            target=be_the_node,
            args=(Runs(stack.enter_context(plane.client()), NAMESPACE),),
            kwargs={"until": ended},
        )
        node.start()
        stack.callback(ended.set)
        names = [f"run-{index:03d}" for index in range(count)]
        started = time.monotonic()
        whole = Process(operator.pid)
        for name in names:
            runs.create(name, evolution__generations=generations, workers__maxReplicas=1)
        wait_until(
            lambda: sum(phase == "Running" for phase in statuses.phases().values()) == count,
            300,
            lambda: f"all running, but {statuses.phases()}",
        )
        starting = time.monotonic() - started
        steady = Process(operator.pid)
        committed = drive(runs, names, seconds=seconds)
        wait_until(
            lambda: all(phase == "Succeeded" for phase in statuses.phases().values()),
            60,
            lambda: {name: phase for name, phase in statuses.phases().items() if phase != "Succeeded"},
        )
        cores = steady.cores()
        shown = statuses.shown()
        lags = sorted(shown[key] - moment for key, moment in committed.items())
        errors = [line["event"] for line in operator.errors()]
        return {
            "runs": count,
            "generations": len(committed),
            "starting_seconds": round(starting, 1),
            "lag_median_seconds": round(statistics.median(lags), 2),
            "lag_p99_seconds": round(lags[int(0.99 * len(lags))], 2),
            "lag_max_seconds": round(lags[-1], 2),
            "operator_cores": round(cores, 2),
            "operator_cores_with_start": round(whole.cores(), 2),
            "operator_peak_megabytes": round(whole.peak_megabytes()),
            "operator_warnings": len(errors),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="The operator with many runs at once.")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--generations", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each generation")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="esft-") as folder:
        found = measure(
            options.runs, generations=options.generations, seconds=options.seconds, folder=Path(folder)
        )
        shutil.copy(Path(folder) / "operator.log", Path("runs") / "operator-load.log")
    for key, value in found.items():
        print(f"{key:28} {value}")
    write("operator_load", [{"name": f"{options.runs} runs at once", **found}])
    sys.exit(any(found[name] >= limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    main()
