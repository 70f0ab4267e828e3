"""What all children have in common: labels by which the operator finds them again, and one owner.

The owner is the resource, so the garbage collector removes them even when no operator is there to do so.
"""

from typing import Final

from esft_operator.kinds import RUNS, Kind
from esft_operator.names import child_labels
from esft_operator.resource import Manifest, Run

COMPONENT_LABEL: Final = "app.kubernetes.io/component"
WORKER_COMPONENT: Final = "worker"


def child(run: Run, kind: Kind, name: str, *, component: str = WORKER_COMPONENT) -> Manifest:
    """What every child begins with: type, name, labels and its one owner."""
    identity = {"name": run.name, "uid": run.uid}
    owner = RUNS.type_meta | identity | {"controller": True, "blockOwnerDeletion": True}
    return kind.type_meta | {
        "metadata": {
            "name": name,
            "namespace": run.namespace,
            "labels": child_labels(run.name, run.uid) | {COMPONENT_LABEL: component},
            "ownerReferences": [owner],
        },
    }
