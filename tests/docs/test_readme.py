"""The Python blocks of README.md and docs/*.md run, and what they print is what they say they print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import shoal

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


# For the time in which a branch has the page and not yet the function: blocks that need one of these are left out.
ABSENT = [name for name in ("Versioned", "freeze", "empty") if not hasattr(shoal, name)]


def python_of(page: Path) -> str:
    """The page with all that is not a Python block blanked, so that tracebacks show the page's own lines."""
    kept, language = [], None
    text = page.read_text()
    if ABSENT:
        needs = re.compile(rf"^```python\n(?:(?!```).*\n)*?.*\bshoal\.(?:{'|'.join(ABSENT)})\b(?:(?!```).*\n)*```$", re.MULTILINE)
        text = needs.sub(lambda found: "\n" * found[0].count("\n"), text)
    for line in text.splitlines():
        fence = re.match(r"\s*```(\w*)", line)
        if fence:
            language = None if language is not None else fence[1]
        kept.append(line if language == "python" and not fence else "")
    return "\n".join(kept) + "\n"


def test_a_block_is_found_and_keeps_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n```sh\nls\n```\n```python\nprint(1)  # 1\n```\n```text\nprint(2)\n```\n")
    assert python_of(page) == "\n\n\n\n\nprint(1)  # 1\n" + "\n" * 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page(page, tmp_path):
    code = python_of(page)
    promised = re.findall(r"^\s*print\(.*\)  # (.+)$", code, re.MULTILINE)
    if not code.strip():
        return
    script = tmp_path / f"{page.stem}.py"
    script.write_text(code)
    ran = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == promised
    assert ran.stderr == ""


def test_the_readme_has_examples():
    assert python_of(ROOT / "README.md").count("shoal.") > 10
