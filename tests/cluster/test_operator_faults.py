"""Whatever the API server answers, and wherever the operator dies, a run ends up with the same children."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fault_proxy import Answer, Fault, FaultProxy, Request
from kube_parts import ControlPlane, wait_until
from operator_parts import Node, OperatorProcess, Runs
from simulated_worker import SimulatedWorker

Workers = Callable[..., SimulatedWorker]
CONVERGES_WITHIN = 60


@pytest.fixture
def proxy(control_plane: ControlPlane, tmp_path: Path) -> Iterator[FaultProxy]:
    with FaultProxy(control_plane, tmp_path) as running:
        yield running


def once_each(answer: Answer, *, only: Callable[[Request], bool]) -> Fault:
    """Every different request fails the first time it is made."""
    failed: set[tuple[str, str, bool]] = set()

    def fault(request: Request) -> Answer | None:
        identity = (request.method, request.path, request.is_watch)
        if identity in failed or not only(request):
            return None
        failed.add(identity)
        return answer

    return fault


FAULTS: dict[str, tuple[Answer, Callable[[Request], bool]]] = {
    "409": (Answer(status=409), lambda request: request.method != "GET"),
    "410": (Answer(expired=True), lambda request: request.is_watch),
    "429": (Answer(status=429), lambda request: request.method != "GET"),
    "500": (Answer(status=500), lambda request: request.method != "GET"),
    "500 for kopf": (Answer(status=500), lambda request: request.is_kopfs),
    "500 when read": (Answer(status=500), lambda request: not request.is_kopfs and request.method == "GET"),
    "reset": (Answer(reset=True), lambda _request: True),
    "reset after it was done": (Answer(reset=True, forwarded=True), lambda request: request.method != "GET"),
    "stalled watch": (Answer(stalled=True), lambda request: request.is_watch),
}


@pytest.fixture
def wanted(make_operator: Callable[..., OperatorProcess], runs: Runs) -> str:
    """The children that an undisturbed operator makes."""
    operator = make_operator()
    runs.create("undisturbed")
    found = runs.wait_children("undisturbed")
    runs.delete("undisturbed")
    runs.wait_gone("undisturbed")
    operator.stop()
    return found


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_at_each_request_in_turn(
    kind: str,
    wanted: str,
    proxy: FaultProxy,
    make_operator: Callable[..., OperatorProcess],
    runs: Runs,
    node: Node,
    worker_of: Workers,
) -> None:
    proxy.fault = once_each(FAULTS[kind][0], only=FAULTS[kind][1])
    make_operator(kubeconfig=proxy.kubeconfig).restart_when_it_ends()
    runs.create("disturbed")
    runs.wait_children("disturbed", wanted, seconds=CONVERGES_WITHIN)
    runs.wait_for("disturbed", phase="Running", seconds=CONVERGES_WITHIN)
    worker = worker_of("disturbed")
    while worker.generation():
        pass
    worker.leave()
    runs.wait_for("disturbed", phase="Succeeded", seconds=CONVERGES_WITHIN)
    runs.delete("disturbed")
    runs.wait_gone("disturbed", seconds=CONVERGES_WITHIN)


def test_killed_at_each_request_in_turn(
    wanted: str, proxy: FaultProxy, make_operator: Callable[..., OperatorProcess], runs: Runs
) -> None:
    for number in range(100):
        operator = make_operator(kubeconfig=proxy.kubeconfig)
        name = f"killed-{number}"
        proxy.fault = killing(operator, at=number)
        runs.create(name)
        ended = wait_until(
            lambda: not operator.is_running or runs.children(name) == wanted,  # noqa: B023 - used at once
            CONVERGES_WITHIN,
            lambda: f"operator killed at {number}, or done: {runs.children(name)}, {operator.errors()}",  # noqa: B023
        )
        proxy.fault = lambda _request: None
        is_killed = not operator.is_running
        if is_killed:
            operator.kill()
            operator = make_operator(kubeconfig=proxy.kubeconfig)
        runs.wait_children(name, wanted)
        runs.delete(name)
        runs.wait_gone(name)
        operator.stop()
        if not is_killed:
            assert ended
            assert number > 8
            return
    raise AssertionError("the operator does not come to an end")


def killing(operator: OperatorProcess, *, at: int) -> Fault:
    """Kill the operator at its n-th request about runs and their children: on even n before, on odd n after it."""
    seen = 0

    def fault(request: Request) -> Answer | None:
        nonlocal seen
        if request.is_kopfs:
            return None
        seen += 1
        if seen - 1 != at:
            return None
        if at % 2 == 0:
            operator.signal_kill()
        return Answer(reset=True, forwarded=at % 2 == 1, then=operator.signal_kill)

    return fault
