"""What is left of a failure for Kubernetes to show."""

from pathlib import Path

import pytest

from esft_worker import termination

pytestmark = pytest.mark.integration


def test_a_reason_is_one_line_that_kubernetes_does_not_cut(tmp_path: Path) -> None:
    file = tmp_path / "log"
    termination.write(file, "first\n  second " + "\u00e9" * 5000)
    assert file.read_text().startswith("first second \u00e9")
    assert 3998 <= len(file.read_bytes()) <= 4000


@pytest.mark.parametrize(
    "text", ["cannot reach redis://u:hunter2@host:1/0", "bad token hf_hunter2 in redis://u:hunter2@host:1/0"]
)
def test_an_unexpected_error_gives_no_secret_away(text: str) -> None:
    environment = {"ESFT_REDIS_URL": "redis://u:hunter2@host:1/0", "HF_TOKEN": "hf_hunter2"}
    shown = termination.unexpected(RuntimeError(text), environment)
    assert shown.startswith("RuntimeError: ")
    assert "hunter2" not in shown
    assert "host:1" in shown
