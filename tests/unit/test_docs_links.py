"""Pages refer to pages, headings, files and functions; what they refer to has to be there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = ("core", "local", "cli", "worker", "operator", "charts", "manifests", "examples", "hack", "tests")

LINK = re.compile(r"\[(?P<text>[^]\n]*(?:\n[^]\n]*)?)\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"`(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)`")
MENTION = re.compile(r"docs/[a-z-]+\.md")


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Text and target of every link that stays in the repository."""
    for link in LINK.finditer(CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if "://" not in link["target"]:
            yield link["text"], link["target"]


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings: lower case, dashes for spaces, no other punctuation."""
    headings = HEADING.findall(CODE_BLOCK.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dangling(page: Path) -> Iterator[str]:
    """The targets that are not there: a file, a heading in it, or the function that the link's text names."""
    for text, target in links(page):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            yield target
        elif file.suffix == ".py" and (name := NAME.fullmatch(text)):
            definition = rf"^\s*(?:(?:def|class) {name[1]}\b|{name[1]}\s*[:=])"
            if not re.search(definition, file.read_text(encoding="utf-8"), re.MULTILINE):
                yield f"{text} in {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert list(dangling(page)) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("def there() -> None: ...\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# The page's head: `a`\n[top](#the-pages-head-a) [`there`](code.py) [`gone`](code.py) [a](b.md) [c](#d) [e](https://f)\n"
    )
    assert list(dangling(page)) == ["`gone` in code.py", "b.md", "#d"]


def test_pages_that_the_code_names_exist() -> None:
    named = {
        (mention, str(source.relative_to(ROOT)))
        for room in ROOMS
        for source in (ROOT / room).rglob("*")
        if source.suffix in {".py", ".lua", ".yaml", ".tpl"}
        for mention in MENTION.findall(source.read_text(encoding="utf-8"))
    }
    assert {(mention, source) for mention, source in named if not (ROOT / mention).exists()} == set()
