"""What cannot work says so, with the reason where people look."""

import pytest

from e2e.environment import smaller
from e2e.run import STEP_SECONDS, operator_at_rest
from esft.errors import EXIT_SPEC
from kube_parts import wait_until

pytestmark = pytest.mark.timeout(1800)

GPU = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
NO_SUCH_IMAGE = {"image": "localhost/esfinetune/nothing:1", "imagePullPolicy": "IfNotPresent"}


def template(**worker):
    return {"workers__template": {"spec": {"containers": [{"name": "worker", **worker}]}}}


def test_a_wrong_model_fails_the_run(runs):
    runs.apply(smaller(model__source="pvc://tiny/elsewhere"))
    runs.wait_for(phase="Failed", seconds=STEP_SECONDS)
    failed = runs.condition("Failed")
    assert failed["reason"] == "InvalidSpec"
    assert "spec.model.source" in failed["message"]
    assert "elsewhere" in failed["message"]
    # Other pods end with the Job, with whatever code that gives them.
    wait_until(lambda: EXIT_SPEC in runs.exit_codes(), STEP_SECONDS, lambda: f"among {runs.exit_codes()}")


@pytest.mark.parametrize(
    ("change", "reason", "cause"),
    [
        (template(**NO_SUCH_IMAGE), "ImagePullFailed", "nothing:1"),
        (template(**GPU), "Unschedulable", "nvidia.com/gpu"),
    ],
    ids=["image", "gpu"],
)
def test_a_pod_that_cannot_start_is_reported_within_30_seconds(runs, change, reason, cause):
    def reported() -> bool:
        found = runs.condition("WorkersReady")
        return (found.get("status"), found.get("reason")) == ("False", reason) and cause in found["message"]

    with operator_at_rest():
        runs.apply(smaller(**change))
        wait_until(reported, 30, lambda: f"{reason} with {cause}: {runs.status()}")
    assert reason in runs.events()
