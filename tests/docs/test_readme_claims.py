"""What README.md says in words and no other test looks at."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import shoal
from conftest import run_python, until

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()

DRIVER = """
    import os, signal, sys
    import numpy as np
    import shoal

    @shoal.remote
    class Actor:
        def pid(self):
            return os.getpid()

    @shoal.remote
    def forever():
        while True:
            os.sched_yield()

    shoal.init(num_cpus=2)
    actor, task = Actor.remote(), forever.remote()
    ref = shoal.put(np.zeros(1_000_000), mutable=True)
    shoal.get(actor.pid.remote())
    while not any(process["label"] == "forever" and process["running"] for process in shoal._core.processes()):
        os.sched_yield()
    pids = [process["pid"] for process in shoal._core.processes() if process["pid"]]  # 0: it is only being started
    print(*pids, flush=True)
    """


def alive(pid: int) -> bool:
    """Whether it runs; one that ended and waits for its parent does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def files() -> set[str]:
    """What lies where such things are left."""
    return {os.path.join(folder, name) for folder in ("/dev/shm", "/tmp") for name in os.listdir(folder)}


def left_by(pids: list[int], before: set[str]) -> list[str]:
    """What is new there, and has the number of one of those processes in its name, or in shared memory Shoal's own."""
    theirs = re.compile("|".join(["/dev/shm/.*shoal", *(rf"\b{pid}\b" for pid in pids)]))
    return [path for path in files() - before if theirs.search(path)]


@pytest.mark.parametrize(
    ("end", "code"),
    [("", 0), ("os._exit(0)", 0), ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL)],
    ids=["ends", "exits", "is killed"],
)
def test_the_driver_ends_and_nothing_is_left(end, code, tmp_path_factory, monkeypatch):
    """`the driver ends, or is killed: all processes of the session end; nothing is left in /dev/shm or /tmp`."""
    folder = tmp_path_factory.mktemp("s")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    before = files()
    ran = run_python(f"""{DRIVER}
    print(*[os.path.join(at, name) for at, _, names in os.walk({str(folder)!r}) for name in names], sep="\\n", flush=True)
    {end}""")
    first, *named = ran.stdout.splitlines()
    assert ran.returncode == code, ran.stderr
    # While it runs there is the socket by which others join, and nothing else that has a name.
    assert len(named) == 1 and re.fullmatch(rf"{folder}/shoal-{os.geteuid()}/[a-z0-9-]+/socket", named[0]), named
    pids = [int(text) for text in first.split()]
    assert len(pids) >= 4, ran.stderr  # driver, supervisor, the actor, the task
    until(lambda: not any(alive(pid) for pid in pids))
    assert left_by(pids, before) == [] and os.listdir(folder) == []


def test_the_supervisor_is_killed():
    """`the workers end, the driver's calls raise SessionEndedError`."""
    ran = run_python(
        DRIVER
        + """
    os.kill(pids[1], signal.SIGKILL)
    try:
        shoal.get(task)
    except shoal.exceptions.SessionEndedError:
        print("told")
    try:
        shoal.get(actor.pid.remote())
    except shoal.exceptions.SessionEndedError:
        print("told again")
    """
    )
    pids, *told = ran.stdout.splitlines()
    assert told == ["told", "told again"], ran.stderr
    until(lambda: not any(alive(int(pid)) for pid in pids.split()))


class Model:
    def __init__(self):
        self.lock = threading.Lock()


def test_the_part_that_cannot_be_pickled(fresh):
    promised = "value['model'].lock (a _thread.lock)"
    assert promised in README
    fresh()
    with pytest.raises(shoal.exceptions.PicklingError, match=re.escape(promised)):
        shoal.put({"model": Model()})


def test_a_killed_worker_is_made_up_for_three_times(fresh):
    """`the task runs again (max_retries, 3 by default), then WorkerCrashedError`."""
    fresh()
    runs = shoal.Counter()

    @shoal.remote
    def dies(runs):
        runs.add()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(shoal.exceptions.WorkerCrashedError):
        shoal.get(dies.remote(runs))
    assert runs.value == 1 + 3


def test_what_it_does_not_do():
    with pytest.raises((ValueError, NotImplementedError)):
        shoal.init("ray://somewhere:10001")
    assert not shoal.is_initialized()
    for absent in ("data", "train", "tune", "serve"):
        assert importlib.util.find_spec(f"shoal.{absent}") is None
    with pytest.raises(NotImplementedError):
        shoal.util.placement_group([{"CPU": 1}])
    with pytest.raises(AttributeError, match="state"):
        _ = shoal.util.state
    with pytest.warns(UserWarning, match="ignored: conda, pip"):
        shoal.remote(runtime_env={"pip": ["x"], "conda": "y"})(len)


def test_more_than_one_program():
    """The commands of that section do what they say, under a name that nobody else has."""
    name = f"readme-{os.getpid()}"
    commands = re.search(r"^## More than one program$.*?^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert commands is not None
    script = re.sub(r"\blab\b", name, commands[1])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    try:
        ran = subprocess.run(
            ["bash", "-ec", script], capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": path}, check=False
        )
    finally:
        subprocess.run([Path(sys.executable).parent / "shoal", "stop", name], capture_output=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "\n1\n" in ran.stdout and f"{name} has ended." in ran.stdout


def test_the_figures_are_those_of_quick(tmp_path):
    """The table under `How fast` has the rows that benchmarks/quick.py prints, and it runs."""
    code = (ROOT / "benchmarks" / "quick.py").read_text()
    short = re.sub(r"^RUNS, SECONDS = .*$", "RUNS, SECONDS = 1, 0.001", code, flags=re.MULTILINE)
    assert short != code
    program = tmp_path / "quick.py"
    program.write_text(short)
    ran = subprocess.run([sys.executable, "-W", "error", program], capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr

    def rows(text: str) -> list[tuple[str, str]]:
        return re.findall(r"^\| (.+?) \| [\d.,]+ (/s|GB/s|ms) \|$", text, re.MULTILINE)

    assert rows(ran.stdout) == rows(README[README.index("## How fast") :])
    assert len(rows(ran.stdout)) >= 10
