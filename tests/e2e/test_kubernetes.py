"""What a cluster's administrators ask for: pods without rights, images without ballast, nothing left behind."""

import json

import pytest

from e2e.environment import OPERATOR, SYSTEM, kubectl, smaller
from e2e.run import STEP_SECONDS, operator_at_rest, redis

pytestmark = pytest.mark.timeout(1800)

TOKEN_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path
FIND_TORCH = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"


def test_no_torch_in_the_operators_image():
    kubectl("-n", SYSTEM, "exec", OPERATOR, "--", "python3", "-c", FIND_TORCH)


def test_the_charts_pods_pass_restricted():
    label = "pod-security.kubernetes.io/enforce=restricted"
    said = kubectl("label", "--dry-run=server", "--overwrite", "namespace", SYSTEM, label)
    assert "labeled" in said


def test_a_deleted_run_leaves_nothing(runs):
    runs.apply(smaller())
    runs.wait_generation(2)
    (pod, *_) = runs.wait_ready_pods(2)
    assert "automountServiceAccountToken: false" in runs.kubectl("get", "pod", pod, "-o=yaml")
    assert runs.kubectl("exec", pod, "--", "sh", "-c", f"test -e {TOKEN_FILE} || echo none") == "none\n"
    uid = runs.get()["metadata"]["uid"]
    assert _objects_of(runs, uid)
    assert _in_redis(uid)
    with operator_at_rest():
        runs.kubectl("delete", "esft", "run", "--timeout=30s")
    runs.wait_pods(0, seconds=STEP_SECONDS)
    runs.kubectl("wait", "--for=delete", "pvc/run-checkpoints", "--timeout=300s")
    assert _objects_of(runs, uid) == []
    assert _in_redis(uid) == []


def _objects_of(runs, uid):
    """All objects of the namespace in which the run's uid stands, but Events."""
    kinds = kubectl("api-resources", "--verbs=list", "--namespaced", "-o=name").split()
    kinds = [kind for kind in kinds if not kind.startswith("events")]
    found = json.loads(runs.kubectl("get", ",".join(kinds), "-o=json"))["items"]
    return [f"{each['kind']} {each['metadata']['name']}" for each in found if uid in json.dumps(each)]


def _in_redis(uid):
    keys = redis("--scan", "--pattern", f"*{uid}*")
    users = redis("ACL", "USERS")
    return [line for line in (*keys, *users) if uid in line]
