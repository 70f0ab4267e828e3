"""A real Kubernetes API of the tests' own, and what tests of the operator share about it.

Schema rules, field ownership, garbage collection and RBAC are decided by the API server and its controllers, so the
tests ask those and no imitation. There is no node: nothing here runs a pod, which makes a start a matter of seconds
and needs no root. Tests of real pods use a whole cluster instead: USE_EXISTING_CLUSTER=true.

Rejected: hack/cluster/up, whose certificates, fixed ports and daemons serve a node and outlive their starter.

Limits: the garbage collector learns of a new kind up to 30 seconds after its CRD; until then, what an object of such
a kind owned stays when the object goes.
"""

import base64
import contextlib
import http.client
import secrets
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from kubernetes import client, config

TEST_CONTEXT = "esft-test"
PROGRAMS = Path(__file__).parents[2] / "hack" / "cluster" / "binaries"
START_SECONDS = 60
POLL_SECONDS = 0.05

# Those that act on the objects of a run or of the chart; the others only cost time.
CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "disruption-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "persistentvolumeclaim-protection-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
    "ttl-after-finished-controller",
)

Value = TypeVar("Value")


class ClusterUnavailableError(Exception):
    """There is no cluster that tests may use; the message says what to do about it."""


@dataclass(frozen=True)
class ControlPlane:
    """A cluster to which tests may do anything."""

    kubeconfig: Path
    server: str

    def client(self) -> client.ApiClient:
        """A new client with every right; use it in a `with`, or close it."""
        return config.new_client_from_config(str(self.kubeconfig))


def wait_until(
    condition: Callable[[], Value], deadline_seconds: float, describe: str | Callable[[], object]
) -> Value:
    """The condition's first true value; an AssertionError with the description when the deadline has passed.

    A `describe` that can be called is called only then, and so can show what there is instead.
    """
    deadline = time.monotonic() + deadline_seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(
                f"not within {deadline_seconds} s: {describe if isinstance(describe, str) else describe()}"
            )
        time.sleep(POLL_SECONDS)
    return value


def find_programs(which: str = "control-plane") -> Path:
    """The folder of etcd and Kubernetes' programs, compiled first where the machine has none (minutes, once).

    Raises:
        ClusterUnavailableError: there are none, and nothing to compile them with.
    """
    finished = subprocess.run([PROGRAMS, which], stdout=subprocess.PIPE, stderr=None, text=True, check=False)
    if finished.returncode:
        raise ClusterUnavailableError(f"{PROGRAMS} found no programs of a cluster; its message is above")
    return Path(finished.stdout.strip())


def existing_cluster(kubeconfig: Path) -> ControlPlane:
    """The cluster of the file's current context, if its name says that tests may do anything there.

    Raises:
        ClusterUnavailableError: the context has another name, or there is none.
    """
    document = yaml.safe_load(kubeconfig.read_text()) if kubeconfig.is_file() else {}
    name = document.get("current-context") or ""
    if name != TEST_CONTEXT and not name.startswith(f"{TEST_CONTEXT}-"):
        raise ClusterUnavailableError(
            f"tests create and delete anything in a cluster, so they refuse the context {name!r} of {kubeconfig}; "
            f"if it is meant for tests: kubectl config rename-context {name or 'CONTEXT'} {TEST_CONTEXT}-ANYTHING"
        )
    return ControlPlane(kubeconfig, _current(document)[0]["server"])


def service_account_kubeconfig(
    control_plane: ControlPlane, service_account: str, namespace: str, folder: Path
) -> Path:
    """A kubeconfig in the folder that acts as the ServiceAccount, with its rights and no others, for an hour."""
    with control_plane.client() as api:
        request = client.AuthenticationV1TokenRequest(
            spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=3600)
        )
        token = client.CoreV1Api(api).create_namespaced_service_account_token(
            service_account, namespace, request
        )
    cluster, _ = _current(yaml.safe_load(control_plane.kubeconfig.read_text()))
    if "certificate-authority" in cluster:  # may be relative to the file it came from
        authority = control_plane.kubeconfig.parent / cluster["certificate-authority"]
        cluster = cluster | {"certificate-authority": str(authority)}
    path = folder / f"{namespace}-{service_account}.kubeconfig"
    _write_kubeconfig(path, cluster, {"token": token.status.token})
    return path


