"""The example as it is: the same file, the same weights, in a cluster as on one machine."""

import pytest

from e2e.environment import EXAMPLE, reference_digest

pytestmark = pytest.mark.timeout(900)


def test_kubectl_apply_gives_the_weights_of_esft_run(empty, note_digest):
    empty.kubectl("apply", "-f", EXAMPLE)
    pods = empty.wait_for("countdown-tiny", phase="Running", seconds=60)
    assert pods["workers"]["desired"] == 4
    status = empty.wait_end("countdown-tiny", seconds=700)
    note_digest(status["digest"], reference_digest("example"))
    assert empty.condition("Complete", "countdown-tiny")["reason"] == "GenerationsDone"
    assert status["evaluation"]["best"] > status["evaluation"]["base"] + 0.3
