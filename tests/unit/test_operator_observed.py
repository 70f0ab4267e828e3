"""What the operator makes of objects as a real kubelet writes them."""

from esft_operator.observed import PodView


def pod(*, phase, exit_code, message=""):
    state = {"terminated": {"exitCode": exit_code, "reason": "Error", "message": message}}
    return PodView.of(
        {
            "metadata": {"name": "run-workers-a", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"phase": phase, "containerStatuses": [{"name": "worker", "state": state}]},
        }
    )


def test_a_refused_specification_has_its_reason_before_the_pod_counts_as_failed():
    seen = pod(phase="Running", exit_code=64, message="spec.model.source: there is no such model")
    assert seen.refused_spec
    assert seen.problem == ("WorkersFailing", "spec.model.source: there is no such model")


def test_a_drained_worker_is_no_problem():
    assert pod(phase="Running", exit_code=143).problem is None
    assert pod(phase="Failed", exit_code=143).problem is None