@contextlib.contextmanager
def own_control_plane(programs: Path, folder: Path) -> Iterator[ControlPlane]:
    """etcd, API server and controllers on free ports of 127.0.0.1, with all their files in the folder."""
    etcd_client, etcd_peer, secure = free_ports(3)
    etcd_url, peer_url = f"http://127.0.0.1:{etcd_client}", f"http://127.0.0.1:{etcd_peer}"
    server = f"https://127.0.0.1:{secure}"
    certificate, key = folder / "apiserver.crt", folder / "service-account.key"
    kubeconfig, tokens = folder / "kubeconfig", folder / "tokens.csv"
    token = secrets.token_urlsafe()
    tokens.write_text(f'{token},admin,admin,"system:masters"\n')
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)

    with contextlib.ExitStack() as stack:

        def start(program: str, *options: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(_running(programs / program, options, folder / f"{program}.log"))

        etcd = start(
            "etcd",
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls={etcd_url}",
            f"--advertise-client-urls={etcd_url}",
            f"--listen-peer-urls={peer_url}",
            f"--initial-advertise-peer-urls={peer_url}",
            f"--initial-cluster=default={peer_url}",
            "--unsafe-no-fsync",  # nobody reads these data after a crash
        )
        api_server = start(
            "kube-apiserver",
            f"--etcd-servers={etcd_url}",
            "--bind-address=127.0.0.1",
            f"--secure-port={secure}",
            f"--cert-dir={folder}",  # it makes its own certificate there
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--endpoint-reconciler-type=none",  # a loopback address may not be an endpoint
            "--max-requests-inflight=2000",
            "--max-mutating-requests-inflight=1000",
        )
        wait_until(
            lambda: _ready(secure, certificate) or _ended(etcd, api_server),
            START_SECONDS,
            lambda: _logs(folder),
        )
        authority = base64.b64encode(certificate.read_bytes()).decode()
        _write_kubeconfig(
            kubeconfig, {"server": server, "certificate-authority-data": authority}, {"token": token}
        )
        start(
            "kube-controller-manager",
            f"--kubeconfig={kubeconfig}",
            f"--controllers={','.join(CONTROLLERS)}",
            f"--root-ca-file={certificate}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=1000",  # the default of 20 is what tests with many objects would wait for
            "--kube-api-burst=2000",
        )
        yield ControlPlane(kubeconfig, server)


@contextlib.contextmanager
def _running(program: Path, options: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program until the block's end, or until this process's, however that comes."""
    command = [program, *options]
    if guard := shutil.which("setpriv"):  # util-linux; elsewhere a killed pytest leaves its servers behind
        command = [guard, "--pdeathsig", "KILL", *command]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()  # there is nothing to save
        process.wait()


def _ready(port: int, certificate: Path) -> bool:
    try:
        context = ssl.create_default_context(cafile=certificate)
        with contextlib.closing(
            http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=5)
        ) as connection:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):  # no certificate yet, or nobody who answers
        return False


def _ended(*processes: subprocess.Popen[bytes]) -> bool:
    if any(process.poll() is not None for process in processes):
        raise ClusterUnavailableError("a program of the control plane ended at its start")
    return False


def _logs(folder: Path) -> str:
    last = {log.name: log.read_text(errors="replace").splitlines()[-5:] for log in folder.glob("*.log")}
    return "\n".join(f"{name}: {line}" for name, lines in last.items() for line in lines)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nobody listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _current(document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Cluster and user of a kubeconfig's current context."""

    def named(kind: str, name: str) -> dict[str, Any]:
        return next(entry for entry in document[f"{kind}s"] if entry["name"] == name)[kind]

    context = named("context", document["current-context"])
    return named("cluster", context["cluster"]), named("user", context["user"])


def _write_kubeconfig(path: Path, cluster: dict[str, Any], user: dict[str, Any]) -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": TEST_CONTEXT, "cluster": cluster}],
        "users": [{"name": TEST_CONTEXT, "user": user}],
        "contexts": [{"name": TEST_CONTEXT, "context": {"cluster": TEST_CONTEXT, "user": TEST_CONTEXT}}],
        "current-context": TEST_CONTEXT,
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document))
