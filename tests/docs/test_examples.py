"""Every program in examples/ runs, says something, warns of nothing, and is quick; each checks its own results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py") if path.name != "demo.py")
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# What must be in the output, where it is the same each time.
SAYS = {
    "four_steps.py": ["3 x 1000 additions each", "[3255 3000 3000 3000 3000 3000]"],
    "parameter_server.py": ["4 tasks, 300 steps each: 1200 steps are in the weights", "learned [ 3.  -1.   0.5  2.  -4. ]"],
    "parameter_server_hogwild.py": ["1200 were made", "learned [ 3.  -1.   0.5  2.  -4. ]"],
    "parameter_server_sharded.py": ["shard 0: 1200 steps, learned [-5. -4. -3.]", "shard 3: 1200 steps, learned [4. 5. 6.]"],
    "parameter_server_versioned.py": ["version 1200 is the newest", "learned [ 3.  -1.   0.5  2.  -4. ]"],
    "prefix_counts.py": ["documents", "stri..."],
    "replay_buffer.py": ["appended 6000 records; the ring keeps the last 2000", "right 1.000, so go right"],
    "world_of_bodies.py": [
        "4 participants moved its body [400, 400, 400, 400] steps",
        "participant 0 cannot push body 1",
        "participant 2 took body 3, whose owner died",
        "all bodies move: [1200, 1200, 1200, 1200]",
    ],
    "shared_model.py": ["after 2 tasks made 300 steps each"],
    "torn_reads.py": ["[2 2 2 2 1 1 1 1] - half of the change", "had to wait and saw [3 3 3 3 3 3 3 3]"],
}


def run(*command: str, folder: Path) -> str:
    """The output of a program of examples/ that ends well; a warning counts as a failure."""
    program, *arguments = command
    script = str(ROOT / "examples" / program)
    ran = subprocess.run(
        [sys.executable, "-W", "error", script, *arguments], capture_output=True, text=True, timeout=100, cwd=folder
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    return ran.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, tmp_path):
    if name == "shared_model.py":
        pytest.importorskip("torch")
    printed = run(name, folder=tmp_path)
    assert printed
    for text in SAYS.get(name, []):
        assert text in printed
    assert not list(tmp_path.iterdir()), "an example leaves no files"


def test_the_demonstration_runs(tmp_path):
    for library in ("rich", "PIL", "sklearn"):
        pytest.importorskip(library)
    printed = run("demo.py", "--size", "400", "--workers", "2", "--rounds", "1", folder=tmp_path)
    assert "no update lost" in printed
    assert sorted(path.name for path in (tmp_path / "demo_output").iterdir()) == ["input.png", "output.png"]


def test_what_is_said_belongs_to_an_example():
    assert set(SAYS) <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_can_be_found(name):
    """From the README, the guide or the page for contributors."""
    assert any(name in page.read_text() for page in TEXTS), f"no page mentions examples/{name}"


@pytest.mark.parametrize("variant", ["", "_hogwild", "_sharded", "_versioned"])
def test_a_parameter_server_has_fifteen_lines(variant):
    """From `def train` to the blank lines after it: docstrings, imports and printing do not count."""
    text = (ROOT / "examples" / f"parameter_server{variant}.py").read_text()
    function = text.split("@shoal.remote\n")[1].split("\n\n\n")[0]
    assert len(function.splitlines()) <= 15
