"""What the operator makes of objects as a real API server, Job controller and kubelet write them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from esft_operator.observe.children import SCHEDULING_GRACE, Child, ConfigMapView, JobView, Observed, PodView

MADE = datetime(2026, 1, 1, tzinfo=UTC)
PULL = "Back-off pulling image"


def metadata(name: str = "run-workers-a", **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": "team",
        "uid": f"{name}-uid",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        **fields,
    }


def container(state: dict[str, Any], name: str = "worker", *, ready: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "state": state,
        "lastState": {},
        "ready": ready,
        "restartCount": 0,
        "image": "esfinetune/worker:1",
        "imageID": "",
        "started": ready,
    }


def ended(exit_code: int, message: str | None = None, reason: str = "Error") -> dict[str, Any]:
    found = {
        "exitCode": exit_code,
        "reason": reason,
        "startedAt": "2026-01-01T00:00:05Z",
        "finishedAt": "2026-01-01T00:00:09Z",
    }
    return {"terminated": found if message is None else found | {"message": message}}


def waiting(reason: str, message: str | None = None) -> dict[str, Any]:
    return {"waiting": {"reason": reason} if message is None else {"reason": reason, "message": message}}


def pod(status: dict[str, Any], **fields: Any) -> PodView:
    return PodView.of({"kind": "Pod", "metadata": metadata(**fields), "spec": {}, "status": status})


def worker(phase: str, state: dict[str, Any], **status: Any) -> PodView:
    return pod({"phase": phase, "containerStatuses": [container(state)], **status})


def conditions(**values: str) -> list[dict[str, Any]]:
    return [{"type": kind, "status": value} for kind, value in values.items()]


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
}


def test_a_pod_that_was_made_this_moment() -> None:
    assert pod({"phase": "Pending"}) == PodView(
        "run-workers-a", ready=False, ended=False, terminating=False, created_at=MADE
    )


def test_a_worker_that_works() -> None:
    running = {"running": {"startedAt": "2026-01-01T00:00:05Z"}}
    status = {
        "phase": "Running",
        "conditions": conditions(PodScheduled="True", Initialized="True", Ready="True"),
        "containerStatuses": [container(running, ready=True)],
        "podIP": "10.0.0.7",
    }
    seen = pod(status)
    assert (seen.ready, seen.ended, seen.problem, seen.exit_code) == (True, False, None, None)
    leaving = pod(status, deletionTimestamp="2026-01-01T00:01:00Z", deletionGracePeriodSeconds=60)
    assert (leaving.ready, leaving.terminating) == (True, True)
    observed = Observed(pods=(seen, leaving, worker("Succeeded", ended(0))))
    assert (observed.ready_pods, observed.living_pods) == (1, 2)


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        ({"phase": "Pending", "conditions": [UNSCHEDULABLE]}, ("Unschedulable", UNSCHEDULABLE["message"])),
        ({"phase": "Pending", "conditions": [UNSCHEDULABLE | {"reason": "SchedulingGated"}]}, None),  # Kueue
        ({"phase": "Pending", "containerStatuses": [container(waiting("ContainerCreating"))]}, None),
        (
            {
                "phase": "Pending",
                "initContainerStatuses": [container({"running": {}}, "fetch")],
                "containerStatuses": [container(waiting("PodInitializing"))],
            },
            None,
        ),
        (
            {"phase": "Pending", "containerStatuses": [container(waiting("ImagePullBackOff", PULL))]},
            ("ImagePullFailed", f"worker: ImagePullBackOff esfinetune/worker:1 {PULL}"),
        ),
        (
            {"phase": "Pending", "containerStatuses": [container(waiting("ErrImageNeverPull"))]},
            ("ImagePullFailed", "worker: ErrImageNeverPull esfinetune/worker:1"),
        ),
        (
            {
                "phase": "Pending",
                "containerStatuses": [
                    container(waiting("CreateContainerConfigError", 'secret "x" not found'))
                ],
            },
            ("ContainerFailed", 'worker: CreateContainerConfigError secret "x" not found'),
        ),
        (
            {"phase": "Running", "containerStatuses": [container(waiting("CrashLoopBackOff"), "sidecar")]},
            ("ContainerFailed", "sidecar: CrashLoopBackOff"),
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
            ("WorkersFailing", "Evicted: The node was low on resource: memory."),
        ),
        ({"phase": "Failed"}, ("WorkersFailing", "Failed: the pod failed")),
        ({"phase": "Succeeded", "containerStatuses": [container(ended(0, reason="Completed"))]}, None),
    ],
)
def test_problems(status: dict[str, Any], problem: tuple[str, str] | None) -> None:
    assert pod(status).problem == problem


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (ended(70, "the disk is full\n"), "the disk is full"),
        (ended(70), "the worker ended with exit code 70 (Error)"),
        (ended(137, reason="OOMKilled"), "the worker ended with exit code 137 (OOMKilled)"),
        (ended(1, "x" * 4000), "x" * 1023 + "…"),
    ],
)
def test_a_failed_worker_says_why(state: dict[str, Any], message: str) -> None:
    seen = worker("Failed", state)
    assert seen.ended
    assert seen.problem == ("WorkersFailing", message)
    assert not seen.refused_spec


def test_a_refused_specification_has_its_reason_before_the_pod_counts_as_failed() -> None:
    seen = worker("Running", ended(64, "spec.model.source: there is no such model"))
    assert seen.refused_spec
    assert seen.problem == ("WorkersFailing", "spec.model.source: there is no such model")


def test_a_drained_worker_is_no_problem() -> None:
    assert worker("Running", ended(143)).problem is None
    assert worker("Failed", ended(143)).problem is None
    assert worker("Failed", ended(143), reason="Terminated", message="node shutdown").problem is None
    evicted = worker("Failed", ended(143), reason="Evicted", message="The node was low on resource: memory.")
    assert evicted.problem is not None


def test_another_containers_exit_code_is_not_the_workers() -> None:
    seen = pod({"phase": "Running", "containerStatuses": [container(ended(64), "sidecar"), container({})]})
    assert seen.exit_code is None


def test_a_pod_has_a_moment_to_get_its_volume_and_its_node() -> None:
    unscheduled = pod({"phase": "Pending", "conditions": [UNSCHEDULABLE]})
    assert not unscheduled.is_stuck(MADE + SCHEDULING_GRACE - timedelta(seconds=1))
    assert unscheduled.is_stuck(MADE + SCHEDULING_GRACE)
    assert worker("Pending", waiting("ErrImagePull")).is_stuck(MADE)
    assert not worker("Failed", ended(70)).is_stuck(MADE + timedelta(days=1))


OWNER = {
    "apiVersion": "esfinetune.dev/v1alpha1",
    "kind": "ESFineTune",
    "name": "run",
    "uid": "run-uid",
    "controller": True,
    "blockOwnerDeletion": True,
}


def made_job(status: dict[str, Any] | None = None, **fields: Any) -> JobView:
    return JobView.of(
        {
            "kind": "Job",
            "metadata": metadata("run-workers", **fields),
            "spec": {"parallelism": 2, "suspend": False},
            "status": status or {},
        }
    )


def job_condition(kind: str, value: str = "True", **fields: str) -> dict[str, Any]:
    return {
        "type": kind,
        "status": value,
        "lastProbeTime": "2026-01-01T00:01:00Z",
        "lastTransitionTime": "2026-01-01T00:01:00Z",
        **fields,
    }


def test_a_job() -> None:
    hashed = {"annotations": {"esfinetune.dev/template-hash": "0123"}, "ownerReferences": [OWNER]}
    seen = made_job({"active": 2, "ready": 1}, **hashed)
    assert seen == JobView(
        Child("run-workers-uid", "run-uid", terminating=False), "0123", 2, finished_at=None, failure=None
    )
    assert made_job(deletionTimestamp="2026-01-01T00:00:00Z").child.terminating


@pytest.mark.parametrize(
    ("condition", "is_over", "failure"),
    [
        (job_condition("Suspended"), False, None),
        (job_condition("SuccessCriteriaMet"), False, None),
        (job_condition("FailureTarget", reason="PodFailurePolicy"), False, None),
        (job_condition("Failed", "False"), False, None),
        (job_condition("Complete", reason="CompletionsReached"), True, None),
        (
            job_condition("Failed", reason="PodFailurePolicy", message="Container worker: exit code 64"),
            True,
            ("PodFailurePolicy", "Container worker: exit code 64"),
        ),
        (job_condition("Failed"), True, ("", "")),
    ],
)
def test_how_a_job_ended(
    condition: dict[str, Any], *, is_over: bool, failure: tuple[str, str] | None
) -> None:
    seen = made_job({"conditions": [condition]})
    assert seen.finished_at == (MADE + timedelta(minutes=1) if is_over else None)
    assert seen.failure == failure


@pytest.mark.parametrize(
    ("references", "owner"),
    [
        (None, None),
        ([], None),
        ([OWNER | {"controller": False}], None),
        ([OWNER | {"controller": False, "uid": "other"}, OWNER], "run-uid"),
    ],
)
def test_the_owner_is_the_controller(references: list[dict[str, Any]] | None, owner: str | None) -> None:
    fields = {} if references is None else {"ownerReferences": references}
    assert ConfigMapView.of({"metadata": metadata("c", **fields)}).child.owner == owner


def test_a_config_map() -> None:
    assert ConfigMapView.of({"metadata": metadata("c"), "data": {"a": "b"}}).data == {"a": "b"}
    assert ConfigMapView.of({"metadata": metadata("c")}).data == {}
