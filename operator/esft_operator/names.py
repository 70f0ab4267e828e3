"""Every name that the operator gives or looks for: one place, so that two parts cannot disagree on one.

Names of children follow from the resource's name, and where a predecessor's must not be mistaken for ours, from its
uid too. So the operator finds its children again after any restart without having noted anything down.
"""

from typing import Final

Key = tuple[str, str]  # of a run: its namespace and its name

GROUP: Final = "esfinetune.dev"
FINALIZER: Final = "esfinetune.dev/finalizer"
MANAGER: Final = "esfinetune.dev/operator"  # the value of spec.managedBy that means this operator
FIELD_MANAGER: Final = "esfinetune-operator"

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "esfinetune-operator"
INSTANCE_LABEL: Final = "app.kubernetes.io/instance"
RUN_UID_LABEL: Final = "esfinetune.dev/run-uid"
TEMPLATE_HASH_ANNOTATION: Final = "esfinetune.dev/template-hash"
KUEUE_PREFIX: Final = "kueue.x-k8s.io/"

WORKER_CONTAINER: Final = "worker"
METRICS_PORT_NAME: Final = "metrics"


def about(key: Key) -> dict[str, str]:
    """What a line of the operator's log says of the run that it is about."""
    return {"namespace": key[0], "name": key[1]}


def workers_name(name: str) -> str:
    """The Job of workers, the PodMonitor of their metrics, KEDA's ScaledObject and its TriggerAuthentication."""
    return f"{name}-workers"


def config_map_name(name: str) -> str:
    """The ConfigMap with the specification that workers read."""
    return f"{name}-spec"


def volume_claim_name(name: str) -> str:
    """The PersistentVolumeClaim for checkpoints."""
    return f"{name}-checkpoints"


def redis_secret_name(name: str, uid: str) -> str:
    """The Secret with the run's Redis credentials; the operator cannot read Secrets, so the name tells whose it is."""
    return f"{name}-redis-{uid[:8]}"


def redis_user(uid: str) -> str:
    """The run's user in Redis, which may touch the run's keys and nothing else."""
    return f"esft-{uid}"


def child_labels(name: str, uid: str) -> dict[str, str]:
    """Labels of every child; the first is what the operator's watches select by."""
    return {
        MANAGED_BY_LABEL: MANAGED_BY,
        "app.kubernetes.io/name": "esfinetune",
        INSTANCE_LABEL: name,
        RUN_UID_LABEL: uid,
    }


def selector(name: str, uid: str) -> str:
    """Label selector of a run's pods, as text."""
    return f"{INSTANCE_LABEL}={name},{RUN_UID_LABEL}={uid}"
