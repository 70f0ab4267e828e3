"""The pods that do the work: what each gets mounted, told and allowed.

One image, one container, one pod for each start of a worker. Pods pass the Pod Security level `restricted`: no root, no
privileges, a read-only root file system, no token of the API server. A worker needs none of these.

No resources are set, since how many GPUs a model needs is known to whoever wrote the run: they come from
`spec.workers.template`, which is laid over all this.

Limits: s3:// is refused, as the worker cannot read or write it yet.
"""

import re
from typing import Any, Final

from esft.errors import SpecError
from esft.layout import CLAIMS_FOLDER
from esft_operator.decide.build.child import COMPONENT_LABEL, WORKER_COMPONENT
from esft_operator.decide.build.specification import SPEC_FILE
from esft_operator.decide.build.storage import RUN_FOLDER, checkpoint_folder
from esft_operator.decide.template import TemplateError, is_within, merge
from esft_operator.names import (
    METRICS_PORT_NAME,
    WORKER_CONTAINER,
    child_labels,
    config_map_name,
    redis_secret_name,
    volume_claim_name,
)
from esft_operator.resource import Manifest, Run
from esft_operator.settings import WorkerDefaults

SPEC_FOLDER: Final = "/etc/esft"
METRICS_PORT: Final = 9090

_CACHE_FOLDER: Final = f"{RUN_FOLDER}/cache"
_TEMPORARY_FOLDER: Final = "/tmp"  # noqa: S108 - the pod's own
_TERMINATION_LOG: Final = "/dev/termination-log"
_USER: Final = 65532  # "nonroot" of common base images
_CLAIM_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def pod_template(run: Run, defaults: WorkerDefaults) -> Manifest:
    """The PodTemplateSpec of a run's workers, with `spec.workers.template` laid over it.

    Raises:
        SpecError: no pod can do what the specification says; the message has field and fix.
    """
    template = merge(_base(run, defaults), run.spec.workers.template)
    _check_checkpoint_folder(run, template)
    return template


def _base(run: Run, defaults: WorkerDefaults) -> Manifest:
    return {
        "metadata": {
            "labels": child_labels(run.name, run.uid) | {COMPONENT_LABEL: WORKER_COMPONENT},
            "annotations": {"kubectl.kubernetes.io/default-container": WORKER_CONTAINER},
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": defaults.termination_grace_seconds,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER,
                "runAsGroup": _USER,
                "fsGroup": _USER,
                "fsGroupChangePolicy": "OnRootMismatch",  # a volume of checkpoints is not walked at each start
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [_worker(run, defaults)],
            "volumes": _volumes(run),
        },
    }


