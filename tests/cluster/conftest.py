"""The cluster that all tests of this folder share; each test has a namespace of its own in it.

The programs are looked for (and compiled, the first time) before the first test starts, since no test's deadline
should count a build.
"""

import base64
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes import client

from conftest import RedisProcess
from crd_parts import install_crd
from esft.document import parse
from esft.queue import connect
from kube_parts import (
    ClusterUnavailableError,
    ControlPlane,
    existing_cluster,
    find_programs,
    free_ports,
    own_control_plane,
    service_account_kubeconfig,
    wait_until,
)
from operator_parts import Node, OperatorProcess, Runs
from simulated_worker import SimulatedWorker

_existing = pytest.StashKey[ControlPlane | None]()
_programs = pytest.StashKey[Path]()


def pytest_collection_finish(session: pytest.Session) -> None:
    uses_cluster = any("control_plane" in getattr(item, "fixturenames", ()) for item in session.items)
    if session.config.option.collectonly or not uses_cluster:
        return
    try:
        if os.environ.get("USE_EXISTING_CLUSTER", "").lower() == "true":
            kubeconfig = os.environ.get("KUBECONFIG") or "~/.kube/config"
            session.config.stash[_existing] = existing_cluster(Path(kubeconfig).expanduser())
        else:
            session.config.stash[_programs] = find_programs()
    except ClusterUnavailableError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.fixture(scope="session")
def control_plane(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ControlPlane]:
    """An API server with controllers and no node; with USE_EXISTING_CLUSTER=true, the current context's."""
    if existing := pytestconfig.stash.get(_existing, None):
        yield existing
    else:
        with own_control_plane(pytestconfig.stash[_programs], tmp_path_factory.mktemp("cluster")) as own:
            yield own


@pytest.fixture(scope="session")
def api(control_plane: ControlPlane) -> Iterator[client.ApiClient]:
    """A client with every right."""
    with control_plane.client() as connected:
        yield connected


@pytest.fixture(scope="session")
def crd(api: client.ApiClient) -> None:
    """The kind ESFineTune is served, as manifests/crd.yaml defines it."""
    install_crd(api)


@pytest.fixture
def namespace(api: client.ApiClient) -> Iterator[str]:
    """The name of a namespace that only this test has."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    core = client.CoreV1Api(api)
    core.create_namespace({"metadata": {"name": name}})
    accounts = core.list_namespaced_service_account
    wait_until(lambda: accounts(name).items, 20, f"a default ServiceAccount in {name}")
    yield name
    core.delete_namespace(name)


@pytest.fixture
def kubeconfig_of(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Callable[[str], Path]:
    """Of a ServiceAccount's name in the test's namespace: a kubeconfig that has its rights."""

    def write(service_account: str, namespace: str = namespace) -> Path:
        return service_account_kubeconfig(control_plane, service_account, namespace, tmp_path)

    return write


@pytest.fixture
def runs(api: client.ApiClient, namespace: str, crd: None) -> Runs:
    """ESFineTunes of the test's namespace."""
    return Runs(api, namespace)


@pytest.fixture
def redis_server(start_redis: Callable[..., RedisProcess]) -> Iterator[RedisProcess]:
    """A Redis of the test's own, which it may stop."""
    (port,) = free_ports(1)
    server = start_redis("--port", str(port), "--appendonly", "yes", "--appendfsync", "always")
    server.url = f"redis://127.0.0.1:{port}/0"
    yield server
    server.kill()


@pytest.fixture
def make_operator(
    control_plane: ControlPlane, namespace: str, redis_server: RedisProcess, tmp_path: Path
) -> Iterator[Callable[..., OperatorProcess]]:
    """Start operators for the test's namespace: `make_operator(ESFT_RESYNC_SECONDS="2")`."""
    made: list[OperatorProcess] = []

    def make(
        *, kubeconfig: Path = control_plane.kubeconfig, url: str = redis_server.url, **environment: str
    ) -> OperatorProcess:
        folder = tmp_path / f"operator-{len(made)}"
        folder.mkdir()
        operator = OperatorProcess(folder, kubeconfig, url, **{"ESFT_NAMESPACES": namespace, **environment})
        made.append(operator)
        return operator.start()

    yield make
    for operator in made:
        operator.kill()


@pytest.fixture
def operator(make_operator: Callable[..., OperatorProcess]) -> OperatorProcess:
    """The operator, looking after the test's namespace."""
    return make_operator()


@pytest.fixture
def node(runs: Runs) -> Iterator[Node]:
    """Worker pods are ready as soon as they exist."""
    with Node(runs) as running:
        yield running


@pytest.fixture
def worker_of(runs: Runs, redis_server: RedisProcess) -> Iterator[Callable[..., SimulatedWorker]]:
    """A simulated worker of a run, with the specification and the Redis URL that its pods would get."""
    clients = []

    def make(name: str = "run", worker: str = "") -> SimulatedWorker:
        secrets = runs.core.list_namespaced_secret(
            runs.namespace, label_selector=f"app.kubernetes.io/instance={name}"
        ).items
        uid = runs.get(name)["metadata"]["uid"]
        secret = next(each for each in secrets if uid[:8] in each.metadata.name)
        connected = connect(base64.b64decode(secret.data["url"]).decode(), patience_seconds=5)
        clients.append(connected)
        text = runs.core.read_namespaced_config_map(f"{name}-spec", runs.namespace).data["esfinetune.yaml"]
        document = parse(text, source="ConfigMap", folder=Path("/"))
        version = document.metadata.generation or 1
        return SimulatedWorker(connected, uid, document.spec, worker, version=version)

    yield make
    for each in clients:
        each.close()
