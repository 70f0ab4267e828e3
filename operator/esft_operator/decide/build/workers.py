"""The Job of workers, and what scrapes them.

One Job without `completions`: any number of pods may come and go, and the first worker that ends with 0 says that the
run is over. Rejected: a Deployment, whose pods never end, and an indexed Job, since workers have no ranks.

A policy for failed pods needs pods that never restart, and the API then replaces a pod only once it is gone; a worker
that takes its whole grace period to drain is missed for that long.

Source: kubernetes.io/docs/concepts/workloads/controllers/job, "Pod failure policy".
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Final

from esft.errors import EXIT_DRAINED, EXIT_SPEC
from esft.spec import fingerprint
from esft_operator.decide.build.child import child
from esft_operator.decide.build.pods import pod_template
from esft_operator.kinds import JOBS, POD_MONITORS
from esft_operator.names import (
    INSTANCE_LABEL,
    KUEUE_PREFIX,
    METRICS_PORT_NAME,
    RUN_UID_LABEL,
    TEMPLATE_HASH_ANNOTATION,
    WORKER_CONTAINER,
    workers_name,
)
from esft_operator.resource import Manifest, Run
from esft_operator.settings import WorkerDefaults

# Workers die often and at no cost; what is a failure is decided by the operator, which knows whether the run gets on.
_NO_BACKOFF_LIMIT: Final = 2**31 - 1


def job(run: Run, defaults: WorkerDefaults, *, parallelism: int) -> Manifest:
    """The Job of workers, which keeps `parallelism` pods.

    Raises:
        SpecError: no pod can do what the specification says.
    """
    manifest = child(run, JOBS, workers_name(run.name))
    spec = _job_spec(run, defaults)
    metadata = manifest["metadata"]
    metadata["labels"] |= _of_kueue(run.labels)
    metadata["annotations"] = _of_kueue(run.annotations) | {TEMPLATE_HASH_ANNOTATION: _hash(run, spec)}
    return manifest | {"spec": {"parallelism": parallelism} | spec}


def template_hash(run: Run, defaults: WorkerDefaults) -> str:
    """Sixteen hex digits over all that a Job cannot change and its workers hold to: another one needs another Job.

    What may change while the run goes on is not in it: workers are told through Redis.

    Raises:
        SpecError: no pod can do what the specification says.
    """
    return _hash(run, _job_spec(run, defaults))


def pod_monitor(run: Run) -> Manifest:
    """The PodMonitor of the workers' metrics, for the Prometheus operator."""
    return child(run, POD_MONITORS, workers_name(run.name), component="monitoring") | {
        "spec": {
            "selector": {"matchLabels": {INSTANCE_LABEL: run.name, RUN_UID_LABEL: run.uid}},
            "podTargetLabels": [INSTANCE_LABEL],
            "podMetricsEndpoints": [{"port": METRICS_PORT_NAME}],
        }
    }


def _job_spec(run: Run, defaults: WorkerDefaults) -> Manifest:
    """All but the parallelism. Of the rules, the first that matches a pod decides."""
    return {
        "backoffLimit": _NO_BACKOFF_LIMIT,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                _on_exit_code(EXIT_SPEC, "FailJob"),
                _on_exit_code(EXIT_DRAINED, "Ignore"),
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": pod_template(run, defaults),
    }


def _on_exit_code(code: int, action: str) -> Manifest:
    codes = {"containerName": WORKER_CONTAINER, "operator": "In", "values": [code]}
    return {"action": action, "onExitCodes": codes}


def _hash(run: Run, job_spec: Manifest) -> str:
    held = [fingerprint(run.spec), run.spec.workers.master_weights, job_spec]
    canonical = json.dumps(held, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _of_kueue(metadata: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in metadata.items() if name.startswith(KUEUE_PREFIX)}
