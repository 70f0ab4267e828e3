"""The CRD in use: subresources, and what kubectl shows and teaches."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from kubernetes import client

from crd import ROOT
from crd_parts import MINIMAL, Resources, Spec, causes, changed, resource
from esft.spec.training import Evolution
from kube_parts import ControlPlane, find_programs, wait_until

pytestmark = pytest.mark.integration

EXAMPLE = ROOT / "examples" / "countdown-tiny.yaml"
STATUS = {
    "phase": "Running",
    "conditions": [
        {
            "type": "WorkersReady",
            "status": "True",
            "reason": "AllReady",
            "message": "2 of 2",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ],
    "progress": {"generation": 12, "planned": 500, "percent": 2.4, "summary": "12/500"},
    "fitness": {"mean": 0.42134, "best": 1.0, "std": 0.1, "summary": "0.4213"},
    "evaluation": {
        "base": 0.1,
        "last": 0.2,
        "best": 0.2,
        "bestGeneration": 10,
        "lastGeneration": 10,
        "count": 2,
        "summary": "0.2000",
    },
    "workers": {"desired": 2, "ready": 2, "selector": "esfinetune.dev/run-uid=1"},
}


@pytest.fixture
def resources(crd: None, api: client.ApiClient, namespace: str) -> Resources:
    return Resources(api, namespace)


def test_status_is_a_subresource(resources: Resources) -> None:
    run = resources.create(MINIMAL)
    assert "status" not in resources.replace(run | {"status": STATUS}, run["spec"])
    with_status = resources.set_status(STATUS)
    assert with_status["status"] == STATUS
    assert with_status["metadata"]["generation"] == run["metadata"]["generation"]


def test_a_status_out_of_shape_is_refused(resources: Resources) -> None:
    resources.create(MINIMAL)
    assert "status.phase" in causes(lambda: resources.set_status({"phase": "Done"}))
    assert "status.conditions[1]" in causes(
        lambda: resources.set_status({"conditions": STATUS["conditions"] * 2})
    )


@pytest.mark.parametrize("changes", [{"workers.replicas": 2}, {}, {"workers.replicas": None}], ids=str)
def test_scale_sets_replicas(resources: Resources, changes: Spec) -> None:
    resources.create(changed(changes))
    resources.set_status(STATUS)
    assert resources.set_scale(3)["spec"] == {"replicas": 3}
    assert resources.get()["spec"]["workers"]["replicas"] == 3
    scale = resources.scale()
    assert scale["spec"] == {"replicas": 3}
    assert scale["status"] == {"replicas": 2, "selector": "esfinetune.dev/run-uid=1"}


def test_scale_keeps_to_the_range(resources: Resources) -> None:
    resources.create(MINIMAL)
    assert "spec.workers.replicas" in causes(lambda: resources.set_scale(9))


def test_scale_has_no_number_while_nobody_gave_one(resources: Resources) -> None:
    """Why autoscaling.keda needs `workers.replicas`: an autoscaler reads the number before it changes it."""
    resources.create(MINIMAL)
    with pytest.raises(client.ApiException, match="does not exist"):
        resources.scale()


def kubectl(control_plane: ControlPlane, *arguments: str) -> str:
    program = shutil.which("kubectl") or str(find_programs() / "kubectl")
    command = [program, f"--kubeconfig={control_plane.kubeconfig}", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60).stdout


def test_kubectl_shows_the_columns(resources: Resources, control_plane: ControlPlane, namespace: str) -> None:
    resources.create(MINIMAL)
    resources.set_status(STATUS)
    heading, row = kubectl(control_plane, "get", "esft", "--namespace", namespace).splitlines()
    assert heading.split() == ["NAME", "PHASE", "GENERATION", "FITNESS", "SCORE", "WORKERS", "AGE"]
    assert row.split()[:-1] == ["run", "Running", "12/500", "0.4213", "0.2000", "2"]
    wide = kubectl(control_plane, "get", "esfinetune", "--namespace", namespace, "--output", "wide")
    assert [line.split()[-2:] for line in wide.splitlines()] == [
        ["MODEL", "TASK"],
        [MINIMAL["model"]["source"], "countdown"],
    ]


def test_kubectl_explain_teaches(crd: None, control_plane: ControlPlane) -> None:
    fields = Evolution.model_fields

    def words() -> str:
        return " ".join(kubectl(control_plane, "explain", "esft.spec.evolution").split())

    wait_until(lambda: "FIELDS:" in words(), 20, words)  # the texts are published seconds after the CRD
    text = words()
    assert all(" ".join(field.description.split()) in text for field in fields.values())
    assert "Default: 0.001." in text


def test_kubectl_apply_takes_a_file_twice(crd: None, control_plane: ControlPlane, namespace: str) -> None:
    def apply(*options: str) -> str:
        return kubectl(control_plane, "apply", "--namespace", namespace, "--filename", str(EXAMPLE), *options)

    assert "created" in apply()
    assert "unchanged" in apply()
    assert "serverside-applied" in apply("--server-side", "--force-conflicts")


def test_kubectl_apply_can_turn_off_what_is_on_by_default(
    resources: Resources, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """It leaves out a null, which alone would therefore say nothing."""

    def apply(kl: object) -> object:
        file = tmp_path / "run.yaml"
        file.write_text(json.dumps(resource(changed({"monitoring.kl": kl}))))
        kubectl(control_plane, "apply", "--namespace", namespace, "--filename", str(file))
        return resources.get()["spec"]["monitoring"]["kl"]["everyGenerations"]

    assert [apply(None), apply({"everyGenerations": 0}), apply({})] == [25, 0, 25]