def _worker(run: Run, defaults: WorkerDefaults) -> Manifest:
    credentials = run.spec.model.credentials_secret_ref
    container: Manifest = {
        "name": WORKER_CONTAINER,
        "image": defaults.image,
        "args": _arguments(run),
        "env": _environment(run),
        "ports": [{"name": METRICS_PORT_NAME, "containerPort": METRICS_PORT, "protocol": "TCP"}],
        "readinessProbe": {"tcpSocket": {"port": METRICS_PORT_NAME}, "periodSeconds": 5},
        "volumeMounts": _mounts(run),
        "terminationMessagePath": _TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    if defaults.image_pull_policy is not None:
        container["imagePullPolicy"] = defaults.image_pull_policy
    if credentials is not None:
        container["envFrom"] = [{"secretRef": {"name": credentials.name}}]
    return container


def _arguments(run: Run) -> list[str]:
    """What the image's entry point, `esft-worker`, is given."""
    options = {
        "--spec": f"{SPEC_FOLDER}/{SPEC_FILE}",
        "--run": run.uid,
        "--checkpoints": checkpoint_folder(run).replace("$", "$$"),  # or Kubernetes would expand $(NAME)
        "--name": "$(ESFT_POD_NAME)",
        "--cache": _CACHE_FOLDER,
        "--metrics-port": str(METRICS_PORT),
        "--termination-log": _TERMINATION_LOG,
    }
    return [text for option in options.items() for text in option]


def _environment(run: Run) -> list[dict[str, Any]]:
    reference = run.spec.redis.url_secret_ref
    if reference is None:
        secret = {"name": redis_secret_name(run.name, run.uid), "key": "url"}
    else:
        secret = {"name": reference.name, "key": reference.key}
    pod_name = {"apiVersion": "v1", "fieldPath": "metadata.name"}
    return [
        {"name": "ESFT_POD_NAME", "valueFrom": {"fieldRef": pod_name}},
        {"name": "ESFT_REDIS_URL", "valueFrom": {"secretKeyRef": secret}},
        {"name": "HOME", "value": _TEMPORARY_FOLDER},
        {"name": "HF_HOME", "value": f"{_CACHE_FOLDER}/huggingface"},
        {"name": "NUMBA_CACHE_DIR", "value": f"{_TEMPORARY_FOLDER}/numba"},
    ]


def _volumes(run: Run) -> list[Manifest]:
    """The specification, what a run's workers share, what each has to itself, and the model's claim."""
    if run.spec.checkpoint.storage.uri is None:
        shared: Manifest = {"persistentVolumeClaim": {"claimName": volume_claim_name(run.name)}}
    else:
        shared = {"emptyDir": {}}  # for the cache alone
    volumes: list[Manifest] = [
        {"name": "esft-spec", "configMap": {"name": config_map_name(run.name)}},
        {"name": "esft-run"} | shared,
        {"name": "esft-tmp", "emptyDir": {}},
    ]
    claim = _model_claim(run)
    if claim is not None:
        source = {"claimName": claim, "readOnly": True}
        volumes.append({"name": "esft-model", "persistentVolumeClaim": source})
    return volumes


def _mounts(run: Run) -> list[Manifest]:
    mounts: list[Manifest] = [
        {"name": "esft-spec", "mountPath": SPEC_FOLDER, "readOnly": True},
        {"name": "esft-run", "mountPath": RUN_FOLDER},
        {"name": "esft-tmp", "mountPath": _TEMPORARY_FOLDER},
    ]
    claim = _model_claim(run)
    if claim is not None:
        mounts.append({"name": "esft-model", "mountPath": f"{CLAIMS_FOLDER}/{claim}", "readOnly": True})
    return mounts


def _model_claim(run: Run) -> str | None:
    """The claim of a pvc:// model; None for a model from elsewhere."""
    scheme, _, path = run.spec.model.source.partition("://")
    if scheme == "s3":
        raise SpecError(
            "spec.model.source: s3:// is not supported yet. Fix: copy the model to a volume and write "
            "pvc://CLAIM/DIR, or use hf://ORG/REPO."
        )
    if scheme != "pvc":
        return None
    claim = path.partition("/")[0]
    if not _CLAIM_NAME.fullmatch(claim):
        raise SpecError(
            f"spec.model.source: {claim} is not the name of a PersistentVolumeClaim. "
            "Fix: write pvc://CLAIM/DIR, with a claim in the run's namespace."
        )
    return claim


def _check_checkpoint_folder(run: Run, template: Manifest) -> None:
    """Checkpoints written where nobody mounted anything would go with their pod."""
    if run.spec.checkpoint.storage.uri is None:
        return
    folder = checkpoint_folder(run)
    ours = {mount["mountPath"] for mount in _mounts(run)}
    containers = template["spec"]["containers"]
    worker = next(container for container in containers if container["name"] == WORKER_CONTAINER)
    theirs = {mount["mountPath"] for mount in worker["volumeMounts"]} - ours
    if not any(is_within(folder, mount_path) for mount_path in theirs):
        raise TemplateError(
            f"spec.checkpoint.storage.uri: no volume that workers share is mounted at {folder}. Fix: add one to "
            "`volumes` and to `volumeMounts` of the container `worker` in spec.workers.template.spec, or use "
            "`volumeClaim`."
        )
