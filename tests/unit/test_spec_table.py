import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_reference_page_is_current():
    render = runpy.run_path(str(ROOT / "hack" / "spec_table.py"))["render"]
    page = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")
    assert page == render(), "run: python hack/spec_table.py > docs/spec.md"
