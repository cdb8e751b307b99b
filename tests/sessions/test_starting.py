"""The driver is killed while its supervisor, or a worker, has not yet begun: nobody is left either."""

from __future__ import annotations

import os
import selectors
import signal
from pathlib import Path

import pytest
from other_process import LIMIT_S, gone

from conftest import until

pytest_plugins = ["peers"]

# In the processes of the session: at STAGE they say who they are, and go no further until they are let.
SITECUSTOMIZE = """
import os, sys

if any("shoal.engine.local.supervisor" in text for text in sys.orig_argv):
    stage, said, held = os.environ["STAGE"], os.environ["SAID"], os.environ["HELD"]
    held = os.open(held, os.O_RDWR)

    def stop():
        with open(os.open(said, os.O_RDWR), "w") as file:  # also when the test has gone on: there may be a second worker
            file.write(f"{os.getpid()}\\n")
        while not os.read(held, 1):
            pass

    class Finder:
        done = False

        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == stage and not Finder.done:
                Finder.done = True
                stop()

    sys.meta_path.insert(0, Finder)
    if stage == "interpreter":
        stop()
    elif stage == "fork":
        os.register_at_fork(before=stop)
    elif stage == "worker":
        os.register_at_fork(after_in_child=stop)
"""

IMPORTS = ["shoal", "shoal._core", "shoal.engine.local.supervisor", "numpy", "shoal.engine.local.worker"]
LATE_IMPORTS = ["asyncio", "concurrent.futures.thread", "shoal.engine.local.door"]  # workers are forked by then


def family(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [pid, *map(int, file.read().split())]


@pytest.mark.parametrize("stage", ["interpreter", *IMPORTS, "fork", "worker", *LATE_IMPORTS])
def test_the_driver_dies_while_its_session_starts(home: Path, tmp_path: Path, peer, monkeypatch, stage: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    said, held = tmp_path / "said", tmp_path / "held"
    for pipe in (said, held):
        os.mkfifo(pipe)
    path = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    for name, value in {"PYTHONPATH": os.pathsep.join(path), "STAGE": stage, "SAID": str(said), "HELD": str(held)}.items():
        monkeypatch.setenv(name, value)
    driver = peer()
    with open(os.open(said, os.O_RDWR)) as words, selectors.DefaultSelector() as selector:
        selector.register(words, selectors.EVENT_READ)
        driver("shoal.init(num_cpus=2)")
        assert selector.select(LIMIT_S), "it does not get so far"
        pid = int(words.readline())
    assert len(list(home.glob("*/*/socket"))) == 1
    pids = family(pid)
    driver.kill()
    if stage in ("interpreter", "worker"):  # before its first instruction nobody can notice anything: then, however, at once
        with open(os.open(held, os.O_RDWR), "w") as let:  # also when all who would read it are gone
            let.write("go on" * 20)
    until(lambda: all(map(gone, pids)))
    until(lambda: not list(home.iterdir()))


def test_the_driver_dies_as_soon_as_it_has_a_supervisor(home: Path, peer) -> None:
    driver = peer()
    read, write = os.pipe()
    driver_says = f"""
spawn = os.posix_spawn
def spawn_and_die(*args, **options):
    pid = spawn(*args, **options)
    with open("/proc/{os.getpid()}/fd/{write}", "w") as file:
        file.write(str(pid))
    os.kill(os.getpid(), signal.SIGKILL)
os.posix_spawn = spawn_and_die
shoal.init(num_cpus=2)
"""
    driver.start(driver_says)
    assert driver.process.wait(LIMIT_S) == -signal.SIGKILL
    pid = int(os.read(read, 20))
    os.close(read)
    os.close(write)
    until(lambda: gone(pid))
    until(lambda: not list(home.iterdir()))
