"""docs/run.md says what every reason means that a run can show."""

import ast
import re
from pathlib import Path

import pytest

from esft.status import report, words
from esft_operator import reconciler
from esft_operator.decide import outcome, plan, summary

PAGE = (Path(__file__).parents[2] / "docs" / "run.md").read_text(encoding="utf-8")
ONE_WORD = re.compile(r"([A-Z][a-z]+)+")
OTHERS = {"True", "False", "Unknown", "Clock"}  # words of that form that are no reasons


@pytest.mark.parametrize("module", [words, report, outcome, plan, reconciler, summary])
def test_every_reason_is_explained(module: object) -> None:
    source = Path(str(getattr(module, "__file__", ""))).read_text(encoding="utf-8")
    words = {
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ONE_WORD.fullmatch(node.value)
    }
    assert words
    assert {word for word in words - OTHERS if f"`{word}`" not in PAGE} == set()
