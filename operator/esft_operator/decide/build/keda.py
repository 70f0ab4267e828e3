"""KEDA as what sizes the workers: as many as there is work waiting in the run's queue.

KEDA writes to the scale subresource of the ESFineTune, like `kubectl scale`, and the operator follows. It reads Redis
itself, with the run's own user.

Limits: only the operator's own Redis, since KEDA takes address, user and password one by one and a Secret of the user's
has the URL alone (the spec refuses the two together); and database 0.

Source: keda.sh/docs, "Redis Lists" and "TriggerAuthentication".
"""

from typing import Final

from esft.layout import redis_key
from esft_operator.decide.build.child import child
from esft_operator.kinds import RUNS, SCALED_OBJECTS, TRIGGER_AUTHENTICATIONS
from esft_operator.names import redis_secret_name, workers_name
from esft_operator.resource import Manifest, Run

_COMPONENT: Final = "autoscaling"
_PARAMETERS: Final = ("address", "username", "password", "tls")


def trigger_authentication(run: Run) -> Manifest | None:
    """How KEDA gets at the run's queue; None when KEDA does not size the run."""
    if run.spec.workers.autoscaling.keda is None:
        return None
    secret = redis_secret_name(run.name, run.uid)
    manifest = child(run, TRIGGER_AUTHENTICATIONS, workers_name(run.name), component=_COMPONENT)
    references = [{"parameter": name, "name": secret, "key": name} for name in _PARAMETERS]
    return manifest | {"spec": {"secretTargetRef": references}}


def scaled_object(run: Run) -> Manifest | None:
    """The ScaledObject of a run; None when KEDA does not size it."""
    workers = run.spec.workers
    if workers.autoscaling.keda is None:
        return None
    manifest = child(run, SCALED_OBJECTS, workers_name(run.name), component=_COMPONENT)
    trigger = {
        "type": "redis",
        "metadata": {
            "listName": redis_key(run.uid, "todo"),
            "listLength": str(workers.autoscaling.keda.items_per_worker),
        },
        "authenticationRef": {"name": workers_name(run.name)},
    }
    return manifest | {
        "spec": {
            "scaleTargetRef": RUNS.type_meta | {"name": run.name},
            "minReplicaCount": workers.min_replicas,
            "maxReplicaCount": workers.max_replicas,
            "triggers": [trigger],
        }
    }
