"""The commands that docs/guide-sessions.md shows."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "guide-sessions.md").read_text()


def test_the_commands_work(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    commands = re.findall(r"^shoal (.+)$", "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)), re.M)
    assert len(commands) == 4
    try:
        said = [
            subprocess.run(
                [sys.executable, "-m", "shoal", *shlex.split(command)], capture_output=True, text=True, timeout=60, cwd=tmp_path
            )
            for command in commands
        ]
        assert [one.returncode for one in said] == [0] * 4, said
        assert "shoal.init(address='lab')" in said[0].stdout and "lab   detached" in said[1].stdout
        assert said[2].stdout == "lab has ended.\n"
        assert len((tmp_path / "secret.txt").read_text()) == 49
    finally:
        subprocess.run([sys.executable, "-m", "shoal", "stop", "--all"], timeout=60, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["secret.txt"]


def test_what_status_shows_has_the_lines_that_it_has():
    source = (Path(__file__).resolve().parents[2] / "src" / "shoal" / "cli" / "status.py").read_text()
    (shown,) = re.findall(r"^```text\n(lab .*?)^```", PAGE, re.M | re.S)
    for line in shown.splitlines()[1:]:
        assert f'"{line.split()[0]}' in source or line.startswith("  in use")
