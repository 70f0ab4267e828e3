"""docs/run.md says what every reason means that a run can show."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "run.md").read_text(encoding="utf-8")
FOLDERS = ("core/esft/status", "operator/esft_operator/decide")
FILES = (
    "operator/esft_operator/reconciler.py",
    "local/esft_local/run.py",
    "local/esft_local/status.py",
    "cli/esft_cli/cluster/objects.py",
)
SOURCES = [
    *(path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))),
    *map(ROOT.joinpath, FILES),
]

ONE_WORD = re.compile(r"([A-Z][a-z]+)+")
OTHERS = {  # of that form, and no reasons: values of conditions, types of Events, names of Python and of Kubernetes
    *("True", "False", "Unknown", "Normal", "Warning", "Never"),
    *("Condition", "Ledger", "Phase", "Progress", "WorkersStatus"),
}


def reasons(source: Path) -> set[str]:
    """Texts of one word, as reasons are."""
    return {
        node.value
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ONE_WORD.fullmatch(node.value)
    } - OTHERS


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(ROOT)))
def test_every_reason_is_explained(source: Path) -> None:
    assert {reason for reason in reasons(source) if f"`{reason}`" not in PAGE} == set()


def test_reasons_are_found() -> None:
    found = set().union(*map(reasons, SOURCES))
    assert {
        "NoFitness",
        "WaitingForWorkers",
        "Unschedulable",
        "ChildConflict",
        "WorkersFailed",
        "Killed",
    } <= found
