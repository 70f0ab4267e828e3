"""The way into a cluster that a person has: the kubeconfig of kubectl, or a pod's service account.

Apart from esft_operator.clients.cluster.connect, which prefers the service account: the operator is always in a pod, a
person who has a kubeconfig in a pod wants it to count.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kubernetes import client, config

from esft_operator.clients.cluster import Cluster, ClusterError

_POD_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_POOL_SIZE: Final = 256  # connections: one for each log that is followed


@dataclass(frozen=True, slots=True)
class Connection:
    """A cluster, and the namespace in it that is meant where none is named.

    Attributes:
        server: URL of the API server, for messages.
    """

    cluster: Cluster
    namespace: str
    server: str


def connect(*, context: str | None, namespace: str | None) -> Connection:
    """Connect as kubectl does: KUBECONFIG, else ~/.kube/config, else the pod's service account.

    Raises:
        ClusterError: none of them is there, or the context is not.
    """
    configuration = client.Configuration()
    try:
        default = _from_kubeconfig(configuration, context)
    except config.ConfigException as error:
        if context is not None or not _POD_NAMESPACE.is_file():
            raise ClusterError(_no_cluster(context, error), status=0) from error
        config.load_incluster_config(client_configuration=configuration)
        default = _POD_NAMESPACE.read_text().strip()
    configuration.retries = False  # who watches asks again a second later, and else a person does
    configuration.connection_pool_maxsize = _POOL_SIZE
    return Connection(Cluster(client.ApiClient(configuration)), namespace or default, str(configuration.host))


def _from_kubeconfig(configuration: client.Configuration, context: str | None) -> str:
    """Fill in the configuration; the context's namespace."""
    config.load_kube_config(context=context, client_configuration=configuration)
    contexts, current = config.list_kube_config_contexts()
    chosen: dict[str, Any] = next((known for known in contexts if known["name"] == context), current)
    return str(chosen["context"].get("namespace") or "default")


def _no_cluster(context: str | None, error: Exception) -> str:
    reason = str(error).rstrip(".")
    if context is not None:
        return (
            f"--context: there is no context {context!r} in the kubeconfig that can be used: {reason}. "
            "Fix: name one of `kubectl config get-contexts`"
        )
    return (
        f"there is no Kubernetes cluster to ask: {reason}. Fix: set KUBECONFIG to a kubeconfig file; "
        "for a run on this machine, name its folder, as runs/NAME"
    )
