"""Environment and report of the end-to-end scenarios: `make e2e`, or as root `pytest tests/e2e -n 2`.

The environment belongs to pytest's main process, so the processes of pytest-xdist find it ready. `pytest` by itself
leaves this folder out.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes import client, config

import kube_parts
from e2e.environment import KUBECONFIG, OUTPUT, SYSTEM, Environment, UnusableError, kubectl, save_logs
from e2e.run import Run, with_tiny_model

HERE = Path(__file__).parent

_environment = pytest.StashKey[Environment]()
_rows = pytest.StashKey[list[tuple[str, str, float, str]]]()
_failed = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--keep", action="store_true", help="leave the cluster of tests/e2e up at the end")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = any(HERE in (path := Path(each).absolute()).parents or path == HERE for each in config.args)
    return None if asked else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that nobody waits for it at the end."""
    items.sort(key=lambda item: "test_example" not in item.nodeid)


def _is_main(config: pytest.Config) -> bool:
    return not hasattr(config, "workerinput") and not config.option.collectonly


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    if not _is_main(session.config):
        return
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    start = time.monotonic()

    def tell(step: str) -> None:
        reporter.write_line(f"[{time.monotonic() - start:4.0f} s] {step}")

    environment = session.config.stash[_environment] = Environment(tell)
    session.config.stash[_rows] = []
    try:
        environment.up()
    except UnusableError as error:
        save_logs(SYSTEM, "system")
        pytest.exit(str(error), returncode=pytest.ExitCode.TESTS_FAILED)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    rows = None if _main_config is None else _main_config.stash.get(_rows, None)
    if rows is not None and (report.when == "call" or report.failed):
        digest = dict(report.user_properties).get("digest", "-")
        name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
        rows.append((name, report.outcome, report.duration, str(digest)))


_main_config: pytest.Config | None = None


def pytest_configure(config: pytest.Config) -> None:
    global _main_config  # noqa: PLW0603 - a report does not say which session it is of
    if _is_main(config):
        _main_config = config


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(_rows, None)
    if not rows:
        return
    terminalreporter.section("scenarios")
    width = max(len(row[0]) for row in rows)
    for name, outcome, seconds, digest in sorted(rows):
        terminalreporter.write_line(f"{name:{width}}  {outcome:6}  {seconds:5.0f} s  {digest}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if session.config.stash.get(_environment, None) is not None and exitstatus:
        save_logs(SYSTEM, "system")


def pytest_unconfigure(config: pytest.Config) -> None:
    environment = config.stash.get(_environment, None)
    if environment is not None and not config.option.keep:
        environment.down()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    item.stash[_failed] = item.stash.get(_failed, False) or report.failed
    return report


@pytest.fixture(scope="session")
def api() -> Iterator[client.ApiClient]:
    """A client with every right."""
    kube_parts.POLL_SECONDS = 0.5  # real pods take seconds, and every question takes the processor from them
    with config.new_client_from_config(str(KUBECONFIG)) as connected:
        yield connected


@pytest.fixture
def empty(api: client.ApiClient, request: pytest.FixtureRequest) -> Iterator[Run]:
    """A namespace of the test's own, for pods of the level `restricted`; its logs are kept when the test fails."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    core = client.CoreV1Api(api)
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    core.create_namespace({"metadata": {"name": name, "labels": labels}})
    kube_parts.wait_until(
        lambda: core.list_namespaced_service_account(name).items, 20, f"a ServiceAccount in {name}"
    )
    runs = Run(api, name)
    yield runs
    if request.node.stash.get(_failed, False):
        folder = save_logs(name, request.node.name)
        request.node.add_report_section("teardown", "logs", str(folder.relative_to(OUTPUT.parent.parent)))
    kubectl("-n", name, "delete", "esft", "--all", "--timeout=60s", check=False)
    core.delete_namespace(name)


@pytest.fixture
def runs(empty: Run) -> Run:
    """A namespace with a claim that holds the tiny model."""
    with_tiny_model(empty)
    return empty


@pytest.fixture
def note_digest(record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """Compare two digests, and put the result into the table of the end."""

    def compare(found: str, wanted: str) -> None:
        record_property("digest", f"{found} {'=' if found == wanted else '≠'} {wanted}")
        assert found == wanted, "the digest differs from the undisturbed run's"

    return compare
