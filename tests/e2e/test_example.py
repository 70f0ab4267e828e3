"""The example as it is: the same file, the same weights, in a cluster as on one machine."""

import json
import sys

import pytest

from e2e.environment import EXAMPLE, OUTPUT, reference_digest, run
from e2e.run import STEP_SECONDS

pytestmark = pytest.mark.timeout(1800)


def test_kubectl_apply_gives_the_weights_of_esft_run(empty, note_digest):
    empty.kubectl("apply", "-f", EXAMPLE)
    pods = empty.wait_for("countdown-tiny", phase="Running", seconds=STEP_SECONDS)
    assert pods["workers"]["desired"] == 4
    status = empty.wait_end("countdown-tiny", seconds=1500)
    note_digest(status["digest"], reference_digest("example"))
    assert empty.condition("Complete", "countdown-tiny")["reason"] == "GenerationsDone"
    assert status["evaluation"]["best"] > status["evaluation"]["base"] + 0.3
    _assert_one_status(empty, status)


def _assert_one_status(runs, status):
    """`esft status --output json` says the same of both: the same fields, and the same of what the run came to."""
    shown = [sys.executable, "-m", "esft_cli", "status", "--output", "json"]
    local = json.loads(run(*shown, OUTPUT / "reference" / "example").stdout)
    cluster = json.loads(run(*shown, "countdown-tiny", "--namespace", runs.namespace).stdout)
    assert local.keys() == cluster.keys()
    assert local["status"].keys() == cluster["status"].keys()
    for field in ("phase", "digest", "progress", "fitness", "evaluation"):
        assert local["status"][field] == cluster["status"][field] == status[field]
