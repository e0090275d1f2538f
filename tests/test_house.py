"""Tests of what a newcomer reads first: the documents name what is there, and everything that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_named_files_exist(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    named = re.findall(r"(?<![\w/.])((?:jseg|tools|configs|tests)/[\w/]+\.\w+)", text)
    missing = [link for link in links if not (document.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert missing == []


def test_readme_names_every_tool_and_every_part() -> None:
    text = (ROOT / "README.md").read_text()
    tools = [path.name for path in (ROOT / "tools").glob("*.py")]
    parts = [f"jseg/{path.parent.name}" for path in (ROOT / "jseg").glob("*/__init__.py")]
    assert [name for name in tools + parts if name not in text] == []


def test_make_has_the_targets_of_the_readme() -> None:
    named = re.findall(r"(?:`|^)make ([a-z-]+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {"demo", "test"} <= set(named) <= set(targets)


STARTS = ('"""', 'r"""')  # of a docstring


@pytest.mark.parametrize("folder", ["jseg", "tools"])
def test_modules_say_what_they_hold(folder: str) -> None:
    silent = [str(path) for path in (ROOT / folder).rglob("*.py") if not path.read_text().startswith(STARTS)]
    assert silent == []
