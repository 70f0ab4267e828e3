"""The cluster that all tests of this folder share; each test has a namespace of its own in it.

The programs are looked for (and compiled, the first time) before the first test starts, since no test's deadline
should count a build.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes import client

from crd_parts import install_crd
from kube_parts import (
    ClusterUnavailableError,
    ControlPlane,
    existing_cluster,
    find_programs,
    own_control_plane,
    service_account_kubeconfig,
    wait_until,
)

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
