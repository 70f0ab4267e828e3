"""The example as it is: the same file, the same weights, in a cluster as on one machine."""

import pytest

from e2e.environment import EXAMPLE, reference_digest
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
