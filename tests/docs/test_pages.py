"""What the pages refer to is there: links, headings, files, commands, limits, names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import shoal

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = "core|src|tests|examples|benchmarks|docs"


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names that a link may have behind its #, made from the headings as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    for path in re.findall(rf"`(?:python )?((?:{FOLDERS})/[\w./*]*)`", prose(page)):
        assert list(ROOT.glob(path.rstrip("/"))), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_the_package_exist(page):
    """`shoal.x` in the text; what is in code blocks is run."""
    for name in re.findall(r"`(?:with )?shoal\.(\w+)", prose(page)):
        assert hasattr(shoal, name), name


def test_commands_exist():
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"`make ([a-z-]+)", prose(page)))
        assert named <= targets, page.name


def test_the_limits_are_those_of_the_core():
    """The table of docs/design.md, where a row begins with a constant and its number."""
    core = "".join(path.read_text() for path in sorted((ROOT / "core").glob("*.h")))
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([\d,]+)", (ROOT / "docs" / "design.md").read_text(), re.MULTILINE)
    assert len(rows) >= 7
    for name, number in rows:
        found = re.search(rf"\b{name} = (\w+)(?: << (\d+))?;", core)
        assert found, name
        value = int(found[1].rstrip("uUlL")) << int(found[2] or 0)
        said = int(number.replace(",", ""))
        assert said == value or (name == "MAX_OBJECTS" and said == value - 1), name  # entry 0 is no object


def test_what_the_readme_says_of_its_requirements():
    toml = (ROOT / "pyproject.toml").read_text()
    assert 'requires-python = ">=3.10"' in toml and "CPython 3.10 or newer" in README
    (line,) = re.findall(r"^dependencies = \[(.*)\]$", toml, re.MULTILINE)
    assert re.findall(r'"(\w+)', line) == ["numpy", "cloudpickle"]
    assert "NumPy and cloudpickle are the only" in README
