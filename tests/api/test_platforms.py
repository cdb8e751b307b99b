"""What another system than Linux gets: an error that says what to do, when building and when importing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import run_python

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_import(platform):
    done = run_python(f"import sys; sys.platform = {platform!r}; import shoal")
    assert done.returncode == 1 and done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ") and platform in last and "Linux container" in last


@pytest.mark.parametrize("system, processor", [("Darwin", "arm64"), ("Windows", "AMD64"), ("Linux", "riscv64")])
def test_build(system, processor, tmp_path):
    if not shutil.which("cmake"):
        pytest.skip("needs cmake on the PATH")
    (tmp_path / "elsewhere.cmake").write_text(f"set(CMAKE_SYSTEM_NAME {system})\nset(CMAKE_SYSTEM_PROCESSOR {processor})\n")
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), f"-DCMAKE_TOOLCHAIN_FILE={tmp_path}/elsewhere.cmake"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = " ".join(done.stderr.split())
    assert done.returncode != 0 and f"'{system}' on '{processor}'" in said and "Linux container" in said
